// Charts above each other on one time axis, like a flight recorder's strips; one cursor goes through all of them.

import { drawn, element, number, clock } from "./words.js";
import { runs, timeAt } from "./series.js";

const RIGHT = 46; // px beside the plot for the values of its axis
const COLOURS = 6;
const engines = new Map(); // an engine has one colour in every chart
let serial = 0;

/** Where things are in a plot of so many pixels. */
class Frame {
  constructor(view, width, height, [low, high]) {
    Object.assign(this, { view, width, height, low, high, right: width - RIGHT });
  }
  x(index) {
    return (index / this.view.steps) * this.right;
  }
  y(value) {
    return this.height - 3 - ((value - this.low) / (this.high - this.low)) * (this.height - 8);
  }
}

/** A path through the points, broken where one is missing; one that stands alone is a dot. */
function path(points, frame) {
  let text = "";
  points.forEach((value, index) => {
    if (value === null) return;
    const at = `${frame.x(index).toFixed(1)} ${frame.y(value).toFixed(1)}`;
    const goesOn = index > 0 && points[index - 1] !== null;
    text += goesOn ? `L${at}` : `M${at}h0`;
  });
  return text;
}

/** What lies above a limit, as closed paths. */
function above(points, frame) {
  return runs(points.map((value) => (value === null ? null : "there")))
    .map(({ from, to }) => {
      const along = points
        .slice(from, to + 1)
        .map((value, i) => `L${frame.x(from + i).toFixed(1)} ${frame.y(value).toFixed(1)}`);
      return `M${frame.x(from).toFixed(1)} 0${along.join("")}L${frame.x(to).toFixed(1)} 0Z`;
    })
    .join("");
}

/** A round number at or above what is wanted: 1, 2 or 5 times a power of ten. */
function round(wanted) {
  const power = 10 ** Math.floor(Math.log10(wanted));
  return [1, 2, 5, 10].map((times) => times * power).find((step) => step >= wanted * 0.999);
}

function domain(panel, lines, ticks) {
  const values = lines.flatMap((line) =>
    line.asked.style === "told" ? [] : line.points.filter((value) => value !== null),
  );
  let low = panel.from ?? Math.min(...values);
  let high = panel.to ?? Math.max(...values);
  if (!Number.isFinite(low) || !Number.isFinite(high)) [low, high] = [panel.from ?? 0, panel.to ?? panel.room ?? 1];
  if (panel.to !== undefined) return [low, high, (high - low) / 2];
  const missing = Math.max((panel.room ?? 1e-9) - (high - low), 0);
  high += Math.max(missing, (high - low) * 0.03); // a line is not drawn on the edge
  const step = round(Math.max(high - low, 1e-9) / ticks);
  return [Math.floor(low / step + 1e-9) * step, Math.ceil(high / step - 1e-9) * step, step];
}

function bands(frame, marks, className, more = {}) {
  const half = frame.right / frame.view.steps / 2;
  return runs(marks).map(({ from, to, value }) => {
    const left = Math.max(0, frame.x(from) - half);
    const width = Math.min(frame.right, frame.x(to) + half) - left;
    return drawn("rect", {
      class: `${className} ${value}`,
      x: left,
      y: 0,
      width: Math.max(1, width),
      height: frame.height,
      ...more,
    });
  });
}

/** The lines between the hours, minutes or half minutes of a window: [[index, time], …]. */
export function marksOf(view) {
  const every = { 300: 60, 900: 180, 3600: 600 }[view.seconds];
  const offset = new Date(view.end * 1000).getTimezoneOffset() * 60;
  const first = Math.ceil((view.start - offset) / every) * every + offset;
  const found = [];
  for (let time = first; time <= view.end; time += every) found.push([(time - view.start) / view.step, time]);
  return found;
}

/** One chart: at its left what it shows and the values now or under the cursor, at its right the drawing. */
export class Strip {
  constructor(panel, root) {
    this.panel = panel;
    this.title = element("h3", { textContent: panel.title }, element("small", { textContent: panel.unit }));
    this.values = element("ul");
    this.svg = drawn("svg", { role: "img" });
    this.plot = element("div", { className: "plot" }, this.svg);
    this.none = element("p", { className: "none", hidden: true });
    this.plot.append(this.none);
    this.article = element(
      "article",
      { className: `strip${panel.tall ? " tall" : ""}`, id: `strip-${panel.id}` },
      element("div", { className: "gutter" }, this.title, this.values),
      this.plot,
    );
    root.append(this.article);
    this.hatch = `hatch-${serial++}`;
    this.lines = [];
  }

  /** The class of a line's colour. */
  colour(line) {
    const own = line.asked.name.includes("{engine}") ? engines : (this.own ??= new Map());
    if (!own.has(line.of)) own.set(line.of, own.size % COLOURS);
    return `c${own.get(line.of)}`;
  }

  /** Draws a window: the lines, where alerts were up, where nothing was read. */
  draw(view, { lines, fault }, up, silent) {
    Object.assign(this, { view, lines, up, silent });
    const any = lines.some((line) => line.points.some((value) => value !== null));
    this.none.hidden = any;
    this.none.textContent = any ? "" : fault || this.panel.none;
    this.article.classList.toggle("bare", !any); // what a host does not have takes one line
    const { clientWidth: width, clientHeight: height } = this.plot;
    const [low, high, step] = domain(this.panel, lines, this.panel.tall ? 4 : 2);
    this.frame = new Frame(view, width, height, [low, high]);
    this.svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    this.cursor = drawn("g", { class: "cursor" });
    this.svg.replaceChildren(...this.background(step), ...lines.flatMap((line) => this.line(line)), this.cursor);
    this.svg.setAttribute("aria-label", this.told());
  }

  background(step) {
    const { frame, view } = this;
    const lines = drawn(
      "pattern",
      { id: this.hatch, width: 6, height: 6, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)" },
      drawn("line", { class: "hatch", x1: 0, y1: 0, x2: 0, y2: 6 }),
    );
    const made = [
      drawn("defs", {}, lines),
      ...bands(frame, this.silent, "gap", { fill: `url(#${this.hatch})` }),
      ...bands(frame, this.up, "up"),
    ];
    for (const [index] of marksOf(view))
      made.push(drawn("line", { class: "grid", x1: frame.x(index), x2: frame.x(index), y1: 0, y2: frame.height }));
    if (!this.none.hidden) return made;
    for (let value = frame.low; value <= frame.high + step / 1e6; value += step) {
      const y = frame.y(value);
      const text = drawn("text", {
        class: "tick",
        x: frame.right + 6,
        y: Math.min(Math.max(y + 4, 10), frame.height - 1),
      });
      text.textContent = number(value, step < 0.1 ? 2 : step < 1 ? 1 : 0);
      made.push(drawn("line", { class: "grid", x1: 0, x2: frame.right, y1: y, y2: y }), text);
    }
    return made;
  }

  line(line) {
    const style = line.asked.style ?? "line";
    if (style === "told") return [];
    if (style === "limit")
      return [
        drawn("path", { class: "over", d: above(line.points, this.frame) }),
        drawn("path", { class: "limit", d: path(line.points, this.frame) }),
      ];
    return [drawn("path", { class: `${style} ${this.colour(line)}`, d: path(line.points, this.frame) })];
  }

  /** Shows the values at a step, or the newest ones (null). */
  at(index) {
    if (!this.frame) return;
    this.cursor.replaceChildren();
    if (index !== null) {
      const x = this.frame.x(index);
      this.cursor.append(drawn("line", { x1: x, x2: x, y1: 0, y2: this.frame.height }));
    }
    const told = this.lines.filter((line) => line.asked.style === "told");
    const shown = this.lines.filter((line) => line.asked.style !== "told");
    this.values.classList.toggle("many", shown.length > 4);
    this.values.replaceChildren(...shown.map((line) => this.value(line, index, told)));
  }

  value(line, index, told) {
    const at = index ?? this.view.steps - this.behind(line);
    const value = line.points[at];
    const colour = line.asked.style === "limit" ? "limit" : `${line.asked.style ?? "line"} ${this.colour(line)}`;
    if (index !== null && value !== null)
      this.cursor.append(drawn("circle", { class: colour, cx: this.frame.x(at), cy: this.frame.y(value), r: 3 }));
    const more = told
      .filter((each) => each.of === line.of && each.points[at] !== null)
      .map((each) => `${number(each.points[at], each.asked.digits)} ${each.asked.unit}`);
    return element(
      "li",
      {},
      element("i", { className: `swatch ${colour}` }),
      element("span", { className: "name", textContent: line.names?.[at] ?? line.name }),
      element("b", {
        textContent: value === null ? "–" : number(value, this.panel.digits),
        title: value === null ? "no reading" : "",
      }),
      more.length ? element("small", { textContent: more.join(", ") }) : null,
    );
  }

  /** The newest step may have come before its reading; then the one before is "now". */
  behind(line) {
    const last = this.view.steps;
    return line.points[last] === null && line.points[last - 1] !== null ? 1 : 0;
  }

  /** The chart in words. */
  told() {
    const { panel, view } = this;
    const parts = this.lines
      .filter((line) => line.asked.style !== "told")
      .map((line) => {
        const values = line.points.filter((value) => value !== null);
        if (!values.length) return `${line.name} without readings`;
        const now = line.points[view.steps - this.behind(line)];
        const [low, high] = [Math.min(...values), Math.max(...values)].map((value) => number(value, panel.digits));
        return `${line.name} ${now === null ? "without a reading" : number(now, panel.digits)} now, from ${low} to ${high}`;
      });
    return `${panel.title} in ${panel.unit}, last ${view.seconds / 60} minutes: ${parts.join("; ") || panel.none}`;
  }

  /** The values at a step in words, for whoever moves the cursor by keyboard. */
  spoken(index) {
    return this.lines
      .filter((line) => line.points[index] !== null && line.asked.style !== "told")
      .map(
        (line) =>
          `${line.names?.[index] ?? line.name} ${number(line.points[index], this.panel.digits)} ${this.panel.unit}`,
      );
  }
}

/** Above the charts: which alerts were up, and when remedies acted. */
export class Lane {
  constructor(root) {
    this.values = element("ul");
    this.svg = drawn("svg", { role: "img" });
    this.plot = element("div", { className: "plot" }, this.svg);
    this.article = element(
      "article",
      { className: "strip lane", id: "lane" },
      element("div", { className: "gutter" }, element("h3", { textContent: "Alerts and acts" }), this.values),
      this.plot,
    );
    root.append(this.article);
  }

  draw(view, alerts, acts, silent) {
    const width = this.plot.clientWidth;
    const height = Math.max(1, alerts.length) * 18 + 20;
    this.plot.style.height = `${height}px`;
    Object.assign(this, { view, alerts, acts, silent, frame: new Frame(view, width, height, [0, 1]) });
    this.svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    this.cursor = drawn("g", { class: "cursor" });
    this.svg.replaceChildren(
      ...alerts.flatMap((alert, row) => this.bars(alert, row)),
      ...this.marks(height),
      this.cursor,
    );
    const names = alerts.map((alert) => alert.name).join(", ") || "no alert";
    this.svg.setAttribute(
      "aria-label",
      `Alerts that fired in the last ${view.seconds / 60} minutes: ${names}; remedies acted ${acts.length} times`,
    );
  }

  bars(alert, row) {
    const rects = bands(this.frame, alert.marks, "bar", { y: row * 18 + 2, height: 14, rx: 3 });
    const text = drawn("text", { class: "tick name", y: row * 18 + 13 });
    text.textContent = alert.name;
    const [left, right] = [rects[0].x.baseVal.value, rects.at(-1).x.baseVal.value + rects.at(-1).width.baseVal.value];
    const after = right < this.frame.right * 0.7;
    const inside = !after && left < this.frame.right * 0.3;
    text.setAttribute("x", after ? right + 6 : inside ? left + 8 : left - 6);
    text.setAttribute("text-anchor", after || inside ? "start" : "end");
    text.classList.toggle("inside", inside);
    return [...rects, text];
  }

  marks(height) {
    return this.acts
      .filter((act) => act.at >= this.view.start && act.at <= this.view.end)
      .map((act) => {
        const x = ((act.at - this.view.start) / this.view.seconds) * this.frame.right;
        const title = drawn("title");
        title.textContent = `${clock(act.at)} ${act.remedy}: ${act.says}`;
        return drawn(
          "path",
          { class: `act ${act.observed ? "observed" : ""}`, d: `M${x.toFixed(1)} ${height - 12}l5 10h-10z` },
          title,
        );
      });
  }

  at(index) {
    if (!this.frame) return;
    const x = index === null ? 0 : this.frame.x(index);
    this.cursor.replaceChildren(
      ...(index === null ? [] : [drawn("line", { x1: x, x2: x, y1: 0, y2: this.frame.height })]),
    );
    const step = index ?? this.view.steps;
    const up = this.alerts.filter(
      (alert) => alert.marks[step] !== null || (index === null && alert.marks[step - 1] !== null),
    );
    const when = index === null ? "now" : clock(timeAt(this.view, index));
    const words = up.length ? `${up.length} up` : "no alert";
    this.values.replaceChildren(
      element(
        "li",
        { className: "when" },
        element("b", { textContent: when }),
        element("span", { className: "name", textContent: words }),
      ),
    );
  }

  spoken(index) {
    return this.alerts.filter((alert) => alert.marks[index] !== null).map((alert) => `${alert.name} up`);
  }
}

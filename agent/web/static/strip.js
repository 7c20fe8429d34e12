// Charts above each other on one time axis, like a flight recorder's strips; one cursor goes through all of them.

import { above, bands, domain, Frame, marksOf, path } from "./frame.js";
import { drawn, element, number } from "./words.js";

const COLOURS = 6;
const engines = new Map(); // an engine has one colour in every chart
let serial = 0;

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
    if (style === "note") return [];
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
    const notes = this.lines.filter((line) => line.asked.style === "note");
    const shown = this.lines.filter((line) => line.asked.style !== "note");
    this.values.classList.toggle("many", shown.length > 4);
    this.values.replaceChildren(...shown.map((line) => this.value(line, index, notes)));
  }

  value(line, index, notes) {
    const at = index ?? this.view.steps - this.behind(line);
    const value = line.points[at];
    const colour = line.asked.style === "limit" ? "limit" : `${line.asked.style ?? "line"} ${this.colour(line)}`;
    if (index !== null && value !== null)
      this.cursor.append(drawn("circle", { class: colour, cx: this.frame.x(at), cy: this.frame.y(value), r: 3 }));
    const more = notes
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
      .filter((line) => line.asked.style !== "note")
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
      .filter((line) => line.points[index] !== null && line.asked.style !== "note")
      .map(
        (line) =>
          `${line.names?.[index] ?? line.name} ${number(line.points[index], this.panel.digits)} ${this.panel.unit}`,
      );
  }
}

// Above the charts: which alerts were up, and when remedies acted.

import { bands, Frame } from "./frame.js";
import { timeAt } from "./series.js";
import { clock, drawn, element } from "./words.js";

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
    return this.place(text, rects) ? [...rects, text] : rects;
  }

  /** Puts the name where there is room for it: behind a bar, before the first one, or on one; false where there is none. */
  place(text, rects) {
    const needs = text.textContent.length * 7 + 12;
    const spans = rects.map(({ x, width }) => [x.baseVal.value, x.baseVal.value + width.baseVal.value]);
    const free = (i) => (spans[i + 1]?.[0] ?? this.frame.right) - spans[i][1] >= needs;
    const behind = spans.findLastIndex((_, i) => free(i));
    const on = spans.findIndex(([from, to]) => to - from >= needs);
    const before = spans[0][0] >= needs;
    const x = behind >= 0 ? spans[behind][1] + 6 : before ? spans[0][0] - 6 : on >= 0 ? spans[on][0] + 8 : null;
    if (x === null) return false;
    text.setAttribute("x", x);
    text.setAttribute("text-anchor", behind < 0 && before ? "end" : "start");
    text.classList.toggle("inside", behind < 0 && !before);
    return true;
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

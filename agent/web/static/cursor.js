// The cursor through all charts: by pointer, by touch and by keyboard; Escape or leaving goes back to now.

import { clock, drawn } from "./words.js";
import { indexAt, timeAt } from "./series.js";
import { marksOf } from "./frame.js";

export class Cursor {
  constructor(strips, slider, charts) {
    Object.assign(this, { strips, slider, charts, time: null, view: null });
    this.svg = drawn("svg", { "aria-hidden": "true" });
    slider.append(this.svg);
    strips.addEventListener("pointermove", (event) => this.point(event));
    strips.addEventListener("pointerdown", (event) => this.point(event));
    strips.addEventListener("pointerleave", () => this.move(null));
    slider.addEventListener("pointermove", (event) => this.point(event));
    slider.addEventListener("pointerleave", () => this.move(null));
    slider.addEventListener("keydown", (event) => this.key(event));
    slider.addEventListener("blur", () => this.move(null));
  }

  /** A window has been drawn: the cursor stays at its time, and goes back to now when that has left the window. */
  follow(view) {
    this.view = view;
    this.axis();
    if (this.time !== null && indexAt(view, this.time) === null) this.time = null;
    this.show();
  }

  index() {
    return this.time === null ? null : indexAt(this.view, this.time);
  }

  move(index) {
    if (!this.view) return;
    this.time = index === null ? null : timeAt(this.view, Math.min(Math.max(index, 0), this.view.steps));
    this.show();
  }

  point(event) {
    const plot = this.slider.getBoundingClientRect();
    const right = this.charts.find((chart) => chart.frame)?.frame.right;
    if (!this.view || !right) return;
    const share = (event.clientX - plot.left) / right;
    this.move(share < 0 || share > 1.02 ? null : Math.round(share * this.view.steps));
  }

  key(event) {
    if (!this.view) return;
    const from = this.index() ?? this.view.steps;
    const to = {
      ArrowLeft: from - 1,
      ArrowDown: from - 1,
      ArrowRight: from + 1,
      ArrowUp: from + 1,
      PageDown: from - 10,
      PageUp: from + 10,
      Home: 0,
      End: this.view.steps,
      Escape: null,
    }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    this.move(to);
  }

  show() {
    const index = this.index();
    for (const chart of this.charts) chart.at(index);
    const { slider, view } = this;
    slider.setAttribute("aria-valuemax", view.steps);
    slider.setAttribute("aria-valuenow", index ?? view.steps);
    const words =
      index === null ? ["now"] : [clock(timeAt(view, index)), ...this.charts.flatMap((chart) => chart.spoken(index))];
    slider.setAttribute("aria-valuetext", words.join(", "));
    const handle = this.svg.querySelector(".handle");
    const right = this.charts.find((chart) => chart.frame)?.frame.right ?? 0;
    handle?.setAttribute("transform", `translate(${((index ?? view.steps) / view.steps) * right} 0)`);
  }

  axis() {
    const { view } = this;
    const right = this.charts.find((chart) => chart.frame)?.frame.right ?? 0;
    const width = this.slider.clientWidth;
    this.svg.setAttribute("viewBox", `0 0 ${width} 26`);
    const texts = marksOf(view).map(([index, time]) => {
      const x = (index / view.steps) * right;
      const text = drawn("text", {
        class: "tick",
        x,
        y: 20,
        "text-anchor": x < 20 ? "start" : x > right - 20 ? "end" : "middle",
      });
      text.textContent = clock(time, false);
      return text;
    });
    this.svg.replaceChildren(
      drawn("line", { class: "grid", x1: 0, x2: right, y1: 0.5, y2: 0.5 }),
      ...texts,
      drawn("path", { class: "handle", d: "M0 0l5 7h-10z" }),
    );
  }
}

// Where things lie in a drawing: from steps and values to pixels.

import { drawn } from "./words.js";
import { runs } from "./series.js";

const RIGHT = 46; // px beside the plot for the values of its axis

/** Where things are in a plot of so many pixels. */
export class Frame {
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
export function path(points, frame) {
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
export function above(points, frame) {
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

export function domain(panel, lines, ticks) {
  const values = lines.flatMap((line) =>
    line.asked.style === "note" ? [] : line.points.filter((value) => value !== null),
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

export function bands(frame, marks, className, more = {}) {
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

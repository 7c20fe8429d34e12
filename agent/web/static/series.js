// What range queries give, laid on the window's steps; a step without a value is null, and stays a gap.

import { filled } from "./words.js";

/** The window of so many seconds that ends at `now`, on whole steps, so that nothing jitters between two rounds. */
export function windowed(now, seconds) {
  const step = { 300: 2, 900: 5, 3600: 15 }[seconds];
  const end = Math.floor(now / step) * step;
  const steps = Math.round(seconds / step);
  return { end, step, steps, seconds, start: end - steps * step };
}

export const timeAt = (view, index) => view.start + index * view.step;

/** The index of the step nearest to a time, or null outside the window. */
export function indexAt(view, time) {
  const index = Math.round((time - view.start) / view.step);
  return index < 0 || index > view.steps ? null : index;
}

export function empty(view) {
  return new Array(view.steps + 1).fill(null);
}

function laid(values, view, into = empty(view)) {
  for (const [seconds, text] of values) {
    const index = indexAt(view, seconds);
    const value = Number(text);
    if (index !== null && Number.isFinite(value)) into[index] = value;
  }
  return into;
}

/** The drawn lines of one question: each with its name, whose it is (which gives its colour), and its points. */
export function lines(asked, found, view) {
  if (asked.one) return found.length ? [merged(asked, found, view)] : [];
  return found.map(({ metric, values }) => ({
    asked,
    name: filled(asked.name, metric),
    of: filled(asked.of ?? asked.name, metric),
    points: laid(values, view),
  }));
}

/** Several series of which only one has a value at a time, as one line that knows whose each point is. */
function merged(asked, found, view) {
  const points = empty(view);
  const names = empty(view);
  for (const { metric, values } of found) {
    const own = laid(values, view);
    own.forEach((value, index) => {
      if (value === null || (points[index] !== null && points[index] >= value)) return;
      points[index] = value;
      names[index] = filled(asked.name, metric);
    });
  }
  return { asked, name: asked.one, of: asked.one, points, names };
}

/** Runs of equal values that are not null: [{from, to, value}], both ends included. */
export function runs(marks) {
  const found = [];
  marks.forEach((value, index) => {
    const last = found.at(-1);
    if (value === null) return;
    if (last && last.to === index - 1 && last.value === value) last.to = index;
    else found.push({ from: index, to: index, value });
  });
  return found;
}

export const SEVERITIES = ["critical", "warning", "info"];
export const severity = (labels) => (SEVERITIES.includes(labels.severity) ? labels.severity : "info");

const rank = (how) => (how === null ? SEVERITIES.length : SEVERITIES.indexOf(how));
const worse = (a, b) => (rank(a) <= rank(b) ? a : b);

/** Alerts that fired, by name: [{name, marks}], and at each step how severe it was, or null. */
export function fired(found, view) {
  const byName = new Map();
  for (const { metric, values } of found) {
    const name = metric.alertname;
    if (!byName.has(name)) byName.set(name, { name, marks: empty(view) });
    const { marks } = byName.get(name);
    laid(values, view).forEach((up, index) => up !== null && (marks[index] = worse(severity(metric), marks[index])));
  }
  const first = ({ marks }) => marks.findIndex((how) => how !== null);
  return [...byName.values()].sort((a, b) => first(a) - first(b));
}

/** At each step the worst severity that was up, or null; what is only to be known may last for days, and shades nothing. */
export function worst(alerts, view) {
  const grave = (how) => (how === "info" ? null : how);
  return empty(view).map((_, index) => alerts.reduce((how, { marks }) => worse(how, grave(marks[index])), null));
}

/** At each step whether the agent was silent then: it has no reading of itself. */
export function silent(found, view) {
  const there = empty(view);
  for (const { values } of found) laid(values, view, there);
  return there.map((value) => (value === null ? "silent" : null));
}

// Numbers, times and elements, as people read them. Text goes into the page as text, never as markup.

export function element(name, properties = {}, ...children) {
  const made = document.createElement(name);
  Object.assign(made, properties);
  made.append(...children.filter((child) => child !== null && child !== ""));
  return made;
}

const SVG = "http://www.w3.org/2000/svg";

export function drawn(name, attributes = {}, ...children) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

export function clock(seconds, withSeconds = true) {
  const options = { hour: "2-digit", minute: "2-digit", hourCycle: "h23" };
  return new Date(seconds * 1000).toLocaleTimeString(
    undefined,
    withSeconds ? { ...options, second: "2-digit" } : options,
  );
}

export function moment(seconds, now) {
  const day = new Date(seconds * 1000).toDateString() === new Date(now * 1000).toDateString();
  const date = new Date(seconds * 1000).toLocaleDateString(undefined, { day: "numeric", month: "short" });
  return day ? clock(seconds) : `${date} ${clock(seconds, false)}`;
}

/** `42 s`, `7 min`, `3 h 05 min`, `4 d 2 h`. */
export function span(seconds) {
  const whole = Math.max(0, Math.round(seconds));
  if (whole < 90) return `${whole} s`;
  const minutes = Math.round(whole / 60);
  if (minutes < 90) return `${minutes} min`;
  const hours = Math.floor(minutes / 60);
  return hours < 48
    ? `${hours} h ${String(minutes % 60).padStart(2, "0")} min`
    : `${Math.floor(hours / 24)} d ${hours % 24} h`;
}

/** Short durations: `0.4 ms`, `12 ms`, `1.3 s`. */
export function brief(seconds) {
  if (seconds < 0.01) return `${(seconds * 1000).toFixed(1)} ms`;
  return seconds < 1 ? `${Math.round(seconds * 1000)} ms` : `${seconds.toFixed(1)} s`;
}

export function number(value, digits) {
  return value
    .toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits })
    .replaceAll(",", "\u202f");
}

export function filled(template, labels) {
  return template.replace(/\{(\w+)\}/g, (_, label) => labels[label] ?? "?");
}

// What is up, what was done about it, and how the collectors fare.

import { brief, element, moment, number, span } from "./words.js";
import { SEVERITIES, severity } from "./series.js";

/**
 * The alerts that are news: not the one that always fires, and not a warning about what is critical already, which
 * Alertmanager would inhibit.
 */
export function newsOf(alerts) {
  const told = alerts.filter((alert) => alert.labels.severity !== "none").sort((a, b) => (rank(a) < rank(b) ? -1 : 1));
  const seen = new Set();
  return told.filter((alert) => {
    const what = JSON.stringify({ ...alert.labels, severity: "" }, Object.keys(alert.labels).sort());
    return seen.has(what) ? false : seen.add(what);
  });
}

function rank(alert) {
  return `${alert.state === "firing" ? 0 : 1} ${SEVERITIES.indexOf(severity(alert.labels))} ${alert.labels.alertname}`;
}

function link(address, text) {
  // From a rule's annotation: only what a browser opens as a page.
  return /^https?:\/\//.test(address ?? "")
    ? element("a", { href: address, textContent: text, rel: "noreferrer" })
    : null;
}

const sentence = ({ summary, description }) => summary || description || "Its rule gives no sentence.";

/** The alerts of one name and severity, as one item: the first in full, the others by their sentence. */
function alertItem([first, ...others], now) {
  const how = severity(first.labels);
  const notes = first.annotations;
  const said =
    notes.summary && notes.description ? [element("p", { className: "dim", textContent: notes.description })] : [];
  const key = `${how} ${first.labels.alertname}`;
  return element(
    "li",
    { className: how },
    element(
      "p",
      { className: "head" },
      element("span", { className: `tag ${how}`, textContent: how }),
      element("b", { textContent: first.labels.alertname }),
      element("span", { className: "dim", textContent: `for ${span(now - Date.parse(first.activeAt) / 1000)}` }),
      link(notes.runbook_url, "runbook"),
    ),
    element("p", { textContent: sentence(notes) }),
    others.length
      ? unfolding(
          `others ${key}`,
          `and ${others.length} more of it`,
          ...others.map((each) => element("p", { textContent: sentence(each.annotations) })),
        )
      : null,
    said.length ? unfolding(key, "what to look at", ...said) : null,
  );
}

export function drawAlerts(list, news, now) {
  const groups = new Map();
  for (const alert of news.filter(({ state }) => state === "firing")) {
    const key = `${alert.labels.severity} ${alert.labels.alertname}`;
    groups.set(key, [...(groups.get(key) ?? []), alert]);
  }
  const items = [...groups.values()].map((alerts) => alertItem(alerts, now));
  if (!items.length)
    items.push(element("li", { className: "fine", textContent: "None is up: nothing is wrong that a rule knows of." }));
  const pending = news.filter(({ state }) => state === "pending");
  const waiting = pending.map((alert) =>
    element("p", {}, element("b", { textContent: alert.labels.alertname }), ` ${sentence(alert.annotations)}`),
  );
  if (waiting.length)
    items.push(
      element(
        "li",
        { className: "pending" },
        unfolding("pending", `${waiting.length} pending: true, but not for long enough yet`, ...waiting),
      ),
    );
  refill(list, items);
}

const unfolded = new Set(); // what somebody has opened stays open when the list is drawn again

function unfolding(key, text, ...children) {
  const made = element("details", { open: unfolded.has(key) }, element("summary", { textContent: text }), ...children);
  made.addEventListener("toggle", () => (made.open ? unfolded.add(key) : unfolded.delete(key)));
  return made;
}

/** Puts the items into the list where they differ from what is there, so that focus and selection stay. */
function refill(list, items, nothing) {
  const wanted = items.length || !nothing ? items : [nothing];
  wanted.forEach((item, index) => {
    const there = list.children[index];
    if (!there) list.append(item);
    else if (!there.isEqualNode(item)) renew(there, item);
  });
  while (list.children.length > wanted.length) list.lastChild.remove();
}

function renew(there, item) {
  // A button or a link that has the focus is not taken away because a number beside it has changed.
  const focused = there.contains(document.activeElement)
    ? [...there.querySelectorAll("a, button, summary")].indexOf(document.activeElement)
    : -1;
  there.replaceWith(item);
  if (focused >= 0) item.querySelectorAll("a, button, summary")[focused]?.focus();
}

/** Entries of the audit by act: [{at, remedy, alert, says, words, observed, how}], the newest first. */
export function actsOf(entries) {
  const acts = new Map();
  for (const entry of entries) {
    if (!entry.act) continue;
    const act = acts.get(entry.act) ?? {
      at: entry.at_ms / 1000,
      remedy: entry.remedy,
      alert: entry.labels.alertname ?? "",
      says: "",
      words: [],
      observed: entry.observed,
      how: "",
    };
    acts.set(entry.act, act);
    if (entry.what === "intended") act.says = entry.says;
    if (entry.what === "did" && !entry.observed && !act.did) Object.assign(act, { at: entry.at_ms / 1000, did: true });
    const word = WORDS[entry.what];
    if (word && !(entry.observed && entry.what === "did"))
      act.words.push(word[0] + (word[2] && entry.says ? `: ${entry.says}` : ""));
    act.how = word?.[1] || act.how;
  }
  return [...acts.values()].reverse();
}

// What the audit's words mean to whoever reads at night, how good that is, and whether the reason matters.
const WORDS = {
  refused: ["refused by its own plan", "ill", true],
  did: ["done", "", false],
  failed: ["failed", "ill", true],
  unknown: ["nobody knows what became of it", "ill", true],
  helped: ["helped", "well", false],
  useless: ["did not help", "ill", true],
  unjudged: ["nobody can say whether it helped", "", false],
  changed: ["changed by someone else", "ill", true],
  restored: ["put back", "", false],
  interrupted: ["the agent ended meanwhile", "", false],
};

export function drawActs(list, acts, nothing, now) {
  refill(
    list,
    acts
      .slice(0, 5)
      .map((act) =>
        element(
          "li",
          {},
          element(
            "p",
            { className: "head" },
            element("time", { textContent: moment(act.at, now) }),
            element("b", { textContent: act.remedy }),
            element("span", { className: "dim", textContent: act.alert ? `for ${act.alert}` : "" }),
          ),
          element(
            "p",
            {},
            `${act.observed ? "Would have: " : ""}${act.says || "no plan"}`,
            act.words.length
              ? element("span", { className: act.how, textContent: ` → ${act.words.join(" → ")}` })
              : null,
          ),
        ),
      ),
    element("li", { className: "dim", textContent: nothing }),
  );
}

/** What may act now, what is held, and why something waits; `resume` is asked for a name. */
export function drawRemedies(parts, told, resume) {
  const { mode, pauses, list } = parts;
  const stopped = [told.halted, told.killed ? "The kill-switch file exists: everything is undone." : ""].filter(
    Boolean,
  );
  const word =
    told.mode === "observe"
      ? "Observing: what they would do is written down, nothing is touched."
      : "Enforcing: they act.";
  mode.replaceChildren(
    ...[word, ...stopped].map((text, index) =>
      element("span", { className: index ? "ill" : "", textContent: `${text} ` }),
    ),
  );
  const again = (name) =>
    element("button", { type: "button", textContent: "Resume …", ariaLabel: `Resume ${name}`, value: name });
  const latched = told.latches.map((latch) =>
    element(
      "li",
      { className: "ill" },
      element("span", { textContent: `All given up: ${latch.why} ` }),
      again(latch.remedy),
    ),
  );
  refill(
    pauses,
    [
      ...told.pauses.map((name) =>
        element(
          "li",
          { className: "paused" },
          element("span", { textContent: `Paused by ${name}: nothing begins. ` }),
          again(name),
        ),
      ),
      ...latched,
    ],
    element("li", { hidden: true }),
  );
  const quiet = told.remedies.filter((each) => ["ready", "disabled"].includes(each.state) && !each.waiting.length);
  const busy = told.remedies.filter((each) => !quiet.includes(each));
  const folded = quiet.length
    ? [
        element(
          "li",
          {},
          unfolding(
            "quiet",
            `${quiet.length} wait for their alert`,
            element("ul", {}, ...quiet.map((each) => remedy(each, again))),
          ),
        ),
      ]
    : [];
  refill(
    list,
    [...busy.map((each) => remedy(each, again)), ...folded],
    element("li", { className: "dim", textContent: "None is configured." }),
  );
  for (const button of document.querySelectorAll("#pauses button, #remedies button"))
    button.onclick = () => resume(button.value);
}

function remedy(each, again) {
  return element(
    "li",
    {},
    element(
      "p",
      { className: "head" },
      element("b", { textContent: each.name }),
      element("span", { className: `tag ${STATES[each.state] ?? "busy"}`, textContent: each.state }),
      element("span", { className: "dim", textContent: `${each.left} left this hour` }),
      each.state === "given up" ? again(each.name) : null,
    ),
    element("p", { className: "dim", textContent: [each.does, each.why, ...each.waiting].filter(Boolean).join(" · ") }),
    each.effect ? element("p", { className: "dim", textContent: `last effect: ${each.effect}` }) : null,
  );
}

const STATES = { ready: "idle", disabled: "idle", "given up": "critical", observed: "idle" };

const METRIC = /^steadytok_collector_(.*)$/;

/** By collector what its metrics say: {name: {age_seconds, success, …}}. */
export function collectorsOf(found) {
  const byName = new Map();
  for (const { metric, value } of found) {
    const measure = METRIC.exec(metric.__name__)?.[1];
    if (!measure || !metric.collector) continue;
    if (!byName.has(metric.collector)) byName.set(metric.collector, {});
    byName.get(metric.collector)[measure] = Number(value[1]);
  }
  return [...byName]
    .sort(([a], [b]) => (a < b ? -1 : 1))
    .map(([name, measures]) => ({ name, ...measures, ...fault(measures) }));
}

function fault({ success, missing_readings: missing }) {
  if (success === 0) return { how: "ill", why: "failing" };
  return missing > 0 ? { how: "so-so", why: `${missing} missing` } : { how: "", why: "" };
}

const told = (value, write) => (value === undefined || Number.isNaN(value) ? "–" : write(value));

export function drawCollectors(list, collectors) {
  refill(
    list,
    collectors.map((each) =>
      element(
        "li",
        {
          className: each.how,
          title: `takes ${told(each.duration_seconds, brief)} each ${told(each.interval_seconds, span)}`,
        },
        element(
          "span",
          { className: "name" },
          each.name,
          each.why ? element("small", { textContent: ` ${each.why}` }) : null,
        ),
        element("span", {
          textContent: told(each.age_seconds, (age) => (age < 10 ? `${age.toFixed(1)} s` : span(age))),
        }),
        element("span", {
          textContent: told((100 * each.cpu_seconds) / each.interval_seconds, (share) => `${number(share, 2)} %`),
        }),
      ),
    ),
    element("li", { className: "dim", textContent: "None has been asked yet." }),
  );
}

// The page: asks the agent in rounds and draws what it says. It rests while nobody looks.

import * as ask from "./ask.js";
import { Cursor } from "./cursor.js";
import { Lane } from "./lane.js";
import { actsOf, collectorsOf, drawActs, drawAlerts, drawCollectors, drawRemedies, newsOf } from "./lists.js";
import { permit } from "./permit.js";
import { fired, indexAt, lines, severity, silent, windowed, worst } from "./series.js";
import { Strip } from "./strip.js";
import { clock, element, span } from "./words.js";

const FIRED = 'ALERTS{alertstate="firing",severity!="none"}';
const ITSELF = "steadytok_build_info";
const MAX_ENTRIES = 200; // lines of the audit: those of the acts in the longest window, mostly
const SHORTEST = 300; // seconds
const SILENT = 10; // seconds without a sample after which an agent that answers is said to stand still

const at = (id) => document.getElementById(id);
const lists = { mode: at("mode"), pauses: at("pauses"), list: at("remedies") };
let strips = [];
let lane;
let cursor;
let drawn = null; // the last round, to draw again when the window's size changes
let answered = null; // when the agent last answered, by this browser's clock
let failing = null;
let timer;
let turn = 0;

const chosen = () => Number(document.querySelector("input[name=range]:checked").value);

/** What the agent says of itself: its time, its name and version, and how old its newest sample is. */
async function heartbeat() {
  const [found] = await ask.now(`timestamp(${ITSELF})`);
  if (!found) throw new ask.Refused(200, "the agent has no reading of itself yet");
  const [now, sampled] = found.value.map(Number);
  return { now, age: now - sampled, host: found.metric.instance, version: found.metric.version };
}

async function charts(now) {
  const view = windowed(now, chosen());
  const over = (query) => ask.range(query, view.start, view.end, view.step);
  const drawing = ({ panel }) =>
    spared(
      Promise.all(panel.lines.map((line) => over(line.query))),
      panel.lines.map(() => []),
    );
  const [ups, itself, ...answers] = await Promise.all([over(FIRED), over(ITSELF), ...strips.map(drawing)]);
  const alerts = fired(ups, view);
  const found = answers.map(({ answer, fault }, i) => ({
    fault,
    lines: answer.flatMap((series, j) => lines(strips[i].panel.lines[j], series, view)),
  }));
  return { view, alerts, up: worst(alerts, view), silent: silent(itself, view), found };
}

/** What is refused is said where it would stand, and spares the rest of the page. */
function spared(asking, instead) {
  const refused = (error) => {
    if (error instanceof ask.Refused) return { answer: instead, fault: `Not answered: ${error.message}` };
    throw error;
  };
  return asking.then((answer) => ({ answer, fault: "" }), refused);
}

/** All that is shown, asked anew; or why there is no answer. */
async function asked() {
  try {
    const self = await heartbeat();
    const [times, alerts, remedies, entries, collectors] = await Promise.all([
      charts(self.now),
      ask.alerts(),
      ask.remedies(),
      spared(ask.audit(MAX_ENTRIES), []),
      ask.now('{__name__=~"steadytok_collector_.+"}'),
    ]);
    return { self, times, alerts, remedies, collectors, acts: actsOf(entries.answer), fault: entries.fault };
  } catch (error) {
    return { failing: error instanceof ask.Refused ? error.message : "nobody answers" };
  }
}

async function round() {
  clearTimeout(timer);
  const mine = ++turn;
  const told = await asked();
  if (mine !== turn) return; // another round has begun since
  failing = told.failing ?? null;
  const pause = failing === null ? Math.max(2, told.times.view.step) : 3;
  if (!document.hidden) timer = setTimeout(round, pause * 1000);
  if (failing === null) {
    answered = Date.now() / 1000;
    drawn = told;
    drawTimes();
    drawLists(told);
  }
  drawState();
}

function drawTimes() {
  const { view, alerts, up, silent: gaps, found } = drawn.times;
  lane.draw(
    view,
    alerts,
    drawn.acts.filter((act) => act.did || (act.observed && act.says)),
    gaps,
  );
  strips.forEach((strip, i) => strip.draw(view, found[i], up, gaps));
  cursor.follow(view);
}

function drawLists({ self, remedies, acts, fault, ...told }) {
  const news = newsOf(told.alerts);
  const collectors = collectorsOf(told.collectors);
  at("host").textContent = self.host;
  at("version").textContent = `steadytok ${self.version}`;
  drawAlerts(at("alerts"), news, self.now);
  drawRemedies(lists, remedies, resume);
  drawActs(at("acts"), acts, fault || "Nothing yet.", self.now);
  drawCollectors(at("collectors"), collectors);
  at("pause").hidden = remedies.pauses.includes("page");
  drawVerdict(
    self,
    news.filter((alert) => alert.state === "firing"),
    collectors.filter((each) => each.how === "ill"),
  );
}

function drawVerdict(self, firing, ill) {
  const worstOf = ["critical", "warning", "info"].find((how) => firing.some((alert) => severity(alert.labels) === how));
  const words = firing.length ? `${firing.length} alert${firing.length > 1 ? "s" : ""} up` : "No alert";
  const more = ill.length ? `, ${ill.map((each) => each.name).join(" and ")} failing` : "";
  const verdict = at("verdict");
  if (verdict.textContent !== words + more) verdict.replaceChildren(words + more); // said once, not each round
  verdict.className = worstOf ?? (ill.length ? "warning" : "fine");
  document.title = `${firing.length ? `(${firing.length}) ` : ""}steadytok on ${self.host}`;
}

/** Whether what is shown is of now; where it is not, since when. */
function drawState() {
  const still = drawn?.self.age > SILENT;
  const gone = failing !== null;
  document.body.classList.toggle("gone", gone || still);
  at("gone").hidden = !gone && !still;
  const words = gone
    ? answered === null
      ? `No answer from the agent: ${failing}. Trying again.`
      : `No answer since ${clock(answered)}: ${failing}. What is shown is of then.`
    : still
      ? `The agent has stalled: no samples for ${span(drawn.self.age)}.`
      : "";
  if (at("gone").textContent !== words) at("gone").textContent = words;
}

function resume(name) {
  permit(
    `Resume ${name}`,
    "Firing alerts must keep firing for one cooldown before a remedy acts.",
    "Resume",
    "resume",
    { name },
    round,
  );
}

function pause() {
  permit(
    "Pause remedies",
    "Nothing begins until it is resumed. What is held stays until its alert ends.",
    "Pause",
    "pause",
    { name: "page" },
    round,
  );
}

async function start() {
  try {
    lane = new Lane(at("strips"));
    strips = (await ask.panels()).map((panel) => new Strip(panel, at("strips")));
  } catch {
    at("strips").replaceChildren(
      element("p", { className: "none", textContent: "The page's own files do not answer; load it again." }),
    );
    return;
  }
  at("ranges").addEventListener("change", round);
  cursor = new Cursor(at("strips"), at("cursor"), [lane, ...strips]);
  at("pause").addEventListener("click", pause);
  document.addEventListener("visibilitychange", () => (document.hidden ? clearTimeout(timer) : round()));
  new ResizeObserver(() => drawn && drawTimes()).observe(at("strips"));
  setInterval(drawState, 1000);
  await round();
  if (drawn && young(drawn.times)) await shorter();
}

/** Whether the agent remembers nothing from before the shortest window. */
function young({ view, silent: gaps }) {
  return gaps.slice(0, indexAt(view, view.end - SHORTEST)).every((gap) => gap !== null);
}

async function shorter() {
  document.querySelector(`input[name=range][value="${SHORTEST}"]`).checked = true;
  await round();
}

start();

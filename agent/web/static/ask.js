// The agent's answers. Addresses are relative, so that the page works below a proxy's prefix too.

const PATIENCE = 8000; // ms

export class Refused extends Error {
  constructor(status, says) {
    super(says);
    this.status = status;
  }
}

async function answered(path, options) {
  const response = await fetch(path, { ...options, cache: "no-store", signal: AbortSignal.timeout(PATIENCE) });
  const text = await response.text();
  let body = {};
  try {
    body = JSON.parse(text);
  } catch {
    if (response.ok) throw new Refused(response.status, "the answer is not JSON");
  }
  if (!response.ok)
    throw new Refused(response.status, body.error || text.trim().slice(0, 200) || `HTTP ${response.status}`);
  return body;
}

async function query(path, parameters) {
  const body = await answered(`api/v1/${path}?${new URLSearchParams(parameters)}`);
  return body.data;
}

/** The series of an instant query: [{metric, value: [seconds, text]}]. */
export async function now(text) {
  return (await query("query", { query: text })).result;
}

/** The series of a range query: [{metric, values: [[seconds, text], …]}]; steps without a value are not there. */
export async function range(text, start, end, step) {
  return (await query("query_range", { query: text, start, end, step })).result;
}

export async function alerts() {
  return (await query("alerts", {})).alerts;
}

export const remedies = () => answered("api/v1/remedies");
export const audit = (limit) => answered(`api/v1/remedies/audit?limit=${limit}`);
export const panels = () => answered("static/panels.json");

/** Changes something: `credential` is the token, which is kept nowhere. */
export function change(path, body, credential) {
  const headers = { "Content-Type": "application/json", Authorization: `Bearer ${credential}` };
  return answered(`api/v1/remedies/${path}`, { method: "POST", headers, body: JSON.stringify(body) });
}

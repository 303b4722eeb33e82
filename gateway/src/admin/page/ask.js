// Asks the gateway: for lists, for the stream of events, and, with the token, for changes. It never asks anybody else. The
// token is kept in the tab's storage alone.
'use strict';

const TOKEN = 'nbd-gateway-token';
/** Longer than a gateway takes that is well, in milliseconds. */
const PATIENCE = 10_000;

/** The gateway said no; `status` is HTTP's. */
export class Refused extends Error {
  constructor(status, words) {
    super(words);
    this.status = status;
  }
}

/** The token that was given in this tab, if any. */
export function token() {
  return sessionStorage.getItem(TOKEN) ?? '';
}

/** Keeps a token, or with an empty one forgets it. */
export function keepToken(text) {
  if (text) sessionStorage.setItem(TOKEN, text);
  else sessionStorage.removeItem(TOKEN);
}

/** The gateway's clock less this one's, in milliseconds: an event of a second ago is that for both. */
let ahead = 0;

/** What time it is for the gateway. */
export function now() {
  return Date.now() + ahead;
}

async function request(path, { headers = {}, ...more } = {}) {
  const brought = token();
  if (brought) headers.Authorization = `Bearer ${brought}`;
  const answer = await fetch(path, { headers, cache: 'no-store', credentials: 'omit', redirect: 'error', ...more });
  const date = Date.parse(answer.headers.get('Date') ?? '');
  // The header has whole seconds; less than two is no difference.
  if (date) ahead = Math.abs(date - Date.now()) > 2000 ? date - Date.now() : 0;
  if (!answer.ok) throw new Refused(answer.status, await why(answer));
  return answer;
}

/** The sentence of a refusal. */
async function why(answer) {
  try {
    return (await answer.json()).error ?? answer.statusText;
  } catch {
    return answer.statusText;
  }
}

/** A number that this language can't hold is cut, as sizes are, not rounded: 2^63-1 is less than 8 EiB. */
function cut(key, value, context) {
  if (!Number.isInteger(value) || Number.isSafeInteger(value) || context === undefined) return value;
  const whole = BigInt(context.source);
  let [step, less] = [1n, value];
  while (BigInt(less) > whole) less = Number(whole - (step *= 2n));
  return less;
}

/** What is at a path of the interface. */
export async function see(path) {
  const answer = await request(path, { signal: AbortSignal.timeout(PATIENCE) });
  return JSON.parse(await answer.text(), cut);
}

/** Whether it takes clients: `ready`, `starting` or `draining`. */
export async function phase() {
  const answer = await fetch('/readyz', { cache: 'no-store', signal: AbortSignal.timeout(PATIENCE) });
  return (await answer.text()).trim();
}

/** Orders something of an export; what the gateway answers. */
async function order(name, method, what, body) {
  const answer = await request(`/api/v1/exports/${encodeURIComponent(name === '' ? '""' : name)}/${what}`, {
    method,
    headers: body === undefined ? {} : { 'Content-Type': 'application/json' },
    body: body === undefined ? undefined : JSON.stringify(body),
  });
  return answer.json();
}

/** Asks for another size: the one that clients see then, and with `unpublished` the one that the backend has. */
export function resize(name, wanted) {
  return order(name, 'POST', 'resize', { size: wanted });
}

/** Shows clients all that the backend has; the answer is as that to a resize. */
export function publish(name) {
  return order(name, 'POST', 'publish');
}

/** Calls off a resize that still waits for others. */
export function callOff(name, job) {
  return order(name, 'DELETE', `jobs/${job}`);
}

/**
 * The events after number `last`, each handed to `heard` as it comes. Returns when the stream ends; throws if there is
 * none, or if `signal` says to stop. Not by EventSource: that can't bring a token.
 */
export async function listen(last, signal, opened, heard) {
  const answer = await request('/api/v1/events', {
    headers: { Accept: 'text/event-stream', 'Last-Event-ID': String(last) },
    signal,
  });
  opened();
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = '';
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const messages = (rest + value).split(/\r?\n\r?\n/);
    rest = messages.pop();
    for (const message of messages) {
      const data = message.split(/\r?\n/).filter((line) => line.startsWith('data:'));
      // A message without data is there to show that somebody is.
      if (data.length > 0) heard(JSON.parse(data.map((line) => line.slice(5)).join('\n'), cut));
    }
  }
}

// The page: asks for what there is, hears what happens, and has the rest show it. Lists are asked for after each event, and
// every two seconds while somebody looks; a gateway that does not answer is asked again, less and less often.
'use strict';

import { Refused, keepToken, listen, now, phase, see, token } from './ask.js';
import * as events from './events.js';
import * as exports from './exports.js';
import * as glance from './glance.js';
import { empty, mark, say, tick } from './make.js';
import * as sessions from './sessions.js';
import * as tenants from './tenants.js';

/** How often lists are asked for, and the longest pause before a gateway that was lost is asked again; milliseconds. */
const PACE = 2000;
const LONGEST = 8000;
/** As many rows of a table as are shown. */
const ROWS = 300;

const at = (id) => document.getElementById(id);
const seen = { tenants: [], exports: [], sessions: [], unopened: [] };
/** Everything up to this number was there when the page was opened. */
let old = 0;
let lostAt;

const pause = (millis) => new Promise((resolve) => setTimeout(resolve, millis));

// ---- what is shown

function wanted(tenant, name) {
  const is = (filter, text) => text.toLowerCase().includes(at(filter).value.trim().toLowerCase());
  return is('by-tenant', tenant) && is('by-export', name);
}

/** A filter is part of the address, so that it can be kept and sent around. */
function address() {
  const filter = new URLSearchParams();
  for (const of of ['tenant', 'export']) {
    const text = at(`by-${of}`).value.trim();
    if (text !== '') filter.set(of, text);
  }
  history.replaceState(null, '', filter.size > 0 ? `?${filter}` : location.pathname);
  show();
}

function filtered() {
  return at('by-tenant').value.trim() !== '' || at('by-export').value.trim() !== '';
}

function show() {
  const { hostname } = location;
  const mine = {
    tenants: seen.tenants.filter((it) => wanted(it.name, '') || seen.exports.some((e) => e.tenant === it.name && wanted(e.tenant, e.name))),
    exports: seen.exports.filter((it) => wanted(it.tenant, it.name)),
    sessions: seen.sessions.filter((it) => wanted(it.tenant, it.export)),
  };
  glance.tiles(at('tiles'), { ...seen, newest: events.newest() });
  const alarms = glance.alarms(at('alarms'), seen);
  document.title = alarms > 0 ? `(${alarms}) nbd-gateway` : 'nbd-gateway';
  tenants.show(at('tenants'), mine.tenants.slice(0, ROWS), Math.max(...seen.tenants.map(tenants.held)));
  exports.show(at('exports'), mine.exports.slice(0, ROWS));
  exports.failed(at('unopened'), seen.unopened.filter((it) => wanted(it.tenant, it.export)).slice(0, ROWS));
  sessions.show(at('sessions'), mine.sessions.slice(0, ROWS), new Map(seen.exports.map((it) => [it.name, it.size])));
  for (const [kind, none, command] of [
    ['tenants', 'There is no tenant.', ''],
    ['exports', 'No export is open: one opens when a client comes for it.', `nbd-gateway client watch nbd://${hostname}/EXPORT`],
    ['sessions', 'No client is connected.', `nbd-gateway client info nbd://${hostname}/EXPORT`],
  ]) note(kind, mine[kind].length, none, command);
  const heard = events.show(at('events'), wanted, old);
  note('events', heard, 'No size has changed yet. Change one:', 'nbd-gateway resize EXPORT +1GiB --token-file FILE');
}

/** How many there are, and what stands where there are none, or more than are shown. */
function note(kind, shown, none, command) {
  const all = seen[kind]?.length;
  if (all !== undefined) say(at(`${kind}-count`), shown === all ? all.toLocaleString('en') : `${shown} of ${all}`);
  const place = at(`${kind}-empty`);
  if (shown === 0 && filtered()) empty(place, 'Nothing here fits the filter.');
  else if (shown === 0) empty(place, none, command);
  else if (all !== undefined && shown > ROWS) empty(place, `${shown - ROWS} more are not shown: filter by tenant or export to see them.`);
  else empty(place);
}

/** Names for the filter's list. */
function suggest() {
  const names = seen.tenants.map((it) => it.name).join('\n');
  const list = at('tenant-names');
  if (list.said === names) return;
  list.said = names;
  list.replaceChildren(...seen.tenants.map((it) => new Option(it.name, it.name)));
}

// ---- how the gateway is

function link(state, words) {
  mark(at('link'), 'data-state', state);
  say(at('link'), words);
}

function reached() {
  lostAt = undefined;
  link('live', 'live');
  at('banner').hidden = true;
  mark(document.body, 'data-lost', undefined);
}

/** There is no stream. An answer that says so comes from a gateway that can still be looked at. */
function lost(error) {
  const answered = error instanceof Refused;
  if (!answered) lostAt ??= Date.now();
  link('lost', answered ? 'no events' : 'connection lost');
  say(at('banner'), answered
    ? `What happens is not told: ${error.message}. Trying again.`
    : `Connection lost: the gateway does not answer. Trying again; what is below is as of ${new Date(lostAt).toLocaleTimeString('sv')}.`);
  at('banner').hidden = false;
  mark(document.body, 'data-lost', answered ? undefined : '');
}

/** It wants the token, or another one. */
function lock() {
  const brought = token() !== '';
  keepToken('');
  holding();
  at('locked').hidden = false;
  at('shown').hidden = true;
  at('banner').hidden = true;
  link('waiting', 'token needed');
  say(at('unlock-error'), brought ? 'That is not the token of this gateway.' : '');
  at('token').focus();
}

function unlocked() {
  if (!at('shown').hidden) return;
  at('locked').hidden = true;
  at('shown').hidden = false;
}

// ---- asking

/** One look at everything; throws if there is no answer. */
async function look() {
  const heard = events.last();
  const [of, open, clients, unopened] = await Promise.all(['tenants', 'exports', 'sessions', 'unopened'].map((what) => see(`/api/v1/${what}`)));
  const order = (a, b) => (a < b ? -1 : a > b ? 1 : 0);
  seen.tenants = of;
  seen.exports = open.sort((a, b) => order(a.tenant, b.tenant) || order(a.name, b.name));
  seen.sessions = clients.sort((a, b) => a.id - b.id);
  seen.unopened = unopened;
  // What was heard meanwhile may be newer than what is seen here; then there is another look after this one.
  if (heard === events.last()) open.forEach((it) => events.story(it.name).look(now(), it.size));
  unlocked();
  suggest();
  show();
  const said = await phase();
  say(at('phase'), said);
  at('phase').hidden = said === 'ready';
}

let looking = false;
let again = false;
/** Stops the stream: a connection on which nothing comes may be a broken one. */
let stop = () => {};

/** Looks, one look at a time; asked for during a look, there is another one after it. */
async function refresh() {
  again = true;
  if (looking) return;
  looking = true;
  while (again) {
    again = false;
    await look().catch((error) => stop(error));
  }
  looking = false;
}

/** What has happened so far. */
async function recall() {
  const past = await see('/api/v1/events?limit=1000');
  // The numbers only ever grow, unless it is another ledger.
  if ((past.at(-1)?.id ?? 0) < events.last()) {
    events.forget();
    old = 0;
  }
  past.forEach(events.hear);
  if (old === 0) old = events.last();
  exports.anew();
}

/** Hears the gateway until it is lost; throws why it was. */
async function follow() {
  const deaf = await recall().then(() => undefined, (error) => error);
  // A gateway whose history can't be had can still be looked at.
  await look();
  lostAt = undefined;
  if (deaf) throw deaf;
  const hearing = new AbortController();
  stop = (error) => hearing.abort(error);
  await listen(events.last(), hearing.signal, reached, (event) => {
    if (events.hear(event)) refresh();
  });
}

/** Follows the gateway for ever. */
async function main() {
  for (let wait = 250; ; wait = Math.min(LONGEST, 2 * wait)) {
    const began = Date.now();
    const error = await follow().catch((error) => error);
    if (error instanceof Refused && error.status === 401) {
      lock();
      await given;
      wait = 125;
      continue;
    }
    lost(error);
    // It was well for a while: what happened now is news.
    if (Date.now() - began > LONGEST) wait = 250;
    // Not all pages at once, when a gateway with many of them comes back.
    await pause(wait * (0.75 + Math.random() / 2));
  }
}

// ---- what a person does

let give;
let given = new Promise((resolve) => { give = resolve; });

function onToken(event) {
  event.preventDefault();
  keepToken(at('token').value.trim());
  holding();
  at('token').value = '';
  give();
  given = new Promise((resolve) => { give = resolve; });
}

const THEMES = { system: 'as the system', light: 'light', dark: 'dark' };

function paint(theme) {
  if (theme === 'system') delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  mark(at('theme'), 'aria-label', `Colours: ${THEMES[theme]}`);
  mark(at('theme'), 'title', `Colours: ${THEMES[theme]}`);
}

function wire() {
  paint(localStorage.getItem('theme') ?? 'system');
  at('theme').addEventListener('click', () => {
    const names = Object.keys(THEMES);
    const next = names[(names.indexOf(localStorage.getItem('theme') ?? 'system') + 1) % names.length];
    localStorage.setItem('theme', next);
    paint(next);
  });
  at('unlock').addEventListener('submit', onToken);
  at('key').addEventListener('click', () => at('keyring').showModal());
  at('close').addEventListener('click', () => at('keyring').close());
  at('forget').addEventListener('click', () => keep(''));
  at('keep').addEventListener('submit', (event) => {
    event.preventDefault();
    keep(at('operator').value.trim());
  });
  at('filter').addEventListener('submit', (event) => event.preventDefault());
  at('filter').addEventListener('input', address);
  for (const [of, text] of new URLSearchParams(location.search)) {
    if (of === 'tenant' || of === 'export') at(`by-${of}`).value = text;
  }
  document.addEventListener('keydown', (event) => {
    if (event.key !== '/' || event.ctrlKey || event.metaKey || event.altKey || event.target.matches('input')) return;
    event.preventDefault();
    at('by-export').focus();
  });
  document.addEventListener('visibilitychange', () => { if (!document.hidden) refresh(); });
  setInterval(() => { if (!document.hidden) tick(document); }, 1000);
  setInterval(() => { if (!document.hidden && lostAt === undefined && !at('shown').hidden) refresh(); }, PACE);
}

/** Whether a token is there to be used. */
function holding() {
  mark(at('key'), 'data-given', token() === '' ? undefined : '');
}

function keep(text) {
  keepToken(text);
  holding();
  at('operator').value = '';
  at('keyring').close();
  refresh();
}

wire();
holding();
main();
see('/api/v1/openapi.json').then(({ info }) => say(at('version'), info.version), () => {});

// Exports: a row each, with its size over time, whether it can be resized, and how its backend is; more below it for who
// opens it.
'use strict';

import { Detail } from './detail.js';
import { learn, story } from './events.js';
import { cell, keep, make, mark, say, since } from './make.js';
import { unshown } from './order.js';
import { Line } from './plot.js';
import { count, exactly, plain, size, span } from './words.js';

const GROWS = {
  explicit: 'resized over NBD', automatic: 'grown by writes', embedded: 'resized here', window: 'a window of it',
  driver: 'resized by a driver', fixed: 'fixed size',
};

/** The names of those whose details are open. */
const open = new Set();

/** How often the gateway was reached; then what was learned before may lack something. */
let reached = 0;

/** The gateway was reached, again or for the first time. */
export function anew() {
  reached += 1;
}

/** Shows exports below a table's head. */
export function show(table, exports) {
  keep(table, exports, (it) => it.name, begin, refresh);
}

/** Shows those that could not be opened in a list. */
export function failed(list, unopened) {
  keep(list, unopened, (it) => `${it.export} ${it.since}`, beginFailed, ({ more }, it) => {
    say(more, `${plain(it.why)} · ${count(it.attempts, 'attempt')}`);
  });
  list.hidden = unopened.length === 0;
}

function beginFailed(it) {
  const more = make('span', { class: 'under' });
  const element = make('li', { 'data-unopened': it.export }, make('span', { class: 'name', text: plain(it.export) }), ' ',
    make('span', { class: 'bad', text: 'could not be opened' }), ', first ', since(1000 * it.since), more);
  return { element, more };
}

/** How its backend is, in few words. */
export function health({ backend, health: { state }, lanes }) {
  if (state === 'embedded') return backend;
  const up = lanes.filter((lane) => lane.up).length;
  // Requests that wait for a backend still get their answer, if it comes back in time.
  if (up === 0) return state === 'down' ? 'down' : 'away';
  if (state === 'degraded' && up === lanes.length) {
    return `waits ${span(1000 * Math.max(...lanes.map((lane) => lane.oldest_request_seconds)))}`;
  }
  return lanes.length === 1 ? state : `${up} of ${count(lanes.length, 'lane')} up`;
}

function begin(it) {
  const row = { line: new Line(180, 40), detail: undefined, learned: undefined };
  row.more = make('button', { type: 'button', class: 'more', 'aria-expanded': 'false' }, make('span', { class: 'name clamp', title: plain(it.name), text: plain(it.name) }));
  row.tenant = make('span', { class: 'under clamp', title: plain(it.tenant), text: plain(it.tenant) });
  row.size = make('strong');
  row.bound = make('span', { class: 'under' });
  row.standing = make('span', { class: 'standing' });
  row.backend = make('span', { class: 'health' });
  row.how = make('span', { class: 'under' });
  row.sessions = cell('Clients', { class: 'number' });
  row.below = make('td', { role: 'cell', colspan: 6 });
  row.detailRow = make('tr', { role: 'row', class: 'detail', hidden: '' }, row.below);
  row.element = make('tbody', { role: 'rowgroup', class: 'export' },
    make('tr', { role: 'row' },
      make('th', { role: 'rowheader', scope: 'row' }, row.more, row.tenant),
      cell('Size over time', { class: 'spark' }, row.line.element),
      cell('Size', { class: 'number' }, row.size, row.bound),
      cell('State', {}, row.standing),
      cell('Backend', {}, row.backend, row.how),
      row.sessions),
    row.detailRow);
  row.element.dataset.export = it.name;
  row.more.addEventListener('click', () => {
    if (!open.delete(it.name)) open.add(it.name);
    refresh(row, row.it);
  });
  return row;
}

function refresh(row, it) {
  row.it = it;
  const told = story(it.name);
  const { state, says } = it.health;
  row.line.show(told, told.largest * 1.12);
  say(row.size, size(it.size));
  mark(row.size, 'title', exactly(it.size));
  say(row.bound, bound(it));
  say(row.standing, it.read_only && it.standing === 'ready' ? 'read-only' : it.standing);
  mark(row.standing, 'data-standing', it.standing);
  mark(row.standing, 'title', it.note);
  say(row.backend, health(it));
  mark(row.backend, 'data-health', state);
  mark(row.backend, 'title', plain(says));
  say(row.how, GROWS[it.grows] ?? it.grows);
  say(row.sessions, it.sessions.toLocaleString('en'));
  mark(row.element, 'data-health', state);
  unfold(row, open.has(it.name));
}

/** What stands below a size: what the backend has that nobody sees, or else how far it may go. */
function bound(it) {
  if (unshown(it) > 0) return `${size(unshown(it))} not shown`;
  if (it.disk < it.size) return `backend has ${size(it.disk)}`;
  return it.max_size === undefined ? '' : `at most ${size(it.max_size)}`;
}

function unfold(row, wanted) {
  mark(row.more, 'aria-expanded', String(wanted));
  row.detailRow.hidden = !wanted;
  if (wanted && row.detail === undefined) {
    row.detail = new Detail(row.it.name);
    row.below.replaceChildren(row.detail.element);
  }
  // What nobody sees is not kept up.
  if (wanted) row.detail.show(row.it, story(row.it.name));
  if (wanted && row.learned !== reached) recall(row);
  if (!wanted) row.learned = undefined;
}

/** Its own history, each time that somebody opens it. Without it the plot has what the page has heard. */
function recall(row) {
  row.learned = reached;
  learn(row.it.name).then(() => refresh(row, row.it), () => {});
}

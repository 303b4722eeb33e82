// All there is to know of one export: its size over time with scales, how it is resized, the lanes to its backend, its last
// resizes; and what who has the token may order of it.
'use strict';

import { token } from './ask.js';
import { keep, make, mark, say, since } from './make.js';
import { Order } from './order.js';
import { Plot } from './plot.js';
import { count, exactly, plain, size, span } from './words.js';

const DRIVERS = {
  embedded: 'by the gateway itself', wire: 'over NBD', automatic: 'by a write past the end', window: 'as a window',
  file: 'by growing its file', qmp: 'by QMP', restart: 'by a restart', exec: 'by a program', none: 'not at all',
};
const TELLS = {
  notify: 'as they happen', query: 'when the backend is asked', handshake: 'with a new connection', itself: 'from the gateway itself',
};

export class Detail {
  constructor(name) {
    this.plot = new Plot();
    this.note = make('p', { class: 'note' });
    this.facts = make('dl', { class: 'facts' });
    this.lanes = make('ul', { class: 'lanes' });
    this.jobs = make('ol', { class: 'jobs' });
    this.order = new Order(name);
    const part = (title, ...inside) => make('div', {}, make('h3', { text: title }), ...inside);
    this.lanesPart = part('Lanes', this.lanes);
    this.jobsPart = part('Last resizes', this.jobs);
    this.element = make('div', { class: 'inside' }, this.note,
      part('Size over time', this.plot.element, this.order.element), make('div', {}, this.facts, this.lanesPart, this.jobsPart));
  }

  show(it, story) {
    this.plot.show(story);
    say(this.note, it.note ?? '');
    this.note.hidden = it.note === undefined;
    keep(this.facts, Object.entries(facts(it)), ([term]) => term, fact, ({ value }, [, text]) => say(value, text));
    this.lanesPart.hidden = it.lanes.length === 0;
    keep(this.lanes, it.lanes, laneKey, beginLane, refreshLane);
    this.jobsPart.hidden = it.jobs.length === 0;
    keep(this.jobs, it.jobs.slice(-6).reverse(), ({ id }) => id, (job) => beginJob(job, this.order), refreshJob);
    this.order.show(it);
  }
}

function facts(it) {
  return {
    'Clients see': exactly(it.size),
    'Backend has': it.disk === it.size ? 'the same' : exactly(it.disk),
    'At most': it.max_size === undefined ? 'no bound' : size(it.max_size),
    Resized: DRIVERS[it.driver] ?? it.driver,
    'New sizes come': TELLS[it.tells] ?? it.tells,
    Generation: count(it.generation, 'change'),
  };
}

function fact([term]) {
  const value = make('dd');
  return { element: make('div', {}, make('dt', { text: term }), value), value };
}

/** A lane that goes or comes is shown anew, with its time. */
function laneKey(lane) {
  return `${lane.number} ${lane.up} ${lane.since}`;
}

function beginLane(lane) {
  const state = lane.up ? 'up' : 'down';
  const more = make('span', { class: 'under' });
  const element = make('li', {}, make('span', { class: 'health', 'data-health': state, text: state }), since(1000 * lane.since),
    make('code', { text: plain(lane.backend) }), more);
  return { element, more };
}

function refreshLane({ more }, lane) {
  const parts = [`${count(lane.in_flight, 'request')} in flight`];
  if (lane.oldest_request_seconds > 0) parts.push(`the oldest has waited ${span(1000 * lane.oldest_request_seconds)}`);
  if (lane.reconnects > 0) parts.push(`connected again ${count(lane.reconnects, 'time')}`);
  if (lane.last_error !== undefined) parts.push(`last trouble: ${plain(lane.last_error)}`);
  say(more, parts.join(' · '));
}

function beginJob({ id }, order) {
  const row = { state: make('span'), wish: make('span'), error: make('span', { class: 'under' }), off: order.off(id) };
  row.element = make('li', {}, row.state, row.wish, row.off, row.error);
  return row;
}

function refreshJob(row, job) {
  const kinds = { done: 'resized', refused: 'refused', unsettled: 'unsettled' };
  mark(row.state, 'class', `kind ${kinds[job.state] ?? 'waiting'}`);
  say(row.state, job.state.replaceAll('-', ' '));
  say(row.wish, plain(job.wish));
  row.off.hidden = job.state !== 'waiting' || token() === '';
  say(row.error, job.error ? plain(job.error) : '');
}

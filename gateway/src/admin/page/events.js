// Events: what has become of sizes, newest first, and the story of each export's size that they tell.
'use strict';

import { see } from './ask.js';
import { keep, make, since } from './make.js';
import { Story } from './plot.js';
import { change, plain, size } from './words.js';

/** As many as are kept, and as many as are shown at once. */
const KEPT = 1000;
const SHOWN = 150;

let all = [];
const stories = new Map();

/** The number of the newest one. */
export function last() {
  return all.at(-1)?.id ?? 0;
}

/** When the newest one was; undefined: never. */
export function newest() {
  return all.at(-1);
}

/** One more; told twice is told once. Says whether it was new. */
export function hear(event) {
  if (event.id <= last()) return false;
  all.push(event);
  if (all.length > KEPT) all.shift();
  if (event.export !== undefined) story(event.export).tell(event);
  return true;
}

/** Another ledger, another history. */
export function forget() {
  all = [];
  stories.clear();
}

/** What is known of an export's size over time. */
export function story(name) {
  let found = stories.get(name);
  if (found === undefined) stories.set(name, found = new Story());
  return found;
}

/** Asks what became of one export alone: what changed it last may be long past among what became of all. */
export async function learn(name) {
  const past = await see(`/api/v1/events?export=${encodeURIComponent(name)}&limit=${KEPT}`);
  const [had, whole] = [story(name), new Story()];
  past.forEach((event) => whole.tell(event));
  // Events that came meanwhile, and sizes that nobody told but were seen.
  all.filter((event) => event.export === name).forEach((event) => whole.tell(event));
  const until = whole.steps.at(-1)?.[0] ?? -Infinity;
  had.steps.filter(([at, , seen]) => seen && at > until).forEach(([at, to]) => whole.look(at, to));
  stories.set(name, whole);
}

/** Shows the newest of those that `wanted` lets pass; how many there are. `fresh`: those after this number just came. */
export function show(list, wanted, fresh) {
  const passed = all.filter((event) => wanted(event.tenant ?? '', event.export ?? ''));
  const shown = passed.slice(-SHOWN).reverse();
  keep(list, shown, (event) => event.id, (event) => begin(event, event.id > fresh), () => {});
  return passed.length;
}

function begin(event, fresh) {
  const what = make('p', { class: 'what' }, make('span', { class: `kind ${event.kind}`, text: event.kind }));
  const of = event.export ?? event.tenant;
  if (of !== undefined) what.append(make('span', { class: 'name', text: plain(of) }));
  const element = make('li', { 'data-event': event.id, class: fresh ? 'fresh' : undefined }, what, since(event.at));
  const { old_size: from, new_size: to } = event;
  // The change that took a tenant over its soft quota has an event of its own.
  if (from !== undefined && to !== undefined && from !== to && event.kind !== 'soft-quota') {
    element.append(make('p', { class: 'sizes' }, `${size(from)} → `, make('strong', { text: size(to) }),
      make('span', { class: 'faint', text: ` ${change(from, to)}` })));
  }
  element.append(make('p', { class: 'detail', text: plain(event.detail) }));
  return { element };
}

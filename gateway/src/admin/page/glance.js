// The page's first lines: what there is in numbers, and what an operator should look at now, in sentences.
'use strict';

import { keep, make, mark, say, since } from './make.js';
import { held, standing } from './tenants.js';
import { percent, plain, size } from './words.js';

/** As many sentences as are shown; the rest are counted. */
const SENTENCES = 6;

/** Shows the numbers. */
export function tiles(list, { tenants, exports, sessions, newest }) {
  const sum = (of, what) => of.reduce((all, it) => all + what(it), 0);
  const bounded = tenants.filter((tenant) => tenant.quota !== undefined);
  const quota = sum(bounded, (tenant) => tenant.quota);
  const remote = exports.filter((it) => it.health.state !== 'embedded');
  const well = remote.filter((it) => it.health.state === 'up').length;
  const explicit = sessions.filter((session) => session.style === 'explicit').length;
  const shown = [
    { term: 'Used', value: size(sum(tenants, held)), more: quota > 0 ? `${percent(sum(bounded, held), quota)} of ${size(quota)} of quotas` : 'no quotas' },
    { term: 'Exports open', value: exports.length.toLocaleString('en'), more: `${size(sum(exports, (it) => it.size))} in all` },
    { term: 'Clients', value: sessions.length.toLocaleString('en'), more: explicit > 0 ? `${explicit} told of new sizes` : 'connected now' },
    { term: 'Backends up', value: remote.length > 0 ? `${well} of ${remote.length}` : '–', more: remote.length > 0 ? 'of the NBD servers' : 'only disks of its own', bad: well < remote.length },
    { term: 'Last change', value: newest, more: newest ? `${newest.kind} ${plain(newest.export ?? newest.tenant ?? '')}` : 'no size has changed yet' },
  ];
  keep(list, shown, ({ term }) => term, beginTile, refreshTile);
}

function beginTile({ term }) {
  const row = { value: make('dd', { class: 'value' }), more: make('dd', { class: 'faint' }) };
  row.element = make('div', { class: 'tile', 'data-tile': term }, make('dt', { text: term }), row.value, row.more);
  return row;
}

function refreshTile(row, { value, more, bad }) {
  mark(row.element, 'data-bad', bad ? '' : undefined);
  say(row.more, more);
  if (typeof value === 'string') say(row.value, value);
  else if (value === undefined) say(row.value, '–');
  else if (row.id !== value.id) {
    row.id = value.id;
    row.value.replaceChildren(since(value.at));
  }
}

/** Shows what needs somebody; how much that is. */
export function alarms(place, { tenants, exports, unopened }) {
  const all = [...exports.flatMap(ofExport), ...unopened.map(ofUnopened), ...tenants.flatMap(ofTenant)].sort((a, b) => a.rank - b.rank);
  const shown = all.slice(0, SENTENCES);
  if (all.length > SENTENCES) shown.push({ rank: 2, who: '', words: `and ${all.length - SENTENCES} more below` });
  keep(place, shown, ({ who, words }) => `${who} ${words}`, ({ rank, who, words }) => ({
    element: make('p', { class: rank < 2 ? 'bad' : 'odd' }, make('strong', { class: 'name', text: who }), ` ${words}`),
  }), () => {});
  place.hidden = all.length === 0;
  return all.length;
}

function ofExport(it) {
  const who = plain(it.name);
  const said = [];
  const { state, says } = it.health;
  // Why, with addresses and all, stands in the export's row and details.
  const [words] = plain(says).split(':');
  if (state === 'down') said.push({ rank: 0, who, words: `is down: ${words}` });
  if (state === 'degraded') said.push({ rank: 2, who, words: `is degraded: ${words}` });
  if (it.standing === 'quarantined') said.push({ rank: 0, who, words: `is quarantined: ${it.note ?? 'its backend says a size that cannot be'}` });
  if (it.standing === 'unsettled') said.push({ rank: 2, who, words: `is unsettled: ${it.note ?? 'nobody knows its size'}` });
  return said;
}

/** Why, with addresses and all, stands below the exports. */
function ofUnopened(it) {
  return { rank: 0, who: plain(it.export), words: 'could not be opened' };
}

function ofTenant(tenant) {
  const words = {
    over: 'is over its quota: nothing of it grows',
    near: `has ${percent(held(tenant), tenant.quota)} of its quota`,
    soft: `is over its soft quota of ${size(tenant.soft_quota ?? 0)}`,
  }[standing(tenant)];
  return words === undefined ? [] : [{ rank: standing(tenant) === 'over' ? 1 : 3, who: plain(tenant.name), words }];
}

// Tenants: what each may use, as a bar, and how much of that is used, held for grows in flight, and of unknown outcome.
'use strict';

import { cell, keep, make, mark, place, say } from './make.js';
import { count, exactly, percent, plain, size } from './words.js';

/** Shows tenants in a table's body. `widest` is the most that any of them uses, for those without a quota. */
export function show(body, tenants, widest) {
  keep(body, tenants, (tenant) => tenant.name, begin, (row, tenant) => refresh(row, tenant, widest));
}

/** All that counts against the quota, in bytes. */
export function held(tenant) {
  return tenant.used + tenant.reserved + tenant.unsettled;
}

/** How near its quota a tenant is: over, near (90 %), soft or well. */
export function standing(tenant) {
  if (tenant.over_quota || held(tenant) > (tenant.quota ?? Infinity)) return 'over';
  if (held(tenant) >= 0.9 * (tenant.quota ?? Infinity)) return 'near';
  if (held(tenant) > (tenant.soft_quota ?? Infinity)) return 'soft';
  return 'well';
}

function begin(tenant) {
  const part = (name) => make('span', { class: name });
  const row = {
    used: part('used'), reserved: part('reserved'), unsettled: part('unsettled'), soft: part('soft'), hard: part('hard'),
    amount: make('strong'), bound: make('span', { class: 'faint' }), share: make('span', { class: 'share' }),
    exports: cell('Exports', { class: 'number' }),
  };
  row.bar = make('div', { class: 'quota', role: 'meter', 'aria-label': `Quota of ${tenant.name}`, 'aria-valuemin': 0 },
    row.used, row.reserved, row.unsettled, row.soft, row.hard);
  row.element = make('tr', { role: 'row', 'data-tenant': tenant.name },
    make('th', { role: 'rowheader', scope: 'row' }, make('span', { class: 'clamp', title: plain(tenant.name), text: plain(tenant.name) })),
    cell('Quota used', { class: 'wide' }, make('p', { class: 'row' }, make('span', {}, row.amount, row.bound), row.share), row.bar),
    row.exports);
  return row;
}

function refresh(row, tenant, widest) {
  const { quota, soft_quota: soft } = tenant;
  const all = held(tenant);
  // A tenant that is over its quota fills the bar, and the quota's mark stands within.
  const whole = quota === undefined ? Math.max(widest, 1) : Math.max(quota, all, 1);
  mark(row.element, 'data-standing', standing(tenant));
  mark(row.bar, 'data-bounded', quota !== undefined);
  stretch(row.used, 0, tenant.used, whole);
  stretch(row.reserved, tenant.used, tenant.reserved, whole);
  stretch(row.unsettled, tenant.used + tenant.reserved, tenant.unsettled, whole);
  mark(row.soft, 'hidden', soft === undefined ? '' : undefined);
  if (soft !== undefined) place(row.soft, 'left', soft / whole);
  mark(row.hard, 'hidden', quota === undefined || quota === whole ? '' : undefined);
  if (quota !== undefined) place(row.hard, 'left', quota / whole);
  say(row.amount, size(all));
  say(row.bound, quota === undefined ? ' · no quota' : ` of ${size(quota)}${tenant.quota_ordered ? ', as ordered' : ''}`);
  say(row.share, quota === undefined ? '' : percent(all, quota));
  say(row.exports, tenant.exports.toLocaleString('en'));
  mark(row.bar, 'aria-valuemax', quota ?? whole);
  mark(row.bar, 'aria-valuenow', Math.min(all, quota ?? whole));
  const words = sentence(tenant);
  mark(row.bar, 'aria-valuetext', words);
  mark(row.bar, 'title', words);
}

function stretch(part, from, bytes, whole) {
  mark(part, 'hidden', bytes === 0 ? '' : undefined);
  place(part, 'left', from / whole);
  place(part, 'width', bytes / whole);
}

function sentence(tenant) {
  const parts = [`${exactly(tenant.used)} used`];
  if (tenant.reserved > 0) parts.push(`${size(tenant.reserved)} reserved for grows under way`);
  if (tenant.unsettled > 0) parts.push(`${size(tenant.unsettled)} held for grows of unknown outcome`);
  if (tenant.soft_quota !== undefined) parts.push(`soft quota ${size(tenant.soft_quota)}`);
  parts.push(tenant.quota === undefined ? 'no quota' : `quota ${size(tenant.quota)}`, `in ${count(tenant.exports, 'export')}`);
  return parts.join(', ') + (tenant.note === undefined ? '' : `; ${tenant.note}`);
}

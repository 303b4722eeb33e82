// Sessions: the clients that are connected, how each learns of a new size, and the one that it was last told.
'use strict';

import { cell, keep, make, mark, say, since } from './make.js';
import { exactly, plain, size } from './words.js';

const LEARNS = {
  explicit: 'is told as it happens, and may resize',
  automatic: 'grows by writing past the end',
  stock: 'knows nothing of resizing: learns when it connects',
};

/** Shows sessions in a table's body; `sizes` are those of the exports now. */
export function show(body, sessions, sizes) {
  keep(body, sessions, (session) => session.id, begin, (row, session) => refresh(row, session, sizes));
}

function begin(session) {
  const told = make('span');
  const behind = make('span', { class: 'under warn' });
  const element = make('tr', { role: 'row', 'data-session': session.id },
    make('th', { role: 'rowheader', scope: 'row', class: 'peer', title: `session ${session.id} at ${session.listener}, by ${session.rule}` },
      make('span', { text: plain(session.peer) }), make('span', { class: 'under', text: `${session.tls ? 'TLS, ' : ''}` }, since(1000 * session.since))),
    cell('Export', {}, make('span', { class: 'name', text: plain(session.export) }), make('span', { class: 'under', text: session.tenant })),
    cell('Learns of sizes', {}, make('span', { class: `style ${session.style}`, title: LEARNS[session.style], text: session.style }),
      make('span', { class: 'under', text: `${session.framing} replies` })),
    cell('Was told', { class: 'number' }, told, behind),
    cell('May', { class: 'verbs', text: session.verbs.join(', ') }));
  return { element, told, behind };
}

function refresh(row, session, sizes) {
  const there = sizes.get(session.export) ?? session.size;
  say(row.told, size(session.size));
  mark(row.told, 'title', exactly(session.size));
  say(row.behind, there === session.size ? '' : `now ${size(there)}`);
}

// What who has the token may order of an export: another size, that clients see what they are not shown yet, and that a
// resize that waits is not done. What came of the last order stands below.
'use strict';

import { callOff, publish, resize, token } from './ask.js';
import { make, mark, say } from './make.js';
import { plain, size } from './words.js';

/** What an export's backend has and clients don't see, in bytes. Of a window that is everybody else's. */
export function unshown(it) {
  return it.grows === 'window' ? 0 : Math.max(0, it.disk - it.size);
}

export class Order {
  constructor(name) {
    this.name = name;
    const id = `size-${crypto.randomUUID?.() ?? Math.random()}`;
    this.wanted = make('input', { id, placeholder: '+1GiB', size: 10, autocomplete: 'off', spellcheck: 'false', required: '' });
    this.send = make('button', { type: 'submit', text: 'Resize' });
    this.publish = make('button', { type: 'button', class: 'quiet publish' });
    this.said = make('p', { role: 'status' });
    this.element = make('form', { class: 'order' },
      make('label', { for: id, text: 'Resize to, or by' }), this.wanted, this.send, this.publish, this.said);
    this.element.addEventListener('submit', (event) => {
      event.preventDefault();
      this.place(this.send, () => resize(name, this.wanted.value.trim()), (reached) => {
        this.wanted.value = '';
        return sentence(reached);
      });
    });
    this.publish.addEventListener('click', () => this.place(this.publish, () => publish(name), sentence));
  }

  /** Brings it up to date with its export. */
  show(it) {
    this.element.hidden = token() === '';
    this.publish.hidden = it.standing !== 'ready' || unshown(it) === 0;
    say(this.publish, `Show clients ${size(unshown(it))} more`);
  }

  /** A button that calls a resize off. */
  off(job) {
    const button = make('button', { type: 'button', class: 'quiet off', 'aria-label': `Call off resize ${job}`, text: 'Call off' });
    button.addEventListener('click', () => this.place(button, () => callOff(this.name, job), () => `Resize ${job} is called off.`));
    return button;
  }

  /** Asks, and says what came of it. Of two orders at a time that is the one that ended last. */
  async place(button, ask, words) {
    button.disabled = true;
    mark(this.said, 'class', undefined);
    say(this.said, 'asked …');
    try {
      const answer = await ask();
      mark(this.said, 'class', undefined);
      say(this.said, words(answer));
    } catch (error) {
      mark(this.said, 'class', 'wrong');
      say(this.said, error.status === 401 ? 'That is not the token of this gateway.' : plain(error.message));
    }
    button.disabled = false;
  }
}

/** What a resize came to. */
function sentence({ size: reached, unpublished }) {
  if (unpublished === undefined) return `It has ${size(reached)} now.`;
  return `It has ${size(unpublished)} now; clients are shown ${size(reached)} until that is published.`;
}

// The size of an export over time: what is known of it, and how that is drawn. Sizes change in steps, so lines are steps.
'use strict';

import { now } from './ask.js';
import { draw, make, mark, say } from './make.js';
import { ago, count, moment, size } from './words.js';

/** As many steps as are kept and drawn of one export; older ones are forgotten. */
const STEPS = 240;
/** The shortest time that a plot shows, in milliseconds. */
const SHORTEST = 60_000;

/** The sizes of one export. */
export class Story {
  /** `[at, size, seen]`, oldest first: from then on it has that size. The first may be from for ever. */
  steps = [];
  /** The number of the last event that told something. */
  told = 0;

  /** An event told it; told twice is told once. A soft quota is passed before the size is another. */
  tell({ id, kind, at, old_size: from, new_size: to }) {
    if (to === undefined || kind === 'soft-quota' || id <= this.told) return;
    this.told = id;
    // What was only seen is known better now.
    while (this.steps.at(-1)?.[2] && this.steps.at(-1)[0] >= at) this.steps.pop();
    // Since when it had been what it was before, nobody says.
    if (this.steps.length === 0 && from !== undefined) this.steps.push([-Infinity, from, false]);
    this.add(at, to);
  }

  /** Somebody looked. */
  look(at, to) {
    this.add(at, to, true);
  }

  add(at, to, seen = false) {
    if (this.steps.at(-1)?.[1] === to) return;
    // Clocks can be set back; what was told later came later.
    this.steps.push([Math.max(at, this.steps.at(-1)?.[0] ?? at), to, seen]);
    if (this.steps.length > STEPS) this.steps.shift();
  }

  /** From when until now it is drawn: a little more than is known. */
  get from() {
    const known = this.steps.find(([at]) => at > -Infinity)?.[0] ?? Infinity;
    const long = Math.max(now() - known, SHORTEST);
    return now() - 1.08 * long;
  }

  get largest() {
    return Math.max(1, ...this.steps.map(([, to]) => to));
  }

  /** In a sentence, for who can't see it. */
  get sentence() {
    if (this.steps.length === 0) return 'not known yet';
    const [[, first]] = this.steps;
    const last = this.steps.at(-1)[1];
    if (this.steps.length === 1) return `${size(last)}, unchanged`;
    const span = now() - this.steps[1][0];
    return `${count(this.steps.length - 1, 'change')} since ${ago(span)}, from ${size(first)} to ${size(last)}`;
  }
}

/** A plot without anything beside it, `width` by `height` units that stretch. */
export class Line {
  constructor(width, height) {
    this.width = width;
    this.height = height;
    this.area = draw('path', { class: 'area' });
    this.line = draw('path', { class: 'line' });
    this.end = draw('path', { class: 'end' });
    this.element = draw('svg', { viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: 'none', role: 'img' });
    this.element.append(this.area, this.line, this.end);
  }

  /** Draws a story up to `top` bytes. */
  show(story, top) {
    mark(this.element, 'aria-label', `Size over time: ${story.sentence}`);
    if (story.steps.length === 0) return;
    const from = story.from;
    const long = Math.max(1, now() - from);
    const x = (at) => this.round(Math.min(1, Math.max(0, (at - from) / long)) * (this.width - 4));
    // Half a line's width is left at both ends.
    const y = (bytes) => this.round(this.height - 2 - (bytes / top) * (this.height - 4));
    let path = `M0 ${y(story.steps[0][1])}`;
    for (const [at, to] of story.steps.slice(1)) path += `H${x(at)}V${y(to)}`;
    const [right, last] = [this.width - 4, y(story.steps.at(-1)[1])];
    path += `H${right}`;
    mark(this.line, 'd', path);
    mark(this.area, 'd', `${path}V${this.height}H0Z`);
    // A point has no length, but its round ends do.
    mark(this.end, 'd', `M${right} ${last}h0`);
  }

  round(value) {
    return Math.round(value * 10) / 10;
  }
}

/** A plot with its scales. */
export class Plot {
  constructor() {
    this.line = new Line(600, 160);
    this.most = make('span');
    this.half = make('span');
    this.from = make('span');
    this.element = make('div', { class: 'plot' },
      make('div', { class: 'sizes', 'aria-hidden': 'true' }, this.most, this.half, make('span', { text: '0' })),
      this.line.element,
      make('div', { class: 'times', 'aria-hidden': 'true' }, this.from, make('span', { text: 'now' })));
  }

  show(story) {
    const top = round(story.largest * 1.1);
    say(this.most, size(top));
    say(this.half, size(top / 2));
    say(this.from, ago(now() - story.from));
    this.from.title = moment(story.from);
    this.line.show(story, top);
  }
}

/** The next larger size that is easy to read off a scale, and whose half is, too. */
function round(bytes) {
  const unit = 1024 ** Math.floor(Math.log2(bytes) / 10);
  const steps = [1, 2, 3, 4, 6, 8, 10, 12, 16, 20, 24, 32, 40, 48, 64, 80, 100, 128, 160, 200, 256, 320, 400, 512, 640, 800];
  return (steps.find((step) => step * unit >= bytes) ?? 1024) * unit;
}

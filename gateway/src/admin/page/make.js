// Elements: made of data by text alone, and kept. What is on the page stays the same element while its thing stays, so
// that focus, selection and an open detail survive that the rest changes.
'use strict';

import { now } from './ask.js';
import { ago, date, moment } from './words.js';

const SVG = 'http://www.w3.org/2000/svg';

/** An element with attributes (`text` is what it says) and what is in it. */
export function make(name, attributes = {}, ...inside) {
  return dress(document.createElement(name), attributes, inside);
}

/** The same, of a picture. */
export function draw(name, attributes = {}, ...inside) {
  return dress(document.createElementNS(SVG, name), attributes, inside);
}

function dress(element, attributes, inside) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name === 'text') element.textContent = value;
    else if (value !== undefined) element.setAttribute(name, value);
  }
  element.append(...inside);
  return element;
}

/** A cell of a table. `label` heads it where the table is too narrow for its head. */
export function cell(label, attributes, ...inside) {
  return make('td', { role: 'cell', 'data-label': label, ...attributes }, ...inside);
}

/** Lets an element say something; touches nothing if it says so already. */
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Sets an attribute, or with undefined takes it away; touches nothing if it is so already. */
export function mark(element, name, value) {
  if (value === undefined) element.removeAttribute(name);
  else if (element.getAttribute(name) !== String(value)) element.setAttribute(name, value);
}

/** Where an element is, between 0 and 1 of what it is in. By script: the policy forbids the attribute. */
export function place(element, property, share) {
  const value = `${(100 * Math.min(1, Math.max(0, share))).toFixed(3)}%`;
  if (element.style.getPropertyValue(property) !== value) element.style.setProperty(property, value);
}

/**
 * Lets `parent` (of a table: what is below its head) hold one element for each of `things`, in their order. `begin` makes
 * an object with the `element`, and whatever else it wants to keep, once per key; `show` brings it up to date.
 */
export function keep(parent, things, key, begin, show) {
  const had = parent.kept ?? new Map();
  const kept = new Map(things.map((thing) => [key(thing), thing]));
  for (const [name, row] of had) {
    // Before the others are put in order: an element that is moved loses the focus.
    if (!kept.has(name)) row.element.remove();
  }
  let next = parent.tHead ? parent.tHead.nextElementSibling : parent.firstElementChild;
  for (const [name, thing] of kept) {
    const row = had.get(name) ?? begin(thing);
    show(row, thing);
    kept.set(name, row);
    if (row.element === next) next = next.nextElementSibling;
    else parent.insertBefore(row.element, next);
  }
  parent.kept = kept;
}

/** In place of nothing at all: a sentence and perhaps what to type. Without words there is something. */
export function empty(element, words, command = '') {
  element.hidden = words === undefined;
  if (words === undefined || element.said === words + command) return;
  element.said = words + command;
  element.replaceChildren(make('p', { text: words }));
  if (command) element.append(make('pre', { tabindex: 0 }, make('code', { text: command })));
}

/** A moment: how long ago it was, kept true by `tick`, and exactly when for who points at it. */
export function since(at) {
  const element = make('time', { datetime: date(at).toISOString(), title: moment(at) });
  element.at = at;
  say(element, ago(now() - at));
  return element;
}

/** Lets all moments in `within` say how long ago they are. */
export function tick(within) {
  for (const element of within.querySelectorAll('time')) say(element, ago(now() - element.at));
}

// How sizes, moments and counts are said. Sizes are as the command line has them: short, rounded down, so that what is
// left is never more than is shown.
'use strict';

/** The largest number below 2^64 that this language has. */
const MOST = 2 ** 64 - 2048;
const UNITS = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB', 'EiB'];

/** A size in its largest unit, with a digit after the point where that says more: `1.5 GiB`. */
export function size(bytes) {
  // A sum of the gateway's ends there.
  if (bytes >= MOST) return '≥ 16 EiB';
  let unit = 0;
  let value = bytes;
  while (value >= 1024 && unit < UNITS.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${Math.floor(value * 10) / 10} ${UNITS[unit]}`;
}

/** The same with every byte, where a number of this language has them all. */
export function exactly(bytes) {
  return Number.isSafeInteger(bytes) ? count(bytes, 'byte') : size(bytes);
}

/** What a size changed by, with its sign. */
export function change(from, to) {
  return to < from ? `−${size(from - to)}` : `+${size(to - from)}`;
}

/** A part of a whole in percent, rounded down: never 100 while something is left, never 0 while something is used. */
export function percent(part, whole) {
  if (part === 0) return '0 %';
  const share = Math.floor(100 * part / whole);
  if (share < 1) return '< 1 %';
  return share > 999 ? '> 999 %' : `${share} %`;
}

/** So many of something. */
export function count(number, one, many = `${one}s`) {
  return `${number.toLocaleString('en')} ${number === 1 ? one : many}`;
}

/** How long ago, roughly. */
export function ago(millis) {
  const seconds = Math.floor(millis / 1000);
  if (seconds < 2) return 'just now';
  return `${span(millis)} ago`;
}

/** A length of time in its largest unit. */
export function span(millis) {
  const seconds = Math.max(0, Math.floor(millis / 1000));
  if (seconds < 60) return `${seconds} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 2 * 86400) return `${Math.floor(seconds / 3600)} h`;
  return count(Math.floor(seconds / 86400), 'day');
}

/** A moment as a date, or the last date that a browser knows. */
export function date(millis) {
  return new Date(Math.min(millis, 8.64e15));
}

/** A moment to the second, in the time of whoever looks. */
export function moment(millis) {
  return date(millis).toLocaleString('sv', { timeZoneName: 'short' });
}

/** A name that others chose, without what would reverse or hide the text around it. */
export function plain(name) {
  if (name === '') return '(no name)';
  // Blanks at an end, or nothing else, are seen between quotes.
  if (name.trim() !== name) return `"${visible(name)}"`;
  return visible(name);
}

function visible(name) {
  return name.replace(/[\u0000-\u001f\u007f-\u009f\u00ad\u061c\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e\u2060-\u206f\u2800\u3164\uffa0\ufeff\ufff9-\ufffb\u{e0000}-\u{e0fff}]/gu, '\ufffd');
}

// How sizes, moments and counts are said. Sizes are as the command line has them: short, rounded down, so that what is
// left is never more than is shown.
'use strict';

const UNITS = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB', 'EiB'];

/** A size in its largest unit, with a digit after the point where that says more: `1.5 GiB`. */
export function size(bytes) {
  let unit = 0;
  let value = bytes;
  while (value >= 1024 && unit < UNITS.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${Math.floor(value * 10) / 10} ${UNITS[unit]}`;
}

/** The same with every byte, for who wants to know exactly. */
export function exactly(bytes) {
  return `${bytes.toLocaleString('en')} bytes`;
}

/** A sentence in which long numbers of bytes are said in the largest unit that divides them, so that nothing is lost. */
export function spoken(sentence) {
  return sentence.replace(/\b(\d{5,}) bytes\b/g, (said, digits) => {
    let unit = 0;
    let value = BigInt(digits);
    while (value % 1024n === 0n && value > 0n && unit < UNITS.length - 1) {
      value /= 1024n;
      unit += 1;
    }
    return unit > 0 ? `${value} ${UNITS[unit]}` : said;
  });
}

/** What a size changed by, with its sign. */
export function change(from, to) {
  return to < from ? `−${size(from - to)}` : `+${size(to - from)}`;
}

/** A part of a whole, in percent, rounded down; never 100 while something is left. */
export function percent(part, whole) {
  return whole > 0 ? Math.floor(100 * part / whole) : 100;
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

/** A moment to the second, in the time of whoever looks. */
export function moment(millis) {
  return new Date(millis).toLocaleString('sv', { timeZoneName: 'short' });
}

/** A name that others chose, without what would reverse or hide the text around it. */
export function plain(name) {
  if (name === '') return '(no name)';
  return name.replace(/[\u0000-\u001f\u007f-\u009f\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\u{e0000}-\u{e0fff}]/gu, '\ufffd');
}

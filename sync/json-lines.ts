// Where things stand in JSON text, to be looked for only when something is wrong. `JSON.parse` does
// not tell and is fast; a parser that tells is slow, so it gets one item of a list at a time.

import { LineCounter, isNode, parseDocument } from 'yaml';
import type { Document } from 'yaml';

type Path = readonly (string | number)[];

/** An item of the top-level list `items`: where its text begins and ends. */
interface Span {
  start: number;
  end: number;
}

export class JsonLines {
  readonly #text: string;
  #items: Span[] | null = null;
  #breaks: number[] | null = null;

  constructor(text: string) {
    this.#text = text;
  }

  /** The line of a field, or of what should hold it where it is missing. */
  lineOf(path: Path): number {
    if (path.length === 0) return this.#lineAt(this.#text.search(/\S/));
    const [list, index, ...rest] = path;
    this.#items ??= findItems(this.#text);
    const span = list === 'items' && typeof index === 'number' ? this.#items[index] : undefined;
    if (span === undefined) return lineIn(this.#text, path);
    const above = this.#lineAt(span.start);
    return rest.length === 0 ? above
      : above + lineIn(this.#text.slice(span.start, span.end), rest) - 1;
  }

  #lineAt(offset: number): number {
    this.#breaks ??= findBreaks(this.#text);
    let low = 0;
    let high = this.#breaks.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if ((this.#breaks[middle] ?? 0) < offset) low = middle + 1;
      else high = middle;
    }
    return low + 1;
  }
}

/** The line of a field in a document, or of what should hold it where it is missing. */
export function documentLine(document: Document, lines: LineCounter, path: Path): number {
  for (let length = path.length; length >= 0; length -= 1) {
    const node: unknown = length === 0
      ? document.contents
      : document.getIn(path.slice(0, length), true);
    if (isNode(node) && node.range) return lines.linePos(node.range[0]).line;
  }
  return 1;
}

function lineIn(text: string, path: Path): number {
  const lines = new LineCounter();
  return documentLine(parseDocument(text, { lineCounter: lines }), lines, path);
}

function findBreaks(text: string): number[] {
  const breaks: number[] = [];
  for (let at = text.indexOf('\n'); at >= 0; at = text.indexOf('\n', at + 1)) breaks.push(at);
  return breaks;
}

/** Brackets, commas between things, and whole strings. */
const MARKS = /[[\]{},]|"(?:[^"\\]|\\.)*"(\s*:\s*\[)?/g;

/** The items of the list `items` of the outermost object. Precondition: the text is JSON. */
function findItems(text: string): Span[] {
  const spans: Span[] = [];
  let depth = 0;
  let start = -1;
  const end = (at: number): void => {
    const first = start + text.slice(start, at).search(/\S/);
    if (first >= start) spans.push({ start: first, end: at });
  };
  for (const { 0: mark, 1: opens, index } of text.matchAll(MARKS)) {
    const after = index + mark.length;
    if (mark.startsWith('"')) {
      if (opens === undefined) continue;
      depth += 1;
      if (depth === 2 && start < 0 && /^"items"/.test(mark)) start = after;
    } else if (mark === '{' || mark === '[') depth += 1;
    else if (mark === ',') {
      if (start >= 0 && depth === 2) {
        end(index);
        start = after;
      }
    } else {
      if (start >= 0 && depth === 2) {
        end(index);
        return spans;
      }
      depth -= 1;
    }
  }
  return spans;
}

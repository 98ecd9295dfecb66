// The text of a file with Kubernetes objects: YAML or JSON (which is YAML), any number of
// documents, lists of objects. Keeps of each object what `objects.ts` keeps, and says where
// something is wrong.

import { LineCounter, isNode, parseAllDocuments } from 'yaml';
import type { Document, YAMLParseError } from 'yaml';
import { project } from './objects.ts';
import type { Entry, Locate } from './objects.ts';

/** Aliases that one document may expand to. */
const ALIAS_LIMIT = 1000;

export interface FileContent {
  entries: Entry[];
  problems: string[];
}

/** Reads the objects of one file; `file` is how messages name it. */
export function readObjects(file: string, text: string): FileContent {
  const content: FileContent = { entries: [], problems: [] };
  const lines = new LineCounter();
  try {
    for (const document of parseAllDocuments(text, { lineCounter: lines })) {
      readDocument(file, document, lines, content);
    }
  } catch (error) {
    content.problems.push(`${file}: ${error instanceof Error ? error.message : String(error)}`);
  }
  return content;
}

function readDocument(
  file: string, document: Document.Parsed, lines: LineCounter, content: FileContent,
): void {
  const [error] = document.errors;
  if (error !== undefined) {
    content.problems.push(`${file}:${error.linePos?.[0].line ?? 1}: ${parseReason(error)}`);
    return;
  }
  const value: unknown = document.toJS({ maxAliasCount: ALIAS_LIMIT });
  if (value === null || value === undefined) return;
  const locate: Locate = (path) => `${file}:${lineOf(document, lines, path)}`;
  readValue(value, locate, content);
}

/** An object, or a list of them; items of a typed list (`NodeList`) need not name their kind. */
function readValue(value: unknown, locate: Locate, content: FileContent): void {
  const list = asList(value);
  if (list === null) {
    const { entry, problems } = project(value, locate);
    if (entry !== null) content.entries.push(entry);
    content.problems.push(...problems);
    return;
  }
  list.items.forEach((item, index) => {
    const typed = typeof item === 'object' && item !== null ? { ...list.type, ...item } : item;
    readValue(typed, (path) => locate(['items', index, ...path]), content);
  });
}

interface ObjectList {
  items: readonly unknown[];
  /** What items that do not say otherwise are. */
  type: { apiVersion?: string; kind?: string };
}

function asList(value: unknown): ObjectList | null {
  if (typeof value !== 'object' || value === null) return null;
  const { kind, items, apiVersion } = value as Record<string, unknown>;
  if (typeof kind !== 'string' || !kind.endsWith('List') || !Array.isArray(items)) return null;
  if (kind === 'List' || typeof apiVersion !== 'string') return { items, type: {} };
  return { items, type: { apiVersion, kind: kind.slice(0, -'List'.length) } };
}

/** The line of a field, or of what should hold it where it is missing. */
function lineOf(
  document: Document.Parsed, lines: LineCounter, path: readonly (string | number)[],
): number {
  for (let length = path.length; length >= 0; length -= 1) {
    const node: unknown = length === 0
      ? document.contents
      : document.getIn(path.slice(0, length), true);
    if (isNode(node) && node.range) return lines.linePos(node.range[0]).line;
  }
  return 1;
}

/** The first line of the parser's message, without the excerpt it draws below. */
function parseReason(error: YAMLParseError): string {
  return (error.message.split('\n')[0] ?? '').replace(/ at line \d+, column \d+:?$/, '');
}

// The text of a file with Kubernetes objects: YAML or JSON (which is YAML), any number of
// documents, lists of objects. Keeps of each object what `objects.ts` keeps, and says where
// something is wrong.

import { LineCounter, parseAllDocuments } from 'yaml';
import type { Document, YAMLParseError } from 'yaml';
import { JsonLines, documentLine } from './json-lines.ts';
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
  const value = parseJson(text);
  if (value !== undefined) {
    const json = new JsonLines(text);
    readValue(value, (path) => `${file}:${json.lineOf(path)}`, content);
    return content;
  }
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

/** What the text says where it is one JSON document, which is read many times as fast as YAML. */
function parseJson(text: string): unknown {
  if (!/^\s*\{/.test(text)) return undefined;
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
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
  const locate: Locate = (path) => `${file}:${documentLine(document, lines, path)}`;
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

/** The first line of the parser's message, without the excerpt it draws below. */
function parseReason(error: YAMLParseError): string {
  return (error.message.split('\n')[0] ?? '').replace(/ at line \d+, column \d+:?$/, '');
}

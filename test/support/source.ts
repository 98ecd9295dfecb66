// Source files as text and as tokens, for the tests that hold the tree to its own rules. The lexer
// knows as much of TypeScript and AssemblyScript as those rules need.

import { readFileSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

export const ROOT = fileURLToPath(new URL('../../..', import.meta.url));

/** A file of the tree: its path from the root, with slashes, and its text. */
export interface SourceFile {
  path: string;
  text: string;
}

export interface Token {
  kind: 'name' | 'number' | 'string' | 'template' | 'regex' | 'mark';
  text: string;
  line: number;
}

/** Folders that hold nothing written by hand. */
const SKIPPED = new Set(['node_modules', 'dist', '.git', '.tools']);
const TEXT_ENDINGS = new Set([
  'ts', 'mjs', 'js', 'json', 'md', 'yaml', 'yml', 'c', 'h', 'txt', 'wit', 'sh', 'conf', 'conflist',
  'service', 'svg', 'rs', 'toml', 'run', 'LICENSE', 'npmrc', 'gitignore',
]);
const NUMBER = /^(0x[\da-f_]+|0b[01_]+|\d[\d_]*(\.\d+)?(e[+-]?\d+)?)n?/i;
/** Longest first, so that the first match is the whole operator. */
const MARKS = [
  '>>>=', '...', '===', '!==', '**=', '<<=', '>>=', '>>>', '&&=', '||=', '??=', '=>', '==', '!=',
  '<=', '>=', '&&', '||', '??', '?.', '++', '--', '+=', '-=', '*=', '/=', '%=', '&=', '|=', '^=',
  '<<', '>>', '**',
];
/** After these words and marks a slash begins a regular expression, and `-` a negation. */
const BEFORE_OPERAND = new Set([
  'return', 'typeof', 'case', 'in', 'of', 'delete', 'void', 'throw', 'new', 'else', 'do', 'yield',
  'await', 'instanceof', 'export', 'default',
]);

/** Every text file of the tree, sorted by path. */
export function readTree(): SourceFile[] {
  const files: SourceFile[] = [];
  const walk = (folder: string): void => {
    for (const entry of readdirSync(join(ROOT, folder), { withFileTypes: true })) {
      const path = folder === '' ? entry.name : `${folder}/${entry.name}`;
      if (entry.isDirectory() && !SKIPPED.has(entry.name)) walk(path);
      if (entry.isFile() && TEXT_ENDINGS.has(entry.name.split('.').at(-1) ?? '')) {
        files.push({ path, text: readFileSync(join(ROOT, path), 'utf8') });
      }
    }
  };
  walk('');
  return files.sort((a, b) => (a.path < b.path ? -1 : 1));
}

/** True if a token can end an operand, so that an operator may follow it. */
export function endsOperand(token: Token | undefined): boolean {
  if (token === undefined) return false;
  if (token.kind === 'mark') return [')', ']', '}', '++', '--'].includes(token.text);
  return token.kind !== 'name' || !BEFORE_OPERAND.has(token.text);
}

/** The index after a quoted string that starts at `start`. */
function endOfString(text: string, start: number): number {
  const quote = text[start];
  let at = start + 1;
  while (at < text.length && text[at] !== quote) at += text[at] === '\\' ? 2 : 1;
  return at + 1;
}

/** The index after a template literal, nested substitutions included. */
function endOfTemplate(text: string, start: number): number {
  let at = start + 1;
  let depth = 0;
  while (at < text.length) {
    const char = text[at];
    if (char === '\\') at += 2;
    else if (depth === 0 && char === '`') return at + 1;
    else if (depth > 0 && char === '`') at = endOfTemplate(text, at);
    else if (depth > 0 && (char === "'" || char === '"')) at = endOfString(text, at);
    else {
      if (text.startsWith('${', at) || (depth > 0 && char === '{')) depth += 1;
      if (depth > 0 && char === '}') depth -= 1;
      at += text.startsWith('${', at) ? 2 : 1;
    }
  }
  return at;
}

/** The index after a regular expression, flags included. */
function endOfRegex(text: string, start: number): number {
  let at = start + 1;
  let inClass = false;
  while (at < text.length && (inClass || text[at] !== '/')) {
    if (text[at] === '\\') at += 1;
    else if (text[at] === '[') inClass = true;
    else if (text[at] === ']') inClass = false;
    at += 1;
  }
  at += 1;
  while (/[a-z]/.test(text[at] ?? '')) at += 1;
  return at;
}

/** Kind and end of the token at `at`. */
function scan(text: string, at: number, before: Token | undefined): [Token['kind'], number] {
  const char = text[at] ?? '';
  if (char === "'" || char === '"') return ['string', endOfString(text, at)];
  if (char === '`') return ['template', endOfTemplate(text, at)];
  if (char === '/' && !endsOperand(before)) return ['regex', endOfRegex(text, at)];
  const word = /^[\p{L}_$#][\p{L}\p{N}_$]*/u.exec(text.slice(at, at + 200));
  if (word !== null) return ['name', at + word[0].length];
  const number = NUMBER.exec(text.slice(at, at + 80));
  if (number !== null) return ['number', at + number[0].length];
  const mark = MARKS.find((candidate) => text.startsWith(candidate, at)) ?? char;
  return ['mark', at + mark.length];
}

/** The tokens of a program, without comments. */
export function tokenize(text: string): Token[] {
  const tokens: Token[] = [];
  let at = 0;
  let line = 1;
  const advance = (end: number): string => {
    const passed = text.slice(at, end);
    line += passed.split('\n').length - 1;
    at = end;
    return passed;
  };
  while (at < text.length) {
    if (/\s/.test(text[at] ?? '')) advance(at + 1);
    else if (text.startsWith('//', at) || (at === 0 && text.startsWith('#!'))) {
      const end = text.indexOf('\n', at);
      advance(end < 0 ? text.length : end);
    } else if (text.startsWith('/*', at)) {
      const end = text.indexOf('*/', at + 2);
      advance(end < 0 ? text.length : end + 2);
    } else {
      const [kind, end] = scan(text, at, tokens.at(-1));
      const start = line;
      tokens.push({ kind, text: advance(end), line: start });
    }
  }
  return tokens;
}

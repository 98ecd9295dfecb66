// Checks the packet's walk of docs/ARCHITECTURE.md against the code. A walk is a numbered list; its
// steps name files and functions in the order in which a packet meets them:
//
//   1. `host/loop.ts` `turn()` reads a batch and gives it to the core.
//
// A function belongs to the file named before it in the same step.

import { posix } from 'node:path';
import { type SourceFile, type Token, tokenize } from './source.ts';

export const HEADING = "A packet's walk";

/** One thing a step names. */
interface Mention {
  step: number;
  path: string;
  /** Null where only the file is named. */
  name: string | null;
}

/** The core is loaded, not imported. */
const LOADED: Record<string, string> = { 'engine/core.ts': 'wasm/index.ts' };
const PATH = /^[\w.-]+(\/[\w.-]+)+\.[a-z]+$/;
const CALL = /^#?(\w+)\(\)$/;

/** The walks under the heading: the mentions of each numbered list, in order. */
export function readWalks(markdown: string): { walks: Mention[][]; faults: string[] } {
  const walks: Mention[][] = [];
  const faults: string[] = [];
  for (const { step, text } of readSteps(markdown)) {
    if (step === 1) walks.push([]);
    const walk = walks.at(-1);
    if (walk === undefined || step !== (walk.at(-1)?.step ?? 0) + 1) {
      faults.push(`step ${step} does not follow the one before it, or that one names nothing`);
    }
    let path: string | null = null;
    for (const [, quoted = ''] of text.matchAll(/`([^`]+)`/g)) {
      const name = CALL.exec(quoted)?.[1] ?? null;
      if (PATH.test(quoted)) path = quoted;
      else if (name === null) continue;
      if (path === null) faults.push(`step ${step}: no file stands before ${quoted}`);
      else walk?.push({ step, path, name });
    }
  }
  return { walks, faults };
}

/** The numbered items under the heading, each with the lines that belong to it. */
function readSteps(markdown: string): { step: number; text: string }[] {
  const steps: { step: number; text: string }[] = [];
  let level = 0;
  for (const line of markdown.split('\n')) {
    const heading = /^(#+) (.*)$/.exec(line);
    if (heading !== null) {
      const depth = heading[1]?.length ?? 0;
      if (level === 0 && heading[2]?.trim() === HEADING) level = depth;
      else if (level > 0 && depth <= level) return steps;
    } else if (level > 0) {
      const item = /^(\d+)\. (.*)$/.exec(line);
      const last = steps.at(-1);
      if (item !== null) steps.push({ step: Number(item[1]), text: item[2] ?? '' });
      else if (last !== undefined && /^ +\S/.test(line)) last.text += `\n${line}`;
    }
  }
  return steps;
}

/** True if a file defines a function, a method, or a member of an interface of this name. */
function defines(text: string, name: string): boolean {
  const before = `(?:function |^ +(?:(?:async|static|private|readonly|export) )*#?)`;
  return new RegExp(`${before}${name}(?:<[^()]*>)?\\([^;{}]*\\)\\s*[:{]`, 'm').test(text);
}

/** The files that a file imports, as paths of the tree. */
function importsOf(path: string, text: string): string[] {
  const tokens = tokenize(text);
  const found = LOADED[path] === undefined ? [] : [LOADED[path]];
  for (const [index, token] of tokens.entries()) {
    if (token.kind !== 'string' || tokens[index - 1]?.text !== 'from') continue;
    const target = posix.join(posix.dirname(path), token.text.slice(1, -1));
    found.push(target.endsWith('.ts') ? target : `${target}.ts`);
  }
  return found;
}

/** The function bodies of a program: the outermost blocks, and those of a class's methods. */
function bodiesOf(text: string): Token[][] {
  const bodies: Token[][] = [];
  const open: Token[][] = [];
  let classes = 0;
  let head: string[] = [];
  for (const token of tokenize(text)) {
    const mark = token.kind === 'mark' ? token.text : '';
    if (mark === '}') {
      const body = open.pop();
      if (body !== undefined && open.length === 0) bodies.push(body);
      if (body === undefined) classes -= 1;
    }
    for (const body of open) body.push(token);
    head.push(token.text);
    if (mark === '{') {
      if (open.length === 0 && head.includes('class')) classes += 1;
      else open.push([]);
    }
    if (mark === '{' || mark === '}' || mark === ';') head = [];
  }
  return classes === 0 ? bodies : [];
}

/** Where a body first calls a function, or -1: where the arguments end, since calls among them come
 * before. */
function firstCall(body: Token[], name: string): number {
  const start = body.findIndex((token, index) => token.kind === 'name'
    && (token.text === name || token.text === `#${name}`) && body[index + 1]?.text === '(');
  let depth = 0;
  for (let at = start + 1; start >= 0 && at < body.length; at += 1) {
    if (body[at]?.text === '(') depth += 1;
    if (body[at]?.text === ')') depth -= 1;
    if (depth === 0) return at;
  }
  return start;
}

/** True unless some function calls both and calls the second first. */
function inOrder(bodies: Token[][], first: string, second: string): boolean {
  const both = bodies
    .map((body) => [firstCall(body, first), firstCall(body, second)] as const)
    .filter(([one, other]) => one >= 0 && other >= 0);
  return both.length === 0 || both.some(([one, other]) => one < other);
}

/** Faults of one walk: files and functions that are not there, and steps out of order. */
function checkWalk(walk: Mention[], texts: Map<string, string>): string[] {
  const faults: string[] = [];
  const reached = new Set<string>();
  for (const [index, { step, path, name }] of walk.entries()) {
    const text = texts.get(path);
    if (text === undefined) {
      faults.push(`step ${step}: ${path} does not exist`);
      continue;
    }
    if (index > 0 && !reached.has(path)) {
      faults.push(`step ${step}: no file named before imports ${path}`);
    }
    for (const target of [path, ...importsOf(path, text)]) reached.add(target);
    if (name === null || defines(text, name)) continue;
    faults.push(`step ${step}: ${path} does not define ${name}()`);
  }
  return [...faults, ...checkOrder(walk, texts)];
}

/** Calls that the code makes in another order than the walk tells. */
function checkOrder(walk: Mention[], texts: Map<string, string>): string[] {
  const paths = new Set(walk.map(({ path }) => path));
  const bodies = [...paths].flatMap((path) => bodiesOf(texts.get(path) ?? ''));
  const calls = walk.filter((mention) => mention.name !== null);
  const faults: string[] = [];
  for (const [index, { step, name }] of calls.entries()) {
    const before = calls[index - 1]?.name;
    if (!before || name === null || before === name || inOrder(bodies, before, name)) continue;
    faults.push(`step ${step}: the code calls ${name}() before ${before}()`);
  }
  return faults;
}

/** What is wrong with the walks of a document. At least `count` walks are expected. */
export function checkWalks(markdown: string, files: SourceFile[], count: number): string[] {
  const { walks, faults } = readWalks(markdown);
  const texts = new Map(files.map(({ path, text }) => [path, text]));
  if (walks.length < count) {
    faults.push(`${walks.length} numbered lists under "${HEADING}"; ${count} are expected`);
  }
  return [...faults, ...walks.flatMap((walk) => checkWalk(walk, texts))];
}

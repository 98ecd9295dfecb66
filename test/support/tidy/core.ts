// What AssemblyScript allows and the core does not. Several instances of the core share one memory,
// and a new one runs its data segments again and starts with fresh globals: so the core has neither
// static data nor globals that change. It has no heap either.

import { type SourceFile, type Token, endsOperand, tokenize } from '../source.ts';

/** Words that need a heap, exceptions or static data, and what to do instead. */
const BANNED: Record<string, string> = {
  new: 'the core has no heap; use records in linear memory',
  try: 'the core has no exceptions; return a verdict',
  catch: 'the core has no exceptions; return a verdict',
  finally: 'the core has no exceptions; return a verdict',
  throw: 'the core has no exceptions; return a verdict',
  heap: 'the core has no heap; use records in linear memory',
  __new: 'the core has no heap; use records in linear memory',
  __alloc: 'the core has no heap; use records in linear memory',
  StaticArray: 'an array is static data; use a table in linear memory',
  Array: 'an array is static data; use a table in linear memory',
  String: 'a string is static data; use a number of wasm/abi',
  Map: 'the core has no heap; use a table in linear memory',
  Set: 'the core has no heap; use a table in linear memory',
  static: 'a static field is a global; use linear memory',
};
/** Calls that the compiler makes. */
const COMPILE_TIME = new Set(['ERROR', 'offsetof', 'external', 'nameof']);
const ARITHMETIC = new Set(['+', '-', '*', '/', '%']);
const BITS = new Set(['&', '|', '^', '<<', '>>', '>>>']);
const LOGIC = new Set(['&', '|', '^']);
const COMPARISONS = new Set(['==', '!=', '===', '!==', '<', '>', '<=', '>=']);
/** Operators that bind less than any of those above, and separators. */
const LOOSER = new Set([',', ';', '?', ':', '&&', '||', '=>', '=', '+=', '-=', '*=', '/=', '%=',
  '&=', '|=', '^=', '<<=', '>>=', '>>>=', 'return']);

/** True if the token at `index` lies in the parentheses of a call to one of `names`. */
function isArgumentOf(tokens: Token[], index: number, names: Set<string>): boolean {
  let depth = 0;
  for (let at = index - 1; at >= 0; at -= 1) {
    const text = tokens[at]?.kind === 'mark' ? tokens[at]?.text : '';
    if (text === ')') depth += 1;
    if (text !== '(') continue;
    if (depth > 0) depth -= 1;
    else {
      const isGeneric = tokens[at - 1]?.text === '>';
      const name = isGeneric ? startOfGeneric(tokens, at - 1) - 1 : at - 1;
      return names.has(tokens[name]?.text ?? '');
    }
  }
  return false;
}

/** The index of the `<` that matches the `>` at `close`. */
function startOfGeneric(tokens: Token[], close: number): number {
  let depth = 0;
  for (let at = close; at >= 0; at -= 1) {
    const text = tokens[at]?.text;
    if (text === '>') depth += 1;
    if (text === '<') depth -= 1;
    if (depth === 0) return at;
  }
  return close;
}

/** Strings may name things to the compiler, nothing else. */
function refuseString(tokens: Token[], index: number): string | null {
  const before = tokens[index - 1]?.text;
  if (before === 'from' || before === 'import') return null;
  if (isArgumentOf(tokens, index, COMPILE_TIME)) return null;
  return 'a string is static data; use a number of wasm/abi';
}

/** Why the token at `index` does not belong in the core, or null. */
function refuseToken(tokens: Token[], index: number, depth: number): string | null {
  const token = tokens[index];
  const before = tokens[index - 1];
  const after = tokens[index + 1]?.text;
  if (token === undefined) return null;
  if (token.kind === 'string') return refuseString(tokens, index);
  if (token.kind === 'template') return 'a string is static data; use a number of wasm/abi';
  if (token.kind === 'regex') return 'the core has no regular expressions';
  if (token.text === '[' && (!endsOperand(before) || after === ']' || before?.text === '}')) {
    return 'an array is static data; use a table in linear memory';
  }
  if (token.kind !== 'name') return null;
  if (before?.text === '.') {
    const isMemory = tokens[index - 2]?.text === 'memory';
    return isMemory && (token.text === 'data' || token.text === 'grow')
      ? `memory.${token.text} changes what the host laid out` : null;
  }
  if (depth === 0 && (token.text === 'let' || token.text === 'var')) {
    return 'a global that changes; keep state in linear memory';
  }
  if (token.text === 'class' && tokens[index - 1]?.text !== 'unmanaged'
    && tokens[index - 2]?.text !== 'unmanaged') return 'only @unmanaged classes';
  return BANNED[token.text] ?? null;
}

/** Static data, changing globals, heap and exceptions in the core's sources. */
export function checkCoreSource(files: SourceFile[]): string[] {
  const faults: string[] = [];
  for (const file of files.filter(({ path }) => path.startsWith('wasm/'))) {
    const tokens = tokenize(file.text);
    let depth = 0;
    for (const [index, token] of tokens.entries()) {
      if (token.kind === 'mark' && '{(['.includes(token.text)) depth += 1;
      if (token.kind === 'mark' && '})]'.includes(token.text)) depth -= 1;
      const reason = refuseToken(tokens, index, depth);
      if (reason !== null) faults.push(`${file.path}:${token.line}: ${token.text}: ${reason}`);
    }
  }
  return faults;
}

/** The tokens without type arguments and casts, whose brackets look like comparisons. */
function withoutGenerics(tokens: Token[]): Token[] {
  const kept: Token[] = [];
  for (let index = 0; index < tokens.length; index += 1) {
    const token = tokens[index];
    if (token === undefined) continue;
    const end = token.text === '<' ? endOfGeneric(tokens, index) : -1;
    if (end < 0) kept.push(token);
    else index = end;
  }
  return kept;
}

/** The index of the `>` of type arguments or a cast that start at `open`, or -1. */
function endOfGeneric(tokens: Token[], open: number): number {
  let at = open + 1;
  while (tokens[at]?.kind === 'name' || [',', '.'].includes(tokens[at]?.text ?? '')) at += 1;
  if (at === open + 1 || tokens[at]?.text !== '>') return -1;
  const isCast = !endsOperand(tokens[open - 1]);
  return isCast || tokens[at + 1]?.text === '(' ? at : -1;
}

/** What has been seen of one expression, between two separators. */
interface Expression {
  arithmetic: boolean;
  bits: boolean;
  logic: boolean;
  comparison: boolean;
}

const FRESH: Expression = { arithmetic: false, bits: false, logic: false, comparison: false };

/** Adds an operator to an expression. Returns the fault when it does not go with the others. */
function addOperator(seen: Expression, operator: string): string | null {
  if (ARITHMETIC.has(operator)) seen.arithmetic = true;
  if (BITS.has(operator)) seen.bits = true;
  if (LOGIC.has(operator)) seen.logic = true;
  if (COMPARISONS.has(operator)) {
    seen.comparison = true;
    seen.arithmetic = false;
    seen.bits = false;
  }
  if (seen.logic && seen.comparison) return 'a bit operator and a comparison';
  return seen.arithmetic && seen.bits ? 'bit and arithmetic operators' : null;
}

/** Bit operators next to arithmetic or comparison without parentheses. */
export function checkOperators(files: SourceFile[]): string[] {
  const faults: string[] = [];
  for (const file of files.filter(({ path }) => path.startsWith('wasm/'))) {
    const tokens = withoutGenerics(tokenize(file.text));
    const stack: Expression[] = [{ ...FRESH }];
    for (const [index, token] of tokens.entries()) {
      if (token.kind === 'mark' && '({['.includes(token.text)) stack.push({ ...FRESH });
      else if (token.kind === 'mark' && ')}]'.includes(token.text)) {
        stack.pop();
        if (token.text === '}') stack[stack.length - 1] = { ...FRESH };
      } else if (LOOSER.has(token.text)) stack[stack.length - 1] = { ...FRESH };
      else if (token.kind === 'mark' && endsOperand(tokens[index - 1])) {
        const seen = stack.at(-1) ?? { ...FRESH };
        const mixed = addOperator(seen, token.text);
        if (mixed === null) continue;
        faults.push(`${file.path}:${token.line}: ${mixed} without parentheses`);
        stack[stack.length - 1] = { ...FRESH };
      }
    }
  }
  return faults;
}

// Words with one meaning, and words that do not belong in the tree at all. Patterns are put
// together from pieces, so that this file passes its own test.

import { type SourceFile, tokenize } from '../source.ts';

/** A banned word: where, and what to say instead. */
interface Word {
  pattern: RegExp;
  instead: string;
  where: RegExp;
}

const CODE = /\.(ts|mjs|c|h)$/;
const PACKET_PATH = /^wasm\/(?!policy\/|abi\/)|^host\/device\/|^ffi\//;

/** Identifiers that the field's words, as the style guide uses them, replace. */
const IDENTIFIERS: Word[] = [
  {
    pattern: /message|buffer/i, where: /^wasm\/(?!.*icmp)/,
    instead: 'say packet (L3), frame (L2) or datagram (UDP); messages are ICMP\'s',
  },
  { pattern: /^original|^external(?!$)/i, where: /^wasm\//, instead: 'say inner or outer' },
  {
    pattern: /ingress|egress/i, where: /^wasm\/(wire|tunnel)\/|^host\/device\/|^ffi\//,
    instead: 'say inbound or outbound; ingress and egress are NetworkPolicy directions',
  },
  {
    pattern: /(vxlan|tunnel)\w*backend|^backend(Type|Kind)/i, where: /^(wasm|engine|host|ffi)\//,
    instead: 'say tunnel; backends are those of Services',
  },
  {
    pattern: /^(rx|tx)[A-Z]\w*(Packet|Batch)/, where: PACKET_PATH,
    instead: 'say inbound or outbound; rx and tx are device counters',
  },
  { pattern: /subnetEntry/i, where: CODE, instead: 'say route' },
  { pattern: /(packet|policy)(Result|Status)$/i, where: CODE, instead: 'say verdict' },
  { pattern: /(any|remote)Node$/, where: /^wasm\//, instead: 'say peer' },
];

/** Text, comments included. */
const PHRASES: Word[] = [
  {
    pattern: /\b(TO[D]O|FIXM[E]|XX[X]|HAC[K])\b(?!\(#\d+\))/, where: CODE,
    instead: 'do it, or give it a number, as in TO' + 'DO(#12)',
  },
  { pattern: /\bsubnet entr(y|ies)\b/i, where: /\.(ts|md)$/, instead: 'say route' },
  {
    pattern: /\.on(?:ly)\(/, where: /^test\/.*\.ts$/,
    instead: 'it keeps the other tests from running',
  },
];

/** A pattern from pieces, matched in any case. */
function pieces(...parts: string[]): RegExp {
  return new RegExp(parts.join(''), 'i');
}

/** What tells of how and where the code was made. It says nothing to a reader. */
const STRANGERS: RegExp[] = [
  pieces('\\b(this|that|previous|earlier|next|another|last|coding|developer|my) ses', 'sion\\b'),
  pieces('\\b(coding|sub|ai|software)[ -]?ag', 'ents?\\b'),
  pieces('\\bla', 'nguage model\\b|\\bL', 'LM\\b|\\bchat', 'gpt\\b'),
  pieces('\\bcla', 'ude\\b|\\banth', 'ropic\\b'),
  pieces('\\bwork', 'place\\b|\\bC', 'EO\\b|\\bhelper ses', 'sion'),
  pieces('\\bissue', ' tracker\\b|\\b(see|this|that|the|in|per|for) iss', 'ue #?\\d+'),
  pieces('(^|[\\s"\'`(=:])/wo', 'rk(/|\\b)'),
  pieces('(^|[\\s"\'`(=:])/ro', 'ot(/|\\b)'),
  pieces('/home/[a-z]', '+/'),
  pieces('regis', 'try\\.npm|deb\\.deb', 'ian\\.org|npm', 'js\\.(org|com)'),
  pieces('pypi\\.o', 'rg|proxy\\.gol', 'ang'),
];

/** Identifiers that the style guide's table of words replaces. */
export function checkIdentifiers(files: SourceFile[]): string[] {
  const faults: string[] = [];
  for (const file of files) {
    const words = IDENTIFIERS.filter(({ where }) => where.test(file.path));
    if (words.length === 0 || !CODE.test(file.path)) continue;
    for (const token of tokenize(file.text)) {
      if (token.kind !== 'name') continue;
      const word = words.find(({ pattern }) => pattern.test(token.text));
      if (word === undefined || PLATFORM_NAMES.has(token.text)) continue;
      faults.push(`${file.path}:${token.line}: ${token.text}; ${word.instead}`);
    }
  }
  return faults;
}

/** Names that Node.js and JavaScript chose. */
const PLATFORM_NAMES = new Set([
  'Buffer', 'ArrayBuffer', 'SharedArrayBuffer', 'buffer', 'message', 'external',
]);

/** The faults that `find` names in each line. */
function checkLines(
  files: SourceFile[], find: (path: string, line: string) => string[],
): string[] {
  return files.flatMap((file) => file.text.split('\n').flatMap((line, index) =>
    find(file.path, line).map((fault) => `${file.path}:${index + 1}: ${fault}`)));
}

/** Phrases with a replacement. */
export function checkPhrases(files: SourceFile[]): string[] {
  return checkLines(files, (path, line) => PHRASES
    .filter(({ where, pattern }) => where.test(path) && pattern.test(line))
    .map(({ pattern, instead }) => `"${pattern.exec(line)?.[0]}" is banned: ${instead}`));
}

/** Talk of how the code came to be, and paths and hosts of the machines it was made on. */
export function checkStrangers(files: SourceFile[]): string[] {
  return checkLines(files, (path, line) => STRANGERS
    .filter((pattern) => path !== 'LICENSE' && pattern.test(line))
    .map((pattern) => `"${pattern.exec(line)?.[0].trim()}" tells a reader nothing; leave it out`));
}

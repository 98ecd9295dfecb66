// The digest of a state of policy: equal for states that judge every packet alike, with the same
// explanations, whatever the numbers are that they came by.
//
// Rule sets are known by the first endpoint that has them, identities by what each rule set says
// about them, and prefixes count only where they say something else than the one around them.

import { createHash } from 'node:crypto';
import { prefixKey } from '../../engine/address.ts';
import type { PolicyChange, Program } from '../../engine/model.ts';
import { compareText } from '../fields.ts';
import { getOrMake } from './selector-index.ts';

/** Of an answer, allowed or not, and whether that is final. */
const VERDICT_BITS = 3;

/** The digest of a snapshot's policy, as 64 hexadecimal digits. */
export function policyDigest(state: PolicyChange): string {
  const names = nameRuleSets(state);
  const { fallbacks, behaviours } = describeRuleSets(state, names);
  const endpoints = state.endpoints.map(({ namespace, name, uid, ingress, egress }) =>
    [namespace, name, uid, names.get(ingress) ?? '', names.get(egress) ?? ''].join(' '));
  return hash([
    ...endpoints.sort(compareText), '', ...fallbacks.sort(compareText), '',
    ...describePrefixes(state, behaviours),
  ].join('\n'));
}

/** Each rule set in use by the first of its endpoints. */
function nameRuleSets(state: PolicyChange): Map<number, string> {
  const names = new Map<number, string>([[0, 'all']]);
  const keys = state.endpoints.map(({ namespace, name, ingress, egress }) =>
    ({ key: `${namespace}/${name}`, ingress, egress }));
  for (const { key, ingress, egress } of keys.sort((a, b) => compareText(a.key, b.key))) {
    getOrMake(names, ingress, () => `ingress of ${key}`);
    getOrMake(names, egress, () => `egress of ${key}`);
  }
  return names;
}

/** What rule sets say about those they do not name, and about each identity. */
function describeRuleSets(
  state: PolicyChange, names: Map<number, string>,
): { fallbacks: string[]; behaviours: Map<number, string> } {
  const ruleNames = new Map(state.rules.map(({ number, policy, rule }) =>
    [number, `${policy} ${rule}`]));
  const fallbacks: string[] = [];
  const said = new Map<number, string[]>();
  for (const { number, programs, fallback, entries } of state.ruleSets) {
    const name = names.get(number);
    if (name === undefined) continue;
    const texts = programs.map((program) => hash(programText(program, ruleNames)));
    fallbacks.push(`${name} ${texts[fallback]}`);
    for (const [identity, program] of entries) {
      if (texts[program] === texts[fallback]) continue;
      getOrMake(said, identity, () => []).push(`${name} ${texts[program]}`);
    }
  }
  const behaviours = new Map([...said].map(([identity, lines]) =>
    [identity, hash(lines.sort(compareText).join('\n'))]));
  return { fallbacks, behaviours };
}

function programText(program: Program, names: Map<number, string>): string {
  return program.map(([key, answer]) =>
    `${key} ${answer & VERDICT_BITS} ${names.get(Math.floor(answer / 256)) ?? ''}`).join('\n');
}

interface Stretch {
  text: string;
  bytes: string;
  length: number;
  behaviour: string;
}

/** Prefixes in order, shorter ones first, each with the behaviour of its addresses. */
function describePrefixes(state: PolicyChange, behaviours: Map<number, string>): string[] {
  const stretches = state.identities.map(([text, identity]): Stretch => {
    const { family, bytes, length } = prefixKey(text);
    const sorted = family + String.fromCharCode(...bytes);
    return { text, bytes: sorted, length, behaviour: behaviours.get(identity) ?? '' };
  }).sort((a, b) => compareText(a.bytes, b.bytes) || a.length - b.length);
  const lines: string[] = [];
  const around: Stretch[] = [];
  for (const stretch of stretches) {
    while (around.length > 0 && !holds(around.at(-1), stretch)) around.pop();
    if ((around.at(-1)?.behaviour ?? '') !== stretch.behaviour) {
      lines.push(`${stretch.text} ${stretch.behaviour}`);
    }
    around.push(stretch);
  }
  return lines;
}

function holds(outer: Stretch | undefined, inner: Stretch): boolean {
  if (outer === undefined || outer.length > inner.length) return false;
  const family = 'IPv4'.length;
  const whole = family + (outer.length >>> 3);
  if (outer.bytes.slice(0, whole) !== inner.bytes.slice(0, whole)) return false;
  const mask = 0xff00 >>> (outer.length & 7);
  const differs = outer.bytes.charCodeAt(whole) ^ inner.bytes.charCodeAt(whole);
  return (differs & mask & 0xff) === 0;
}

function hash(text: string): string {
  return createHash('sha256').update(text).digest('hex');
}

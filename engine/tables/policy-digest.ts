// A digest of what the core would answer, whatever numbers it goes by: two states of policy with
// one digest answer alike to every address, protocol and port of every pod, and call the rules
// alike.
//
// An identity's class is what all rule sets in force have for it. A prefix whose class is that of
// the prefix above it says nothing, and is left out.

import { ANSWER_ALLOW, ANSWER_FINAL, ANSWER_RULE_SHIFT } from '../../wasm/abi/policy.ts';
import { prefixKey, type PrefixKey } from '../address.ts';
import type { RuleName } from '../model.ts';
import type { PolicyBlocks } from './policy-blocks.ts';
import type { IdentityTables } from './policy-moves.ts';

const VERDICT_BITS = ANSWER_ALLOW | ANSWER_FINAL;

/** A pod, and the blocks of its two rule sets. */
export interface JudgedPod {
  name: string;
  ingress: number;
  egress: number;
}

export function digestPolicy(
  pods: JudgedPod[],
  identities: IdentityTables,
  blocks: PolicyBlocks,
  ruleOf: (answer: number) => RuleName | null,
): string {
  const digest = new Digest();
  const sorted = [...pods].sort((one, other) => (one.name < other.name ? -1 : 1));
  const columns = sorted.flatMap(({ ingress, egress }) => [ingress, egress]);
  const programs = new Map<number, string>([[0, 'allowed']]);
  const programText = (address: number): string => {
    const known = programs.get(address);
    if (known !== undefined) return known;
    const text = blocks.readProgram(address).map(([key, answer]) => {
      const rule = answer >>> ANSWER_RULE_SHIFT === 0 ? null : ruleOf(answer);
      return `${key} ${answer & VERDICT_BITS} ${rule?.policy ?? ''} ${rule?.rule ?? ''}`;
    }).join('\n');
    programs.set(address, text);
    return text;
  };
  const classes = new Map<number, string>();
  const classOf = (identity: number): string => {
    const known = classes.get(identity);
    if (known !== undefined) return known;
    const own = new Digest();
    for (const block of columns) own.add(programText(blocks.program(block, identity)));
    classes.set(identity, own.text());
    return own.text();
  };
  for (const { name } of sorted) digest.add(name);
  digest.add(classOf(0));
  for (const table of [identities.IPv4, identities.IPv6]) {
    for (const key of table.prefixes().map(prefixKey).sort(compareKeys)) {
      const own = classOf(table.get(key));
      if (own === classOf(table.above(key))) continue;
      digest.add(`${key.family} ${key.bytes.join()} ${key.length} ${own}`);
    }
  }
  return digest.text();
}

function compareKeys(one: PrefixKey, other: PrefixKey): number {
  for (const [index, byte] of one.bytes.entries()) {
    const difference = byte - (other.bytes[index] ?? 0);
    if (difference !== 0) return difference;
  }
  return one.length - other.length;
}

/** 64 bits of hash over texts, in two lanes (FNV-1a, with different primes). It tells states apart;
 * it keeps no secrets. */
class Digest {
  #low = 0x811c9dc5;
  #high = 0x9747b28c;

  add(text: string): void {
    for (let at = 0; at <= text.length; at += 1) {
      const unit = at < text.length ? text.charCodeAt(at) : 0x10000;
      this.#low = Math.imul(this.#low ^ unit, 0x01000193);
      this.#high = Math.imul(this.#high ^ unit ^ (this.#low >>> 15), 0x85ebca6b);
    }
  }

  text(): string {
    return [this.#high, this.#low]
      .map((lane) => (lane >>> 0).toString(16).padStart(8, '0')).join('');
  }
}

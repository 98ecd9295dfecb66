// What policy says: from an address to its identity, from a rule set and an identity to a program,
// from a program and a key to an answer (abi/policy.ts). Each step is a bounded number of lookups,
// however many policies there are: the engine makes no rule set whose hash probes far, and a
// program of 4,096 boundaries takes 12 comparisons.
//
// Blocks are immutable. The one atomic load of a device's word leads to one version of all of them;
// they stay until every worker has passed a turn. The slow twin is test/reference/policy-match.ts.

import { DIRECTORY_IDENTITIES_IPV4, DIRECTORY_IDENTITIES_IPV6 } from "../abi/layout";
import {
  ANSWER_ALLOW, PROGRAM_COUNT, PROGRAM_KEYS, RULE_SET_DEFAULT, RULE_SET_HASH, RULE_SET_HASH_SHIFT,
  RULE_SET_MASK, RULE_SET_SLOTS, RULE_SET_SLOT_IDENTITY, RULE_SET_SLOT_PROGRAM, RULE_SET_SLOT_SIZE,
} from "../abi/policy";
import { directory } from "../packet";
import { prefixFind4, prefixFindAt6 } from "../table/prefix";

/** Identity of the IPv4 address at `address`; IDENTITY_NONE if nobody named it. */
export function identityOfIpv4(address: usize): i32 {
  const table = <usize>directory(DIRECTORY_IDENTITIES_IPV4);
  return prefixFind4<u32>(table, bswap<u32>(load<u32>(address)));
}

/** Identity of the IPv6 address at `address`; IDENTITY_NONE if nobody named it. */
export function identityOfIpv6(address: usize): i32 {
  return prefixFindAt6<u32>(<usize>directory(DIRECTORY_IDENTITIES_IPV6), address);
}

/** The program a rule set has for an identity. Precondition: `ruleSet` is not 0. */
export function policyProgram(ruleSet: usize, identity: i32): usize {
  const mask = load<i32>(ruleSet, RULE_SET_MASK);
  let slot = ((identity * RULE_SET_HASH) >>> RULE_SET_HASH_SHIFT) & mask;
  while (true) {
    const at = ruleSet + RULE_SET_SLOTS + (<usize>slot * RULE_SET_SLOT_SIZE);
    const program = load<u32>(at, RULE_SET_SLOT_PROGRAM);
    if (program == 0) return load<u32>(ruleSet, RULE_SET_DEFAULT);
    if (load<i32>(at, RULE_SET_SLOT_IDENTITY) == identity) return program;
    slot = (slot + 1) & mask;
  }
}

/** The answer of a rule set for an identity and a key; rule set 0 allows everything. */
export function policyAnswer(ruleSet: usize, identity: i32, key: u32): u32 {
  if (ruleSet == 0) return ANSWER_ALLOW;
  const program = policyProgram(ruleSet, identity);
  const count = load<u32>(program, PROGRAM_COUNT);
  let boundary = program + PROGRAM_KEYS;
  for (let left = count; left > 1;) {
    const half = left >>> 1;
    const middle = boundary + (<usize>half << 2);
    boundary = load<u32>(middle) <= key ? middle : boundary;
    left -= half;
  }
  return load<u32>(boundary + (<usize>count << 2));
}

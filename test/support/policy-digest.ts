// What a policy means, whatever numbers it uses: for each endpoint and direction the program of
// each address that could matter, rules by name. Equal digests answer alike.

import { createHash } from 'node:crypto';
import { ANSWER_ALLOW, ANSWER_FINAL, ANSWER_RULE_SHIFT } from '../../wasm/abi/policy.ts';
import type { PolicyChange, RuleSet } from '../../engine/model.ts';
import { blockHolds, parseAddress, sortObjects, type Address } from
  '../reference/policy-objects.ts';

/** The digest of a policy over the addresses that the objects name. */
export function policyDigest(policy: PolicyChange, objects: readonly unknown[]): string {
  const identities = probesOf(objects).map((address) => identityOf(policy, address));
  const rules = new Map(policy.rules.map(({ number, policy: title, rule }) =>
    [number, `${title} ${rule}`]));
  const ruleSets = new Map(policy.ruleSets.map((ruleSet) =>
    [ruleSet.number, meaningOf(ruleSet, identities, rules)]));
  const meaning = (number: number): string => ruleSets.get(number) ?? String(number);
  const lines = policy.endpoints.map(({ namespace, name, uid, ingress, egress }) =>
    [namespace, name, uid, meaning(ingress), meaning(egress)].join('\n'));
  return createHash('sha256').update(lines.sort().join('\n')).digest('hex');
}

/** What a rule set answers to each of the identities, in their order. */
function meaningOf(
  ruleSet: RuleSet, identities: readonly number[], rules: ReadonlyMap<number, string>,
): string {
  const texts = ruleSet.programs.map((program) => program.map(([key, answer]) => {
    const rule = answer >>> ANSWER_RULE_SHIFT;
    const verdict = answer & (ANSWER_ALLOW | ANSWER_FINAL);
    return `${key} ${verdict} ${rule === 0 ? '-' : rules.get(rule) ?? 'unnamed'}`;
  }).join());
  const entries = new Map(ruleSet.entries);
  const numbers = identities.map((identity) =>
    texts[entries.get(identity) ?? ruleSet.fallback] ?? 'no program');
  return createHash('sha256').update(numbers.join('\n')).digest('hex');
}

/** Addresses of pods and nodes, and the first and last of every block, with their neighbours. */
function probesOf(objects: readonly unknown[]): Address[] {
  const cluster = sortObjects(objects);
  const probes = new Map<string, Address>();
  const add = (address: Address): void => {
    probes.set(`${address.bits} ${address.value}`, address);
  };
  for (const { status } of cluster.pods) {
    for (const { ip } of status?.podIPs ?? []) add(parseAddress(ip));
  }
  for (const { status } of cluster.nodes) {
    for (const { type, address } of status?.addresses ?? []) {
      if (type.endsWith('IP')) add(parseAddress(address));
    }
  }
  for (const cidr of findBlocks([cluster.networkPolicies, cluster.clusterPolicies])) {
    for (const address of edgesOf(cidr)) add(address);
  }
  return [...probes].sort(([a], [b]) => (a < b ? -1 : 1)).map(([, address]) => address);
}

/** Every text in CIDR form below a value. */
function findBlocks(value: unknown): string[] {
  if (typeof value === 'string') return /^[0-9A-Fa-f.:]+\/\d+$/.test(value) ? [value] : [];
  if (typeof value !== 'object' || value === null) return [];
  return Object.values(value).flatMap(findBlocks);
}

function edgesOf(cidr: string): Address[] {
  const [base = '', length = ''] = cidr.split('/');
  const { bits, value } = parseAddress(base);
  const size = 1n << BigInt(bits - Number(length));
  const first = value - (value % size);
  return [first - 1n, first, first + size - 1n, first + size]
    .filter((edge) => edge >= 0n && edge < 1n << BigInt(bits))
    .map((edge): Address => ({ bits, value: edge }));
}

/** The identity of the longest prefix that holds the address. */
function identityOf({ identities }: PolicyChange, address: Address): number {
  let best = 0;
  let longest = -1;
  for (const [prefix, identity] of identities) {
    const length = Number(prefix.split('/')[1]);
    if (length > longest && blockHolds(prefix, address)) [longest, best] = [length, identity];
  }
  return best;
}

// A node with any number of policies in force, all of them different and all of them asked.
//
// The node's pods form N / 2 groups: pod e is in group e mod (N / 2), and so is remote pod e. Each
// group has an identity of its own. Policy 2g is the ingress, policy 2g + 1 the egress rule set of
// group g; each admits one identity: the group that sends to it, or the one it sends to (mix.ts).
// Programs differ in the rule they name, so that no two policies share a rule set or a program.
// Pods, addresses, flows and packets are the same for every N; only ports and rule sets differ.

import { DEVICE_EGRESS, DEVICE_INGRESS, DEVICE_STRIDE, DIRECTORY_DEVICES } from
  '../wasm/abi/layout.ts';
import { ANSWER_ALLOW, ANSWER_RULE_SHIFT, PROGRAM_KEY_PROTOCOL_SHIFT } from
  '../wasm/abi/policy.ts';
import type { Program, PolicyChange, RuleSet } from '../engine/model.ts';
import { PolicyTables } from '../engine/tables/policy.ts';
import { FLOW_TABLE, SHIFT } from './mix.ts';
import { deviceOf, localAddress, makeScene, remoteAddress, type Scene } from './scene.ts';

/** Arena for each policy, in bytes, and at least. */
const ARENA_PER_POLICY = 160;
const ARENA_MIN = 1024 * 1024;
/** Prefixes and rule sets in one change. */
const PART = 10_000;
const TCP = 6 << PROGRAM_KEY_PROTOCOL_SHIFT;
const UDP = 17 << PROGRAM_KEY_PROTOCOL_SHIFT;
const HTTPS = 443;
/** A group's service has this many ports from servicePort() on. */
const SERVICE_PORTS = 4;

export interface PolicyScene extends Scene {
  tables: PolicyTables;
  policies: number;
}

/** Nothing changes. */
export const NO_CHANGE: PolicyChange = {
  identities: [], ruleSets: [], removedRuleSets: [], endpoints: [], removedEndpoints: [],
  rules: [], removedRules: [],
};

/** Precondition: `policies` / 2 divides `pods`. */
export function makePolicyScene(policies: number, pods: number): PolicyScene {
  const groups = policies / 2;
  if (pods % groups !== 0) throw new Error(`${pods} pods do not make ${groups} like groups`);
  const prefixes = (pods * 2) + 16;
  const scene = makeScene({
    pods,
    families: ['IPv4'],
    policy: {
      flows: FLOW_TABLE,
      identitiesIpv4: { prefixes, nodes: prefixes * 2, leaves: prefixes * 8 },
      arenaBytes: Math.max(ARENA_MIN, policies * ARENA_PER_POLICY),
    },
  });
  const tables = new PolicyTables(scene.core, scene.limits.policy);
  enterIdentities(tables, pods, groups);
  for (let first = 0; first < policies; first += PART) {
    const count = Math.min(PART, policies - first);
    const ruleSets = Array.from({ length: count }, (_, index) => ruleSet(first + index, groups));
    tables.apply({ ...NO_CHANGE, ruleSets });
  }
  assignRuleSets(scene, tables, pods, groups);
  return { ...scene, tables, policies };
}

/** The first port of the service that a pod offers. */
export function servicePort(pod: number, policies: number): number {
  return 1024 + (((pod % (policies / 2)) * 13) % 40_000);
}

/** Gives local and remote pods the identity of their group. */
export function enterIdentities(tables: PolicyTables, pods: number, groups: number): void {
  for (let first = 0; first < pods; first += PART / 2) {
    const last = Math.min(first + (PART / 2), pods);
    const identities: PolicyChange['identities'] = [];
    for (let pod = first; pod < last; pod += 1) {
      const identity = identityOf(pod % groups);
      identities.push([`${localAddress('IPv4', pod)}/32`, identity]);
      identities.push([`${remoteAddress('IPv4', pod)}/32`, identity]);
    }
    tables.apply({ ...NO_CHANGE, identities });
  }
}

export function identityOf(group: number): number {
  return group + 1;
}

/** The rule set that a policy makes: one identity, three ranges of ports. */
export function ruleSet(policy: number, groups: number): RuleSet {
  const group = policy >>> 1;
  const isEgress = (policy & 1) === 1;
  const shift = SHIFT % groups;
  const other = (group + (isEgress ? shift : groups - shift)) % groups;
  const server = isEgress ? other : group;
  const allow = ((policy + 1) << ANSWER_RULE_SHIFT) | ANSWER_ALLOW;
  const first = servicePort(server, groups * 2);
  const program: Program = [
    [0, 0],
    [TCP | HTTPS, allow], [TCP | (HTTPS + 1), 0],
    [TCP | first, allow], [TCP | (first + SERVICE_PORTS), 0],
    [UDP | first, allow], [UDP | (first + SERVICE_PORTS), 0],
  ];
  return {
    number: numberOf(policy),
    programs: [[[0, 0]], program],
    fallback: 0,
    entries: [[identityOf(other), 1]],
  };
}

export function numberOf(policy: number): number {
  return policy + 1;
}

/** Writes the words of all devices, far more than PolicyTables has endpoints to hold. */
function assignRuleSets(
  { core }: Scene, tables: PolicyTables, pods: number, groups: number,
): void {
  for (let pod = 0; pod < pods; pod += 1) {
    const policy = (pod % groups) * 2;
    const at = core.directory(DIRECTORY_DEVICES) + (deviceOf(pod) * DEVICE_STRIDE);
    core.view.setUint32(at + DEVICE_INGRESS, tables.ruleSet(numberOf(policy)), true);
    core.view.setUint32(at + DEVICE_EGRESS, tables.ruleSet(numberOf(policy + 1)), true);
  }
}

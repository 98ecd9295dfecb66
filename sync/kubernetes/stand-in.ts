// What stands in for a policy that cannot be read, so that it fails closed: a policy of the same
// subject that allows nothing. Of the subject what can be read counts; what cannot be read is
// everything, within the namespace of a NetworkPolicy.

import { project } from '../objects.ts';
import type { Entry } from '../objects.ts';
import type { Part } from '../policy/rules.ts';

type PolicyEntry = Extract<Entry, { kind: 'NetworkPolicy' | 'ClusterNetworkPolicy' }>;
type Fields = Readonly<Record<string, unknown>>;

const BOTH = ['Ingress', 'Egress'];

/** Null for what is no policy, or has no name. */
export function standIn(object: object): PolicyEntry | null {
  const { kind, spec } = object as { kind?: unknown; spec?: unknown };
  const fields = typeof spec === 'object' && spec !== null ? spec as Fields : {};
  if (kind === 'NetworkPolicy') return isolating(object, fields);
  return kind === 'ClusterNetworkPolicy' ? denying(object, fields) : null;
}

function isolating(object: object, spec: Fields): PolicyEntry | null {
  const { podSelector = {}, policyTypes, egress } = spec;
  const types = Array.isArray(policyTypes) && policyTypes.length > 0 ? policyTypes
    : ['Ingress', ...isUsed(egress) ? ['Egress'] : []];
  return firstReadable(object, [
    { podSelector, policyTypes: types },
    { podSelector, policyTypes: BOTH },
    { podSelector: {}, policyTypes: types },
    { podSelector: {}, policyTypes: BOTH },
  ]);
}

function denying(object: object, spec: Fields): PolicyEntry | null {
  const { tier, priority, subject, ingress, egress } = spec;
  const everything = { namespaces: {} };
  const entry = firstReadable(object, [
    { tier, priority, subject },
    { tier, priority, subject: everything },
    { tier: 'Admin', priority: 0, subject },
    { tier: 'Admin', priority: 0, subject: everything },
  ]);
  if (entry === null) return null;
  const deny = (direction: string): Part => ({
    isolates: false,
    rules: [{ text: `${direction} (not readable)`, action: 'deny', peers: null, ports: null }],
  });
  const policy = {
    ...entry.policy,
    ingress: isUsed(ingress) ? deny('ingress') : null,
    egress: isUsed(egress) ? deny('egress') : null,
  };
  return { ...entry, policy };
}

/** Whether there are rules, or what may be some. */
function isUsed(rules: unknown): boolean {
  return rules !== undefined && rules !== null && !(Array.isArray(rules) && rules.length === 0);
}

function firstReadable(object: object, specs: readonly Fields[]): PolicyEntry | null {
  for (const spec of specs) {
    const { entry } = project({ ...object, spec }, () => '');
    if (entry?.kind === 'NetworkPolicy' || entry?.kind === 'ClusterNetworkPolicy') return entry;
  }
  return null;
}

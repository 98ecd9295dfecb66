// The policies of a cluster as a list: what kind, where in the order, about how many pods.

import type { Entry } from '../../sync/objects.ts';
import { NAMESPACE_NAME, matches } from '../../sync/policy/selector.ts';
import type { Policy } from '../../sync/policy/rules.ts';
import { withLabel, type Labels } from '../../sync/fields.ts';

/** A policy in the list. Rules are counted; null where it says nothing about a direction. */
export interface PolicySummary {
  kind: 'NetworkPolicy' | 'ClusterNetworkPolicy';
  namespace: string | null;
  name: string;
  tier: 'Admin' | 'NetworkPolicy' | 'Baseline';
  priority: number | null;
  pods: number;
  ingress: number | null;
  egress: number | null;
}

type PolicyEntry = Extract<Entry, { policy: Policy }>;
type PodEntry = Extract<Entry, { kind: 'Pod' }>;

const TIERS = ['Admin', 'NetworkPolicy', 'Baseline'] as const;

/** Policies in the order in which they count, then by name. */
export function describePolicies(entries: readonly Entry[]): PolicySummary[] {
  const labels = new Map<string, Labels>();
  for (const entry of entries) {
    if (entry.kind === 'Namespace') labels.set(entry.key, entry.labels);
  }
  const namespaceLabels = (name: string): Labels =>
    withLabel(labels.get(name) ?? [], NAMESPACE_NAME, name);
  const pods = entries.filter((entry): entry is PodEntry => entry.kind === 'Pod')
    .filter(({ hasNetwork }) => hasNetwork);
  const isAbout = (policy: Policy, pod: PodEntry): boolean => matches(policy.pods, pod.labels)
    && matches(policy.namespaces, namespaceLabels(pod.pod.namespace));
  return entries
    .filter((entry): entry is PolicyEntry => 'policy' in entry)
    .sort((a, b) => a.policy.tier - b.policy.tier || a.policy.priority - b.policy.priority
      || (a.key < b.key ? -1 : 1))
    .map(({ kind, key, policy }): PolicySummary => {
      const [namespace = '', name] = kind === 'NetworkPolicy' ? key.split('/') : [null, key];
      return {
        kind, namespace, name: name ?? '',
        tier: TIERS[policy.tier] ?? 'NetworkPolicy',
        priority: kind === 'NetworkPolicy' ? null : policy.priority,
        pods: pods.filter((pod) => isAbout(policy, pod)).length,
        ingress: policy.ingress?.rules.length ?? null,
        egress: policy.egress?.rules.length ?? null,
      };
    });
}

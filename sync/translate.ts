// From all the objects of a cluster to what the host of one node must know, and from one such state
// to the next. Pure, and the same for the same objects in whatever order they come.

import type { ClusterNode, Delta, Pod, Snapshot } from '../engine/model.ts';
import type { Entry } from './objects.ts';

/** A snapshot that has no number yet. */
export type Content = Pick<Snapshot, 'local' | 'nodes' | 'pods'>;

/** A delta that has no numbers yet. */
export type Change = Omit<Delta, 'from' | 'to'>;

/** With problems, the content is not to be used. Warnings are for the operator to read. */
export interface Translation {
  content: Content;
  problems: string[];
  warnings: string[];
}

type NodeEntry = Extract<Entry, { kind: 'Node' }>;
type PodEntry = Extract<Entry, { kind: 'Pod' }>;

/** What the objects mean for the node named `local`. */
export function translate(entries: readonly Entry[], local: string): Translation {
  const problems = findDuplicates(entries);
  const nodes = entries.filter((entry): entry is NodeEntry => entry.kind === 'Node');
  const warnings = nodes.flatMap((entry) => entry.warnings).sort();
  if (nodes.length === 0) problems.push('there is no Node among the objects');
  else if (!nodes.some(({ key }) => key === local)) {
    warnings.push(`Node ${local}, which this is for, is not among the objects`);
  }
  const content = { local, nodes: ownPrefixes(nodes, warnings), pods: localPods(entries, local) };
  return { content, problems, warnings };
}

/** What changed, or null for nothing. Nodes and pods that differ come whole. */
export function difference(previous: Content, next: Content): Change | null {
  const nodes = changed(previous.nodes, next.nodes, ({ name }) => name);
  const pods = changed(previous.pods, next.pods, podKey);
  const changes = [nodes.fresh, nodes.gone, pods.fresh, pods.gone];
  if (changes.every((list) => list.length === 0)) return null;
  return {
    nodes: nodes.fresh,
    removedNodes: nodes.gone.map(({ name }) => name),
    pods: pods.fresh,
    removedPods: pods.gone.map(({ namespace, name }) => ({ namespace, name })),
  };
}

function findDuplicates(entries: readonly Entry[]): string[] {
  const seen = new Map<string, Entry>();
  const problems: string[] = [];
  for (const entry of entries) {
    const id = `${entry.kind} ${entry.key}`;
    const first = seen.get(id);
    if (first === undefined) seen.set(id, entry);
    else problems.push(`${entry.place}: ${id}: stands at ${first.place} too`);
  }
  return problems;
}

/** The nodes by name. A prefix that several claim stays with the oldest, then the first by name. */
function ownPrefixes(entries: readonly NodeEntry[], warnings: string[]): ClusterNode[] {
  const owners = new Map<string, string>();
  const byAge = [...entries].sort((a, b) => compare(age(a), age(b)) || compare(a.key, b.key));
  const nodes = byAge.map(({ node }) => {
    const podCidrs = node.podCidrs.filter((prefix) => {
      const owner = owners.get(prefix) ?? node.name;
      owners.set(prefix, owner);
      if (owner === node.name) return true;
      warnings.push(`Node ${node.name}: ${prefix} belongs to node ${owner} already: not used`);
      return false;
    });
    return { ...node, podCidrs };
  });
  return nodes.sort((a, b) => compare(a.name, b.name));
}

/** Sorts by time of creation; who has none comes last. */
function age({ created }: NodeEntry): string {
  const time = Date.parse(created);
  return Number.isNaN(time) ? '~' : new Date(time).toISOString();
}

function localPods(entries: readonly Entry[], local: string): Pod[] {
  return entries
    .filter((entry): entry is PodEntry => entry.kind === 'Pod')
    .filter(({ nodeName, hasNetwork }) => nodeName === local && hasNetwork)
    .map(({ pod }) => pod)
    .sort((a, b) => compare(podKey(a), podKey(b)));
}

function podKey({ namespace, name }: Pod): string {
  return `${namespace}/${name}`;
}

function changed<T>(
  previous: readonly T[], next: readonly T[], key: (item: T) => string,
): { fresh: T[]; gone: T[] } {
  const before = new Map(previous.map((item) => [key(item), item]));
  const after = new Set(next.map(key));
  return {
    fresh: next.filter((item) => !isSame(before.get(key(item)), item)),
    gone: previous.filter((item) => !after.has(key(item))),
  };
}

/** Both are built by the same code, so that equal values have equal text. */
function isSame(a: unknown, b: unknown): boolean {
  return JSON.stringify(a) === JSON.stringify(b);
}

function compare(a: string, b: string): number {
  if (a === b) return 0;
  return a < b ? -1 : 1;
}

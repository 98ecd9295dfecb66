// From all the objects of a cluster to what the host of one node must know. Pure, and the same for
// the same objects in whatever order they come. `state.ts` does it object by object.

import type { Pod, Snapshot } from '../engine/model.ts';
import { compareText } from './fields.ts';
import { NO_NODE, Nodes } from './nodes.ts';
import type { Entry } from './objects.ts';

/** A snapshot that has no number yet. */
export type Content = Pick<Snapshot, 'local' | 'nodes' | 'pods'>;

/** With problems, the content is not to be used. Warnings are for the operator to read. */
export interface Translation {
  content: Content;
  problems: string[];
  warnings: string[];
}

type PodEntry = Extract<Entry, { kind: 'Pod' }>;

/** What the objects mean for the node named `local`. */
export function translate(entries: readonly Entry[], local: string): Translation {
  const problems = findDuplicates(entries);
  const nodes = new Nodes(local);
  for (const entry of entries) if (entry.kind === 'Node') nodes.upsert(entry);
  nodes.take();
  if (nodes.size === 0) problems.push(NO_NODE);
  const content = { local, nodes: nodes.all(), pods: localPods(entries, local) };
  return { content, problems, warnings: nodes.warnings() };
}

/** Objects that stand twice in what a source says, one line each. */
export function findDuplicates(entries: readonly Entry[]): string[] {
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

function localPods(entries: readonly Entry[], local: string): Pod[] {
  return entries
    .filter((entry): entry is PodEntry => entry.kind === 'Pod')
    .filter(({ nodeName, hasNetwork }) => nodeName === local && hasNetwork)
    .map(({ pod }) => pod)
    .sort((a, b) => compareText(podKey(a), podKey(b)));
}

/** What a pod is known by. */
export function podKey({ namespace, name }: Pod): string {
  return `${namespace}/${name}`;
}

// The nodes of the cluster, and which of them owns a pod network that several claim: the oldest,
// then the first by name; and how they are reached, as far as is known of the cluster. A change
// costs as much as the nodes that it concerns.

import type { ClusterNode } from '../engine/model.ts';
import { compareText } from './fields.ts';
import type { Entry } from './objects.ts';
import { PLAIN_VIEW, chooseTunnels } from './tunnels.ts';
import type { ClusterView, Reach } from './tunnels.ts';

/** Why a state is not to be used. */
export const NO_NODE = 'there is no Node among the objects';

type NodeEntry = Extract<Entry, { kind: 'Node' }>;

/** A node without what depends on the view. */
export type NodeFields = Omit<ClusterNode, 'tunnels'>;

interface NodeRecord {
  node: NodeFields;
  reach: Reach;
  age: string;
  /** What is wrong with how it can be reached. */
  warnings: readonly string[];
  /** As the host is to see it: without what others own. Null before it was worked out. */
  told: ClusterNode | null;
}

/** What changed since it was asked last. */
export interface NodeChange {
  nodes: ClusterNode[];
  removedNodes: string[];
}

export class Nodes {
  readonly #records = new Map<string, NodeRecord>();
  /** Who claims each prefix. */
  readonly #claims = new Map<string, NodeRecord[]>();
  readonly #contested = new Set<string>();
  readonly #touched = new Set<NodeRecord>();
  readonly #gone = new Set<string>();
  readonly #warned = new Set<NodeRecord>();
  readonly #local: string;
  #view = PLAIN_VIEW;

  /** For the node named `local`. */
  constructor(local: string) {
    this.#local = local;
  }

  get size(): number {
    return this.#records.size;
  }

  /** Says what is known of the cluster now. */
  setView(view: ClusterView): void {
    this.#view = view;
    for (const record of this.#records.values()) this.#touched.add(record);
  }

  upsert({ key, node, reach, created }: NodeEntry): void {
    const record = this.#records.get(key) ?? { node, reach, age: '', warnings: [], told: null };
    if (this.#records.has(key)) this.#giveUp(record);
    Object.assign(record, { node, reach, age: age(created) });
    this.#records.set(key, record);
    this.#gone.delete(key);
    for (const prefix of node.podCidrs) this.#claim(prefix, record);
    this.#touched.add(record);
  }

  remove(name: string): void {
    const record = this.#records.get(name);
    if (record === undefined) return;
    this.#giveUp(record);
    this.#records.delete(name);
    this.#touched.delete(record);
    this.#warned.delete(record);
    if (record.told !== null) this.#gone.add(name);
  }

  /** What differs from what was taken before. */
  take(): NodeChange {
    const nodes: ClusterNode[] = [];
    for (const record of this.#touched) {
      const next = this.#effective(record);
      const isSame = record.told !== null && JSON.stringify(record.told) === JSON.stringify(next);
      record.told = next;
      if (!isSame) nodes.push(next);
    }
    const removedNodes = [...this.#gone];
    this.#touched.clear();
    this.#gone.clear();
    return { nodes, removedNodes };
  }

  /** All nodes, by name. Precondition: nothing has changed since take(). */
  all(): ClusterNode[] {
    return [...this.#records.values()].flatMap(({ told }) => told ?? [])
      .sort((a, b) => compareText(a.name, b.name));
  }

  /** What our operator should know of them, one line each. Precondition: nothing has changed since
   * take(). */
  warnings(): string[] {
    const local = this.#local;
    const lines = [...this.#warned].flatMap(({ warnings }) => warnings).sort(compareText);
    for (const prefix of [...this.#contested].sort(compareText)) {
      const owner = this.#owner(prefix);
      for (const { node: { name } } of this.#claims.get(prefix) ?? []) {
        if (name === owner?.node.name) continue;
        lines.push(
          `Node ${name}: ${prefix} belongs to node ${owner?.node.name} already: not used`);
      }
    }
    if (this.size > 0 && !this.#records.has(local)) {
      lines.push(`Node ${local}, which this is for, is not among the objects`);
    }
    return lines;
  }

  #claim(prefix: string, record: NodeRecord): void {
    const claims = this.#claims.get(prefix);
    if (claims === undefined) this.#claims.set(prefix, [record]);
    else {
      claims.push(record);
      this.#contested.add(prefix);
      for (const other of claims) this.#touched.add(other);
    }
  }

  #giveUp(record: NodeRecord): void {
    for (const prefix of record.node.podCidrs) {
      const claims = (this.#claims.get(prefix) ?? []).filter((other) => other !== record);
      if (claims.length === 0) this.#claims.delete(prefix);
      else this.#claims.set(prefix, claims);
      if (claims.length < 2) this.#contested.delete(prefix);
      for (const other of claims) this.#touched.add(other);
    }
  }

  #effective(record: NodeRecord): ClusterNode {
    const { node, reach } = record;
    const podCidrs = node.podCidrs.filter((prefix) => this.#owner(prefix) === record);
    const choice = chooseTunnels(node, reach, this.#view, node.name === this.#local);
    record.warnings = choice.warnings;
    if (choice.warnings.length > 0) this.#warned.add(record);
    else this.#warned.delete(record);
    const addresses = [...new Set([...node.addresses, ...choice.addresses])];
    return { name: node.name, podCidrs, addresses, tunnels: choice.tunnels };
  }

  #owner(prefix: string): NodeRecord | undefined {
    const claims = this.#claims.get(prefix) ?? [];
    return claims.length < 2 ? claims[0] : [...claims].sort((a, b) =>
      compareText(a.age, b.age) || compareText(a.node.name, b.node.name))[0];
  }
}

/** Sorts by time of creation; who has none comes last. */
function age(created: string): string {
  const time = Date.parse(created);
  return Number.isNaN(time) ? '~' : new Date(time).toISOString();
}

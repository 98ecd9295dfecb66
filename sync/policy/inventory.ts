// Pods, namespaces and nodes, as far as policy looks at them. Pods that no selector and no named
// port can tell apart are one group: what is worked out about pods is worked out once for a group.

import { getOrMake } from './selector-index.ts';
import type { PodSelector } from './selector-index.ts';
import { NAMESPACE_NAME, labelHandles, matches, selectorHandles } from './selector.ts';
import type { AddressRecord } from './addresses.ts';
import { addTo, each, takeFrom } from './few.ts';
import type { Few } from './few.ts';
import type { RuleSet } from './rule-set.ts';
import { NO_TRAITS } from './traits.ts';
import type { Labelled, TraitSet } from './traits.ts';
import { withLabel } from '../fields.ts';
import { internValue } from '../intern.ts';
import type { Labels } from '../fields.ts';
import type { NamedPort } from '../objects.ts';

export interface NamespaceFacts extends Labelled {
  readonly name: string;
  labels: Labels;
  handles: readonly string[];
  /** The annotation of old isolates its pods. */
  isIsolated: boolean;
  /** There is such an object; else there are only pods that say so. */
  isKnown: boolean;
  readonly groups: Map<string, Group>;
  readonly byHandle: Map<string, Few<Group>>;
}

export interface Group {
  readonly namespace: NamespaceFacts;
  readonly text: string;
  readonly labels: Labels;
  readonly ports: readonly NamedPort[];
  readonly pods: PodFacts[];
  localCount: number;
  traits: TraitSet;
  /** It stands in the indexes, and its traits are known. */
  isIndexed: boolean;
  ingress: RuleSet | null;
  egress: RuleSet | null;
}

/** There are 100,000 of these: nothing is kept twice. */
export interface PodFacts {
  /** `namespace/name`. */
  readonly key: string;
  /** As packUid() gives it. */
  uid: string;
  /** Unix time in seconds, 0 where it is not known. */
  created: number;
  isRunning: boolean;
  isLocal: boolean;
  group: Group;
  records: Few<AddressRecord>;
}

export interface NodeFacts {
  readonly name: string;
  labels: Labels;
  addresses: readonly string[];
  records: readonly AddressRecord[];
  traits: TraitSet;
}

/** Up to so many groups are tried one by one before an index is asked. */
const FEW = 256;

export class Inventory {
  readonly pods = new Map<string, PodFacts>();
  readonly nodes = new Map<string, NodeFacts>();
  readonly namespaces = new Map<string, NamespaceFacts>();
  /** Groups whose traits must be found anew. */
  readonly unmatched = new Set<Group>();
  /** Groups whose rule sets must be found anew. */
  readonly unruled = new Set<Group>();
  /** A namespace got other labels. */
  relabelled = false;
  readonly #local = new Set<Group>();
  readonly #byPortName = new Map<string, Few<Group>>();

  /** The namespace, made up from its name where there is no such object. */
  namespace(name: string): NamespaceFacts {
    return getOrMake(this.namespaces, name, () => {
      const labels = withLabel([], NAMESPACE_NAME, name);
      return {
        name, labels, handles: labelHandles(labels), isIsolated: false, isKnown: false,
        groups: new Map(), byHandle: new Map(),
      };
    });
  }

  /** Changes a namespace; null for its absence. */
  setNamespace(name: string, facts: { labels: Labels; isIsolated: boolean } | null): void {
    const namespace = this.namespace(name);
    const labels = withLabel(facts?.labels ?? [], NAMESPACE_NAME, name);
    const isIsolated = facts?.isIsolated ?? false;
    namespace.isKnown = facts !== null;
    const isSame = labels.join('\0') === namespace.labels.join('\0');
    if (!isSame) {
      this.relabelled ||= namespace.groups.size > 0;
      namespace.labels = labels;
      namespace.handles = labelHandles(labels);
      for (const group of namespace.groups.values()) this.unmatched.add(group);
    }
    if (!isSame || isIsolated !== namespace.isIsolated) {
      namespace.isIsolated = isIsolated;
      for (const group of namespace.groups.values()) this.unruled.add(group);
    }
    this.#forgetNamespace(namespace);
  }

  /** The group of pods with these labels and ports. */
  group(namespace: string, labels: Labels, ports: readonly NamedPort[]): Group {
    const home = this.namespace(namespace);
    const text = groupText(labels, ports);
    return getOrMake(home.groups, text, () => {
      const group: Group = {
        namespace: home, text, labels, ports: internValue(ports), pods: [], localCount: 0,
        traits: NO_TRAITS, isIndexed: false, ingress: null, egress: null,
      };
      this.unmatched.add(group);
      return group;
    });
  }

  join(group: Group, pod: PodFacts): void {
    group.pods.push(pod);
    if (!pod.isLocal) return;
    group.localCount += 1;
    if (group.localCount > 1) return;
    this.#local.add(group);
    this.unruled.add(group);
  }

  /** Takes the pod out of its group. An empty group goes at the end of the commit. */
  leave(pod: PodFacts): void {
    const { group } = pod;
    const last = group.pods.pop();
    if (last !== pod && last !== undefined) group.pods[group.pods.indexOf(pod)] = last;
    if (pod.isLocal) group.localCount -= 1;
    if (group.localCount === 0) this.#local.delete(group);
    if (pod.isLocal && group.localCount === 0) this.unruled.add(group);
    if (group.pods.length === 0) this.unmatched.add(group);
  }

  /** Enters a group whose traits are known now. */
  index(group: Group): void {
    if (group.isIndexed) return;
    group.isIndexed = true;
    for (const handle of pairHandles(group.labels)) {
      addTo(group.namespace.byHandle, handle, group);
    }
    for (const { name } of group.ports) {
      addTo(this.#byPortName, name, group);
    }
  }

  /** Takes out a group without pods. */
  forget(group: Group): void {
    const { namespace } = group;
    namespace.groups.delete(group.text);
    for (const handle of pairHandles(group.labels)) {
      takeFrom(namespace.byHandle, handle, group);
    }
    for (const { name } of group.ports) takeFrom(this.#byPortName, name, group);
    this.#forgetNamespace(namespace);
  }

  /** Groups that are selected; those whose traits are to be found anew may be left out. */
  selected({ namespaces, pods }: PodSelector): Group[] {
    const found: Group[] = [];
    const handles = selectorHandles(pods).filter((handle) => handle.includes('\0'));
    for (const namespace of this.#selectedNamespaces(namespaces)) {
      const candidates = handles.length === 0 ? [namespace.groups.values()]
        : handles.map((handle) => each(namespace.byHandle.get(handle) ?? null));
      for (const groups of candidates) {
        for (const group of groups) if (matches(pods, group.labels)) found.push(group);
      }
    }
    return found;
  }

  /** The same for groups with local pods. */
  selectedLocal(selector: PodSelector): Group[] {
    if (this.#local.size > FEW) {
      return this.selected(selector).filter(({ localCount }) => localCount > 0);
    }
    return [...this.#local].filter(({ namespace, labels }) =>
      matches(selector.namespaces, namespace.labels) && matches(selector.pods, labels));
  }

  /** Groups that have a port of this name. */
  withPort(name: string): Iterable<Group> {
    return each(this.#byPortName.get(name) ?? null);
  }

  #selectedNamespaces(selector: PodSelector['namespaces']): NamespaceFacts[] {
    const byName = selector.find(({ key, operator }) =>
      key === NAMESPACE_NAME && operator === 'In');
    const candidates = byName === undefined ? [...this.namespaces.values()]
      : byName.values.flatMap((name) => this.namespaces.get(name) ?? []);
    return candidates.filter(({ labels }) => matches(selector, labels));
  }

  #forgetNamespace(namespace: NamespaceFacts): void {
    if (namespace.isKnown || namespace.groups.size > 0) return;
    this.namespaces.delete(namespace.name);
  }
}

function pairHandles(labels: Labels): string[] {
  return labelHandles(labels).filter((handle) => handle.includes('\0'));
}

/** A text that is the same for pods that nothing tells apart. */
export function groupText(labels: Labels, ports: readonly NamedPort[]): string {
  const names = ports.map(({ name, protocol, port }) => `${name} ${protocol} ${port}`);
  // join() makes one piece; a template would refer to its parts.
  return [...labels, '', ...names].join('\0');
}

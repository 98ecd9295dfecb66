// Traits: what rules in use ask of an address. An address has the trait of a peer's selector, of a
// block it lies in, of a named port its pod has; addresses with the same traits are one identity.
//
// A need is what a rule set asks for. It has one trait, or, where it is a port's name, one for each
// number the name has somewhere. A need that is no longer used goes only at the next commit: the
// rule sets it belonged to are in force until the change that removes them has been applied.

import type { Identity } from './identities.ts';
import type { RuleSet } from './rule-set.ts';
import type { Peer, PortName } from './rules.ts';
import { SelectorIndex, getOrMake } from './selector-index.ts';
import type { Selector } from './selector.ts';
import type { NamedPort } from '../objects.ts';

export interface Trait {
  readonly id: number;
  readonly need: Need;
  /** Of a named port: protocol and number, as a key. */
  readonly portKey: number;
  readonly identities: Set<Identity>;
}

export interface Need {
  readonly text: string;
  readonly peer: Peer | null;
  readonly portName: string;
  readonly traits: Map<number, Trait>;
  readonly ruleSets: Set<RuleSet>;
  /** Nothing asked for it before this commit. */
  isFresh: boolean;
  /** It goes with this commit. */
  isDropped: boolean;
}

/** A need for pods, in the form that the index of selectors wants. */
interface PodNeed {
  namespaces: Selector;
  pods: Selector;
  need: Need;
}

export interface Labelled {
  labels: readonly string[];
  handles: readonly string[];
}

export class Needs {
  /** Those that a commit brought. */
  readonly fresh = new Set<Need>();
  readonly nodes = new Set<Need>();
  readonly #byText = new Map<string, Need>();
  readonly #byPortName = new Map<string, Need>();
  readonly #pods = new SelectorIndex<PodNeed>();
  readonly #podNeeds = new Map<Need, PodNeed>();
  #unused = new Set<Need>();
  #traits = 0;

  /** The need for a peer. */
  forPeer(peer: Peer): Need {
    return getOrMake(this.#byText, JSON.stringify(peer), () => {
      const need = this.#make(JSON.stringify(peer), peer, '');
      this.traitOf(need, 0);
      if (peer.kind === 'nodes') this.nodes.add(need);
      if (peer.kind === 'pods') {
        const item = { namespaces: peer.namespaces, pods: peer.pods, need };
        this.#podNeeds.set(need, item);
        this.#pods.add(item);
      }
      return need;
    });
  }

  /** The need to know which number a port of this name has. */
  forPort({ name }: PortName): Need {
    return getOrMake(this.#byPortName, name, () => this.#make(`port ${name}`, null, name));
  }

  #make(text: string, peer: Peer | null, portName: string): Need {
    const need: Need = {
      text, peer, portName, traits: new Map(), ruleSets: new Set(), isFresh: true,
      isDropped: false,
    };
    this.fresh.add(need);
    return need;
  }

  /** A trait of the need, made where there was none. */
  traitOf(need: Need, portKey: number): Trait {
    return getOrMake(need.traits, portKey, () => {
      this.#traits += 1;
      return { id: this.#traits, need, portKey, identities: new Set() };
    });
  }

  /** The traits that pods of these labels and ports have. */
  traitsOfPods(namespace: Labelled, pod: Labelled, ports: readonly NamedPort[]): Trait[] {
    const traits = this.#pods.find(namespace, pod).map(({ need }) => this.traitOf(need, 0));
    for (const { name, protocol, port } of ports) {
      const need = this.#byPortName.get(name);
      if (need !== undefined) traits.push(this.traitOf(need, portKey(protocol, port)));
    }
    return traits;
  }

  release(need: Need, ruleSet: RuleSet): void {
    need.ruleSets.delete(ruleSet);
    if (need.ruleSets.size === 0) this.#unused.add(need);
  }

  /** Takes out what has not been used since an earlier commit. */
  takeUnused(): Need[] {
    const gone = [...this.#unused].filter(({ ruleSets }) => ruleSets.size === 0);
    this.#unused = new Set();
    for (const need of gone) {
      need.isDropped = true;
      this.nodes.delete(need);
      if (need.peer === null) this.#byPortName.delete(need.portName);
      else this.#byText.delete(need.text);
      const item = this.#podNeeds.get(need);
      this.#podNeeds.delete(need);
      if (item !== undefined) this.#pods.delete(item);
    }
    return gone;
  }

  /** What this commit brought is no longer new. */
  settle(): void {
    for (const need of this.fresh) need.isFresh = false;
    this.fresh.clear();
  }
}

export function portKey(protocol: number, port: number): number {
  return (protocol << 16) | port;
}

/** Traits in order, with a text that tells sets apart. */
export interface TraitSet {
  readonly key: string;
  readonly traits: readonly Trait[];
}

export const NO_TRAITS: TraitSet = { key: '', traits: [] };

/** Makes sets, and one object for those that are equal, as long as a commit lasts. */
export class TraitSets {
  readonly #known = new Map<string, TraitSet>();

  /** The set of these traits; each may stand there several times. */
  of(traits: readonly Trait[]): TraitSet {
    if (traits.length === 0) return NO_TRAITS;
    const sorted = [...new Set(traits)].sort((a, b) => a.id - b.id);
    const key = sorted.map(({ id }) => id).join();
    return getOrMake(this.#known, key, () => ({ key, traits: sorted }));
  }

  with(set: TraitSet, more: readonly Trait[]): TraitSet {
    return more.length === 0 ? set : this.of([...set.traits, ...more]);
  }

  /** The set without the traits of needs that go. */
  withoutDropped(set: TraitSet): TraitSet {
    if (!set.traits.some(({ need }) => need.isDropped)) return set;
    return this.of(set.traits.filter(({ need }) => !need.isDropped));
  }

  forget(): void {
    this.#known.clear();
  }
}

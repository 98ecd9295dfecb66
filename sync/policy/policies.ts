// The policies, each in parts of one direction. A part that is the same after an update keeps its
// version, and with it the rule sets it is in. Of 10,000 policies few are about a pod of ours, so
// parts are kept as text, which takes a tenth, and read again when a pod asks for them.

import { compareText } from '../fields.ts';
import { internPart, internValue } from '../intern.ts';
import type { Group } from './inventory.ts';
import type { VersionedPart } from './rule-set.ts';
import { TIER_NETWORK_POLICY } from './rules.ts';
import type { Direction, Part, Policy } from './rules.ts';
import { SelectorIndex } from './selector-index.ts';
import type { PodSelector } from './selector-index.ts';
import { labelHandles } from './selector.ts';

/** A part's text, as JSON.stringify() makes it, and its version. */
interface KnownPart {
  text: string;
  version: number;
}

interface Known extends PodSelector, Pick<Policy, 'title' | 'tier' | 'priority'> {
  ingress: KnownPart | null;
  egress: KnownPart | null;
}

export class Policies {
  readonly #byTitle = new Map<string, Known>();
  readonly #index = new SelectorIndex<Known>();
  readonly #isolated = new Map<string, VersionedPart>();
  #versions = 0;

  titles(): IterableIterator<string> {
    return this.#byTitle.keys();
  }

  /** Enters a policy, or takes it out for null. Returns selectors of the pods that this touches. */
  set(title: string, policy: Policy | null): PodSelector[] {
    const before = this.#byTitle.get(title);
    if (before === undefined && policy === null) return [];
    const next = policy === null ? null : {
      title,
      tier: policy.tier,
      priority: policy.priority,
      namespaces: internValue(policy.namespaces),
      pods: internValue(policy.pods),
      ingress: this.#version(policy, policy.ingress, before, before?.ingress),
      egress: this.#version(policy, policy.egress, before, before?.egress),
    };
    if (before !== undefined && next !== null && isSame(before, next)) return [];
    if (before !== undefined) this.#index.delete(before);
    if (next === null) this.#byTitle.delete(title);
    else {
      this.#byTitle.set(title, next);
      this.#index.add(next);
    }
    return [before, next].filter((item) => item !== undefined && item !== null);
  }

  /** The parts that are about a group of pods, in the order in which they count. */
  about({ namespace, labels }: Group, isLegacy: boolean): Record<Direction, VersionedPart[]> {
    const found = this.#index.find(namespace, { labels, handles: labelHandles(labels) });
    const ingress = found.flatMap((policy) => read(policy, policy.ingress)).sort(compareParts);
    const egress = found.flatMap((policy) => read(policy, policy.egress)).sort(compareParts);
    if (isLegacy && namespace.isIsolated) {
      const at = ingress.findIndex(({ tier }) => tier > TIER_NETWORK_POLICY);
      ingress.splice(at < 0 ? ingress.length : at, 0, this.#isolation(namespace.name));
    }
    return { ingress, egress };
  }

  #version(
    { tier, priority }: Policy, part: Part | null, before: Known | undefined,
    known: KnownPart | null | undefined,
  ): KnownPart | null {
    if (part === null) return null;
    const text = JSON.stringify(part);
    const isSame = before?.tier === tier && before.priority === priority && known?.text === text;
    if (isSame) return known;
    this.#versions += 1;
    return { text: internPart(inOnePiece(text)), version: this.#versions };
  }

  /** What the annotation of old says about the pods of a namespace. */
  #isolation(namespace: string): VersionedPart {
    const title = `Namespace ${namespace}`;
    const known = this.#isolated.get(namespace);
    if (known !== undefined) return known;
    this.#versions += 1;
    const part = {
      title, tier: TIER_NETWORK_POLICY, priority: 0, isolates: true, rules: [],
      version: this.#versions,
    };
    this.#isolated.set(namespace, part);
    return part;
  }
}

/** The same text. JSON.stringify() leaves a tree of pieces, each with a header of its own. */
function inOnePiece(text: string): string {
  return Buffer.from(text).toString();
}

function isSame(a: Known, b: Known): boolean {
  return a.ingress === b.ingress && a.egress === b.egress
    && JSON.stringify([a.namespaces, a.pods]) === JSON.stringify([b.namespaces, b.pods]);
}

/** The part in full, or nothing. */
function read({ title, tier, priority }: Known, part: KnownPart | null): VersionedPart[] {
  if (part === null) return [];
  const { isolates, rules } = JSON.parse(part.text) as Part;
  return [{ isolates, rules, title, tier, priority, version: part.version }];
}

/** Tiers in their order, then by priority, then by name. */
function compareParts(a: VersionedPart, b: VersionedPart): number {
  return a.tier - b.tier || a.priority - b.priority || compareText(a.title, b.title);
}

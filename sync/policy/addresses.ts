// Addresses and blocks: who has an address, which blocks it lies in, and what the host is told
// about it. Blocks and their exceptions are prefixes among the addresses, so that the longest one
// that matches an address leads to its identity. A prefix whose identity is that of the one around
// it is not told.

import { addressBytes, addressText } from '../../engine/address.ts';
import type { PolicyChange } from '../../engine/model.ts';
import { compareText } from '../fields.ts';
import { NOBODY } from './identities.ts';
import { countOf, each, withOne, withoutOne } from './few.ts';
import type { Few } from './few.ts';
import { HostTable } from './host-table.ts';
import type { Identity, Plan } from './identities.ts';
import type { NodeFacts, PodFacts } from './inventory.ts';
import { PrefixTree, maskPrefix } from './prefix-tree.ts';
import { NO_TRAITS } from './traits.ts';
import type { Trait, TraitSet, TraitSets } from './traits.ts';

export interface AddressRecord {
  readonly bytes: string;
  readonly length: number;
  /** The pods that have this address. */
  pods: Few<PodFacts>;
  /** What else there is about it, which is seldom. */
  more: More;
  identity: Identity | null;
  /** The identity that the host was told; 0 for none. */
  told: number;
}

/** The nodes that have an address, the blocks that are a prefix, and those that leave it out. */
interface More {
  readonly nodes: readonly NodeFacts[];
  readonly starts: readonly Trait[];
  readonly ends: readonly Trait[];
}

const NO_MORE: More = { nodes: [], starts: [], ends: [] };
const IPV4_SIZE = 4;

export class Addresses {
  /** Records whose traits, or whose surroundings, may have changed. */
  readonly touched = new Set<AddressRecord>();
  readonly #sets: TraitSets;
  /** Single addresses, and the prefixes that blocks begin or end with. */
  readonly #hosts4 = new HostTable<AddressRecord>();
  readonly #hosts6 = new HostTable<AddressRecord>();
  readonly #blocks4 = new PrefixTree<AddressRecord>();
  readonly #blocks6 = new PrefixTree<AddressRecord>();
  #blocks = 0;

  constructor(sets: TraitSets) {
    this.#sets = sets;
  }

  claim(address: string, pod: PodFacts): AddressRecord {
    const record = this.#at(hostKey(address));
    record.pods = withOne(record.pods, pod);
    this.touched.add(record);
    return record;
  }

  giveUp(record: AddressRecord, pod: PodFacts): void {
    record.pods = withoutOne(record.pods, pod);
    this.touched.add(record);
  }

  claimForNode(address: string, node: NodeFacts): AddressRecord {
    const record = this.#at(hostKey(address));
    record.more = { ...record.more, nodes: [...record.more.nodes, node] };
    this.touched.add(record);
    return record;
  }

  giveUpForNode(record: AddressRecord, node: NodeFacts): void {
    record.more = {
      ...record.more, nodes: record.more.nodes.filter((other) => other !== node),
    };
    this.touched.add(record);
  }

  /** Enters a block whose addresses have this trait. */
  addBlock(trait: Trait, cidr: string, except: readonly string[]): void {
    this.#blocks += 1;
    const whole = this.#at(prefixBytes(cidr));
    whole.more = { ...whole.more, starts: [...whole.more.starts, trait] };
    for (const text of except) {
      const hole = this.#at(prefixBytes(text));
      hole.more = { ...hole.more, ends: [...hole.more.ends, trait] };
    }
    this.#touchInside(whole);
  }

  removeBlock(trait: Trait, cidr: string, except: readonly string[]): void {
    this.#blocks -= 1;
    const whole = this.#at(prefixBytes(cidr));
    const starts = whole.more.starts.filter((other) => other !== trait);
    whole.more = { ...whole.more, starts };
    for (const text of except) {
      const hole = this.#at(prefixBytes(text));
      const ends = hole.more.ends.filter((other) => other !== trait);
      hole.more = { ...hole.more, ends };
    }
    this.#touchInside(whole);
  }

  /** The touched records that have other traits than before. */
  plan(): Plan[] {
    const plans: Plan[] = [];
    for (const record of this.touched) {
      const isGone = isEmpty(record);
      const traits = isGone ? NO_TRAITS : this.#traitsOf(record);
      const { identity } = record;
      if (traits.key === (identity?.traits.key ?? '') && !identity?.guests) continue;
      plans.push({ record, traits, from: this.#numberTold(record), isGone });
    }
    return plans;
  }

  /** Writes what the host must be told about the touched records, and forgets empty ones. Where it
   * is not wanted, no more is written than shows that there is something. */
  tell(change: PolicyChange, isWanted: boolean): void {
    for (const record of this.touched) {
      const number = this.#numberToTell(record);
      if (number !== record.told && (isWanted || change.identities.length === 0)) {
        change.identities.push([recordPrefix(record), number]);
      }
      record.told = number;
      if (!isEmpty(record)) continue;
      if (isHost(record)) this.#hostsOf(record.bytes).delete(record);
      else this.#blocksOf(record.bytes).delete(record.bytes, record.length);
    }
    this.touched.clear();
  }

  /** Everything that the host was told, made as it is taken. Until then nothing is committed. */
  * allTold(): Generator<[string, number]> {
    for (const all of [this.#hosts4, this.#hosts6, this.#blocks4, this.#blocks6]) {
      for (const record of all.values()) {
        if (record.told !== 0) yield [recordPrefix(record), record.told];
      }
    }
  }

  #at({ bytes, length }: { bytes: string; length: number }): AddressRecord {
    const hosts = length === bytes.length * 8 ? this.#hostsOf(bytes) : null;
    const blocks = this.#blocksOf(bytes);
    const known = hosts === null ? blocks.get(bytes, length) : hosts.get(bytes);
    if (known !== null) return known;
    const record: AddressRecord = {
      bytes, length, pods: null, more: NO_MORE, identity: null, told: 0,
    };
    if (hosts === null) blocks.set(bytes, length, record);
    else hosts.add(record);
    return record;
  }

  #hostsOf(bytes: string): HostTable<AddressRecord> {
    return bytes.length === IPV4_SIZE ? this.#hosts4 : this.#hosts6;
  }

  #blocksOf(bytes: string): PrefixTree<AddressRecord> {
    return bytes.length === IPV4_SIZE ? this.#blocks4 : this.#blocks6;
  }

  #touchInside({ bytes, length }: AddressRecord): void {
    this.#blocksOf(bytes).forEachInside(bytes, length, (record) => this.touched.add(record));
    for (const record of this.#hostsOf(bytes).inside(bytes, length)) this.touched.add(record);
  }

  #around(record: AddressRecord): AddressRecord[] {
    const around: AddressRecord[] = [];
    if (this.#blocks === 0) return around;
    this.#blocksOf(record.bytes).collectAround(record.bytes, record.length, around);
    if (isHost(record)) around.push(record);
    return around;
  }

  #traitsOf(record: AddressRecord): TraitSet {
    const blocks = new Set<Trait>();
    for (const { more: { starts, ends } } of this.#around(record)) {
      for (const trait of starts) blocks.add(trait);
      for (const trait of ends) blocks.delete(trait);
    }
    const traits = ownerOf(record)?.group.traits ?? NO_TRAITS;
    const { nodes } = record.more;
    if (blocks.size === 0 && nodes.length === 0) return traits;
    return this.#sets.with(traits, [
      ...blocks, ...nodes.flatMap((node) => node.traits.traits),
    ]);
  }

  /** The identity that the host finds for an address. */
  #numberTold(record: AddressRecord): number {
    if (record.told !== 0) return record.told;
    return this.#around(record).findLast(({ told }) => told !== 0)?.told ?? NOBODY;
  }

  #numberToTell(record: AddressRecord): number {
    if (isEmpty(record)) return 0;
    const own = record.identity?.number ?? NOBODY;
    const outer = this.#around(record).findLast((other) => other !== record && isBlock(other));
    return own === (outer?.identity?.number ?? NOBODY) ? 0 : own;
  }
}

function isBlock({ more: { starts, ends } }: AddressRecord): boolean {
  return starts.length > 0 || ends.length > 0;
}

function isEmpty(record: AddressRecord): boolean {
  return record.pods === null && record.more.nodes.length === 0 && !isBlock(record);
}

/** A single address. */
function isHost({ bytes, length }: AddressRecord): boolean {
  return length === bytes.length * 8;
}

/** Whether these are the addresses of the records, in their order. */
export function areAt(records: Few<AddressRecord>, addresses: readonly string[]): boolean {
  if (countOf(records) !== addresses.length) return false;
  let at = 0;
  for (const { bytes } of each(records)) {
    if (hostKey(addresses[at] ?? '').bytes !== bytes) return false;
    at += 1;
  }
  return true;
}

/** Of several pods that claim an address: one that runs, then the newest. */
function ownerOf({ pods }: AddressRecord): PodFacts | null {
  return pods instanceof Set ? [...pods].sort(compareClaims)[0] ?? null : pods;
}

function compareClaims(a: PodFacts, b: PodFacts): number {
  return Number(b.isRunning) - Number(a.isRunning)
    || b.created - a.created
    || compareText(b.uid, a.uid)
    || compareText(a.key, b.key);
}

function hostKey(address: string): { bytes: string; length: number } {
  const bytes = addressBytes(address);
  return { bytes: String.fromCharCode(...bytes), length: bytes.length * 8 };
}

function prefixBytes(prefix: string): { bytes: string; length: number } {
  const [address = '', text] = prefix.split('/');
  const length = Number(text);
  return { bytes: maskPrefix(hostKey(address).bytes, length), length };
}

function recordPrefix({ bytes, length }: AddressRecord): string {
  const values = Array.from(bytes, (character) => character.charCodeAt(0));
  const text = values.length === IPV4_SIZE ? values.join('.')
    : addressText(Uint8Array.from(values));
  return `${text}/${length}`;
}

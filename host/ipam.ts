// Addresses of pods: which are given to whom, on disk, so that none is given twice and none is
// lost, whatever ends when.
//
// Theory of operation. A pod gets the same host number in every one of the node's pod networks, so
// that the free numbers of an IPv4 /24 decide over its IPv6 /64 too. Numbers never given come
// first; then the one that was given back longest ago, so that an address rests as long as the
// others allow. Numbers 0 (the node's own base address) and 1 (the gateway, where a bridge is used
// instead of us) are not given, nor IPv4's broadcast address.
//
// Each attachment is one file, named by its addresses: `10.244.1.5,fd00:10:244:1::5`. It holds who
// has them, or since when nobody has. One rename changes it (durable.ts), both addresses at once.
// States of an attachment: claimed, while the plugin is at work; ready, once the runtime may have
// been told. At a start the claimed are given back, since who claimed them is told so, and those of
// another boot, since no pod outlives one. A damaged file is set aside as `NAME.corrupt`: its name
// still says which addresses are in doubt, and these are given to nobody until the runtime has
// listed what is attached and nothing on that list is missing here.

import { addressBytes, addressText, isAddress, prefixBase, prefixHolds, prefixKey } from
  '../engine/address.ts';
import { FrameReader, encodeFrame } from '../engine/frame.ts';
import type { Log } from '../engine/log.ts';
import {
  AddressFileSchema, type Attachment, type AttachmentKey, type CniGc,
} from '../engine/model.ts';
import { parseShape } from '../engine/shape.ts';
import { removeFile, removeUnfinished, replaceFile, type Files } from './durable.ts';
import { ADDRESS_NUMBER_LIMIT, FREE_ADDRESS_FILE_LIMIT } from './limits.ts';

/** The first host number that a pod may get. */
const FIRST_NUMBER = 2;
const DAMAGED = '.corrupt';
const IN_DOUBT = 'a damaged file';

/** Every address of the node's pod networks is given. */
export class AddressesExhaustedError extends Error {
  override name = 'AddressesExhaustedError';
}

export interface IpamOptions {
  files: Files;
  log: Log;
  /** Names this run of the kernel. */
  boot: string;
  /** Unix time. */
  nowMs(): number;
}

/** What an attachment is to be, all but its addresses. */
export type Claim = Omit<Attachment, 'addresses' | 'isDelegated' | 'state' | 'boot'>;

/** What the cluster says of addresses: those of the pod at hand, and those of others. */
export interface Expectations {
  own: readonly string[];
  others: Set<string>;
}

/** The text that an attachment is known by. */
export function keyText({ containerId, interfaceName }: AttachmentKey): string {
  return `${containerId}/${interfaceName}`;
}

export class Ipam {
  readonly #options: IpamOptions;
  readonly #attachments = new Map<string, Attachment>();
  /** Who holds each address: an attachment's key, or a damaged file. */
  readonly #holders = new Map<string, string>();
  /** Names of damaged files. */
  readonly #damaged = new Set<string>();
  /** Addresses given back, by file name, the longest ago first. */
  readonly #released = new Map<string, number>();
  #ranges: string[] = [];
  /** Every number below has been held or is among the released. */
  #fresh = FIRST_NUMBER;

  constructor(options: IpamOptions) {
    this.#options = options;
  }

  /** What is attached, and what is being attached. */
  get attachments(): Attachment[] {
    return [...this.#attachments.values()];
  }

  /** One line for each address that nobody gets because its file is damaged. */
  problems(): string[] {
    return [...this.#damaged].map((name) =>
      `addresses ${name} are in doubt: their file was damaged, see ${name}${DAMAGED}`);
  }

  /** How many addresses of the networks pods have, for `culvert status`. */
  table(): { name: string; used: number; limit: number } {
    const limit = Math.max(lastNumber(this.#ranges) - FIRST_NUMBER + 1, 0);
    return { name: 'pod addresses', used: this.#attachments.size + this.#damaged.size, limit };
  }

  find(key: AttachmentKey): Attachment | undefined {
    return this.#attachments.get(keyText(key));
  }

  /** Reads what is on disk. To be called once, first. Throws what the file system refuses. */
  open(): void {
    const { files, boot } = this.#options;
    removeUnfinished(files);
    const released: [string, number][] = [];
    for (const name of files.list()) {
      if (name.endsWith(DAMAGED)) this.#doubt(name.slice(0, -DAMAGED.length));
      else this.#readFile(name, released);
    }
    for (const [name, ms] of released.sort(([, a], [, b]) => a - b)) this.#released.set(name, ms);
    for (const attachment of this.attachments) {
      if (attachment.state === 'ready' && attachment.boot === boot) continue;
      this.release(attachment);
    }
  }

  /** Sets the networks to give addresses from: the first of each family. */
  setRanges(podCidrs: readonly string[]): void {
    const ipv4 = podCidrs.find((prefix) => !prefix.includes(':'));
    const ipv6 = podCidrs.find((prefix) => prefix.includes(':'));
    const ranges = [ipv4, ipv6].filter((prefix) => prefix !== undefined);
    if (ranges.join() === this.#ranges.join()) return;
    this.#ranges = ranges;
    this.#fresh = FIRST_NUMBER;
  }

  get ranges(): readonly string[] {
    return this.#ranges;
  }

  /** Gives addresses, ours or the `given` ones of another IPAM plugin. Ours are those that are
   * expected, where they are free, and those expected for others only where nothing else is. Throws
   * AddressesExhaustedError, and an Error where a given one is taken; then nothing has changed. */
  claim(
    claim: Claim, given: readonly string[] | null,
    { own, others }: Expectations = { own: [], others: new Set() },
  ): Attachment {
    if (this.find(claim) !== undefined) throw new Error(`${keyText(claim)} has addresses already`);
    const addresses = given !== null ? [...given] : this.#expected(own) ?? this.#choose(others);
    for (const address of addresses) {
      const holder = this.#holders.get(address);
      if (holder !== undefined) throw new Error(`${address} is held by ${holder}`);
    }
    const attachment: Attachment = {
      ...claim, addresses, isDelegated: given !== null, state: 'claimed', boot: this.#options.boot,
    };
    this.#write(addresses, attachment);
    this.#enter(attachment);
    return attachment;
  }

  /** Marks an attachment as one that the runtime may have been told of. */
  confirm(key: AttachmentKey): void {
    const attachment = this.find(key);
    if (attachment === undefined) throw new Error(`${keyText(key)} is not attached`);
    this.#write(attachment.addresses, { ...attachment, state: 'ready' });
    attachment.state = 'ready';
  }

  /** Takes the addresses back. False where there is no such attachment. */
  release(key: AttachmentKey): boolean {
    const attachment = this.find(key);
    if (attachment === undefined) return false;
    const name = fileName(attachment.addresses);
    const isOurs = this.#isOurs(attachment.addresses);
    if (attachment.isDelegated) removeFile(this.#options.files, name);
    else this.#writeReleased(attachment.addresses);
    this.#attachments.delete(keyText(key));
    for (const address of attachment.addresses) this.#holders.delete(address);
    if (!isOurs) this.#fresh = FIRST_NUMBER;
    this.#limitReleased();
    return true;
  }

  /** The attachments of a network that the runtime's list of valid ones leaves out, for the caller
   * to end and release. Where the list has nothing that is unknown here, no damaged file can be a
   * pod's any more: addresses in doubt are free again. */
  leftOver({ network, valid }: CniGc): Attachment[] {
    const named = new Set(valid.map(keyText));
    const isOnly = this.attachments.every((attachment) => attachment.network === network);
    if (isOnly && [...named].every((key) => this.#attachments.has(key))) this.#settleDoubts();
    return this.attachments.filter((attachment) =>
      attachment.network === network && !named.has(keyText(attachment)));
  }

  #readFile(name: string, released: [string, number][]): void {
    const { files, log } = this.#options;
    const addresses = name.split(',');
    if (!addresses.every(isAddress)) return log.warn({ file: name }, 'not a file of addresses');
    try {
      const { attachment, releasedMs } = decode(files.read(name));
      if (attachment === null) {
        released.push([name, releasedMs]);
        return;
      }
      const isNamedSo = fileName(attachment.addresses) === name;
      const isNew = this.find(attachment) === undefined;
      if (!isNamedSo || !isNew) throw new Error('it contradicts its name or another file');
      this.#enter(attachment);
    } catch (error) {
      const aside = `${name}${DAMAGED}`;
      files.rename(name, aside);
      files.syncFolder();
      this.#doubt(name);
      log.error({ file: name, aside, error: (error as Error).message },
        'file of addresses is damaged; nobody gets them until the runtime has listed its pods');
    }
  }

  #doubt(name: string): void {
    this.#damaged.add(name);
    for (const address of name.split(',')) this.#holders.set(address, IN_DOUBT);
  }

  #settleDoubts(): void {
    for (const name of this.#damaged) {
      removeFile(this.#options.files, `${name}${DAMAGED}`);
      for (const address of name.split(',')) {
        if (this.#holders.get(address) === IN_DOUBT) this.#holders.delete(address);
      }
      this.#damaged.delete(name);
      this.#fresh = FIRST_NUMBER;
    }
  }

  #enter(attachment: Attachment): void {
    const key = keyText(attachment);
    this.#attachments.set(key, attachment);
    for (const address of attachment.addresses) this.#holders.set(address, key);
    this.#released.delete(fileName(attachment.addresses));
  }

  #write(addresses: readonly string[], attachment: Attachment | null): void {
    const content = { attachment, releasedMs: attachment === null ? this.#options.nowMs() : 0 };
    replaceFile(this.#options.files, fileName(addresses), encodeFrame(content));
  }

  /** A full disk keeps nobody from giving back: the file goes, and the resting time with it. */
  #writeReleased(addresses: readonly string[]): void {
    const name = fileName(addresses);
    try {
      this.#write(addresses, null);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ENOSPC') throw error;
      removeFile(this.#options.files, name);
    }
    this.#released.set(name, this.#options.nowMs());
  }

  /** Forgets who rested longest, where many do. */
  #limitReleased(): void {
    for (const name of this.#released.keys()) {
      if (this.#released.size <= FREE_ADDRESS_FILE_LIMIT) return;
      removeFile(this.#options.files, name);
      this.#released.delete(name);
      this.#fresh = FIRST_NUMBER;
    }
  }

  /** The addresses of one number that are all expected, or null. */
  #expected(own: readonly string[]): string[] | null {
    const [range] = this.#ranges;
    const first = own.find((address) => range !== undefined && prefixHolds(range, address));
    if (range === undefined || first === undefined) return null;
    const addresses = this.#addressesAt(numberOf(range, first));
    const isOurs = this.#isOurs(addresses) && addresses.every((address) => own.includes(address));
    return isOurs && this.#areFree(addresses) ? addresses : null;
  }

  #choose(others: ReadonlySet<string>): string[] {
    const last = lastNumber(this.#ranges);
    const isOthers = (addresses: string[]): boolean =>
      addresses.some((address) => others.has(address));
    const leftOver: string[][] = [];
    for (let number = this.#fresh; number <= last; number += 1) {
      const addresses = this.#addressesAt(number);
      const isFresh = this.#areFree(addresses) && !this.#released.has(fileName(addresses));
      if (isFresh && !isOthers(addresses)) return addresses;
      if (isFresh) leftOver.push(addresses);
      // What is left out for others now may be had later.
      if (leftOver.length === 0) this.#fresh = number + 1;
    }
    for (const name of this.#released.keys()) {
      const addresses = name.split(',');
      const isFree = this.#isOurs(addresses) && this.#areFree(addresses);
      if (isFree && !isOthers(addresses)) return addresses;
      if (isFree) leftOver.push(addresses);
    }
    const [rest] = leftOver;
    if (rest !== undefined) return rest;
    const ranges = this.#ranges.join(' and ') || 'no network at all';
    throw new AddressesExhaustedError(
      `no address is free in ${ranges}: all ${Math.max(last - FIRST_NUMBER + 1, 0)} are in use`);
  }

  #addressesAt(number: number): string[] {
    return this.#ranges.map((range) => addressAt(range, number));
  }

  #areFree(addresses: readonly string[]): boolean {
    return addresses.every((address) => !this.#holders.has(address));
  }

  /** Whether these are the addresses of one number of the networks as they are now. */
  #isOurs(addresses: readonly string[]): boolean {
    const [range] = this.#ranges;
    const [first] = addresses;
    if (range === undefined || first === undefined || !prefixHolds(range, first)) return false;
    const number = numberOf(range, first);
    const isInside = number >= FIRST_NUMBER && number <= lastNumber(this.#ranges);
    return isInside && fileName(this.#addressesAt(number)) === fileName(addresses);
  }
}

function fileName(addresses: readonly string[]): string {
  return addresses.join(',');
}

/** Throws FrameError or ShapeError for anything but one whole file. */
function decode(bytes: Uint8Array): { attachment: Attachment | null; releasedMs: number } {
  const reader = new FrameReader();
  const values = reader.push(bytes);
  if (values.length !== 1 || reader.pending > 0) throw new Error('it is not one frame');
  return parseShape(AddressFileSchema, values[0], 'file of addresses');
}

/** The last host number that all networks have. */
function lastNumber(ranges: readonly string[]): number {
  const lasts = ranges.map((range) => {
    const { family, length } = prefixKey(range);
    const bits = (family === 'IPv4' ? 32 : 128) - length;
    const broadcast = family === 'IPv4' ? 1 : 0;
    return (2 ** bits) - 1 - broadcast;
  });
  return ranges.length === 0 ? 0 : Math.min(ADDRESS_NUMBER_LIMIT, ...lasts);
}

/** The address that is `number` after the first of a network. */
function addressAt(range: string, number: number): string {
  const bytes = addressBytes(prefixBase(range));
  let rest = number;
  for (let at = bytes.length - 1; at >= 0 && rest > 0; at -= 1) {
    const sum = (bytes[at] ?? 0) + (rest % 256);
    bytes[at] = sum % 256;
    rest = Math.floor(rest / 256) + (sum > 255 ? 1 : 0);
  }
  return addressText(bytes);
}

/** How far an address is from the first of its network; rounded where that is more than 2^53. */
function numberOf(range: string, address: string): number {
  const base = addressBytes(prefixBase(range));
  return addressBytes(address).reduce((sum, byte, at) => (sum * 256) + byte - (base[at] ?? 0), 0);
}

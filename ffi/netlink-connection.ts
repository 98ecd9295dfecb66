// One rtnetlink socket: request and answer, attributes, errors with names.
//
// RFC 3549 and rtnetlink(7). The `netlink` package gives the socket, sequence numbers, multipart
// answers and the attribute stream. Its typed messages are not used: they cost 9 MB of resident
// memory and do not build nested link data. The two files imported here are its lower layers.

import { createNetlink, type NetlinkSocket } from 'netlink/dist/netlink.js';
import { AttrStream, parseAttributes, parseError } from 'netlink/dist/structs.js';
import { SystemError, type Remedies } from './errno.ts';

const NETLINK_ROUTE = 0;
const NLMSG_ERROR = 2;
const NLM_F_DUMP = 0x300;
/** Only changes what exists. */
export const NLM_F_REPLACE = 0x100;
/** Refuses what exists already. */
export const NLM_F_EXCL = 0x200;
export const NLM_F_CREATE = 0x400;

const TIMEOUT_MS = 10_000;

const REMEDIES: Remedies = {
  EPERM: 'CAP_NET_ADMIN is needed',
  EOPNOTSUPP: 'this kernel does not have it',
  EEXIST: 'it exists already',
  ENODEV: 'there is no such interface in this network namespace',
};

/** Attributes of one message by number; of repeated ones, the last. */
export type Attributes = Map<number, Buffer>;

/** One received object: its fixed header and what follows. */
export interface NetlinkObject {
  header: Buffer;
  attributes: Attributes;
}

/** A message under construction: fixed header first, then attributes. */
export class MessageBuilder {
  readonly #stream = new AttrStream();

  constructor(header: Uint8Array) {
    this.#stream.emit(header);
  }

  get parts(): Uint8Array[] {
    return this.#stream.bufs;
  }

  bytes(type: number, value: Uint8Array): this {
    this.#stream.push(type, value);
    return this;
  }

  u8(type: number, value: number): this {
    return this.bytes(type, Uint8Array.of(value));
  }

  u32(type: number, value: number): this {
    const bytes = Buffer.alloc(4);
    bytes.writeUInt32LE(value >>> 0);
    return this.bytes(type, bytes);
  }

  /** A number in network order, as ports are. */
  port(type: number, value: number): this {
    return this.bytes(type, Uint8Array.of(value >>> 8, value & 0xff));
  }

  text(type: number, value: string): this {
    return this.bytes(type, Buffer.from(`${value}\0`, 'utf8'));
  }

  /** An attribute that holds attributes, optionally after a fixed header of its own. */
  nest(type: number, fill: (builder: this) => void, header?: Uint8Array): this {
    this.#stream.push(type, () => {
      if (header !== undefined) this.#stream.emit(header);
      fill(this);
    });
    return this;
  }
}

/**
 * A socket of the network namespace its thread was in when it was made. Requests wait for each
 * other: the kernel puts other answers between the parts of a long one, which the package takes for
 * its end.
 */
export class NetlinkConnection {
  readonly #socket: NetlinkSocket = createNetlink(NETLINK_ROUTE);
  #last: Promise<unknown> = Promise.resolve();

  /** Sends a request and waits for the kernel's yes; throws a SystemError for its no. */
  async change(
    type: number, message: MessageBuilder, flags: number, operation: string, object: string,
  ): Promise<void> {
    await this.#request(type, message, flags, operation, object);
  }

  /** Asks for one object. */
  async get(
    type: number, message: MessageBuilder, headerSize: number, operation: string, object: string,
  ): Promise<NetlinkObject> {
    const [first] = await this.#request(type, message, 0, operation, object);
    if (first === undefined) throw new Error(`${operation} on ${object}: empty answer`);
    return parseObject(first, headerSize);
  }

  /** Asks for all objects of a kind. */
  async dump(
    type: number, message: MessageBuilder, headerSize: number, operation: string,
  ): Promise<NetlinkObject[]> {
    const answers = await this.#request(type, message, NLM_F_DUMP, operation, 'all');
    return answers.map((answer) => parseObject(answer, headerSize));
  }

  close(): void {
    this.#socket.close();
  }

  #request(
    type: number, message: MessageBuilder, flags: number, operation: string, object: string,
  ): Promise<Buffer[]> {
    const answer = this.#last.then(() => this.#exchange(type, message, flags, operation, object));
    this.#last = answer.catch(() => {});
    return answer;
  }

  async #exchange(
    type: number, message: MessageBuilder, flags: number, operation: string, object: string,
  ): Promise<Buffer[]> {
    const options = { flags, timeout: TIMEOUT_MS, checkError: false };
    const [answers] = await this.#socket.request(type, message.parts, options);
    const first = answers[0];
    if (first?.type !== NLMSG_ERROR) return answers.map((answer) => answer.data);
    const { errno } = parseError(first.data, first.flags);
    if (errno !== 0) throw new SystemError(operation, object, errno, REMEDIES);
    return [];
  }
}

function parseObject(data: Buffer, headerSize: number): NetlinkObject {
  return { header: data.subarray(0, headerSize), attributes: parseNested(data, headerSize) };
}

/** Attributes inside a buffer, from `start` on. */
export function parseNested(data: Buffer, start = 0): Attributes {
  const attributes: Attributes = new Map();
  parseAttributes(data.subarray(start), ({ type, data: value }) => attributes.set(type, value));
  return attributes;
}

/** Text attribute without its final zero byte. */
export function textOf(value: Buffer | undefined): string | undefined {
  return value?.toString('utf8').replace(/\0+$/, '');
}

/** 32-bit attribute. */
export function u32Of(value: Buffer | undefined): number | undefined {
  return value?.readUInt32LE(0);
}

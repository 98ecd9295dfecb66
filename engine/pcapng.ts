// Blocks of a capture file that Wireshark and tshark read (draft-ietf-opsawg-pcapng, sections 4.1
// to 4.3 and 4.6): a section header, an interface for each device, packets with comments, and in
// the end how many packets there was no room for. Blocks are little-endian and may go out one by
// one.

const BLOCK_SECTION = 0x0a0d0d0a;
const BLOCK_INTERFACE = 1;
const BLOCK_STATISTICS = 5;
const BLOCK_PACKET = 6;
const BYTE_ORDER_MAGIC = 0x1a2b3c4d;
const SECTION_LENGTH_UNKNOWN = 0xffffffff;
/** Type and both lengths. */
const BLOCK_FRAME_SIZE = 12;

const OPTION_END = 0;
const OPTION_COMMENT = 1;
const OPTION_INTERFACE_NAME = 2;
const OPTION_INTERFACE_DESCRIPTION = 3;
const OPTION_PACKET_FLAGS = 2;
const OPTION_USER_APPLICATION = 4;
const OPTION_STATISTICS_RECEIVED = 4;
const OPTION_STATISTICS_DROPPED = 5;

/** Link types, https://www.tcpdump.org/linktypes.html. */
export const LINK_TYPE_ETHERNET = 1;
export const LINK_TYPE_RAW = 101;
export const LINK_TYPE_USER0 = 147;

/** Which way a packet went, as a packet's flags say it. */
export const FLAG_INBOUND = 1;
export const FLAG_OUTBOUND = 2;

export interface CaptureInterface {
  name: string;
  description: string;
  linkType: number;
  /** Bytes of a packet at most. */
  snapLength: number;
}

export interface CapturedPacket {
  /** Number of the interface, in the order in which they were written. */
  interface: number;
  timeMs: number;
  bytes: Uint8Array;
  /** What the packet had before it was cut short. */
  length: number;
  flags: number;
  comment: string;
}

/** The first block of a file. */
export function sectionBlock(application: string): Uint8Array {
  const body = new DataView(new ArrayBuffer(16));
  body.setUint32(0, BYTE_ORDER_MAGIC, true);
  body.setUint16(4, 1, true);
  body.setUint32(8, SECTION_LENGTH_UNKNOWN, true);
  body.setUint32(12, SECTION_LENGTH_UNKNOWN, true);
  return block(BLOCK_SECTION, [
    bytesOf(body), ...options([[OPTION_USER_APPLICATION, ascii(application)]]),
  ]);
}

/** Describes the next interface. Times are microseconds, as they are unless it says otherwise. */
export function interfaceBlock(
  { name, description, linkType, snapLength }: CaptureInterface,
): Uint8Array {
  const body = new DataView(new ArrayBuffer(8));
  body.setUint16(0, linkType, true);
  body.setUint32(4, snapLength, true);
  return block(BLOCK_INTERFACE, [
    bytesOf(body),
    ...options([
      [OPTION_INTERFACE_NAME, ascii(name)], [OPTION_INTERFACE_DESCRIPTION, ascii(description)],
    ]),
  ]);
}

export function packetBlock(packet: CapturedPacket): Uint8Array {
  const { bytes, length, flags, comment } = packet;
  const body = new DataView(new ArrayBuffer(20));
  body.setUint32(0, packet.interface, true);
  writeTime(body, 4, packet.timeMs);
  body.setUint32(12, bytes.length, true);
  body.setUint32(16, length, true);
  const flagWord = new DataView(new ArrayBuffer(4));
  flagWord.setUint32(0, flags, true);
  return block(BLOCK_PACKET, [
    bytesOf(body), padded(bytes),
    ...options([
      ...comment === '' ? [] : [[OPTION_COMMENT, ascii(comment)] as const],
      ...flags === 0 ? [] : [[OPTION_PACKET_FLAGS, bytesOf(flagWord)] as const],
    ]),
  ]);
}

/** Says of an interface how many packets came, and how many of them are not in the file. */
export function statisticsBlock(
  number: number, timeMs: number, received: number, dropped: number,
): Uint8Array {
  const body = new DataView(new ArrayBuffer(12));
  body.setUint32(0, number, true);
  writeTime(body, 4, timeMs);
  return block(BLOCK_STATISTICS, [
    bytesOf(body),
    ...options([
      [OPTION_STATISTICS_RECEIVED, count64(received)],
      [OPTION_STATISTICS_DROPPED, count64(dropped)],
    ]),
  ]);
}

/** Microseconds since 1970, the upper half first. */
function writeTime(view: DataView, at: number, timeMs: number): void {
  const time = BigInt(Math.round(timeMs * 1000));
  view.setUint32(at, Number(time >> 32n), true);
  view.setUint32(at + 4, Number(time & 0xffffffffn), true);
}

function count64(value: number): Uint8Array {
  const view = new DataView(new ArrayBuffer(8));
  view.setBigUint64(0, BigInt(value), true);
  return bytesOf(view);
}

/** Options with their end; nothing where there are none. */
function options(list: readonly (readonly [code: number, value: Uint8Array])[]): Uint8Array[] {
  if (list.length === 0) return [];
  return [...list, [OPTION_END, new Uint8Array(0)] as const].flatMap(([code, value]) => {
    const head = new DataView(new ArrayBuffer(4));
    head.setUint16(0, code, true);
    head.setUint16(2, value.length, true);
    return [bytesOf(head), padded(value)];
  });
}

/** Puts type and length in front of a block, and the length behind it. */
function block(type: number, parts: readonly Uint8Array[]): Uint8Array {
  const size = BLOCK_FRAME_SIZE + parts.reduce((sum, { length }) => sum + length, 0);
  const bytes = new Uint8Array(size);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, type, true);
  view.setUint32(4, size, true);
  let at = 8;
  for (const part of parts) {
    bytes.set(part, at);
    at += part.length;
  }
  view.setUint32(at, size, true);
  return bytes;
}

/** Everything in a block begins at a multiple of four. */
function padded(bytes: Uint8Array): Uint8Array {
  if (bytes.length % 4 === 0) return bytes;
  const whole = new Uint8Array(Math.ceil(bytes.length / 4) * 4);
  whole.set(bytes);
  return whole;
}

function bytesOf(view: DataView): Uint8Array {
  return new Uint8Array(view.buffer, view.byteOffset, view.byteLength);
}

/** Text of names and reasons, which is ASCII and so UTF-8, too. */
function ascii(text: string): Uint8Array {
  return Uint8Array.from(text, (letter) => letter < '\x80' ? letter.charCodeAt(0) : 0x3f);
}

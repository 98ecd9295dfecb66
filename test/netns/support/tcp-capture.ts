// TCP segments that cross a pod's interface, as its kernel sees them: whole super-packets where it
// has offloads.

import { closeFd } from '../../../ffi/file.ts';
import { openPacketSocket, receiveFrame } from '../../../ffi/raw-socket.ts';
import { setOption } from '../../../ffi/socket.ts';
import type { Host } from '../../../cli/demo/bed.ts';
import { PROTOCOL, parseIpv4, parseIpv6, read16, read32 } from '../../support/packets.ts';

/** A segment with data or FIN. `timestamp` is the sender's (RFC 7323), null without. */
export interface Segment {
  isOutgoing: boolean;
  destinationPort: number;
  sequence: number;
  length: number;
  flags: number;
  urgent: number;
  timestamp: number | null;
}

export const TCP_FLAG = { fin: 0x01, psh: 0x08, urg: 0x20 } as const;

const SOL_SOCKET = 1;
const SO_RCVBUFFORCE = 33;
const QUEUE_BYTES = 16 << 20;
const FRAME_SIZE_MAX = 65_536 + 64;
const OPTION = { end: 0, nop: 1, timestamps: 8 };

export class TcpCapture {
  readonly segments: Segment[] = [];
  readonly #fd: number;
  readonly #linkSize: number;
  readonly #buffer = new Uint8Array(FRAME_SIZE_MAX);
  readonly #timer: NodeJS.Timeout;

  /** Captures from now on. `linkSize` is that of the interface: 0 for a TUN, 14 for a veth. */
  constructor(host: Host, device: string, linkSize: number) {
    this.#fd = host.namespace.run(() => openPacketSocket(device));
    this.#linkSize = linkSize;
    setOption(this.#fd, SOL_SOCKET, SO_RCVBUFFORCE, QUEUE_BYTES, 'SO_RCVBUFFORCE');
    this.#timer = setInterval(() => this.drain(), 1);
  }

  /** Takes all that has crossed so far. */
  drain(): void {
    for (;;) {
      const frame = receiveFrame(this.#fd, this.#buffer, 0);
      if (frame === null) return;
      const segment = parse(this.#buffer.slice(this.#linkSize, frame.length), frame.outgoing);
      if (segment !== null) this.segments.push(segment);
    }
  }

  close(): void {
    clearInterval(this.#timer);
    closeFd(this.#fd);
  }
}

function parse(packet: Uint8Array, isOutgoing: boolean): Segment | null {
  const isIpv4 = (packet[0] ?? 0) >> 4 === 4;
  const protocol = isIpv4 ? parseIpv4(packet).protocol : parseIpv6(packet).nextHeader;
  if (protocol !== PROTOCOL.tcp) return null;
  const end = isIpv4 ? parseIpv4(packet).totalLength : 40 + parseIpv6(packet).payloadLength;
  const tcp = packet.subarray(isIpv4 ? parseIpv4(packet).headerSize : 40, end);
  const headerSize = ((tcp[12] ?? 0) >> 4) * 4;
  const flags = tcp[13] ?? 0;
  if (tcp.length === headerSize && (flags & TCP_FLAG.fin) === 0) return null;
  return {
    isOutgoing, destinationPort: read16(tcp, 2), sequence: read32(tcp, 4),
    length: tcp.length - headerSize, flags, urgent: read16(tcp, 18),
    timestamp: timestampOf(tcp.subarray(20, headerSize)),
  };
}

function timestampOf(options: Uint8Array): number | null {
  for (let at = 0; at < options.length;) {
    const [kind = 0, size = 0] = options.subarray(at);
    if (kind === OPTION.timestamps) return read32(options, at + 2);
    if (kind === OPTION.end || (kind !== OPTION.nop && size < 2)) return null;
    at += kind === OPTION.nop ? 1 : size;
  }
  return null;
}

// The thread of eager.ts.

import { parentPort } from 'node:worker_threads';
import { addressFamily, addressText, type Family } from '../../../engine/address.ts';
import { closeFd } from '../../../ffi/file.ts';
import { openNamespace } from '../../../ffi/netns.ts';
import {
  lostFrames, openIpSocket, openPacketSocket, receiveFrame, sendTo,
} from '../../../ffi/raw-socket.ts';
import { setReceiveBuffer } from '../../../ffi/socket.ts';
import {
  IPV4_DESTINATION, IPV4_PROTOCOL, IPV4_SOURCE, IPV6_DESTINATION, IPV6_HEADER_SIZE,
  IPV6_NEXT_HEADER, IPV6_SOURCE, PROTOCOL_ICMP, PROTOCOL_ICMPV6, PROTOCOL_TCP, PROTOCOL_UDP,
} from '../../../wasm/abi/headers.ts';
import {
  EAGER_PORT, nowMs, type Arrival, type EagerReport, type EagerRequest, type Pace, type Protocol,
  type Sent, type Shot,
} from './eager.ts';

interface Pod {
  name: string;
  /** By family and protocol number. */
  senders: Map<string, number>;
  watcher: number;
  shots: Shot[];
  pace: Pace;
  next: number;
  nextMs: number;
  sent: Sent;
}

const FAMILIES = ['IPv4', 'IPv6'] as const;
const PROTOCOLS: Record<Family, Record<Protocol, number>> = {
  IPv4: { TCP: PROTOCOL_TCP, UDP: PROTOCOL_UDP, ICMP: PROTOCOL_ICMP },
  IPv6: { TCP: PROTOCOL_TCP, UDP: PROTOCOL_UDP, ICMP: PROTOCOL_ICMPV6 },
};
const NAMES = new Map([[PROTOCOL_TCP, 'TCP'], [PROTOCOL_UDP, 'UDP'], [PROTOCOL_ICMP, 'ICMP'],
  [PROTOCOL_ICMPV6, 'ICMP']]);
const ECHO_REQUEST = { IPv4: 8, IPv6: 128 };
const ECHO_REQUESTS = new Set(Object.values(ECHO_REQUEST));
const TURN_MS = 1;
/** The first packets leave as fast as turns come, in bursts; later ones at a steady pace. */
const HURRIED = 100;
const BURST = 5;
const FRAME_SIZE_MAX = 65_536;
const QUEUE_BYTES = 4 << 20;
const TCP_FLAG_SYN = 0x02;

const pods = new Map<string, Pod>();
let sent: Sent[] = [];
const arrivals = new Map<string, Arrival>();
const buffer = new Uint8Array(FRAME_SIZE_MAX);
/** A refused packet is an error without a trace: there are very many. */
Error.stackTraceLimit = 0;

function enter(name: string, path: string, shots: Shot[], pace: Pace): void {
  const namespace = openNamespace(path);
  try {
    namespace.run(() => {
      const senders = new Map(FAMILIES.flatMap((family) =>
        Object.values(PROTOCOLS[family]).map((number): [string, number] =>
          [`${family} ${number}`, openIpSocket(family, number)])));
      const watcher = openPacketSocket(null);
      setReceiveBuffer(watcher, QUEUE_BYTES);
      const state = { pod: name, refused: 0, sent: 0, unseen: 0, enteredMs: nowMs(), firstMs: 0 };
      sent.push(state);
      pods.set(name, { name, senders, watcher, shots, pace, next: 0, nextMs: 0, sent: state });
    });
  } finally {
    namespace.close();
  }
}

function leave(name: string): void {
  const pod = pods.get(name);
  if (pod === undefined) return;
  watch(pod);
  pods.delete(name);
  for (const fd of [...pod.senders.values(), pod.watcher]) closeFd(fd);
}

/** Sends what is due; one packet where the last one was refused. */
function send(pod: Pod): void {
  if (pod.nextMs > nowMs() || pod.shots.length === 0) return;
  const isHurried = pod.sent.sent < HURRIED;
  const { count, everyMs } = pod.pace;
  for (let left = isHurried ? BURST : count; left > 0; left -= 1) {
    const shot = pod.shots[pod.next % pod.shots.length];
    if (shot === undefined || !shoot(pod, shot)) break;
    pod.next += 1;
  }
  pod.nextMs = nowMs() + (isHurried ? 0 : everyMs);
}

function shoot({ senders, sent: state }: Pod, { protocol, address, port }: Shot): boolean {
  const family = addressFamily(address);
  const number = PROTOCOLS[family][protocol];
  try {
    sendTo(senders.get(`${family} ${number}`) ?? -1, segment(number, port), address);
  } catch {
    state.refused += 1;
    return false;
  }
  if (state.sent === 0) state.firstMs = nowMs();
  state.sent += 1;
  return true;
}

/** What follows the IP header. Checksums are left out where no router looks at them. */
function segment(protocol: number, port: number): Uint8Array {
  const bytes = new Uint8Array(20);
  const view = new DataView(bytes.buffer);
  if (protocol === PROTOCOL_ICMPV6) return Uint8Array.of(ECHO_REQUEST.IPv6, 0, 0, 0, 0, 0, 0, 0);
  if (protocol === PROTOCOL_ICMP) {
    view.setUint16(0, ECHO_REQUEST.IPv4 << 8);
    view.setUint16(2, ~(ECHO_REQUEST.IPv4 << 8));
    return bytes;
  }
  view.setUint16(0, EAGER_PORT);
  view.setUint16(2, port);
  if (protocol === PROTOCOL_UDP) view.setUint16(4, bytes.length);
  else view.setUint16(12, (5 << 12) | TCP_FLAG_SYN);
  return bytes;
}

/** Notes what has come to a pod. What it sends itself is seen too, and passed over. */
function watch(pod: Pod): void {
  for (;;) {
    const frame = receiveFrame(pod.watcher, buffer, 0);
    if (frame === null) break;
    if (!frame.outgoing) note(pod.name, buffer.subarray(0, Math.min(frame.length, FRAME_SIZE_MAX)));
  }
  pod.sent.unseen += lostFrames(pod.watcher);
}

function note(to: string, packet: Uint8Array): void {
  const version = (packet[0] ?? 0) >>> 4;
  // A frame of `lo` begins with a link header.
  if (version !== 4 && version !== 6) return;
  const isIpv4 = version === 4;
  const number = packet[isIpv4 ? IPV4_PROTOCOL : IPV6_NEXT_HEADER] ?? 0;
  const from = addressText(isIpv4
    ? packet.subarray(IPV4_SOURCE, IPV4_DESTINATION)
    : packet.subarray(IPV6_SOURCE, IPV6_DESTINATION));
  const above = packet.subarray(isIpv4 ? ((packet[0] ?? 0) & 15) * 4 : IPV6_HEADER_SIZE);
  const isPorted = number === PROTOCOL_TCP || number === PROTOCOL_UDP;
  const source = isPorted ? ((above[0] ?? 0) << 8) | (above[1] ?? 0) : 0;
  const destination = isPorted ? ((above[2] ?? 0) << 8) | (above[3] ?? 0) : 0;
  const protocol = NAMES.get(number) ?? `protocol ${number}`;
  const port = Math.min(source, destination);
  const isRequest = isPorted ? source > destination : ECHO_REQUESTS.has(above[0] ?? 0);
  const isReply = !isRequest;
  const key = [to, from, protocol, port, isReply].join();
  const known = arrivals.get(key);
  if (known !== undefined) known.count += 1;
  else arrivals.set(key, { to, from, protocol, port, isReply, count: 1, firstMs: nowMs() });
}

function turn(): void {
  for (const pod of pods.values()) {
    send(pod);
    watch(pod);
  }
  setTimeout(turn, TURN_MS);
}

function report(): EagerReport {
  return { sent, arrivals: [...arrivals.values()] };
}

/** Gives the report, and forgets what has come and who has left. */
function take(): EagerReport {
  const whole = report();
  arrivals.clear();
  sent = [...pods.values()].map((pod) => pod.sent);
  return whole;
}

function answer(request: EagerRequest): EagerReport | string {
  try {
    if (request.verb === 'enter') {
      enter(request.pod, request.path, request.shots, request.pace);
    }
    if (request.verb === 'leave') leave(request.pod);
    if (request.verb === 'report') return report();
    return request.verb === 'take' ? take() : { sent: [], arrivals: [] };
  } catch (error) {
    return (error as Error).message;
  }
}

const parent = parentPort;
if (parent !== null) {
  parent.on('message', (request: EagerRequest) => {
    if (request.verb === 'end') {
      for (const name of [...pods.keys()]) leave(name);
      process.exit();
    }
    parent.postMessage(answer(request));
  });
  turn();
}

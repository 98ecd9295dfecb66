// What has to work between the pods of two nodes, whatever carries it: pings, datagrams of every
// size, fragments, streams compared by their digests, and errors that tell of the path's MTU. Both
// pods begin each of them.

import * as assert from 'uvu/assert';
import type { AgentAnswer, AgentRequest } from '../../../cli/demo/agent.ts';
import type { Family } from '../../../engine/address.ts';
import { ipv4, ipv6, PROTOCOL, read16, udp } from '../../support/packets.ts';
import { Capture, sendPackets } from './capture.ts';
import { dropsOf } from './lab.ts';
import type { Place, TunnelLab } from './tunnel-lab.ts';

export const TRANSFER_BYTES = 50 * 1024 * 1024;
const TIMEOUT_MS = 60_000;
const PING_SIZES = [0, 56, 1300, 3000, 20_000];
const ALL_SIZES = range(1, 1500);
const FRAGMENTED_SIZES = [...range(1500, 8000, 250), 60_000];
const HEADER_SIZE = { IPv4: 20, IPv6: 40 };
const UDP_SIZE = 8;
const ICMP_SIZE = 8;
const SOURCE_PORT = 40_000;
const DISCARD_PORT = 9;
const SEND_AGAIN_MS = 300;
const DEFAULT_ROUTES = ['0.0.0.0/0', '::/0'];
/** Type and code, RFC 792 and RFC 4443. */
const TOO_BIG = { IPv4: [3, 4], IPv6: [2, 0] };
const PORT_UNREACHABLE = { IPv4: [3, 3], IPv6: [1, 4] };

function range(least: number, most: number, step = 1): number[] {
  return Array.from({ length: Math.floor((most - least) / step) + 1 }, (_, at) =>
    least + (at * step));
}

type Pair = readonly [Place, Place];

/** One pod asks for what the other serves, then the other way round. */
async function bothWays(
  [one, two]: Pair, family: Family, request: (address: string) => AgentRequest,
  onAnswer: (answer: AgentAnswer, who: string) => void = () => {},
): Promise<void> {
  for (const [from, to] of [[one, two], [two, one]] as const) {
    const asked = request(to.address[family]);
    const answer = await from.pod.agent.ask(asked);
    const who = `${from.pod.name} to ${to.pod.name}`;
    assert.ok(answer.ok, `${JSON.stringify(asked).slice(0, 200)}, ${who}: ${answer.detail}`);
    onAnswer(answer, who);
  }
}

/** Echo requests, whole and in fragments. */
export async function expectPings(
  pair: Pair, family: Family, sizes: readonly number[] = PING_SIZES,
): Promise<void> {
  for (const size of sizes) {
    await bothWays(pair, family, (address) =>
      ({ verb: 'ping', address, size, timeoutMs: TIMEOUT_MS }));
  }
}

/** Datagrams of 1 to 1500 bytes, and larger ones, which go in fragments. */
export async function expectDatagrams(pair: Pair, family: Family): Promise<void> {
  for (const sizes of [ALL_SIZES, FRAGMENTED_SIZES]) {
    await bothWays(pair, family, (address) =>
      ({ verb: 'sizes', address, sizes, timeoutMs: TIMEOUT_MS }));
  }
}

export function expectStreams(
  pair: Pair, family: Family, what: string, bytes = TRANSFER_BYTES,
): Promise<void> {
  return bothWays(pair, family, (address) =>
    ({ verb: 'upload', address, bytes, timeoutMs: TIMEOUT_MS }),
  ({ elapsedMs }, who) => {
    const rate = Math.round((bytes * 8) / elapsedMs / 1000);
    console.log(`${what}, ${family}, ${who}: ${rate} Mbit/s`);
  });
}

/** A UDP packet of `size` bytes to where nobody listens; it may not be fragmented. */
function packetOf(from: Place, to: Place, family: Family, size: number): Uint8Array {
  const [source, destination] = [from.address[family], to.address[family]];
  const payload = new Uint8Array(size - HEADER_SIZE[family] - UDP_SIZE);
  const datagram = udp(
    { source, destination, sourcePort: SOURCE_PORT, destinationPort: DISCARD_PORT }, payload);
  return family === 'IPv4'
    ? ipv4({ source, destination, protocol: PROTOCOL.udp, dontFragment: true }, datagram)
    : ipv6({ source, destination, nextHeader: PROTOCOL.udp }, datagram);
}

/** The ICMP message in a packet that quotes one of `size` bytes; null for anything else. */
function errorAbout(packet: Uint8Array, family: Family, size: number): Uint8Array | null {
  const header = HEADER_SIZE[family];
  if (packet.length < (2 * header) + ICMP_SIZE) return null;
  const isIpv4 = family === 'IPv4';
  if ((packet[0] ?? 0) >> 4 !== (isIpv4 ? 4 : 6)) return null;
  if (packet[isIpv4 ? 9 : 6] !== (isIpv4 ? PROTOCOL.icmp : PROTOCOL.icmpv6)) return null;
  const quote = packet.subarray(header + ICMP_SIZE);
  const quoted = isIpv4 ? read16(quote, 2) : read16(quote, 4) + header;
  return quoted === size && read16(quote, header) === SOURCE_PORT ? packet.subarray(header) : null;
}

/** Has the pod's kernel forget what it knows of paths, which goes with the routes: it would not
 * send what is too big. */
async function forgetPaths({ pod: { links } }: Place): Promise<void> {
  for (const route of await links.routes()) {
    if (!DEFAULT_ROUTES.includes(route.prefix)) continue;
    await links.removeRoute(route);
    await links.addRoute(route);
  }
}

/** Sends a packet, again until an error comes back: kernels do not send one for each. */
async function errorFor(
  from: Place, to: Place, family: Family, size: number,
): Promise<Uint8Array> {
  const packet = packetOf(from, to, family, size);
  await forgetPaths(from);
  const send = (): void => sendPackets(from.pod, to.address[family], [packet]);
  const capture = new Capture(from.pod, from.device);
  const again = setInterval(send, SEND_AGAIN_MS);
  try {
    send();
    const [frame = new Uint8Array(0)] = await capture.take(1, (candidate) =>
      errorAbout(candidate.subarray(from.linkHeader), family, size) !== null);
    return errorAbout(frame.subarray(from.linkHeader), family, size) ?? frame;
  } finally {
    clearInterval(again);
    capture.close();
  }
}

/** A packet that just fits the path arrives, and is answered as what nobody listens for; one that
 * is a byte longer comes back with the MTU. The pods' links must take it. */
export async function expectPathMtu(
  [from, to]: Pair, family: Family, mtu: number,
): Promise<void> {
  const fits = await errorFor(from, to, family, mtu);
  assert.equal([...fits.subarray(0, 2)], PORT_UNREACHABLE[family], `${mtu} bytes`);
  const exceeds = await errorFor(from, to, family, mtu + 1);
  assert.equal([...exceeds.subarray(0, 2)], TOO_BIG[family], `${mtu + 1} bytes`);
  assert.is(read16(exceeds, 6), mtu);
}

/** A Culvert node has dropped nothing but what `expected` names, and nothing has crashed. */
export async function expectNoDrops(
  lab: TunnelLab, number: number, expected: RegExp | null = null,
): Promise<void> {
  const status = await lab.status(number);
  const drops = dropsOf(status).filter((drop) => expected?.test(drop) !== true);
  assert.equal(drops, [], drops.join(' '));
  assert.is(status.dataPlane.crashes, 0);
}

// What a pod hears when its packet cannot go on: time exceeded, too big, no route; and that TCP
// finds the path's MTU by it.
//
//     pod 1                    pod 2                    pod 3
//   [ TUN 1500 ]             [ TUN 1500 ]             [ veth ]
//     culvert                  culvert                  flannel.1, flannel-v6.1
//   [ eth0 192.0.2.1 ]       [ eth0 192.0.2.2 ]       [ eth0 192.0.2.3 ]
//         \________________________|________________________/
//                                 hub
//
// Pod N is 10.244.N.10 and fd00:10:244:N::a. The links' MTU is 1500; in a second bed, without the
// kernel node, it is 1400. Without vxlan in the kernel there is no node 3. TX checksum offload is
// off on every veth that a node sends from.

import { spawn } from 'node:child_process';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { addressText, prefixBase, type Family } from '../../engine/address.ts';
import type { StatusReport } from '../../engine/model.ts';
import { needs, printSkip, testNeeding } from '../support/needs.ts';
import {
  internetChecksum, ipv4, ipv6, parseIpv4, parseIpv6, PROTOCOL, read16, read32, toHex,
  transportChecksum, udp,
} from '../support/packets.ts';
import { findTool, toolReason } from '../support/tools.ts';
import { Capture, sendPackets } from './support/capture.ts';
import { FAMILIES, Lab, type Place } from './support/lab.ts';
import { PATIENCE_MS } from '../support/until.ts';

const test = suite('netns/icmp');
const POD_MTU = 1500;
const TRANSFER_BYTES = 10 * 1024 * 1024;
const HEADER_SIZE = { IPv4: 20, IPv6: 40 };
const OVERHEAD = { IPv4: 50, IPv6: 70 };
const UDP_SIZE = 8;
/** IPv4 and TCP headers, IPv6 and TCP headers. */
const MSS = { IPv4: POD_MTU - 40, IPv6: POD_MTU - 60 };
const TCP_SYN = 0x02;
const FLOOD = 5000;
/** Fits the queue of a TUN. */
const FLOOD_PART = 500;
/** DEFAULTS.icmp of host/config.ts: errors per second, and at once. */
const ICMP_RATE = 100;
const ICMP_BURST = 50;

/** Type and code of what is expected, RFC 792 and RFC 4443. */
const TIME_EXCEEDED = { IPv4: [11, 0], IPv6: [3, 0] };
const TOO_BIG = { IPv4: [3, 4], IPv6: [2, 0] };
const PORT_UNREACHABLE = [3, 3];
const NO_ROUTE = { IPv4: 'ICMP type 3 code 0', IPv6: 'ICMP type 1 code 0' };
const NO_HOST = { IPv4: 'ICMP type 3 code 1', IPv6: 'ICMP type 1 code 3' };

const labs = new Map<number, Lab>();

/** The bed whose links have this MTU. */
async function lab(underlayMtu = 1500): Promise<Lab> {
  const nodes: ('culvert' | 'kernel')[] = ['culvert', 'culvert'];
  if (underlayMtu === 1500 && needs.vxlan) nodes.push('kernel');
  const made = labs.get(underlayMtu)
    ?? await Lab.create({ nodes, underlayMtu, podMtu: POD_MTU });
  labs.set(underlayMtu, made);
  return made;
}

test.after(async () => {
  for (const made of labs.values()) await made.close();
});

/** The address from which a Culvert node sends its errors. */
function baseOf({ cluster }: Place, family: Family): string {
  const [ipv4 = '', ipv6 = ''] = cluster.podCidrs;
  return prefixBase(family === 'IPv4' ? ipv4 : ipv6);
}

let nextPort = 20_000;

/** A UDP packet of `size` bytes in all, from a port of its own. */
function packetOf(
  family: Family,
  from: Place,
  to: Place,
  size: number,
  fields: { ttl?: number; dontFragment?: boolean } = {},
): Uint8Array {
  const [source, destination] = [from.address[family], to.address[family]];
  const { ttl = 64, dontFragment = true } = fields;
  const payload = Uint8Array.from(
    { length: size - HEADER_SIZE[family] - UDP_SIZE }, (_, at) => at & 0xff);
  nextPort += 1;
  const datagram = udp({ source, destination, sourcePort: nextPort, destinationPort: 9 }, payload);
  const protocol = PROTOCOL.udp;
  return family === 'IPv4'
    ? ipv4({ source, destination, protocol, ttl, dontFragment, identification: 7 }, datagram)
    : ipv6({ source, destination, nextHeader: protocol, hopLimit: ttl }, datagram);
}

/** An ICMP message as captured, its checksums seen to be right; null for any other packet. */
function readIcmp(packet: Uint8Array, family: Family) {
  const header = family === 'IPv4' ? parseIpv4(packet) : parseIpv6(packet);
  const protocol = 'protocol' in header ? header.protocol : header.nextHeader;
  if (header.version !== (family === 'IPv4' ? 4 : 6)) return null;
  if (protocol !== (family === 'IPv4' ? PROTOCOL.icmp : PROTOCOL.icmpv6)) return null;
  const message = packet.subarray(HEADER_SIZE[family]);
  if (family === 'IPv4') {
    assert.is(internetChecksum(packet.subarray(0, HEADER_SIZE.IPv4)), 0);
    assert.is(internetChecksum(message), 0);
  } else {
    assert.is(transportChecksum(header.source, header.destination, protocol, message), 0);
  }
  return {
    source: addressText(header.source),
    destination: addressText(header.destination),
    typeAndCode: [...message.subarray(0, 2)],
    rest: read32(message, 4),
    quote: message.subarray(8),
  };
}

/** Sends one packet from a pod and returns the error that comes back. */
async function errorFor(from: Place, family: Family, packet: Uint8Array) {
  const { destination } = family === 'IPv4' ? parseIpv4(packet) : parseIpv6(packet);
  const ports = toHex(packet.subarray(HEADER_SIZE[family], HEADER_SIZE[family] + 4));
  const quotesIt = (frame: Uint8Array): boolean => {
    const quote = readIcmp(frame, family)?.quote.subarray(HEADER_SIZE[family]);
    return quote !== undefined && toHex(quote.subarray(0, 4)) === ports;
  };
  const capture = new Capture(from.pod, 'eth0');
  try {
    sendPackets(from.pod, addressText(destination), [packet]);
    const [answer] = await capture.take(1, quotesIt);
    const error = answer === undefined ? null : readIcmp(answer, family);
    if (error === null) throw new Error('no error came');
    assert.is(error.destination, from.address[family]);
    return error;
  } finally {
    capture.close();
  }
}

/** What the sender gets quoted: the packet as it was when it could not go on. */
function quoteOf(packet: Uint8Array, family: Family, hopsTaken: number): string {
  const routed = packet.slice();
  const at = family === 'IPv4' ? 8 : 7;
  routed[at] = (routed[at] ?? 0) - hopsTaken;
  if (family === 'IPv4') {
    routed.set([0, 0], 10);
    const sum = internetChecksum(routed.subarray(0, HEADER_SIZE.IPv4));
    routed.set([sum >>> 8, sum & 0xff], 10);
  }
  return toHex(routed);
}

const countOf = ({ drops, events }: StatusReport) => ({
  tooBig: drops.outbound.tooBig ?? 0,
  hopLimit: drops.outbound.hopLimit ?? 0,
  icmpSent: events.icmpSent ?? 0,
  icmpSuppressed: events.icmpSuppressed ?? 0,
  outerFragmented: events.outerFragmented ?? 0,
});

for (const family of FAMILIES) {
  testNeeding('tun', test, `${family}: time exceeded, from this node and the next`, async () => {
    const bed = await lab();
    const [from, to] = [bed.place(1), bed.place(2)];
    for (const [ttl, by] of [[1, from], [2, to]] as const) {
      const packet = packetOf(family, from, to, 100, { ttl });
      const error = await errorFor(from, family, packet);
      assert.equal(error.typeAndCode, TIME_EXCEEDED[family]);
      assert.is(error.source, baseOf(by, family));
      assert.is(error.rest, 0);
      assert.is(toHex(error.quote), quoteOf(packet, family, ttl - 1));
    }
  });
}

/** The addresses of the hops, as traceroute prints them. */
function traceroute(program: string, from: Place, address: string): Promise<string[]> {
  const family = address.includes(':') ? '-6' : '-4';
  const child = from.pod.namespace.run(() => spawn(
    program, [family, '-n', '-q', '1', '-w', '5', '-m', '8', address],
    { stdio: ['ignore', 'pipe', 'pipe'] }));
  return new Promise((resolve, reject) => {
    let output = '';
    for (const stream of [child.stdout, child.stderr]) {
      stream.on('data', (chunk: Buffer) => { output += chunk.toString(); });
    }
    child.on('error', reject);
    child.on('close', (code) => {
      if (code === 0) resolve(output.split('\n').flatMap((line) =>
        /^ *\d+ +(\S+)/.exec(line)?.[1] ?? []));
      else reject(new Error(`traceroute: exit ${code}: ${output}`));
    });
  });
}

for (const [target, number] of [['Culvert', 2], ['kernel', 3]] as const) {
  const need = target === 'kernel' ? 'vxlan' : 'tun';
  for (const family of FAMILIES) {
    const name = `${family}: traceroute names every hop to a pod of a ${target} node`;
    const program = findTool('traceroute');
    if (program === null && needs[need]) {
      printSkip(name, toolReason('traceroute'));
      test.skip(name);
      continue;
    }
    testNeeding(need, test, name, async () => {
      const bed = await lab();
      const [from, to] = [bed.place(1), bed.place(number)];
      const hops = await traceroute(program ?? '', from, to.address[family]);
      const [first, second = '', ...rest] = hops;
      assert.is(first, baseOf(from, family), hops.join(' '));
      const own = target === 'Culvert' ? [] : to.cluster.addresses;
      assert.ok([baseOf(to, family), ...own].includes(second), hops.join(' '));
      assert.equal(rest, [to.address[family]], hops.join(' '));
    });
  }
}

for (const underlayMtu of [1500, 1400]) {
  for (const family of FAMILIES) {
    const title = (what: string): string => `${family}, underlay of ${underlayMtu}: ${what}`;
    const pathMtu = underlayMtu - OVERHEAD[family];

    testNeeding('tun', test, title('TCP finds the path MTU'), async () => {
      const bed = await lab(underlayMtu);
      const [from, to] = [bed.place(1), bed.place(2)];
      const address = to.address[family];
      const capture = new Capture(from.pod, 'eth0');
      const transfer = async (): Promise<ReturnType<typeof countOf>> => {
        const answer = await from.pod.agent.ask(
          { verb: 'upload', address, bytes: TRANSFER_BYTES, timeoutMs: PATIENCE_MS });
        assert.ok(answer.ok, answer.detail);
        return countOf(await bed.status(1));
      };
      try {
        const before = countOf(await bed.status(1));
        const after = await transfer();
        const [syn = new Uint8Array(0)] = await capture.take(1, (packet) => isSyn(packet, family));
        assert.is(mssOf(syn, family), MSS[family]);
        assert.ok(after.tooBig > before.tooBig, 'no segment was too big');
        assert.ok(after.icmpSent > before.icmpSent, 'nobody was told');
        // Now the pod's stack knows the path's MTU, whatever is sent there.
        assert.is((await transfer()).tooBig, after.tooBig);
        const packet = packetOf(family, from, to, pathMtu + 1);
        assert.throws(() => sendPackets(from.pod, address, [packet]), /EMSGSIZE/);
      } finally {
        capture.close();
      }
    });

    testNeeding('tun', test, title('too big is answered with the path MTU'), async () => {
      // From pod 2, whose stack has not learned the path's MTU and sends what it is given.
      const bed = await lab(underlayMtu);
      const [from, to] = [bed.place(2), bed.place(1)];
      for (const size of [POD_MTU, pathMtu + 1]) {
        const packet = packetOf(family, from, to, size);
        const error = await errorFor(from, family, packet);
        assert.equal(error.typeAndCode, TOO_BIG[family]);
        assert.is(error.source, baseOf(from, family));
        assert.is(error.rest, pathMtu);
        const quote = toHex(error.quote);
        assert.ok(quoteOf(packet, family, 0).startsWith(quote) && quote.length > 0);
      }
      await expectArrival(from, to, family, packetOf(family, from, to, pathMtu));
    });
  }

  testNeeding('tun', test, `IPv4, underlay of ${underlayMtu}: DF clear crosses in outer fragments`,
    async () => {
      const bed = await lab(underlayMtu);
      const from = bed.place(2);
      for (const to of bed.places.filter((place) => place !== from)) {
        const before = countOf(await bed.status(2));
        const packet = packetOf('IPv4', from, to, POD_MTU, { dontFragment: false });
        // The link of the kernel node's pod is smaller than the packet, which comes in fragments
        // again; that nobody has the port shows that it came whole.
        if (to.culvert !== null) await expectArrival(from, to, 'IPv4', packet);
        const error = await errorFor(from, 'IPv4', packet);
        assert.equal(error.typeAndCode, PORT_UNREACHABLE);
        assert.is(error.source, to.address.IPv4);
        const after = countOf(await bed.status(2));
        assert.ok(after.outerFragmented > before.outerFragmented, to.cluster.name);
        assert.is(after.tooBig, before.tooBig);
      }
    });
}

function isSyn(packet: Uint8Array, family: Family): boolean {
  const protocol = packet[family === 'IPv4' ? 9 : 6];
  return (packet[0] ?? 0) >> 4 === (family === 'IPv4' ? 4 : 6) && protocol === PROTOCOL.tcp
    && ((packet[HEADER_SIZE[family] + 13] ?? 0) & TCP_SYN) !== 0;
}

/** The MSS option, which Linux puts first: RFC 9293 section 3.2. */
function mssOf(packet: Uint8Array, family: Family): number {
  const option = packet.subarray(HEADER_SIZE[family] + 20);
  assert.equal([...option.subarray(0, 2)], [2, 4]);
  return read16(option, 2);
}

/** Sends a packet and waits for it at the other pod, two hops older. */
async function expectArrival(
  from: Place,
  to: Place,
  family: Family,
  packet: Uint8Array,
): Promise<void> {
  const wanted = quoteOf(packet, family, 2);
  const capture = new Capture(to.pod, 'eth0');
  try {
    sendPackets(from.pod, to.address[family], [packet]);
    await capture.take(1, (frame) => toHex(frame) === wanted);
  } finally {
    capture.close();
  }
}

for (const family of FAMILIES) {
  testNeeding('tun', test, `${family}: no route is unreachable, and sockets hear of it`,
    async () => {
      const bed = await lab();
      const { agent } = bed.place(1).pod;
      const absent = (number: number): string =>
        (family === 'IPv4' ? `10.244.${number}.77` : `fd00:10:244:${number}::77`);
      for (const [number, by, detail, error] of [
        [1, 1, NO_ROUTE, 'ENETUNREACH'],
        [2, 2, NO_HOST, 'EHOSTUNREACH'],
        [99, 1, NO_ROUTE, 'ENETUNREACH'],
      ] as const) {
        const address = absent(number);
        const ping = await agent.ask({ verb: 'ping', address, size: 56, timeoutMs: PATIENCE_MS });
        assert.is(ping.detail, detail[family], address);
        assert.is(ping.from, baseOf(bed.place(by), family), address);
        const tcp = await agent.ask({ verb: 'tcp', address, timeoutMs: PATIENCE_MS });
        assert.match(tcp.detail, error, address);
      }
    });
}

for (const family of FAMILIES) {
  testNeeding('tun', test, `${family}: a flood is answered at the rate limit`, async () => {
    const bed = await lab();
    // Each family from a pod of its own: a bucket is per origin.
    const [near, far] = family === 'IPv4' ? [1, 2] : [2, 1];
    const [from, to] = [bed.place(near), bed.place(far)];
    const packet = packetOf(family, from, to, 60, { ttl: 1 });
    const part = new Array<Uint8Array>(FLOOD_PART).fill(packet);
    const before = countOf(await bed.status(near));
    const startedMs = performance.now();
    let after = before;
    for (let sent = FLOOD_PART; sent <= FLOOD; sent += FLOOD_PART) {
      sendPackets(from.pod, to.address[family], part);
      after = countOf(await bed.waitFor(near, (status) =>
        countOf(status).hopLimit - before.hopLimit >= sent));
    }
    const elapsedSeconds = (performance.now() - startedMs) / 1000;
    const answered = after.icmpSent - before.icmpSent;
    console.log(`${family}: ${FLOOD} in ${elapsedSeconds.toFixed(2)} s, ${answered} answered`);
    assert.is(after.hopLimit - before.hopLimit, FLOOD);
    assert.is(answered + after.icmpSuppressed - before.icmpSuppressed, FLOOD);
    assert.ok(answered > 0, 'nobody was told');
    // The daemon counts time in whole milliseconds.
    const most = ICMP_BURST + (ICMP_RATE * (elapsedSeconds + 0.001));
    assert.ok(answered <= most, `${answered} answers`);
  });
}

test.run();

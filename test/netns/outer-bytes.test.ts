// What a Culvert node puts on the underlay, byte for byte: against golden bytes, and against what a
// kernel VXLAN node emits for the mirrored packet.
//
//     pod                         captured here                         pod
//   [ TUN  ]--culvert [ eth0 ]----[ port hub port ]----[ eth0 ] vxlan--[ veth ]
//   10.244.1.10      192.0.2.1                        192.0.2.2      10.244.2.10
//   fd00:10:244:1::a 2001:db8::1                    2001:db8::2  fd00:10:244:2::a
//
// TX checksum offload is off on every veth that a node sends from, so that checksums are finished.

import { readFileSync } from 'node:fs';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { addressText, macText, type Family } from '../../engine/address.ts';
import { testNeeding } from '../support/needs.ts';
import {
  icmp, icmpv6, internetChecksum, ipv4, ipv6, parseEthernet, parseIpv4, parseIpv6, PROTOCOL, read16,
  toHex, transportChecksum, udp,
} from '../support/packets.ts';
import { Capture, sendPackets } from './support/capture.ts';
import { FAMILIES, Lab, type Place } from './support/lab.ts';

const test = suite('netns/outer-bytes');
const PORT = 8472;
const ETHERNET_SIZE = 14;
const UDP_SIZE = 8;
const VXLAN_SIZE = 8;
const OUTER_SIZE = { IPv4: 20, IPv6: 40 };
const PAYLOAD = new TextEncoder().encode('through a culvert');
const FLOWS = 64;
/** Fewest source ports over that many flows. */
const PORTS_LEAST = 8;
const GOLDEN = new URL('../../../test/golden/', import.meta.url);

const headersOf = (family: Family): number =>
  OUTER_SIZE[family] + UDP_SIZE + VXLAN_SIZE + ETHERNET_SIZE;

let made: Lab | null = null;

async function lab(): Promise<Lab> {
  if (made !== null) return made;
  made = await Lab.create({ nodes: ['culvert', 'kernel'] });
  // A ping each way finds the neighbours, so that nothing else waits for them.
  for (const [from, to] of [[1, 2], [2, 1]] as const) {
    for (const family of FAMILIES) {
      const address = made.place(to).address[family];
      const { pod } = made.place(from);
      await pod.agent.ask({ verb: 'ping', address, size: 8, timeoutMs: 10_000 });
    }
  }
  return made;
}

test.after(() => made?.close());

/** What the outer headers of a captured frame say. */
function readOuter(frame: Uint8Array, family: Family) {
  const packet = parseEthernet(frame).payload;
  const segment = packet.subarray(OUTER_SIZE[family]);
  const vxlan = segment.subarray(UDP_SIZE);
  const inner = parseEthernet(vxlan.subarray(VXLAN_SIZE));
  const header = family === 'IPv4' ? readIpv4(packet) : readIpv6(packet);
  return {
    ...header,
    packet,
    segment,
    sourcePort: read16(segment, 0),
    /** The same for the mirrored packet, whoever encapsulates it. */
    same: {
      ...header.same,
      port: read16(segment, 2),
      udpLength: read16(segment, 4),
      vxlan: toHex(vxlan.subarray(0, VXLAN_SIZE)),
      innerType: inner.type,
      innerLength: inner.payload.length,
    },
    innerMacs: [macText(inner.source), macText(inner.destination)],
    inner: inner.payload,
  };
}

function readIpv4(packet: Uint8Array) {
  const { source, destination, identification: _, checksum: __, options, ...same } =
    parseIpv4(packet);
  assert.is(options.length, 0);
  assert.is(internetChecksum(packet.subarray(0, same.headerSize)), 0);
  return { source: addressText(source), destination: addressText(destination), label: 0, same };
}

function readIpv6(packet: Uint8Array) {
  const { source, destination, flowLabel, ...same } = parseIpv6(packet);
  return {
    source: addressText(source), destination: addressText(destination), label: flowLabel, same,
  };
}

/** A packet of a tunnel: UDP to its port. */
function isTunnel(frame: Uint8Array): boolean {
  const type = read16(frame, 12);
  const family = type === 0x0800 ? 'IPv4' : 'IPv6';
  const protocol = frame[ETHERNET_SIZE + (family === 'IPv4' ? 9 : 6)];
  const port = read16(frame, ETHERNET_SIZE + OUTER_SIZE[family] + 2);
  return protocol === PROTOCOL.udp && port === PORT;
}

/** Has a pod send packets and returns the tunnel packets that its node put on the underlay. */
async function emitted(
  from: Place,
  destination: string,
  packets: Uint8Array[],
): Promise<Uint8Array[]> {
  const capture = new Capture((await lab()).bed.hub, from.node.port);
  try {
    sendPackets(from.pod, destination, packets);
    const isFromNode = (frame: Uint8Array): boolean => {
      const family = destination.includes(':') ? 'IPv6' : 'IPv4';
      return isTunnel(frame)
        && from.cluster.addresses.includes(readOuter(frame, family).source);
    };
    return await capture.take(packets.length, isFromNode);
  } finally {
    capture.close();
  }
}

/** A whole packet with fixed content. IPv4 identification is not zero: that the kernel changes. */
function wrap(family: Family, source: string, destination: string, protocol: number,
  payload: Uint8Array): Uint8Array {
  return family === 'IPv4'
    ? ipv4({ source, destination, protocol, identification: 1, dontFragment: true }, payload)
    : ipv6({ source, destination, nextHeader: protocol }, payload);
}

function pingPacket(family: Family, source: string, destination: string): Uint8Array {
  const request = family === 'IPv4'
    ? icmp(8, 0, 0x12340001, PAYLOAD)
    : icmpv6({ source, destination, type: 128, rest: 0x12340001 }, PAYLOAD);
  const protocol = family === 'IPv4' ? PROTOCOL.icmp : PROTOCOL.icmpv6;
  return wrap(family, source, destination, protocol, request);
}

function udpPacket(family: Family, source: string, destination: string, port = 9): Uint8Array {
  const ports = { sourcePort: 40_000, destinationPort: port };
  return wrap(family, source, destination, PROTOCOL.udp,
    udp({ source, destination, ...ports }, PAYLOAD));
}

const PACKETS = { ping: pingPacket, 'UDP datagram': udpPacket };

/** The lines of digits of a golden file; a dot stands for any digit. */
function goldenLines(family: Family): string[] {
  const text = readFileSync(new URL(`outer-${family.toLowerCase()}.md`, GOLDEN), 'utf8');
  const [, block = ''] = /```hex\n([^]*?)```/.exec(text) ?? [];
  return block.split('\n').map((line) => line.replace(/#.*/, '').trim()).filter(Boolean);
}

/** The bytes in the lines of the golden file, with dots where that has them. */
function likeGolden(lines: string[], bytes: Uint8Array): string[] {
  let at = 0;
  return lines.map((line) => {
    const size = line.split(' ').length;
    const digits = toHex(bytes.subarray(at, at + size));
    at += size;
    return [...digits].map((digit, place) => (line[place] === '.' ? '.' : digit)).join('');
  });
}

for (const family of FAMILIES) {
  for (const [what, build] of Object.entries(PACKETS)) {
    testNeeding('vxlan', test, `${family}: a ${what}'s outer headers are the golden bytes`,
      async () => {
        const [own, other] = [(await lab()).place(1), (await lab()).place(2)];
        const packet = build(family, own.address[family], other.address[family]);
        const [frame] = await emitted(own, other.address[family], [packet]);
        assert.ok(frame);
        const lines = goldenLines(family);
        const outer = readOuter(frame, family);
        assert.is(lines.join(' ').split(' ').length, headersOf(family));
        assert.equal(likeGolden(lines, outer.packet), lines);
        checkVarying(outer, family, packet.length);
      });

    testNeeding('vxlan', test, `${family}: a ${what} leaves as the kernel's does`, async () => {
      const [own, other] = [(await lab()).place(1), (await lab()).place(2)];
      const there = build(family, own.address[family], other.address[family]);
      const back = build(family, other.address[family], own.address[family]);
      const [ours] = await emitted(own, other.address[family], [there]);
      const [theirs] = await emitted(other, own.address[family], [back]);
      assert.ok(ours);
      assert.ok(theirs);
      const [left, right] = [readOuter(ours, family), readOuter(theirs, family)];
      assert.equal(left.same, right.same);
      assert.equal([left.source, left.destination], [right.destination, right.source]);
      assert.equal(left.innerMacs, [...right.innerMacs].reverse());
      // Each has taken one hop off the inner packet and left the rest alone.
      for (const [{ inner }, sent] of [[left, there], [right, back]] as const) {
        assert.equal(toHex(afterOneHop(sent, family)), toHex(inner));
      }
      checkVarying(left, family, there.length);
      checkVarying(right, family, back.length);
    });
  }

  testNeeding('vxlan', test, `${family}: a flow keeps its source port, flows spread`, async () => {
    const [own, other] = [(await lab()).place(1), (await lab()).place(2)];
    const destination = other.address[family];
    const flows = Array.from({ length: FLOWS }, (_, at) =>
      udpPacket(family, own.address[family], destination, 5000 + at));
    const frames = await emitted(own, destination, [...flows, ...flows]);
    const ways = new Map<number, Set<string>>();
    for (const frame of frames) {
      const { inner, sourcePort, label } = readOuter(frame, family);
      const flow = read16(inner, OUTER_SIZE[family] + 2);
      const seen = ways.get(flow) ?? new Set();
      ways.set(flow, seen.add(`port ${sourcePort}, label ${label}`));
    }
    assert.is(ways.size, FLOWS);
    for (const [flow, seen] of ways) {
      assert.is(seen.size, 1, `flow ${flow} took ${[...seen].join(' and ')}`);
    }
    const used = new Set([...ways.values()].flatMap((seen) => [...seen]));
    assert.ok(used.size >= PORTS_LEAST, `${FLOWS} flows took ${used.size} source ports`);
  });
}

/** Checks what the golden bytes leave open. */
function checkVarying(
  { packet, segment, source, destination, same }: ReturnType<typeof readOuter>,
  family: Family,
  innerLength: number,
): void {
  assert.is(packet.length, innerLength + headersOf(family));
  assert.is(same.innerLength, innerLength);
  assert.is(read16(packet, family === 'IPv4' ? 2 : 4),
    family === 'IPv4' ? packet.length : segment.length);
  assert.is(same.udpLength, segment.length);
  assert.is.not(read16(segment, 6), 0);
  assert.is(transportChecksum(source, destination, PROTOCOL.udp, segment), 0);
}

/** The packet with one hop less, as a router leaves it. */
function afterOneHop(packet: Uint8Array, family: Family): Uint8Array {
  const routed = packet.slice();
  const at = family === 'IPv4' ? 8 : 7;
  routed[at] = (routed[at] ?? 0) - 1;
  if (family === 'IPv6') return routed;
  routed.set([0, 0], 10);
  const sum = internetChecksum(routed.subarray(0, OUTER_SIZE.IPv4));
  routed.set([sum >>> 8, sum & 0xff], 10);
  return routed;
}

test.run();

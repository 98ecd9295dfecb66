// The TAP of tier T3 and the kernel's VXLAN behind it: whole frames from the node's own underlay
// address, forwarded and cut by the node's stack.
//
//   [ a: TAP, frames made here   eth0 ]----veth----[ eth0   vx0 10.244.2.1, fd00:2::1  :b ]
//                          192.0.2.1                192.0.2.2
//                        2001:db8::1                2001:db8::2

import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import {
  VNET_CHECKSUM_OFFSET, VNET_CHECKSUM_START, VNET_FLAGS, VNET_GSO_SIZE, VNET_GSO_TYPE,
  VNET_GSO_UDP_L4, VNET_GSO_UDP_TUNNEL_IPV4, VNET_GSO_UDP_TUNNEL_IPV6, VNET_HEADER_LENGTH,
  VNET_INNER_NETWORK, VNET_NEEDS_CHECKSUM, VNET_OUTER_TRANSPORT, VNET_TUNNEL_CHECKSUM,
  VNET_TUNNEL_HEADER_SIZE,
} from '../../wasm/abi/headers.ts';
import { EXIT_NO_PERMISSION } from '../../cli/exit.ts';
import { PACKAGE_FOLDER } from '../../cli/version.ts';
import type { Family } from '../../engine/address.ts';
import { setOffload } from '../../ffi/ethtool.ts';
import { closeFd, writeAt } from '../../ffi/file.ts';
import { addressOf } from '../../ffi/memory.ts';
import { Links } from '../../ffi/netlink.ts';
import { createNamespace, readSysctl, writeSysctl, type Namespace } from '../../ffi/netns.ts';
import { openPacketSocket, receiveFrame, receiveFrom } from '../../ffi/raw-socket.ts';
import { openUdpSocket } from '../../ffi/socket.ts';
import { DEFAULTS } from '../../host/config.ts';
import { TierError } from '../../host/tier.ts';
import { TunnelTap } from '../../host/tunnel-tap.ts';
import { testNeeding } from '../support/needs.ts';
import { concat, ETHER_TYPE, ethernet, ipv4, ipv6, PROTOCOL, transportChecksum, vxlan,
  word16 } from '../support/packets.ts';
import { Lab } from './support/lab.ts';

const test = suite('netns/tunnel-tap');
const NAME = `cvt${process.pid}`;
const OUR_MAC = '02:63:75:6c:76:74';
const PEER_MAC = '02:00:00:00:00:02';
const PORT = 5000;
const SEGMENT = 500;
const SEGMENTS = 40;
const TIMEOUT_MS = 5000;
/** Source and destination. */
type Pair = readonly [source: string, destination: string];
const OUTER: Record<Family, Pair> = {
  IPv4: ['192.0.2.1', '192.0.2.2'], IPv6: ['2001:db8::1', '2001:db8::2'],
};
const INNER: Record<Family, Pair> = {
  IPv4: ['10.244.1.5', '10.244.2.1'], IPv6: ['fd00:1::5', 'fd00:2::1'],
};

interface Bed { a: Namespace; b: Namespace; links: Links; close(): void }

/** Two namespaces with a link that carries packets of its MTU only, and the kernel's VXLAN in b. */
async function makeBed(carrier: Family): Promise<Bed> {
  const [a, b] = [createNamespace(), createNamespace()];
  const [links, far] = [a, b].map((namespace) => namespace.run(() => new Links()));
  if (links === undefined || far === undefined) throw new Error('no links');
  const close = (): void => {
    for (const part of [links, far, a, b]) part.close();
  };
  await links.addVeth('eth0', 'eth0', b.fd);
  for (const [namespace, side, host] of [[a, links, 1], [b, far, 2]] as const) {
    await side.setLink('eth0', { up: true });
    await side.addAddress('eth0', `192.0.2.${host}/24`);
    await side.addAddress('eth0', `2001:db8::${host}/64`);
    namespace.run(() => {
      for (const offload of ['tx', 'gso'] as const) setOffload('eth0', offload, false);
    });
  }
  await far.addVxlan({
    name: 'vx0', vni: 1, port: 8472, local: OUTER[carrier][1], mtu: 1430, mac: PEER_MAC,
  });
  await far.setLink('vx0', { up: true });
  for (const [family, length] of [['IPv4', 24], ['IPv6', 64]] as const) {
    await far.addAddress('vx0', `${INNER[family][1]}/${length}`);
  }
  await far.addRoute({ prefix: '10.244.1.0/24', device: 'vx0' });
  await far.addRoute({ prefix: 'fd00:1::/64', device: 'vx0' });
  return { a, b, links, close };
}

/** Opens the TAP from inside a namespace. */
function openTap({ a, links }: Bed, families: Family[] = ['IPv4', 'IPv6']): Promise<TunnelTap> {
  const opened: Promise<TunnelTap>[] = [];
  a.run(() => void opened.push(TunnelTap.open(links, NAME, families)));
  return opened[0] ?? Promise.reject(new Error('not opened'));
}

/** One's complement sum of the pseudo-header, which the kernel goes on from. */
function pseudoSum(from: string, to: string, length: number): number {
  const zeroes = new Uint8Array(length);
  return 0xffff - transportChecksum(from, to, PROTOCOL.udp, zeroes);
}

function udpHeader(source: number, destination: number, length: number, sum: number): Uint8Array {
  return concat(word16(source), word16(destination), word16(length), word16(sum));
}

function ip(family: Family, [source, destination]: Pair, payload: Uint8Array): Uint8Array {
  return family === 'IPv4'
    ? ipv4({ source, destination, protocol: PROTOCOL.udp }, payload)
    : ipv6({ source, destination, nextHeader: PROTOCOL.udp }, payload);
}

/** A super-packet of UDP behind VXLAN, as a whole frame behind its vnet header. */
function frame(carrier: Family, family: Family, tapMac: string): Uint8Array {
  const payload = new Uint8Array(SEGMENT * SEGMENTS)
    .map((_, at) => Math.floor(at / SEGMENT));
  const udpLength = 8 + payload.length;
  const inner = ip(family, INNER[family], concat(
    udpHeader(4000, PORT, udpLength, pseudoSum(...INNER[family], udpLength)), payload));
  const tunnel = vxlan({ vni: 1 }, ethernet({
    destination: PEER_MAC, source: OUR_MAC,
    type: family === 'IPv4' ? ETHER_TYPE.ipv4 : ETHER_TYPE.ipv6,
  }, inner));
  const isOuterIpv4 = carrier === 'IPv4';
  const outerLength = 8 + tunnel.length;
  const sum = isOuterIpv4 ? 0 : pseudoSum(...OUTER[carrier], outerLength);
  const whole = ethernet({
    destination: tapMac, source: OUR_MAC,
    type: isOuterIpv4 ? ETHER_TYPE.ipv4 : ETHER_TYPE.ipv6,
  }, ip(carrier, OUTER[carrier], concat(udpHeader(50_000, 8472, outerLength, sum), tunnel)));
  const header = new DataView(new ArrayBuffer(VNET_TUNNEL_HEADER_SIZE));
  const outerTransport = 14 + (isOuterIpv4 ? 20 : 40);
  const innerNetwork = outerTransport + 8 + 8 + 14;
  const innerTransport = innerNetwork + (family === 'IPv4' ? 20 : 40);
  header.setUint8(VNET_FLAGS, VNET_NEEDS_CHECKSUM | (isOuterIpv4 ? 0 : VNET_TUNNEL_CHECKSUM));
  header.setUint8(VNET_GSO_TYPE,
    VNET_GSO_UDP_L4 | (isOuterIpv4 ? VNET_GSO_UDP_TUNNEL_IPV4 : VNET_GSO_UDP_TUNNEL_IPV6));
  header.setUint16(VNET_HEADER_LENGTH, innerTransport + 8, true);
  header.setUint16(VNET_GSO_SIZE, SEGMENT, true);
  header.setUint16(VNET_CHECKSUM_START, innerTransport, true);
  header.setUint16(VNET_CHECKSUM_OFFSET, 6, true);
  header.setUint16(VNET_OUTER_TRANSPORT, outerTransport, true);
  header.setUint16(VNET_INNER_NETWORK, innerNetwork, true);
  return concat(new Uint8Array(header.buffer), whole);
}

/** Lengths of the frames that came over the link, until none comes any more. */
function frameLengths(fd: number): number[] {
  const lengths: number[] = [];
  const buffer = new Uint8Array(65_536);
  for (;;) {
    const received = receiveFrame(fd, buffer, 100);
    if (received === null) return lengths;
    if (received.length > 300) lengths.push(received.length);
  }
}

for (const carrier of ['IPv4', 'IPv6'] as const) {
  testNeeding('vxlan', test, `the kernel cuts what leaves by the TAP over ${carrier}`, async () => {
    const bed = await makeBed(carrier);
    try {
      const tap = await openTap(bed);
      assert.equal(tap.families, ['IPv4', 'IPv6']);
      const wire = bed.b.run(() => openPacketSocket('eth0'));
      for (const family of ['IPv4', 'IPv6'] as const) {
        const socket = bed.b.run(() => openUdpSocket({
          family, address: INNER[family][1], port: PORT, receiveBufferBytes: 1 << 20,
          sendBufferBytes: 65_536,
        }));
        const bytes = frame(carrier, family, tap.mac);
        // The first may wait for a neighbour's answer, and only the newest of those waits.
        assert.is(writeAt(tap.fd, addressOf(bytes), bytes.length), bytes.length);
        const buffer = new Uint8Array(2048);
        for (let segment = 0; segment < SEGMENTS; segment += 1) {
          const received = receiveFrom(socket, buffer, TIMEOUT_MS);
          assert.is(received?.length, SEGMENT, `${family}: datagram ${segment}`);
          assert.ok(buffer.subarray(0, SEGMENT).every((byte) => byte === segment));
          assert.is(received?.address, INNER[family][0]);
        }
        const overhead = (carrier === 'IPv4' ? 50 : 70) + 14 + (family === 'IPv4' ? 28 : 48);
        const lengths = frameLengths(wire);
        assert.equal(lengths, new Array<number>(SEGMENTS).fill(SEGMENT + overhead));
        closeFd(socket);
      }
      closeFd(wire);
      tap.close();
    } finally {
      bed.close();
    }
  });
}

const SETTINGS_TEST = 'what the node must allow is set for the TAP alone, or named';
testNeeding('vxlan', test, SETTINGS_TEST, async () => {
  const bed = await makeBed('IPv4');
  try {
    const tap = await openTap(bed);
    const read = (name: string): string => bed.a.run(() => readSysctl(name));
    assert.is(read(`net/ipv4/conf/${NAME}/accept_local`), '1');
    assert.is(read('net.ipv4.ip_forward'), '0');
    assert.is(read('net.ipv6.conf.all.forwarding'), '0');
    assert.is((await bed.links.link(NAME)).mtu, 65521);
    assert.equal(await bed.links.addresses(NAME), []);
    tap.close();
    assert.equal((await bed.links.list()).map(({ name }) => name).sort(), ['eth0', 'lo']);

    for (const strictness of [1, 2]) {
      bed.a.run(() => writeSysctl('net.ipv4.conf.all.rp_filter', strictness));
      const refusal = await openTap(bed).then(() => null, (error: unknown) => error);
      assert.instance(refusal, TierError);
      assert.match((refusal as Error).message,
        new RegExp(`^data plane tier T3: net.ipv4.conf.all.rp_filter is ${strictness}, `));
      assert.equal((await bed.links.list()).map(({ name }) => name).sort(), ['eth0', 'lo']);
    }
  } finally {
    bed.close();
  }
});

testNeeding('vxlan', test, 'a daemon that cannot have T3 ends with 77 and names why', async () => {
  const bed = await makeBed('IPv4');
  const folder = mkdtempSync(join(tmpdir(), `culvert-tap-${process.pid}-`));
  try {
    const { status, stderr } = bed.a.run(() => {
      writeSysctl('net.ipv4.conf.all.rp_filter', 1);
      return spawnSync(process.execPath, [
        join(PACKAGE_FOLDER, 'dist/cli/culvert.js'), 'run', '--node-name', 'a',
        '--underlay-interface', 'eth0', '--data-plane-tier', 'T3', '--runtime-directory', folder,
      ], { encoding: 'utf8', input: '', timeout: TIMEOUT_MS * 4 });
    });
    assert.is(status, EXIT_NO_PERMISSION, stderr);
    assert.match(stderr, /^culvert: data plane tier T3: net\.ipv4\.conf\.all\.rp_filter is 1, /m);
  } finally {
    bed.close();
    rmSync(folder, { recursive: true });
  }
});

testNeeding('vxlan', test, 'a TAP that is deleted is done without, and that is told', async () => {
  const lab = await Lab.create({
    nodes: ['culvert', 'kernel'], flags: [['--data-plane-tier', 'T3'], []],
  });
  try {
    const [near, far] = [lab.place(1), lab.place(2)];
    const upload = async (): Promise<void> => {
      const { ok, detail } = await near.pod.agent.ask({
        verb: 'upload', address: far.address.IPv4, bytes: 20_000_000, timeoutMs: 4 * TIMEOUT_MS,
      });
      assert.ok(ok, detail);
    };
    await upload();
    assert.is((await lab.status(1)).dataPlane.tier, 'T3');
    await near.node.host.links.removeLink(DEFAULTS.dataPlane.tunnelDevice);
    await upload();
    const status = await lab.status(1);
    assert.is(status.dataPlane.tier, 'T2');
    assert.is(status.dataPlane.crashes, 0);
    assert.ok((status.drops.outbound['deviceError'] ?? 0) > 0, 'what was lost is counted');
  } finally {
    await lab.close();
  }
});

test.run();

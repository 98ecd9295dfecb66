// Frames that the core makes for the kernel to cut, through the kernel: what comes out on the link
// is what our sockets would have sent, datagram by datagram.
//
//   [ a: the core, TAP   eth0 ]----veth----[ eth0   packet socket  :b ]
//                  192.0.2.10              192.0.2.11 edge, 192.0.2.12 cross
//                2001:db8::10              2001:db8::11     2001:db8::12

import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { setOffload } from '../../ffi/ethtool.ts';
import { closeFd, writeAt } from '../../ffi/file.ts';
import { addressOf } from '../../ffi/memory.ts';
import { Links } from '../../ffi/netlink.ts';
import { createNamespace, type Namespace } from '../../ffi/netns.ts';
import { openPacketSocket, receiveFrame } from '../../ffi/raw-socket.ts';
import { probeOffloads } from '../../ffi/tun.ts';
import { TunnelTap } from '../../host/tunnel-tap.ts';
import * as layout from '../../wasm/abi/layout.ts';
import { segment } from '../reference/offload.ts';
import { deviceIndex, makeHome } from '../support/home.ts';
import { innerOf, runOne, setPointers, setVnetSize, withHopSpent } from '../support/offload.ts';
import { needs, printSkip } from '../support/needs.ts';
import { ETHER_TYPE, PROTOCOL, parseEthernet, parseIpv4, parseIpv6, read16, toHex,
  transportChecksum } from '../support/packets.ts';
import { Random } from '../support/random.ts';
import type { Scene } from '../support/scene.ts';
import { Trains, type Super } from '../support/trains.ts';
import { PATIENCE_MS } from '../support/until.ts';

const test = suite('netns/frame-cut');
const NAME = `cvf${process.pid}`;
const PORTS = { IPv4: [40_000], IPv6: [50_000] };
const QUIET_MS = 100;
const PATHS = [
  { carrier: 'IPv4', family: 'IPv4', source: '10.244.0.5', destination: '10.244.1.7' },
  { carrier: 'IPv6', family: 'IPv6', source: 'fd00:10:244::5', destination: 'fd00:10:244:1::7' },
  { carrier: 'IPv6', family: 'IPv4', source: '10.244.0.5', destination: '10.244.2.7' },
  { carrier: 'IPv4', family: 'IPv6', source: 'fd00:10:244::5', destination: 'fd00:10:244:2::7' },
] as const;
type Path = (typeof PATHS)[number];

interface Bed {
  a: Namespace;
  b: Namespace;
  tap: TunnelTap;
  close(): void;
}

async function makeBed(): Promise<Bed> {
  const [a, b] = [createNamespace(), createNamespace()];
  const [links, far] = [a.run(() => new Links()), b.run(() => new Links())];
  await links.addVeth('eth0', 'eth0', b.fd);
  for (const [namespace, side, hosts] of [[a, links, [10]], [b, far, [11, 12]]] as const) {
    await side.setLink('eth0', { up: true });
    for (const host of hosts) {
      await side.addAddress('eth0', `192.0.2.${host}/24`);
      await side.addAddress('eth0', `2001:db8::${host}/64`);
    }
    namespace.run(() => {
      for (const offload of ['tx', 'gso'] as const) setOffload('eth0', offload, false);
    });
  }
  const opened: Promise<TunnelTap>[] = [];
  a.run(() => void opened.push(TunnelTap.open(links, NAME, ['IPv4', 'IPv6'])));
  const tap = await Promise.all(opened).then(([first]) => first);
  if (tap === undefined) throw new Error('no TAP');
  return { a, b, tap, close: () => [tap, links, far, a, b].forEach((part) => part.close()) };
}

/** A home whose super-packets leave by the TAP. */
function makeStage(tapMac: string): { scene: Scene; pod: number } {
  const scene = makeHome();
  const { devices } = scene.forwarding;
  devices.setSenders('IPv4', '192.0.2.10', PORTS.IPv4);
  devices.setSenders('IPv6', '2001:db8::10', PORTS.IPv6);
  devices.setTunnelTap('IPv4', tapMac);
  devices.setTunnelTap('IPv6', tapMac);
  const pod = deviceIndex(scene, 'pod-a');
  setVnetSize(scene.core, pod);
  setPointers(scene.core, 64);
  return { scene, pod };
}

/** The next VXLAN datagram on the link with its IP header; null when none comes. */
function nextDatagram(wire: number, timeoutMs: number): Uint8Array | null {
  const room = new Uint8Array(65_536);
  for (;;) {
    const received = receiveFrame(wire, room, timeoutMs);
    if (received === null) return null;
    const { type, payload } = parseEthernet(room.slice(0, received.length));
    const at = type === ETHER_TYPE.ipv4 ? 20 : 40;
    const protocol = payload[type === ETHER_TYPE.ipv4 ? 9 : 6];
    if (protocol === PROTOCOL.udp && read16(payload, at + 2) === 8472) return payload;
  }
}

/** Outer headers as the kernel writes those of our sockets; leaves what is in the tunnel. */
function checkOuter(path: Path, datagram: Uint8Array, tos: number): Uint8Array {
  const isIpv4 = path.carrier === 'IPv4';
  const headerSize = isIpv4 ? 20 : 40;
  const upper = datagram.subarray(headerSize);
  const { source, destination } = isIpv4 ? parseIpv4(datagram) : parseIpv6(datagram);
  const [sum, length] = [read16(upper, 6), read16(upper, 4)];
  assert.is(length, upper.length);
  assert.is(read16(upper, 0), PORTS[path.carrier][0]);
  if (isIpv4) {
    const { ttl, tos: outerTos, totalLength, dontFragment } = parseIpv4(datagram);
    assert.equal([ttl, outerTos, totalLength, dontFragment], [64, tos, datagram.length, false]);
  } else {
    const { hopLimit, trafficClass } = parseIpv6(datagram);
    assert.equal([hopLimit, trafficClass], [64, tos]);
  }
  assert.ok(sum !== 0 && transportChecksum(source, destination, PROTOCOL.udp, upper) === 0);
  return innerOf(upper.subarray(8));
}

function sendWhole(scene: Scene, pod: number, tap: TunnelTap, { header, packet }: Super): void {
  const sends = runOne(scene.core, header, packet, pod);
  assert.equal(sends.map(({ flags }) => flags), [layout.SEND_FLAG_FRAME]);
  const bytes = sends[0]?.bytes ?? new Uint8Array(0);
  assert.is(writeAt(tap.fd, addressOf(bytes), bytes.length), bytes.length);
}

async function proveCut(): Promise<void> {
  const bed = await makeBed();
  const wire = bed.b.run(() => openPacketSocket('eth0'));
  try {
    const trains = new Trains(new Random(617));
    const { scene, pod } = makeStage(bed.tap.mac);
    for (const path of PATHS) {
      for (const protocol of [PROTOCOL.tcp, PROTOCOL.udp]) {
        for (const [size, segmentSize] of [[20_000, 1300], [1301, 1300], [60_000, 1200]] as const) {
          const whole = trains.whole(trains.stream(path, protocol), size, segmentSize,
            { flags: 0x99 });
          sendWhole(scene, pod, bed.tap, whole);
          const spent = withHopSpent(whole.packet);
          const tos = (path.family === 'IPv4' ? spent[1] ?? 0 : read16(spent, 0) >> 4) & 3;
          for (const wanted of segment(spent, { gsoType: whole.header[1] ?? 0, segmentSize })) {
            const datagram = nextDatagram(wire, PATIENCE_MS);
            assert.ok(datagram, `${path.destination} ${protocol}: a datagram comes`);
            assert.is(toHex(checkOuter(path, datagram, tos)), toHex(wanted));
          }
          assert.is(nextDatagram(wire, QUIET_MS), null);
        }
      }
    }
  } finally {
    closeFd(wire);
    bed.close();
  }
}

const PROOF = 'the kernel cuts a frame to what our sockets would have sent';
if (!needs.tun) printSkip(PROOF, 'root and /dev/net/tun are needed');
else if (!probeOffloads().udpTunnelGso) printSkip(PROOF, 'a kernel with tunnel GSO is needed');
else test(PROOF, proveCut);

test.run();

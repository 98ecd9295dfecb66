// The vnet header: what is believed of one that a pod wrote, and the one that a device is given.

import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { readDrops, readEvents } from '../../engine/counters.ts';
import * as layout from '../../wasm/abi/layout.ts';
import { finishChecksum, unfinished } from '../reference/offload.ts';
import { placePacket } from '../support/core.ts';
import { deviceIndex, makeHome } from '../support/home.ts';
import { innerOf, readOutbox, runOne, setPointers, setVnetSize, withHopSpent, type Send } from
  '../support/offload.ts';
import { PROTOCOL, arp, concat, ethernet, fragmentHeader, icmp, ipv4, ipv6, neighbour,
  optionsHeader, parseArp, parseEthernet, parseVxlan, tcp, toHex, udp, vxlan } from
  '../support/packets.ts';
import { Random } from '../support/random.ts';
import type { Scene } from '../support/scene.ts';
import { GSO, VNET_FLAG, parseVnet, vnet, type Vnet } from '../support/vnet.ts';

const PEER4 = { source: '10.244.0.5', destination: '10.244.1.7' };
const PEER6 = { source: 'fd00:10:244::5', destination: 'fd00:10:244:1::7' };
const LOCAL4 = { source: '10.244.0.5', destination: '10.244.0.6' };
const BACK4 = { source: '10.244.0.6', destination: '10.244.0.5' };
const PORTS = { sourcePort: 40000, destinationPort: 5201 };
const POD_MAC = '0a:00:00:00:00:06';
const GATEWAY_MAC = '02:63:75:6c:76:74';
const NOTHING = new Uint8Array(0);
const ASKED = VNET_FLAG.needsChecksum;

/** A home whose devices all have vnet headers: pod-a is a TUN, pod-b a TAP. */
class Home {
  readonly scene: Scene = makeHome();
  readonly core = this.scene.core;
  readonly a = deviceIndex(this.scene, 'pod-a');
  readonly b = deviceIndex(this.scene, 'pod-b');

  constructor() {
    for (const device of [layout.DEVICE_NODE, this.a, this.b]) setVnetSize(this.core, device);
    setPointers(this.core, 64);
  }

  fromA(fields: Partial<Vnet>, packet: Uint8Array): Send[] {
    return runOne(this.core, vnet(fields), packet, this.a);
  }

  fromB(fields: Partial<Vnet>, packet: Uint8Array): Send[] {
    const type = (packet[0] ?? 0) >> 4 === 4 ? 0x0800 : 0x86dd;
    const frame = ethernet({ destination: GATEWAY_MAC, source: POD_MAC, type }, packet);
    return runOne(this.core, vnet(fields), frame, this.b);
  }

  refused(): number {
    return readDrops(this.core, 'outbound').offload ?? 0;
  }
}

function pattern(size: number): Uint8Array {
  return Uint8Array.from({ length: size }, (_, index) => (index * 13) + 1);
}

function tcp4(size: number, ends = PEER4): Uint8Array {
  return unfinished(ipv4({ ...ends, protocol: PROTOCOL.tcp, dontFragment: true },
    tcp({ ...ends, ...PORTS }, pattern(size))));
}

function udp4(size: number, ends = PEER4): Uint8Array {
  return unfinished(ipv4({ ...ends, protocol: PROTOCOL.udp, dontFragment: true },
    udp({ ...ends, ...PORTS }, pattern(size))));
}

function tcp6(size: number, ends = PEER6): Uint8Array {
  return unfinished(ipv6({ ...ends, nextHeader: PROTOCOL.tcp },
    tcp({ ...ends, ...PORTS }, pattern(size))));
}

function udp6(size: number): Uint8Array {
  return unfinished(ipv6({ ...PEER6, nextHeader: PROTOCOL.udp },
    udp({ ...PEER6, ...PORTS }, pattern(size))));
}

/** What a kernel writes in front of super-packets of 1,000 bytes of payload each. */
const TCP4 = { flags: ASKED, gsoType: GSO.tcpv4, headerLength: 40, gsoSize: 1000,
  checksumStart: 20, checksumOffset: 16 };
const TCP6 = { ...TCP4, gsoType: GSO.tcpv6, checksumStart: 40 };
const UDP4 = { ...TCP4, gsoType: GSO.udp, checksumOffset: 6 };
const UDP6 = { ...UDP4, checksumStart: 40 };

test('super-packets of each kind are taken', () => {
  const home = new Home();
  const kinds: [Partial<Vnet>, Uint8Array][] = [
    [TCP4, tcp4(5000)], [TCP6, tcp6(5000)], [UDP4, udp4(5000)], [UDP6, udp6(5000)],
    [{ ...TCP4, gsoType: GSO.tcpv4 | GSO.ecn }, tcp4(5000)],
    [{ ...TCP6, gsoType: GSO.tcpv6 | GSO.ecn }, tcp6(5000)],
    [{ ...TCP4, flags: ASKED | VNET_FLAG.dataValid, headerLength: 65535 }, tcp4(5000)],
    [{ ...TCP4, headerLength: 0 }, tcp4(5000)],
  ];
  for (const [fields, packet] of kinds) {
    const [send] = home.fromA(fields, packet);
    assert.is(send?.packets, 5, JSON.stringify(fields));
  }
  assert.is(home.refused(), 0);
});

test('a header that is not what the packet says is refused', () => {
  const home = new Home();
  const faults: [string, Partial<Vnet>, Uint8Array][] = [
    ['another family', { ...TCP4, gsoType: GSO.tcpv6 }, tcp4(5000)],
    ['another family', { ...TCP6, gsoType: GSO.tcpv4 }, tcp6(5000)],
    ['another protocol', UDP4, tcp4(5000)],
    ['another protocol', TCP4, udp4(5000)],
    ['an unknown type', { ...TCP4, gsoType: 2 }, tcp4(5000)],
    ['UDP fragments', { ...UDP4, gsoType: GSO.udpFragments }, udp4(5000)],
    ['ECN of UDP', { ...UDP4, gsoType: GSO.udp | GSO.ecn }, udp4(5000)],
    ['ECN of nothing', { ...TCP4, gsoType: GSO.ecn }, tcp4(5000)],
    ['a tunnel', { ...TCP4, gsoType: GSO.tcpv4 | GSO.tunnelIpv4 }, tcp4(5000)],
    ['no size', { ...TCP4, gsoSize: 0 }, tcp4(5000)],
    ['a finished checksum', { ...TCP4, flags: 0 }, tcp4(5000)],
    ['a finished checksum', { ...TCP4, flags: VNET_FLAG.dataValid }, tcp4(5000)],
    ['a checksum that starts before', { ...TCP4, checksumStart: 19 }, tcp4(5000)],
    ['a checksum that starts behind', { ...TCP4, checksumStart: 24 }, tcp4(5000)],
    ['a checksum elsewhere', { ...TCP4, checksumOffset: 6 }, tcp4(5000)],
    ['a checksum elsewhere', { ...UDP4, checksumOffset: 16 }, udp4(5000)],
    ['a fragment', { ...UDP4 }, ipv4({ ...PEER4, protocol: PROTOCOL.udp, moreFragments: true },
      udp4(5000).subarray(20))],
    ['a fragment', { ...UDP6, checksumStart: 48 }, ipv6({ ...PEER6, nextHeader: PROTOCOL.fragment },
      concat(fragmentHeader(PROTOCOL.udp, 0, true), udp6(5000).subarray(40)))],
    ['options cut off', { ...TCP4, gsoSize: 1 }, shortHeader()],
    ['too many packets', { ...TCP4, gsoSize: 4 }, tcp4(5000)],
    ['no transport header', { ...UDP4, gsoSize: 1 }, ipv4({ ...PEER4, protocol: PROTOCOL.udp },
      pattern(7))],
    ['a chain of headers that leaves the packet', TCP6, ipv6(
      { ...PEER6, nextHeader: PROTOCOL.destinationOptions },
      concat([PROTOCOL.tcp, 255, 1, 4, 0, 0, 0, 0], pattern(500)))],
  ];
  for (const [index, [what, fields, packet]] of faults.entries()) {
    assert.is(home.fromA(fields, packet).length, 0, what);
    assert.is(home.refused(), index + 1, what);
  }
});

/** TCP that says its header has 60 bytes and has 24. */
function shortHeader(): Uint8Array {
  const packet = tcp4(4);
  packet[32] = 0xf0;
  return packet;
}

test('extension headers are stepped over', () => {
  const home = new Home();
  const upper = tcp({ ...PEER6, ...PORTS }, pattern(5000));
  const packet = unfinished(ipv6({ ...PEER6, nextHeader: PROTOCOL.destinationOptions },
    concat(optionsHeader(PROTOCOL.tcp, 2), upper)));
  assert.is(home.fromA({ ...TCP6, checksumStart: 56 }, packet)[0]?.packets, 5);
  assert.is(home.fromA(TCP6, packet).length, 0);
  assert.is(home.refused(), 1);
});

test('what is no larger than one packet is one', () => {
  const home = new Home();
  for (const size of [1000, 1, 0]) {
    const packet = tcp4(size);
    const [send] = home.fromA(TCP4, packet);
    assert.equal([send?.packets, send?.pieces], [1, 1]);
    const inner = innerOf(send?.bytes ?? NOTHING);
    assert.is(toHex(inner), toHex(finishChecksum(withHopSpent(packet), 20, 16)));
    const [local] = home.fromA(TCP4, tcp4(size, LOCAL4));
    assert.equal(parseVnet(local?.bytes ?? NOTHING),
      { ...TCP4, headerLength: 0, gsoType: 0, gsoSize: 0, checksumStart: 34 });
  }
  assert.is(readEvents(home.core).segmented, 0);
});

test('a checksum is finished wherever behind the IP header it is', () => {
  const home = new Home();
  const inner = udp4(100, { source: '172.16.0.1', destination: '172.16.0.2' });
  const outer = ipv4({ ...PEER4, protocol: PROTOCOL.udp },
    udp({ ...PEER4, ...PORTS }, vxlan({ vni: 9 }, ethernet(
      { destination: POD_MAC, source: POD_MAC, type: 0x0800 }, inner))));
  const packets: [Uint8Array, number, number][] = [
    [tcp4(999), 20, 16], [udp4(1), 20, 6], [udp4(0), 20, 6], [tcp6(1000), 40, 16],
    [outer, 20 + 8 + 8 + 14 + 20, 6],
    [ipv4({ ...PEER4, protocol: PROTOCOL.icmp }, concat([8, 0, 0, 0], pattern(60))), 20, 2],
    [ipv4({ ...PEER4, protocol: 99, options: pattern(8).fill(1) }, pattern(31)), 28, 0],
    [ipv4({ ...PEER4, protocol: 99 }, pattern(31)), 20, 29],
    [ipv4({ ...PEER4, protocol: 99 }, pattern(31)), 49, 0],
  ];
  for (const [packet, checksumStart, checksumOffset] of packets) {
    const [send] = home.fromA({ flags: ASKED, checksumStart, checksumOffset }, packet);
    const expected = finishChecksum(withHopSpent(packet), checksumStart, checksumOffset);
    assert.is(toHex(innerOf(send?.bytes ?? NOTHING)), toHex(expected));
  }
  assert.is(home.refused(), 0);
});

test('a checksum that is not in the packet is refused', () => {
  const home = new Home();
  const plain = ipv4({ ...PEER4, protocol: 99 }, pattern(31));
  const options = ipv4({ ...PEER4, protocol: 99, options: pattern(8).fill(1) }, pattern(31));
  const faults: [Uint8Array, number, number][] = [
    [plain, 0, 16], [plain, 19, 0], [plain, 20, 30], [plain, 50, 0], [plain, 65535, 0],
    [plain, 20, 65535], [plain, 65535, 65535], [options, 27, 0], [options, 28, 30],
    [tcp6(9), 39, 0],
  ];
  for (const [packet, checksumStart, checksumOffset] of faults) {
    const found = home.fromA({ flags: ASKED, checksumStart, checksumOffset }, packet);
    assert.is(found.length, 0, `${checksumStart} ${checksumOffset}`);
  }
  for (const checksumStart of [0, 13, 14, 33]) {
    assert.is(home.fromB({ flags: ASKED, checksumStart }, tcp4(9, BACK4)).length, 0);
  }
  assert.is(home.refused(), faults.length + 4);
});

test('what lies behind the IP packet is no part of it', () => {
  const home = new Home();
  const packet = tcp4(1500);
  const padded = concat(packet, new Uint8Array(900));
  const [send] = home.fromA(TCP4, padded);
  assert.equal(send?.datagrams.map(({ length }) => length), [1062, 562]);
});

test('a TAP counts from the frame', () => {
  const home = new Home();
  const ends = { source: '10.244.0.6', destination: '10.244.1.7' };
  const whole = home.fromB({ ...TCP4, checksumStart: 34 }, tcp4(5000, ends));
  assert.is(whole[0]?.packets, 5);
  const packet = udp4(501, ends);
  const [single] = home.fromB({ flags: ASKED, checksumStart: 34, checksumOffset: 6 }, packet);
  assert.is(toHex(innerOf(single?.bytes ?? NOTHING)),
    toHex(finishChecksum(withHopSpent(packet), 20, 6)));
  assert.is(home.refused(), 0);
});

test('between pods a super-packet stays whole', () => {
  const home = new Home();
  const packet = tcp4(5000, LOCAL4);
  const withEcn = { ...TCP4, gsoType: GSO.tcpv4 | GSO.ecn };
  const [toTap, ...more] = home.fromA({ ...withEcn, headerLength: 9999 }, packet);
  assert.is(more.length, 0);
  assert.equal([toTap?.device, toTap?.packets, toTap?.pieces], [home.b, 5, 1]);
  const expected = concat(
    vnet({ ...withEcn, headerLength: 54, checksumStart: 34 }),
    ethernet({ destination: POD_MAC, source: GATEWAY_MAC, type: 0x0800 }, withHopSpent(packet)));
  assert.is(toHex(toTap?.bytes ?? NOTHING), toHex(expected));

  const back = udp4(5000, BACK4);
  const [toTun] = home.fromB({ ...UDP4, checksumStart: 34 }, back);
  assert.is(toTun?.device, home.a);
  assert.is(toHex(toTun?.bytes ?? NOTHING),
    toHex(concat(vnet({ ...UDP4, headerLength: 28 }), withHopSpent(back))));
  assert.is(readEvents(home.core).segmented, 0);
});

test('to the node a super-packet goes whole, its hop not spent', () => {
  const home = new Home();
  for (const destination of ['192.0.2.10', '198.51.100.1']) {
    const packet = tcp4(5000, { source: PEER4.source, destination });
    const [send] = home.fromA(TCP4, packet);
    assert.equal([send?.device, send?.packets], [layout.DEVICE_NODE, 5]);
    assert.is(toHex(send?.bytes ?? NOTHING), toHex(concat(vnet(TCP4), packet)));
  }
});

test('an unfinished checksum is finished by the device that can, or else by us', () => {
  const home = new Home();
  const packet = udp4(333, LOCAL4);
  const asked = { flags: ASKED, checksumStart: 20, checksumOffset: 6 };
  const frame = { destination: POD_MAC, source: GATEWAY_MAC, type: 0x0800 };
  const [open] = home.fromA(asked, packet);
  assert.is(toHex(open?.bytes ?? NOTHING), toHex(concat(
    vnet({ ...asked, checksumStart: 34 }), ethernet(frame, withHopSpent(packet)))));
  setVnetSize(home.core, home.b, 0);
  const [done] = home.fromA(asked, packet);
  assert.is(toHex(done?.bytes ?? NOTHING),
    toHex(ethernet(frame, finishChecksum(withHopSpent(packet), 20, 6))));
});

test('a device without vnet headers is asked for none', () => {
  const home = new Home();
  setVnetSize(home.core, home.a, 0);
  const packet = ipv4({ ...LOCAL4, protocol: 99 }, pattern(100));
  const sends = runOne(home.core, new Uint8Array(10).fill(0xff), packet, home.a);
  const frame = ethernet({ destination: POD_MAC, source: GATEWAY_MAC, type: 0x0800 },
    withHopSpent(packet));
  assert.is(toHex(sends[0]?.bytes ?? NOTHING), toHex(concat(vnet({}), frame)));
});

test('a packet of a peer has an empty header; behind another a TAP gets it in a piece', () => {
  const home = new Home();
  const source = { address: '192.0.2.11', port: 4000 };
  for (const [destination, device] of [['10.244.0.5', home.a], ['10.244.0.6', home.b]] as const) {
    const packet = ipv4({ source: '10.244.1.7', destination, protocol: 99 }, pattern(50));
    const datagram = vxlan({ vni: 1 }, ethernet(
      { destination: '0e:00:00:00:04:10', source: '0e:00:00:00:04:11', type: 0x0800 }, packet));
    placePacket(home.core, 0, concat(datagram, datagram), layout.DEVICE_UNDERLAY_IPV4, source);
    home.core.view.setUint16(home.core.descriptorAddress(0) + layout.DESCRIPTOR_SEGMENT_SIZE,
      datagram.length, true);
    home.core.exports.processBatch(0, 1, 1_000_000);
    const isTap = device === home.b;
    const sends = readOutbox(home.core);
    assert.is(sends.length, 2);
    for (const send of sends) {
      assert.equal([send.device, send.pieces], [device, isTap ? 2 : 1]);
      const frame = ethernet({ destination: POD_MAC, source: GATEWAY_MAC, type: 0x0800 },
        withHopSpent(packet));
      assert.is(toHex(send.bytes), toHex(concat(vnet({}), isTap ? frame : withHopSpent(packet))));
    }
  }
});

test('answers to a pod have an empty header', () => {
  const home = new Home();
  const asked = { flags: ASKED, checksumStart: 20, checksumOffset: 6 };
  const [error, ...more] = home.fromA(asked, udp4(100, { ...PEER4, destination: '10.244.200.1' }));
  assert.is(more.length, 0);
  assert.equal(parseVnet(error?.bytes ?? NOTHING), parseVnet(vnet({})));
  const quote = error?.bytes.subarray(10 + 28) ?? NOTHING;
  assert.is(toHex(quote.subarray(0, 20)),
    toHex(udp4(100, { ...PEER4, destination: '10.244.200.1' }).subarray(0, 20)));

  const request = ethernet({ destination: 'ff:ff:ff:ff:ff:ff', source: POD_MAC, type: 0x0806 },
    arp({ operation: 1, senderMac: POD_MAC, senderAddress: '10.244.0.6',
      targetMac: '00:00:00:00:00:00', targetAddress: '10.244.0.1' }));
  const [reply] = runOne(home.core, vnet({ flags: 0xff, gsoType: 0xff }), request, home.b);
  assert.equal(parseVnet(reply?.bytes ?? NOTHING), parseVnet(vnet({})));
  const answer = parseEthernet(reply?.bytes.subarray(10) ?? NOTHING);
  assert.is(toHex(answer.destination), '0a 00 00 00 00 06');
  assert.is(parseArp(answer.payload).operation, 2);

  const target = 'fd00:10:244::1';
  const question = neighbour({ source: 'fd00:10:244::6', destination: target, type: 135, target,
    mac: POD_MAC });
  const [advertisement] = home.fromB({}, question);
  assert.equal(parseVnet(advertisement?.bytes ?? NOTHING), parseVnet(vnet({})));
  assert.is(advertisement?.bytes[10 + 14 + 40], 136);
});

test('any vnet header is either refused or harmless', () => {
  const random = new Random(16);
  const home = new Home();
  const packets = [tcp4(3000), udp4(3000), tcp6(3000), udp6(3000), tcp4(3000, LOCAL4),
    ipv4({ ...PEER4, protocol: PROTOCOL.icmp }, icmp(8, 0, 1, pattern(40)))];
  const small = (): number => random.pick([0, 6, 16, 20, 34, 40, 54, 1000, 1460, 3000, 3040,
    random.below(65536)]);
  for (let round = 0; round < 20_000; round += 1) {
    const packet = random.pick(packets);
    const sends = home.fromA({
      flags: random.pick([ASKED, ASKED, 0, random.below(256)]),
      gsoType: random.pick([GSO.none, GSO.tcpv4, GSO.tcpv6, GSO.udp, random.below(256)]),
      headerLength: small(), gsoSize: small(), checksumStart: small(), checksumOffset: small(),
    }, packet);
    const toPeer = sends.filter(({ device }) => device !== home.a && device !== home.b);
    for (const datagram of toPeer.flatMap(({ datagrams }) => datagrams)) {
      assert.is(parseVxlan(datagram).vni, 1);
      assert.ok(datagram.length <= packet.length + layout.PEER_HEADER_SIZE);
    }
  }
  assert.ok(home.refused() > 5000, 'many were refused');
});

test.run();

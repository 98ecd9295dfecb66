// Congestion that routers mark on the underlay, at the end of the tunnel: every pair of outer and
// inner ECN fields, by the table of RFC 6040 section 4.2.

import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { COALESCE_TCP, COALESCE_UDP } from '../../wasm/abi/layout.ts';
import { takeApart } from '../reference/offload.ts';
import { EDGE, EDGE6, fromEdge, inboundCounts, makeJoining, receive } from
  '../support/arrivals.ts';
import { PROTOCOL, internetChecksum, ipv4, ipv6, parseIpv4, parseIpv6, tcp, udp } from
  '../support/packets.ts';
import type { Scene } from '../support/scene.ts';

const [NOT_ECT, ECT_1, ECT_0, CE] = [0, 1, 2, 3];
const NAMES = ['Not-ECT', 'ECT(1)', 'ECT(0)', 'CE'];
const DSCP = 0xb8;
const PORTS = { sourcePort: 40000, destinationPort: 53 };
const ENDS = { source: '10.244.1.7', destination: '10.244.0.5' };
const ENDS6 = { source: 'fd00:10:244:1::7', destination: 'fd00:10:244::5' };

/** RFC 6040 figure 4: rows are the inner field, columns the outer one; null is a drop. */
const TABLE: Record<number, Record<number, number | null>> = {
  [NOT_ECT]: { [NOT_ECT]: NOT_ECT, [ECT_0]: NOT_ECT, [ECT_1]: NOT_ECT, [CE]: null },
  [ECT_0]: { [NOT_ECT]: ECT_0, [ECT_0]: ECT_0, [ECT_1]: ECT_1, [CE]: CE },
  [ECT_1]: { [NOT_ECT]: ECT_1, [ECT_0]: ECT_1, [ECT_1]: ECT_1, [CE]: CE },
  [CE]: { [NOT_ECT]: CE, [ECT_0]: CE, [ECT_1]: CE, [CE]: CE },
};

function packet4(ecn: number): Uint8Array {
  return ipv4({ ...ENDS, protocol: PROTOCOL.udp, tos: DSCP | ecn },
    udp({ ...ENDS, ...PORTS }, Uint8Array.of(1, 2, 3)));
}

function packet6(ecn: number): Uint8Array {
  return ipv6({ ...ENDS6, nextHeader: PROTOCOL.udp, trafficClass: DSCP | ecn, flowLabel: 0xfffff },
    udp({ ...ENDS6, ...PORTS }, Uint8Array.of(1, 2, 3)));
}

/** The one packet of a datagram as it is delivered, or null. */
function decapsulated(scene: Scene, packet: Uint8Array, outerTos: number): Uint8Array | null {
  const source = packet[0] === 0x45 ? EDGE : EDGE6;
  const deliveries = receive(scene, [{ datagrams: [fromEdge(packet)], source, tos: outerTos }]);
  return deliveries[0]?.packet ?? null;
}

for (const [inner, row] of Object.entries(TABLE)) {
  for (const [outer, expected] of Object.entries(row)) {
    const name = `${NAMES[Number(inner)]} in ${NAMES[Number(outer)]}`;
    test(expected === null ? `${name} is dropped` : `${name} becomes ${NAMES[expected]}`, () => {
      const scene = makeJoining(0);
      // The outer DSCP is the underlay's own affair.
      const tos = 0x28 | Number(outer);
      const found = decapsulated(scene, packet4(Number(inner)), tos);
      const found6 = decapsulated(scene, packet6(Number(inner)), tos);
      if (found === null || found6 === null) {
        assert.is(expected, null);
        assert.is(found, found6);
        assert.equal(inboundCounts(scene).drops, { congestion: 2 });
        return;
      }
      assert.is(parseIpv4(found).tos, DSCP | (expected ?? 0));
      assert.is(internetChecksum(found.subarray(0, 20)), 0);
      assert.is(parseIpv6(found6).trafficClass, DSCP | (expected ?? 0));
      assert.is(parseIpv6(found6).flowLabel, 0xfffff);
      assert.equal(found.subarray(20), packet4(Number(inner)).subarray(20));
      assert.equal(found6.subarray(40), packet6(Number(inner)).subarray(40));
    });
  }
}

test('the mark of a slot holds for every datagram in it, joined or not', () => {
  const segment = (index: number): Uint8Array => ipv4(
    { ...ENDS, protocol: PROTOCOL.tcp, tos: DSCP | ECT_0, dontFragment: true },
    tcp({ ...ENDS, ...PORTS, sequence: index * 10 }, new Uint8Array(10).fill(index)));
  const datagrams = [0, 1, 2, 3].map((index) => fromEdge(segment(index)));
  for (const coalesce of [0, COALESCE_TCP]) {
    const scene = makeJoining(coalesce);
    const deliveries = receive(scene, [{ datagrams, tos: CE }]);
    assert.equal(deliveries.map(({ packets }) => packets), coalesce === 0 ? [1, 1, 1, 1] : [4]);
    for (const { packet } of deliveries) {
      assert.is(parseIpv4(packet).tos, DSCP | CE);
      assert.is(internetChecksum(packet.subarray(0, 20)), 0);
    }
    const bytes = deliveries.flatMap(({ packet }) => [...takeApart(packet).payload]);
    assert.equal(bytes, [0, 1, 2, 3].flatMap((index) => new Array<number>(10).fill(index)));
  }
});

test('a marked packet that cannot say so is dropped out of a train, and only that', () => {
  const ecns = [ECT_0, ECT_0, NOT_ECT, ECT_0, CE];
  const scene = makeJoining(COALESCE_TCP | COALESCE_UDP);
  const datagrams = ecns.map((ecn) => fromEdge(packet4(ecn)));
  const deliveries = receive(scene, [{ datagrams, tos: CE }]);
  const sent = deliveries.reduce((sum, { packets }) => sum + packets, 0);
  assert.is(sent, 4);
  assert.ok(deliveries.every(({ packet }) => parseIpv4(packet).tos === (DSCP | CE)));
  assert.equal(inboundCounts(scene).drops, { congestion: 1 });
});

test('nothing is dropped for congestion that would be dropped for another reason', () => {
  const scene = makeJoining(0);
  const foreign = ipv4({ ...ENDS, source: '10.244.2.7', protocol: PROTOCOL.udp },
    udp({ ...ENDS, ...PORTS }, Uint8Array.of(1)));
  assert.is(decapsulated(scene, foreign, CE), null);
  assert.equal(inboundCounts(scene).drops, { foreignSource: 1 });
});

test.run();

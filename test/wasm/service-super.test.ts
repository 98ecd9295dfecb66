// Super-packets through a Service: what they stand for has the backend's ends and right checksums,
// whoever finishes them; and what a peer's kernel has cut is joined and given the Service's.

import { test } from 'uvu';
import * as assert from 'uvu/assert';
import * as layout from '../../wasm/abi/layout.ts';
import { finishChecksum, unfinished } from '../reference/offload.ts';
import { addressFamily } from '../../engine/address.ts';
import { placePacket } from '../support/core.ts';
import { innerOf, placeBehind, readOutbox, runBatches, setPointers, setVnetSize, type Send } from
  '../support/offload.ts';
import { ETHER_TYPE, ethernet, ipv4, ipv6, macOf, PROTOCOL, tcp, udp, vxlan } from
  '../support/packets.ts';
import { clusterNode, TCP } from '../support/policy-core.ts';
import { assertSums, read, service, ServiceBed } from '../support/service-core.ts';
import { GSO, parseVnet, vnet, VNET_FLAG } from '../support/vnet.ts';

const PODS = { a: ['10.1.0.2', 'fd00:1::2'], b: ['10.1.0.3', 'fd00:1::3'] };
const FAMILIES = ['IPv4', 'IPv6'] as const;
const CLIENT = { IPv4: '10.1.0.2', IPv6: 'fd00:1::2' };
const FRONT = { IPv4: '10.96.0.10', IPv6: 'fd00:96::10' };
const LOCAL = { IPv4: '10.1.0.3', IPv6: 'fd00:1::3' };
const REMOTE = { IPv4: '10.1.1.7', IPv6: 'fd00:1:0:1::7' };
const SEGMENT = 1000;
const VNET = 10;
/** A vnet header with tunnel fields, Ethernet, IPv4, UDP, VXLAN and Ethernet again. */
const FRAME_HEADERS = 24 + 14 + 20 + 8 + 8 + 14;

function superBed(backend: string): ServiceBed {
  const bed = new ServiceBed(PODS);
  setPointers(bed.core, 64);
  for (const pod of ['a', 'b']) setVnetSize(bed.core, bed.device(pod));
  bed.serve(service([FRONT[addressFamily(backend)]], [backend]),
    service([FRONT[addressFamily(backend)]], [backend], { name: 'dns', protocol: 'UDP' }));
  return bed;
}

function packet(
  source: string, destination: string, ports: [number, number], protocol: 'tcp' | 'udp',
  payload: Uint8Array, sequence = 1,
): Uint8Array {
  const fields = { source, destination, sourcePort: ports[0], destinationPort: ports[1] };
  const segment = protocol === 'tcp'
    ? tcp({ ...fields, flags: TCP.ack, sequence }, payload)
    : udp(fields, payload);
  return source.includes(':')
    ? ipv6({ source, destination, nextHeader: PROTOCOL[protocol] }, segment)
    : ipv4({ source, destination, protocol: PROTOCOL[protocol], dontFragment: true }, segment);
}

/** Sends a packet whose checksum is left to do, as one of several or alone. */
function sendOpen(
  bed: ServiceBed, from: string, whole: Uint8Array, protocol: 'tcp' | 'udp', size: number,
): Send[] {
  const isIpv4 = (whole[0] ?? 0) >> 4 === 4;
  const kind = protocol === 'udp' ? GSO.udp : isIpv4 ? GSO.tcpv4 : GSO.tcpv6;
  const header = vnet({
    flags: VNET_FLAG.needsChecksum, gsoType: size === 0 ? GSO.none : kind, gsoSize: size,
    checksumStart: isIpv4 ? 20 : 40, checksumOffset: protocol === 'tcp' ? 16 : 6,
  });
  placeBehind(bed.core, 0, header, unfinished(whole), bed.device(from));
  return runBatches(bed.core, 1, bed.nowMs).flat();
}

/** The packet behind a vnet header, its checksum finished as the kernel does it. */
function finished(bytes: Uint8Array): Uint8Array {
  const { checksumStart, checksumOffset } = parseVnet(bytes);
  return finishChecksum(bytes.subarray(VNET), checksumStart, checksumOffset);
}

for (const family of FAMILIES) {
  for (const protocol of ['tcp', 'udp'] as const) {
    const payload = Uint8Array.from({ length: 10 * SEGMENT }, (_, index) => index * 7);
    const request = packet(CLIENT[family], FRONT[family], [5000, 80], protocol, payload);

    test(`${family} ${protocol}: cut for a backend on another node`, () => {
      const bed = superBed(REMOTE[family]);
      const datagrams = sendOpen(bed, 'a', request, protocol, SEGMENT)
        .flatMap((send) => send.datagrams);
      assert.is(datagrams.length, 10);
      for (const datagram of datagrams) {
        const inner = innerOf(datagram);
        assertSums(inner);
        const { source, destination, destinationPort } = read(inner);
        assert.equal([source, destination, destinationPort],
          [CLIENT[family], REMOTE[family], 8080]);
      }
      const short = packet(CLIENT[family], FRONT[family], [5000, 80], protocol,
        payload.subarray(0, 333));
      const [alone] = sendOpen(bed, 'a', short, protocol, 0);
      assertSums(innerOf(alone?.bytes ?? request));
    });

    test(`${family} ${protocol}: whole, as one frame, where the kernel cuts tunnels`, () => {
      const bed = superBed(REMOTE[family]);
      bed.forwarding.devices.setSenders('IPv4', '192.168.0.10', [40000]);
      bed.forwarding.devices.setTunnelTap('IPv4', '02:00:00:00:00:05');
      const [send, ...more] = sendOpen(bed, 'a', request, protocol, SEGMENT);
      assert.is(more.length, 0);
      assert.is(send?.flags, layout.SEND_FLAG_FRAME);
      const inner = (send?.bytes ?? request).subarray(FRAME_HEADERS);
      const found = finishChecksum(inner, read(inner).offset, protocol === 'tcp' ? 16 : 6);
      assertSums(found);
      const { source, destination, destinationPort } = read(found);
      assert.equal([source, destination, destinationPort], [CLIENT[family], REMOTE[family], 8080]);
    });

    test(`${family} ${protocol}: whole to a backend on the same node, and back`, () => {
      const bed = superBed(LOCAL[family]);
      const expect = (sends: Send[], ends: [string, number, string, number]): void => {
        const [send] = sends;
        assert.is(sends.length, 1);
        const bytes = send?.bytes ?? request;
        const { flags, gsoSize } = parseVnet(bytes);
        assert.equal([flags, gsoSize], [VNET_FLAG.needsChecksum, SEGMENT]);
        const found = finished(bytes);
        assertSums(found);
        const { source, sourcePort, destination, destinationPort } = read(found);
        assert.equal([source, sourcePort, destination, destinationPort], ends);
      };
      expect(sendOpen(bed, 'a', request, protocol, SEGMENT),
        [CLIENT[family], 5000, LOCAL[family], 8080]);
      const reply = packet(LOCAL[family], CLIENT[family], [8080, 5000], protocol, payload);
      expect(sendOpen(bed, 'b', reply, protocol, SEGMENT),
        [FRONT[family], 80, CLIENT[family], 5000]);
    });

    test(`${family} ${protocol}: replies that a peer's kernel has cut are joined`, () => {
      const bed = superBed(REMOTE[family]);
      bed.core.setDirectory(layout.DIRECTORY_COALESCE, layout.COALESCE_TCP | layout.COALESCE_UDP);
      sendOpen(bed, 'a', request.slice(), protocol, SEGMENT);
      const mac = (node: number): Uint8Array => macOf(clusterNode(node).tunnels[0]?.mac ?? '');
      const type = ETHER_TYPE[family === 'IPv4' ? 'ipv4' : 'ipv6'];
      for (let slot = 0; slot < 5; slot += 1) {
        const part = payload.subarray(slot * SEGMENT, (slot + 1) * SEGMENT);
        const reply = packet(REMOTE[family], CLIENT[family], [8080, 5000], protocol, part,
          1 + (slot * SEGMENT));
        const frame = ethernet({ destination: mac(0), source: mac(1), type }, reply);
        placePacket(bed.core, slot, vxlan({ vni: 1 }, frame), layout.DEVICE_UNDERLAY_IPV4,
          { address: '192.168.0.11', port: 40000 });
      }
      bed.core.exports.processBatch(0, 5, bed.nowMs);
      const sends = readOutbox(bed.core);
      assert.is(sends.length, 1);
      const bytes = sends[0]?.bytes ?? request;
      const found = finished(bytes);
      assertSums(found);
      const { source, sourcePort, destination, destinationPort } = read(found);
      assert.equal([source, sourcePort, destination, destinationPort],
        [FRONT[family], 80, CLIENT[family], 5000]);
      assert.equal(found.subarray(-5 * SEGMENT), payload.subarray(0, 5 * SEGMENT));
    });
  }
}

test.run();

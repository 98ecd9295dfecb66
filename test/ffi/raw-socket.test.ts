// Raw sockets: ping, forged packets, captured frames.
//
//   [ namespace: lo 127.0.0.1, ::1 ]

import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { closeFd } from '../../ffi/file.ts';
import { createNamespace, type Namespace } from '../../ffi/netns.ts';
import {
  IPPROTO_RAW, openIcmpSocket, openIpSocket, openPacketSocket, openTunnelSocket, receiveFrame,
  receiveFrom, sendTo, setTtl,
} from '../../ffi/raw-socket.ts';
import { localPort, openUdpSocket } from '../../ffi/socket.ts';
import { testNeeding } from '../support/needs.ts';
import { internetChecksum, udpPacket } from './packets.ts';

const test = suite('ffi/raw-socket');
const BUFFERS = { receiveBufferBytes: 1 << 16, sendBufferBytes: 1 << 16 };
const buffer = new Uint8Array(2048);

function inNamespace(name: string, fn: (namespace: Namespace) => void): void {
  testNeeding('root', test, name, () => {
    const namespace = createNamespace();
    try {
      namespace.run(() => fn(namespace));
    } finally {
      namespace.close();
    }
  });
}

inNamespace('a ping of IPv4 comes back with the TTL it was sent with', () => {
  const fd = openIcmpSocket('IPv4');
  setTtl(fd, 'IPv4', 7);
  const echo = Uint8Array.of(8, 0, 0, 0, 0x12, 0x34, 0, 1, 0xab);
  const sum = internetChecksum(echo);
  echo.set([sum >>> 8, sum & 0xff], 2);
  sendTo(fd, echo, '127.0.0.1');
  // The socket sees its own request on loopback first: type 8, with our TTL.
  const request = receiveFrom(fd, buffer, 1000);
  assert.equal(request, { length: 29, address: '127.0.0.1', port: 0 });
  assert.is(buffer[8], 7);
  assert.is(buffer[20], 8);
  assert.ok(receiveFrom(fd, buffer, 1000));
  assert.is(buffer[20], 0);
  assert.is(receiveFrom(fd, buffer, 0), null);
  closeFd(fd);
});

inNamespace('a ping of IPv6 comes back', () => {
  const fd = openIcmpSocket('IPv6');
  setTtl(fd, 'IPv6', 9);
  sendTo(fd, Uint8Array.of(128, 0, 0, 0, 0x12, 0x34, 0, 1), '::1');
  assert.equal(receiveFrom(fd, buffer, 1000), { length: 8, address: '::1', port: 0 });
  assert.is(buffer[0], 128);
  assert.ok(receiveFrom(fd, buffer, 1000));
  assert.is(buffer[0], 129);
  closeFd(fd);
});

for (const [family, local, forged] of [
  ['IPv4', '127.0.0.1', '127.9.9.9'], ['IPv6', '::1', 'fd00::9'],
] as const) {
  inNamespace(`a forged packet leaves with the source it carries, ${family}`, () => {
    const receiver = openUdpSocket({ family, address: local, port: 0, ...BUFFERS });
    const capture = openPacketSocket('lo');
    const sender = openIpSocket(family, IPPROTO_RAW);
    const packet = udpPacket(forged, local, 4242, localPort(receiver), Uint8Array.of(1, 2, 3, 4));
    sendTo(sender, packet, local);
    const frame = receiveFrame(capture, buffer, 1000);
    assert.equal(frame, { length: 14 + packet.length, outgoing: true });
    const source = family === 'IPv4' ? [26, 30] : [22, 38];
    assert.equal([...buffer.subarray(...source)],
      [...packet.subarray(...source.map((offset) => offset - 14))]);
    // Linux takes any 127/8 source on lo; it drops the foreign IPv6 one only without a route.
    if (family === 'IPv4') {
      assert.equal(receiveFrom(receiver, buffer, 1000),
        { length: 4, address: forged, port: 4242 });
    }
    for (const fd of [receiver, capture, sender]) closeFd(fd);
  });
}

inNamespace('capturing an interface that is not there names it', () => {
  assert.throws(() => openPacketSocket('none0'), /^if_nametoindex on none0: ENODEV; /);
});

for (const [family, address, protocol, header] of [
  ['IPv4', '127.0.0.1', 4, 20], ['IPv4', '127.0.0.1', 41, 20], ['IPv6', '::1', 4, 0],
  ['IPv6', '::1', 41, 0],
] as const) {
  inNamespace(`IP in IP over ${family}, protocol ${protocol}: fragments arrive whole`, () => {
    const options = { family, address, protocol, ...BUFFERS };
    const fd = openTunnelSocket(options);
    const other = openTunnelSocket({ ...options, protocol: 45 - protocol });
    // The loopback interface takes 65,536 bytes; with what the kernel puts in front it is more.
    const packet = Uint8Array.from({ length: 65_515 }, (_, at) => at & 0xff);
    const large = new Uint8Array(70_000);
    sendTo(fd, packet, address);
    assert.equal(receiveFrom(fd, large, 1000),
      { length: header + packet.length, address, port: 0 });
    assert.equal(large.subarray(header, header + packet.length), packet);
    if (family === 'IPv4') assert.is(large[6], 0, 'DF is clear');
    assert.is(receiveFrom(other, large, 0), null, 'each protocol has its own socket');
    closeFd(fd);
    closeFd(other);
  });
}

test.run();

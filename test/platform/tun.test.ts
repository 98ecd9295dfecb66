// What we believe of TUN devices.
//
//   [ namespace: UDP socket -> route -> cv<pid> 198.51.100.1/24 -> this test reads ]

import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { ERRNO } from '../../ffi/errno.ts';
import { closeFd, readAt, writeAt } from '../../ffi/file.ts';
import { addressOf } from '../../ffi/memory.ts';
import { Links } from '../../ffi/netlink.ts';
import { createNamespace, type Namespace } from '../../ffi/netns.ts';
import { POLLERR, POLLIN, waitFor } from '../../ffi/poll.ts';
import { receiveFrom, sendTo } from '../../ffi/raw-socket.ts';
import { localPort, openUdpSocket } from '../../ffi/socket.ts';
import { openTun } from '../../ffi/tun.ts';
import { udpPacket } from '../ffi/packets.ts';
import { testNeeding } from '../support/needs.ts';

const test = suite('platform/tun');
const DEVICE = `cv${process.pid}`;
const BUFFERS = { receiveBufferBytes: 1 << 16, sendBufferBytes: 1 << 16 };

interface Bed {
  namespace: Namespace;
  links: Links;
  tun: number;
  udp: number;
}

async function withTun(fn: (bed: Bed) => Promise<void> | void): Promise<void> {
  const namespace = createNamespace();
  const { fd: tun } = namespace.run(() => openTun({ name: DEVICE, kind: 'tun' }));
  const links = namespace.run(() => new Links());
  await links.addAddress(DEVICE, '198.51.100.1/24');
  await links.setLink(DEVICE, { up: true, linkLocalIpv6: false });
  const udp = namespace.run(() =>
    openUdpSocket({ family: 'IPv4', address: '198.51.100.1', port: 0, ...BUFFERS }));
  try {
    await fn({ namespace, links, tun, udp });
  } finally {
    for (const fd of [tun, udp]) closeFd(fd);
    links.close();
    namespace.close();
  }
}

testNeeding('tun', test, 'a read returns one packet, and -EAGAIN when there is none', () =>
  withTun(({ tun, udp }) => {
    const buffer = new Uint8Array(4096);
    const address = addressOf(buffer);
    assert.is(readAt(tun, address, buffer.length), -ERRNO.EAGAIN);
    const lengths = [1, 100, 1472];
    for (const length of lengths) sendTo(udp, new Uint8Array(length), '198.51.100.2', 9);
    for (const length of lengths) {
      assert.is(readAt(tun, address, buffer.length), 28 + length);
      assert.is(buffer[0], 0x45);
    }
    assert.is(readAt(tun, address, buffer.length), -ERRNO.EAGAIN);
  }));

testNeeding('tun', test, 'a write is one packet; one that is no IP packet is -EINVAL', () =>
  withTun(({ tun, udp }) => {
    const port = localPort(udp);
    const packet = udpPacket('198.51.100.2', '198.51.100.1', 53, port, Uint8Array.of(7));
    assert.is(writeAt(tun, addressOf(packet), packet.length), packet.length);
    assert.equal(receiveFrom(udp, new Uint8Array(64), 1000),
      { length: 1, address: '198.51.100.2', port: 53 });
    const rubbish = new Uint8Array(40);
    assert.is(writeAt(tun, addressOf(rubbish), rubbish.length), -ERRNO.EINVAL);
  }));

testNeeding('tun', test, 'a device that is down takes no packets: -EIO', () =>
  withTun(async ({ links, tun }) => {
    await links.setLink(DEVICE, { up: false });
    const packet = udpPacket('198.51.100.2', '198.51.100.1', 53, 9, Uint8Array.of(7));
    assert.is(writeAt(tun, addressOf(packet), packet.length), -ERRNO.EIO);
  }));

testNeeding('tun', test, 'of a deleted device, poll reports POLLERR and a read gives -EBADFD', () =>
  withTun(async ({ links, tun }) => {
    assert.is(waitFor(tun, POLLIN, 0), 0);
    await links.removeLink(DEVICE);
    assert.is(waitFor(tun, POLLIN, 0) & POLLERR, POLLERR);
    const buffer = new Uint8Array(64);
    assert.is(readAt(tun, addressOf(buffer), buffer.length), -ERRNO.EBADFD);
    assert.is(writeAt(tun, addressOf(buffer), buffer.length), -ERRNO.EBADFD);
  }));

testNeeding('tun', test, 'a device moved and renamed keeps its descriptor and its queue', () =>
  withTun(async ({ links, tun, udp }) => {
    sendTo(udp, Uint8Array.of(1), '198.51.100.2', 9);
    const pod = createNamespace();
    await links.setLink(DEVICE, { namespaceFd: pod.fd, newName: 'eth0' });
    const buffer = new Uint8Array(64);
    assert.is(readAt(tun, addressOf(buffer), buffer.length), 29);
    const inside = pod.run(() => new Links());
    assert.is((await inside.link('eth0')).kind, 'tun');
    inside.close();
    pod.close();
  }));

test.run();

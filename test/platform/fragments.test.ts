// What we believe of UDP sockets with path MTU discovery off: DF is clear on every packet, and the
// kernel fragments what is larger than the link.
//
//   [ left: l<pid> 10.0.0.1/24 fd00::1/64 ] === veth, MTU 1500 === [ right: 10.0.0.2, fd00::2 ]
//                                                          captured and received here ^

import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { closeFd } from '../../ffi/file.ts';
import { Links } from '../../ffi/netlink.ts';
import { createNamespace, type Namespace } from '../../ffi/netns.ts';
import { openPacketSocket, receiveFrame, receiveFrom, sendTo } from '../../ffi/raw-socket.ts';
import { openUdpSocket } from '../../ffi/socket.ts';
import { testNeeding } from '../support/needs.ts';

const test = suite('platform/fragments');
const LEFT = `l${process.pid}`;
const RIGHT = `r${process.pid}`;
const PORT = 8472;
const BUFFERS = { receiveBufferBytes: 1 << 18, sendBufferBytes: 1 << 18 };
const ETHERNET_SIZE = 14;
const IPV4_FLAGS = ETHERNET_SIZE + 6;
const IPV4_DF = 0x40;
const IPV4_MF = 0x20;
const IPV6_NEXT_HEADER = ETHERNET_SIZE + 6;
const IPPROTO_UDP = 17;
const IPV6_FRAGMENT = 44;

async function withVeth(fn: (left: Namespace, right: Namespace) => void): Promise<void> {
  const left = createNamespace();
  const right = createNamespace();
  const near = left.run(() => new Links());
  const far = right.run(() => new Links());
  try {
    await near.addVeth(LEFT, RIGHT, right.fd);
    for (const [links, name, host] of [[near, LEFT, 1], [far, RIGHT, 2]] as const) {
      await links.setLink(name, { up: true, linkLocalIpv6: false });
      await links.addAddress(name, `10.0.0.${host}/24`);
      await links.addAddress(name, `fd00::${host}/64`);
    }
    fn(left, right);
  } finally {
    for (const each of [near, far, left, right]) each.close();
  }
}

/** Sends one datagram across and returns the frames that carried it. */
function framesOf(left: Namespace, right: Namespace, size: number, to: string): Uint8Array[] {
  const family = to.includes(':') ? 'IPv6' : 'IPv4';
  const any = { family, address: family === 'IPv6' ? '::' : '0.0.0.0', ...BUFFERS } as const;
  const sender = left.run(() => openUdpSocket({ ...any, port: 0 }));
  const receiver = right.run(() => openUdpSocket({ ...any, port: PORT }));
  const capture = right.run(() => openPacketSocket(RIGHT));
  sendTo(sender, new Uint8Array(size).fill(0xa5), to, PORT);
  assert.is(receiveFrom(receiver, new Uint8Array(1 << 16), 5000)?.length, size);
  const frames: Uint8Array[] = [];
  const buffer = new Uint8Array(1 << 16);
  for (;;) {
    const frame = receiveFrame(capture, buffer, 0);
    if (frame === null) break;
    if (!frame.outgoing && isOurs(buffer)) frames.push(buffer.slice(0, frame.length));
  }
  for (const fd of [sender, receiver, capture]) closeFd(fd);
  return frames;
}

/** UDP or a fragment: neither ARP nor neighbour discovery. */
function isOurs(frame: Uint8Array): boolean {
  const type = ((frame[12] ?? 0) << 8) | (frame[13] ?? 0);
  if (type === 0x0800) return frame[ETHERNET_SIZE + 9] === IPPROTO_UDP;
  const next = frame[IPV6_NEXT_HEADER];
  return type === 0x86dd && (next === IPPROTO_UDP || next === IPV6_FRAGMENT);
}

testNeeding('root', test, 'IPv4: DF is clear, a large datagram crosses in fragments', () =>
  withVeth((left, right) => {
    const [small, ...none] = framesOf(left, right, 1000, '10.0.0.2');
    assert.is(none.length, 0);
    assert.is((small?.[IPV4_FLAGS] ?? 0xff) & (IPV4_DF | IPV4_MF), 0);
    const fragments = framesOf(left, right, 4000, '10.0.0.2');
    assert.equal(fragments.map((frame) => frame.length), [1514, 1514, 1082]);
    assert.equal(fragments.map((frame) => (frame[IPV4_FLAGS] ?? 0) & (IPV4_DF | IPV4_MF)),
      [IPV4_MF, IPV4_MF, 0]);
  }));

testNeeding('root', test, 'IPv6: a large datagram crosses in fragments', () =>
  withVeth((left, right) => {
    const [small] = framesOf(left, right, 1000, 'fd00::2');
    assert.is(small?.[IPV6_NEXT_HEADER], IPPROTO_UDP);
    const fragments = framesOf(left, right, 4000, 'fd00::2');
    assert.is(fragments.length, 3);
    for (const frame of fragments) {
      assert.is(frame[IPV6_NEXT_HEADER], IPV6_FRAGMENT);
      assert.ok(frame.length <= 1514);
    }
  }));

test.run();

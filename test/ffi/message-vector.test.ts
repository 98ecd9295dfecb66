// recvmmsg and sendmmsg between two sockets on loopback, with data and socket addresses in one
// shared WebAssembly memory:
//
//   slot i: 64 bytes of data, then 32 bytes for its socket address

import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { readSocketAddress, writeSocketAddress } from '../../ffi/address.ts';
import { ERRNO } from '../../ffi/errno.ts';
import { closeFd } from '../../ffi/file.ts';
import { addressOf, NativeBlock, POINTER_SIZE } from '../../ffi/memory.ts';
import { MessageVector } from '../../ffi/message-vector.ts';
import { POLLIN, waitFor } from '../../ffi/poll.ts';
import {
  joinDatagrams, localPort, openUdpSocket, probeSegmentLimit, probeUdpGro, receiveTos,
} from '../../ffi/socket.ts';
import { printSkip } from '../support/needs.ts';

const test = suite('ffi/message-vector');
const SLOTS = 16;
const SLOT_SIZE = 96;
const NAME_OFFSET = 64;
const NAME_ROOM = 28;
const BUFFERS = { receiveBufferBytes: 1 << 18, sendBufferBytes: 1 << 18 };

const memory = new WebAssembly.Memory({ initial: 1, maximum: 1, shared: true });
const bytes = new Uint8Array(memory.buffer);
const base = addressOf(bytes);

function point(vector: MessageVector, index: number, length: number, nameLength: number): void {
  const slot = base + index * SLOT_SIZE;
  vector.set(index, slot, length, slot + NAME_OFFSET, nameLength);
}

function nameOf(index: number): Uint8Array {
  return bytes.subarray(index * SLOT_SIZE + NAME_OFFSET, (index + 1) * SLOT_SIZE);
}

function pair(family: 'IPv4' | 'IPv6'): { sender: number; receiver: number; address: string } {
  const address = family === 'IPv4' ? '127.0.0.1' : '::1';
  const options = { family, address, port: 0, ...BUFFERS };
  return { sender: openUdpSocket(options), receiver: openUdpSocket(options), address };
}

test('many datagrams go in one call and arrive in one call, with their sender', () => {
  const { sender, receiver, address } = pair('IPv4');
  const outgoing = new MessageVector(SLOTS);
  for (let i = 0; i < SLOTS; i++) {
    bytes.fill(i + 1, i * SLOT_SIZE, i * SLOT_SIZE + NAME_OFFSET);
    const size = writeSocketAddress(nameOf(i), address, localPort(receiver));
    point(outgoing, i, i + 1, size);
  }
  assert.is(outgoing.send(sender, 0, 10), 10);
  assert.is(outgoing.send(sender, 10, SLOTS - 10), SLOTS - 10);
  assert.is(outgoing.length(9), 10);

  bytes.fill(0xa5, 0, SLOTS * SLOT_SIZE);
  const incoming = new MessageVector(SLOTS);
  for (let i = 0; i < SLOTS; i++) point(incoming, i, NAME_OFFSET, NAME_ROOM);
  waitFor(receiver, POLLIN, 1000);
  assert.is(incoming.receive(receiver, 2, SLOTS - 2), SLOTS - 2);
  assert.is(incoming.receive(receiver, 0, 2), 2);
  for (let i = 2; i < SLOTS; i++) {
    const length = i - 1;
    assert.is(incoming.length(i), length);
    assert.not(incoming.truncated(i));
    const slot = bytes.subarray(i * SLOT_SIZE, i * SLOT_SIZE + length + 1);
    assert.equal([...slot], [...new Array(length).fill(length), 0xa5]);
    assert.equal(readSocketAddress(nameOf(i)), { address, port: localPort(sender) });
  }
  assert.is(incoming.receive(receiver, 0, SLOTS), -ERRNO.EAGAIN);
  closeFd(sender);
  closeFd(receiver);
});

test('a short room cuts and says so; room for names is given back before each receive', () => {
  const incoming = new MessageVector(1);
  const outgoing = new MessageVector(1);
  for (const [family, nameLength] of [['IPv4', 16], ['IPv6', 28]] as const) {
    const { sender, receiver, address } = pair(family);
    point(outgoing, 0, 40, writeSocketAddress(nameOf(0), address, localPort(receiver)));
    assert.is(outgoing.send(sender, 0, 1), 1);
    if (family === 'IPv4') point(incoming, 0, 39, NAME_ROOM);
    waitFor(receiver, POLLIN, 1000);
    assert.is(incoming.receive(receiver, 0, 1), 1);
    assert.is(incoming.length(0), 39);
    assert.ok(incoming.truncated(0));
    assert.is(incoming.nameLength(0), nameLength);
    assert.is(readSocketAddress(nameOf(0)).address, address);
    closeFd(sender);
    closeFd(receiver);
  }
});

test('errors are negative numbers: of the first message, or of a closed descriptor', () => {
  const { sender, receiver, address } = pair('IPv4');
  const outgoing = new MessageVector(2);
  const size = writeSocketAddress(nameOf(0), address, localPort(receiver));
  point(outgoing, 0, 8, size);
  nameOf(1).fill(0);
  point(outgoing, 1, 8, 3);
  assert.is(outgoing.send(sender, 0, 2), 1);
  assert.is(outgoing.send(sender, 1, 1), -ERRNO.EINVAL);
  closeFd(sender);
  closeFd(receiver);
  assert.is(outgoing.send(sender, 0, 1), -ERRNO.EBADF);
  assert.is(outgoing.receive(receiver, 0, 1), -ERRNO.EBADF);
});

const TRAIN_TEST = 'one message is cut, and joined again, with its TOS or traffic class';
if (probeSegmentLimit() === 1 || !probeUdpGro()) {
  test.skip(TRAIN_TEST);
  printSkip(TRAIN_TEST, 'a kernel with UDP_SEGMENT and UDP_GRO is needed');
} else {
  test(TRAIN_TEST, () => {
    const outgoing = new MessageVector(2);
    const incoming = new MessageVector(2);
    for (const family of ['IPv4', 'IPv6'] as const) {
      const { sender, receiver, address } = pair(family);
      assert.ok(joinDatagrams(receiver));
      receiveTos(receiver, family);
      const size = writeSocketAddress(nameOf(0), address, localPort(receiver));
      const name = base + NAME_OFFSET;
      point(outgoing, 0, 50, size);
      outgoing.setControl(0, nameOf(0)[0] ?? 0, 20, 0xb9);
      // The same slot again, plain: nothing is left of what was said before.
      outgoing.setControl(1, nameOf(0)[0] ?? 0, 20, 0xb9);
      outgoing.set(1, base, 7, name, size);
      assert.is(outgoing.send(sender, 0, 2), 2);
      for (let i = 0; i < 2; i++) point(incoming, i, NAME_OFFSET, NAME_ROOM);
      let arrived = 0;
      while (arrived < 2) {
        assert.ok(waitFor(receiver, POLLIN, 1000) > 0);
        arrived += incoming.receive(receiver, arrived, 2 - arrived);
      }
      const seen = [0, 1].map((i) =>
        [incoming.length(i), incoming.segmentSize(i), incoming.tos(i), incoming.nameLength(i)]);
      assert.equal(seen, [[50, 20, 0xb9, size], [7, 0, 0, size]]);
      closeFd(sender);
      closeFd(receiver);
    }
  });
}

test('a message may be in pieces that lie elsewhere', () => {
  const { sender, receiver, address } = pair('IPv4');
  const size = writeSocketAddress(nameOf(0), address, localPort(receiver));
  const pieces = new NativeBlock(3 * 2 * POINTER_SIZE);
  [[30, 2], [10, 1], [20, 3]].forEach(([at = 0, length = 0], piece) => {
    bytes.fill(at, at, at + length);
    pieces.setWord(piece * 2 * POINTER_SIZE, base + at);
    pieces.setWord((piece * 2 * POINTER_SIZE) + POINTER_SIZE, length);
  });
  const outgoing = new MessageVector(1);
  outgoing.setPieces(0, pieces.address, 3, base + NAME_OFFSET, size);
  assert.is(outgoing.send(sender, 0, 1), 1);
  const incoming = new MessageVector(1);
  incoming.set(0, base + SLOT_SIZE, NAME_OFFSET, 0, 0);
  waitFor(receiver, POLLIN, 1000);
  assert.is(incoming.receive(receiver, 0, 1), 1);
  assert.is(incoming.length(0), 6);
  assert.is(incoming.tos(0), 0, 'the socket was not asked for it');
  assert.equal([...bytes.subarray(SLOT_SIZE, SLOT_SIZE + 6)], [30, 30, 10, 20, 20, 20]);
  closeFd(sender);
  closeFd(receiver);
});

test.run();

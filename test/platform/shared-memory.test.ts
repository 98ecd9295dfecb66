// What we believe of WebAssembly memory: the kernel writes straight into it, shared or not, and
// the module sees the bytes. Loopback only.

import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { closeFd } from '../../ffi/file.ts';
import { addressOf } from '../../ffi/memory.ts';
import { MessageVector } from '../../ffi/message-vector.ts';
import { POLLIN, waitFor } from '../../ffi/poll.ts';
import { sendTo } from '../../ffi/raw-socket.ts';
import { localPort, openUdpSocket } from '../../ffi/socket.ts';

const test = suite('platform/shared-memory');
const OFFSET = 70_000;

/** (module (import "m" "m" (memory 2 2 [shared])) (func (export "f") (param i32) (result i32)
 *  local.get 0  i32.load8_u)) */
function loaderModule(shared: boolean): Uint8Array {
  return Uint8Array.from([
    0x00, 0x61, 0x73, 0x6d, 1, 0, 0, 0,
    1, 6, 1, 0x60, 1, 0x7f, 1, 0x7f,
    2, 9, 1, 1, 0x6d, 1, 0x6d, 2, shared ? 3 : 1, 2, 2,
    3, 2, 1, 0,
    7, 5, 1, 1, 0x66, 0, 0,
    10, 9, 1, 7, 0, 0x20, 0, 0x2d, 0, 0, 0x0b,
  ]);
}

for (const shared of [true, false]) {
  test(`recvmmsg fills ${shared ? 'shared' : 'plain'} memory that the module reads`, () => {
    const memory = new WebAssembly.Memory({ initial: 2, maximum: 2, shared });
    const module = new WebAssembly.Module(loaderModule(shared));
    const instance = new WebAssembly.Instance(module, { m: { m: memory } });
    const load = instance.exports['f'] as (address: number) => number;
    const base = addressOf(new Uint8Array(memory.buffer));
    const options = {
      family: 'IPv4', address: '127.0.0.1', port: 0, receiveBufferBytes: 1 << 16,
      sendBufferBytes: 1 << 16,
    } as const;
    const receiver = openUdpSocket(options);
    const sender = openUdpSocket(options);
    sendTo(sender, Uint8Array.of(0x11, 0x22, 0x33), '127.0.0.1', localPort(receiver));
    const vector = new MessageVector(4);
    vector.set(0, base + OFFSET, 64, 0, 0);
    waitFor(receiver, POLLIN, 1000);
    assert.is(vector.receive(receiver, 0, 1), 1);
    assert.equal([0, 1, 2, 3].map((i) => load(OFFSET + i)), [0x11, 0x22, 0x33, 0]);
    assert.is(addressOf(new Uint8Array(memory.buffer)), base);
    closeFd(receiver);
    closeFd(sender);
  });
}

test.run();

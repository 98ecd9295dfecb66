// UDP sockets: where they bind, what they queue, who is at the other end of a unix socket.
// Loopback only.

import { mkdtempSync, rmSync } from 'node:fs';
import { createConnection, createServer, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { closeFd } from '../../ffi/file.ts';
import {
  localPort, openUdpSocket, peerCredentials, probeSegmentLimit, probeUdpGro, receiveBufferBytes,
} from '../../ffi/socket.ts';
import { Links } from '../../ffi/netlink.ts';
import { createNamespace } from '../../ffi/netns.ts';
import { receiveFrom, sendTo } from '../../ffi/raw-socket.ts';
import { testNeeding } from '../support/needs.ts';

const test = suite('ffi/socket');
const BUFFERS = { receiveBufferBytes: 1 << 18, sendBufferBytes: 1 << 18 };

for (const [family, address] of [['IPv4', '127.0.0.1'], ['IPv6', '::1']] as const) {
  test(`a datagram arrives with its sender, ${family}`, () => {
    const receiver = openUdpSocket({ family, address, port: 0, ...BUFFERS });
    const sender = openUdpSocket({ family, address, port: 0, ...BUFFERS });
    const buffer = new Uint8Array(16);
    assert.is(receiveFrom(receiver, buffer, 0), null);
    sendTo(sender, Uint8Array.of(1, 2, 3), address, localPort(receiver));
    assert.equal(receiveFrom(receiver, buffer, 1000),
      { length: 3, address, port: localPort(sender) });
    closeFd(receiver);
    closeFd(sender);
  });
}

test('a port in use and a foreign address are refused by name', () => {
  const options = { family: 'IPv4', address: '127.0.0.1', port: 0, ...BUFFERS } as const;
  const fd = openUdpSocket(options);
  const port = localPort(fd);
  assert.throws(() => openUdpSocket({ ...options, port }),
    `bind on 127.0.0.1:${port}: EADDRINUSE; another process, or a kernel tunnel device`);
  closeFd(fd);
  assert.throws(() => openUdpSocket({ ...options, address: '192.0.2.1' }), /EADDRNOTAVAIL/);
});

test('IPv4 and IPv6 sockets share a port', () => {
  const four = openUdpSocket({ family: 'IPv4', address: '0.0.0.0', port: 0, ...BUFFERS });
  const port = localPort(four);
  const six = openUdpSocket({ family: 'IPv6', address: '::', port, ...BUFFERS });
  assert.is(localPort(six), port);
  closeFd(four);
  closeFd(six);
});

testNeeding('root', test, 'the receive queue may exceed net.core.rmem_max', () => {
  const size = 16 << 20;
  const fd = openUdpSocket({
    family: 'IPv4', address: '127.0.0.1', port: 0, receiveBufferBytes: size, sendBufferBytes: size,
  });
  assert.ok(receiveBufferBytes(fd) >= size);
  closeFd(fd);
});

test('probes answer yes or no', () => {
  assert.ok([1, 63, 127].includes(probeSegmentLimit()));
  assert.type(probeUdpGro(), 'boolean');
});

testNeeding('root', test, 'where nothing can be sent, no more than every kernel cuts', async () => {
  const namespace = createNamespace();
  const links = namespace.run(() => new Links());
  try {
    // As the interface is before it was ever up.
    await links.setLink('lo', { up: false });
    await links.removeAddress('lo', '127.0.0.1/8');
    assert.is(namespace.run(() => probeSegmentLimit()), Math.min(probeSegmentLimit(), 63));
  } finally {
    links.close();
    namespace.close();
  }
});

test('the other end of a unix socket is known', async () => {
  const folder = mkdtempSync(join(tmpdir(), `culvert-${process.pid}-`));
  const path = join(folder, 'control.sock');
  const server = createServer();
  const accepted = new Promise<Socket>((resolve) => server.once('connection', resolve));
  await new Promise<void>((resolve) => server.listen(path, resolve));
  const client = createConnection(path);
  const socket = await accepted;
  const { fd } = (socket as unknown as { _handle: { fd: number } })._handle;
  assert.equal(peerCredentials(fd),
    { pid: process.pid, uid: process.getuid?.(), gid: process.getgid?.() });
  client.destroy();
  socket.destroy();
  await new Promise((resolve) => server.close(resolve));
  rmSync(folder, { recursive: true });
});

test.run();

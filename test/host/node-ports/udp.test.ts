// UDP ports of the node: sessions, who answers, what ends them.

import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { ProxyBed, listenerFor, proxyTest } from '../../support/proxy-bed.ts';
import type { Listener } from '../../../host/node-ports/plan.ts';

const UDP: Partial<Listener> = { protocol: 'UDP' };

proxyTest('an answer comes from the address and port that were asked', async (bed) => {
  for (const address of ['127.0.0.5', '::1']) {
    const backend = await bed.datagrams('a:', address);
    const listener = await listenerFor([backend], { ...UDP, address });
    await bed.put([listener]);
    assert.is(await bed.askDatagram(listener, 'hi'), `a:hi from ${address} ${listener.port}`);
  }
  const { sessionsOpened, rxDatagrams, txDatagrams } = bed.proxy.shared.counters;
  assert.equal([sessionsOpened, rxDatagrams, txDatagrams], [2, 2, 2]);
});

proxyTest('a session keeps its backend, new ones take turns', async (bed) => {
  const backends = [await bed.datagrams('a'), await bed.datagrams('b')];
  const listener = await listenerFor(backends, UDP);
  await bed.put([listener]);
  const seen = new Set<string>();
  for (let client = 0; client < 2; client += 1) {
    const socket = bed.socket('127.0.0.1');
    const first = await bed.askDatagram(listener, '', socket);
    seen.add(first);
    for (let count = 0; count < 3; count += 1) {
      assert.is(await bed.askDatagram(listener, '', socket), first);
    }
  }
  assert.is(seen.size, 2);
  assert.is(bed.proxy.shared.used.sessions, 2);
});

proxyTest('a burst before the backend is connected arrives', async (bed) => {
  const listener = await listenerFor([await bed.datagrams('')], UDP);
  await bed.put([listener]);
  const socket = bed.socket('127.0.0.1');
  const seen: string[] = [];
  socket.on('message', (datagram) => seen.push(datagram.toString()));
  for (const text of ['1', '2', '3', '4']) socket.send(text, listener.port, '127.0.0.1');
  await bed.until('all answered', () => seen.length === 4);
  assert.equal(seen.sort(), ['1', '2', '3', '4']);
});

proxyTest('silence ends a session: sooner before its first answer', async (bed) => {
  const silent = { address: '127.0.0.1', port: 9, state: 'ready' } as const;
  const quiet = bed.socket('127.0.0.1');
  await new Promise<void>((resolve) => quiet.bind(0, '127.0.0.1', resolve));
  const listener = await listenerFor([{ ...silent, port: quiet.address().port }], UDP);
  await bed.put([listener]);
  const { counters, used } = bed.proxy.shared;
  bed.socket('127.0.0.1').send('x', listener.port, '127.0.0.1');
  await bed.until('begun', () => counters.sessionsOpened === 1);
  await bed.until('ended', () => used.sessions === 0);
  await bed.put([{ ...listener, backends: [await bed.datagrams('a')] }]);
  await bed.askDatagram(listener, '');
  await new Promise((resolve) => setTimeout(resolve, 150));
  assert.is(used.sessions, 1, 'it was answered, and may be silent for longer');
  await bed.until('ended', () => used.sessions === 0);
}, { unansweredMs: 60, answeredMs: 2000 });

proxyTest('nobody at the backend: the session ends, the next one asks another', async (bed) => {
  const dead = { address: '127.0.0.1', port: 1, state: 'ready' } as const;
  const listener = await listenerFor([dead, await bed.datagrams('a')], UDP);
  await bed.put([listener]);
  const socket = bed.socket('127.0.0.1');
  socket.send('lost', listener.port, '127.0.0.1');
  await bed.until('it is told', () => bed.proxy.shared.counters.sessionsFailed === 1);
  assert.is(bed.proxy.shared.used.sessions, 0);
  assert.match(await bed.askDatagram(listener, '', socket), /^a from/);
});

proxyTest('nobody at the only backend, and many datagrams: nothing is left', async (bed) => {
  const dead = { address: '127.0.0.1', port: 1, state: 'ready' } as const;
  const listener = await listenerFor([dead], UDP);
  await bed.put([listener]);
  const socket = bed.socket('127.0.0.1');
  for (let count = 0; count < 20; count += 1) {
    socket.send('lost', listener.port, '127.0.0.1');
    if (count % 3 === 0) await new Promise((resolve) => setTimeout(resolve, 2));
  }
  const { counters, used } = bed.proxy.shared;
  await bed.until('all came', () => counters.rxDatagrams === 20 && used.sessions === 0);
  assert.is(counters.sessionsFailed, counters.sessionsOpened);
});

proxyTest('the limit of sessions', async (bed) => {
  const listener = await listenerFor([await bed.datagrams('a')], UDP);
  await bed.put([listener]);
  const first = bed.socket('127.0.0.1');
  await bed.askDatagram(listener, '', first);
  bed.socket('127.0.0.1').send('x', listener.port, '127.0.0.1');
  const { counters } = bed.proxy.shared;
  await bed.until('refused', () => counters.sessionsRefused === 1);
  assert.is(counters.datagramsDropped, 1);
  assert.match(await bed.askDatagram(listener, '', first), /^a from/);
}, { sessions: 1 });

proxyTest('each datagram has a PROXY header of version 2; version 1 has none', async (bed) => {
  const listener = await listenerFor([await bed.datagrams('')], { ...UDP, proxyProtocol: 'v2' });
  await bed.put([listener]);
  const socket = bed.socket('127.0.0.1');
  for (let count = 0; count < 2; count += 1) {
    const seen = await bed.askDatagram(listener, 'query', socket);
    assert.is(seen.slice(0, 14), '\r\n\r\n\0\r\nQUIT\n\x21\x12');
    assert.is(seen.slice(28, 33), 'query');
  }
  await bed.put([{ ...listener, proxyProtocol: 'v1' }]);
  assert.match(await bed.askDatagram(listener, 'query'), /^query from/);
});

proxyTest('a backend or a port that goes ends its sessions', async (bed) => {
  const backends = [await bed.datagrams('a'), await bed.datagrams('b')];
  const listener = await listenerFor(backends.slice(0, 1), UDP);
  await bed.put([listener]);
  const socket = bed.socket('127.0.0.1');
  assert.match(await bed.askDatagram(listener, '', socket), /^a/);
  await bed.put([{ ...listener, backends: backends.slice(1) }]);
  assert.match(await bed.askDatagram(listener, '', socket), /^b/);
  await bed.put([], 0);
  assert.is(bed.proxy.shared.used.sessions, 0);
  const connected = bed.socket('127.0.0.1');
  const refused = new Promise<string>((resolve) => connected.once('error',
    ({ code }: NodeJS.ErrnoException) => resolve(code ?? '')));
  connected.connect(listener.port, '127.0.0.1', () => connected.send('x'));
  assert.is(await refused, 'ECONNREFUSED', 'the kernel says that the port is closed');
});

proxyTest('a UDP port in use is named, and had once it is free', async (bed) => {
  const listener = await listenerFor([await bed.datagrams('a')], UDP);
  const other = new ProxyBed();
  await other.put([listener]);
  bed.proxy.put('test', [listener]);
  await bed.until('it is told', () => bed.proxy.problems().length === 1);
  assert.match(bed.proxy.problems().join(), /UDP: EADDRINUSE; .* another program$/);
  other.close();
  await bed.until('it is open', () => bed.proxy.openCount === 1);
  assert.match(await bed.askDatagram(listener, ''), /^a from/);
});

test.run();

// TCP ports of the node: bytes, ends and resets go through; limits, retries and draining hold.

import { createHash } from 'node:crypto';
import type { Socket } from 'node:net';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { ProxyBed, echo, listenerFor, proxyTest } from '../../support/proxy-bed.ts';
import { Random } from '../../support/random.ts';
import { reset } from '../../../host/node-ports/tcp.ts';

const MEGABYTES = 16;
const CLOSED_PORT = 1;
const CLIENTS = 300;

proxyTest('a request, a half-close, and the answer after it: IPv4 and IPv6', async (bed) => {
  for (const address of ['127.0.0.1', '::1']) {
    const backend = await bed.server(echo('a:'), address);
    const listener = await listenerFor([backend], { address });
    await bed.put([listener]);
    assert.is(await bed.ask(listener, 'question'), 'a:question');
  }
  await bed.until('nothing is left', () => bed.proxy.shared.used.connections === 0);
  const { connectionsOpened, rxBytes, txBytes } = bed.proxy.shared.counters;
  assert.equal([connectionsOpened, rxBytes, txBytes], [2, 16, 20]);
});

proxyTest('a backend that closes first still hears the client', async (bed) => {
  let heard = '';
  const backend = await bed.server((client) => {
    client.end('hello');
    client.on('data', (part: Buffer) => { heard += part.toString(); });
  });
  const listener = await listenerFor([backend]);
  await bed.put([listener]);
  const client = bed.client(listener);
  assert.is(await bed.answer(client), 'hello');
  client.end('still here');
  await bed.until('the backend heard', () => heard === 'still here');
});

proxyTest('a slow reader holds the sender, and every byte arrives', async (bed) => {
  const block = Buffer.alloc(1024 * 1024, 'culvert ');
  const sent = createHash('sha256');
  let written = 0;
  const backend = await bed.server((client) => {
    const write = (): void => {
      while (written < MEGABYTES) {
        sent.update(block);
        written += 1;
        if (!client.write(block)) {
          client.once('drain', write);
          return;
        }
      }
      client.end();
    };
    write();
  });
  const listener = await listenerFor([backend]);
  await bed.put([listener]);
  const client = bed.client(listener);
  client.pause();
  await new Promise((resolve) => setTimeout(resolve, 300));
  assert.ok(written < MEGABYTES, 'the sender waits');
  const received = createHash('sha256');
  client.on('data', (part: Buffer) => received.update(part));
  const ended = new Promise((resolve) => client.once('end', resolve));
  client.resume();
  await ended;
  assert.is(received.digest('hex'), sent.digest('hex'));
});

proxyTest('backends take turns; one that refuses is passed over', async (bed) => {
  const backends = [await bed.server(echo('a')), await bed.server(echo('b'))];
  const listener = await listenerFor(backends);
  await bed.put([listener]);
  const answers = [await bed.ask(listener), await bed.ask(listener)];
  assert.equal(answers.sort(), ['a', 'b']);
  const dead = { address: '127.0.0.1', port: CLOSED_PORT, state: 'ready' } as const;
  await bed.put([{ ...listener, backends: [dead, ...backends.slice(0, 1)] }]);
  for (let count = 0; count < 4; count += 1) assert.is(await bed.ask(listener), 'a');
  await bed.put([{ ...listener, backends: [dead] }]);
  assert.is(await bed.ask(listener), 'ECONNRESET');
  assert.is(bed.proxy.shared.counters.connectionsFailed, 1);
});

proxyTest('ready ones first, then distant, then draining, never unready', async (bed) => {
  const states = ['ready', 'distant', 'draining', 'unready'] as const;
  const backends = await Promise.all(states.map(async (state) =>
    ({ ...await bed.server(echo(state)), state })));
  const listener = await listenerFor(backends);
  for (let first = 0; first < 3; first += 1) {
    await bed.put([{ ...listener, backends: backends.slice(first).reverse() }]);
    for (let count = 0; count < 3; count += 1) assert.is(await bed.ask(listener), states[first]);
  }
  const client = bed.client(listener);
  await new Promise((resolve) => client.once('connect', resolve));
  await bed.until('it has its backend', () => bed.proxy.shared.counters.connectionsOpened === 10);
  const unready = backends.map((backend) => ({ ...backend, state: 'unready' as const }));
  await bed.put([{ ...listener, backends: unready }], 0);
  assert.is(await bed.ask(listener), 'ECONNREFUSED', 'nobody is left');
  const answer = bed.answer(client);
  client.end('?');
  assert.is(await answer, 'draining?', 'what it had goes on');
});

proxyTest('a client with affinity keeps its backend', async (bed) => {
  const backends = [await bed.server(echo('a')), await bed.server(echo('b'))];
  const listener = await listenerFor(backends, { affinitySeconds: 60 });
  await bed.put([listener]);
  const seen = new Set<string>();
  for (const client of ['127.0.0.2', '127.0.0.3']) {
    const first = await bed.ask(listener, '', client);
    seen.add(first);
    for (let count = 0; count < 4; count += 1) {
      assert.is(await bed.ask(listener, '', client), first);
    }
  }
  assert.is(seen.size, 2);
});

proxyTest('draining backends serve where none is ready', async (bed) => {
  const [ready, draining] = [await bed.server(echo('a')), await bed.server(echo('b'))];
  draining.state = 'draining';
  const listener = await listenerFor([draining, ready]);
  await bed.put([listener]);
  for (let count = 0; count < 3; count += 1) assert.is(await bed.ask(listener), 'a');
  await bed.put([{ ...listener, backends: [draining] }]);
  assert.is(await bed.ask(listener), 'b');
});

proxyTest('without a backend the kernel refuses; with one again, it is served', async (bed) => {
  const backend = await bed.server(echo('a'));
  const listener = await listenerFor([]);
  await bed.put([listener], 0);
  assert.is(await bed.ask(listener), 'ECONNREFUSED');
  await bed.put([{ ...listener, backends: [backend] }]);
  assert.is(await bed.ask(listener), 'a');
  await bed.put([listener], 0);
  assert.is(await bed.ask(listener), 'ECONNREFUSED');
});

proxyTest('PROXY protocol: the backend is told who asks, before anything else', async (bed) => {
  const backend = await bed.server(echo(''));
  const listener = await listenerFor([backend], { proxyProtocol: 'v1' });
  await bed.put([listener]);
  const client = bed.client(listener, '127.0.0.9');
  const answer = bed.answer(client);
  await new Promise((resolve) => client.once('connect', resolve));
  const { localPort } = client;
  client.end('GET /');
  assert.is(await answer,
    `PROXY TCP4 127.0.0.9 127.0.0.1 ${localPort} ${listener.port}\r\nGET /`);
  await bed.put([{ ...listener, proxyProtocol: 'v2' }]);
  const seen = await bed.ask(listener, 'GET /');
  assert.is(seen.slice(0, 14), '\r\n\r\n\0\r\nQUIT\n\x21\x11');
  assert.is(seen.slice(28), 'GET /');
});

proxyTest('the limit of connections refuses more, until one ends', async (bed) => {
  const backend = await bed.server(echo('a'));
  const listener = await listenerFor([backend]);
  await bed.put([listener]);
  const first = bed.client(listener);
  const answer = bed.answer(first);
  await bed.until('joined', () => bed.proxy.shared.counters.connectionsOpened === 1);
  assert.is(await bed.ask(listener), 'ECONNRESET');
  assert.is(bed.proxy.shared.counters.connectionsRefused, 1);
  first.end();
  assert.is(await answer, 'a');
  await bed.until('ended', () => bed.proxy.shared.used.connections === 0);
  assert.is(await bed.ask(listener), 'a');
}, { connections: 1 });

proxyTest('silence ends a connection', async (bed) => {
  const listener = await listenerFor([await bed.server(() => {})]);
  await bed.put([listener]);
  assert.is(await bed.answer(bed.client(listener)), 'ECONNRESET');
  await bed.until('ended', () => bed.proxy.shared.used.connections === 0);
}, { idleMs: 100 });

proxyTest('a backend that does not answer is given up', async (bed) => {
  const listener = await listenerFor([await bed.silent()]);
  await bed.put([listener]);
  const answer = await bed.answer(bed.client(listener));
  assert.is(answer, 'ECONNRESET');
  await bed.until('ended', () => bed.proxy.shared.used.connections === 0);
}, { connectMs: 100 });

proxyTest('a backend that goes before it has accepted: another one does', async (bed) => {
  const listener = await listenerFor([await bed.silent()]);
  await bed.put([listener]);
  const answer = bed.ask(listener, '?');
  await bed.until('it came', () => bed.proxy.shared.used.connections === 1);
  await bed.put([{ ...listener, backends: [await bed.server(echo('a'))] }]);
  assert.is(await answer, 'a?');
});

proxyTest('resets go through in both directions', async (bed) => {
  let heard = '';
  const backend = await bed.server((client) => {
    client.on('error', ({ code }: NodeJS.ErrnoException) => { heard = code ?? ''; });
    client.on('data', () => client.resetAndDestroy());
  });
  const listener = await listenerFor([backend]);
  await bed.put([listener]);
  const { counters } = bed.proxy.shared;
  const first = bed.client(listener);
  first.write('x');
  assert.is(await bed.answer(first), 'ECONNRESET');
  const second = bed.client(listener);
  await bed.until('joined', () => counters.connectionsOpened === 2);
  second.resetAndDestroy();
  await bed.until('the backend heard', () => heard === 'ECONNRESET');
});

proxyTest('a connection whose backend is gone is reset, others go on', async (bed) => {
  const backends = [await bed.server(echo('a')), await bed.server(echo('b'))];
  const listener = await listenerFor(backends);
  await bed.put([listener]);
  const clients = [bed.client(listener), bed.client(listener)];
  const answers = clients.map((client) => bed.answer(client));
  await bed.until('joined', () => bed.proxy.shared.counters.connectionsOpened === 2);
  await bed.put([{ ...listener, backends: backends.slice(0, 1) }]);
  await bed.until('one is left', () => bed.proxy.shared.used.connections === 1);
  for (const client of clients) client.end('!');
  assert.equal((await Promise.all(answers)).sort(), ['ECONNRESET', 'a!']);
});

proxyTest('a port that goes is closed at once, its connections drain', async (bed) => {
  const listener = await listenerFor([await bed.server(echo('a'))]);
  await bed.put([listener]);
  const [lasting, brief] = [bed.client(listener), bed.client(listener)];
  const answers = [bed.answer(lasting), bed.answer(brief)];
  await bed.until('joined', () => bed.proxy.shared.counters.connectionsOpened === 2);
  await bed.put([], 0);
  assert.is(await bed.ask(listener), 'ECONNREFUSED');
  brief.end('?');
  assert.equal(await Promise.all(answers), ['ECONNRESET', 'a?']);
}, { drainMs: 300 });

proxyTest('a port in use is named, and had once it is free', async (bed) => {
  const backend = await bed.server(echo('a'));
  const listener = await listenerFor([backend]);
  const other = new ProxyBed();
  await other.put([listener]);
  bed.proxy.put('test', [listener]);
  const { port } = listener;
  await bed.until('it is told', () => bed.proxy.problems().length === 1);
  assert.equal(bed.proxy.problems(), [
    `test: port 127.0.0.1:${port}/TCP: EADDRINUSE; the port is in use by another program`]);
  other.close();
  await bed.until('it is open', () => bed.proxy.openCount === 1);
  assert.equal(bed.proxy.problems(), []);
  assert.is(await bed.ask(listener), 'a');
});

proxyTest('of two owners the first has a port until it goes', async (bed) => {
  const [one, two] = [await bed.server(echo('a')), await bed.server(echo('b'))];
  const first = await listenerFor([one], { owner: 'service x/a' });
  const second = { ...first, owner: 'service x/b', backends: [two] };
  await bed.put([first], 1, first.owner);
  bed.proxy.put(second.owner, [second]);
  await bed.until('it is told', () => bed.proxy.problems().length === 1);
  assert.match(bed.proxy.problems().join(), /^service x\/b: .* in use by service x\/a$/);
  assert.is(await bed.ask(first), 'a');
  bed.proxy.put(first.owner, []);
  await bed.until('the second has it', () => bed.proxy.problems().length === 0);
  assert.is(await bed.ask(second), 'b');
});

proxyTest('ports that come and go quickly end as they were last wanted', async (bed) => {
  const backend = await bed.server(echo('a'));
  const listener = await listenerFor([backend]);
  for (let count = 0; count < 20; count += 1) {
    bed.proxy.put('test', [listener]);
    bed.proxy.put('test', count % 2 === 0 ? [] : [{ ...listener, backends: [] }]);
    if (count % 5 === 0) await new Promise((resolve) => setImmediate(resolve));
  }
  await bed.put([listener]);
  assert.is(await bed.ask(listener), 'a');
  await bed.put([], 0);
  assert.is(await bed.ask(listener), 'ECONNREFUSED');
});

proxyTest('whatever clients and backends do, nothing is left of them', async (bed) => {
  const random = new Random(7);
  const unruly = (client: Socket): void => {
    client.on('data', () => {
      if (random.below(10) < 3) reset(client);
      else if (random.below(10) < 3) client.end('bye');
    });
    client.on('end', () => client.end('end'));
  };
  const backends = [await bed.server(unruly), await bed.server(unruly)];
  const listener = await listenerFor(backends);
  await bed.put([listener]);
  const endings: Promise<unknown>[] = [];
  for (let count = 0; count < CLIENTS; count += 1) {
    const client = bed.client(listener);
    endings.push(new Promise((resolve) => client.once('close', resolve)));
    client.on('error', () => {});
    client.on('end', () => client.end());
    client.write(Buffer.alloc(random.below(100_000) + 1));
    if (random.below(10) < 5) client.end();
    if (random.below(10) < 3) setTimeout(() => client.destroy(), random.below(30));
    if (random.below(10) < 2) setTimeout(() => reset(client), 5);
    client.resume();
    if (count % 20 === 0) await new Promise((resolve) => setTimeout(resolve, 5));
  }
  await bed.until('most are over', () => bed.proxy.shared.used.connections < CLIENTS / 2);
  await bed.put([{ ...listener, backends: [] }], 0);
  await bed.until('all are over', () => bed.proxy.shared.used.connections === 0);
  await Promise.all(endings);
});

test.run();

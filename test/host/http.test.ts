// The server for metrics and health: what it answers, what it refuses, and that a port which is
// taken ends nothing.

import { createServer, type AddressInfo } from 'node:net';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { DEFAULTS, loadConfig } from '../../host/config.ts';
import { checksAnswer, HttpServer, plain } from '../../host/http.ts';

const QUIET = { debug() {}, info() {}, warn() {}, error() {} };
const WELL = { name: 'tun', isWell: true, detail: '' };
const ILL = { name: 'cluster', isWell: false, detail: 'not known' };

async function serve(): Promise<{ server: HttpServer; at: string }> {
  const server = new HttpServer({
    address: '127.0.0.1', port: 0, log: QUIET,
    routes: {
      '/metrics': () => plain(200, 'a 1\n'),
      '/readyz': (query) => checksAnswer([WELL], query),
      '/fails': () => Promise.reject(new Error('no')),
    },
  });
  await server.listen();
  return { server, at: `http://127.0.0.1:${server.port}` };
}

test('GET and HEAD of its paths, and nothing else', async () => {
  const { server, at } = await serve();
  try {
    const metrics = await fetch(`${at}/metrics`);
    assert.equal([metrics.status, await metrics.text()], [200, 'a 1\n']);
    const head = await fetch(`${at}/metrics`, { method: 'HEAD' });
    assert.equal([head.status, await head.text()], [200, '']);
    assert.is((await fetch(`${at}/metrics`, { method: 'POST' })).status, 405);
    const missing = await fetch(`${at}/toString`);
    assert.is(missing.status, 404);
    assert.match(await missing.text(), '/readyz');
    assert.is((await fetch(`${at}/fails`)).status, 500);
    assert.is(await (await fetch(`${at}/readyz`)).text(), 'ok\n');
    assert.is(await (await fetch(`${at}/readyz?verbose`)).text(), '[+]tun ok\nok\n');
  } finally {
    await server.close();
  }
  await server.close();
});

test('one check that fails makes it 503, and says why', () => {
  const { status, text } = checksAnswer([WELL, ILL], new URLSearchParams());
  assert.is(status, 503);
  assert.is(text, '[+]tun ok\n[-]cluster failed: not known\nnot ok\n');
});

test('a port that is taken is told, and no error', async () => {
  const other = createServer();
  await new Promise<void>((resolve) => other.listen(0, '127.0.0.1', resolve));
  const { port } = other.address() as AddressInfo;
  const warned: string[] = [];
  const log = { ...QUIET, warn: (_: object, message: string) => { warned.push(message); } };
  const server = new HttpServer({ address: '127.0.0.1', port, log, routes: {} });
  await server.listen();
  assert.match(warned.join(), 'cannot listen');
  assert.is(server.port, 0);
  await server.close();
  other.close();
});

test('the port is a setting, and null turns the server off', () => {
  const given = { CULVERT_NODE_NAME: 'n', CULVERT_UNDERLAY_INTERFACE: 'eth0' };
  assert.is(loadConfig(null, given, {}).http.port, DEFAULTS.http.port);
  assert.is(loadConfig(null, { ...given, CULVERT_HTTP_PORT: 'null' }, {}).http.port, null);
  assert.is(loadConfig(null, given, { http: { port: 9100 } }).http.port, 9100);
  assert.throws(() => loadConfig(null, { ...given, CULVERT_HTTP_PORT: '70000' }, {}),
    /CULVERT_HTTP_PORT/);
});

test.run();

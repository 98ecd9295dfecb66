// Recorded lists and watches through the reflector, the bytes cut in three ways: what it makes of
// them is what a plain fold of the same events gives, and what the server listed afterwards.

import { createServer } from 'node:http';
import type { ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { Access } from '../../../sync/kubernetes/access.ts';
import { ApiClient } from '../../../sync/kubernetes/client.ts';
import { RESOURCES } from '../../../sync/kubernetes/resources.ts';
import { KubernetesSource } from '../../../sync/kubernetes/source.ts';
import { project } from '../../../sync/objects.ts';
import type { Entry } from '../../../sync/objects.ts';
import { bodyOf, eventsOf, isWatch, readRecording, resourceOf }
  from '../../support/api-server/recording.ts';
import type { Exchange } from '../../support/api-server/recording.ts';
import { Collector, QUICK, differences, until } from '../../support/followed.ts';
import { Random } from '../../support/random.ts';

const test = suite('replay');

/** Exchanges of a recording by number: a list (or none, for a WatchList) and the watch after it. */
interface Replay {
  recording: string;
  list: number | null;
  watch: number;
  /** A list that was recorded when the watch was over. */
  later?: number;
}

const REPLAYS: readonly Replay[] = ['1.36.2', '1.20.2'].flatMap((version): Replay[] => [
  { recording: `02a-watch-namespaces.v${version}`, list: 1, watch: 2 },
  { recording: `02b-watch-pods.v${version}`, list: 1, watch: 2 },
  { recording: `02c-watch-networkpolicies.v${version}`, list: 1, watch: 2, later: 3 },
  { recording: `02d-watch-nodes.v${version}`, list: 1, watch: 2 },
  { recording: `02e-watch-services-endpointslices.v${version}`, list: 1, watch: 3 },
  { recording: `02e-watch-services-endpointslices.v${version}`, list: 2, watch: 4 },
  { recording: `08-dual-stack.v${version}`, list: 1, watch: 2 },
  { recording: `08-dual-stack.v${version}`, list: 3, watch: 4 },
]).concat([1, 2, 3].map((watch) => (
  { recording: '10-real-cluster.v1.36.2', list: null, watch })));

for (const replay of REPLAYS) {
  const { recording, list, watch, later } = replay;
  test(`${recording}, exchange ${watch}`, async () => {
    const { exchanges } = readRecording(recording);
    const exchange = (id: number | null): Exchange | undefined =>
      exchanges.find((item) => item.id === id);
    const events = exchange(watch);
    assert.ok(events !== undefined && isWatch(events));
    const wanted = fold(exchange(list), events);
    if (later !== undefined) assert.equal(differences(fold(exchange(later)), wanted), []);
    assert.ok(eventsOf(bodyOf(events)).length > 2);
    const random = new Random(watch);
    for (const size of [1 << 30, 1, 0]) {
      const found = await follow(exchange(list), events, () => size || 1 + random.below(200));
      assert.equal(differences(wanted, found), [], `pieces of ${size} bytes`);
    }
  });
}

function resourceFor(exchange: Exchange): typeof RESOURCES[number] {
  const plural = resourceOf(exchange.path);
  const resource = RESOURCES.find((item) => item.plural === plural);
  if (resource === undefined) throw new Error(`${exchange.path} is not followed`);
  return resource;
}

/** The state after the list and the events, by the book. */
function fold(list: Exchange | undefined, watch?: Exchange): Map<string, Entry> {
  const { kind, apiVersion } = resourceFor(list ?? watch as Exchange);
  const entries = new Map<string, Entry>();
  const put = (object: object): void => {
    const { entry, problems } = project({ ...object, kind, apiVersion }, () => '');
    assert.equal(problems, []);
    if (entry !== null) entries.set(`${kind} ${entry.key}`, entry);
  };
  if (list !== undefined) {
    (JSON.parse(bodyOf(list).toString()) as { items: object[] }).items.forEach(put);
  }
  for (const { type, object } of watch === undefined ? [] : eventsOf(bodyOf(watch))) {
    const { namespace, name } = object.metadata;
    if (type === 'ADDED' || type === 'MODIFIED') put(object);
    if (type === 'DELETED') entries.delete(`${kind} ${namespace ? `${namespace}/` : ''}${name}`);
  }
  return entries;
}

/** The state that the source makes of the same bytes, cut into pieces. */
async function follow(
  list: Exchange | undefined, watch: Exchange, size: () => number,
): Promise<Map<string, Entry>> {
  const bytes = bodyOf(watch);
  let isOver = false;
  const write = async (response: ServerResponse, body: Buffer): Promise<void> => {
    for (let at = 0; at < body.length;) {
      const length = size();
      response.write(body.subarray(at, at + length));
      at += length;
      // Small pieces go out one by one now and then; together they would take too long.
      if (at % 16 === 0) await new Promise((resolve) => { setImmediate(resolve); });
    }
  };
  const server = createServer((request, response) => {
    const { searchParams } = new URL(request.url ?? '', 'http://server');
    const isWatchList = searchParams.has('sendInitialEvents');
    if (searchParams.get('limit') === '1') {
      response.end('{"metadata":{"resourceVersion":"1"},"items":[]}');
    } else if (isWatchList && list !== undefined) {
      response.writeHead(422).end('{}');
    } else if (searchParams.has('watch')) {
      response.flushHeaders();
      // What is recorded comes once; then there is silence.
      if (isOver) return;
      isOver = true;
      void write(response, bytes);
    } else {
      void write(response, bodyOf(list as Exchange)).then(() => response.end());
    }
  });
  await new Promise<void>((resolve) => { server.listen(0, '127.0.0.1', resolve); });
  const { port } = server.address() as AddressInfo;
  const none = { token: null, ca: null, certificate: null, key: null };
  const client = new ApiClient(new Access({
    server: `http://127.0.0.1:${port}`, serverName: null, secrets: none, origin: 'recording',
  }));
  const collector = new Collector();
  const abort = new AbortController();
  const note = (): void => {};
  const source = new KubernetesSource({
    client, nodeName: 'n1', resources: [resourceFor(watch)],
    timing: { ...QUICK, silenceMs: 60_000 },
    log: { debug: note, info: note, warn: note, error: note },
  }, collector);
  const running = source.run(abort.signal);
  const total = bytes.length + (list === undefined ? 0 : bodyOf(list).length);
  await until('all bytes are read', () => source.resources[0]?.counters.bytes === total);
  abort.abort();
  await running;
  server.closeAllConnections();
  server.close();
  assert.is(source.resources[0]?.counters.relists, 0);
  return collector.entries;
}

test.run();

// The test API server in a process of its own, for measurements that must not share a CPU or a heap
// with it:
//
//   node dist/test/support/api-server/main.js [--version 1.36] [--plain] [--port N]
//     [--nodes 5000 --pods 100000 --policies 10000 --namespaces 500]
//     [--second-ms 1000] [--history 20000]
//
// It prints one line of JSON: { url, ca, token, adminToken, kubeconfig, pid }. Then it takes
// commands, one JSON array a line on standard input, and answers each with a line
// { ok, result } or { ok: false, error }:
//
//   ["create", "pods", object]   ["replace", "pods", object]   ["patch", "pods", "ns/name", change]
//   ["delete", "pods", "ns/name"]   ["get", "pods", "ns/name"]   ["count", "pods"]   ["version"]
//   ["patchAt", "pods", "ns/name", change]: the Unix time just before the change, in ms
//   ["load", { perSecond, changes, cutEvery }, seed]: how often watches were cut (load.ts)
//   ["fault", {...}]   ["clearFaults"]   ["dropWatches", "cut"]   ["requests"]
//   ["kill"]   ["start"]   ["freeze"]   ["thaw"]   ["compact"]   ["restart"]
//
// It ends when standard input does.

import { createInterface } from 'node:readline';
import { parseArgs } from 'node:util';
import { Random } from '../random.ts';
import { LARGEST, fillBigCluster, type ClusterSize } from './big-cluster.ts';
import type { Fault } from './faults.ts';
import { play, type Load } from './load.ts';
import type { KubeObject, ServerVersion } from './resources.ts';
import { ADMIN_TOKEN, ENGINE_TOKEN, READER_RULES, TestApiServer } from './server.ts';

const { values } = parseArgs({
  options: {
    version: { type: 'string', default: '1.36' }, plain: { type: 'boolean', default: false },
    port: { type: 'string', default: '0' }, nodes: { type: 'string' }, pods: { type: 'string' },
    policies: { type: 'string' }, namespaces: { type: 'string' },
    'second-ms': { type: 'string', default: '1000' },
    history: { type: 'string', default: '20000' },
  },
});

const server = new TestApiServer({
  version: values.version as ServerVersion, tls: !values.plain, port: Number(values.port),
  secondMs: Number(values['second-ms']), historyLimit: Number(values.history),
});

type Command = (...args: never[]) => unknown;

const COMMANDS: Record<string, Command> = {
  create: (resource: string, object: KubeObject) => server.create(resource, object).metadata,
  replace: (resource: string, object: KubeObject) => server.replace(resource, object).metadata,
  patch: (resource: string, key: string, change: unknown) =>
    server.patch(resource, key, change).metadata,
  patchAt: (resource: string, key: string, change: unknown) => {
    const atMs = performance.timeOrigin + performance.now();
    server.patch(resource, key, change);
    return atMs;
  },
  delete: (resource: string, key: string) => { server.delete(resource, key); },
  get: (resource: string, key: string) => server.get(resource, key),
  count: (resource: string) => server.store.collection(resource).keys.length,
  version: () => server.store.version,
  requests: () => server.requests,
  fault: (fault: Fault) => { server.faults.add(fault); },
  clearFaults: () => { server.faults.clear(); },
  dropWatches: (how: 'end' | 'cut', resource?: string) => { server.dropWatches(how, resource); },
  kill: () => server.kill(),
  start: () => server.start(),
  freeze: () => { server.freeze(); },
  thaw: () => { server.thaw(); },
  compact: () => { server.compact(); },
  restart: () => { server.restart(); },
  load: (load: Load, seed: number) => play(server, load, new Random(seed)),
};

async function answer(line: string): Promise<unknown> {
  try {
    const [name = '', ...args] = JSON.parse(line) as [string, ...unknown[]];
    const command = COMMANDS[name];
    if (command === undefined) throw new Error(`no command ${name}`);
    return { ok: true, result: await (command as (...given: unknown[]) => unknown)(...args) };
  } catch (error) {
    return { ok: false, error: (error as Error).message };
  }
}

function sizeAsked(): ClusterSize {
  const size = { ...LARGEST };
  for (const name of ['nodes', 'pods', 'policies', 'namespaces'] as const) {
    const text = values[name];
    if (text !== undefined) size[name] = Number(text);
  }
  return size;
}

server.grant('engine', READER_RULES);
if (values.pods !== undefined || values.nodes !== undefined) {
  fillBigCluster(server.store, sizeAsked());
}
await server.start();
const { url, ca } = server;
process.stdout.write(`${JSON.stringify({
  url, ca, token: ENGINE_TOKEN, adminToken: ADMIN_TOKEN, kubeconfig: server.kubeconfig(),
  pid: process.pid,
})}\n`);
// A disconnected starter must not leave the server behind.
process.stdout.on('error', () => process.exit(1));
let last = Promise.resolve();
const lines = createInterface({ input: process.stdin });
lines.on('line', (line) => {
  last = last.then(async () => {
    process.stdout.write(`${JSON.stringify(await answer(line))}\n`);
  });
});
lines.on('close', () => {
  void last.then(() => server.close()).then(() => process.exit(0));
});

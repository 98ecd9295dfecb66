// The sidecar against a real server on a real socket: first snapshot, deltas, a host that restarts,
// refuses, asks for all again, or does not answer.

import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import type { Log } from '../../engine/log.ts';
import { HOST_PORT_LIMIT } from '../../engine/model.ts';
import type { ClusterNode, Delta, Pod, Snapshot } from '../../engine/model.ts';
import { ControlServer } from '../../host/control.ts';
import { Intake } from '../../host/intake.ts';
import { runSync } from '../../sync/main.ts';
import { Sender } from '../../sync/send.ts';
import type { SenderOptions } from '../../sync/send.ts';
import type { Content } from '../../sync/translate.ts';
import { ContentFeed } from '../support/content-feed.ts';

const root = mkdtempSync(join(tmpdir(), `culvert-send-${process.pid}-`));
let sockets = 0;
let cleanups: (() => unknown)[] = [];

test.after.each(async () => {
  const rest = cleanups.reverse();
  cleanups = [];
  for (const cleanup of rest) await cleanup();
});
test.after(() => rmSync(root, { recursive: true }));

/** What a host took, as short text: `snapshot 1 a,b`, `delta 1-2 +b -c`. */
class Host {
  readonly told: string[] = [];
  /** How many pods the last snapshot had. */
  pods = 0;
  readonly intake: Intake;
  readonly server: ControlServer;
  refuse = '';
  pause = Promise.resolve();
  isBusy = false;
  #wake = (): void => {};

  constructor(path: string) {
    this.intake = new Intake({
      local: 'a',
      onSnapshot: async (snapshot) => {
        await this.pause;
        this.pods = snapshot.pods.length;
        this.#take(describeSnapshot(snapshot));
      },
      onDelta: async (delta) => {
        this.isBusy = true;
        await this.pause;
        this.isBusy = false;
        this.#take(describeDelta(delta));
      },
      facts: () => ({
        underlay: [], podNetworks: [], port: 8472, tier: 'T1', version: '1',
        mac: { IPv4: '02:00:00:00:00:04', IPv6: '02:00:00:00:00:06' },
      }),
    });
    this.server = new ControlServer({
      path, mode: 0o660, roles: ['sync'], methods: this.intake.methods(), version: '1', log: log(),
      accept: (party) => this.intake.refusal(party),
      onOpen: (connection) => this.intake.opened(connection),
      onClosed: (connection) => this.intake.closed(connection),
    });
  }

  /** Waits until the host was told this. */
  async heard(text: string): Promise<void> {
    while (!this.told.includes(text)) await new Promise<void>((wake) => { this.#wake = wake; });
  }

  #take(text: string): void {
    if (this.refuse !== '') {
      this.told.push(`refused ${text}`);
      this.#wake();
      throw new Error(this.refuse);
    }
    this.told.push(text);
    this.#wake();
  }
}

function describeSnapshot({ revision, nodes, pods }: Snapshot): string {
  const names = nodes.length > 9 ? `${nodes.length} nodes` : nodes.map(({ name }) => name).join();
  return `snapshot ${revision} ${names}${pods.map(({ name }) => ` ${name}`).join('')}`;
}

function describeDelta({ from, to, nodes, removedNodes, pods, removedPods }: Delta): string {
  const fresh = [...nodes, ...pods].map(({ name }) => ` +${name}`).join('');
  const gone = [...removedNodes, ...removedPods.map(({ name }) => name)].map((name) => ` -${name}`);
  return `delta ${from}-${to}${fresh}${gone.join('')}`;
}

function log(lines: string[] = []): Log {
  const write = (fields: object, message: string): void => {
    lines.push(`${message} ${JSON.stringify(fields)}`);
  };
  return { debug: () => {}, info: write, warn: write, error: write };
}

function socketPath(): string {
  sockets += 1;
  return join(root, `${sockets}`, 'sync.sock');
}

async function host(path: string): Promise<Host> {
  const made = new Host(path);
  await made.server.listen();
  cleanups.push(() => made.server.close());
  return made;
}

const FAST = { backoffFirstMs: 2, backoffCapMs: 10 };

function sender(
  path: string, lines: string[] = [], change: Partial<SenderOptions> = {},
): Fed {
  const made = new Sender({ socket: path, version: '1', log: log(lines), ...FAST, ...change });
  const stop = new AbortController();
  const done = made.run(stop.signal);
  cleanups.push(async () => { stop.abort(); await done; });
  return new Fed(made);
}

/** A sender that is told whole contents. */
class Fed extends ContentFeed {
  readonly #sender: Sender;

  constructor(sender: Sender) {
    super(sender);
    this.#sender = sender;
  }

  get confirmed(): number | null {
    return this.#sender.confirmed;
  }
}

function content(nodes: string[], pods: string[] = []): Content {
  return { local: 'a', nodes: nodes.map(node), pods: pods.map(pod) };
}

function node(name: string): ClusterNode {
  return { name, podCidrs: [], addresses: ['192.0.2.1'], tunnels: [] };
}

function pod(name: string): Pod {
  return { namespace: 'default', name, uid: '', addresses: [] };
}

async function until(condition: () => boolean): Promise<void> {
  while (!condition()) await new Promise((resolve) => setTimeout(resolve, 1));
}

test('sends everything once, then what changes', async () => {
  const path = socketPath();
  const daemon = await host(path);
  const sidecar = sender(path);
  assert.is(sidecar.update(content(['a', 'b'], ['x'])), true);
  await daemon.heard('snapshot 1 a,b x');
  await until(() => sidecar.confirmed === 1);
  assert.is(sidecar.update(content(['a', 'b'], ['x'])), false);
  sidecar.update(content(['a', 'c'], ['x', 'y']));
  await daemon.heard('delta 1-2 +c +y -b');
  await until(() => sidecar.confirmed === 2);
  sidecar.update(content(['a', 'c']));
  await daemon.heard('delta 2-3 -x -y');
  assert.is(daemon.told.length, 3);
});

test('says when a snapshot is in force, and not of a delta', async () => {
  const path = socketPath();
  const daemon = await host(path);
  let wholes = 0;
  const sidecar = sender(path, [], { onWhole: () => { wholes += 1; } });
  sidecar.update(content(['a']));
  await until(() => sidecar.confirmed === 1);
  assert.is(wholes, 1);
  sidecar.update(content(['a', 'b']));
  await daemon.heard('delta 1-2 +b');
  await until(() => sidecar.confirmed === 2);
  assert.is(wholes, 1);
});

test('waits for a host that starts late, and merges what it missed', async () => {
  const path = socketPath();
  const lines: string[] = [];
  const sidecar = sender(path, lines);
  sidecar.update(content(['a']));
  sidecar.update(content(['a', 'b']));
  await until(() => lines.length > 0);
  const daemon = await host(path);
  await daemon.heard('snapshot 2 a,b');
  assert.match(lines[0] ?? '', /^not connected to the host; trying again .*ENOENT/);
  assert.is(lines.filter((line) => line.includes('trying again')).length, 1);
});

test('sends everything again to a host that restarted', async () => {
  const path = socketPath();
  const first = await host(path);
  const sidecar = sender(path);
  sidecar.update(content(['a']));
  await until(() => sidecar.confirmed === 1);
  await first.server.close();
  await until(() => sidecar.confirmed === null);
  sidecar.update(content(['a', 'b']));
  const second = await host(path);
  await second.heard('snapshot 2 a,b');
  assert.equal(second.told, ['snapshot 2 a,b']);
});

test('sends everything when the host asks', async () => {
  const path = socketPath();
  const daemon = await host(path);
  const sidecar = sender(path);
  sidecar.update(content(['a']));
  await until(() => sidecar.confirmed === 1);
  daemon.server.broadcast('resync', null);
  await until(() => daemon.told.length === 2);
  assert.equal(daemon.told, ['snapshot 1 a', 'snapshot 1 a']);
  // A host that lost its place answers a delta with `resync`.
  const [connection] = daemon.server.connections;
  assert.ok(connection);
  await until(() => sidecar.confirmed === 1);
  daemon.intake.closed(connection);
  daemon.intake.opened(connection);
  sidecar.update(content(['a', 'b']));
  await daemon.heard('snapshot 2 a,b');
  assert.is(daemon.told.length, 3);
});

test('goes on from what the host still has after a cut, with what came meanwhile', async () => {
  const path = socketPath();
  const daemon = await host(path);
  const sidecar = sender(path);
  sidecar.update(content(['a']));
  await until(() => sidecar.confirmed === 1);
  for (const revision of [2, 3, 4]) {
    for (const connection of daemon.server.connections) connection.close('cut');
    await until(() => sidecar.confirmed === null);
    sidecar.update(content(['a', `b${revision}`]));
    await until(() => sidecar.confirmed === revision);
  }
  assert.equal(daemon.told, [
    'snapshot 1 a', 'delta 1-2 +b2', 'delta 2-3 +b3 -b2', 'delta 3-4 +b4 -b3',
  ]);
  // Another run of a sidecar has nothing to go on from.
  const [first] = daemon.server.connections;
  first?.close('cut');
  const other = sender(path, [], { backoffFirstMs: 1, backoffCapMs: 1 });
  other.update(content(['z']));
  await daemon.heard('snapshot 1 z');
});

test('goes on with a change whose answer was lost', async () => {
  const path = socketPath();
  const daemon = await host(path);
  const sidecar = sender(path);
  sidecar.update(content(['a']));
  await until(() => sidecar.confirmed === 1);
  let open = (): void => {};
  daemon.pause = new Promise((resolve) => { open = resolve; });
  sidecar.update(content(['a', 'b']));
  await until(() => daemon.isBusy);
  for (const connection of daemon.server.connections) connection.close('cut');
  await until(() => sidecar.confirmed === null);
  open();
  await until(() => sidecar.confirmed === 2);
  assert.equal(daemon.told, ['snapshot 1 a', 'delta 1-2 +b']);
});

test('tells how its source is, on each connection', async () => {
  const path = socketPath();
  const daemon = await host(path);
  const sidecar = new Sender({ socket: path, version: '1', log: log(), ...FAST });
  const stop = new AbortController();
  const done = sidecar.run(stop.signal);
  cleanups.push(async () => { stop.abort(); await done; });
  const health = { source: 'test', fresh: false, staleSinceMs: 5, problems: ['no'] };
  sidecar.health(health);
  await until(() => daemon.intake.health !== null);
  assert.equal(daemon.intake.health, health);
  sidecar.health({ ...health, fresh: true });
  await until(() => daemon.intake.health?.fresh === true);
});

test('tries again when the host refuses, and says so once', async () => {
  const path = socketPath();
  const lines: string[] = [];
  const daemon = await host(path);
  daemon.refuse = 'routes: full';
  const sidecar = sender(path, lines);
  sidecar.update(content(['a']));
  await until(() => daemon.told.length >= 3);
  assert.is(sidecar.confirmed, null);
  assert.is(lines.filter((line) => line.includes('routes: full')).length, 1);
  daemon.refuse = '';
  await daemon.heard('snapshot 1 a');
});

test('waits for its turn beside another sidecar', async () => {
  const path = socketPath();
  const daemon = await host(path);
  const first = new Sender({ socket: path, version: '1', log: log(), ...FAST });
  const stop = new AbortController();
  const done = first.run(stop.signal);
  new ContentFeed(first).update(content(['a']));
  await until(() => first.confirmed === 1);
  const lines: string[] = [];
  sender(path, lines).update(content(['a', 'z']));
  await until(() => lines.some((line) => line.includes('another sidecar is connected')));
  stop.abort();
  await done;
  await daemon.heard('snapshot 1 a,z');
});

test('brings a large cluster in parts, and a large change as a snapshot', async () => {
  const path = socketPath();
  const daemon = await host(path);
  const sidecar = sender(path);
  const names = Array.from({ length: 5000 }, (_, index) => `node-${index}`);
  sidecar.update(content(names));
  await daemon.heard('snapshot 1 5000 nodes');
  await until(() => sidecar.confirmed === 1);
  sidecar.update(content(names.slice(1000)));
  await daemon.heard('snapshot 2 4000 nodes');
});

test('brings pods with as many host ports as there may be, in parts and as a change', async () => {
  const path = socketPath();
  const daemon = await host(path);
  const sidecar = sender(path);
  const hostPorts = Array.from({ length: HOST_PORT_LIMIT }, (_, at) => ({
    protocol: 'SCTP' as const, hostPort: 60_000 + at, containerPort: 60_000,
    hostIP: 'fd00:1111:2222:3333:4444:5555:6666:7777',
  }));
  const addresses = Array.from({ length: 16 }, (_, at) =>
    `fd00:1111:2222:3333:4444:5555:6666:${at}`);
  const longName = 'p'.repeat(250);
  const pods = Array.from({ length: 200 }, (_, at) => ({
    namespace: longName, name: `${longName}${at}`, uid: 'u'.repeat(128), addresses, hostPorts,
  }));
  sidecar.update({ ...content(['a']), pods });
  await until(() => sidecar.confirmed === 1);
  assert.is(daemon.pods, 200);
  sidecar.update({ ...content(['a']), pods: pods.map((one) => ({ ...one, uid: 'v' })) });
  await until(() => sidecar.confirmed === 2);
  assert.is(daemon.pods, 200);
});

test('gives a host up that does not answer, and begins again', async () => {
  const path = socketPath();
  const lines: string[] = [];
  const daemon = await host(path);
  daemon.pause = new Promise((resolve) => { cleanups.push(() => resolve()); });
  const sidecar = sender(path, lines, { requestTimeoutMs: 20 });
  sidecar.update(content(['a']));
  await until(() => lines.some((line) => line.includes('snapshot.commit: no answer in 20 ms')));
  await until(() => daemon.server.counters.opened > 1);
});

test('runs from file to host, and stops cleanly', async () => {
  const path = socketPath();
  const daemon = await host(path);
  const file = join(root, 'cluster.yaml');
  const write = (...names: string[]): void => writeFileSync(file, names
    .map((name) => `{apiVersion: v1, kind: Node, metadata: {name: ${name}}}\n---\n`).join(''));
  write('a', 'b');
  const stop = new AbortController();
  const lines: string[] = [];
  const done = runSync({
    source: `file:${file}`, socket: path, nodeName: 'a', version: '1', signal: stop.signal,
    file: { debounceMs: 10 }, sender: FAST,
  }, log(lines));
  await daemon.heard('snapshot 1 a,b');
  write('a', 'a');
  await until(() => lines.some((line) => /cluster\.yaml:3: Node a: stands at/.test(line)));
  write('a', 'c');
  await daemon.heard('delta 1-2 +c -b');
  stop.abort();
  await done;
  await until(() => !daemon.intake.isConnected);
  assert.is(daemon.told.length, 2);
});

for (const source of ['file:', 'nonsense']) {
  test(`refuses the source ${source}`, async () => {
    const signal = AbortSignal.abort();
    const options = { source, socket: '/x', nodeName: 'a', version: '1', signal };
    try {
      await runSync(options, log());
      assert.unreachable();
    } catch (error) {
      assert.match(String(error), /^Error: source /);
    }
  });
}

test.run();

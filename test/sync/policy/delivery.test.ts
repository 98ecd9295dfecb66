// Policy on its way to the host: whole with a snapshot, in parts where it is large, then change by
// change, so that the host ends with what a compiler would say that starts anew.

import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import type { Log } from '../../../engine/log.ts';
import type { PolicyChange } from '../../../engine/model.ts';
import { ControlServer } from '../../../host/control.ts';
import { Intake } from '../../../host/intake.ts';
import { runSync } from '../../../sync/main.ts';
import { readObjects } from '../../../sync/read.ts';
import { emptyChange, joinChanges, partsOf } from '../../../sync/policy/change.ts';
import { PolicyCompiler } from '../../../sync/policy/compiler.ts';
import { policyDigest } from '../../../sync/policy/digest.ts';
import { Sender } from '../../../sync/send.ts';
import type { Content } from '../../../sync/translate.ts';
import { ContentFeed } from '../../support/content-feed.ts';
import { History } from './history.ts';
import { Tables, readEntries } from './tables.ts';

const root = mkdtempSync(join(tmpdir(), `culvert-policy-${process.pid}-`));
let cleanups: (() => unknown)[] = [];

test.after.each(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
});
test.after(() => rmSync(root, { recursive: true }));

const silent: Log = { debug: () => {}, info: () => {}, warn: () => {}, error: () => {} };

/** Takes policy as a host does. */
class Host {
  tables = new Tables();
  snapshots = 0;
  deltas: PolicyChange[] = [];
  gate = Promise.resolve();
  #wake = (): void => {};

  async listen(path: string): Promise<void> {
    const intake = new Intake({
      local: 'n0',
      onSnapshot: async ({ policy }) => {
        await this.gate;
        this.tables = new Tables();
        this.tables.apply(policy ?? emptyChange());
        this.snapshots += 1;
        this.#wake();
      },
      onDelta: async ({ policy }) => {
        await this.gate;
        if (policy === undefined) return;
        this.tables.applyJoined(policy);
        this.deltas.push(policy);
        this.#wake();
      },
      facts: () => ({
        underlay: [], podNetworks: [], port: 8472, tier: 'T1', version: '1',
        mac: { IPv4: '02:00:00:00:00:04', IPv6: '02:00:00:00:00:06' },
      }),
    });
    const server = new ControlServer({
      path, mode: 0o660, roles: ['sync'], methods: intake.methods(), version: '1', log: silent,
      accept: (party) => intake.refusal(party),
      onOpen: (connection) => intake.opened(connection),
      onClosed: (connection) => intake.closed(connection),
    });
    await server.listen();
    cleanups.push(() => server.close());
  }

  async until(condition: () => boolean): Promise<void> {
    while (!condition()) await new Promise<void>((wake) => { this.#wake = wake; });
  }
}

const NODE = '{apiVersion: v1, kind: Node, metadata: {name: n0}}\n---\n';

function podsYaml(count: number, label: string): string {
  return Array.from({ length: count }, (_, index) => `
apiVersion: v1
kind: Pod
metadata: {name: p${index}, namespace: shop, labels: {app: ${label}, own: l${index}}}
spec: {nodeName: n0}
status: {phase: Running, podIP: 10.${index >>> 16}.${(index >>> 8) & 255}.${index & 255}}
---`).join('');
}

/** Lets only pods labelled `app: web` and with an odd label of their own in. */
function policyYaml(count: number): string {
  const values = Array.from({ length: count / 2 }, (_, index) => `l${(2 * index) + 1}`);
  return `
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web, namespace: shop}
spec:
  ingress: [{from: [{podSelector: {matchLabels: {app: web}, matchExpressions: [
    {key: own, operator: In, values: [${values.join(', ')}]}]}}]}]
---`;
}

function digestOf(yaml: string): string {
  const compiler = new PolicyCompiler({ local: 'n0' });
  compiler.replace(readObjects('all.yaml', yaml).entries);
  compiler.commit();
  return policyDigest(compiler.snapshot());
}

test('a folder of objects becomes the host\'s policy, then its changes', async () => {
  const [file, socket] = [join(root, 'objects.yaml'), join(root, 'a', 'sync.sock')];
  const host = new Host();
  await host.listen(socket);
  const first = NODE + podsYaml(8, 'web') + policyYaml(8);
  writeFileSync(file, first);
  const stop = new AbortController();
  const done = runSync({
    source: `file:${file}`, socket, nodeName: 'n0', version: '1', signal: stop.signal,
    file: { debounceMs: 5, rescanMs: 50 },
  }, silent);
  cleanups.push(async () => { stop.abort(); await done; });
  await host.until(() => host.snapshots === 1);
  assert.is(policyDigest(host.tables.state()), digestOf(first));
  assert.is(host.tables.ask('shop/p0', 'ingress', '10.0.0.1', 'TCP', 80).word, 'allow');
  const second = NODE + podsYaml(8, 'db') + policyYaml(8);
  writeFileSync(file, second);
  await host.until(() => host.deltas.length === 1);
  assert.is(policyDigest(host.tables.state()), digestOf(second));
  assert.is(host.tables.ask('shop/p0', 'ingress', '10.0.0.1', 'TCP', 80).word, 'deny');
});

function senderTo(socket: string): ContentFeed {
  const sender = new Sender({ socket, version: '1', log: silent, backoffFirstMs: 2 });
  const stop = new AbortController();
  const done = sender.run(stop.signal);
  cleanups.push(async () => { stop.abort(); await done; });
  return new ContentFeed(sender);
}

const CONTENT: Content = { local: 'n0', nodes: [], pods: [] };

test('a large state comes in parts, and changes of policy one by one', async () => {
  const socket = join(root, 'b', 'sync.sock');
  const host = new Host();
  await host.listen(socket);
  const compiler = new PolicyCompiler({ local: 'n0' });
  compiler.replace(readEntries(objectsOf(20_000)));
  compiler.commit();
  const sender = senderTo(socket);
  const whole = (): PolicyChange => compiler.snapshot();
  sender.update(CONTENT, { change: compiler.snapshot(), whole });
  await host.until(() => host.snapshots === 1);
  assert.is(policyDigest(host.tables.state()), policyDigest(compiler.snapshot()));
  assert.ok([...partsOf(compiler.snapshot())].length > 3);
  let open = (): void => {};
  host.gate = new Promise((resolve) => { open = resolve; });
  for (const index of [1, 2, 3]) {
    compiler.remove('Pod', `shop/p${index}`);
    sender.update(CONTENT, { change: compiler.commit(), whole });
  }
  open();
  await host.until(() => host.deltas.length === 3);
  assert.is(policyDigest(host.tables.state()), policyDigest(compiler.snapshot()));
});

test('many waiting changes go in one, and nothing is sent that a change will do for', async () => {
  const socket = join(root, 'c', 'sync.sock');
  const host = new Host();
  await host.listen(socket);
  const compiler = new PolicyCompiler({ local: 'n0' });
  compiler.replace(readEntries(objectsOf(3000)));
  compiler.commit();
  const sender = senderTo(socket);
  const whole = (): PolicyChange => compiler.snapshot();
  sender.update(CONTENT, { change: compiler.snapshot(), whole });
  await host.until(() => host.snapshots === 1);
  for (const count of [50, 1500]) {
    let open = (): void => {};
    host.gate = new Promise((resolve) => { open = resolve; });
    const pods = compiler.snapshot().endpoints.slice(0, count);
    for (const { namespace, name } of pods) {
      compiler.remove('Pod', `${namespace}/${name}`);
      sender.update(CONTENT, { change: compiler.commit(), whole });
      if (name === pods[0]?.name) await new Promise((resolve) => setTimeout(resolve, 20));
    }
    open();
    const wanted = compiler.snapshot().endpoints.length;
    await host.until(() => host.tables.endpoints.size === wanted);
    assert.is(host.snapshots, 1);
    assert.is(policyDigest(host.tables.state()), policyDigest(compiler.snapshot()));
  }
  assert.ok(host.deltas.length < 20);
});

function objectsOf(count: number): object[] {
  const labels = (index: number): object => ({ app: 'web', own: `l${index}` });
  const own = Array.from({ length: count / 2 }, (_, index) => `l${(2 * index) + 1}`);
  return [
    ...Array.from({ length: count }, (_, index) => ({
      apiVersion: 'v1', kind: 'Pod',
      metadata: { name: `p${index}`, namespace: 'shop', labels: labels(index) },
      spec: { nodeName: 'n0' },
      status: { phase: 'Running', podIP: `10.0.${index >>> 8}.${index & 255}` },
    })),
    {
      apiVersion: 'networking.k8s.io/v1', kind: 'NetworkPolicy',
      metadata: { name: 'web', namespace: 'shop' },
      spec: { ingress: [{ from: [{ podSelector: { matchExpressions: [
        { key: 'own', operator: 'In', values: own }] } }] }] },
    },
  ];
}

test('changes in one lead where they lead one by one', () => {
  for (let seed = 1; seed <= 20; seed += 1) {
    const history = new History(seed);
    const compiler = new PolicyCompiler({ local: null });
    compiler.replace(readEntries(history.cluster.list()));
    compiler.commit();
    const tables = new Tables();
    tables.apply(compiler.snapshot());
    let joined = emptyChange();
    for (let step = 0; step < 20; step += 1) {
      history.step();
      compiler.replace(readEntries(history.cluster.list()));
      joined = joinChanges(joined, compiler.commit() ?? emptyChange());
    }
    tables.applyJoined(joined);
    assert.is(policyDigest(tables.state()), policyDigest(compiler.snapshot()), `seed ${seed}`);
  }
});

test.run();

// The flannel profile against a server in memory: what it writes and when, what it leaves alone,
// and what it tells the operator.

import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { parseNetConf, type NetConf } from '../../../engine/net-conf.ts';
import { missingFrom, type Annotations } from '../../../sync/own-node.ts';
import type { HostFacts, NetConfSource } from '../../../sync/flannel/net-conf.ts';
import { FlannelProfile } from '../../../sync/flannel/profile.ts';
import type { NodeClient } from '../../../sync/node-writer.ts';
import { RIVAL_CHANGES } from '../../../sync/rival.ts';
import { PATIENCE_MS } from '../../support/until.ts';

const test = suite('sync/flannel/profile');
const PREFIX = 'flannel.alpha.coreos.com/';
const SINGLE = '{"Network":"10.244.0.0/16","Backend":{"Type":"vxlan"}}';
const DUAL = '{"Network":"10.244.0.0/16","EnableIPv6":true,"IPv6Network":"fd00:10:244::/48",'
  + '"Backend":{"Type":"vxlan"}}';
const FACTS: HostFacts = {
  underlay: [{ family: 'IPv4', address: '192.0.2.10', mtu: 1500 }],
  podNetworks: ['10.244.0.0/16'],
  port: 8472,
};
const DUAL_FACTS: HostFacts = {
  ...FACTS,
  underlay: [...FACTS.underlay, { family: 'IPv6', address: '2001:db8::10', mtu: 1500 }],
  podNetworks: ['10.244.0.0/16', 'fd00:10:244::/48'],
};

interface NodeObject {
  metadata: {
    name: string; uid: string; resourceVersion: string; annotations: Record<string, string>;
  };
  spec: { podCIDRs: string[] };
  status: { conditions: { type: string; status: string }[] };
}

/** Our Node and the pods on it, with the patches that came. */
class Server implements NodeClient {
  readonly patches: { path: string; annotations: Annotations; isCondition: boolean }[] = [];
  node: NodeObject = {
    metadata: { name: 'edge-1', uid: 'uid-1', resourceVersion: '1', annotations: {} },
    spec: { podCIDRs: ['10.244.1.0/24', 'fd00:10:244:1::/64'] },
    status: { conditions: [] },
  };
  pods: unknown[] = [];
  refusal: Error | null = null;
  /** Answers that do not come back. */
  lost = 0;
  onChange: (node: NodeObject) => void = () => {};

  get(path: string): Promise<unknown> {
    assert.is(path, '/api/v1/pods');
    return Promise.resolve({ items: this.pods });
  }

  patch(path: string, change: unknown, contentType: string): Promise<unknown> {
    assert.is(contentType, 'application/strategic-merge-patch+json');
    if (this.refusal !== null) return Promise.reject(this.refusal);
    const patch = change as {
      metadata?: { annotations: Annotations }; status?: { conditions: [{ type: string }] };
    };
    const annotations = patch.metadata?.annotations ?? {};
    this.patches.push({ path, annotations, isCondition: patch.status !== undefined });
    if (patch.status !== undefined) {
      this.node.status.conditions = [{ type: 'NetworkUnavailable', status: 'False' }];
    }
    this.change(annotations);
    if (this.lost === 0) return Promise.resolve(structuredClone(this.node));
    this.lost -= 1;
    return Promise.reject(Object.assign(new Error('cut'), { status: 0 }));
  }

  /** Changes the Node, whoever does it. */
  change(annotations: Annotations): void {
    Object.assign(this.node.metadata.annotations, annotations);
    this.node.metadata.resourceVersion = `${Number(this.node.metadata.resourceVersion) + 1}`;
    this.onChange(structuredClone(this.node));
  }
}

/** A profile at work, and what it told. */
class Work {
  readonly server = new Server();
  readonly profile: FlannelProfile;
  readonly #stop = new AbortController();
  readonly #run: Promise<void>;
  problems: string[] = [];
  device: string | null = null;

  constructor(netConf: string | NetConfSource, facts: HostFacts | null = FACTS) {
    const log = { debug: () => {}, info: () => {}, warn: () => {}, error: () => {} };
    this.profile = new FlannelProfile({
      client: this.server,
      nodeName: 'edge-1',
      netConf: typeof netConf === 'string' ? constant(netConf) : netConf,
      log,
      onProblems: (problems) => { this.problems = problems; },
      recheckMs: 20,
      retryFirstMs: 5,
      rivalWaitMs: 1,
      findDevice: () => this.device,
    });
    this.server.onChange = (node) => setImmediate(() => this.profile.node(node));
    if (facts !== null) this.profile.facts(facts);
    this.profile.node(structuredClone(this.server.node));
    this.#run = this.profile.run(this.#stop.signal);
  }

  get annotations(): Annotations {
    return this.server.node.metadata.annotations;
  }

  async until(what: string, isSo: () => boolean): Promise<void> {
    const deadline = performance.now() + PATIENCE_MS;
    while (!isSo()) {
      if (performance.now() > deadline) throw new Error(`in vain: ${what}; ${this.problems}`);
      await rest(2);
    }
  }

  async end(): Promise<void> {
    this.#stop.abort();
    await this.#run;
  }
}

let works: Work[] = [];
function work(netConf: string | NetConfSource, facts: HostFacts | null = FACTS): Work {
  const made = new Work(netConf, facts);
  works.push(made);
  return made;
}
test.after.each(async () => {
  for (const made of works) await made.end();
  works = [];
});

function constant(text: string): NetConfSource {
  const conf = parseNetConf(text, 'conf');
  return { place: 'conf', periodMs: 60_000, read: () => Promise.resolve(conf) };
}

function rest(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

function mac(annotations: Annotations, name = 'backend-data'): string {
  const data = JSON.parse(annotations[PREFIX + name] ?? '{}') as { VtepMAC?: string };
  return data.VtepMAC ?? '';
}

test('a new Node gets annotations and condition in one patch, and then nothing', async () => {
  const { server, until } = bound(work(SINGLE));
  await until('a patch', () => server.patches.length > 0);
  await rest(60);
  assert.is(server.patches.length, 1);
  const [patch] = server.patches;
  assert.is(patch?.path, '/api/v1/nodes/edge-1/status');
  assert.ok(patch?.isCondition);
  assert.equal(patch.annotations, {
    [`${PREFIX}backend-data`]: `{"VNI":1,"VtepMAC":"${mac(patch.annotations)}"}`,
    [`${PREFIX}backend-type`]: 'vxlan',
    [`${PREFIX}kube-subnet-manager`]: 'true',
    [`${PREFIX}public-ip`]: '192.0.2.10',
  });
});

/** A work's parts, with its methods bound. */
function bound(made: Work): { made: Work; server: Server; until: Work['until'] } {
  return { made, server: made.server, until: made.until.bind(made) };
}

test('the MAC is the same after a restart, and after the Node lost its annotations', async () => {
  const first = bound(work(SINGLE));
  await first.until('a patch', () => first.server.patches.length > 0);
  const second = bound(work(SINGLE));
  await second.until('a patch', () => second.server.patches.length > 0);
  assert.is(mac(first.made.annotations), mac(second.made.annotations));
});

test('a MAC that stands there stays', async () => {
  const { made, server, until } = bound(work(SINGLE, null));
  server.change({ [`${PREFIX}backend-data`]: '{"VNI":1,"VtepMAC":"12:c6:65:89:b4:e3"}' });
  await rest(10);
  made.profile.facts(FACTS);
  await until('a patch', () => server.patches.length > 0);
  assert.is(mac(made.annotations), '12:c6:65:89:b4:e3');
  assert.is(server.patches[0]?.annotations[`${PREFIX}backend-data`], undefined);
});

test('a new address of the underlay is told; in two families both annotations change', async () => {
  const { made, server, until } = bound(work(DUAL, DUAL_FACTS));
  await until('a patch', () => server.patches.length > 0);
  const before = { ...made.annotations };
  const moved = DUAL_FACTS.underlay.map((own) =>
    (own.family === 'IPv4' ? { ...own, address: '192.0.2.99' } : own));
  made.profile.facts({ ...DUAL_FACTS, underlay: moved });
  await until('another patch', () => server.patches.length > 1);
  assert.equal(Object.keys(missingFrom(before, made.annotations)),
    [`${PREFIX}backend-v6-data`, `${PREFIX}public-ip`].filter((name) =>
      made.annotations[name] !== before[name]).sort());
  assert.is(made.annotations[`${PREFIX}public-ip`], '192.0.2.99');
  assert.not.equal(mac(made.annotations, 'backend-v6-data'), mac(before, 'backend-v6-data'));
  assert.is(mac(made.annotations), mac(before));
  await rest(60);
  assert.is(server.patches.length, 2, 'the new MAC stays');
});

test('an answer that is lost changes no MAC', async () => {
  const { made, server, until } = bound(work(DUAL, DUAL_FACTS));
  await until('a patch', () => server.patches.length > 0);
  const moved = DUAL_FACTS.underlay.map((own) =>
    (own.family === 'IPv4' ? { ...own, address: '192.0.2.99' } : own));
  server.lost = 1;
  made.profile.facts({ ...DUAL_FACTS, underlay: moved });
  await until('it has come in', () => server.patches.length === 2);
  const after = mac(made.annotations, 'backend-v6-data');
  await rest(60);
  assert.is(mac(made.annotations, 'backend-v6-data'), after);
  assert.is(server.patches.length, 2);
  assert.equal(made.problems, []);
});

test('nothing is written before the Node has its pod networks', async () => {
  const { made, server, until } = bound(work(DUAL, null));
  server.node.spec.podCIDRs = ['10.244.1.0/24'];
  server.change({});
  await rest(10);
  made.profile.facts(DUAL_FACTS);
  await until('a problem', () => made.problems.length > 0);
  assert.match(made.problems[0] ?? '', /no IPv6 pod network yet/);
  await rest(50);
  assert.is(server.patches.length, 0);
  server.node.spec.podCIDRs = ['10.244.1.0/24', 'fd00:10:244:1::/64'];
  server.change({});
  await until('a patch', () => server.patches.length > 0);
  await until('no problem', () => made.problems.length === 0);
});

test('a host that is not set up as the cluster is makes no promises', async () => {
  const { made, server, until } = bound(work(DUAL));
  await until('problems', () => made.problems.length >= 2);
  assert.match(made.problems.join('\n'), /pod networks are 10\.244.*, fd00.*set podNetworks/);
  assert.match(made.problems.join('\n'), /no IPv6 address to tunnel from/);
  made.profile.facts({ ...FACTS, port: 4789 });
  await until('the port', () => made.problems.some((text) => text.includes('port is 8472')));
  assert.is(server.patches.length, 0);
});

test('an unreadable net-conf.json is told, and read again', async () => {
  let conf: NetConf | null = null;
  const source: NetConfSource = {
    place: 'conf',
    periodMs: 5,
    read: () => (conf === null
      ? Promise.reject(new Error('conf: not there')) : Promise.resolve(conf)),
  };
  const { made, server, until } = bound(work(source));
  await until('a problem', () => made.problems.length > 0);
  assert.equal(made.problems, ['flannel: conf: not there']);
  conf = parseNetConf(SINGLE, 'conf');
  await until('a patch', () => server.patches.length > 0);
  await until('no problem', () => made.problems.length === 0);
});

test('what others change is set right', async () => {
  const { made, server, until } = bound(work(SINGLE));
  await until('a patch', () => server.patches.length > 0);
  const own = mac(made.annotations);
  server.change({
    [`${PREFIX}backend-type`]: 'extension', [`${PREFIX}backend-data`]: '"out"',
    [`${PREFIX}public-ip`]: '192.0.2.200',
  });
  await until('another patch', () => server.patches.length > 1);
  assert.is(mac(made.annotations), own);
  assert.is(made.annotations[`${PREFIX}backend-type`], 'vxlan');
  assert.is(made.annotations[`${PREFIX}public-ip`], '192.0.2.10');
});

test('what the watch brings late, from before a patch, is no change of others', async () => {
  const { made, server, until } = bound(work(SINGLE));
  const old = structuredClone(server.node);
  await until('a patch', () => server.patches.length > 0);
  for (let count = 0; count < RIVAL_CHANGES + 2; count += 1) {
    made.profile.node(structuredClone(old));
    await rest(2);
  }
  await rest(50);
  assert.is(server.patches.length, 1);
});

test('a flanneld that fights for the Node is left alone, and told of', async () => {
  const { made, server, until } = bound(work(SINGLE));
  await until('a patch', () => server.patches.length === 1);
  for (let count = 1; count <= RIVAL_CHANGES; count += 1) {
    await rest(5);
    server.change({ [`${PREFIX}public-ip`]: `192.0.2.${100 + count}` });
    if (count === RIVAL_CHANGES) break;
    await until('it is set right', () => server.patches.length === count + 1);
  }
  await until('a problem', () => made.problems.length > 0);
  assert.match(made.problems[0] ?? '', /has changed our Node's flannel annotations 5 times/);
  assert.match(made.problems[0] ?? '', /nodeAffinity/);
  await rest(60);
  assert.is(server.patches.length, RIVAL_CHANGES, 'what stands there stays');
  server.node.metadata.uid = 'uid-2';
  server.change({});
  await until('a new Node is ours again', () => server.patches.length > RIVAL_CHANGES);
});

test('beside flannel\'s device or its running pod nothing is written', async () => {
  const { made, server, until } = bound(work(SINGLE, null));
  made.device = 'the device flannel.1 is there';
  made.profile.facts(FACTS);
  await until('a problem', () => made.problems.length > 0);
  assert.equal(made.problems, ['flannel: the device flannel.1 is there']);
  made.device = null;
  server.pods = [{
    metadata: { name: 'kube-flannel-ds-x', namespace: 'kube-flannel' },
    status: { phase: 'Running', containerStatuses: [{ ready: true }] },
  }];
  await until('the pod', () => made.problems.some((text) => text.includes('kube-flannel-ds-x')));
  assert.match(made.problems[0] ?? '', /nodeAffinity .*net\/node, operator: DoesNotExist/);
  assert.is(server.patches.length, 0);
  server.pods = [{
    metadata: { name: 'kube-flannel-ds-x', namespace: 'kube-flannel' },
    status: { phase: 'Running', containerStatuses: [{ ready: false }] },
  }];
  await until('a patch', () => server.patches.length > 0);
});

test('a refused patch names verb and resource, and is tried again', async () => {
  const { made, server, until } = bound(work(SINGLE, null));
  server.refusal = Object.assign(new Error('no'), { status: 403, reason: 'Forbidden' });
  made.profile.facts(FACTS);
  await until('a problem', () => made.problems.length > 0);
  assert.match(made.problems[0] ?? '', /forbidden: verb patch, resource nodes\/status/);
  server.refusal = Object.assign(new Error('no'), { status: 404 });
  await until('another', () => made.problems.some((text) => text.includes('does not exist')));
  server.refusal = Object.assign(new Error('slow down'), { status: 429, retryAfterMs: 30 });
  await until('a third', () => made.problems.some((text) => text.includes('slow down')));
  server.refusal = null;
  await until('a patch', () => server.patches.length > 0);
  await until('no problem', () => made.problems.length === 0);
});

test('the condition is not fought over with a cloud', async () => {
  const { server, until } = bound(work(SINGLE));
  await until('a patch', () => server.patches.length > 0);
  for (let count = 0; count < 3; count += 1) {
    server.node.status.conditions = [{ type: 'NetworkUnavailable', status: 'True' }];
    server.change({});
    await rest(15);
  }
  assert.is(server.patches.length, 1);
});

test('a Node that cannot be read changes nothing', async () => {
  const { made, server, until } = bound(work(SINGLE, null));
  made.profile.node({ metadata: 'none' });
  made.profile.facts(FACTS);
  await rest(30);
  assert.is(server.patches.length, 0);
  server.change({});
  await until('a patch', () => server.patches.length > 0);
});

test('a Node that is made anew is written anew', async () => {
  const { made, server, until } = bound(work(SINGLE));
  await until('a patch', () => server.patches.length > 0);
  const before = mac(made.annotations);
  made.profile.node(null);
  await rest(10);
  server.node.metadata.uid = 'uid-2';
  server.node.metadata.annotations = {};
  server.change({});
  await until('another patch', () => server.patches.length > 1);
  assert.not.equal(mac(made.annotations), before);
  assert.equal(Object.keys(server.patches[1]?.annotations ?? {}).length, 4);
});

test.run();

// Where net-conf.json is found, and whether the host agrees with it.

import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { parseNetConf, type NetConf } from '../../../engine/net-conf.ts';
import {
  compareWithHost, followNetConf, leasedCidrs, netConfSource, type HostFacts,
} from '../../../sync/flannel/net-conf.ts';
import type { ObjectReader } from '../../../sync/node-writer.ts';
import { CALICO_SIGNS, FLANNEL_SIGNS, findRivalDevice, findRivalPod } from
  '../../../sync/rival.ts';

const test = suite('sync/flannel/net-conf');
const SINGLE = '{"Network":"10.244.0.0/16","Backend":{"Type":"vxlan"}}';
const FACTS: HostFacts = {
  underlay: [{ family: 'IPv4', address: '192.0.2.10', mtu: 1500 }],
  podNetworks: ['10.244.0.0/16'],
  port: 8472,
};
const NEVER = new AbortController().signal;

/** A server with these objects; what it lacks is 404, and what is an error is thrown. */
function server(objects: Record<string, unknown>): ObjectReader & { asked: string[] } {
  const asked: string[] = [];
  return {
    asked,
    get: (path) => {
      asked.push(path);
      const object = objects[path];
      if (object instanceof Error) return Promise.reject(object);
      if (object !== undefined) return Promise.resolve(object);
      return Promise.reject(Object.assign(new Error('not found'), { status: 404 }));
    },
  };
}

const NEW_MAP = '/api/v1/namespaces/kube-flannel/configmaps/kube-flannel-cfg';
const OLD_MAP = '/api/v1/namespaces/kube-system/configmaps/kube-flannel-cfg';

async function complaint(work: Promise<unknown>): Promise<string> {
  return work.then(() => 'no error', (error: Error) => error.message);
}

test('the ConfigMap is where flannel\'s manifests put it, now or formerly', async () => {
  const data = { data: { 'net-conf.json': SINGLE, 'cni-conf.json': '{}' } };
  const now = server({ [NEW_MAP]: data });
  assert.equal((await netConfSource('', now).read(NEVER)).podNetworks, ['10.244.0.0/16']);
  const formerly = server({ [OLD_MAP]: data });
  await netConfSource('', formerly).read(NEVER);
  assert.equal(formerly.asked, [NEW_MAP, OLD_MAP]);
  const named = server({ '/api/v1/namespaces/net/configmaps/conf': data });
  await netConfSource('configmap:net/conf', named).read(NEVER);
});

test('a ConfigMap that cannot be had is named', async () => {
  const read = (objects: Record<string, unknown>, text = ''): Promise<string> =>
    complaint(netConfSource(text, server(objects)).read(NEVER));
  assert.match(await read({}), /kube-flannel-cfg or ConfigMap kube-system\/.*not there/);
  const forbidden = Object.assign(new Error('no'), { status: 403 });
  assert.match(await read({ [NEW_MAP]: forbidden }),
    /ConfigMap kube-flannel\/kube-flannel-cfg: forbidden: verb get, resource configmaps/);
  assert.match(await read({ [NEW_MAP]: { data: {} } }), /there is no net-conf\.json in it/);
  const damaged = { data: { 'net-conf.json': '{' } };
  assert.match(await read({ [NEW_MAP]: damaged }), /net-conf\.json: not JSON/);
  assert.throws(() => netConfSource('configmap:net', server({})), /not configmap:NAMESPACE\/NAME/);
});

test('a file is read again when it changes, and its faults are told', async () => {
  const folder = mkdtempSync(join(tmpdir(), `culvert-net-conf-${process.pid}-`));
  const path = join(folder, 'net-conf.json');
  const stop = new AbortController();
  const told: string[] = [];
  const wait = async (text: string): Promise<void> => {
    while (!told.some((line) => line.includes(text))) await new Promise((go) => setTimeout(go, 2));
  };
  const source = { ...netConfSource(path, server({})), periodMs: 5 };
  const following = followNetConf(source, {
    netConf: (conf: NetConf) => told.push(conf.podNetworks.join()),
    netConfProblem: (problem) => told.push(problem),
  }, stop.signal);
  try {
    await wait('net-conf.json: ENOENT');
    writeFileSync(path, SINGLE);
    await wait('10.244.0.0/16');
    writeFileSync(path, SINGLE.replace('244', '42'));
    await wait('10.42.0.0/16');
  } finally {
    stop.abort();
    await following;
    rmSync(folder, { recursive: true });
  }
});

test('a host that agrees has no problems; each difference is one', () => {
  const conf = parseNetConf(SINGLE, 'conf');
  assert.equal(compareWithHost(conf, FACTS), []);
  const cases: [conf: Partial<NetConf>, facts: Partial<HostFacts>, expected: RegExp][] = [
    [{}, { podNetworks: [] }, /^the cluster's pod networks are 10.*\/16, the host has none/],
    [{}, { podNetworks: ['10.244.0.0/16', '10.9.0.0/16'] }, /has 10\.244.*\/16, 10\.9\.0\.0/],
    [{ port: 4789 }, {}, /VXLAN port is 4789, the host has 8472: set underlay\.port/],
    [{ linkMtu: 1400 }, {}, /MTU of 1400, the host's IPv4 link has 1500: set underlay\.mtu/],
    [{}, { underlay: [] }, /no IPv4 address to tunnel from/],
  ];
  for (const [change, facts, expected] of cases) {
    const problems = compareWithHost({ ...conf, ...change }, { ...FACTS, ...facts });
    assert.is(problems.length, 1, problems.join('; '));
    assert.match(problems[0] ?? '', expected);
  }
});

test('the port of VXLAN matters where VXLAN is spoken', () => {
  const conf = parseNetConf('{"Network":"10.244.0.0/16","Backend":{"Type":"udp"}}', 'conf');
  assert.is(conf.port, 8285);
  assert.equal(compareWithHost(conf, FACTS), []);
});

test('a ConfigMap is not asked for where there is no API server', () => {
  assert.throws(() => netConfSource('', null), /a file is to be named/);
  assert.throws(() => netConfSource('configmap:net/conf', null), /a file is to be named/);
  assert.is(netConfSource('/etc/net-conf.json', null).place, '/etc/net-conf.json');
});

test('a lease is the first prefix of each family, inside the network', () => {
  const conf = { ...parseNetConf(SINGLE, 'conf'), podNetworks: ['10.244.0.0/16', 'fd00::/48'] };
  assert.equal(leasedCidrs(conf, ['fd00:0:0:1::/64', '10.244.1.0/24', '10.244.9.0/24']),
    { cidrs: ['10.244.1.0/24', 'fd00:0:0:1::/64'], problem: null });
  assert.match(leasedCidrs(conf, ['10.244.1.0/24']).problem ?? '', /no IPv6 pod network yet/);
  assert.match(leasedCidrs(conf, ['10.9.1.0/24']).problem ?? '', /10\.9\.1\.0\/24 is not part of/);
  assert.match(leasedCidrs(conf, ['10.244.0.0/15']).problem ?? '', /is not part of/);
});

test('flannel\'s devices are recognised by their names', () => {
  const table = (names: string[]): string => ['Inter-|   Receive', ' face |bytes',
    ...names.map((name) => `  ${name}:   0   0`)].join('\n');
  for (const name of ['flannel.1', 'flannel-v6.1', 'flannel0', 'flannel-wg', 'flannel.ipip']) {
    const found = findRivalDevice(FLANNEL_SIGNS, () => table(['lo', name, 'eth0'])) ?? '';
    assert.match(found, new RegExp(`^the device ${name.replace('.', '\\.')} is there`));
  }
  const others = table(['lo', 'eth0', 'xflannel.1', 'culvert0']);
  assert.is(findRivalDevice(FLANNEL_SIGNS, () => others), null);
  assert.is(findRivalDevice(FLANNEL_SIGNS, () => { throw new Error('no /proc'); }), null);
  const calico = findRivalDevice(CALICO_SIGNS, () => table(['eth0', 'vxlan.calico'])) ?? '';
  assert.match(calico, /^the device vxlan\.calico is there: calico-node runs/);
  assert.is(findRivalDevice(CALICO_SIGNS, () => table(['lo', 'flannel.1', 'tunl0'])), null);
});

test('whoever may not see pods takes none for a rival', async () => {
  const forbidden = Object.assign(new Error('no'), { status: 403 });
  assert.is(await findRivalPod(FLANNEL_SIGNS, server({ '/api/v1/pods': forbidden }), 'a',
    NEVER), null);
  assert.is(await findRivalPod(FLANNEL_SIGNS, server({ '/api/v1/pods': { items: [] } }), 'a',
    NEVER), null);
});

test.run();

// What the plugin reads of its environment, and what it writes on installation.

import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, readdirSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { CniError } from '../../cni/errors.ts';
import { podOf, readRequest, type Environment } from '../../cni/request.ts';
import { addressesIn, parseResult } from '../../cni/result.ts';
import { culvert } from '../support/command.ts';
import { ROOT } from '../support/source.ts';

const test = suite('cni/request');
const ENVIRONMENT: Environment = {
  CNI_CONTAINERID: 'c1', CNI_IFNAME: 'eth0', CNI_NETNS: '/run/netns/x', CNI_PATH: '/opt/cni/bin',
};

const START_ROUNDS = 7;

function codeOf(work: () => unknown): number {
  try {
    work();
  } catch (error) {
    if (error instanceof CniError) return error.code;
    throw error;
  }
  return 0;
}

test('the pod of CNI_ARGS, in any order, among other pairs', () => {
  const pairs = ['IgnoreUnknown=1', 'K8S_POD_NAMESPACE=shop', 'K8S_POD_NAME=web',
    'K8S_POD_UID=u=1', 'K8S_POD_INFRA_CONTAINER_ID=x'];
  const pod = { namespace: 'shop', name: 'web', uid: 'u=1' };
  for (let turn = 0; turn < pairs.length; turn += 1) {
    const turned = [...pairs.slice(turn), ...pairs.slice(0, turn)];
    assert.equal(podOf(turned.join(';'), 'c1'), pod);
    assert.equal(podOf(`${turned.reverse().join(';')};`, 'c1'), pod);
  }
});

test('a container that is no pod goes by its id', () => {
  const container = { namespace: '-', name: 'c1', uid: '' };
  for (const args of ['', 'A=b', 'K8S_POD_NAME=web']) assert.equal(podOf(args, 'c1'), container);
  assert.is(codeOf(() => podOf('web', 'c1')), 4);
});

test('unknown fields of the configuration are nobody\'s business', () => {
  const text = JSON.stringify({
    cniVersion: '1.0.0', name: 'n', type: 'culvert', args: { x: 1 }, capabilities: { y: true },
    runtimeConfig: { 'io.kubernetes.cri.pod-annotations': { a: 'b' }, portMappings: [] },
  });
  const { config, version } = readRequest('ADD', ENVIRONMENT, text);
  assert.equal([config.name, config.runtimeDirectory, config.mtu, version],
    ['n', '/run/culvert', 0, '1.0.0']);
});

test('the addresses of one interface in a result', () => {
  const result = parseResult({
    interfaces: [{ name: 'eth0', sandbox: '/a' }, { name: 'eth0', sandbox: '/b' }],
    ips: [{ address: '10.0.0.1/32', interface: 1 }, { address: '10.0.0.2/32' }],
  }, 'result');
  assert.equal(addressesIn(result, 'eth0', '/b'), ['10.0.0.1/32']);
  assert.equal(addressesIn(result, 'eth0', '/a'), []);
  assert.is(addressesIn(result, 'eth0', '/c'), null);
  assert.is(codeOf(() => parseResult({ ips: 'none' }, 'prevResult')), 7);
});

test('install and uninstall', async () => {
  const folder = mkdtempSync(join(tmpdir(), `culvert-cni-${process.pid}-`));
  const [bin, config] = [join(folder, 'bin'), join(folder, 'net.d')];
  const places = ['--bin-directory', bin, '--config-directory', config];
  const read = (): Record<string, unknown> => JSON.parse(
    readFileSync(join(config, '10-culvert.conflist'), 'utf8')) as Record<string, unknown>;
  try {
    const installed = await culvert(['cni', 'install', ...places, '--runtime-directory', '/run/x']);
    assert.is(installed.code, 0, installed.stderr);
    assert.match(installed.stdout, /loopback is missing/);
    assert.is(statSync(join(bin, 'culvert')).mode & 0o777, 0o755);
    assert.equal(read()['plugins'],
      [{ type: 'culvert', runtimeDirectory: '/run/x', capabilities: { portMappings: true } }]);
    assert.equal(read()['cniVersions'], ['1.0.0', '1.1.0']);
    const again = await culvert(['cni', 'install', ...places, '--portmap']);
    assert.is(again.code, 0, again.stderr);
    assert.match(again.stdout, /portmap is missing/);
    assert.equal((read()['plugins'] as { type: string }[]).map(({ type }) => type),
      ['culvert', 'portmap']);
    assert.equal([readdirSync(bin), readdirSync(config)],
      [['.culvert.image', 'culvert'], ['10-culvert.conflist']]);
    // V8 with other flags cannot use the code cache, as a V8 of another version cannot.
    for (const flags of [[], ['--no-opt']]) {
      const { stdout } = spawnSync(process.execPath, [...flags, join(bin, 'culvert')],
        { env: { CNI_COMMAND: 'VERSION' }, input: '', encoding: 'utf8' });
      assert.match(stdout, /"supportedVersions"/, flags.join());
    }
    for (let time = 0; time < 2; time += 1) {
      assert.is((await culvert(['cni', 'uninstall', ...places])).code, 0);
    }
    assert.equal([readdirSync(bin), readdirSync(config)], [[], []]);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
});

test('the command answers as the plugin does', async () => {
  const { code, stdout } = await culvert(['cni'], { env: { CNI_COMMAND: 'VERSION' } });
  assert.is(code, 0);
  assert.equal((JSON.parse(stdout) as { cniVersion: string }).cniVersion, '1.1.0');
});

/** Milliseconds that a program takes from its start to its end. */
function runMs(words: string[]): number {
  const startMs = performance.now();
  const env = { ...process.env, CNI_COMMAND: 'VERSION' };
  const { status } = spawnSync(process.execPath, words, { cwd: ROOT, env, input: '' });
  assert.is(status, 0);
  return performance.now() - startMs;
}

test('the bundle starts nearly as fast as Node.js alone', () => {
  const times = { bare: [] as number[], bundle: [] as number[] };
  for (let round = 0; round < START_ROUNDS; round += 1) {
    times.bare.push(runMs(['-e', '0']));
    times.bundle.push(runMs(['dist/cni/culvert.cjs']));
  }
  const [bare, bundle] = [times.bare, times.bundle].map((list) => Math.min(...list));
  console.log(`VERSION: ${bundle?.toFixed(0)} ms, Node.js alone: ${bare?.toFixed(0)} ms`);
  assert.ok((bundle ?? 0) < (bare ?? 0) * 3);
});

test.run();

// The modules of modules/examples on a node, as an operator builds and adds them, with real
// clients.
//
//   [ node-1: culvert run, culvert sync ]
//     |                |             |
//   pod-1-10         pod-1-11      pod-1-12
//   TLS on 443 and   clients
//   8443

import { spawnSync } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import type { Bed } from '../../cli/demo/bed.ts';
import { culvert } from '../support/command.ts';
import { buildExample } from '../support/examples.ts';
import { needs, printSkip, testNeeding } from '../support/needs.ts';
import { ROOT } from '../support/source.ts';
import { Place, openBed, type Pod } from './support/forge-scene.ts';
import { TlsPeer } from './support/tls-peer.ts';

interface Context {
  bed: Bed;
  one: Place;
  server: Pod;
  client: Pod;
  peers: TlsPeer[];
}

const test = suite<Context>('netns/module-examples');
const KEYS = join(ROOT, 'test', 'golden', 'tls');
const PORTS = [443, 8443];
const TIMEOUT_MS = 5000;
const BRIEF_MS = 400;

test.before(async (context) => {
  if (!needs.tun) return;
  const bed = await openBed();
  context.bed = bed;
  context.peers = [];
  try {
    const one = await Place.add(bed, 1, [1]);
    await one.culvert.start();
    const pods = [await one.addPod(10), await one.addPod(11), await one.addPod(12)];
    const [server, client] = pods;
    context.peers = pods.map(({ host }) => new TlsPeer(host));
    Object.assign(context, { one, server, client });
    const [key, certificate] = ['server-key.pem', 'server.pem'].map((name) =>
      readFileSync(join(KEYS, name), 'utf8'));
    for (const port of PORTS) await context.peers[0]?.serve(port, key ?? '', certificate ?? '');
  } catch (error) {
    await bed.close();
    throw error;
  }
});
test.after(async ({ bed, peers }) => {
  if (!needs.tun) return;
  for (const peer of peers) await peer.close();
  await bed.close();
});

async function ask({ one }: Context, words: string[]): Promise<string> {
  const { code, stdout, stderr } = await culvert(
    [...words, '--runtime-directory', one.culvert.runtimeDirectory]);
  assert.equal([code, stderr], [0, '']);
  return stdout;
}

/** Builds an example. Returns the component's path. */
async function build({ bed }: Context, name: string): Promise<string> {
  const file = join(bed.folder, `${name}.wasm`);
  writeFileSync(file, await buildExample(name));
  return file;
}

/** Builds an example and adds it; `work` is done while it is there. */
async function withModule(
  context: Context, name: string, config: string, words: string[], work: () => Promise<void>,
): Promise<void> {
  const { bed } = context;
  const file = await build(context, name);
  const configFile = join(bed.folder, `${name}.txt`);
  writeFileSync(configFile, config);
  await ask(context, ['module', 'add', file, '--config', configFile, ...words]);
  try {
    await work();
    const list = await ask(context, ['module', 'list']);
    assert.match(list, new RegExp(`^${name} .* direct .* 0 +[\\d.]+ .?i?B +enabled$`, 'm'));
  } finally {
    await ask(context, ['module', 'remove', name]);
  }
}

/** The last verdict that denied, as `observe` prints it. */
async function lastDenied(context: Context): Promise<string> {
  const text = await ask(context, ['observe', '--verdict', 'denied', '--last', '1']);
  return text.trimEnd();
}

const HOSTS = `
allow good.example
allow *.wild.example
port 8443
`;

testNeeding('tun', test, 'sni-allow lets TLS through to named hosts only', async (context) => {
  const { server, peers: [, peer] } = context;
  const outcomes: string[] = [];
  await withModule(context, 'sni-allow', HOSTS, [], async () => {
    for (const address of server.addresses) {
      for (const [name, pieceBytes, port, isAllowed] of [
        ['good.example', 0, 443, true],
        ['GOOD.example', 0, 443, true],
        ['a.b.wild.example', 0, 8443, true],
        ['good.example', 100, 443, true],
        ['bad.example', 0, 443, false],
        ['wild.example', 0, 8443, false],
        ['bad.example', 100, 443, false],
        [null, 0, 443, false],
      ] as [name: string | null, pieceBytes: number, port: number, isAllowed: boolean][]) {
        const question = { address, port, name, pieceBytes, timeoutMs: TIMEOUT_MS };
        const answer = await peer?.ask(question);
        const what = `${name} in pieces of ${pieceBytes} to ${address} port ${port}: ${answer}`;
        outcomes.push(what);
        assert.is(answer === 'answered', isAllowed, what);
        assert.is.not(answer, 'no answer in time', what);
      }
    }
    assert.match(await lastDenied(context), / module sni-allow EGRESS DENIED \(TCP Flags: /);
  });
  assert.is(outcomes.length, 16);
});

/** Programs that ask a host by HTTPS, with the exit code of one that was answered. */
const PROGRAMS: [program: string, words: (name: string, address: string) => string[]][] = [
  ['curl', (name, address) =>
    ['-sk', '--max-time', '5', '--resolve', `${name}:443:${address}`, `https://${name}/`]],
  ['openssl', (name, address) => ['s_client', '-connect', `${address}:443`, '-servername', name]],
];

for (const [program, words] of PROGRAMS) {
  const name = `sni-allow judges ${program} alike`;
  if (spawnSync(program, ['version']).error !== undefined) {
    test.skip(name);
    printSkip(name, `the program ${program} is needed`);
    continue;
  }
  testNeeding('tun', test, name, async (context) => {
    const { server: { addresses: [address = ''] }, client } = context;
    await withModule(context, 'sni-allow', HOSTS, [], async () => {
      for (const [host, isAllowed] of [['good.example', true], ['bad.example', false]] as const) {
        const { status, stdout } = client.host.namespace.run(() =>
          spawnSync(program, words(host, address), { encoding: 'utf8', input: '', timeout: 8000 }));
        assert.is(status === 0, isAllowed, `${program} ${host}: ${stdout}`);
      }
    });
  });
}

testNeeding('tun', test, 'rate-gate limits each source, with a clock granted', async (context) => {
  const { one, server: { addresses }, peers: [, first, second] } = context;
  const [ipv4 = '', ipv6 = ''] = addresses;
  const file = await build(context, 'rate-gate');
  const refused = await culvert(['module', 'add', file, '--runtime-directory',
    one.culvert.runtimeDirectory]);
  assert.is(refused.code, 1);
  assert.match(refused.stderr, /^culvert: module add .*clock/);
  const config = 'rate 1\nburst 5\nper address\nat ingress\n';
  await withModule(context, 'rate-gate', config, ['--allow', 'clock'], async () => {
    const began = performance.now();
    for (const [peer, address] of [[first, ipv4], [second, ipv4], [first, ipv6]] as const) {
      const open = await peer?.knock(address, 443, 12, BRIEF_MS) ?? 0;
      const most = 5 + Math.ceil((performance.now() - began) / 1000);
      assert.ok(open >= 3 && open <= most, `${open} connections, at most ${most}`);
      assert.ok(open < 12);
    }
    assert.match(await lastDenied(context), / module rate-gate INGRESS DENIED /);
  });
});

testNeeding('tun', test, 'prefix-block denies by the longest prefix', async (context) => {
  const { server: { addresses: [ipv4 = '', ipv6 = ''] }, peers: [, first, second] } = context;
  // Where a connection leaves a pod its destination counts, where it arrives its source.
  const config = '10.244.1.8/29 CC\nblock CC\nallow 10.244.1.10/31\n2001:db8:1::/48\n';
  await withModule(context, 'prefix-block', config, [], async () => {
    assert.is(await first?.knock(ipv4, 443, 1, TIMEOUT_MS), 1, 'pod 11 is excepted');
    assert.is(await second?.knock(ipv4, 443, 1, BRIEF_MS), 0, 'pod 12 is not');
    assert.match(await lastDenied(context), / module prefix-block INGRESS DENIED /);
    assert.is(await second?.knock(ipv6, 443, 1, TIMEOUT_MS), 1, 'by IPv6 nobody is');
  });
});

test.run();

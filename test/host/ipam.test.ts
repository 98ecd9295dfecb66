// Addresses of pods: which are given, in which order, and that neither a crash at any point nor a
// damaged file has one given twice or lost.

import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { diskFiles } from '../../host/durable.ts';
import { AddressesExhaustedError, Ipam, keyText, type Claim } from '../../host/ipam.ts';
import type { Files } from '../../host/durable.ts';
import { Random } from '../support/random.ts';
import { FailingFiles, PowerCut } from './support/files.ts';

const test = suite('host/ipam');
const RANGES = ['10.244.1.0/24', 'fd00:10:244:1::/64'];
const SILENT = { debug: () => {}, info: () => {}, warn: () => {}, error: () => {} };
const CRASHES = 3000;

function open(files: Files, ranges = RANGES, boot = 'this'): Ipam {
  let ms = 0;
  const ipam = new Ipam({ files, log: SILENT, boot, nowMs: () => { ms += 1; return ms; } });
  ipam.open();
  ipam.setRanges(ranges);
  return ipam;
}

function pod(number: number, network = 'pods'): Claim {
  return {
    containerId: `c${number}`, interfaceName: 'eth0', network, netns: `/run/netns/${number}`,
    pod: { namespace: 'shop', name: `web-${number}`, uid: `u${number}` }, mtu: 1450,
  };
}

/** Attaches a pod and promises it. */
function attach(ipam: Ipam, number: number): string[] {
  const { addresses } = ipam.claim(pod(number), null);
  ipam.confirm(pod(number));
  return addresses;
}

test('the first pod gets number 2 of both networks, the next the next', () => {
  const ipam = open(new FailingFiles());
  assert.equal(attach(ipam, 1), ['10.244.1.2', 'fd00:10:244:1::2']);
  assert.equal(attach(ipam, 2), ['10.244.1.3', 'fd00:10:244:1::3']);
});

test('networks of other sizes and families', () => {
  const firstOf = (ranges: string[]): string[] =>
    open(new FailingFiles(), ranges).claim(pod(1), null).addresses;
  assert.equal(firstOf(['10.0.0.0/30']), ['10.0.0.2']);
  assert.equal(firstOf(['fd00::/64']), ['fd00::2']);
  assert.equal(firstOf(['fd00::/126', '10.0.0.0/16']), ['10.0.0.2', 'fd00::2']);
  for (const ranges of [[], ['10.0.0.0/31'], ['10.0.0.0/32'], ['10.0.0.0/24', 'fd00::/127']]) {
    assert.throws(() => firstOf(ranges), (error: unknown) =>
      error instanceof AddressesExhaustedError);
  }
});

test('all addresses of a /24 but base, gateway and broadcast are given, then none', () => {
  const ipam = open(new FailingFiles(), ['10.244.1.0/24']);
  const given = new Set<string>();
  for (let number = 0; number < 253; number += 1) given.add(attach(ipam, number).join());
  assert.is(given.size, 253);
  assert.equal(ipam.table(), { name: 'pod addresses', used: 253, limit: 253 });
  for (const kept of ['10.244.1.0', '10.244.1.1', '10.244.1.255']) assert.not(given.has(kept));
  assert.throws(() => ipam.claim(pod(999), null),
    /no address is free in 10\.244\.1\.0\/24: all 253 are in use/);
  ipam.release(pod(7));
  assert.equal(attach(ipam, 999), ['10.244.1.9']);
});

test('a large network carries over from byte to byte', () => {
  const ipam = open(new FailingFiles(), ['10.244.0.0/16']);
  for (let number = 0; number < 254; number += 1) attach(ipam, number);
  assert.equal(attach(ipam, 999), ['10.244.1.0']);
});

test('an address rests as long as the others allow, across starts too', () => {
  const files = new FailingFiles();
  let ipam = open(files, ['10.0.0.0/29']); // numbers 2 to 6
  for (let number = 2; number <= 6; number += 1) attach(ipam, number);
  for (const number of [4, 2, 6]) ipam.release(pod(number));
  ipam = open(files, ['10.0.0.0/29']);
  assert.equal([11, 12, 13].map((number) => attach(ipam, number).join()),
    ['10.0.0.4', '10.0.0.2', '10.0.0.6']);
});

test('a start gives back what was only claimed, and what is of another boot', () => {
  const files = new FailingFiles();
  let ipam = open(files);
  attach(ipam, 1);
  ipam.claim(pod(2), null);
  ipam = open(files);
  assert.equal(ipam.attachments.map(keyText), ['c1/eth0']);
  assert.is(ipam.find(pod(1))?.state, 'ready');
  ipam = open(files, RANGES, 'another');
  assert.equal(ipam.attachments, []);
});

test('one container and interface is attached once; giving back twice is no error', () => {
  const ipam = open(new FailingFiles());
  attach(ipam, 1);
  assert.throws(() => ipam.claim(pod(1), null), /c1\/eth0 has addresses already/);
  assert.ok(ipam.release(pod(1)));
  assert.not(ipam.release(pod(1)));
  assert.throws(() => ipam.confirm(pod(1)), /not attached/);
});

test('addresses of another IPAM plugin are kept, not shared, and not ours afterwards', () => {
  const files = new FailingFiles();
  const ipam = open(files);
  const given = ['10.244.1.2', 'fd00:10:244:1::2'];
  assert.equal(ipam.claim(pod(1), given).addresses, given);
  assert.throws(() => ipam.claim(pod(2), ['10.244.1.2']), /10\.244\.1\.2 is held by c1\/eth0/);
  assert.equal(attach(ipam, 3), ['10.244.1.3', 'fd00:10:244:1::3']);
  ipam.release(pod(1));
  assert.equal(files.list(), ['10.244.1.3,fd00:10:244:1::3']);
});

test('networks that change leave attached pods alone', () => {
  const ipam = open(new FailingFiles(), ['10.0.0.0/29']);
  attach(ipam, 1);
  ipam.setRanges(['10.0.0.0/29', 'fd00::/64']);
  assert.equal(attach(ipam, 2), ['10.0.0.3', 'fd00::3']);
  ipam.release(pod(1));
  assert.equal(attach(ipam, 3), ['10.0.0.2', 'fd00::2']);
});

test('a damaged file is set aside; its addresses are nobody\'s until all pods are listed', () => {
  const random = new Random(11);
  for (let round = 0; round < 200; round += 1) {
    const files = new FailingFiles();
    let ipam = open(files, ['10.0.0.0/29']);
    for (let number = 1; number <= 3; number += 1) attach(ipam, number);
    const bytes = files.read('10.0.0.3').slice();
    const at = random.below(bytes.length);
    const isCut = random.below(2) === 0;
    bytes[at] = (bytes[at] ?? 0) ^ (1 << random.below(8));
    files.damage('10.0.0.3', isCut ? bytes.slice(0, at) : bytes);
    ipam = open(files, ['10.0.0.0/29']);
    assert.equal(ipam.attachments.map(keyText), ['c1/eth0', 'c3/eth0']);
    assert.match(ipam.problems().join(), /10\.0\.0\.3 are in doubt/);
    assert.ok(files.list().includes('10.0.0.3.corrupt'));
    assert.equal([attach(ipam, 11), attach(ipam, 12)], [['10.0.0.5'], ['10.0.0.6']]);
    assert.throws(() => ipam.claim(pod(13), null), /no address is free/);
    const all = [1, 2, 3, 11, 12].map((number) => pod(number));
    ipam.leftOver({ network: 'pods', valid: all });
    assert.throws(() => ipam.claim(pod(13), null), /no address is free/, 'pod 2 is unknown here');
    const known = all.filter(({ containerId }) => containerId !== 'c2');
    ipam.leftOver({ network: 'pods', valid: known });
    assert.equal(attach(ipam, 13), ['10.0.0.3']);
    assert.equal(ipam.problems(), []);
  }
});

test('left over is what a list does not name, of its own network only', () => {
  const ipam = open(new FailingFiles());
  for (const number of [1, 2]) attach(ipam, number);
  ipam.claim(pod(3, 'other'), null);
  const left = ipam.leftOver({ network: 'pods', valid: [pod(1)] });
  assert.equal(left.map(keyText), ['c2/eth0']);
});

test('a full disk refuses a pod and takes its addresses back', () => {
  const files = new FailingFiles();
  const ipam = open(files);
  attach(ipam, 1);
  const full = (): never => { throw Object.assign(new Error('ENOSPC'), { code: 'ENOSPC' }); };
  Object.assign(files, { write: full });
  assert.throws(() => ipam.claim(pod(2), null), /ENOSPC/);
  assert.is(ipam.find(pod(2)), undefined);
  assert.ok(ipam.release(pod(1)));
  assert.equal(files.list(), []);
});

test('a real folder keeps what was promised', () => {
  const folder = mkdtempSync(join(tmpdir(), `culvert-ipam-${process.pid}-`));
  try {
    attach(open(diskFiles(folder)), 1);
    diskFiles(folder).write('10.244.1.9.new', Uint8Array.of(1));
    const ipam = open(diskFiles(folder));
    assert.equal(ipam.attachments.map(keyText), ['c1/eth0']);
    assert.equal(diskFiles(folder).list(), ['10.244.1.2,fd00:10:244:1::2']);
    ipam.release(pod(1));
    assert.equal(open(diskFiles(folder)).attachments, []);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
});

/** Pods that come and go, until the power fails; what the runtime knows of them afterwards. */
class Life {
  readonly promised = new Map<string, string>();
  /** What was under way when the power failed: it may have happened or not. */
  underWay = '';

  run(ipam: Ipam, random: Random): void {
    for (let step = 0; step < 12; step += 1) {
      const number = random.below(6);
      const key = keyText(pod(number));
      this.underWay = key;
      if (ipam.find(pod(number)) !== undefined) {
        this.promised.delete(key);
        ipam.release(pod(number));
        continue;
      }
      const { addresses } = ipam.claim(pod(number), null);
      if (random.below(4) === 0) continue; // the plugin was killed here
      ipam.confirm(pod(number));
      this.promised.set(key, addresses.join());
    }
    this.underWay = '';
  }
}

/** What is on disk after a power cut agrees with what was promised, and nothing is lost. */
function assertConsistent(life: Life, ipam: Ipam, where: string): void {
  assert.equal(ipam.problems(), [], where);
  const found = new Map(ipam.attachments.map((attachment) =>
    [keyText(attachment), attachment.addresses.join()]));
  for (const [key, addresses] of life.promised) {
    assert.is(found.get(key), addresses, `${where}: ${key} was promised`);
  }
  for (const key of found.keys()) {
    assert.ok(life.promised.has(key) || key === life.underWay, `${where}: ${key} is gone`);
  }
  assert.is(new Set(found.values()).size, found.size, `${where}: one address twice`);
  for (let number = 100; found.size < 5; number += 1) {
    found.set(`${number}`, attach(ipam, number).join());
  }
  assert.is(new Set(found.values()).size, 5, `${where}: all five addresses can be had`);
  assert.throws(() => ipam.claim(pod(999), null), /no address is free/);
}

test('the power may fail between any two operations on files', () => {
  let cuts = 0;
  for (let seed = 0; seed < CRASHES; seed += 1) {
    const random = new Random(seed);
    const files = new FailingFiles();
    const life = new Life();
    files.left = random.below(90);
    try {
      life.run(open(files, ['10.0.0.0/29']), random);
    } catch (error) {
      if (error instanceof AddressesExhaustedError) life.underWay = '';
      else if (!(error instanceof PowerCut)) throw error;
      else cuts += 1;
    }
    assertConsistent(life, open(files.restart(random), ['10.0.0.0/29']), `seed ${seed}`);
  }
  assert.ok(cuts > CRASHES / 3, `${cuts} power cuts`);
});

test.run();

// time limit: 600 s
// The package as it is installed on a node with systemd: the service is killed, stopped, reloaded,
// restarted and upgraded under traffic, and purged. support/service-scene.ts draws the nodes.

import { appendFileSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import type { Bed } from '../../cli/demo/bed.ts';
import { findTool, toolReason } from '../../scripts/tools.ts';
import { openBed } from '../netns/support/forge-scene.ts';
import type { PacedReport } from '../netns/support/paced.ts';
import { until } from '../support/until.ts';
import { testNeeding } from '../support/needs.ts';
import {
  NEXT_VERSION, pause, packagePath, SERVICE, ServiceScene, WATCHDOG_SECONDS, type Account,
} from './support/service-scene.ts';

const test = suite('deploy/service');
const PER_SECOND = 1000;
/** A device's queue is full in a tenth of a second, in which a busy machine may not run us. */
const MANY_PER_SECOND = 10_000;
const TIMES = 3;
const QUIET_MS = 2000;
const KILLS = 4;
/** What a crash may cost. */
const CRASH_GAP_MS = 1000;
const IPERF_SECONDS = 14;

const tools = ['systemd-nspawn', 'iperf3', 'dpkg-deb', 'nsenter'];
const missing = tools.find((name) => findTool(name) === null);
const reason = missing === undefined ? null : toolReason(missing);
let bed: Bed | null = null;
let scene: Promise<ServiceScene> | null = null;

function theScene(): Promise<ServiceScene> {
  scene ??= openBed().then((opened) => {
    bed = opened;
    return ServiceScene.make(opened);
  });
  return scene;
}

test.after(async () => {
  const made = await scene?.catch(() => null);
  await made?.container.close();
  await bed?.close();
});

function print(what: string, { outbound, inbound }: Account): void {
  for (const [way, { sent, arrived, duplicates, longestGapMs }] of
    [['out', outbound], ['in', inbound]] as const) {
    console.log(`${what}, ${way}: ${sent} sent, ${sent - arrived} lost, ${duplicates} twice, `
      + `longest silence ${longestGapMs.toFixed(0)} ms`);
  }
}

function lostOf({ sent, arrived }: PacedReport): number {
  return sent - arrived;
}

function nothingLost({ outbound, inbound }: Account): void {
  for (const report of [outbound, inbound]) {
    assert.ok(report.sent > PER_SECOND);
    assert.is(lostOf(report), 0);
  }
}

/** Waits for a daemon with another process that is ready. */
async function anotherThan({ container }: ServiceScene, before: string): Promise<void> {
  await until('another daemon', () => container.property(SERVICE, 'ActiveState') === 'active'
    && ![before, '0'].includes(container.property(SERVICE, 'MainPID')));
}

testNeeding('tun', test, 'the installed service is active, and says how it is', async () => {
  const { container } = await theScene();
  assert.is(container.property(SERVICE, 'ActiveState'), 'active');
  await until('its own word', () =>
    container.property(SERVICE, 'StatusText').includes('forwarding'));
  assert.match(container.property(SERVICE, 'StatusText'), /tier T\d/);
  // Nothing but CAP_NET_ADMIN, which is number 12.
  const [, effective] = /CapEff:\t(\w+)/.exec(container.run(
    'cat', `/proc/${container.property(SERVICE, 'MainPID')}/status`).output) ?? [];
  assert.is(BigInt(`0x${effective}`), 1n << 12n);
}, reason);

testNeeding('tun', test, 'a reload takes what is right and leaves what is wrong', async () => {
  const { container } = await theScene();
  const file = join(container.root, 'etc', 'culvert', 'config.yaml');
  const text = readFileSync(file, 'utf8');
  const before = container.property(SERVICE, 'MainPID');
  appendFileSync(file, 'icmp: [\n');
  assert.is(container.run('systemctl', 'reload', SERVICE).status, 0);
  await until('word of the fault', () =>
    /left as it was: .*config\.yaml:/.test(container.property(SERVICE, 'StatusText')));
  writeFileSync(file, `${text}icmp:\n  rate: 50\n`);
  assert.is(container.run('systemctl', 'reload', SERVICE).status, 0);
  await until('word of its being right', () =>
    container.property(SERVICE, 'StatusText').includes('forwarding'));
  writeFileSync(file, text);
  assert.is(container.property(SERVICE, 'MainPID'), before);
}, reason);

testNeeding('tun', test, 'another daemon takes over, and nothing is lost', async () => {
  const all = await theScene();
  const restarts = all.container.property(SERVICE, 'NRestarts');
  // What a machine that does other work loses by itself at this rate.
  const idle = await all.under(MANY_PER_SECOND, () => pause(QUIET_MS));
  print(`nothing at ${MANY_PER_SECOND}/s`, idle);
  const lost: number[] = [];
  for (const perSecond of [PER_SECOND, ...Array<number>(TIMES).fill(MANY_PER_SECOND)]) {
    const before = all.daemon;
    const account = await all.under(perSecond, async () => {
      const { status, output } = await all.container.runBeside('culvert', 'restart');
      assert.is(status, 0, output);
    });
    print(`culvert restart at ${perSecond}/s`, account);
    assert.is.not(all.daemon, before);
    if (perSecond === PER_SECOND) nothingLost(account);
    else lost.push(lostOf(account.outbound) + lostOf(account.inbound));
  }
  const isBusy = lostOf(idle.outbound) + lostOf(idle.inbound) > 0;
  assert.ok(isBusy || Math.min(...lost) === 0, lost.join());
  // It was no end of the service.
  assert.is(all.container.property(SERVICE, 'NRestarts'), restarts);
  await until('its own word', () =>
    all.container.property(SERVICE, 'StatusText').includes('forwarding'));
}, reason);

testNeeding('tun', test, 'after SIGKILL the next one goes on within a second', async () => {
  const all = await theScene();
  const gaps: number[] = [];
  for (let kill = 0; kill < KILLS; kill += 1) {
    const account = await all.under(PER_SECOND, async () => {
      const before = all.daemon;
      all.signal('KILL');
      await anotherThan(all, before);
    });
    print('SIGKILL', account);
    gaps.push(Math.max(account.outbound.longestGapMs, account.inbound.longestGapMs));
  }
  // Where other work is done beside, it takes some to have a quick one.
  assert.ok(Math.min(...gaps) <= CRASH_GAP_MS, `${gaps.join()} ms`);
}, reason);

testNeeding('tun', test, 'a restart by systemd loses nothing', async () => {
  const all = await theScene();
  const account = await all.under(PER_SECOND, () =>
    all.container.runBeside('systemctl', 'restart', SERVICE));
  print('systemctl restart', account);
  nothingLost(account);
}, reason);

testNeeding('tun', test, 'connections outlive an upgrade', async () => {
  const all = await theScene();
  const flow = all.iperf3(findTool('iperf3') ?? '', IPERF_SECONDS);
  await pause(2000);
  const upgraded = await all.container.runBeside('dpkg', '--install', packagePath(NEXT_VERSION));
  assert.is(upgraded.status, 0, upgraded.output);
  const perSecond = await flow;
  console.log(`upgrade under iperf3, Mbit/s: ${perSecond.map((bits) =>
    (bits / 1e6).toFixed(0)).join(' ')}`);
  assert.ok((perSecond.at(-1) ?? 0) > 0);
  assert.is((await all.place.culvert.status()).version, NEXT_VERSION);
}, reason);

testNeeding('tun', test, 'an upgrade loses nothing', async () => {
  const all = await theScene();
  const account = await all.under(PER_SECOND, () =>
    all.container.runBeside('dpkg', '--install', packagePath(NEXT_VERSION)));
  print('upgrade', account);
  nothingLost(account);
}, reason);

testNeeding('tun', test, 'one that stands still is replaced by the watchdog', async () => {
  const all = await theScene();
  const restarts = Number(all.container.property(SERVICE, 'NRestarts'));
  const before = all.daemon;
  const startMs = performance.now();
  all.signal('STOP');
  await pause(WATCHDOG_SECONDS * 1000);
  await anotherThan(all, before);
  console.log(`stopped; another one after ${(performance.now() - startMs).toFixed(0)} ms`);
  assert.is(Number(all.container.property(SERVICE, 'NRestarts')), restarts + 1);
  await all.place.culvert.waitFor(({ sync }) => sync.connected);
}, reason);

testNeeding('tun', test, 'a purge leaves nothing', async () => {
  const { container, place } = await theScene();
  const purged = container.run('dpkg', '--purge', 'culvert');
  assert.is(purged.status, 0, purged.output);
  assert.is(container.run('sh', '-c', 'find / -xdev -name "*culvert*" ! -path "/srv/*" '
    + '! -path "/proc/*"; grep -h culvert /etc/passwd /etc/group').output, '');
  const links = await place.host.links.list();
  assert.not(links.some(({ name }) => name === 'culvert0'));
  const routes = await place.host.links.routes();
  assert.not(routes.some(({ kind }) => kind === 'blackhole'));
}, reason);

test.run();

// time limit: 300 s
//
// A router in the middle takes 1,280 bytes, and both nodes' links 1,500: all gets through at every
// tier, either family in either, and soon without fragments; with mssClamp at once.
//
//   pod 1                                                                     pod 2
//   [ TUN 1430 ]                                                       [ TUN 1430 ]
//     culvert                                                               culvert
//   [ eth0 ]------[ hub ]--------------[ router ]------[ eth0 ]
//    192.0.2.1             1280                         192.0.2.2

import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { askAll } from '../../cli/client.ts';
import type { Family } from '../../engine/address.ts';
import { PeerReportSchema } from '../../engine/model.ts';
import { dropsOf, FAMILIES, STRAIGHT, type Carriers } from './support/lab.ts';
import { NarrowLink } from './support/narrow.ts';
import { TierLab, TIERS, tierTest, type Tier } from './support/tier-lab.ts';

const CROSSED: Carriers = { IPv4: 'IPv6', IPv6: 'IPv4' };
const PATH_MTU = 1280;
const LINK_MTU = 1500;
const OVERHEAD = { IPv4: 50, IPv6: 70 };
const BYTES = 4 * 1024 * 1024;
const TIMEOUT_MS = 30_000;
const STALL_MS = 5000;
/** Two looks of host/path-mtu.ts, and as much again. */
const LEARN_MS = 5000;
const DATAGRAM_SIZES = [64, 1150, 1182, 1202, 1203, 1232, 1280, 1382, 1402, 1430, 2000, 8000];
const TRAIN_SIZES = [1000, 1200, 1380];
/** What a sender cuts must fit the path as it leaves. */
const SEGMENTED_MOST = 1000;
const TRAIN_DATAGRAMS = 200;

/** What a node sends to its only peers: MTUs of the tunnels, by their own family. */
async function peerMtus(lab: TierLab, number: number): Promise<Partial<Record<Family, number>>> {
  const { culvert } = lab.lab.place(number);
  const peers = await askAll(culvert?.runtimeDirectory ?? '', 'peer.list', PeerReportSchema);
  return Object.fromEntries(peers.map(({ remote, mtu }) =>
    [remote.includes(':') ? 'IPv6' : 'IPv4', mtu]));
}

async function waitForMtu(lab: TierLab, number: number, path: number): Promise<number> {
  const startMs = performance.now();
  const wanted = { IPv4: path - OVERHEAD.IPv4, IPv6: path - OVERHEAD.IPv6 };
  for (;;) {
    const mtus = await peerMtus(lab, number);
    const elapsedMs = Math.round(performance.now() - startMs);
    if (mtus.IPv4 === wanted.IPv4 && mtus.IPv6 === wanted.IPv6) return elapsedMs;
    if (elapsedMs > LEARN_MS) {
      assert.equal(mtus, wanted, `node ${number} after ${elapsedMs} ms`);
    }
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

/** Streams and datagrams, each way, of each family. */
async function exchange(lab: TierLab, what: string): Promise<void> {
  for (const family of FAMILIES) {
    for (const [from, to] of [[1, 2], [2, 1]] as const) {
      const address = lab.address(to, family);
      const title = `${what}, ${family} from ${from}`;
      const echoes = await lab.pod(from).agent.ask(
        { verb: 'sizes', address, sizes: DATAGRAM_SIZES, timeoutMs: TIMEOUT_MS });
      assert.ok(echoes.ok, `${title}: ${echoes.detail}`);
      const { same, longestPauseMs, elapsedMs } =
        await lab.traffic(from).send(address, BYTES, TIMEOUT_MS);
      assert.ok(same, title);
      assert.ok(longestPauseMs < STALL_MS, `${title}: nothing for ${longestPauseMs} ms`);
      console.log(`${title}: ${Math.round(BYTES / 1000 / elapsedMs)} MB/s, longest pause `
        + `${Math.round(longestPauseMs)} ms`);
    }
  }
}

async function trains(lab: TierLab, what: string): Promise<void> {
  for (const family of FAMILIES) {
    for (const size of TRAIN_SIZES) {
      for (const segmented of size <= SEGMENTED_MOST ? [true, false] : [false]) {
        const stream = lab.nextStream();
        const unanswered = await lab.traffic(1).train({
          address: lab.address(2, family), stream, first: 0, size, count: TRAIN_DATAGRAMS,
          segmented, tos: 0,
        });
        assert.is(unanswered, 0, `${what}, ${family}, ${size} bytes, segmented ${segmented}`);
      }
    }
  }
}

function pathTests(tier: Tier, carriers: Carriers): void {
  const name = `netns/path-mtu, ${tier}, IPv4 over ${carriers.IPv4}`;
  const test = suite(name);
  let made: TierLab | null = null;
  const lab = async (): Promise<TierLab> => {
    if (made !== null) return made;
    made = await TierLab.create({ tiers: [tier, tier], carriers });
    await NarrowLink.create(made.lab.bed, made.lab.place(2).node, PATH_MTU);
    return made;
  };
  test.after(() => made?.close());

  tierTest(tier, test, `${tier}: all gets through, the path known or not`, async () => {
    const bed = await lab();
    assert.equal(await peerMtus(bed, 1),
      { IPv4: LINK_MTU - OVERHEAD.IPv4, IPv6: LINK_MTU - OVERHEAD.IPv6 });
    await exchange(bed, `${name}, at first`);
    for (const number of [1, 2]) await waitForMtu(bed, number, PATH_MTU);
    await exchange(bed, `${name}, learned`);
    await trains(bed, name);
  });
  tierTest(tier, test, `${tier}: drops are explained`, async () => {
    for (const number of [1, 2]) {
      const status = await (await lab()).status(number);
      const drops = dropsOf(status).filter((text) => !text.startsWith('outbound.tooBig='));
      console.log(`${name}, node ${number}: ${dropsOf(status).join(' ')}`);
      assert.equal(drops, []);
      assert.is(status.dataPlane.crashes, 0);
    }
  });

  test.run();
}

function clampTests(tier: Tier): void {
  const name = `netns/path-mtu, ${tier}, mssClamp`;
  const test = suite(name);
  const flags = [['--mss-clamp', 'true'], []];
  let made: TierLab | null = null;
  const lab = async (): Promise<TierLab> => {
    made ??= await TierLab.create({ tiers: [tier, null], carriers: STRAIGHT, flags });
    return made;
  };
  test.after(() => made?.close());

  tierTest(tier, test, `${tier}: the MTU of the underlay's link is followed`, async () => {
    const bed = await lab();
    const { node } = bed.lab.place(1);
    for (const mtu of [1400, LINK_MTU]) {
      await node.host.links.setLink('eth0', { mtu });
      await waitForMtu(bed, 1, mtu);
      assert.is((await bed.status(1)).underlay.mtu, mtu);
      assert.is((await node.host.links.link('culvert0')).mtu, mtu - OVERHEAD.IPv6);
    }
  });
  tierTest(tier, test, `${tier}: TCP goes without fragments, of a kernel peer, too`, async () => {
    const bed = await lab();
    await NarrowLink.create(bed.lab.bed, bed.lab.place(2).node, PATH_MTU);
    for (const family of FAMILIES) {
      await bed.pod(1).agent.ask(
        { verb: 'ping', address: bed.address(2, family), size: 64, timeoutMs: TIMEOUT_MS });
    }
    await waitForMtu(bed, 1, PATH_MTU);
    for (const family of FAMILIES) {
      const before = (await bed.status(1)).events;
      for (const way of ['send', 'fetch'] as const) {
        const stream = await bed.traffic(1)[way](bed.address(2, family), BYTES, TIMEOUT_MS);
        assert.ok(stream.same);
        const speed = Math.round(BYTES / 1000 / stream.elapsedMs);
        console.log(`${name}, ${family}, ${way}: ${speed} MB/s`);
      }
      const { mssClamped = 0, outerFragmented } = (await bed.status(1)).events;
      assert.is(outerFragmented, before['outerFragmented'], `${family}: no outer fragments`);
      assert.ok(mssClamped >= (before['mssClamped'] ?? 0) + 4, `${family}: ${mssClamped} clamped`);
    }
    assert.equal(dropsOf(await bed.status(1)), []);
  });

  test.run();
}

clampTests('T2');

for (const tier of TIERS) {
  if (tier !== 'T1') pathTests(tier, STRAIGHT);
  if (tier !== 'T0') pathTests(tier, CROSSED);
}

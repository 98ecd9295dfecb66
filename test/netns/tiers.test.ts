// The same traffic at every tier: TCP, UDP of every size, trains of datagrams, pings, between a pod
// of a Culvert node and one of a kernel VXLAN node, between two pods of one node, and between two
// Culvert nodes of different tiers. Counters say whether super-packets were cut and joined.
//
//     pod, pod                                                                  pod
//   [ TUN  ]--culvert [ eth0 ]----[ hub ]----[ eth0 ] kernel VXLAN or culvert--[ veth or TUN ]
//   10.244.1.10      192.0.2.1              192.0.2.2                     10.244.2.10
//   10.244.1.9       2001:db8::1          2001:db8::2                     fd00:10:244:2::a
//
// Each family goes once over its own underlay and once over the other.

import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import type { StatusReport } from '../../engine/model.ts';
import { dropsOf, FAMILIES, STRAIGHT, type Carriers } from './support/lab.ts';
import { TierLab, TIERS, tierTest, type Tier } from './support/tier-lab.ts';
import type { TrainAnswer } from './support/traffic.ts';

const TRANSFER_BYTES = 20 * 1024 * 1024;
const TIMEOUT_MS = 60_000;
const PING_SIZES = [0, 56, 1300, 3000, 20_000, 65_000];
const DATAGRAM_SIZES = [...range(1, 20, 1), ...range(1340, 1500, 4), 3000, 9000, 30_000, 65_000];
/** Sizes of the datagrams of a train: as streams of audio, of video and of QUIC have them. */
const TRAIN_SIZES = [172, 1200, 1372];
const TRAIN_DATAGRAMS = 1000;
const CROSSED: Carriers = { IPv4: 'IPv6', IPv6: 'IPv4' };

function range(least: number, most: number, step: number): number[] {
  return Array.from({ length: Math.floor((most - least) / step) + 1 }, (_, at) =>
    least + (at * step));
}

/** Every datagram of a train has arrived, once, in order, as it was. */
function assertWhole(train: TrainAnswer | undefined, size: number, what: string): void {
  assert.ok(train !== undefined, `${what}: nothing arrived`);
  const { received, late, damaged, sizes } = train;
  assert.equal({ received, late, damaged, sizes },
    { received: TRAIN_DATAGRAMS, late: 0, damaged: 0, sizes: [size] }, what);
}

/** TCP between the pods at two places, each way. */
async function transfer(lab: TierLab, from: number, to: number, title: string): Promise<void> {
  for (const family of FAMILIES) {
    const address = lab.address(to, family);
    for (const way of ['send', 'fetch'] as const) {
      const answer = await lab.traffic(from)[way](address, TRANSFER_BYTES, TIMEOUT_MS);
      assert.ok(answer.same, `${title}, ${family}, ${way}: ${answer.bytes} bytes, not the same`);
      const rate = Math.round((TRANSFER_BYTES * 8) / answer.elapsedMs / 1000);
      console.log(`${title}, ${family}, ${way}: ${rate} Mbit/s`);
    }
  }
}

/** Trains of datagrams of each size, each way, made by the sender's kernel and one by one. */
async function sendTrains(lab: TierLab, one: number, other: number): Promise<void> {
  for (const family of FAMILIES) {
    for (const [from, to] of [[one, other], [other, one]] as const) {
      for (const size of TRAIN_SIZES) {
        for (const segmented of [true, false]) {
          const stream = lab.nextStream();
          const unanswered = await lab.traffic(from).train({
            address: lab.address(to, family), stream, first: 0, size, count: TRAIN_DATAGRAMS,
            segmented, tos: 0,
          });
          const what = `${family} from ${from} to ${to}, ${size} bytes, segmented ${segmented}`;
          assert.is(unanswered, 0, what);
          const trains = await lab.traffic(to).streams();
          assertWhole(trains.find((train) => train.stream === stream), size, what);
        }
      }
    }
  }
}

/** Pings and echoed datagrams of all sizes, asked for by each of two pods. */
async function exchange(lab: TierLab, one: number, other: number): Promise<void> {
  for (const family of FAMILIES) {
    for (const [from, to] of [[one, other], [other, one]] as const) {
      const address = lab.address(to, family);
      const { agent } = lab.pod(from);
      for (const size of PING_SIZES) {
        const pong = await agent.ask({ verb: 'ping', address, size, timeoutMs: TIMEOUT_MS });
        assert.ok(pong.ok, `ping of ${size} bytes to ${address}: ${pong.detail}`);
      }
      const echoes = await agent.ask(
        { verb: 'sizes', address, sizes: DATAGRAM_SIZES, timeoutMs: TIMEOUT_MS });
      assert.ok(echoes.ok, `datagrams to ${address}: ${echoes.detail}`);
    }
  }
}

/** No packet was lost, and super-packets were cut and joined where the tier says so. */
function assertExplained(status: StatusReport, tier: Tier, what: string): void {
  const drops = dropsOf(status);
  assert.equal(drops, [], `${what}: ${drops.join(' ')}`);
  assert.is(status.dataPlane.tier, tier);
  assert.is(status.dataPlane.crashes, 0);
  const { segmented = 0, coalesced = 0 } = status.events;
  console.log(`${what}: ${segmented} cut, ${coalesced} joined`);
  if (tier === 'T0') assert.equal([segmented, coalesced], [0, 0], what);
  else assert.ok(coalesced > 0, `${what}: nothing was joined`);
  if (tier === 'T1' || tier === 'T2') assert.ok(segmented > 0, `${what}: nothing was cut`);
}

for (const tier of TIERS) {
  for (const carriers of [STRAIGHT, CROSSED]) {
    const name = `netns/tiers, ${tier}, IPv4 over ${carriers.IPv4}`;
    const test = suite(name);
    let made: TierLab | null = null;
    const lab = async (): Promise<TierLab> => {
      made ??= await TierLab.create({ tiers: [tier, null], carriers });
      return made;
    };
    test.after(() => made?.close());

    tierTest(tier, test, `${tier}: TCP with a kernel peer`, async () =>
      transfer(await lab(), 1, 2, name));
    tierTest(tier, test, `${tier}: pings and datagrams of all sizes`, async () =>
      exchange(await lab(), 1, 2));
    tierTest(tier, test, `${tier}: trains of datagrams with a kernel peer`, async () =>
      sendTrains(await lab(), 1, 2));
    if (carriers === STRAIGHT) {
      tierTest(tier, test, `${tier}: between pods of one node`, async () => {
        await transfer(await lab(), 1, TierLab.SAME_NODE, `${name}, one node`);
        await exchange(await lab(), 1, TierLab.SAME_NODE);
        await sendTrains(await lab(), 1, TierLab.SAME_NODE);
      });
    }
    tierTest(tier, test, `${tier}: counters say so`, async () =>
      assertExplained(await (await lab()).status(1), tier, name));

    test.run();
  }
}

for (const tiers of [['T0', 'T2'], ['T1', 'T3']] as const) {
  const name = `netns/tiers, ${tiers.join(' with ')}`;
  const test = suite(name);
  let made: TierLab | null = null;
  const lab = async (): Promise<TierLab> => {
    made ??= await TierLab.create({ tiers: [...tiers], carriers: STRAIGHT });
    return made;
  };
  const [, tier] = tiers;
  test.after(() => made?.close());

  tierTest(tier, test, `${name}: TCP`, async () => transfer(await lab(), 1, 2, name));
  tierTest(tier, test, `${name}: pings and datagrams`, async () =>
    exchange(await lab(), 1, 2));
  tierTest(tier, test, `${name}: trains of datagrams`, async () =>
    sendTrains(await lab(), 1, 2));
  tierTest(tier, test, `${name}: counters say so`, async () => {
    for (const [index, own] of tiers.entries()) {
      assertExplained(await (await lab()).status(index + 1), own, `${name}: ${own}`);
    }
  });

  test.run();
}

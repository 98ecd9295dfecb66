// Streams between two Culvert nodes whose underlay loses, damages, doubles and reorders packets,
// and an account of what became of them.

import * as assert from 'uvu/assert';
import { FAMILIES, STRAIGHT } from './lab.ts';
import { TierLab, type Tier } from './tier-lab.ts';

/** Per packet, each way. */
const RATES = { drop: 0.0005, corrupt: 0.0005, duplicate: 0.002, reorder: 0.002 };
/** TCP sends again after at most a few times 200 ms; more than this is a stall. */
/** TCP sends again after 0.2 s, then waits twice as long each time: this is seven times in vain. */
const STALL_MS = 25_400;
const TRAIN_DATAGRAMS = 3000;
const TRAIN_SIZE = 1200;
/** Standard deviations that a count may lie away from what the rates say. */
const SPREAD = 10;
/** Of damaged packets, those that some checksum or check must have seen: the rest were damaged in
 * fields that nothing covers, such as the flow label and the hop limit of IPv6. */
const NOTICED_LEAST = 0.6;
/** Drops that no damage explains. */
const UNEXPLAINED = ['offload', 'deviceError', 'deviceUnknown', 'policyPending', 'policyEgress',
  'policyIngress', 'flowTableFull', 'fragmentTableFull'];

function flagsOf(seed: number, rates: Partial<typeof RATES>): string[] {
  return ['--debug-fault-seed', String(seed),
    ...Object.entries(rates).flatMap(([name, rate]) => [`--debug-fault-${name}`, String(rate)])];
}

/** A lab of two nodes at a tier. At T3 the kernel finishes the checksums of what leaves whole, so
 * damage before would be made good: there, only the other node, at T2, damages. */
export function faultyLab(tier: Tier, seed: number): Promise<TierLab> {
  const { corrupt: _, ...harmless } = RATES;
  return TierLab.create({
    tiers: [tier, tier === 'T3' ? 'T2' : tier], carriers: STRAIGHT,
    flags: [flagsOf(seed, tier === 'T3' ? harmless : RATES), flagsOf(seed + 1, RATES)],
  });
}

/** Sends `bytes` in all, a quarter each way and family. Whatever happens on the way, the same bytes
 * arrive, and without a stall. */
export async function streamThroughFaults(
  lab: TierLab, bytes: number, title: string,
): Promise<void> {
  const share = Math.ceil(bytes / 4);
  const timeoutMs = 60_000 + (share / 1000);
  for (const family of FAMILIES) {
    for (const way of ['send', 'fetch'] as const) {
      const answer = await lab.traffic(1)[way](lab.address(2, family), share, timeoutMs);
      const { same, elapsedMs, longestPauseMs } = answer;
      const what = `${title}, ${family}, ${way}`;
      assert.ok(same, `${what}: ${answer.bytes} bytes, not the same`);
      assert.ok(longestPauseMs < STALL_MS, `${what}: nothing for ${Math.round(longestPauseMs)} ms`);
      const rate = Math.round((share * 8) / elapsedMs / 1000);
      console.log(`${what}: ${rate} Mbit/s, longest pause ${Math.round(longestPauseMs)} ms`);
    }
  }
}

/** Trains of datagrams: some are lost, none arrives damaged. */
export async function trainsThroughFaults(lab: TierLab): Promise<void> {
  for (const family of FAMILIES) {
    for (const [from, to] of [[1, 2], [2, 1]] as const) {
      const stream = lab.nextStream();
      await lab.traffic(from).train({
        address: lab.address(to, family), stream, first: 0, size: TRAIN_SIZE,
        count: TRAIN_DATAGRAMS, segmented: true, tos: 0,
      });
      const train = (await lab.traffic(to).streams()).find((one) => one.stream === stream);
      assert.is(train?.damaged, 0, `${family} from ${from}: damaged datagrams were delivered`);
      assert.equal(train?.sizes, [TRAIN_SIZE]);
      assert.ok((train?.received ?? 0) > TRAIN_DATAGRAMS * 0.9, `${train?.received} arrived`);
    }
  }
}

/** Packets on the way from one node to the other that were damaged, as far as anybody noticed: the
 * other node, or the kernel of its pod. */
async function noticed(lab: TierLab, to: number): Promise<number> {
  const { drops } = await lab.status(to);
  const { fault: _, deviceFull: __, ...inbound } = drops.inbound;
  const atNode = Object.values(inbound).reduce((sum, count) => sum + count, 0);
  const counters = await lab.traffic(to).counters();
  const atPod = ['TcpInCsumErrors', 'UdpInCsumErrors', 'Udp6InCsumErrors', 'Icmp6InCsumErrors',
    'IcmpInCsumErrors'].reduce((sum, name) => sum + (counters[name] ?? 0), 0);
  console.log(`node ${to}: ${atNode} dropped as damaged, ${atPod} by its pod's checksums`);
  return atNode + atPod;
}

/** What was lost and damaged is as much as the rates say, and nothing was lost otherwise. */
export async function assertAccounted(lab: TierLab, tier: Tier): Promise<void> {
  for (const [from, to] of [[1, 2], [2, 1]] as const) {
    const { drops, dataPlane } = await lab.status(from);
    assert.is(dataPlane.crashes, 0);
    for (const reason of UNEXPLAINED) {
      assert.is(drops.outbound[reason], 0, `node ${from}: outbound ${reason}`);
      assert.is(drops.inbound[reason], 0, `node ${from}: inbound ${reason}`);
    }
    const packets = await lab.tunnelled(from);
    const isWhole = tier === 'T3' && from === 1;
    if (isWhole) continue;
    assertNear(drops.outbound.fault ?? 0, packets * RATES.drop, 1, `node ${from}: lost`);
    assertNear(await noticed(lab, to), packets * RATES.corrupt, NOTICED_LEAST,
      `from node ${from}: noticed as damaged`);
  }
}

function assertNear(found: number, expected: number, least: number, what: string): void {
  const spread = SPREAD * Math.sqrt(expected);
  const isNear = found >= (expected * least) - spread && found <= expected + spread;
  assert.ok(isNear, `${what}: ${found} packets, about ${Math.round(expected)} expected`);
  console.log(`${what}: ${found} packets, about ${Math.round(expected)} expected`);
}

// time limit: 200 s
//
// The kind of a peer's tunnel changes, again and again, while streams run: none of them breaks, and
// every byte arrives. The two ends hear of a change one after the other.
//
//     pod 1                                                          pod 2
//   [ TUN ]--culvert [ eth0 ]----[ switch ]----[ eth0 ] culvert--[ TUN ]
//   10.244.1.10     192.0.2.1                192.0.2.2      10.244.2.10
//   fd00:10:244:1::a                                    fd00:10:244:2::a
//
// The pods' MTU fits every kind. TX checksum offload is off on the veths that nodes send from.

import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import type { Family } from '../../engine/address.ts';
import { testNeeding } from '../support/needs.ts';
import { dropsOf } from './support/lab.ts';
import { Traffic, type StreamAnswer } from './support/traffic.ts';
import { FAMILIES, straight, TunnelLab, type Way, type Ways } from './support/tunnel-lab.ts';

const POD_MTU = 1400;
const BYTES = 250 * 1024 * 1024;
const TIMEOUT_MS = 80_000;
const STALL_MS = 3000;
/** The second end hears of a change so much later. What goes to it meanwhile comes by a kind that
 * it does not know of yet, and is lost. */
const LAG_MS = 100;
/** Between changes. */
const REST_MS = 700;

const COMMON: Way[] = [
  { kind: 'vxlan' }, { kind: 'geneve', vni: 3, hasEthernet: false }, { kind: 'direct' },
  { kind: 'geneve', vni: 4, hasEthernet: true }, { kind: 'ipip' },
];
/** Flannel's udp backend carries IPv4 only. */
const WAYS: Record<Family, Way[]> = { IPv4: [...COMMON, { kind: 'udp' }], IPv6: COMMON };

const test = suite('netns/change-tunnels');
let made: { lab: TunnelLab; traffic: Traffic[] } | null = null;

async function bed(): Promise<{ lab: TunnelLab; traffic: Traffic[] }> {
  if (made !== null) return made;
  const lab = await TunnelLab.create(async (created) => {
    for (const number of [1, 2]) await created.addCulvert(number, [], POD_MTU);
  });
  const traffic = [];
  for (const number of [1, 2]) traffic.push(await Traffic.start(lab.place(number).pod));
  made = { lab, traffic };
  return made;
}

test.after(async () => {
  for (const thread of made?.traffic ?? []) await thread.close();
  await made?.lab.close();
});

const pause = (milliseconds: number): Promise<void> =>
  new Promise((resolve) => { setTimeout(resolve, milliseconds); });

/** Both ends take to one way after the other, and in the end to the first again, until the streams
 * are there. */
async function changeUntil(done: Promise<unknown>, family: Family): Promise<number> {
  const { lab } = await bed();
  const ways = WAYS[family];
  let isDone = false;
  let changes = 0;
  void done.catch(() => {}).finally(() => { isDone = true; });
  while (!isDone || changes <= ways.length) {
    changes += 1;
    const way = ways[changes % ways.length];
    if (way === undefined) break;
    const told: Ways = family === 'IPv4' ? { IPv4: { way } } : { IPv6: { way } };
    // Each end is the first in turn.
    for (const number of changes % 2 === 0 ? [1, 2] : [2, 1]) {
      await lab.tell(number, told, { [3 - number]: told });
      await pause(LAG_MS);
    }
    await pause(REST_MS);
  }
  return changes;
}

for (const family of FAMILIES) {
  testNeeding('bridge', test, `${family}: streams outlive every change of the kind`, async () => {
    const { lab, traffic: [one, two] } = await bed();
    const first = straight({ kind: 'vxlan' });
    await lab.tell(1, first, { 2: first });
    await lab.tell(2, first, { 1: first });
    if (one === undefined || two === undefined) throw new Error('no traffic');
    const [here, there] = [lab.place(1).address[family], lab.place(2).address[family]];
    const streams: Promise<StreamAnswer>[] = [
      one.send(there, BYTES, TIMEOUT_MS), two.send(here, BYTES, TIMEOUT_MS),
    ];
    const all = Promise.all(streams);
    const changes = await changeUntil(all, family);
    for (const { same, bytes, longestPauseMs, elapsedMs } of await all) {
      console.log(`${family}: ${changes} changes in ${Math.round(elapsedMs)} ms, longest pause `
        + `${Math.round(longestPauseMs)} ms`);
      assert.ok(same, `${bytes} bytes, not the same`);
      assert.ok(longestPauseMs < STALL_MS, `nothing for ${Math.round(longestPauseMs)} ms`);
    }
    for (const number of [1, 2]) {
      const status = await lab.status(number);
      console.log(`${family}: node ${number}: ${dropsOf(status).join(' ') || 'no drops'}`);
      assert.is(status.dataPlane.crashes, 0);
    }
  });
}

test.run();

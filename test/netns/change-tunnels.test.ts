// The kind of a peer's tunnel changes, again and again, while streams run and connections are kept:
// none of them breaks, and every byte arrives. The two ends hear of a change one after the other.
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
import { until } from '../support/until.ts';
import { dropsOf } from './support/lab.ts';
import { Lines } from './support/lines.ts';
import { Traffic, type StreamAnswer } from './support/traffic.ts';
import { FAMILIES, straight, TunnelLab, type Way, type Ways } from './support/tunnel-lab.ts';

const POD_MTU = 1400;
const BYTES = 150 * 1024 * 1024;
const TIMEOUT_MS = 80_000;
const LINES_PORT = 9200;
const CONNECTIONS = 20;
/** TCP sends again after 0.2 s, then waits twice as long each time: this is seven times in vain. */
const STALL_MS = 25_400;
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

interface Bed {
  lab: TunnelLab;
  traffic: Traffic[];
  lines: Lines[];
}

let made: Bed | null = null;

async function bed(): Promise<Bed> {
  if (made !== null) return made;
  const lab = await TunnelLab.create(async (created) => {
    for (const number of [1, 2]) await created.addCulvert(number, [], POD_MTU);
  });
  const [traffic, lines] = [[], []] as [Traffic[], Lines[]];
  for (const number of [1, 2]) {
    const { pod } = lab.place(number);
    traffic.push(await Traffic.start(pod));
    const line = new Lines(pod);
    await line.serve(pod.name, LINES_PORT);
    lines.push(line);
  }
  made = { lab, traffic, lines };
  return made;
}

test.after(async () => {
  for (const thread of [...made?.traffic ?? [], ...made?.lines ?? []]) await thread.close();
  await made?.lab.close();
});

const pause = (milliseconds: number): Promise<void> =>
  new Promise((resolve) => { setTimeout(resolve, milliseconds); });

/** Both ends take to one way after the other, and in the end to the first again. */
async function changeAll(family: Family): Promise<void> {
  const { lab } = await bed();
  for (const [index, way] of [...WAYS[family], ...WAYS[family].slice(0, 1)].entries()) {
    const told: Ways = family === 'IPv4' ? { IPv4: { way } } : { IPv6: { way } };
    // Each end is the first in turn.
    for (const number of index % 2 === 0 ? [1, 2] : [2, 1]) {
      await lab.tell(number, told, { [3 - number]: told });
      await pause(LAG_MS);
    }
    await pause(REST_MS);
  }
}

/** A stream each way, and others after them until `done`. */
async function streamUntil(done: Promise<void>, family: Family): Promise<StreamAnswer[]> {
  const { lab, traffic: [one, two] } = await bed();
  if (one === undefined || two === undefined) throw new Error('no traffic');
  const [here, there] = [lab.place(1).address[family], lab.place(2).address[family]];
  const answers: StreamAnswer[] = [];
  let isDone = false;
  void done.catch(() => {}).finally(() => { isDone = true; });
  while (!isDone) {
    answers.push(...await Promise.all([
      one.send(there, BYTES, TIMEOUT_MS), two.send(here, BYTES, TIMEOUT_MS),
    ]));
  }
  return answers;
}

for (const family of FAMILIES) {
  testNeeding('bridge', test, `${family}: connections outlive every change of kind`, async () => {
    const { lab, lines: [line] } = await bed();
    if (line === undefined) throw new Error('no lines');
    const first = straight({ kind: 'vxlan' });
    await lab.tell(1, first, { 2: first });
    await lab.tell(2, first, { 1: first });
    const address = lab.place(2).address[family];
    const before = await line.hold(address, LINES_PORT, CONNECTIONS, TIMEOUT_MS);
    assert.is(before.length, CONNECTIONS);

    const changed = changeAll(family);
    const streams = await streamUntil(changed, family);
    await changed;
    for (const { same, bytes } of streams) assert.ok(same, `${bytes} bytes, not the same`);
    const pauseMs = Math.round(Math.max(...streams.map((stream) => stream.longestPauseMs)));
    console.log(`${family}: ${WAYS[family].length} kinds, ${streams.length} streams, `
      + `longest pause ${pauseMs} ms`);
    assert.ok(pauseMs < STALL_MS, `nothing for ${pauseMs} ms`);

    const early = await line.held();
    await until('each connection to go on', async () => (await line.held()).every(
      ({ end, echoes }, index) => end !== '' || echoes > (early[index]?.echoes ?? 0)));
    for (const [index, { end }] of (await line.held()).entries()) {
      assert.is(end, '', `connection ${index} ended: ${end}`);
    }
    await line.letGo();
    for (const number of [1, 2]) {
      const status = await lab.status(number);
      console.log(`${family}: node ${number}: ${dropsOf(status).join(' ') || 'no drops'}`);
      assert.is(status.dataPlane.crashes, 0);
    }
  });
}

test.run();

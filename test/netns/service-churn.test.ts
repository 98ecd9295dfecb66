// Services whose backends come and go. Long connections to the others do not feel it; and while a
// thousand backends a second come or go under load, each packet that arrives anywhere is judged.
//
//   namespace node-1                 hub (router)             namespace node-2
//   culvert run; serves                                       culvert run; knows no Service
//   eth0 192.0.2.1  2001:db8::1 ---- port0   port1 ---- eth0 192.0.2.2  2001:db8::2
//     |                                                         |
//     +-- pod-1-10  client                                      +-- pod-2-10 ... pod-2-12  backends
//     +-- pod-1-11, pod-1-12  backends
//
// Pods are 10.244.<node>.<pod> and fd00:10:244:<node>::<pod in hex>.

import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { Random } from '../support/random.ts';
import { testNeeding } from '../support/needs.ts';
import {
  Arrivals, Membership, backendPort, churnService, clientPorts, frontPort, loadTarget, type Arrival,
} from './support/churn.ts';
import { CLIENT_PORTS, Load, nowMs } from './support/churn-load.ts';
import { podAddresses } from './support/forge-cluster.ts';
import { Place, openBed, type Pod } from './support/forge-scene.ts';
import { FAMILIES } from './support/kube-scene.ts';
import { dropsOf } from './support/lab.ts';
import { Lines, type Held } from './support/lines.ts';
import { ServiceVoice, serviceAddress } from './support/service-scene.ts';
import { PATIENCE_MS, until } from '../support/until.ts';

const test = suite('netns/service-churn');
const NODES = [1, 2];
const SETTLE_MS = 300;
const BACKENDS: [number, number][] = [[1, 11], [1, 12], [2, 10], [2, 11], [2, 12]];
const ADDRESSES = BACKENDS.map(([n, pod]) => podAddresses(n, pod));
const CLIENT = podAddresses(1, 10);
/** Service 1 is for long connections, these are for change. */
const CHURNED = [2, 3, 4, 5, 6, 7, 8, 9];
const HELD_PER_FAMILY = 50;
const CHANGES = 4000;
const CHANGES_PER_SECOND = 1000;
/** The load goes with the changes, so that there is as much of it where a machine is slow. */
const DATAGRAMS_PER_CHANGE = 2;
const SEED = 20_251;
/** How many datagrams each port sends, and whether that needs more flows than there may be. */
const LOADS = {
  bounded: { name: 'under load', each: 20, isFull: false },
  full: { name: 'with more connections than the flow table holds', each: 1, isFull: true },
};
/** Connections that are kept all the time. */
const KEPT = 20;
/** Replies of which one may reach the client as its backend sent it, where the table is full: their
 * connections were closed, and have been given up. */
const REPLIES_PER_STRAY = 1000;

class Scene {
  readonly place: Place;
  readonly client: Pod;
  readonly voice: ServiceVoice;
  readonly pods: Pod[];
  readonly servers: Lines[];

  private constructor(
    place: Place, client: Pod, voice: ServiceVoice, pods: Pod[], servers: Lines[],
  ) {
    this.place = place;
    this.client = client;
    this.voice = voice;
    this.pods = pods;
    this.servers = servers;
  }

  static async create(): Promise<Scene> {
    const bed = await openBed();
    try {
      const flags = ['--policy-unknown-pods', 'open'];
      const places = new Map<number, Place>();
      for (const n of NODES) places.set(n, await Place.add(bed, n, NODES, flags));
      const [one, two] = [...places.values()] as [Place, Place];
      await Promise.all([one.culvert.startDaemon(), two.culvert.startDaemon()]);
      const voice = await ServiceVoice.start(one, NODES, []);
      await ServiceVoice.start(two, NODES, []);
      const client = await one.addPod(10);
      const pods: Pod[] = [];
      const servers: Lines[] = [];
      for (const [b, [n, number]] of BACKENDS.entries()) {
        const pod = await (n === 1 ? one : two).addPod(number);
        const lines = new Lines(pod.host);
        for (const port of [1, ...CHURNED].map((service) => backendPort(service, b))) {
          await lines.serve(pod.name, port);
          for (const address of pod.addresses) await lines.serveDatagrams(pod.name, address, port);
        }
        pods.push(pod);
        servers.push(lines);
      }
      return new Scene(one, client, voice, pods, servers);
    } catch (error) {
      await bed.close();
      throw error;
    }
  }

  /** Puts the backends of Service 1 into force, by number. */
  async say(...members: number[]): Promise<void> {
    await this.voice.say([churnService(1, ADDRESSES, members)]);
    await pause(SETTLE_MS);
  }

  async close(): Promise<void> {
    for (const server of this.servers) await server.close();
    this.voice.close();
    await this.place.bed.close();
  }
}

const pause = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

let made: Scene | null = null;
async function scene(): Promise<Scene> {
  made ??= await Scene.create();
  return made;
}
test.after(() => made?.close());

const nameOf = (b: number): string => {
  const [n, pod] = BACKENDS[b] ?? [];
  return `pod-${n}-${pod}`;
};

testNeeding('tun', test, 'long connections feel nothing of other backends', async () => {
  const place = await scene();
  const lines = new Lines(place.client.host);
  /** Those to the gone ones have ended, and all others have gone on since `before`. */
  const expect = async (gone: number[], before: Held[]): Promise<Held[]> => {
    let after: Held[] = [];
    const isGone = ({ by }: Held): boolean => gone.some((b) => nameOf(b) === by);
    await until('each connection to end or go on', async () => {
      after = await lines.held();
      return after.every((held, at) => held.end !== ''
        || (!isGone(held) && held.echoes > (before[at]?.echoes ?? 0) + 2));
    });
    for (const held of after) {
      assert.is(held.end, isGone(held) ? 'ECONNRESET' : '', `a connection to ${held.by}`);
    }
    return after;
  };
  try {
    await place.say(0, 1, 2, 3);
    let held: Held[] = [];
    for (const family of FAMILIES) {
      held = await lines.hold(
        serviceAddress(1, family), frontPort(1), HELD_PER_FAMILY, PATIENCE_MS);
    }
    const count = (b: number): number => held.filter(({ by }) => by === nameOf(b)).length;
    assert.is(held.length, HELD_PER_FAMILY * FAMILIES.length);
    for (const b of [0, 1, 2, 3]) assert.ok(count(b) > 0, `all have some: ${nameOf(b)}`);
    for (const [members, gone] of [
      [[0, 1, 2, 3, 4], []], [[0, 1, 2, 3], []], [[0, 1, 2, 3, 4], []],
      [[0, 2, 3, 4], [1]], [[0, 1, 2, 3, 4], [1]], [[0, 1, 3], [1, 2]], [[4, 3, 2, 1, 0], [1, 2]],
    ] as [number[], number[]][]) {
      await place.say(...members);
      held = await expect(gone, held);
    }
    console.log(`${held.length} connections: ${held.filter(({ end }) => end === '').length} `
      + `untouched, ${count(1) + count(2)} to backends that left`);
  } finally {
    await lines.close();
  }
});

/** Judges arrivals of the Services that change. The first few faults are kept as texts. */
class Judge {
  readonly faults: string[] = [];
  readonly membership = new Membership();
  /** Packets at backends, and at the client. */
  judged = 0;
  replies = 0;
  /** Replies as the backend sent them, whose connection the flow table has given up. */
  strays = 0;

  /** At backend number `b`: from the client's port for the Service that the backend's port is for,
   * and sent while it may have been a backend. */
  atBackend(b: number, arrival: Arrival): void {
    const { isUdp, source, sourcePort, destination, destinationPort, sentMs, arrivedMs } = arrival;
    if (destinationPort === backendPort(1, b)) return;
    const n = CHURNED.find((service) => backendPort(service, b) === destinationPort);
    const first = clientPorts(n ?? 0, isUdp ? 'UDP' : 'TCP');
    const isWhole = n !== undefined && CLIENT.includes(source)
      && ADDRESSES[b]?.includes(destination) === true
      && sourcePort >= first && sourcePort < first + CLIENT_PORTS;
    if (!isWhole) return this.#blame(`mixed at backend ${b}`, arrival);
    this.judged += 1;
    if (sentMs === null || this.membership.meets(n, b, sentMs, arrivedMs)) return;
    this.#blame(`backend ${b} had left Service ${n}`, arrival);
  }

  /** At the client: from the Service that its port is for, or, as a whole, from a backend of it. */
  atClient(arrival: Arrival): void {
    const { isUdp, source, sourcePort, destination, destinationPort } = arrival;
    if (sourcePort === frontPort(1)) return;
    const n = CHURNED.find((service) => {
      const first = clientPorts(service, isUdp ? 'UDP' : 'TCP');
      return destinationPort >= first && destinationPort < first + CLIENT_PORTS;
    });
    if (n === undefined || !CLIENT.includes(destination)) {
      return this.#blame('not for the client', arrival);
    }
    const isReply = sourcePort === frontPort(n)
      && FAMILIES.some((family) => serviceAddress(n, family) === source);
    const isStray = ADDRESSES.some((addresses, b) =>
      addresses.includes(source) && sourcePort === backendPort(n, b));
    if (isReply) this.replies += 1;
    else if (isStray) this.strays += 1;
    else this.#blame('mixed at the client', arrival);
  }

  #blame(what: string, arrival: Arrival): void {
    if (this.faults.length < 10) this.faults.push(`${what}: ${JSON.stringify(arrival)}`);
  }
}

/** How many changes there were in a second, and how long deltas took to be in force. */
interface Churned {
  rate: number;
  medianMs: number;
  p99Ms: number;
}

/** Has backends of Services that have all of them go and come, a few at a time; each Service keeps
 * one at least. */
async function churn(
  voice: ServiceVoice, membership: Membership, load: Load,
): Promise<Churned> {
  const random = new Random(SEED);
  const all = BACKENDS.map((_, b) => b);
  const members = new Map(CHURNED.map((n) => [n, new Set(all)]));
  const startMs = nowMs();
  const times: number[] = [];
  let done = 0;
  while (done < CHANGES) {
    const due = Math.min(((nowMs() - startMs) * CHANGES_PER_SECOND) / 1000, CHANGES);
    const changed: number[] = [];
    const left: [number, number][] = [];
    while (done < due && changed.length < CHURNED.length) {
      const n = CHURNED[changed.length] ?? 0;
      const b = random.below(all.length);
      const of = members.get(n) ?? new Set();
      changed.push(n);
      if (of.has(b) && of.size === 1) continue;
      done += 1;
      if (of.delete(b)) {
        left.push([n, b]);
        continue;
      }
      of.add(b);
      membership.join(n, b, nowMs());
    }
    if (changed.length === 0) {
      await pause(1);
      continue;
    }
    load.due(done * DATAGRAMS_PER_CHANGE);
    const askedMs = nowMs();
    await voice.say(changed.map((n) => churnService(n, ADDRESSES, members.get(n) ?? [])));
    times.push(nowMs() - askedMs);
    for (const [n, b] of left) membership.leave(n, b, nowMs());
  }
  const rate = (done * 1000) / (nowMs() - startMs);
  times.sort((a, b) => a - b);
  const at = (share: number): number => times[Math.floor(times.length * share)] ?? 0;
  return { rate, medianMs: at(0.5), p99Ms: at(0.99) };
}

/** Adds a case: what happens under one load. */
function testLoad({ name, each, isFull }: (typeof LOADS)['full']): void {
  testNeeding('tun', test, `a thousand changes a second ${name}, packet by packet`, async () => {
    const lab = await scene();
    const { client, pods, voice } = lab;
    const judge = new Judge();
    const all = BACKENDS.map((_, b) => b);
    for (const n of CHURNED) for (const b of all) judge.membership.join(n, b, nowMs());
    await voice.say(CHURNED.map((n) => churnService(n, ADDRESSES, all)));
    const captures = pods.map(({ host }, b) =>
      new Arrivals(host, (arrival) => judge.atBackend(b, arrival)));
    captures.push(new Arrivals(client.host, (arrival) => judge.atClient(arrival)));
    const load = new Load(client.host);
    const lines = new Lines(client.host);
    try {
      await lab.say(...all);
      await lines.hold(serviceAddress(1, 'IPv4'), frontPort(1), KEPT, PATIENCE_MS);
      await load.start(CHURNED.map(loadTarget), each);
      const { rate, medianMs, p99Ms } = await churn(voice, judge.membership, load);
      await until('most answers', async () => {
        const { sent, answered, connected, failed } = await load.report();
        const isSent = sent >= CHANGES * DATAGRAMS_PER_CHANGE;
        return isSent && answered > sent / 2 && connected > failed;
      });
      const report = await load.stop();
      await pause(SETTLE_MS);
      for (const capture of captures) capture.drain();
      const status = await lab.place.culvert.status();
      const { used = 0, limit = 0 } = status.tables.find((table) => table.name === 'flows') ?? {};
      console.log(`${Math.round(rate)} changes/s, in force after ${medianMs.toFixed(2)} ms, p99 `
        + `${p99Ms.toFixed(2)} ms; ${judge.judged} packets judged at backends, `
        + `${judge.replies} at the client, ${judge.strays} strays; ${JSON.stringify(report)}; `
        + `flows ${used} of ${limit}; drops ${dropsOf(status).join(' ')}`);
      assert.equal(judge.faults, []);
      assert.ok(judge.judged > report.sent / 2 && report.answered > report.sent / 2);
      assert.ok(report.connected > report.failed, 'connections');
      assert.ok(used > 0 && used <= limit, `flows: ${used} of ${limit}`);
      assert.is(used > limit / 2, isFull, 'the table is full where it is meant to be');
      // On a slow machine a backend may send again to a client that has given up.
      const strays = isFull ? judge.replies / REPLIES_PER_STRAY : report.failed;
      assert.ok(judge.strays <= strays, `${judge.strays} strays`);
      assert.ok((await lines.held()).every(({ end }) => end === ''), 'who was there stays');
      assert.is(status.dataPlane.crashes, 0);
    } finally {
      await load.close();
      await lines.close();
      assert.equal(captures.map((capture) => capture.close()), captures.map(() => 0), 'not seen');
    }
  });
}

testLoad(LOADS.bounded);

testNeeding('tun', test, 'afterwards connections find their way as before', async () => {
  const place = await scene();
  await place.say(2, 3);
  const lines = new Lines(place.client.host);
  try {
    const greetings = await Promise.all(Array.from({ length: 20 }, (_, at) =>
      lines.who(serviceAddress(1, FAMILIES[at % 2] ?? 'IPv4'), frontPort(1), PATIENCE_MS)));
    const found = new Set(greetings.map(({ by }) => by));
    assert.equal([...found].sort(), [nameOf(2), nameOf(3)]);
  } finally {
    await lines.close();
  }
});

// Last: it leaves the table full.
testLoad(LOADS.full);

test.run();

// A node whose daemon is killed again and again under load, and the account of what that did.
//
//   namespace node-3                    hub (router)           namespace node-2
//   culvert run, killed and started     watched: any packet    culvert run, culvert sync
//   again; culvert sync                 of a pod outside a
//                                       tunnel?
//   eth0 192.0.2.3 -------------------- port1   port0 -------- eth0 192.0.2.2
//     |                                                          |
//     +-- pod-3-10   a connection, datagrams and echoes <-----> pod-2-10
//     |   (takes no connections) <------- denied datagrams ----- pod-2-11
//     +-- pod-3-11   <------------ datagrams, both ways -------> pod-2-10
//     +-- node-3 itself --------------- datagrams -------------> pod-2-11

import { spawnSync } from 'node:child_process';
import * as assert from 'uvu/assert';
import type { Bed } from '../../../cli/demo/bed.ts';
import { PROFILES } from '../../../engine/memory-map.ts';
import type { Random } from '../../support/random.ts';
import { clusterNode, podAddress } from './forge-cluster.ts';
import { CLI, Place, kill, mustReach, type Pod } from './forge-scene.ts';
import { Stream, type StreamReport } from './forge-stream.ts';
import { Paced, type PacedReport } from './paced.ts';
import { overflowOn, type Way } from './queue-drops.ts';

const NODES = [2, 3];
const OUT_PORT = 7001;
const IN_PORT = 7002;
const NODE_PORT = 7003;
const DENIED_PORT = 7004;
const PER_SECOND = 1000;
const DENIED_PER_SECOND = 200;
/** Longest life of a daemon that is ready. */
const LIFE_LIMIT_MS = 500;
/** Longest life of one that may be killed before it is ready. */
const EARLY_LIMIT_MS = 900;
const SETTLE_MS = 1500;
/** A daemon may need so many times what a command needs that does nothing. */
const READY_RATIO = 6;
const READY_ROUNDS = 5;
/** So long a queue lasts in any case: half of what it does at this rate, since a sender that was
 * late sends faster for a while. */
const QUEUE_MS = 500;
/** A holder that a test leaves behind ends by itself. */
export const AWAY_FLAGS = ['--handover-enabled', 'true', '--handover-away-seconds', '30'];

/** Takes no connections; may open any. */
const ISOLATED = {
  apiVersion: 'networking.k8s.io/v1',
  kind: 'NetworkPolicy',
  metadata: { namespace: 'test', name: 'no-ingress' },
  spec: { podSelector: { matchLabels: { name: 'pod-3-10' } }, policyTypes: ['Ingress'] },
};

export interface KilledReport {
  kills: number;
  /** Daemons that were killed before they were ready. */
  early: number;
  /** From the start of a process to its word that it is ready, milliseconds. */
  readyMs: number[];
  outbound: Ends;
  inbound: Ends;
  node: Ends;
  denied: Ends;
  stream: StreamReport;
  link: PacedReport;
}

interface Ends {
  sent: number;
  arrived: number;
  duplicates: number;
  longestGapMs: number;
  /** Packets on their way that the kernel dropped because a queue was full. */
  overflow: number;
}

/** A steady flow of datagrams between two hosts. */
export class Flow {
  readonly #sender: Paced;
  readonly #listener: Paced;
  readonly #way: Way;
  readonly #overflow: number;

  private constructor(sender: Paced, listener: Paced, way: Way) {
    this.#sender = sender;
    this.#listener = listener;
    this.#way = way;
    this.#overflow = overflowOn(way);
  }

  static async start(
    way: Way, address: string, port: number, perSecond = PER_SECOND,
  ): Promise<Flow> {
    const listener = await Paced.listener(way.to, address, port);
    return new Flow(await Paced.sender(way.from, address, port, perSecond), listener, way);
  }

  stop(): Promise<PacedReport> {
    return this.#sender.stop();
  }

  async report(): Promise<Ends> {
    const { sent } = await this.#sender.report();
    const { arrived, duplicates, longestGapMs } = await this.#listener.report();
    const overflow = overflowOn(this.#way) - this.#overflow;
    return { sent, arrived, duplicates, longestGapMs, overflow };
  }

  async close(): Promise<void> {
    await this.#sender.close();
    await this.#listener.close();
  }
}

export class KilledScene {
  readonly bed: Bed;
  readonly place: Place;
  readonly other: Place;
  readonly pods: { own: Pod; open: Pod; remote: Pod; denied: Pod };

  private constructor(bed: Bed, place: Place, other: Place, pods: KilledScene['pods']) {
    this.bed = bed;
    this.place = place;
    this.other = other;
    this.pods = pods;
  }

  static async make(bed: Bed, flags: string[] = AWAY_FLAGS): Promise<KilledScene> {
    const other = await Place.add(bed, 2, NODES);
    const place = await Place.add(bed, 3, NODES, flags);
    place.write(NODES.map(clusterNode), [ISOLATED]);
    await other.culvert.start();
    await place.culvert.start();
    const pods = {
      own: await place.addPod(10), open: await place.addPod(11),
      remote: await other.addPod(10), denied: await other.addPod(11),
    };
    await mustReach(pods.own.host, pods.remote.addresses);
    await mustReach(pods.remote.host, pods.open.addresses);
    return new KilledScene(bed, place, other, pods);
  }

  /** Kills and starts the daemon so many times while packets flow, and gives the account. Some are
   * killed before they are ready where `isHasty` is set. */
  async run(kills: number, random: Random, isHasty = false): Promise<KilledReport> {
    const { own, remote } = this.pods;
    const link = await Paced.watch(this.bed.hub, this.place.culvert.node.port);
    const stream = await Stream.start(own.host, remote.host, podAddress(2, 10, 'IPv4'));
    const flows = await this.#startFlows();
    await stream.goesOn();
    const { readyMs, early } = await this.#killAndStart(kills, random, isHasty);
    await stream.goesOn();
    for (const flow of Object.values(flows)) await flow.stop();
    await new Promise((resolve) => setTimeout(resolve, SETTLE_MS));
    const report = {
      kills, early, readyMs,
      outbound: await flows.outbound.report(), inbound: await flows.inbound.report(),
      node: await flows.node.report(), denied: await flows.denied.report(),
      stream: await stream.stop(), link: await link.stop(),
    };
    for (const flow of Object.values(flows)) await flow.close();
    await link.close();
    return report;
  }

  async #startFlows() {
    const { own, open, remote, denied } = this.pods;
    const [here, there] = [this.place.host, this.other.host];
    const toRemote = { from: open.host, device: 'eth0', through: there, to: remote.host };
    const toOpen = { from: remote.host, device: 'eth0', through: here, to: open.host };
    const fromNode = { from: here, device: 'culvert0', through: there, to: denied.host };
    const toOwn = { from: denied.host, device: 'eth0', through: here, to: own.host };
    return {
      outbound: await Flow.start(toRemote, podAddress(2, 10, 'IPv4'), OUT_PORT),
      inbound: await Flow.start(toOpen, podAddress(3, 11, 'IPv6'), IN_PORT),
      node: await Flow.start(fromNode, podAddress(2, 11, 'IPv4'), NODE_PORT),
      denied: await Flow.start(
        toOwn, podAddress(3, 10, 'IPv4'), DENIED_PORT, DENIED_PER_SECOND),
    };
  }

  async #killAndStart(
    kills: number, random: Random, isHasty: boolean,
  ): Promise<Pick<KilledReport, 'readyMs' | 'early'>> {
    const { culvert } = this.place;
    const readyMs: number[] = [];
    let early = 0;
    for (let done = 0; done < kills; done += 1) {
      await kill(this.place.daemon, 'SIGKILL');
      const startMs = performance.now();
      const mayBeEarly = isHasty && done < kills - 1;
      const lifeMs = mayBeEarly ? random.below(EARLY_LIMIT_MS) : Infinity;
      const started = culvert.startDaemon().then(() => true, () => false);
      if (await Promise.race([started, elapsed(lifeMs)]) === true) {
        readyMs.push(performance.now() - startMs);
        await elapsed(random.below(LIFE_LIMIT_MS));
      } else {
        early += 1;
        if (this.bed.newest !== null) await kill(this.bed.newest, 'SIGKILL');
        await started;
      }
    }
    return { readyMs, early };
  }
}

/** Milliseconds later: false. Never, for Infinity. */
function elapsed(ms: number): Promise<boolean> {
  return new Promise((resolve) => {
    if (ms !== Infinity) setTimeout(() => resolve(false), ms);
  });
}

/** One line about a flow. */
export function describeEnds(
  name: string, { sent, arrived, duplicates, longestGapMs, overflow }: Ends,
): string {
  return `${name}: ${sent} sent, ${sent - arrived} lost (${overflow} to full queues), `
    + `${duplicates} twice, longest silence ${longestGapMs.toFixed(0)} ms`;
}

/** Prints the account. */
export function printKilled(report: KilledReport): void {
  const { kills, early, stream, link } = report;
  const at = (share: number): string => quantile(report.readyMs, share).toFixed(0);
  console.log([
    `${kills} kills, ${early} of them before it was ready; ready after ${at(0)} to ${at(1)} ms, `
      + `median ${at(0.5)} ms`,
    describeEnds('pod to pod', report.outbound),
    describeEnds('back to a pod', report.inbound),
    describeEnds('node to pod', report.node),
    `denied: ${report.denied.sent} sent, ${report.denied.arrived} arrived`,
    `connection: ${stream.records} records, ${stream.returned} came back, fault "${stream.fault}"`,
    `link: ${link.frames} frames, ${link.strays} of pods outside a tunnel ${link.sample}`,
  ].join('\n'));
}

function quantile(values: number[], share: number): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.min(Math.floor(sorted.length * share), sorted.length - 1)] ?? 0;
}

/** Throws unless nothing went astray and no more was lost than the queues could not hold. */
export function checkKilled(report: KilledReport): void {
  const { stream, link, denied } = report;
  assert.is(link.strays, 0, link.sample);
  assert.ok(link.frames > report.outbound.arrived, 'the watch saw the link');
  assert.is(denied.arrived, 0);
  assert.is(stream.fault, '');
  assert.is(stream.returned, stream.records);
  // What the queues held is not lost, nor what the daemon had in its hands: but for a train that
  // the kernel had joined, and what a daemon had that was killed before it went on with it.
  for (const { sent, arrived, overflow } of [report.outbound, report.inbound, report.node]) {
    const limit = overflow + ((report.early + 1) * PROFILES.small.slots);
    assert.ok(sent - arrived <= limit, `${sent - arrived} lost`);
  }
  // Nor is a queue full before its time, whatever made the silence long.
  for (const { overflow, longestGapMs } of [report.outbound, report.node]) {
    if (longestGapMs < QUEUE_MS) assert.is(overflow, 0, `full after ${longestGapMs} ms`);
  }
}

/** Throws unless the quickest of the daemons was ready soon, as the machine is now. It takes many,
 * where other work is done beside, to have a quick one. */
export function checkReady({ readyMs }: KilledReport): void {
  const bareMs = Math.min(...Array.from({ length: READY_ROUNDS }, () => {
    const startMs = performance.now();
    assert.is(spawnSync(process.execPath, [CLI, '--version']).status, 0);
    return performance.now() - startMs;
  }));
  const ratio = quantile(readyMs, 0) / bareMs;
  console.log(`a command that does nothing: ${bareMs.toFixed(0)} ms`);
  assert.ok(ratio <= READY_RATIO, `ready after ${ratio.toFixed(1)} times that`);
}

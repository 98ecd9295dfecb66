// A module that is replaced again and again by another version of itself, under load: one TCP
// stream as fast as it goes (iperf3), datagrams at a steady rate, and new connections all the time.
// Both versions turn one port away and let the others pass, but for one port each, by which it is
// seen that the version in force is the one that was added last.

import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import * as assert from 'uvu/assert';
import type { Host } from '../../../cli/demo/bed.ts';
import { makeGuest } from '../../support/guest.ts';
import { Knocks, type KnocksReport } from './knocks.ts';
import { ModuleScene, REMOTE } from './module-scene.ts';
import { Paced } from './paced.ts';
import { overflowOn } from './queue-drops.ts';
import { PATIENCE_MS } from '../../support/until.ts';

const OPEN = 7200;
const SHUT = 7100;
/** Turned away by one version each. */
const OWN = [7301, 7302] as const;
const CONNECTIONS_PER_SECOND = 100;
const DATAGRAMS_PER_SECOND = 500;
const DATAGRAM_PORT = 9800;
const IPERF_LIMIT_S = 3600;
/** So many seconds without a byte are more than seven losses of TCP in a row. */
const STALL_S = 25;
const SETTLE_MS = 500;
/** After so many swaps the version in force is looked at. */
const LOOK_EVERY = 10;

export interface SwapReport {
  swaps: number;
  elapsedMs: number;
  swapMs: number[];
  knocks: KnocksReport;
  sent: number;
  arrived: number;
  /** Datagrams, and packets of the stream, that found a queue of the kernel full. */
  overflow: number;
  duplicates: number;
  longestGapMs: number;
  /** Megabits a second of the TCP stream, second by second. */
  rates: number[];
}

/** A version of the module that answers `reject` to SHUT and to its own port. */
function version(own: number, number: string): Promise<Uint8Array> {
  const is = (port: number): string => `(i32.eq (local.get $dstPort) (i32.const ${port}))`;
  const evaluate = `(select (i32.const 3) (i32.const 0) (i32.or ${is(SHUT)} ${is(own)}))`;
  return makeGuest({ name: 'swapped', version: number, evaluate });
}

/** iperf3 from one pod to another; it goes on until it is ended. */
class Load {
  readonly #server: ChildProcess;
  readonly #client: ChildProcess;
  #text = '';
  #fault = '';

  private constructor(server: ChildProcess, client: ChildProcess) {
    this.#server = server;
    this.#client = client;
    client.stdout?.on('data', (chunk: Buffer) => { this.#text += chunk.toString(); });
    client.stderr?.on('data', (chunk: Buffer) => { this.#fault += chunk.toString(); });
  }

  static async start(iperf3: string, from: Host, to: Host): Promise<Load> {
    const run = (host: Host, words: string[]): ChildProcess => host.namespace.run(() =>
      spawn(iperf3, words, { stdio: ['ignore', 'pipe', 'pipe'] }));
    const server = run(to, ['-s', '--forceflush']);
    await once(server.stdout ?? server, 'data');
    const words = ['-c', REMOTE, '-t', `${IPERF_LIMIT_S}`, '-i', '1', '-f', 'm', '--forceflush'];
    return new Load(server, run(from, words));
  }

  /** Ends it. Megabits of each second; throws where the connection did not last. */
  async stop(): Promise<number[]> {
    const ended = this.#client.exitCode !== null;
    this.#client.kill('SIGINT');
    this.#server.kill('SIGINT');
    if (!ended) await once(this.#client, 'exit');
    assert.not.ok(ended, `iperf3 ended early: ${this.#fault}`);
    // Lines about seconds; those about all of it name an end.
    const lines = this.#text.split('\n').filter((line) => !/sender|receiver/.test(line));
    return lines.flatMap((line) => {
      const rate = /([\d.]+) Mbits\/sec/.exec(line)?.[1];
      return rate === undefined ? [] : [Number(rate)];
    });
  }
}

/** Swaps so many times. `flags` are of the daemon with the module. */
export async function swapUnderLoad(iperf3: string, swaps: number, flags: string[] = [])
  : Promise<SwapReport> {
  const versions = [await version(OWN[0], '1.0.0'), await version(OWN[1], '2.0.0')] as const;
  const scene = await ModuleScene.make(flags);
  const [near, far] = [new Knocks(scene.first), new Knocks(scene.remote)];
  try {
    await far.listen([OPEN, SHUT, ...OWN]);
    await scene.add(versions[0]);
    const load = await Load.start(iperf3, scene.second, scene.remote);
    const { first, remote } = scene;
    const way = { from: first, device: 'eth0', through: scene.two.host, to: remote };
    const before = overflowOn(way);
    const listener = await Paced.listener(scene.remote, REMOTE, DATAGRAM_PORT);
    const sender = await Paced.sender(scene.first, REMOTE, DATAGRAM_PORT, DATAGRAMS_PER_SECOND);
    await near.knock(REMOTE, OPEN, SHUT, CONNECTIONS_PER_SECOND);
    const swapMs: number[] = [];
    const startMs = performance.now();
    for (let swap = 1; swap <= swaps; swap += 1) {
      const fromMs = performance.now();
      await scene.add(versions[swap % 2] ?? versions[0]);
      swapMs.push(performance.now() - fromMs);
      if (swap % LOOK_EVERY === 0 || swap === swaps) await look(near, swap % 2);
    }
    const elapsedMs = performance.now() - startMs;
    await new Promise((resolve) => setTimeout(resolve, SETTLE_MS));
    const knocks = await near.stop();
    const { sent } = await sender.stop();
    const { arrived, duplicates, longestGapMs } = await listener.settled(sent);
    const overflow = overflowOn(way) - before;
    const rates = await load.stop();
    await Promise.all([sender.close(), listener.close()]);
    return {
      swaps, elapsedMs, swapMs, knocks, sent, arrived, overflow, duplicates, longestGapMs, rates,
    };
  } finally {
    await Promise.all([near.close(), far.close()]);
    await scene.close();
  }
}

/** The version that was added last decides, and no other. */
async function look(near: Knocks, last: number): Promise<void> {
  const found = await Promise.all(OWN.map((port) => near.try(REMOTE, port, PATIENCE_MS)));
  const wanted = OWN.map((_, index) => (index === last ? 'refused' : 'open'));
  assert.equal(found, wanted, 'the version in force');
}

/** Most seconds in a row in which nothing came. */
function longestStall(rates: number[]): number {
  let [longest, now] = [0, 0];
  for (const rate of rates) {
    now = rate > 0 ? 0 : now + 1;
    longest = Math.max(longest, now);
  }
  return longest;
}

/** What every such run must come to. */
export function checkSwaps(report: SwapReport): void {
  const { knocks, swaps, swapMs, elapsedMs, sent, arrived, overflow, rates, longestGapMs } = report;
  const median = [...swapMs].sort((a, b) => a - b)[Math.floor(swapMs.length / 2)] ?? 0;
  const sum = rates.reduce((total, rate) => total + rate, 0);
  console.log(`${swaps} swaps in ${(elapsedMs / 1000).toFixed(1)} s (median `
    + `${median.toFixed(1)} ms): ${knocks.open} connections let in, ${knocks.refused} turned away, `
    + `${knocks.wrong.length} wrong; ${sent - arrived} of ${sent} datagrams lost, ${overflow} `
    + `packets to full queues, longest gap ${longestGapMs.toFixed(1)} ms; iperf3 `
    + `${(sum / Math.max(rates.length, 1)).toFixed(0)} Mbit/s, `
    + `least ${Math.min(...rates).toFixed(0)}`);
  assert.equal(knocks.wrong, []);
  assert.ok(knocks.open > 0 && knocks.refused > 0);
  assert.is(report.duplicates, 0);
  assert.ok(sent - arrived <= overflow, 'no datagram is lost but to a full queue');
  assert.ok(sum > 0 && longestStall(rates) < STALL_S, rates.join(', '));
}

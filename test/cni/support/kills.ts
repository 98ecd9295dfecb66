// Pods that come and go while plugins, and now and then the daemon, are killed at random points.
//
// Four runtimes work side by side, each on pods of its own. After a plugin was killed during ADD,
// its runtime does one of the things that runtimes do: DEL, ADD once more, or nothing, which is
// left to GC. What they were promised must hold all the time: no address twice, a working CHECK.

import * as assert from 'uvu/assert';
import { readFileSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { askAll } from '../../../cli/client.ts';
import { Bed, type Host } from '../../../cli/demo/bed.ts';
import { FrameReader } from '../../../engine/frame.ts';
import { AddressFileSchema, EndpointReportSchema } from '../../../engine/model.ts';
import { parseShape } from '../../../engine/shape.ts';
import { Random } from '../../support/random.ts';
import { Runtime, podArgs, type Answer, type CniResult, type Container } from './runtime.ts';

const RUNTIMES = 4;
const PODS_EACH = 3;
/** Longer than most calls take, so that kills meet all of a call. */
const KILL_WITHIN_MS = 200;
/** Cycles from one kill of the daemon to the next. */
const DAEMON_LIVES = 60;
/** Longer than a daemon takes to start on a machine that is busy with many tests: with nobody to
 * hold them, pods would lose their devices. */
const AWAY_SECONDS = '60';
const TRY_AGAIN = 11;
const ATTACHED = 100;
const RETRY_MS = 50;
/** Lines of the daemon's log that a failure shows. */
const LOG_LINES = 100;

export interface KillCounts {
  cycles: number;
  added: number;
  killedAdds: number;
  killedDels: number;
  daemonKills: number;
  /** ADDs that met an attachment whose plugin was killed after its last word. */
  metAttached: number;
}

/** Starts a node without a sidecar, runs so many cycles, and checks that nothing is left. */
export async function runKills(seed: number, cycles: number): Promise<KillCounts> {
  const bed = await Bed.create();
  try {
    const runtime = await Runtime.add(bed, [
      '--policy-unknown-pods', 'open', '--cni-pod-cidrs', '10.244.1.0/24,fd00:10:244:1::/64',
      '--handover-away-seconds', AWAY_SECONDS,
    ]);
    await runtime.culvert.startDaemon();
    const storm = new Storm(bed, runtime, cycles);
    try {
      await storm.run(seed);
    } catch (error) {
      console.log(`seed ${seed}: ${JSON.stringify(storm.counts)}`);
      console.log(runtime.culvert.daemon?.log().split('\n').slice(-LOG_LINES).join('\n'));
      throw error;
    }
    return storm.counts;
  } finally {
    await bed.close();
  }
}

class Storm {
  readonly counts: KillCounts = {
    cycles: 0, added: 0, killedAdds: 0, killedDels: 0, daemonKills: 0, metAttached: 0,
  };
  readonly #bed: Bed;
  readonly #runtime: Runtime;
  readonly #limit: number;
  /** What runtimes have been promised, by container. */
  readonly #promised = new Map<string, CniResult>();
  #restart: Promise<void> = Promise.resolve();
  #lastContainer = 0;

  constructor(bed: Bed, runtime: Runtime, limit: number) {
    this.#bed = bed;
    this.#runtime = runtime;
    this.#limit = limit;
  }

  async run(seed: number): Promise<void> {
    await Promise.all(
      Array.from({ length: RUNTIMES }, (_, index) => this.#work(index, seed)));
    await this.#restart;
    await this.#collect();
    assert.equal(await this.#attached(), this.#promised.size, 'GC leaves what was promised');
    for (const id of [...this.#promised.keys()]) {
      const { status } = await this.#runtime.call('DEL', this.#containerOf(id, ''));
      assert.is(status, 0);
    }
    assert.is(await this.#attached(), 0);
    assert.equal(this.#heldAddresses(), []);
    const links = await this.#runtime.node.host.links.list();
    assert.equal(links.map(({ name }) => name).filter((name) => name.startsWith('culvpod')), []);
  }

  async #work(index: number, seed: number): Promise<void> {
    const random = new Random((seed * RUNTIMES) + index);
    const hosts = Array.from({ length: PODS_EACH }, (_, at) =>
      this.#bed.addHost(`pod-${index}-${at}`));
    const running = new Map<Host, Container>();
    while (this.counts.cycles < this.#limit) {
      this.counts.cycles += 1;
      if (this.counts.cycles % DAEMON_LIVES === 0) this.#killDaemon();
      const host = random.pick(hosts);
      const pod = running.get(host);
      if (pod !== undefined) {
        if (random.oneIn(4)) await this.#check(pod);
        await this.#remove(pod, random);
        running.delete(host);
      }
      const added = await this.#add(host, random);
      if (added !== null) running.set(host, added);
    }
  }

  #containerOf(id: string, netns: string, name = id): Container {
    return { id, interfaceName: 'eth0', netns, args: podArgs(name) };
  }

  /** Attaches a new container of the host's pod. Null where the runtime gave up after a kill. */
  async #add(host: Host, random: Random): Promise<Container | null> {
    this.#lastContainer += 1;
    const id = `c${this.#lastContainer}`;
    const container = this.#containerOf(id, host.namespace.path, host.name);
    const killAfterMs = random.below(KILL_WITHIN_MS);
    const first = await this.#runtime.call('ADD', container,
      random.oneIn(2) ? {} : { killAfterMs });
    if (first.status === 0) return this.#promise(container, first);
    if (first.status === null) this.counts.killedAdds += 1;
    const next = random.below(3);
    if (next === 0) return null;
    if (next === 1) {
      await this.#remove(container, random);
      return null;
    }
    return this.#addAgain(container, random);
  }

  async #addAgain(container: Container, random: Random): Promise<Container | null> {
    for (;;) {
      const answer = await this.#runtime.call('ADD', container);
      if (answer.status === 0) return this.#promise(container, answer);
      if (answer.result.code === ATTACHED) {
        this.counts.metAttached += 1;
        await this.#remove(container, random);
        continue;
      }
      assert.is(answer.result.code, TRY_AGAIN, JSON.stringify(answer.result));
      await pause(RETRY_MS);
    }
  }

  #promise(container: Container, { result }: Answer): Container {
    this.counts.added += 1;
    const given = new Set((result.ips ?? []).map(({ address }) => address));
    assert.is(given.size, 2, JSON.stringify(result));
    for (const [id, other] of this.#promised) {
      const taken = other.ips?.find(({ address }) => given.has(address));
      assert.is(taken, undefined, `${taken?.address} is of ${id} and ${container.id}`);
    }
    this.#promised.set(container.id, result);
    return container;
  }

  /** A promised pod is as it was promised; while the daemon is down nobody can tell. */
  async #check(pod: Container): Promise<void> {
    const prevResult = this.#promised.get(pod.id);
    const { result } = await this.#runtime.call('CHECK', pod, { config: { prevResult } });
    const isKnown = result.code === undefined || result.code === TRY_AGAIN;
    assert.ok(isKnown, `CHECK ${pod.id}: ${JSON.stringify(result)}`);
  }

  /** Repeats DEL until nobody kills it; then it must succeed. */
  async #remove(pod: Container, random: Random): Promise<void> {
    this.#promised.delete(pod.id);
    for (;;) {
      const killAfterMs = random.below(KILL_WITHIN_MS);
      const call = random.oneIn(3) ? { killAfterMs } : {};
      const { status, result } = await this.#runtime.call('DEL', pod, call);
      if (status === 0) return;
      assert.is(status, null, `DEL ${pod.id}: ${JSON.stringify(result)}`);
      this.counts.killedDels += 1;
    }
  }

  #killDaemon(): void {
    this.counts.daemonKills += 1;
    this.#restart = this.#restart.then(async () => {
      const { culvert } = this.#runtime;
      const child = culvert.daemon?.process;
      const ended = new Promise((resolve) => child?.once('exit', resolve));
      child?.kill('SIGKILL');
      await ended;
      await culvert.startDaemon();
    });
    this.#restart.catch(() => {});
  }

  async #collect(): Promise<void> {
    const valid = [...this.#promised.keys()].map((id) => ({ containerID: id, ifname: 'eth0' }));
    const { status, result } = await this.#runtime.call('GC', null,
      { config: { 'cni.dev/valid-attachments': valid } });
    assert.is(status, 0, JSON.stringify(result));
  }

  async #attached(): Promise<number> {
    const endpoints = await askAll(
      this.#runtime.culvert.runtimeDirectory, 'endpoint.list', EndpointReportSchema);
    return endpoints.length;
  }

  /** Names of files whose addresses somebody has. */
  #heldAddresses(): string[] {
    const folder = join(this.#runtime.culvert.runtimeDirectory, 'addresses');
    return readdirSync(folder).filter((name) => {
      const [value] = new FrameReader().push(readFileSync(join(folder, name)));
      return parseShape(AddressFileSchema, value, name).attachment !== null;
    });
  }
}

function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

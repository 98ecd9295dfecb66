// What a soak looks at every few seconds: memory, descriptors, flows, drops of both nodes, and the
// latency of pings since the last look.

import * as v from 'valibot';
import type { Daemon } from '../../cli/demo/bed.ts';
import { askAll } from '../../cli/client.ts';
import type { StatusReport } from '../../engine/model.ts';
import { descriptorCount, residentKib, type Place } from '../netns/support/forge-scene.ts';
import type { Ping } from './probes.ts';
import type { SoakScene } from './scene.ts';

const HEAP = /^nodejs_heap_size_used_bytes (\S+)$/;
const DIRECTIONS = ['outbound', 'inbound'] as const;

/** By process or node: `killed daemon`, `lasting sidecar`, `killed` and so on. */
export type Figures = Record<string, number>;

export interface Sample {
  seconds: number;
  residentBytes: Figures;
  heapBytes: Figures;
  descriptors: Figures;
  flows: Figures;
  /** Since the soak began, of both nodes, by direction and reason. */
  drops: Figures;
  pings: number;
  pingMs: Percentiles;
  /** Of what Culvert has no part in. */
  controlMs: Percentiles;
}

interface Percentiles {
  median: number;
  p95: number;
  p99: number;
}

export function percentiles(values: readonly number[]): Percentiles {
  const sorted = [...values].sort((a, b) => a - b);
  const at = (share: number): number =>
    sorted[Math.min(Math.floor(sorted.length * share), sorted.length - 1)] ?? 0;
  return { median: at(0.5), p95: at(0.95), p99: at(0.99) };
}

/** Adds up the drops of daemons, each of which begins at zero. */
export class DropTotals {
  readonly #totals: Figures = {};
  readonly #last = new Map<string, number>();
  readonly #started = new Map<string, number>();

  /** Takes note of a node's drops. `process` tells its daemons apart. */
  note(node: string, process: number, drops: StatusReport['drops']): void {
    if (this.#started.get(node) !== process) {
      for (const key of this.#last.keys()) if (key.startsWith(`${node} `)) this.#last.delete(key);
      this.#started.set(node, process);
    }
    for (const direction of DIRECTIONS) {
      for (const [reason, count] of Object.entries(drops[direction])) {
        const key = `${node} ${direction}.${reason}`;
        const more = count - (this.#last.get(key) ?? 0);
        this.#last.set(key, count);
        const name = `${direction}.${reason}`;
        if (more > 0) this.#totals[name] = (this.#totals[name] ?? 0) + more;
      }
    }
  }

  totals(): Figures {
    return { ...this.#totals };
  }
}

export class Sampler {
  readonly samples: Sample[] = [];
  readonly #scene: SoakScene;
  readonly #pings: readonly Ping[];
  readonly #drops = new DropTotals();
  readonly #startMs = performance.now();
  #pingsSeen = 0;

  constructor(scene: SoakScene, pings: readonly Ping[]) {
    this.#scene = scene;
    this.#pings = pings;
  }

  seconds(): number {
    return (performance.now() - this.#startMs) / 1000;
  }

  /** Reads everything once. */
  async sample(): Promise<Sample> {
    const { killed, lasting } = this.#scene;
    const sample: Sample = {
      seconds: this.seconds(), residentBytes: {}, heapBytes: {}, descriptors: {}, flows: {},
      drops: {}, pings: 0, pingMs: percentiles([]), controlMs: percentiles([]),
    };
    await this.#readPlace('killed', killed, sample);
    await this.#readPlace('lasting', lasting, sample);
    sample.drops = this.#drops.totals();
    const calm = this.#pings.slice(this.#pingsSeen).filter(({ isDisturbed }) => !isDisturbed);
    this.#pingsSeen = this.#pings.length;
    sample.pings = calm.length;
    sample.pingMs = percentiles(calm.map(({ ms }) => ms));
    sample.controlMs = percentiles(calm.map(({ controlMs }) => controlMs));
    this.samples.push(sample);
    return sample;
  }

  /** Takes note of a daemon's drops, which go with it. */
  async noteDrops(name: string, { culvert, daemon }: Place): Promise<StatusReport> {
    const status = await culvert.status();
    this.#drops.note(name, daemon.process.pid ?? 0, status.drops);
    return status;
  }

  async #readPlace(name: string, place: Place, sample: Sample): Promise<void> {
    const { tables } = await this.noteDrops(name, place);
    const metrics = await askAll(place.culvert.runtimeDirectory, 'metrics', v.string());
    const heap = metrics.map((line) => HEAP.exec(line)?.[1]).find((text) => text !== undefined);
    sample.heapBytes[`${name} daemon`] = Number(heap);
    sample.flows[name] = tables.find((table) => table.name === 'flows')?.used ?? 0;
    for (const [part, process] of [['daemon', place.daemon], ['sidecar', place.sidecar]] as const) {
      sample.residentBytes[`${name} ${part}`] = residentBytes(process);
      sample.descriptors[`${name} ${part}`] = descriptorCount(process);
    }
  }
}

/** Throws for a process that has just ended: it has no memory, and its sample none that counts. */
function residentBytes(daemon: Daemon): number {
  const kib = residentKib(daemon);
  if (!(kib > 0)) throw new Error(`process ${daemon.process.pid} has ended`);
  return kib * 1024;
}

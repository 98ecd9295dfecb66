// A soak: traffic and change for a long time, looked at all the while, and judged at the end.
//
// A cycle of actions is the unit: the first ones are the warm-up, and descriptors are counted at
// its end and at the end of all, so that both counts see the same state.

import { appendFileSync, mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { PROFILES } from '../../engine/memory-map.ts';
import { openBed, settledDescriptors } from '../netns/support/forge-scene.ts';
import { soakActions, type Action } from './actions.ts';
import { soakPlot } from './plot.ts';
import { Probes } from './probes.ts';
import { Sampler, type Figures } from './samples.ts';
import { SoakScene, type Keeper } from './scene.ts';
import { judgeDescriptors, judgeLatency, judgeSamples, type Check } from './verdict.ts';

export interface SoakOptions {
  minutes: number;
  keeper: Keeper;
  /** Where samples, plot and verdict go. */
  folder: string;
  print(line: string): void;
}

const SAMPLE_PAUSE_MS = 5000;
const ACTION_PAUSE_MS = 3000;
/** Until then code is compiled and heaps find their size. */
const WARM_UP_SHARE = 0.25;
const WARM_UP_LIMIT_SECONDS = 300;
const REPORT_SECONDS = 30;

class Soak {
  readonly #options: SoakOptions;
  readonly #scene: SoakScene;
  readonly #probes: Probes;
  readonly #sampler: Sampler;
  readonly #actions: Action[];
  readonly #ends: number[] = [];
  #judgedFrom = Infinity;
  #reportedSeconds = 0;
  #isOver = false;

  constructor(options: SoakOptions, scene: SoakScene) {
    this.#options = options;
    this.#scene = scene;
    this.#probes = new Probes(scene);
    this.#sampler = new Sampler(scene, this.#probes.pings);
    this.#actions = soakActions(scene, this.#probes, async () => {
      await this.#sampler.noteDrops('killed', scene.killed);
      this.#ends.push(this.#sampler.seconds());
    });
  }

  /** Runs to the end and judges. */
  async run(): Promise<Check[]> {
    const seconds = this.#options.minutes * 60;
    await this.#scene.startTraffic();
    this.#probes.start();
    const sampling = this.#sampleOn();
    await this.#cyclesUntil(Math.min(seconds * WARM_UP_SHARE, WARM_UP_LIMIT_SECONDS));
    this.#judgedFrom = this.#sampler.seconds();
    const fromMs = performance.now();
    const first = await this.#descriptors();
    await this.#cyclesUntil(seconds);
    const last = await this.#descriptors();
    this.#isOver = true;
    await sampling;
    await this.#probes.stop();
    writeFileSync(join(this.#options.folder, 'pings.json'), JSON.stringify(this.#probes.pings));
    const checks = [
      ...judgeSamples(this.#sampler.samples.filter((sample) => sample.seconds > this.#judgedFrom)),
      ...judgeLatency(this.#probes.pings.filter(({ atMs }) => atMs > fromMs)),
      ...judgeDescriptors(first, last), ...await this.#judgeTraffic(),
    ];
    this.#draw();
    return checks;
  }

  async #cyclesUntil(seconds: number): Promise<void> {
    do {
      for (const { name, run } of this.#actions) {
        await run().catch((error: Error) => this.#probes.blame(`${name}: ${error.message}`));
        await new Promise((resolve) => setTimeout(resolve, ACTION_PAUSE_MS));
      }
    } while (this.#sampler.seconds() < seconds);
  }

  async #sampleOn(): Promise<void> {
    while (!this.#isOver) {
      // A daemon that is just being killed does not answer; the next sample is soon.
      await this.#sample().catch(() => {});
      await new Promise((resolve) => setTimeout(resolve, SAMPLE_PAUSE_MS));
    }
  }

  async #sample(): Promise<void> {
    const sample = await this.#sampler.sample();
    appendFileSync(join(this.#options.folder, 'samples.jsonl'), `${JSON.stringify(sample)}\n`);
    if (sample.seconds < this.#reportedSeconds + REPORT_SECONDS) return;
    this.#reportedSeconds = sample.seconds;
    this.#draw();
    const resident = Object.entries(sample.residentBytes)
      .map(([name, bytes]) => `${name} ${Math.round(bytes / 2 ** 20)}`).join(', ');
    const { median, p95 } = sample.pingMs;
    this.#options.print(`${Math.round(sample.seconds)} s: MiB ${resident}; `
      + `ping ${median.toFixed(2)} ms, p95 ${p95.toFixed(2)}; `
      + `flows ${Object.values(sample.flows).join('+')}; `
      + `${this.#ends.length} ends, ${this.#probes.faults.length} faults`);
  }

  #draw(): void {
    const svg = soakPlot(this.#sampler.samples, this.#ends, this.#judgedFrom);
    writeFileSync(join(this.#options.folder, 'soak.svg'), svg);
  }

  async #descriptors(): Promise<Figures> {
    const { killed, lasting } = this.#scene;
    return {
      'killed daemon': await settledDescriptors(killed.daemon),
      'killed sidecar': await settledDescriptors(killed.sidecar),
      'lasting daemon': await settledDescriptors(lasting.daemon),
      'lasting sidecar': await settledDescriptors(lasting.sidecar),
    };
  }

  async #judgeTraffic(): Promise<Check[]> {
    const { streams, flows } = await this.#scene.stopTraffic();
    const { counts, faults } = this.#probes;
    const spare = this.#ends.length * PROFILES.small.slots;
    return [
      ...streams.map(({ records, returned, fault }, index): Check => ({
        name: `connection ${index + 1}`, isSound: fault === '' && records === returned,
        detail: `${records} records, ${returned} came back in order${fault && `, ${fault}`}`,
      })),
      ...flows.map(([name, { sent, arrived, overflow }]): Check => ({
        name: `datagrams, ${name}`,
        isSound: name === 'denied' ? arrived === 0 : sent - arrived <= overflow + spare,
        detail: `${sent} sent, ${arrived} arrived, ${overflow} found a queue full`,
      })),
      {
        name: 'probes', isSound: faults.length === 0,
        detail: `${counts.pings} pings, ${counts.flows} short flows, ${counts.uploads} uploads, `
          + `${counts.lostInDisturbance} without an answer in ${this.#ends.length} ends`
          + faults.map((fault) => `; ${fault}`).join(''),
      },
    ];
  }
}

/** Runs a soak. Returns what was judged; the folder has plot, samples and verdict. */
export async function soak(options: SoakOptions): Promise<Check[]> {
  mkdirSync(options.folder, { recursive: true });
  writeFileSync(join(options.folder, 'samples.jsonl'), '');
  const scene = await SoakScene.make(await openBed(), options.keeper);
  try {
    const checks = await new Soak(options, scene).run();
    const lines = checks.map(({ name, isSound, detail }) =>
      `${isSound ? 'sound' : 'FAULT'}  ${name}: ${detail}`);
    writeFileSync(join(options.folder, 'verdict.txt'), `${lines.join('\n')}\n`);
    for (const line of lines) options.print(line);
    return checks;
  } finally {
    await scene.close();
  }
}

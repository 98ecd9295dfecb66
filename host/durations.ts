// How long something took, each time: a histogram as Prometheus has it, whose buckets each count
// what took no longer than their limit.

import type { Metric, Sample } from '../engine/exposition.ts';

/** Seconds; what takes longer is in the bucket without a limit. */
const LIMITS = [0.001, 0.005, 0.025, 0.1, 0.5, 2.5, 10];

export class Durations {
  readonly #counts = new Array<number>(LIMITS.length).fill(0);
  #count = 0;
  #sum = 0;

  /** Takes note of one that began at `startMs` of performance.now() and is over. */
  note(startMs: number): void {
    const seconds = (performance.now() - startMs) / 1000;
    this.#count += 1;
    this.#sum += seconds;
    for (const [at, limit] of LIMITS.entries()) {
      if (seconds <= limit) this.#counts[at] = (this.#counts[at] ?? 0) + 1;
    }
  }

  metric(name: string, help: string): Metric {
    const bucket = (le: string, value: number): Sample =>
      ({ suffix: '_bucket', labels: { le }, value });
    return {
      name, help, type: 'histogram', samples: [
        ...LIMITS.map((limit, at) => bucket(String(limit), this.#counts[at] ?? 0)),
        bucket('+Inf', this.#count),
        { suffix: '_sum', value: this.#sum }, { suffix: '_count', value: this.#count },
      ],
    };
  }
}

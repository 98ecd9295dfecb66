// Sums over things that come and go, as peers do: a counter must not go back when one of them goes,
// or begins anew (https://prometheus.io/docs/concepts/metric_types/, counter).

import type { Traffic } from '../engine/counters.ts';

interface Seen {
  group: string;
  last: Traffic;
}

/** Nothing yet. */
function none(): Traffic {
  return { rxPackets: 0, rxBytes: 0, txPackets: 0, txBytes: 0 };
}

export class Totals {
  /** What those have carried that are no more, by group. */
  readonly #past = new Map<string, Traffic>();
  readonly #seen = new Map<string, Seen>();
  #noted = new Set<string>();

  /** Takes note of how far one of a group is now. What it carried after the last time, before it
   * went, is not known. */
  note(key: string, group: string, now: Traffic): void {
    const before = this.#seen.get(key);
    if (before !== undefined && isBack(now, before.last)) this.#retire(before);
    const { rxPackets, rxBytes, txPackets, txBytes } = now;
    this.#seen.set(key, { group, last: { rxPackets, rxBytes, txPackets, txBytes } });
    this.#noted.add(key);
  }

  /** The sums by group, once all that are there have been noted. */
  sums(): Map<string, Traffic> {
    for (const [key, seen] of this.#seen) {
      if (this.#noted.has(key)) continue;
      this.#retire(seen);
      this.#seen.delete(key);
    }
    this.#noted = new Set();
    const sums = new Map([...this.#past].map(([group, traffic]) => [group, { ...traffic }]));
    for (const { group, last } of this.#seen.values()) {
      const sum = sums.get(group) ?? none();
      add(sum, last);
      sums.set(group, sum);
    }
    return sums;
  }

  #retire({ group, last }: Seen): void {
    const past = this.#past.get(group) ?? none();
    add(past, last);
    this.#past.set(group, past);
  }
}

function add(sum: Traffic, more: Traffic): void {
  sum.rxPackets += more.rxPackets;
  sum.rxBytes += more.rxBytes;
  sum.txPackets += more.txPackets;
  sum.txBytes += more.txBytes;
}

function isBack(now: Traffic, last: Traffic): boolean {
  return now.rxPackets < last.rxPackets || now.txPackets < last.txPackets;
}

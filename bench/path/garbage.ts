// Garbage collections of a daemon, from the lines that `node --trace-gc` prints on its standard
// output: one for each pause, with the address of the isolate, which tells threads apart. The main
// thread's comes first, since it loads the program before it starts any worker.
//
//   [4711:0x5581e0]   34 ms: Scavenge 4.4 (6.0) -> 4.2 (7.0) MB, 0.62 / 0.00 ms  (average mu ...

const LINE = /^\[\d+:(0x[0-9a-f]+)\] +\d+ ms: .* -> .* MB, ([\d.]+) \/ [\d.]+ ms/;

/** Pauses of some threads while somebody watched. */
export interface Pauses {
  count: number;
  longestMs: number;
}

export class GarbageTrace {
  /** Pauses while watch() was on. */
  readonly main: Pauses = { count: 0, longestMs: 0 };
  readonly workers: Pauses = { count: 0, longestMs: 0 };
  #mainIsolate = '';
  #isWatching = false;
  #rest = '';

  /** Takes what the daemon printed. */
  read(text: string): void {
    const lines = `${this.#rest}${text}`.split('\n');
    this.#rest = lines.pop() ?? '';
    for (const line of lines) {
      const [, isolate, pause] = LINE.exec(line) ?? [];
      if (isolate === undefined) continue;
      if (this.#mainIsolate === '') this.#mainIsolate = isolate;
      if (!this.#isWatching) continue;
      const pauses = isolate === this.#mainIsolate ? this.main : this.workers;
      pauses.count += 1;
      pauses.longestMs = Math.max(pauses.longestMs, Number(pause));
    }
  }

  /** Counts from now on, or no longer. */
  watch(on: boolean): void {
    this.#isWatching = on;
  }
}

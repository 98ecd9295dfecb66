// Numbers for what travels. They count up; at the end they begin again with those that nothing
// uses, so that a number rests as long as it can before it means something else.

export class NumberPool {
  readonly #what: string;
  readonly #first: number;
  readonly #last: number;
  readonly #inUse: () => Set<number>;
  #next: number;
  /** What was in use when the count began again; null on the first way through. */
  #busy: Set<number> | null = null;

  /** `inUse` finds all numbers that still mean something. */
  constructor(what: string, first: number, last: number, inUse: () => Set<number>) {
    this.#what = what;
    this.#first = first;
    this.#last = last;
    this.#inUse = inUse;
    this.#next = first;
  }

  /** Throws where every number is in use. */
  take(): number {
    for (let round = 0; round < 2; round += 1) {
      while (this.#next <= this.#last) {
        const number = this.#next;
        this.#next += 1;
        if (this.#busy === null || !this.#busy.has(number)) return number;
      }
      this.#busy = this.#inUse();
      this.#next = this.#first;
    }
    throw new Error(`${this.#what}: full, all numbers up to ${this.#last} are in use`);
  }
}

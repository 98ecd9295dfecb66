// How long each part of a daemon's start takes: packets of pods wait for all of them together.

export class StartTimes {
  readonly #parts: string[] = [];
  #lastMs = 0;

  /** Notes that a part is over, which began when the one before it was, or with the process. */
  mark(part: string): void {
    const nowMs = performance.now();
    this.#parts.push(`${part} ${Math.round(nowMs - this.#lastMs)}`);
    this.#lastMs = nowMs;
  }

  /** All of it in a line. */
  describe(): string {
    return `ready in ${Math.round(this.#lastMs)} ms: ${this.#parts.join(', ')}`;
  }
}

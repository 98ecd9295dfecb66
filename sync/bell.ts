// One waiter, any number of callers: a ring is kept until somebody waits for it.

import { setTimeout as sleep } from 'node:timers/promises';

export class Bell {
  #rung = false;
  #wake: () => void = () => {};

  ring(): void {
    this.#rung = true;
    this.#wake();
  }

  /** Resolves to true after a ring, to false after the time, or at once when aborted. */
  async wait(signal: AbortSignal, timeoutMs = Infinity): Promise<boolean> {
    if (!this.#rung && !signal.aborted) await this.#ringOr(signal, timeoutMs);
    const rung = this.#rung;
    this.#rung = false;
    return rung;
  }

  #ringOr(signal: AbortSignal, timeoutMs: number): Promise<void> {
    return new Promise((resolve) => {
      const timer = timeoutMs === Infinity ? undefined : setTimeout(() => this.#wake(), timeoutMs);
      this.#wake = () => {
        clearTimeout(timer);
        signal.removeEventListener('abort', this.#wake);
        this.#wake = () => {};
        resolve();
      };
      signal.addEventListener('abort', this.#wake);
    });
  }
}

/** Waits, but no longer than until the signal aborts. */
export async function pause(timeMs: number, signal: AbortSignal): Promise<void> {
  await sleep(timeMs, undefined, { signal }).catch(() => {});
}

// Memory that a snapshot takes on its way through the process and that nobody needs afterwards: the
// collector would come for it when more is wanted, which on a quiet node is never. The sidecar has
// as much of it as the daemon, from reading the cluster.

import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';

/** How long after a snapshot; another one puts it off. */
const SETTLE_MS = 1000;

export class Heap {
  #timer: NodeJS.Timeout | null = null;
  #collect: (() => void) | null = null;

  /** Has the heap cleared soon. It takes a tenth of a second of the control side's time. */
  settleSoon(): void {
    if (this.#timer !== null) clearTimeout(this.#timer);
    this.#timer = setTimeout(() => {
      this.#timer = null;
      this.#collect ??= collector();
      // What the first time finds unused is given back to the kernel by the second.
      this.#collect();
      this.#collect();
    }, SETTLE_MS).unref();
  }

  close(): void {
    if (this.#timer !== null) clearTimeout(this.#timer);
  }
}

/** V8's own function, which a context has that was made after the flag was set. From then on the
 * heap grows in small steps: after a first snapshot changes are small. */
function collector(): () => void {
  setFlagsFromString('--optimize-for-size');
  setFlagsFromString('--expose-gc');
  const collect: unknown = runInNewContext('gc');
  return typeof collect === 'function' ? () => { collect(); } : () => {};
}

// Changes behind a snapshot in a file, of which those that later ones say again are not needed any
// more. A change of Services says everything about each of them, so that the last one counts.
// Without this, endpoints that come and go would make a file long in seconds, and a long file asks
// for a whole snapshot, which holds up what comes behind it.

/** What a change is about. */
export interface Subject {
  /** Services that it says everything about, or that are gone. */
  services: readonly string[];
  /** True where it says nothing else. */
  isAlone: boolean;
}

interface Item<T> {
  value: T;
  size: number;
  /** How many Services nobody has named since. */
  left: number;
  isAlone: boolean;
}

/** Values that stand for changes, in their order, without those that are not needed. */
export class LastWords<T> {
  readonly #items = new Set<Item<T>>();
  readonly #holders = new Map<string, Item<T>>();
  #bytes = 0;

  /** Bytes of the changes that are needed. */
  get bytes(): number {
    return this.#bytes;
  }

  add(value: T, size: number, { services, isAlone }: Subject): void {
    const names = new Set(services);
    const item = { value, size, left: names.size, isAlone };
    this.#items.add(item);
    this.#bytes += size;
    for (const name of names) {
      const before = this.#holders.get(name);
      if (before !== undefined) this.#takeFrom(before);
      this.#holders.set(name, item);
    }
  }

  values(): T[] {
    return [...this.#items].map(({ value }) => value);
  }

  #takeFrom(item: Item<T>): void {
    item.left -= 1;
    if (item.left > 0 || !item.isAlone) return;
    this.#items.delete(item);
    this.#bytes -= item.size;
  }
}

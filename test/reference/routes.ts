// A linear list of routes with whatever they lead to: longest prefix match as RFC 1812 section
// 5.2.4.3 defines it.

import { addressBytes } from '../../engine/address.ts';

interface Entry<T> {
  address: Uint8Array;
  length: number;
  target: T;
}

export class RouteList<T> {
  #entries: Entry<T>[] = [];

  add(prefix: string, target: T): void {
    const [address = '', length = ''] = prefix.split('/');
    this.#entries.push({ address: addressBytes(address), length: Number(length), target });
  }

  get targets(): T[] {
    return this.#entries.map(({ target }) => target);
  }

  find(address: Uint8Array): T | undefined {
    let best: Entry<T> | undefined;
    for (const entry of this.#entries) {
      if (holds(entry, address) && entry.length > (best?.length ?? -1)) best = entry;
    }
    return best?.target;
  }
}

function holds<T>(entry: Entry<T>, address: Uint8Array): boolean {
  if (entry.address.length !== address.length) return false;
  for (let bit = 0; bit < entry.length; bit += 8) {
    const mask = (0xff00 >> Math.min(entry.length - bit, 8)) & 0xff;
    const difference = (entry.address[bit / 8] ?? 0) ^ (address[bit / 8] ?? 0);
    if ((difference & mask) !== 0) return false;
  }
  return true;
}

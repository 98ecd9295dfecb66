// Prefixes of one address family, each with a value: a Patricia tree (Morrison 1968), so that the
// prefixes around an address and those inside a block are found without looking at the others.
//
// Keys are the bytes of an address as characters, host bits cleared. A node without a value stands
// where two subtrees part.

export interface PrefixNode<T> {
  readonly bytes: string;
  readonly length: number;
  value: T | null;
  zero: PrefixNode<T> | null;
  one: PrefixNode<T> | null;
}

export class PrefixTree<T> {
  #root: PrefixNode<T> | null = null;

  get(bytes: string, length: number): T | null {
    let node = this.#root;
    while (node !== null && node.length < length) node = child(node, bytes);
    if (node === null || node.length !== length) return null;
    return commonLength(node.bytes, bytes, length) === length ? node.value : null;
  }

  /** Gives the prefix this value. */
  set(bytes: string, length: number, value: T): void {
    const leaf: PrefixNode<T> = { bytes, length, value, zero: null, one: null };
    let parent: PrefixNode<T> | null = null;
    let node = this.#root;
    for (;;) {
      if (node === null) return this.#link(parent, leaf);
      const common = commonLength(node.bytes, bytes, Math.min(node.length, length));
      if (common === node.length && common === length) {
        node.value = value;
        return;
      }
      if (common < node.length) return this.#link(parent, fork(node, leaf, common));
      parent = node;
      node = child(node, bytes);
    }
  }

  /** Takes the prefix out, if it is there. */
  delete(bytes: string, length: number): void {
    const path: PrefixNode<T>[] = [];
    let node = this.#root;
    while (node !== null && node.length < length) {
      path.push(node);
      node = child(node, bytes);
    }
    if (node === null || node.length !== length) return;
    if (commonLength(node.bytes, bytes, length) < length) return;
    node.value = null;
    this.#tidy(node, path);
  }

  /** Adds the values of all prefixes that hold this one, itself included, shortest first. */
  collectAround(bytes: string, length: number, into: T[]): void {
    let node = this.#root;
    while (node !== null && node.length <= length
      && commonLength(node.bytes, bytes, node.length) === node.length) {
      if (node.value !== null) into.push(node.value);
      if (node.length === length) return;
      node = child(node, bytes);
    }
  }

  /** Calls with the value of each prefix inside this one, itself included. */
  forEachInside(bytes: string, length: number, visit: (value: T) => void): void {
    let node = this.#root;
    while (node !== null && node.length < length) node = child(node, bytes);
    if (node === null || commonLength(node.bytes, bytes, length) < length) return;
    const stack = [node];
    for (let at = stack.pop(); at !== undefined; at = stack.pop()) {
      if (at.value !== null) visit(at.value);
      if (at.one !== null) stack.push(at.one);
      if (at.zero !== null) stack.push(at.zero);
    }
  }

  /** All values. Prefixes that are added meanwhile may be left out; none may be taken out. */
  * values(): Generator<T> {
    const stack = this.#root === null ? [] : [this.#root];
    for (let at = stack.pop(); at !== undefined; at = stack.pop()) {
      if (at.value !== null) yield at.value;
      if (at.one !== null) stack.push(at.one);
      if (at.zero !== null) stack.push(at.zero);
    }
  }

  #link(parent: PrefixNode<T> | null, node: PrefixNode<T>): void {
    if (parent === null) this.#root = node;
    else if (bitAt(node.bytes, parent.length) === 0) parent.zero = node;
    else parent.one = node;
  }

  /** Removes a node that holds nothing, and its parent where that no longer parts anything. */
  #tidy(node: PrefixNode<T>, path: PrefixNode<T>[]): void {
    if (node.value !== null || (node.zero !== null && node.one !== null)) return;
    const rest = node.zero ?? node.one;
    const parent = path.pop() ?? null;
    if (parent === null) this.#root = rest;
    else if (parent.zero === node) parent.zero = rest;
    else parent.one = rest;
    if (parent !== null && rest === null) this.#tidy(parent, path);
  }
}

function child<T>(node: PrefixNode<T>, bytes: string): PrefixNode<T> | null {
  return bitAt(bytes, node.length) === 0 ? node.zero : node.one;
}

/** A node above two prefixes: one of them, or where they part. */
function fork<T>(old: PrefixNode<T>, leaf: PrefixNode<T>, common: number): PrefixNode<T> {
  const top = common === leaf.length ? leaf
    : { bytes: maskPrefix(leaf.bytes, common), length: common, value: null, zero: null, one: null };
  for (const node of top === leaf ? [old] : [old, leaf]) {
    if (bitAt(node.bytes, common) === 0) top.zero = node;
    else top.one = node;
  }
  return top;
}

function bitAt(bytes: string, index: number): number {
  return (bytes.charCodeAt(index >>> 3) >>> (7 - (index & 7))) & 1;
}

/** How many leading bits are equal, up to a limit. */
function commonLength(a: string, b: string, limit: number): number {
  let at = 0;
  while ((at << 3) < limit && a.charCodeAt(at) === b.charCodeAt(at)) at += 1;
  if ((at << 3) >= limit) return limit;
  const differs = a.charCodeAt(at) ^ b.charCodeAt(at);
  return Math.min(limit, (at << 3) + Math.clz32(differs) - 24);
}

/** The bytes with everything behind the length cleared. */
export function maskPrefix(bytes: string, length: number): string {
  const whole = length >>> 3;
  const kept = bytes.charCodeAt(whole) & (0xff00 >>> (length & 7)) & 0xff;
  if (whole >= bytes.length) return bytes;
  return bytes.slice(0, whole) + String.fromCharCode(kept) + '\0'.repeat(bytes.length - whole - 1);
}

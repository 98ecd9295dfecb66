// The control calls of a module without bindings: its core module alone, and the canonical ABI for
// the three functions that take or give more than numbers (component-model, CanonicalABI.md). So no
// code that was made of a component runs in the daemon. Modules that were compiled without a
// runtime are of this form; all others have the bindings that jco makes.

import type { ModuleEndpoint, ModuleInfo } from './instance.ts';

type Raw = (...words: number[]) => number;

/** What the core module of such a module exports beside `evaluate`, with the types. */
export const PLAIN_TYPES: Readonly<Record<string, string>> = {
  describe: '->i32', configure: 'i32,i32->i32', endpoints: 'i32,i32->',
};
export const REALLOC_TYPE = 'i32,i32,i32,i32->i32';
export const PLAIN_MEMORY = 'memory';

/** Sizes and offsets of records in memory. */
const STRING_SIZE = 8;
const INFO_VERSION = 8;
const INFO_STATEFUL = 16;
const RESULT_TEXT = 4;
const LABEL_SIZE = 16;
const ENDPOINT_SIZE = 28;
const ENDPOINT_NAMESPACE = 4;
const ENDPOINT_POD = 12;
const ENDPOINT_LABELS = 20;
const WORD_SIZE = 4;
/** What a module gives is read up to so many bytes. */
const STRING_LIMIT = 65536;

/** The control calls of a module, on its exports. */
export class PlainCalls {
  readonly #exports: Record<string, unknown>;
  readonly #policy: string;

  /** `policy` is the full name of the interface. */
  constructor(exports: Record<string, unknown>, policy: string) {
    this.#exports = exports;
    this.#policy = policy;
  }

  describe(): ModuleInfo {
    const at = this.#call('describe');
    const info = {
      name: this.#string(at), version: this.#string(at + INFO_VERSION),
      stateful: this.#view().getUint8(at + INFO_STATEFUL) !== 0,
    };
    this.#end('describe', at);
    return info;
  }

  /** Throws the text of what the module says is wrong. */
  configure(config: Uint8Array): void {
    const text = this.#give(config, 1);
    const at = this.#call('configure', text, config.length);
    const kind = this.#view().getUint8(at);
    const problem = kind === 1 ? this.#string(at + RESULT_TEXT) : null;
    this.#end('configure', at);
    if (kind > 1) throw new RangeError(`its answer is of kind ${kind}`);
    if (problem !== null) throw problem;
  }

  endpoints(list: readonly ModuleEndpoint[]): void {
    const start = this.#allocate(list.length * ENDPOINT_SIZE, WORD_SIZE);
    for (const [index, { id, namespace, pod, labels }] of list.entries()) {
      const at = start + (index * ENDPOINT_SIZE);
      const first = this.#allocate(labels.length * LABEL_SIZE, WORD_SIZE);
      for (const [place, { key, value }] of labels.entries()) {
        this.#giveString(first + (place * LABEL_SIZE), key);
        this.#giveString(first + (place * LABEL_SIZE) + STRING_SIZE, value);
      }
      this.#giveString(at + ENDPOINT_NAMESPACE, namespace);
      this.#giveString(at + ENDPOINT_POD, pod);
      const view = this.#view();
      view.setUint32(at, id, true);
      view.setUint32(at + ENDPOINT_LABELS, first, true);
      view.setUint32(at + ENDPOINT_LABELS + WORD_SIZE, labels.length, true);
    }
    this.#call('endpoints', start, list.length);
  }

  /** Is not called: who runs a module without bindings calls its raw function. */
  evaluate(): never {
    throw new Error('evaluate() has no bindings');
  }

  #view(): DataView {
    return new DataView((this.#exports[PLAIN_MEMORY] as WebAssembly.Memory).buffer);
  }

  #call(name: string, ...words: number[]): number {
    return (this.#exports[`${this.#policy}#${name}`] as Raw)(...words) >>> 0;
  }

  /** Tells the module that its answer has been read, where it wants to know. */
  #end(name: string, answer: number): void {
    (this.#exports[`cabi_post_${this.#policy}#${name}`] as Raw | undefined)?.(answer);
  }

  /** Memory for what is passed. Nothing takes none, so that there is nothing to be freed. */
  #allocate(size: number, align: number): number {
    if (size === 0) return align;
    const at = (this.#exports.cabi_realloc as Raw)(0, 0, align, size) >>> 0;
    if (at % align !== 0) throw new RangeError('its memory is not aligned');
    return at;
  }

  #give(bytes: Uint8Array, align: number): number {
    const at = this.#allocate(bytes.length, align);
    new Uint8Array(this.#view().buffer, at, bytes.length).set(bytes);
    return at;
  }

  #giveString(at: number, text: string): void {
    const bytes = new TextEncoder().encode(text);
    const start = this.#give(bytes, 1);
    const view = this.#view();
    view.setUint32(at, start, true);
    view.setUint32(at + WORD_SIZE, bytes.length, true);
  }

  #string(at: number): string {
    const view = this.#view();
    const start = view.getUint32(at, true);
    const length = view.getUint32(at + WORD_SIZE, true);
    if (start + length > view.byteLength) throw new RangeError('its text is outside its memory');
    const bytes = new Uint8Array(view.buffer, start, Math.min(length, STRING_LIMIT));
    return new TextDecoder().decode(bytes);
  }
}

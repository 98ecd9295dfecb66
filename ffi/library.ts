// Shared libraries that are no part of the C library: the C twins of the core that benches load.

import koffi from 'koffi';

/** A function of a library. Results are C's `int`. */
export type NativeFunction = (...args: number[]) => number;

/** What an argument is: an absolute address, or a C `int`. */
export type NativeArgument = 'address' | 'int';

const TYPES: Record<NativeArgument, string> = { address: 'uintptr_t', int: 'int' };

/** A loaded library. It stays loaded as long as the process lives. */
export class NativeLibrary {
  readonly #library: ReturnType<typeof koffi.load>;

  /** Throws if `path` is no library of this machine. */
  constructor(path: string) {
    this.#library = koffi.load(path);
  }

  /** Throws if the library has no such function. */
  define(name: string, types: NativeArgument[]): NativeFunction {
    return this.#library.func(name, 'int', types.map((type) => TYPES[type])) as NativeFunction;
  }
}

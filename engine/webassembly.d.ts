// The part of the WebAssembly JavaScript interface (W3C) that Culvert uses. TypeScript has it only
// among the browser's types, which the engine does without.

declare namespace WebAssembly {
  class Module {
    constructor(bytes: Uint8Array);
    static imports(module: Module): { module: string; name: string; kind: string }[];
    static exports(module: Module): { name: string; kind: string }[];
  }
  class Instance {
    constructor(module: Module, imports: Record<string, Record<string, unknown>>);
    readonly exports: Record<string, unknown>;
  }
  class Memory {
    constructor(descriptor: { initial: number; maximum: number; shared: boolean });
    readonly buffer: SharedArrayBuffer;
  }
  class Table {
    readonly length: number;
    grow(entries: number): number;
    get(index: number): unknown;
    set(index: number, entry: ((...words: number[]) => number) | null): void;
  }
  class Global {
    readonly value: number;
  }
}

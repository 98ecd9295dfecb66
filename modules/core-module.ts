// Core WebAssembly modules as bytes (WebAssembly core specification, section 5): finds the types of
// exports, gives exports other names, and puts limits on memories and tables, which cannot be had
// in another way once a module runs.

import { ModuleError } from './error.ts';
import { MODULE_TABLE_ENTRIES } from './limits.ts';

const SECTION_TYPE = 1;
const SECTION_IMPORT = 2;
const SECTION_FUNCTION = 3;
const SECTION_TABLE = 4;
const SECTION_MEMORY = 5;
const SECTION_EXPORT = 7;
const SECTION_TAG = 13;
const HEADER_SIZE = 8;
const FUNCTION_TYPE = 0x60;
const KIND_FUNCTION = 0;
const KIND_TABLE = 1;
const KIND_MEMORY = 2;
const KIND_GLOBAL = 3;
/** Flags of limits; any other bit is a shared or a 64-bit memory. */
const LIMITS_HAVE_MAXIMUM = 1;
/** Numbers, vectors, and references to functions and to things of the host. */
const VALUE_TYPES = new Map([
  [0x7f, 'i32'], [0x7e, 'i64'], [0x7d, 'f32'], [0x7c, 'f64'], [0x7b, 'v128'], [0x70, 'funcref'],
  [0x6f, 'externref'],
]);
export const PAGE_BYTES = 65536;

/** jco (0.15) writes names of core modules into its file between quotes, as they are: one with a
 * quote in it would be code of the daemon's. Compilers make no such names. */
const STRANGE_NAME = /["'`\\\u0000-\u001f\u007f\u2028\u2029]/;

interface Section {
  id: number;
  /** Where its id is, where its content begins, where it ends. */
  start: number;
  content: number;
  end: number;
}

interface Limits {
  minimum: number;
  maximum: number | null;
}

/** Reads the bytes of a module from some place on. */
class Reader {
  readonly #bytes: Uint8Array;
  at: number;

  constructor(bytes: Uint8Array, at: number) {
    this.#bytes = bytes;
    this.at = at;
  }

  byte(): number {
    const byte = this.#bytes[this.at];
    if (byte === undefined) throw damaged();
    this.at += 1;
    return byte;
  }

  /** An unsigned number in LEB128. */
  u32(): number {
    let value = 0;
    for (let shift = 0; shift < 35; shift += 7) {
      const byte = this.byte();
      value += (byte & 0x7f) * (2 ** shift);
      if (byte < 0x80) return value;
    }
    throw damaged();
  }

  name(): string {
    const length = this.u32();
    const bytes = this.#bytes.subarray(this.at, this.at + length);
    if (bytes.length < length) throw damaged();
    this.at += length;
    return new TextDecoder().decode(bytes);
  }

  valueType(): string {
    const name = VALUE_TYPES.get(this.byte());
    if (name === undefined) throw unsupported('garbage-collected or typed references');
    return name;
  }

  limits(what: 'memory' | 'table'): Limits {
    const flags = this.byte();
    if (flags > LIMITS_HAVE_MAXIMUM) throw unsupported(`a shared or 64-bit ${what}`);
    const minimum = this.u32();
    return { minimum, maximum: flags === LIMITS_HAVE_MAXIMUM ? this.u32() : null };
  }
}

function damaged(): ModuleError {
  return new ModuleError('not-a-component', 'A core module in the component is damaged.');
}

function unsupported(what: string): ModuleError {
  return new ModuleError('unsupported', `The module uses ${what}, which modules may not.`);
}

function sectionsOf(bytes: Uint8Array): Section[] {
  const sections: Section[] = [];
  const reader = new Reader(bytes, HEADER_SIZE);
  while (reader.at < bytes.length) {
    const start = reader.at;
    const id = reader.byte();
    const size = reader.u32();
    const end = reader.at + size;
    if (end > bytes.length) throw damaged();
    sections.push({ id, start, content: reader.at, end });
    reader.at = end;
  }
  return sections;
}

/** A reader at a section's content; null where the module has no such section. */
function open(bytes: Uint8Array, sections: Section[], id: number): Reader | null {
  const section = sections.find((candidate) => candidate.id === id);
  return section === undefined ? null : new Reader(bytes, section.content);
}

function leb(value: number): number[] {
  const bytes: number[] = [];
  let rest = value;
  for (; rest >= 0x80; rest = Math.floor(rest / 0x80)) bytes.push((rest & 0x7f) | 0x80);
  return [...bytes, rest];
}

/** The module with the content of some sections replaced. */
function replaceSections(
  bytes: Uint8Array, sections: Section[], contents: ReadonlyMap<number, Uint8Array>,
): Uint8Array {
  const parts: Uint8Array[] = [bytes.subarray(0, HEADER_SIZE)];
  for (const { id, start, end } of sections) {
    const content = contents.get(id);
    if (content === undefined) parts.push(bytes.subarray(start, end));
    else parts.push(Uint8Array.from([id, ...leb(content.length)]), content);
  }
  return joinBytes(parts);
}

function joinBytes(parts: readonly Uint8Array[]): Uint8Array {
  const joined = new Uint8Array(parts.reduce((sum, { length }) => sum + length, 0));
  let at = 0;
  for (const part of parts) {
    joined.set(part, at);
    at += part.length;
  }
  return joined;
}

/** The types of functions, as `i32,i32->i32`. */
function typesOf(bytes: Uint8Array, sections: Section[]): string[] {
  const reader = open(bytes, sections, SECTION_TYPE);
  const types: string[] = [];
  for (let left = reader?.u32() ?? 0; reader !== null && left > 0; left -= 1) {
    if (reader.byte() !== FUNCTION_TYPE) throw unsupported('garbage-collected types');
    const lists = ['', ''].map(() =>
      Array.from({ length: checkCount(reader.u32()) }, () => reader.valueType()).join(','));
    types.push(lists.join('->'));
  }
  return types;
}

/** A list's length that no array is made for where it is nonsense. */
function checkCount(count: number): number {
  if (count > 1000) throw damaged();
  return count;
}

interface CoreImport {
  module: string;
  name: string;
  /** The type of a function; null for all else. */
  type: number | null;
}

/** Imports in their order; throws where one is of a kind that modules may not have. */
function importsOf(bytes: Uint8Array, sections: Section[]): CoreImport[] {
  const reader = open(bytes, sections, SECTION_IMPORT);
  const imports: CoreImport[] = [];
  for (let left = reader?.u32() ?? 0; reader !== null && left > 0; left -= 1) {
    const [module, name] = [reader.name(), reader.name()];
    const kind = reader.byte();
    if (kind > KIND_GLOBAL) throw unsupported('exceptions');
    if (kind === KIND_TABLE || kind === KIND_GLOBAL) reader.valueType();
    if (kind === KIND_TABLE) reader.limits('table');
    if (kind === KIND_MEMORY) reader.limits('memory');
    if (kind === KIND_GLOBAL) reader.byte();
    imports.push({ module, name, type: kind === KIND_FUNCTION ? reader.u32() : null });
  }
  return imports;
}

interface CoreExport {
  name: string;
  kind: number;
  index: number;
}

function exportsOf(bytes: Uint8Array, sections: Section[]): CoreExport[] {
  const reader = open(bytes, sections, SECTION_EXPORT);
  const found: CoreExport[] = [];
  for (let left = reader?.u32() ?? 0; reader !== null && left > 0; left -= 1) {
    found.push({ name: reader.name(), kind: reader.byte(), index: reader.u32() });
  }
  return found;
}

/** The type of an exported function, as `i32,i32->i32`; null where there is none of that name. */
export function exportedType(bytes: Uint8Array, name: string): string | null {
  const sections = sectionsOf(bytes);
  const found = exportsOf(bytes, sections)
    .find((entry) => entry.name === name && entry.kind === KIND_FUNCTION);
  if (found === undefined) return null;
  const indexes = importsOf(bytes, sections).flatMap(({ type }) => (type === null ? [] : [type]));
  const reader = open(bytes, sections, SECTION_FUNCTION);
  for (let left = reader?.u32() ?? 0; reader !== null && left > 0; left -= 1) {
    indexes.push(reader.u32());
  }
  return typesOf(bytes, sections)[indexes[found.index] ?? -1] ?? null;
}

/** True if a core module exports a memory of that name. */
export function exportsMemory(bytes: Uint8Array, name: string): boolean {
  return exportsOf(bytes, sectionsOf(bytes))
    .some((entry) => entry.name === name && entry.kind === KIND_MEMORY);
}

/** Names of the modules that a core module imports from. */
export function importedModules(bytes: Uint8Array): string[] {
  return importsOf(bytes, sectionsOf(bytes)).map(({ module }) => module);
}

/** Names of the functions that a module exports. */
export function exportedFunctions(bytes: Uint8Array): string[] {
  return exportsOf(bytes, sectionsOf(bytes))
    .filter(({ kind }) => kind === KIND_FUNCTION).map(({ name }) => name);
}

/** The module with other names for its exports; those that `rename` answers null for are left
 * out. */
export function renameExports(
  bytes: Uint8Array, rename: (name: string) => string | null,
): Uint8Array {
  const sections = sectionsOf(bytes);
  const entries = exportsOf(bytes, sections).flatMap((entry) => {
    const name = rename(entry.name);
    return name === null ? [] : [{ ...entry, name: new TextEncoder().encode(name) }];
  });
  const content = joinBytes([Uint8Array.from(leb(entries.length)), ...entries.flatMap((entry) => [
    Uint8Array.from(leb(entry.name.length)), entry.name,
    Uint8Array.from([entry.kind, ...leb(entry.index)]),
  ])]);
  return replaceSections(bytes, sections, new Map([[SECTION_EXPORT, content]]));
}

/** A core module under limits. */
export interface LimitedCore {
  bytes: Uint8Array;
  /** Memories and tables that each instance has of its own. */
  memories: number;
  tables: number;
}

/** Puts limits on a module's memories and tables: what it asks for at most becomes no more than the
 * limit, so that growing beyond fails inside the module. Throws ModuleError where it needs more
 * from the start, and where it uses what no limit reaches. */
export function limitCore(bytes: Uint8Array, memoryCapBytes: number): LimitedCore {
  const sections = sectionsOf(bytes);
  if (sections.some(({ id }) => id >= SECTION_TAG)) throw unsupported('exceptions');
  typesOf(bytes, sections);
  const names = [
    ...importsOf(bytes, sections).flatMap(({ module, name }) => [module, name]),
    ...exportsOf(bytes, sections).map(({ name }) => name),
  ];
  if (names.some((name) => STRANGE_NAME.test(name))) {
    throw unsupported('quotes, backslashes or control characters in names');
  }
  const contents = new Map<number, Uint8Array>();
  const table = open(bytes, sections, SECTION_TABLE);
  const tables = checkCount(table?.u32() ?? 0);
  if (table !== null) contents.set(SECTION_TABLE, limitTables(table, tables));
  const memory = open(bytes, sections, SECTION_MEMORY);
  const memories = checkCount(memory?.u32() ?? 0);
  const pages = Math.floor(memoryCapBytes / PAGE_BYTES);
  if (memory !== null) contents.set(SECTION_MEMORY, limitMemories(memory, memories, pages));
  return { bytes: replaceSections(bytes, sections, contents), memories, tables };
}

function limitMemories(reader: Reader, count: number, pages: number): Uint8Array {
  const content = leb(count);
  for (let left = count; left > 0; left -= 1) {
    const { minimum, maximum } = reader.limits('memory');
    if (minimum > pages) {
      throw new ModuleError('memory', `The module needs ${minimum * PAGE_BYTES} bytes of memory `
        + `from the start; it may have ${pages * PAGE_BYTES}.`);
    }
    content.push(LIMITS_HAVE_MAXIMUM, ...leb(minimum), ...leb(Math.min(maximum ?? pages, pages)));
  }
  return Uint8Array.from(content);
}

function limitTables(reader: Reader, count: number): Uint8Array {
  const content = leb(count);
  for (let left = count; left > 0; left -= 1) {
    const type = reader.byte();
    if (!VALUE_TYPES.has(type)) throw unsupported('typed references');
    const { minimum, maximum } = reader.limits('table');
    if (minimum > MODULE_TABLE_ENTRIES) {
      throw new ModuleError('memory', `The module needs a table of ${minimum} entries; it may have `
        + `${MODULE_TABLE_ENTRIES}.`);
    }
    const most = Math.min(maximum ?? MODULE_TABLE_ENTRIES, MODULE_TABLE_ENTRIES);
    content.push(type, LIMITS_HAVE_MAXIMUM, ...leb(minimum), ...leb(most));
  }
  return Uint8Array.from(content);
}

// Reads a WebAssembly module's sections, as far as the core's promises go: WebAssembly Core
// Specification 2.0, section 5.5.

const MAGIC = [0x00, 0x61, 0x73, 0x6d, 0x01, 0x00, 0x00, 0x00];
const SECTION_IMPORT = 2;
const SECTION_GLOBAL = 6;
const SECTION_DATA = 11;
const IMPORT_GLOBAL = 3;
const OPCODE_END = 0x0b;

export const CORE_SIZE_LIMIT = 80 * 1024;

/** Reads bytes in order. */
class Reader {
  readonly #bytes: Uint8Array;
  at: number;

  constructor(bytes: Uint8Array, at: number) {
    this.#bytes = bytes;
    this.at = at;
  }

  byte(): number {
    const value = this.#bytes[this.at];
    if (value === undefined) throw new Error(`module ends at ${this.at}`);
    this.at += 1;
    return value;
  }

  /** An integer in LEB128, unsigned; signed ones are only skipped. */
  integer(): number {
    let value = 0;
    let weight = 1;
    let byte = this.byte();
    for (; byte >= 0x80; byte = this.byte()) {
      value += (byte & 0x7f) * weight;
      weight *= 128;
    }
    return value + (byte * weight);
  }

  name(): string {
    const length = this.integer();
    this.at += length;
    return new TextDecoder().decode(this.#bytes.subarray(this.at - length, this.at));
  }

  limits(): void {
    const flags = this.byte();
    this.integer();
    if ((flags & 1) !== 0) this.integer();
  }
}

/** Skips an initializer of one constant instruction. Returns false for any other. */
function skipConstant(reader: Reader): boolean {
  const opcode = reader.byte();
  if (opcode === 0x41 || opcode === 0x42 || opcode === 0x23 || opcode === 0xd2) reader.integer();
  else if (opcode === 0x43) reader.at += 4;
  else if (opcode === 0x44) reader.at += 8;
  else if (opcode === 0xd0) reader.byte();
  else return false;
  return reader.byte() === OPCODE_END;
}

/** Globals that can change among a module's own. */
function findMutableGlobals(reader: Reader): string[] {
  const faults: string[] = [];
  const count = reader.integer();
  for (let index = 0; index < count; index += 1) {
    reader.byte();
    if (reader.byte() !== 0) faults.push(`global ${index} can change`);
    if (!skipConstant(reader)) return [...faults, `global ${index} has no constant initializer`];
  }
  return faults;
}

/** Globals among the imports: an instance would depend on the one before. */
function findImportedGlobals(reader: Reader): string[] {
  const faults: string[] = [];
  const count = reader.integer();
  for (let index = 0; index < count; index += 1) {
    const name = `${reader.name()}.${reader.name()}`;
    const kind = reader.byte();
    if (kind === 0) reader.integer();
    else if (kind === 2) reader.limits();
    else if (kind === 1) {
      reader.byte();
      reader.limits();
    } else if (kind === IMPORT_GLOBAL) {
      reader.at += 2;
      faults.push(`imports the global ${name}`);
    }
  }
  return faults;
}

/** What a built core breaks of its promises: no data, no globals that change, a size. */
export function checkCoreBinary(bytes: Uint8Array): string[] {
  if (MAGIC.some((value, index) => bytes[index] !== value)) return ['not a WebAssembly module'];
  const faults: string[] = [];
  if (bytes.length > CORE_SIZE_LIMIT) {
    faults.push(`${bytes.length} bytes; the limit is ${CORE_SIZE_LIMIT}`);
  }
  const reader = new Reader(bytes, MAGIC.length);
  while (reader.at < bytes.length) {
    const id = reader.byte();
    const size = reader.integer();
    const end = reader.at + size;
    if (id === SECTION_GLOBAL) faults.push(...findMutableGlobals(reader));
    if (id === SECTION_IMPORT) faults.push(...findImportedGlobals(reader));
    if (id === SECTION_DATA && reader.integer() > 0) faults.push('has data segments');
    reader.at = end;
  }
  return faults;
}

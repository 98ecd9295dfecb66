// The objects of one resource that the server has told of: key, uid and version of each, so that
// a list can be compared with what came before it. There may be 100,000 of them, so they are no
// JavaScript objects but records in one block of bytes, which a hash table leads to: about 70 bytes
// each, uids of the usual form (RFC 9562) as 16 of them.
//
//     record:  sweep (u32)  version (f64)  key size (u16)  uid kind (u8)  key  uid
//     slot:    offset of a record + 1; 0 for a slot never used, -1 for one given up
//
// Linear probing, with twice as many slots as records at least. Bytes of records that were given
// up are won back when the block is full. The sweep is the number of the list that has mentioned
// the record last.

/** Keys and uids that can be kept; the API server allows shorter ones only. */
export const KEY_SIZE_LIMIT = 512;
export const UID_SIZE_LIMIT = 128;

const SWEEP = 0;
const VERSION = 4;
const KEY_SIZE = 12;
/** The size of the text, or the mark of the usual form. */
const UID_KIND = 14;
const USUAL = 0xff;
const USUAL_SIZE = 16;
const USUAL_TEXT = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/;
const HEADER_SIZE = 15;
const FIRST_SLOTS = 64;
const FIRST_BYTES = 4096;
const FREE = 0;
const GIVEN_UP = -1;
const NOWHERE = -1;

export interface KnownObject {
  key: string;
  uid: string;
  /** NaN, which equals nothing, for a version that is no number. */
  version: number;
}

export class KnownObjects {
  #slots = new Int32Array(FIRST_SLOTS);
  #bytes = Buffer.alloc(FIRST_BYTES);
  readonly #key = Buffer.alloc(KEY_SIZE_LIMIT);
  #keySize = 0;
  /** Where the next record goes. */
  #end = 0;
  /** Bytes of records given up. */
  #waste = 0;
  #count = 0;
  /** Slots that are not free: those of records, and those given up. */
  #usedSlots = 0;
  #sweep = 0;

  get count(): number {
    return this.#count;
  }

  /** Bytes that are held. */
  get size(): number {
    return this.#bytes.length + this.#slots.byteLength;
  }

  /** What is known of the key; null for nothing. */
  get(key: string): KnownObject | null {
    const slot = this.#find(key);
    return slot === NOWHERE ? null : this.#read(this.#offset(slot));
  }

  /** Notes the object, as one that the list at hand has. Precondition: key and uid are within their
   * limits. */
  set({ key, uid, version }: KnownObject): void {
    const slot = this.#find(key);
    const offset = slot === NOWHERE ? NOWHERE : this.#offset(slot);
    const kind = USUAL_TEXT.test(uid) ? USUAL : Buffer.byteLength(uid);
    if (offset !== NOWHERE && this.#bytes[offset + UID_KIND] === kind) {
      this.#write(offset, kind, uid, version);
      return;
    }
    if (slot !== NOWHERE) this.#giveUp(slot);
    const size = HEADER_SIZE + this.#keySize + uidSizeOf(kind);
    this.#reserve(size);
    this.#write(this.#end, kind, uid, version);
    this.#insert(this.#end);
    this.#end += size;
    this.#count += 1;
  }

  delete(key: string): void {
    const slot = this.#find(key);
    if (slot !== NOWHERE) this.#giveUp(slot);
  }

  /** Begins a list. */
  beginList(): void {
    this.#sweep += 1;
  }

  /** What was not noted since the list began. */
  missing(): KnownObject[] {
    const missing: KnownObject[] = [];
    for (const slot of this.#slots) {
      if (slot <= FREE || this.#bytes.readUInt32LE(slot - 1 + SWEEP) === this.#sweep) continue;
      missing.push(this.#read(slot - 1));
    }
    return missing;
  }

  #offset(slot: number): number {
    return (this.#slots[slot] ?? 0) - 1;
  }

  /** The slot of the key, whose bytes are in `#key` then. */
  #find(key: string): number {
    this.#keySize = this.#key.write(key);
    const mask = this.#slots.length - 1;
    const size = this.#keySize;
    for (let slot = hash(this.#key, size) & mask; ; slot = (slot + 1) & mask) {
      const value = this.#slots[slot] ?? FREE;
      if (value === FREE) return NOWHERE;
      if (value === GIVEN_UP) continue;
      const start = value - 1 + HEADER_SIZE;
      const isSame = this.#bytes.readUInt16LE(value - 1 + KEY_SIZE) === size
        && this.#bytes.compare(this.#key, 0, size, start, start + size) === 0;
      if (isSame) return slot;
    }
  }

  #read(offset: number): KnownObject {
    const start = offset + HEADER_SIZE;
    const middle = start + this.#bytes.readUInt16LE(offset + KEY_SIZE);
    return {
      key: this.#bytes.toString('utf8', start, middle),
      uid: this.#readUid(middle, this.#bytes[offset + UID_KIND] ?? 0),
      version: this.#bytes.readDoubleLE(offset + VERSION),
    };
  }

  #readUid(start: number, kind: number): string {
    const end = start + uidSizeOf(kind);
    if (kind !== USUAL) return this.#bytes.toString('utf8', start, end);
    const digits = this.#bytes.toString('hex', start, end);
    return `${digits.slice(0, 8)}-${digits.slice(8, 12)}-${digits.slice(12, 16)}-`
      + `${digits.slice(16, 20)}-${digits.slice(20)}`;
  }

  /** Writes a record of the key that was looked for last. */
  #write(offset: number, kind: number, uid: string, version: number): void {
    this.#bytes.writeUInt32LE(this.#sweep, offset + SWEEP);
    this.#bytes.writeDoubleLE(version, offset + VERSION);
    this.#bytes.writeUInt16LE(this.#keySize, offset + KEY_SIZE);
    this.#bytes.writeUInt8(kind, offset + UID_KIND);
    const start = offset + HEADER_SIZE;
    this.#key.copy(this.#bytes, start, 0, this.#keySize);
    if (kind === USUAL) this.#bytes.write(uid.replaceAll('-', ''), start + this.#keySize, 'hex');
    else this.#bytes.write(uid, start + this.#keySize);
  }

  #recordSize(offset: number): number {
    const keySize = this.#bytes.readUInt16LE(offset + KEY_SIZE);
    return HEADER_SIZE + keySize + uidSizeOf(this.#bytes[offset + UID_KIND] ?? 0);
  }

  #giveUp(slot: number): void {
    this.#waste += this.#recordSize(this.#offset(slot));
    this.#slots[slot] = GIVEN_UP;
    this.#count -= 1;
  }

  /** Makes room for a record of this size and its slot. */
  #reserve(size: number): void {
    const isFull = this.#end + size > this.#bytes.length;
    if (!isFull && (this.#usedSlots + 1) * 2 <= this.#slots.length) return;
    const kept = this.#end - this.#waste + size;
    let length = FIRST_BYTES;
    while (length < kept + kept / 4) length *= 2;
    let slots = FIRST_SLOTS;
    while (slots * 2 < (this.#count + 1) * 5) slots *= 2;
    this.#rebuild(length, slots);
  }

  #rebuild(length: number, slotCount: number): void {
    const old = this.#slots;
    const bytes = Buffer.alloc(length);
    let end = 0;
    const offsets: number[] = [];
    for (const slot of old) {
      if (slot <= FREE) continue;
      const size = this.#recordSize(slot - 1);
      this.#bytes.copy(bytes, end, slot - 1, slot - 1 + size);
      offsets.push(end);
      end += size;
    }
    this.#bytes = bytes;
    this.#slots = new Int32Array(slotCount);
    this.#end = end;
    this.#waste = 0;
    this.#usedSlots = 0;
    for (const offset of offsets) this.#insert(offset);
  }

  /** Gives the record a slot. */
  #insert(offset: number): void {
    const mask = this.#slots.length - 1;
    const size = this.#bytes.readUInt16LE(offset + KEY_SIZE);
    const start = offset + HEADER_SIZE;
    let slot = hash(this.#bytes.subarray(start, start + size), size) & mask;
    while ((this.#slots[slot] ?? FREE) > FREE) slot = (slot + 1) & mask;
    if (this.#slots[slot] === FREE) this.#usedSlots += 1;
    this.#slots[slot] = offset + 1;
  }
}

/** Bytes that the uid takes. */
function uidSizeOf(kind: number): number {
  return kind === USUAL ? USUAL_SIZE : kind;
}

/** FNV-1a, 32 bits. */
function hash(bytes: Buffer, size: number): number {
  let value = 0x811c9dc5;
  for (let at = 0; at < size; at += 1) value = Math.imul(value ^ (bytes[at] ?? 0), 0x01000193);
  return value >>> 0;
}

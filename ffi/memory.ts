// Memory that both JavaScript and the kernel can see.
//
// An address is an absolute one, as a JavaScript number; user addresses are below 2^53 on all
// targets. It stays valid as long as the backing buffer is alive: the caller must hold on to it.
// A WebAssembly.Memory with initial == maximum never moves.

import koffi from 'koffi';
import { POINTER_SIZE } from './libc.ts';

export { POINTER_SIZE } from './libc.ts';

const WORD_HIGH = 0x1_0000_0000;

/**
 * Absolute address of a view's first byte. Works over ArrayBuffer, SharedArrayBuffer and
 * WebAssembly.Memory of either kind. Precondition: the view is not empty.
 */
export function addressOf(view: Uint8Array): number {
  return Number(koffi.address(view));
}

/** A block for kernel structures, little-endian as all our targets are: a zeroed one of its own, or
 * a part of other memory, as it is. */
export class NativeBlock {
  readonly bytes: Uint8Array;
  readonly view: DataView;
  readonly address: number;

  constructor(place: number | Uint8Array) {
    this.bytes = typeof place === 'number' ? new Uint8Array(new ArrayBuffer(place)) : place;
    this.view = new DataView(this.bytes.buffer, this.bytes.byteOffset, this.bytes.byteLength);
    this.address = addressOf(this.bytes);
  }

  getInt(offset: number): number {
    return this.view.getInt32(offset, true);
  }

  setInt(offset: number, value: number): void {
    this.view.setInt32(offset, value, true);
  }

  /** Writes a pointer or a size_t in the width this process uses. */
  setWord(offset: number, value: number): void {
    this.view.setUint32(offset, value >>> 0, true);
    if (POINTER_SIZE === 8) this.view.setUint32(offset + 4, Math.floor(value / WORD_HIGH), true);
  }

  /** Writes text and a final zero byte. Precondition: it fits. */
  setText(offset: number, text: string): void {
    const encoded = Buffer.from(`${text}\0`, 'utf8');
    this.bytes.set(encoded, offset);
  }

  /** Reads text up to a zero byte, at most `lengthBytes`. */
  getText(offset: number, lengthBytes: number): string {
    const field = this.bytes.subarray(offset, offset + lengthBytes);
    const end = field.indexOf(0);
    return Buffer.from(end < 0 ? field : field.subarray(0, end)).toString('utf8');
  }
}

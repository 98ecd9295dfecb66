// Memory that outlives the process: a file without a name (memfd_create(2)), mapped over pages of
// memory that is there already. Whoever has the descriptor keeps the bytes.
//
// A WebAssembly.Memory is one stretch of address space with pages that trap around it. Mapping over
// some of its own pages (MAP_FIXED) changes neither the stretch nor those around it; all threads
// and instances that share the memory see the file's bytes from then on. The memory must never
// grow, and the mapping stays until the process ends.

import { fstatSync } from 'node:fs';
import { check, SystemError } from './errno.ts';
import * as libc from './libc.ts';
import { addressOf } from './memory.ts';

const MFD_CLOEXEC = 1;
const PROT_READ_WRITE = 3;
const MAP_SHARED = 0x01;
const MAP_FIXED = 0x10;

/** Bytes and starts of mappings are multiples of this: the largest page of our targets. */
export const MAPPING_GRANULE = 65536;

/** Makes a file without a name, of zeros. `label` is what /proc shows of it. */
export function createMemfd(label: string, sizeBytes: number): number {
  const fd = check(libc.result(libc.memfdCreate(label, MFD_CLOEXEC)), 'memfd_create', label, {
    ENOSYS: 'the kernel is older than 3.17',
  });
  check(libc.result(libc.ftruncate(fd, sizeBytes)), 'ftruncate', label);
  return fd;
}

/** Bytes of a file that a descriptor holds. */
export function fileSize(fd: number): number {
  return fstatSync(fd).size;
}

/** Puts the first bytes of a file in the place of a view's, for every thread, for good. What was
 * there is gone. Precondition: the view begins at a multiple of MAPPING_GRANULE in a memory that
 * never grows, and its length is one. */
export function mapOver(view: Uint8Array, fd: number): void {
  const { byteOffset, length } = view;
  if (byteOffset % MAPPING_GRANULE !== 0 || length % MAPPING_GRANULE !== 0 || length === 0) {
    throw new RangeError(`map over [${byteOffset}, +${length}): not whole pages`);
  }
  if (fileSize(fd) < length) throw new RangeError(`map over ${length} bytes: the file is smaller`);
  const address = addressOf(view);
  const mapped = libc.mmap(address, length, PROT_READ_WRITE, MAP_SHARED | MAP_FIXED, fd, 0);
  if (mapped !== address) {
    throw new SystemError('mmap', `descriptor ${fd}`, libc.negativeErrno());
  }
}

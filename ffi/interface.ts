// Network interfaces by ioctl: struct ifreq, index, flags, hardware address.
//
// struct ifreq is a name of 16 bytes and a union, 24 bytes wide on 64-bit targets and 16 on
// 32-bit ones. All calls work in the network namespace of the calling thread.

import { check, ERRNO, SystemError, type Remedies } from './errno.ts';
import * as libc from './libc.ts';
import { NativeBlock, POINTER_SIZE } from './memory.ts';

/** Longest interface name, without the final zero byte. */
export const INTERFACE_NAME_MAX = 15;
/** Offset of the union in struct ifreq. */
export const IFREQ_DATA = 16;
const IFREQ_SIZE = POINTER_SIZE === 8 ? 40 : 32;

const AF_INET = 2;
const SOCK_DGRAM_CLOEXEC = 2 | 0o2000000;
const SIOCGIFFLAGS = 0x8913;
const SIOCSIFFLAGS = 0x8914;
const SIOCGIFHWADDR = 0x8927;
const IFF_UP = 0x1;
const HARDWARE_ADDRESS = IFREQ_DATA + 2;
const MAC_SIZE = 6;

const REMEDIES: Remedies = {
  EPERM: 'CAP_NET_ADMIN is needed',
  ENODEV: 'there is no such interface in this network namespace',
};

/** A struct ifreq that names an interface (or, for a new TUN, a pattern such as `pod%d`). */
export function interfaceRequest(name: string): NativeBlock {
  if (Buffer.byteLength(name) > INTERFACE_NAME_MAX) {
    throw new RangeError(`interface name ${name} is longer than ${INTERFACE_NAME_MAX} bytes`);
  }
  const request = new NativeBlock(IFREQ_SIZE);
  request.setText(0, name);
  return request;
}

/** Runs an interface ioctl on a short-lived socket of the thread's network namespace. */
export function interfaceIoctl(
  request: NativeBlock, code: number, operation: string, name: string,
): void {
  const object = `socket for ${name}`;
  const fd = check(libc.result(libc.socket(AF_INET, SOCK_DGRAM_CLOEXEC, 0)), 'socket', object);
  const result = libc.result(libc.ioctl(fd, code, request.address));
  libc.close(fd);
  check(result, operation, name, REMEDIES);
}

/** Index of an interface. Throws ENODEV when the namespace has none of that name. */
export function interfaceIndex(name: string): number {
  const index = libc.ifNameToIndex(name);
  if (index === 0) throw new SystemError('if_nametoindex', name, ERRNO.ENODEV, REMEDIES);
  return index;
}

/** Sets an interface up, at once and without netlink. */
export function setInterfaceUp(name: string): void {
  const request = interfaceRequest(name);
  interfaceIoctl(request, SIOCGIFFLAGS, 'ioctl(SIOCGIFFLAGS)', name);
  const flags = request.view.getUint16(IFREQ_DATA, true);
  request.view.setUint16(IFREQ_DATA, flags | IFF_UP, true);
  interfaceIoctl(request, SIOCSIFFLAGS, 'ioctl(SIOCSIFFLAGS)', name);
}

/** Hardware address of an interface, as `02:00:5e:10:00:01`. */
export function interfaceMac(name: string): string {
  const request = interfaceRequest(name);
  interfaceIoctl(request, SIOCGIFHWADDR, 'ioctl(SIOCGIFHWADDR)', name);
  return formatMac(request.bytes.subarray(HARDWARE_ADDRESS, HARDWARE_ADDRESS + MAC_SIZE));
}

/** Six bytes as `02:00:5e:10:00:01`. */
export function formatMac(bytes: Uint8Array): string {
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join(':');
}

/** Bytes of a hardware address written as `02:00:5e:10:00:01`; anything else throws. */
export function parseMac(text: string): Uint8Array {
  if (!/^[0-9a-f]{2}(:[0-9a-f]{2}){5}$/i.test(text)) {
    throw new TypeError(`${text} is not a hardware address like 02:00:5e:10:00:01`);
  }
  return Uint8Array.from(text.split(':'), (byte) => Number.parseInt(byte, 16));
}

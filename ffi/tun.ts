// TUN and TAP devices: open, probe, configure. Packets are read and written with file.ts.
//
// Documentation/networking/tuntap.rst and linux/if_tun.h. One read returns one packet and one
// write sends one. The device is created in the network namespace of the calling thread; it
// disappears with its last descriptor unless it is persistent. When the device is deleted, reads
// give -EBADFD and poll reports POLLERR.

import { constants } from 'node:fs';
import { check, ERRNO, SystemError, type Remedies } from './errno.ts';
import { closeFd, closeFdAsync } from './file.ts';
import { IFREQ_DATA, interfaceRequest } from './interface.ts';
import * as libc from './libc.ts';
import { NativeBlock } from './memory.ts';

const TUN_PATH = '/dev/net/tun';
const O_CLOEXEC = 0o2000000;

const TUNSETIFF = 0x4004_54ca;
const TUNSETPERSIST = 0x4004_54cb;
const TUNGETFEATURES = 0x8004_54cf;
const TUNGETIFF = 0x8004_54d2;
const TUNSETOFFLOAD = 0x4004_54d0;
const TUNSETVNETHDRSZ = 0x4004_54d8;

/** Device flags (struct ifreq, ifr_flags), also what tunFeatures() reports. */
export const IFF_TUN = 0x0001;
export const IFF_TAP = 0x0002;
export const IFF_NAPI = 0x0010;
export const IFF_MULTI_QUEUE = 0x0100;
export const IFF_NO_PI = 0x1000;
export const IFF_VNET_HDR = 0x4000;

/** Offloads that a reader of the device offers to take (TUNSETOFFLOAD). */
export const TUN_F_CSUM = 0x001;
export const TUN_F_TSO4 = 0x002;
export const TUN_F_TSO6 = 0x004;
export const TUN_F_TSO_ECN = 0x008;
export const TUN_F_USO4 = 0x020;
export const TUN_F_USO6 = 0x040;
export const TUN_F_UDP_TUNNEL_GSO = 0x080;
export const TUN_F_UDP_TUNNEL_GSO_CSUM = 0x100;

const OPEN_REMEDIES: Remedies = {
  ENOENT: 'mkdir -p /dev/net; mknod /dev/net/tun c 10 200 (and modprobe tun)',
  ENODEV: 'the kernel has no tun driver: modprobe tun',
  ENXIO: 'the kernel has no tun driver: modprobe tun',
  EACCES: 'run as root, or chmod 666 /dev/net/tun',
  EPERM: 'the container must be given the device /dev/net/tun (c 10:200)',
};
const ATTACH_REMEDIES: Remedies = {
  EPERM: 'CAP_NET_ADMIN is needed',
  EBUSY: 'another descriptor holds the device, here or in another process',
  EINVAL: 'the name is taken by another kind of interface, or by one with another number of '
    + 'queues (which can be deleted), or the flags are not supported',
};

/** How a TUN or TAP device is to be opened. */
export interface TunOptions {
  /** Interface name, at most 15 bytes; `pod%d` lets the kernel choose the number. */
  name: string;
  kind: 'tun' | 'tap';
  /** Keeps the interface when the last descriptor is closed. */
  persist?: boolean;
  /** Puts a struct virtio_net_hdr in front of each packet; needed for any offload. */
  vnetHeader?: boolean;
  /** Lets the device have several descriptors: each call with its name adds a queue. */
  multiQueue?: boolean;
}

/** Which super-packets the driver takes and gives. */
export interface TunOffloads {
  vnetHeader: boolean;
  checksum: boolean;
  tso4: boolean;
  tso6: boolean;
  uso4: boolean;
  uso6: boolean;
  udpTunnelGso: boolean;
}

/** Creates a device, or attaches to a persistent one. Returns its non-blocking descriptor. */
export function openTun(options: TunOptions): { fd: number; name: string } {
  const request = interfaceRequest(options.name);
  const fd = openDriver();
  try {
    request.view.setUint16(IFREQ_DATA, deviceFlags(options), true);
    control(fd, TUNSETIFF, 'ioctl(TUNSETIFF)', options.name, request.address);
    if (options.persist === true) setPersist(fd, true);
  } catch (error) {
    closeFd(fd);
    throw error;
  }
  return { fd, name: request.getText(0, IFREQ_DATA) };
}

/** Device flags the driver knows; `fd` is any descriptor of /dev/net/tun, opened if absent. */
export function tunFeatures(fd?: number): number {
  const driver = fd ?? openDriver();
  const flags = new NativeBlock(4);
  try {
    control(driver, TUNGETFEATURES, 'ioctl(TUNGETFEATURES)', TUN_PATH, flags.address);
  } finally {
    if (fd === undefined) closeFd(driver);
  }
  return flags.view.getUint32(0, true);
}

/** The device behind a descriptor: its present name and whether packets have a vnet header; null
 * where it was deleted. */
export function tunDevice(fd: number): { name: string; vnetHeader: boolean } | null {
  const request = interfaceRequest('');
  const result = libc.result(libc.ioctl(fd, TUNGETIFF, request.address));
  if (result === -ERRNO.EBADFD) return null;
  check(result, 'ioctl(TUNGETIFF)', `descriptor ${fd}`);
  const flags = request.view.getUint16(IFREQ_DATA, true);
  return { name: request.getText(0, IFREQ_DATA), vnetHeader: (flags & IFF_VNET_HDR) !== 0 };
}

/** Keeps the device when its last descriptor is closed, or lets it go then. */
export function setPersist(fd: number, on: boolean): void {
  control(fd, TUNSETPERSIST, 'ioctl(TUNSETPERSIST)', `descriptor ${fd}`, on ? 1 : 0);
}

/** Announces which offloads the reader of this device takes; false when the kernel refuses. */
export function setTunOffload(fd: number, flags: number): boolean {
  const result = libc.result(libc.ioctl(fd, TUNSETOFFLOAD, flags));
  if (result === -ERRNO.EINVAL) return false;
  check(result, 'ioctl(TUNSETOFFLOAD)', `descriptor ${fd}`, ATTACH_REMEDIES);
  return true;
}

/** Sets the size of struct virtio_net_hdr; false when the kernel refuses it. */
export function setVnetHeaderSize(fd: number, sizeBytes: number): boolean {
  const size = new NativeBlock(4);
  size.setInt(0, sizeBytes);
  const result = libc.result(libc.ioctl(fd, TUNSETVNETHDRSZ, size.address));
  if (result === -ERRNO.EINVAL) return false;
  check(result, 'ioctl(TUNSETVNETHDRSZ)', `descriptor ${fd}`);
  return true;
}

/** Asks a throw-away device of this namespace which offloads TUNSETOFFLOAD accepts. */
export function probeOffloads(): TunOffloads {
  const vnetHeader = (tunFeatures() & IFF_VNET_HDR) !== 0;
  const { fd } = openTun({ name: 'tunprobe%d', kind: 'tun', vnetHeader });
  const accepts = (flags: number): boolean => vnetHeader && setTunOffload(fd, TUN_F_CSUM | flags);
  try {
    // The kernel takes USO4 and USO6 only together, tunnel GSO only beside a plain offload.
    const uso = accepts(TUN_F_USO4 | TUN_F_USO6);
    return {
      vnetHeader,
      checksum: accepts(0),
      tso4: accepts(TUN_F_TSO4),
      tso6: accepts(TUN_F_TSO6),
      uso4: uso,
      uso6: uso,
      udpTunnelGso: accepts(TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_UDP_TUNNEL_GSO),
    };
  } finally {
    // Deleting a device takes the kernel some 25 ms, which a daemon that starts need not wait for.
    void closeFdAsync(fd);
  }
}

function openDriver(): number {
  const flags = constants.O_RDWR | constants.O_NONBLOCK | O_CLOEXEC;
  return check(libc.result(libc.open(TUN_PATH, flags, 0)), 'open', TUN_PATH, OPEN_REMEDIES);
}

function deviceFlags(options: TunOptions): number {
  let flags = IFF_NO_PI | (options.kind === 'tap' ? IFF_TAP : IFF_TUN);
  if (options.vnetHeader === true) flags |= IFF_VNET_HDR;
  if (options.multiQueue === true) flags |= IFF_MULTI_QUEUE;
  return flags;
}

function control(
  fd: number, code: number, operation: string, object: string, argument: number,
): void {
  const result = libc.result(libc.ioctl(fd, code, argument));
  if (result < 0) throw new SystemError(operation, object, result, ATTACH_REMEDIES);
}

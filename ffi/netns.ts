// Network namespaces of the calling thread, for tests and the demo.
//
// A namespace made here is held by a descriptor alone: nothing is mounted under /run/netns, so
// nothing is left when the process ends. setns() moves one thread: the main thread and each
// worker thread have their own namespace, while the threads of libuv's pool (dns.lookup,
// asynchronous fs) stay in the one the process started in. What a thread opens while it is inside
// (sockets, TUN devices, netlink) stays inside for good, and a child it spawns lives there.

import { constants, closeSync, openSync, readFileSync, writeSync } from 'node:fs';
import { check, SystemError, type Remedies } from './errno.ts';
import { closeFd, openFile } from './file.ts';
import { setInterfaceUp } from './interface.ts';
import * as libc from './libc.ts';

const CLONE_NEWNET = 0x4000_0000;
const OWN_NAMESPACE = '/proc/thread-self/ns/net';

const REMEDIES: Remedies = {
  EPERM: 'CAP_SYS_ADMIN is needed (root, or a user namespace: unshare -Ur)',
  EINVAL: 'it is not a network namespace, or the kernel has none (CONFIG_NET_NS)',
};

const SYSCTL_REMEDIES: Remedies = {
  ENOENT: 'this kernel has no such parameter, or there is no such interface',
  EACCES: 'root is needed',
  EROFS: 'the container has /proc/sys read-only',
};

/** A network namespace, held by a descriptor. */
export class Namespace {
  readonly fd: number;
  /** Names the namespace for other programs, as long as this process holds it. */
  readonly path: string;

  /** Takes over a descriptor of a namespace. */
  constructor(fd: number) {
    this.fd = fd;
    this.path = `/proc/${process.pid}/fd/${fd}`;
  }

  /**
   * Calls a synchronous function inside the namespace and comes back, also when it throws.
   * A function that returns a promise would run its later parts outside; it is refused.
   */
  run<T>(fn: () => T): T {
    const home = openFile(OWN_NAMESPACE, constants.O_RDONLY);
    try {
      this.enter();
      try {
        const value = fn();
        if (value instanceof Promise) throw new TypeError('run() takes no async function');
        return value;
      } finally {
        setNamespace(home, 'the namespace before run()');
      }
    } finally {
      closeFd(home);
    }
  }

  /** Moves the calling thread into the namespace for good. Meant for worker threads. */
  enter(): void {
    setNamespace(this.fd, this.path);
  }

  /** Lets the namespace go; it ends when no process, socket or descriptor is left in it. */
  close(): void {
    closeFd(this.fd);
  }
}

/** Makes a new network namespace with its loopback interface up. */
export function createNamespace(): Namespace {
  const home = openFile(OWN_NAMESPACE, constants.O_RDONLY);
  try {
    check(libc.result(libc.unshare(CLONE_NEWNET)), 'unshare(CLONE_NEWNET)', 'thread', REMEDIES);
    try {
      setInterfaceUp('lo');
      return currentNamespace();
    } finally {
      setNamespace(home, 'the namespace before createNamespace()');
    }
  } finally {
    closeFd(home);
  }
}

/** Opens a namespace by path, such as `/run/netns/blue` or `/proc/4711/ns/net`. */
export function openNamespace(path: string): Namespace {
  return new Namespace(openFile(path, constants.O_RDONLY));
}

/** The namespace of the calling thread. */
export function currentNamespace(): Namespace {
  return new Namespace(openFile(OWN_NAMESPACE, constants.O_RDONLY));
}

/** Reads a kernel parameter of the calling thread's namespace, named as writeSysctl() names it. */
export function readSysctl(name: string): string {
  const path = sysctlPath(name);
  try {
    return readFileSync(path, 'utf8').trim();
  } catch (error) {
    throw new SystemError('read', path, errnoOf(error), SYSCTL_REMEDIES);
  }
}

/**
 * Sets a kernel parameter of the calling thread's namespace: `net.ipv4.ip_forward`, or with
 * slashes where an interface name may have dots: `net/ipv6/conf/eth0.7/accept_ra`.
 */
export function writeSysctl(name: string, value: string | number): void {
  const path = sysctlPath(name);
  try {
    const fd = openSync(path, 'w');
    try {
      writeSync(fd, `${value}`);
    } finally {
      closeSync(fd);
    }
  } catch (error) {
    throw new SystemError(`write(${value})`, path, errnoOf(error), SYSCTL_REMEDIES);
  }
}

function sysctlPath(name: string): string {
  return `/proc/sys/${name.includes('/') ? name : name.replaceAll('.', '/')}`;
}

function errnoOf(error: unknown): number {
  const isNumbered = error instanceof Error && 'errno' in error && typeof error.errno === 'number';
  if (!isNumbered) throw error;
  return error.errno as number;
}

function setNamespace(fd: number, object: string): void {
  check(libc.result(libc.setns(fd, CLONE_NEWNET)), 'setns', object, REMEDIES);
}

// Unix sockets that carry descriptors (rights.ts), which Node's own do not. unix(7).

import { check, type Remedies } from './errno.ts';
import { closeFd } from './file.ts';
import * as libc from './libc.ts';
import { NativeBlock } from './memory.ts';
import { SOCK_DGRAM, SOCK_NONBLOCK_CLOEXEC, openSocket } from './socket.ts';

const AF_UNIX = 1;
const SOCK_STREAM = 1;
const PATH_AT = 2;
/** Room for a path in struct sockaddr_un, its final zero byte included. */
const PATH_ROOM = 108;

const REMEDIES: Remedies = {
  EACCES: 'the socket is another user\'s',
  ECONNREFUSED: 'nobody serves it',
};

/** Serves a path. Returns a non-blocking descriptor. The mode is what the umask leaves. */
export function listenUnix(path: string, backlog: number): number {
  const fd = openSocket(AF_UNIX, SOCK_STREAM, 0, path);
  try {
    const { name, size } = socketAddress(path);
    check(libc.result(libc.bind(fd, name.address, size)), 'bind', path, REMEDIES);
    check(libc.result(libc.listen(fd, backlog)), 'listen', path);
  } catch (error) {
    closeFd(fd);
    throw error;
  }
  return fd;
}

/** Receives datagrams at a path. Returns a non-blocking descriptor. */
export function bindUnixDatagram(path: string): number {
  const fd = openSocket(AF_UNIX, SOCK_DGRAM, 0, path);
  const { name, size } = socketAddress(path);
  const bound = libc.result(libc.bind(fd, name.address, size));
  if (bound < 0) closeFd(fd);
  check(bound, 'bind', path, REMEDIES);
  return fd;
}

/** Takes a connection. Returns its non-blocking descriptor, or a negative errno. */
export function acceptUnix(listener: number): number {
  return libc.result(libc.accept4(listener, 0, 0, SOCK_NONBLOCK_CLOEXEC));
}

/** Connects to a path. Returns a non-blocking descriptor, or a negative errno. */
export function connectUnix(path: string): number {
  return connectTo(path, SOCK_STREAM);
}

/** Opens a datagram socket towards a path; an abstract name begins with `@`. */
export function connectUnixDatagram(path: string): number {
  return check(connectTo(path, SOCK_DGRAM), 'connect', path, REMEDIES);
}

function connectTo(path: string, type: number): number {
  const fd = openSocket(AF_UNIX, type, 0, path);
  const { name, size } = socketAddress(path);
  const connected = libc.result(libc.connect(fd, name.address, size));
  if (connected === 0) return fd;
  closeFd(fd);
  return connected;
}

/** struct sockaddr_un. */
function socketAddress(path: string): { name: NativeBlock; size: number } {
  const bytes = Buffer.from(path);
  if (bytes.length === 0 || bytes.length >= PATH_ROOM) {
    throw new RangeError(`${path}: a socket's path has 1 to ${PATH_ROOM - 1} bytes`);
  }
  const name = new NativeBlock(PATH_AT + PATH_ROOM);
  name.view.setUint16(0, AF_UNIX, true);
  name.bytes.set(bytes, PATH_AT);
  if (path.startsWith('@')) name.bytes[PATH_AT] = 0;
  const isAbstract = path.startsWith('@');
  return { name, size: PATH_AT + bytes.length + (isAbstract ? 0 : 1) };
}

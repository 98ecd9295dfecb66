// Error numbers of Linux and the error that set-up calls throw.
//
// The numbers are those of asm-generic/errno.h, which amd64, arm64, armhf and riscv64 share.
// Hot calls (read, write, poll, recvmmsg, sendmmsg) never throw; they return `-ERRNO.NAME`.

import { getSystemErrorName } from 'node:util';

/** Error numbers that are used by name here or by our callers. */
export const ERRNO = {
  EPERM: 1, ENOENT: 2, ESRCH: 3, EINTR: 4, EIO: 5, ENXIO: 6, E2BIG: 7, EBADF: 9, EAGAIN: 11,
  ENOMEM: 12, EACCES: 13, EFAULT: 14, EBUSY: 16, EEXIST: 17, ENODEV: 19, ENOTDIR: 20, EISDIR: 21,
  EINVAL: 22, ENFILE: 23, EMFILE: 24, ENOTTY: 25, ENOSPC: 28, EROFS: 30, EPIPE: 32, ERANGE: 34,
  ENOSYS: 38, EBADFD: 77, EDESTADDRREQ: 89, EMSGSIZE: 90, EPROTOTYPE: 91, ENOPROTOOPT: 92,
  EPROTONOSUPPORT: 93, EOPNOTSUPP: 95, EAFNOSUPPORT: 97, EADDRINUSE: 98, EADDRNOTAVAIL: 99,
  ENETDOWN: 100, ENETUNREACH: 101, ECONNRESET: 104, ENOBUFS: 105, ENOTCONN: 107, ETIMEDOUT: 110,
  ECONNREFUSED: 111, EHOSTDOWN: 112, EHOSTUNREACH: 113,
} as const;

const NAMES = new Map<number, string>(
  Object.entries(ERRNO).map(([name, number]) => [number, name]),
);

/** Names an error number, given either sign: `errnoName(-11)` is `EAGAIN`. */
export function errnoName(errno: number): string {
  const positive = Math.abs(errno);
  const name = NAMES.get(positive);
  if (name !== undefined || positive === 0) return name ?? 'no error';
  const other = getSystemErrorName(-positive);
  return other.startsWith('E') ? other : `errno ${positive}`;
}

/** What the operator can do about an error, by error name; `default` serves all others. */
export type Remedies = Readonly<Record<string, string>>;

/**
 * A failed set-up call. Its message names operation, object, cause and, where one is known, the
 * remedy: `ioctl(TUNSETIFF) on culvert0: EPERM; CAP_NET_ADMIN is needed`.
 */
export class SystemError extends Error {
  override readonly name = 'SystemError';
  readonly operation: string;
  readonly object: string;
  /** Positive error number. */
  readonly errno: number;
  /** Name of the error number, such as `EPERM`. */
  readonly code: string;

  constructor(operation: string, object: string, errno: number, remedies: Remedies = {}) {
    const code = errnoName(errno);
    const remedy = remedies[code] ?? remedies['default'];
    super(`${operation} on ${object}: ${code}${remedy === undefined ? '' : `; ${remedy}`}`);
    this.operation = operation;
    this.object = object;
    this.errno = Math.abs(errno);
    this.code = code;
  }
}

/** Passes a result through, or throws a SystemError when it is a negative error number. */
export function check(
  result: number, operation: string, object: string, remedies: Remedies = {},
): number {
  if (result < 0) throw new SystemError(operation, object, result, remedies);
  return result;
}

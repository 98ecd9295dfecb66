// systemd's descriptor store, in the place of a holder: the service manager keeps a second
// descriptor of what it is sent, and hands everything over when it starts the service again.
// sd_notify(3), sd_pid_notify_with_fds(3), sd_listen_fds_with_names(3).
//
// The unit needs FileDescriptorStoreMax=, of which systemd 254 and later tell the service, as
// $FDSTORE; for earlier ones the unit says so itself. A holder of ours would end with the service:
// systemd ends every process of its group.

import { ERRNO, errnoName } from '../ffi/errno.ts';
import { closeFd, setCloseOnExec } from '../ffi/file.ts';
import { POLLOUT, waitFor } from '../ffi/poll.ts';
import { sendWithFd } from '../ffi/rights.ts';
import { connectUnixDatagram } from '../ffi/unix-socket.ts';
import type { Keeper } from './handover.ts';

/** Where inherited descriptors begin. */
const FIRST_FD = 3;
/** How long a busy manager is waited for. */
const WRITE_TIMEOUT_MS = 1000;

type Environment = Readonly<Record<string, string | undefined>>;

export class SystemdStore implements Keeper {
  readonly kind = 'systemd';
  readonly #socket: number;
  readonly #names = new Set<string>();
  /** What an earlier daemon has left, by name. */
  readonly #left: Map<string, number>;

  private constructor(socket: number, left: Map<string, number>) {
    this.#socket = socket;
    this.#left = left;
    for (const name of left.keys()) this.#names.add(name);
  }

  /** The store that a service's environment tells of; null where there is none for us. */
  static from(environment: Environment): SystemdStore | null {
    const path = environment['NOTIFY_SOCKET'] ?? '';
    if (path === '' || !(Number(environment['FDSTORE'] ?? 0) > 0)) return null;
    return new SystemdStore(connectUnixDatagram(path), inherited(environment));
  }

  /** What an earlier daemon has left, by name. */
  list(): Map<string, number> {
    return this.#left;
  }

  /** Goes on with what another process of the service has had kept under these names. */
  adopt(names: Iterable<string>): void {
    for (const name of names) this.#names.add(name);
  }

  put(name: string, fd: number): void {
    if (this.#names.has(name)) this.drop(name);
    this.#names.add(name);
    // Without FDPOLL=0 systemd would let go of a device that is down.
    this.#send(`FDSTORE=1\nFDPOLL=0\nFDNAME=${name}`, fd);
  }

  drop(name: string): void {
    this.#names.delete(name);
    this.#send(`FDSTOREREMOVE=1\nFDNAME=${name}`, -1);
  }

  stop(): void {
    for (const name of [...this.#names]) this.drop(name);
    this.close();
  }

  close(): void {
    closeFd(this.#socket);
  }

  #send(text: string, fd: number): void {
    const bytes = Buffer.from(text);
    let sent = sendWithFd(this.#socket, bytes, fd);
    // A socket's queue holds few datagrams, and the manager may be busy.
    while (sent === -ERRNO.EAGAIN && waitFor(this.#socket, POLLOUT, WRITE_TIMEOUT_MS) > 0) {
      sent = sendWithFd(this.#socket, bytes, fd);
    }
    if (sent < 0) throw new Error(`tell systemd: ${errnoName(sent)}`);
  }
}

/** Descriptors that the manager has handed to this very process. */
function inherited(environment: Environment): Map<string, number> {
  const left = new Map<string, number>();
  if (Number(environment['LISTEN_PID']) !== process.pid) return left;
  const names = (environment['LISTEN_FDNAMES'] ?? '').split(':');
  const count = Number(environment['LISTEN_FDS'] ?? 0);
  for (let place = 0; place < count; place += 1) {
    const fd = FIRST_FD + place;
    setCloseOnExec(fd);
    const name = names[place] ?? '';
    if (left.has(name)) closeFd(fd);
    else left.set(name, fd);
  }
  return left;
}

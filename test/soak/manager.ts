// What systemd is to a daemon that it runs: takes the descriptors that the daemon sends it, and
// hands them to the next one. sd_notify(3), sd_pid_notify_with_fds(3), sd_listen_fds(3).

import { closeFd } from '../../ffi/file.ts';
import { receiveWithFd } from '../../ffi/rights.ts';
import { bindUnixDatagram } from '../../ffi/unix-socket.ts';

const LOOK_MS = 5;
const MESSAGE_SIZE_MAX = 4096;
const STORE_LIMIT = 512;

export class Manager {
  readonly #path: string;
  readonly #socket: number;
  readonly #kept = new Map<string, number>();
  readonly #timer: NodeJS.Timeout;

  constructor(path: string) {
    this.#path = path;
    this.#socket = bindUnixDatagram(path);
    this.#timer = setInterval(() => this.#hear(), LOOK_MS);
  }

  /** What the next daemon is started with: words before its command, and the descriptors. */
  launch(): { words: string[]; descriptors: number[] } {
    this.#hear();
    const names = [...this.#kept.keys()].join(':');
    return {
      words: [
        '/bin/sh', '-c', 'export LISTEN_PID=$$; exec "$@"', 'sh', '/usr/bin/env',
        `NOTIFY_SOCKET=${this.#path}`, `FDSTORE=${STORE_LIMIT}`, `LISTEN_FDNAMES=${names}`,
        `LISTEN_FDS=${this.#kept.size}`,
      ],
      descriptors: [...this.#kept.values()],
    };
  }

  /** How many descriptors wait for the next daemon. */
  get size(): number {
    return this.#kept.size;
  }

  close(): void {
    clearInterval(this.#timer);
    for (const fd of this.#kept.values()) closeFd(fd);
    closeFd(this.#socket);
  }

  #hear(): void {
    const bytes = new Uint8Array(MESSAGE_SIZE_MAX);
    for (;;) {
      const { count, fd } = receiveWithFd(this.#socket, bytes);
      if (count < 0) return;
      const text = Buffer.from(bytes.subarray(0, count)).toString();
      const name = /^FDNAME=(.*)$/m.exec(text)?.[1] ?? '';
      if (/^FDSTORE=1$/m.test(text)) this.#keep(name, fd);
      else if (/^FDSTOREREMOVE=1$/m.test(text)) this.#drop(name);
      else if (fd >= 0) closeFd(fd);
    }
  }

  #keep(name: string, fd: number): void {
    this.#drop(name);
    this.#kept.set(name, fd);
  }

  #drop(name: string): void {
    const fd = this.#kept.get(name);
    if (fd !== undefined) closeFd(fd);
    this.#kept.delete(name);
  }
}

// A machine of its own with Debian's kernel, which has tunnels that this machine's kernel may lack:
// QEMU without hardware help, a kernel and a file system in memory. Its network interfaces are TAPs
// that the caller has opened, in whatever namespaces; commands go over its serial console.
//
//     this process                         guest
//   commands, answers ---- ttyS0 ---- a shell, started as /init
//   console.log ---------- ttyS1 ---- what the kernel says
//   TAP, TAP ... --------- virtio --- eth0, eth1 ...
//
// The guest ends with this process, however that comes.

import { spawn, type ChildProcess } from 'node:child_process';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { GUEST_DONE, GUEST_READY, makeGuestImage } from './qemu-image.ts';
import { endsWithUs, findTool } from './tools.ts';

const BOOT_LIMIT_MS = 60_000;
const COMMAND_LIMIT_MS = 20_000;
const MEMORY_MIB = 256;
/** What a shell takes as one line. */
const LINE_LIMIT = 4000;
const QUOTED_LINES = 5;

/** A network interface of a guest: the descriptor of a TAP, and the guest's MAC on it. */
export interface GuestLink {
  fd: number;
  mac: string;
}

export class Guest {
  readonly #child: ChildProcess;
  readonly #consoleLog: string;
  readonly #exited: Promise<void>;
  #output = '';
  #log = '';
  #hasExited = false;
  #onOutput: () => void = () => {};
  /** Commands go one by one. */
  #last: Promise<unknown> = Promise.resolve();

  private constructor(folder: string, links: readonly GuestLink[]) {
    const { kernel, archive } = makeGuestImage();
    const archivePath = join(folder, 'guest.cpio');
    this.#consoleLog = join(folder, 'console.log');
    writeFileSync(archivePath, archive);
    const [program = '', ...words] = [
      ...endsWithUs(), findTool('qemu-system-x86_64') ?? '',
      '-nodefaults', '-no-user-config', '-display', 'none', '-no-reboot', '-machine', 'q35',
      '-accel', 'tcg', '-cpu', 'max', '-smp', '1', '-m', `${MEMORY_MIB}`,
      '-kernel', kernel, '-initrd', archivePath,
      '-append', 'console=ttyS1 quiet panic=-1 mitigations=off random.trust_cpu=on',
      '-serial', 'stdio', '-serial', `file:${this.#consoleLog}`,
      ...links.flatMap(({ mac }, index) => [
        '-netdev', `tap,id=n${index},fd=${3 + index}`,
        '-device', `virtio-net-pci,netdev=n${index},mac=${mac},romfile=`,
      ]),
    ];
    this.#child = spawn(program, words, {
      stdio: ['pipe', 'pipe', 'pipe', ...links.map(({ fd }) => fd)],
    });
    this.#child.stdout?.on('data', (chunk: Buffer) => {
      this.#output += chunk.toString();
      this.#onOutput();
    });
    this.#child.stderr?.on('data', (chunk: Buffer) => { this.#log += chunk.toString(); });
    this.#child.stdin?.on('error', () => {});
    this.#exited = new Promise((resolve) => {
      const end = (): void => {
        this.#hasExited = true;
        this.#onOutput();
        resolve();
      };
      this.#child.on('error', (error) => {
        this.#log += error.message;
        end();
      });
      this.#child.on('close', end);
    });
  }

  /** Starts a guest and waits for its shell. `folder` is for files that may go with it; the links'
   * descriptors may be closed afterwards. Precondition: guestReason() is null. */
  static async boot(folder: string, links: readonly GuestLink[]): Promise<Guest> {
    const guest = new Guest(folder, links);
    try {
      await guest.#until(new RegExp(`${GUEST_READY}\\r?\\n`), BOOT_LIMIT_MS, 'boot');
      return guest;
    } catch (error) {
      await guest.close();
      throw error;
    }
  }

  /** Runs lines of shell and gives what they printed. Throws when one fails. */
  run(...lines: string[]): Promise<string> {
    const turn = this.#last.then(async () => {
      let printed = '';
      for (const line of lines) printed += await this.#runLine(line);
      return printed;
    });
    this.#last = turn.catch(() => {});
    return turn;
  }

  async close(): Promise<void> {
    if (!this.#hasExited) this.#child.kill('SIGKILL');
    await this.#exited;
  }

  async #runLine(line: string): Promise<string> {
    if (line.length > LINE_LIMIT || line.includes('\n')) throw new Error('not one line of shell');
    this.#child.stdin?.write(`${line}\n`);
    const done = new RegExp(`${GUEST_DONE} (\\d+)\\r?\\n`);
    const { before, match } = await this.#until(done, COMMAND_LIMIT_MS, line);
    if (match[1] !== '0') throw new Error(`guest: ${line}: ${before.trim()} (${match[1]})`);
    return before;
  }

  /** Waits for a text and takes all up to it. */
  async #until(
    wanted: RegExp, limitMs: number, what: string,
  ): Promise<{ before: string; match: RegExpExecArray }> {
    const deadline = performance.now() + limitMs;
    for (;;) {
      const match = wanted.exec(this.#output);
      if (match !== null) {
        const before = this.#output.slice(0, match.index).replaceAll('\r', '');
        this.#output = this.#output.slice(match.index + match[0].length);
        return { before, match };
      }
      const leftMs = deadline - performance.now();
      if (this.#hasExited) throw this.#failure(what, 'it has ended');
      if (leftMs <= 0) throw this.#failure(what, 'not in time');
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, leftMs);
        this.#onOutput = () => {
          clearTimeout(timer);
          resolve();
        };
      });
    }
  }

  #failure(what: string, why: string): Error {
    const said = existsSync(this.#consoleLog) ? readFileSync(this.#consoleLog, 'utf8') : '';
    const lines = `${said}\n${this.#output}\n${this.#log}`.split('\n')
      .map((line) => line.trim()).filter((line) => line !== '');
    return new Error([`guest: ${what}: ${why}`, ...lines.slice(-QUOTED_LINES)].join('; '));
  }
}

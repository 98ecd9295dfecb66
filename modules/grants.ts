// What a module gets in place of WASI (version 0.2) where the operator lets it import some: a
// system that has nothing. No variable, no argument, no file, nothing to read; what is written is
// thrown away; exit() is a fault like a trap. Clocks and randomness are real. There is no network,
// and none can be granted. Modules that were built with a C library or from JavaScript import such
// things though they never use them.

import { randomFillSync } from 'node:crypto';
import type { WasiName } from './image.ts';

type Interface = Record<string, unknown>;

/** Bytes that an output stream takes at once, and that randomness is given at once. */
const STREAM_BYTES = 65536;
const NANOSECONDS_PER_MS = 1_000_000;

/** Thrown by exit(): ends the call, not the process. */
export class ExitError extends Error {
  override name = 'ExitError';
}

function refuseExit(): never {
  throw new ExitError('the module called exit()');
}

/** `stream-error` of wasi:io/streams: nothing more comes. */
function closed(): never {
  throw { tag: 'closed' };
}

/** `error-code` of wasi:filesystem/types. */
function notPermitted(): never {
  throw 'not-permitted';
}

class IoError {
  toDebugString(): string {
    return 'not permitted';
  }
}

class Pollable {
  ready(): boolean {
    return true;
  }

  block(): void {}
}

class InputStream {
  read(): never { return closed(); }
  blockingRead(): never { return closed(); }
  skip(): never { return closed(); }
  blockingSkip(): never { return closed(); }
  subscribe(): Pollable { return new Pollable(); }
}

class OutputStream {
  checkWrite(): bigint { return BigInt(STREAM_BYTES); }
  write(): void {}
  blockingWriteAndFlush(): void {}
  flush(): void {}
  blockingFlush(): void {}
  writeZeroes(): void {}
  blockingWriteZeroesAndFlush(): void {}
  splice(): bigint { return 0n; }
  blockingSplice(): bigint { return 0n; }
  subscribe(): Pollable { return new Pollable(); }
}

class Terminal {}

/** Functions of `descriptor`, all of which are refused; none can be got at anyway. */
const DESCRIPTOR_METHODS = [
  'readViaStream', 'writeViaStream', 'appendViaStream', 'advise', 'syncData', 'getFlags', 'getType',
  'setSize', 'setTimes', 'read', 'write', 'readDirectory', 'sync', 'createDirectoryAt', 'stat',
  'statAt', 'setTimesAt', 'linkAt', 'openAt', 'readlinkAt', 'removeDirectoryAt', 'renameAt',
  'symlinkAt', 'unlinkFileAt', 'isSameObject', 'metadataHash', 'metadataHashAt',
];

class Descriptor {}
for (const name of DESCRIPTOR_METHODS) {
  Object.defineProperty(Descriptor.prototype, name, { value: notPermitted });
}

class DirectoryEntryStream {
  readDirectoryEntry(): never { return notPermitted(); }
}

function randomBytes(length: bigint): Uint8Array {
  if (length > BigInt(STREAM_BYTES)) throw new RangeError('too many random bytes at once');
  return randomFillSync(new Uint8Array(Number(length)));
}

function randomNumber(): bigint {
  return randomFillSync(new BigUint64Array(1))[0] ?? 0n;
}

function monotonicNow(): bigint {
  return process.hrtime.bigint();
}

function wallClock(): { seconds: bigint; nanoseconds: number } {
  const ms = Date.now();
  return {
    seconds: BigInt(Math.floor(ms / 1000)), nanoseconds: (ms % 1000) * NANOSECONDS_PER_MS,
  };
}

const WASI: Record<Exclude<WasiName, 'clock'>, Record<string, Interface>> = {
  'wasi-cli': {
    'wasi:cli/environment': {
      getEnvironment: () => [], getArguments: () => [], initialCwd: () => undefined,
    },
    'wasi:cli/exit': { exit: refuseExit, exitWithCode: refuseExit },
    'wasi:cli/stdin': { InputStream, getStdin: () => new InputStream() },
    'wasi:cli/stdout': { OutputStream, getStdout: () => new OutputStream() },
    'wasi:cli/stderr': { OutputStream, getStderr: () => new OutputStream() },
    'wasi:cli/terminal-input': { TerminalInput: Terminal },
    'wasi:cli/terminal-output': { TerminalOutput: Terminal },
    'wasi:cli/terminal-stdin': { getTerminalStdin: () => undefined },
    'wasi:cli/terminal-stdout': { getTerminalStdout: () => undefined },
    'wasi:cli/terminal-stderr': { getTerminalStderr: () => undefined },
  },
  'wasi-io': {
    'wasi:io/error': { Error: IoError },
    'wasi:io/poll': { Pollable, poll: (list: unknown[]) => Uint32Array.from(list.keys()) },
    'wasi:io/streams': { InputStream, OutputStream },
  },
  'wasi-clocks': {
    'wasi:clocks/monotonic-clock': {
      now: monotonicNow, resolution: () => 1n,
      subscribeInstant: () => new Pollable(), subscribeDuration: () => new Pollable(),
    },
    'wasi:clocks/wall-clock': {
      now: wallClock, resolution: () => ({ seconds: 0n, nanoseconds: NANOSECONDS_PER_MS }),
    },
  },
  'wasi-filesystem': {
    'wasi:filesystem/types': {
      Descriptor, DirectoryEntryStream, filesystemErrorCode: () => undefined,
    },
    'wasi:filesystem/preopens': { Descriptor, getDirectories: () => [] },
  },
  'wasi-random': {
    'wasi:random/random': { getRandomBytes: randomBytes, getRandomU64: randomNumber },
    'wasi:random/insecure': {
      getInsecureRandomBytes: randomBytes, getInsecureRandomU64: randomNumber,
    },
    'wasi:random/insecure-seed': { insecureSeed: () => [randomNumber(), randomNumber()] },
  },
};

/** The grant that lets a module import an interface, named without its version; null where no grant
 * does. */
export function grantFor(name: string): WasiName | null {
  if (name === 'culvert:policy/clock') return 'clock';
  for (const [grant, interfaces] of Object.entries(WASI)) {
    if (name in interfaces) return grant as WasiName;
  }
  return null;
}

/** The WASI interfaces of some grants. */
export function grantedInterfaces(allow: readonly WasiName[]): Record<string, Interface> {
  return Object.assign({}, ...allow.map((grant) => (grant === 'clock' ? {} : WASI[grant])));
}

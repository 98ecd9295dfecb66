// Compiles a component in another process, within limits of time and memory. Whatever the component
// is, the caller gets an image or a ModuleError and has lost nothing.

import { spawn, type ChildProcess } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import type { InspectOptions } from './compile.ts';
import { ModuleError, type ModuleFault } from './error.ts';
import { decodeImage, type ModuleImage } from './image.ts';
import { MODULE_COMPILE_BYTES, MODULE_COMPILE_MS, MODULE_COMPONENT_BYTES,
  MODULE_MEMORY_CAP_BYTES_LIMIT, MODULE_START_MS } from './limits.ts';

const PROGRAM = fileURLToPath(new URL('./compile-process.js', import.meta.url));
const CHECK_EVERY_MS = 20;
const REFUSED = 2;
const HEADER_SIZE = 8;
/** `\0asm`, then the version: a component's has layer 1 in its upper half. */
const MAGIC = [0, 0x61, 0x73, 0x6d];
const LAYER = 6;
/** The heap of JavaScript in the process; the rest of its memory is WebAssembly's. */
const HEAP_OPTIONS = ['--max-old-space-size=128', '--max-semi-space-size=2'];
const SAID_LENGTH = 4096;

/** What the process printed and how it ended. */
interface Ending {
  code: number | null;
  output: Uint8Array;
  said: string;
  /** The most resident memory that was seen. */
  peakBytes: number;
  fault: ModuleError | null;
}

/** What was measured while a component was compiled. */
export interface CompileCost {
  peakBytes: number;
  milliseconds: number;
}

/** Compiles and checks a component. Throws ModuleError. `measured` is told what it cost. */
export async function inspectComponent(
  bytes: Uint8Array, options: InspectOptions, measured?: (cost: CompileCost) => void,
): Promise<ModuleImage> {
  checkForm(bytes);
  if (options.memoryCapBytes > MODULE_MEMORY_CAP_BYTES_LIMIT) {
    throw new ModuleError('memory', `A module may have ${MODULE_MEMORY_CAP_BYTES_LIMIT} bytes of `
      + `memory at most, not ${options.memoryCapBytes}.`);
  }
  const startMs = performance.now();
  const ending = await runProcess(bytes, options);
  measured?.({ peakBytes: ending.peakBytes, milliseconds: performance.now() - startMs });
  if (ending.fault !== null) throw ending.fault;
  if (ending.code === 0) return decodeImage(ending.output);
  if (ending.code === REFUSED) throw refusal(ending.output);
  const reason = ending.said.split('\n').find((line) => /error|fatal|panicked/i.test(line));
  throw new ModuleError('limit', 'The component could not be compiled: '
    + `${reason?.trim() ?? 'the process that did so ended'}.`);
}

/** What can be seen without compiling. */
function checkForm(bytes: Uint8Array): void {
  if (bytes.length > MODULE_COMPONENT_BYTES) {
    throw new ModuleError('too-big', `The component has ${bytes.length} bytes; it may have `
      + `${MODULE_COMPONENT_BYTES}.`);
  }
  if (bytes.length < HEADER_SIZE || MAGIC.some((byte, at) => bytes[at] !== byte)) {
    throw new ModuleError('not-a-component', 'The file is no WebAssembly.');
  }
  if (bytes[LAYER] !== 1) {
    throw new ModuleError('not-a-component', 'The file is a core WebAssembly module, not a '
      + 'component; `culvert module build` makes components.');
  }
}

function refusal(output: Uint8Array): ModuleError {
  const { kind, message } = JSON.parse(new TextDecoder().decode(output)) as {
    kind: ModuleFault; message: string;
  };
  return new ModuleError(kind, message);
}

/** The most resident memory that a process has had; 0 where nobody tells. */
function residentBytes({ pid }: ChildProcess): number {
  try {
    const status = readFileSync(`/proc/${pid}/status`, 'utf8');
    return Number(/^VmHWM:\s+(\d+) kB/m.exec(status)?.[1] ?? 0) * 1024;
  } catch {
    return 0;
  }
}

function runProcess(bytes: Uint8Array, { allow, memoryCapBytes }: InspectOptions): Promise<Ending> {
  const child = spawn(
    process.execPath,
    [...HEAP_OPTIONS, PROGRAM, String(memoryCapBytes), ...allow],
    { stdio: 'pipe', env: {}, cwd: '/' },
  );
  const chunks: Buffer[] = [];
  const ending: Ending = {
    code: null, output: new Uint8Array(), said: '', peakBytes: 0, fault: null,
  };
  const end = (kind: ModuleFault, message: string): void => {
    ending.fault ??= new ModuleError(kind, message);
    child.kill('SIGKILL');
  };
  const startMs = performance.now();
  let startedMs = Infinity;
  const timer = setInterval(() => {
    const nowMs = performance.now();
    const resident = residentBytes(child);
    ending.peakBytes = Math.max(ending.peakBytes, resident);
    if (resident > MODULE_COMPILE_BYTES + memoryCapBytes) {
      end('limit', `Compiling the component takes more than ${MODULE_COMPILE_BYTES} bytes.`);
    }
    if (nowMs - startedMs > MODULE_START_MS) {
      end('timeout', `The module did not start and describe itself within ${MODULE_START_MS} ms.`);
    }
    if (nowMs - startMs > MODULE_COMPILE_MS) {
      end('timeout', `The component was not compiled within ${MODULE_COMPILE_MS} ms.`);
    }
  }, CHECK_EVERY_MS);
  child.stdout.on('data', (chunk: Buffer) => chunks.push(chunk));
  child.stderr.on('data', (chunk: Buffer) => {
    ending.said = (ending.said + chunk.toString()).slice(-SAID_LENGTH);
    if (ending.said.startsWith('start\n')) startedMs = Math.min(startedMs, performance.now());
  });
  child.stdin.on('error', () => {}); // Ended before it has read all: how it ended tells why.
  child.stdin.end(bytes);
  return new Promise((resolve, reject) => {
    child.on('error', reject);
    child.on('close', (code) => {
      clearInterval(timer);
      resolve({ ...ending, code, output: Buffer.concat(chunks) });
    });
  }).finally(() => clearInterval(timer)) as Promise<Ending>;
}

// Verbs that call policy modules run in a thread of their own, which this one watches: a module
// that does not come back from a call would keep the command for ever.

import { readFileSync } from 'node:fs';
import { Worker } from 'node:worker_threads';
import { Core } from '../../engine/core.ts';
import { currentModule, moduleCalls } from '../../engine/modules.ts';
import { CommandError, EXIT_FAILED } from '../exit.ts';
import type { ExplainOptions, TestOptions } from '../policy.ts';
import { CORE_PATH } from '../version.ts';

export type Work =
  | { verb: 'test'; options: TestOptions }
  | { verb: 'explain'; options: ExplainOptions };

/** How the verb ended: its exit code, and what to say where it failed. */
export interface Ended {
  code: number;
  problem: string | null;
}

/** A module that is being started and configured; null once all of them are. */
export interface Starting {
  starting: string | null;
}

/** A core with modules that the thread is about to run. */
export interface Watched {
  memory: WebAssembly.Memory;
  /** Names of the modules by their places. */
  names: string[];
}

/** One call of a module may take so long; on a node it is milliseconds. */
const CALL_LIMIT_MS = 2000;
const LOOK_MS = 100;

/** Runs a verb. Returns its exit code. */
export function runWatched(work: Work): Promise<number> {
  return new Promise((resolve, reject) => {
    const thread = new Worker(new URL('./policy-thread.js', import.meta.url), { workerData: work });
    let ended: Ended = { code: EXIT_FAILED, problem: 'the thread has ended' };
    let look = (): string | null => null;
    const timer = setInterval(() => {
      const problem = look();
      if (problem === null) return;
      ended = { code: EXIT_FAILED, problem };
      void thread.terminate();
    }, LOOK_MS);
    thread.on('message', (message: Ended | Starting | Watched) => {
      if ('memory' in message) look = callWatcher(message);
      else if ('starting' in message) look = startWatcher(message);
      else ended = message;
    });
    thread.once('error', (error) => { ended = { code: EXIT_FAILED, problem: error.message }; });
    thread.once('exit', () => {
      clearInterval(timer);
      const { code, problem } = ended;
      if (problem === null) resolve(code);
      else reject(new CommandError(code, problem));
    });
  });
}

/** Looks now and then whether a module's start takes too long; returns what to say then. */
function startWatcher({ starting }: Starting): () => string | null {
  const sinceMs = performance.now();
  return () => (starting !== null && performance.now() - sinceMs > CALL_LIMIT_MS
    ? `module ${starting} does not come back from its configuration` : null);
}

/** Looks now and then at the calls of a core. */
function callWatcher({ memory, names }: Watched): () => string | null {
  const core = Core.attach(new WebAssembly.Module(readFileSync(CORE_PATH)), memory);
  let last = '';
  let sinceMs = performance.now();
  return () => {
    const place = currentModule(core, 0);
    const now = `${place} ${moduleCalls(core, 0)}`;
    if (place < 0 || now !== last) sinceMs = performance.now();
    last = now;
    if (performance.now() - sinceMs <= CALL_LIMIT_MS) return null;
    return `module ${names[place] ?? place} does not come back from a packet`;
  };
}

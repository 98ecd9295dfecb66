// The sidecar: follows a source of Kubernetes objects and keeps the host told.

import type { Log } from '../engine/log.ts';
import type { Pod } from '../engine/model.ts';
import { withLocalEndpoints } from './local-endpoints.ts';
import type { Entry } from './objects.ts';
import { PolicyCompiler } from './policy/compiler.ts';
import { Sender } from './send.ts';
import type { SenderOptions } from './send.ts';
import { translate } from './translate.ts';
import { watchFiles } from './watch.ts';
import type { FileSourceOptions, Sink } from './watch.ts';

export interface SyncOptions {
  /** `file:PATH`, a file or a folder of objects. */
  source: string;
  /** The host's sync.sock. */
  socket: string;
  /** The node this sidecar is for. */
  nodeName: string;
  version: string;
  signal: AbortSignal;
  /** Isolates namespaces by the annotation that was NetworkPolicy before Kubernetes 1.7. */
  legacyAnnotation?: boolean;
  /** Times, where the usual ones do not fit. */
  file?: Omit<FileSourceOptions, 'path'>;
  sender?: Omit<SenderOptions, 'socket' | 'version' | 'log'>;
}

/** Runs until the signal aborts. Rejects at once for a source that does not exist. */
export async function runSync(options: SyncOptions, log: Log): Promise<void> {
  const path = filePath(options.source);
  const { socket, version, nodeName, signal } = options;
  const compiler = new PolicyCompiler({
    local: nodeName, legacyAnnotation: options.legacyAnnotation ?? false,
  });
  const translator = new Translator(compiler, options, log);
  const sender = new Sender({
    ...options.sender, socket, version, log,
    onEndpoints: (endpoints) => translator.takeEndpoints(endpoints),
  });
  translator.sender = sender;
  log.info({ source: options.source, node: nodeName, socket }, 'sync starts');
  await Promise.all([
    watchFiles({ ...options.file, path }, translator, signal),
    sender.run(signal),
  ]);
  log.info({}, 'sync stopped');
}

/** Hands good states on and tells the operator about the others. */
class Translator implements Sink {
  sender: Sender | null = null;
  readonly #compiler: PolicyCompiler;
  readonly #nodeName: string;
  readonly #log: Log;
  /** As the source has them; null before it has spoken. */
  #entries: readonly Entry[] | null = null;
  #endpoints: readonly Pod[] = [];
  #warned = '';

  constructor(compiler: PolicyCompiler, { nodeName }: SyncOptions, log: Log) {
    this.#compiler = compiler;
    this.#nodeName = nodeName;
    this.#log = log;
  }

  state(entries: readonly Entry[]): void {
    this.#entries = entries;
    this.#bring();
  }

  problem(problems: readonly string[]): void {
    for (const problem of problems) this.#log.error({}, problem);
    this.#log.error(
      { problems: problems.length }, 'the objects are not used; the last state stays');
  }

  /** Told of the pods attached to our node. */
  takeEndpoints(endpoints: readonly Pod[]): void {
    this.#endpoints = endpoints;
    if (this.#entries !== null) this.#bring();
  }

  #bring(): void {
    const entries = withLocalEndpoints(this.#entries ?? [], this.#nodeName, this.#endpoints);
    const { content, problems, warnings } = translate(entries, this.#nodeName);
    if (problems.length > 0) return this.problem(problems);
    this.#compiler.replace(entries);
    const change = this.#compiler.commit();
    this.#warn([...warnings, ...this.#compiler.problems]);
    const policy = { change, whole: () => this.#compiler.snapshot() };
    if (this.sender?.update(content, policy) !== true) return;
    const counts = { nodes: content.nodes.length, pods: content.pods.length };
    this.#log.info(counts, 'the cluster has changed');
  }

  /** Says the same once. */
  #warn(warnings: readonly string[]): void {
    if (warnings.join('\n') !== this.#warned) {
      for (const warning of warnings) this.#log.warn({}, warning);
    }
    this.#warned = warnings.join('\n');
  }
}

function filePath(source: string): string {
  const [, kind, rest] = /^([a-z]+):?(.*)$/.exec(source) ?? [];
  if (kind === 'file' && rest) return rest;
  if (kind === 'file') throw new Error('source file: a path is missing, as in file:/etc/culvert');
  throw new Error(`source ${source}: not known; there is file:PATH`);
}

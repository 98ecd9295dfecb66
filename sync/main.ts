// The sidecar: follows a source of Kubernetes objects and keeps the host told.

import type { Log } from '../engine/log.ts';
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
  const sender = new Sender({ ...options.sender, socket, version, log });
  const compiler = new PolicyCompiler({
    local: nodeName, legacyAnnotation: options.legacyAnnotation ?? false,
  });
  log.info({ source: options.source, node: nodeName, socket }, 'sync starts');
  await Promise.all([
    watchFiles({ ...options.file, path }, sinkInto(sender, compiler, options, log), signal),
    sender.run(signal),
  ]);
  log.info({}, 'sync stopped');
}

/** Hands good states on and tells the operator about the others. */
function sinkInto(
  sender: Sender, compiler: PolicyCompiler, { nodeName }: SyncOptions, log: Log,
): Sink {
  let warned = '';
  const refuse = (problems: readonly string[]): void => {
    for (const problem of problems) log.error({}, problem);
    log.error({ problems: problems.length }, 'the objects are not used; the last state stays');
  };
  return {
    problem: refuse,
    state: (entries) => {
      const { content, problems, warnings } = translate(entries, nodeName);
      if (problems.length > 0) return refuse(problems);
      compiler.replace(entries);
      const change = compiler.commit();
      warnings.push(...compiler.problems);
      if (warnings.join('\n') !== warned) for (const warning of warnings) log.warn({}, warning);
      warned = warnings.join('\n');
      const policy = { change, whole: () => compiler.snapshot() };
      if (!sender.update(content, policy)) return;
      const counts = { nodes: content.nodes.length, pods: content.pods.length };
      log.info(counts, 'the cluster has changed');
    },
  };
}

function filePath(source: string): string {
  const [, kind, rest] = /^([a-z]+):?(.*)$/.exec(source) ?? [];
  if (kind === 'file' && rest) return rest;
  if (kind === 'file') throw new Error('source file: a path is missing, as in file:/etc/culvert');
  throw new Error(`source ${source}: not known; there is file:PATH`);
}

// The sidecar: follows a source of Kubernetes objects and keeps the host told.

import type { Log } from '../engine/log.ts';
import { FileState } from './file-state.ts';
import { Sender } from './send.ts';
import type { SenderOptions } from './send.ts';
import { ClusterState } from './state.ts';
import { watchFiles } from './watch.ts';
import type { FileSourceOptions } from './watch.ts';

export interface SyncOptions {
  /** `file:PATH`, a file or a folder of objects, or `kubernetes`. */
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
  const { socket, version, nodeName, signal, legacyAnnotation = false } = options;
  const state = new ClusterState({ local: nodeName, legacyAnnotation, log });
  const sender = new Sender({
    ...options.sender, socket, version, log,
    onEndpoints: (endpoints) => state.takeEndpoints(endpoints),
    onRead: () => state.onRead(),
  });
  state.connect(sender);
  log.info({ source: options.source, node: nodeName, socket }, 'sync starts');
  await Promise.all([
    watchFiles({ ...options.file, path }, new FileState(state, log), signal),
    sender.run(signal),
  ]);
  log.info({}, 'sync stopped');
}

function filePath(source: string): string {
  const [, kind, rest] = /^([a-z]+):?(.*)$/.exec(source) ?? [];
  if (kind === 'file' && rest) return rest;
  if (kind === 'file') throw new Error('source file: a path is missing, as in file:/etc/culvert');
  throw new Error(`source ${source}: not known; there is file:PATH`);
}

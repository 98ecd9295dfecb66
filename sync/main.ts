// The sidecar: follows a source of Kubernetes objects and keeps the host told.

import type { Log } from '../engine/log.ts';
import type { NodeFacts } from '../engine/model.ts';
import { forgetInterned } from './intern.ts';
import type { KubernetesOptions } from './kubernetes/source.ts';
import { Sender } from './send.ts';
import type { SenderOptions } from './send.ts';
import { ClusterState } from './state.ts';
import type { FileSourceOptions } from './watch.ts';

/** How to reach the API server, and what to tell it. */
export interface ClusterOptions {
  kubeconfig?: string | undefined;
  context?: string | undefined;
  apiServer?: string | undefined;
  environment: Readonly<Record<string, string | undefined>>;
  /** Whether our Node is to say what flannel's nodes must know of it. */
  profile: 'flannel' | 'none';
  /** Where net-conf.json is: a file, `configmap:NAMESPACE/NAME`, or empty for flannel's own. */
  netConf: string;
}

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
  /** For the source `kubernetes`. */
  cluster?: ClusterOptions;
  /** Times, where the usual ones do not fit. */
  file?: Omit<FileSourceOptions, 'path'>;
  kubernetes?: Pick<KubernetesOptions, 'timing' | 'staleAfterMs' | 'random'>;
  sender?: Omit<SenderOptions, 'socket' | 'version' | 'log'>;
}

/** What follows the cluster, and who wants to know of our node. */
interface Source {
  run(): Promise<unknown>;
  onNode?(facts: NodeFacts): void;
}

/** Runs until the signal aborts. Rejects at once for a source that does not exist. */
export async function runSync(options: SyncOptions, log: Log): Promise<void> {
  const { source: name, socket, version, nodeName, signal, legacyAnnotation = false } = options;
  const state = new ClusterState({ local: nodeName, legacyAnnotation, log });
  const source = name === 'kubernetes' ? await kubernetesSource(options, state, log)
    : await fileSource(filePath(name), options, state, log);
  const { onNode } = source;
  const sender = new Sender({
    ...options.sender, socket, version, log,
    onEndpoints: (endpoints) => state.takeEndpoints(endpoints),
    onRead: () => state.onRead(),
    onWhole: () => {
      forgetInterned();
      options.sender?.onWhole?.();
    },
    ...onNode === undefined ? {} : { onNode },
  });
  state.connect(sender);
  log.info({ source: name, node: nodeName, socket }, 'sync starts');
  await Promise.all([source.run(), sender.run(signal)]);
  log.info({}, 'sync stopped');
}

/** What one source needs is not loaded for the other: it takes memory. */
async function fileSource(
  path: string, { file, signal }: SyncOptions, state: ClusterState, log: Log,
): Promise<Source> {
  const { FileState } = await import('./file-state.ts');
  const { watchFiles } = await import('./watch.ts');
  return { run: () => watchFiles({ ...file, path }, new FileState(state, log), signal) };
}

/** The client of an API server, and, where it is wanted, the profile that writes our Node. */
async function kubernetesSource(
  { cluster, version, nodeName, signal, kubernetes }: SyncOptions, state: ClusterState, log: Log,
): Promise<Source> {
  const { loadAccess } = await import('./kubernetes/access.ts');
  const { ApiClient } = await import('./kubernetes/client.ts');
  const { runKubernetes } = await import('./kubernetes/source.ts');
  const { profile: kind, netConf, ...given } = cluster ?? NO_CLUSTER;
  const client = new ApiClient(loadAccess(given), { version });
  const options = { ...kubernetes, client, nodeName, log };
  if (kind === 'none') return { run: () => runKubernetes(options, state, signal) };
  const { netConfSource } = await import('./flannel/net-conf.ts');
  const { FlannelProfile } = await import('./flannel/profile.ts');
  const profile = new FlannelProfile({
    client, nodeName, log, netConf: netConfSource(netConf, client),
    onProblems: (problems) => state.setProblems(problems),
  });
  const onOwnNode = (object: object | null): void => profile.node(object);
  return {
    run: () => Promise.all([
      runKubernetes({ ...options, onOwnNode }, state, signal), profile.run(signal),
    ]),
    onNode: (facts) => profile.facts(facts),
  };
}

const NO_CLUSTER: ClusterOptions = { environment: {}, profile: 'none', netConf: '' };

function filePath(source: string): string {
  const [, kind, rest] = /^([a-z]+):?(.*)$/.exec(source) ?? [];
  if (kind === 'file' && rest) return rest;
  if (kind === 'file') throw new Error('source file: a path is missing, as in file:/etc/culvert');
  throw new Error(`source ${source}: not known; there are kubernetes and file:PATH`);
}

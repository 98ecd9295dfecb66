// The sidecar: follows a source of Kubernetes objects and keeps the host told.

import type { Log } from '../engine/log.ts';
import type { NodeFacts } from '../engine/model.ts';
import type { CalicoMode } from './calico/pools.ts';
import type { CalicoProfile } from './calico/profile.ts';
import type { FlannelProfile } from './flannel/profile.ts';
import { forgetInterned } from './intern.ts';
import type { KubernetesOptions } from './kubernetes/source.ts';
import type { NodeClient } from './node-writer.ts';
import { Sender } from './send.ts';
import type { SenderOptions } from './send.ts';
import { ClusterState } from './state.ts';
import { ViewKeeper } from './view.ts';
import type { Profile } from './view.ts';
import type { FileSourceOptions } from './watch.ts';

/** How to reach the API server, what to tell it, and how nodes are reached. */
export interface ClusterOptions {
  kubeconfig?: string | undefined;
  context?: string | undefined;
  apiServer?: string | undefined;
  environment: Readonly<Record<string, string | undefined>>;
  /** Whose words of nodes count, and whose nodes our Node is to tell what they must know of it. */
  profile: Profile;
  /** Where net-conf.json is: a file, `configmap:NAMESPACE/NAME`, or empty for flannel's own. */
  netConf: string;
  /** How Calico's nodes carry packets of pods; `auto` asks its IPPools. */
  calicoMode: CalicoMode | 'auto';
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

/** Where a source delivers. */
interface Sinks {
  state: ClusterState;
  view: ViewKeeper;
  log: Log;
}

/** Runs until the signal aborts. Rejects at once for a source that does not exist. */
export async function runSync(options: SyncOptions, log: Log): Promise<void> {
  const { source: name, socket, version, nodeName, signal, legacyAnnotation = false } = options;
  const state = new ClusterState({ local: nodeName, legacyAnnotation, log });
  const { profile } = options.cluster ?? NO_CLUSTER;
  const view = new ViewKeeper(profile, (next) => state.setView(next));
  const sinks = { state, view, log };
  const source = name === 'kubernetes' ? await kubernetesSource(options, sinks)
    : await fileSource(filePath(name), options, sinks);
  const sender = new Sender({
    ...options.sender, socket, version, log,
    onEndpoints: (endpoints) => state.takeEndpoints(endpoints),
    onRead: () => state.onRead(),
    onWhole: () => {
      forgetInterned();
      options.sender?.onWhole?.();
    },
    onNode: (facts) => {
      view.facts(facts);
      source.onNode?.(facts);
    },
  });
  state.connect(sender);
  log.info({ source: name, node: nodeName, socket }, 'sync starts');
  await Promise.all([source.run(), sender.run(signal)]);
  log.info({}, 'sync stopped');
}

/** What one source needs is not loaded for the other: it takes memory. No profile writes a file's
 * Node, but how the cluster carries packets counts here too. */
async function fileSource(
  path: string, { file, signal, cluster = NO_CLUSTER }: SyncOptions, { state, view, log }: Sinks,
): Promise<Source> {
  const { FileState } = await import('./file-state.ts');
  const { watchFiles } = await import('./watch.ts');
  const { profile, netConf, calicoMode } = cluster;
  if (profile === 'calico' && calicoMode !== 'auto') view.calico({ mode: calicoMode, pools: [] });
  const following = profile === 'flannel' && netConf !== ''
    ? await netConfFollower(netConf, { view, log }) : () => Promise.resolve();
  return {
    run: () => Promise.all([
      watchFiles({ ...file, path }, new FileState(state, log), signal), following(signal),
    ]),
  };
}

/** What follows a net-conf.json that nobody else does. */
async function netConfFollower(
  place: string, { view, log }: Pick<Sinks, 'view' | 'log'>,
): Promise<(signal: AbortSignal) => Promise<void>> {
  const { followNetConf, netConfSource } = await import('./flannel/net-conf.ts');
  const source = netConfSource(place, null);
  return (signal) => followNetConf(source, {
    netConf: (conf) => view.netConf(conf),
    netConfProblem: (problem) => log.warn({}, `flannel: ${problem}`),
  }, signal);
}

/** The client of an API server, and, where it is wanted, the profile that writes our Node. */
async function kubernetesSource(
  { cluster = NO_CLUSTER, version, nodeName, signal, kubernetes }: SyncOptions, sinks: Sinks,
): Promise<Source> {
  const { loadAccess } = await import('./kubernetes/access.ts');
  const { ApiClient } = await import('./kubernetes/client.ts');
  const { runKubernetes } = await import('./kubernetes/source.ts');
  const { state, log } = sinks;
  const client = new ApiClient(loadAccess(cluster), { version });
  const options = { ...kubernetes, client, nodeName, log };
  const profile = await loadProfile(cluster, { client, nodeName }, sinks);
  if (profile === null) return { run: () => runKubernetes(options, state, signal) };
  const onOwnNode = (object: object | null): void => profile.node(object);
  return {
    run: () => Promise.all([
      runKubernetes({ ...options, onOwnNode }, state, signal), profile.run(signal),
    ]),
    onNode: (facts) => profile.facts(facts),
  };
}

/** What has our Node say what the others must know of it; null where nobody asks for that. */
async function loadProfile(
  { profile, netConf, calicoMode }: ClusterOptions,
  { client, nodeName }: { client: NodeClient; nodeName: string }, { state, view, log }: Sinks,
): Promise<FlannelProfile | CalicoProfile | null> {
  const common = {
    client, nodeName, log, onProblems: (problems: string[]) => state.setProblems(problems),
  };
  if (profile === 'flannel') {
    const { netConfSource } = await import('./flannel/net-conf.ts');
    const { FlannelProfile: Flannel } = await import('./flannel/profile.ts');
    return new Flannel({
      ...common, netConf: netConfSource(netConf, client), onNetConf: (conf) => view.netConf(conf),
    });
  }
  if (profile === 'none') return null;
  const { poolSource } = await import('./calico/pools.ts');
  const { CalicoProfile: Calico } = await import('./calico/profile.ts');
  return new Calico({
    ...common, mode: calicoMode === 'auto' ? null : calicoMode, pools: poolSource(client),
    onView: (found) => view.calico(found),
  });
}

const NO_CLUSTER: ClusterOptions = {
  environment: {}, profile: 'none', netConf: '', calicoMode: 'auto',
};

function filePath(source: string): string {
  const [, kind, rest] = /^([a-z]+):?(.*)$/.exec(source) ?? [];
  if (kind === 'file' && rest) return rest;
  if (kind === 'file') throw new Error('source file: a path is missing, as in file:/etc/culvert');
  throw new Error(`source ${source}: not known; there are kubernetes and file:PATH`);
}

// The informers of @kubernetes/client-node on the same data, as a process of its own. Prints a line
// once all of them have listed; then it goes on watching until its input ends. Arguments: a
// kubeconfig, and the module's file.

import { pathToFileURL } from 'node:url';

const [, , kubeconfig = '', program = ''] = process.argv;

/** What of the module is used here; it is not there where nobody measures. */
interface Client {
  KubeConfig: new () => KubeConfig;
  CoreV1Api: unknown;
  NetworkingV1Api: unknown;
  makeInformer(config: KubeConfig, path: string, list: () => Promise<unknown>): Informer;
}
interface KubeConfig {
  loadFromFile(path: string): void;
  makeApiClient(api: unknown): Record<string, () => Promise<unknown>>;
}
interface Informer {
  start(): Promise<void>;
  list(): readonly unknown[] | undefined;
}

const client = await import(pathToFileURL(program).href) as Client;
const config = new client.KubeConfig();
config.loadFromFile(kubeconfig);
const core = config.makeApiClient(client.CoreV1Api);
const networking = config.makeApiClient(client.NetworkingV1Api);
const informers = [
  ['/api/v1/pods', core, 'listPodForAllNamespaces'],
  ['/api/v1/nodes', core, 'listNode'],
  ['/api/v1/namespaces', core, 'listNamespace'],
  ['/apis/networking.k8s.io/v1/networkpolicies', networking, 'listNetworkPolicyForAllNamespaces'],
] as const;
const counts: number[] = [];
for (const [path, api, method] of informers) {
  const informer = client.makeInformer(config, path, async () => api[method]?.());
  await informer.start();
  counts.push(informer.list()?.length ?? 0);
}
const objects = counts.reduce((sum, count) => sum + count);
process.stdout.write(`${JSON.stringify({ objects })}\n`);
process.stdin.resume().on('end', () => process.exit(0));

// A Culvert node of a tunnel lab that learns of its cluster from an API server for tests, by a
// relay on the node's loopback, and tells it of itself.

import { join } from 'node:path';
import { CulvertNode } from '../../../cli/demo/culvert-node.ts';
import { PACKAGE_FOLDER } from '../../../cli/version.ts';
import type { KubeObject } from '../../support/api-server/resources.ts';
import { READER_RULES, type TestApiServer } from '../../support/api-server/server.ts';
import type { Rule } from '../../support/api-server/rbac.ts';
import { relay } from './kube-lab.ts';
import {
  POD_DEVICE, POD_NETWORKS, podAddressesOf, podCidrsOf, remotesOf, type TunnelLab,
} from './tunnel-lab.ts';

const CLI = join(PACKAGE_FOLDER, 'dist', 'cli', 'main.js');
const SIDECAR = 'engine';

/** Lets the sidecar read what it reads, and write the status of Nodes. */
export function grantSidecar(server: TestApiServer, ...more: Rule[]): void {
  server.grant(SIDECAR, [
    ...READER_RULES, { apiGroups: [''], resources: ['nodes/status'], verbs: ['patch'] }, ...more,
  ]);
  server.create('namespaces', { metadata: { name: 'lab' } });
}

/** The Node of this number, as the kubelet makes it. */
export function kubeNode(number: number, annotations: Record<string, string> = {}): KubeObject {
  const podCIDRs = Object.values(podCidrsOf(number));
  return {
    metadata: { name: `node-${number}`, annotations },
    spec: { podCIDR: podCIDRs[0], podCIDRs },
    status: {
      addresses: Object.values(remotesOf(number))
        .map((address) => ({ type: 'InternalIP', address })),
      conditions: [{ type: 'Ready', status: 'True' }],
    },
  };
}

/** Flags of `culvert run` and `culvert sync`, beside those that each needs. */
export interface KubeFlags {
  run?: string[];
  sync: string[];
  podNetworks?: string[];
}

/** Starts daemon and sidecar of node `number`, and a pod there. */
export async function addKubeCulvert(
  lab: TunnelLab, server: TestApiServer, number: number, flags: KubeFlags,
): Promise<CulvertNode> {
  const node = await lab.addNode(number);
  const made = relay(node.host, Number(new URL(server.url).port));
  lab.onClose(async () => { made.close(); });
  const name = `node-${number}`;
  const { podNetworks = POD_NETWORKS } = flags;
  const culvert = new CulvertNode(lab.bed, node, {
    name, source: '', podNetworks, extra: flags.run ?? [],
  });
  await culvert.startDaemon();
  culvert.sidecar = await lab.bed.start(node.host, [
    process.execPath, CLI, 'sync', '--stop-on-stdin-end', '--source', 'kubernetes',
    '--kubeconfig', server.kubeconfig(), '--node-name', name,
    '--runtime-directory', culvert.runtimeDirectory, ...flags.sync,
  ], 'sync starts');
  const address = podAddressesOf(number);
  server.create('pods', {
    metadata: { namespace: 'lab', name: `pod-${number}`, uid: `uid-pod-${number}` },
    spec: { nodeName: name }, status: { phase: 'Pending' },
  });
  await culvert.waitFor(({ sync }) => sync.revision !== null);
  const pod = await culvert.addPod({
    namespace: 'lab', name: `pod-${number}`, addresses: Object.values(address), device: 'tun',
  });
  lab.places.set(number, { number, node, pod, address, device: POD_DEVICE, linkHeader: 0 });
  return culvert;
}

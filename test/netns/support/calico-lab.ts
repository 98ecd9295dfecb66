// A cluster of Calico's before an API server for tests: a Culvert node that knows of the others
// what the API server says, a node as Felix sets it up, and a stranger on the same link.
//
//     API server of the test, by a relay on the loopback of node 1
//            |
//     node 1: culvert, --profile calico     node 2: Felix's devices        node 3: nobody's
//     [ eth0 192.0.2.1/24   ]---switch---[ eth0 192.0.2.2/24   ]---switch---[ eth0 192.0.2.3/24 ]
//     [      2001:db8::1/64 ]            [      2001:db8::2/64 ]
//       pod 10.244.1.10                    pod 10.244.2.10
//           fd00:10:244:1::a                   fd00:10:244:2::a
//
// TX checksum offload is off on every veth that a node sends from.

import type { CulvertNode } from '../../../cli/demo/culvert-node.ts';
import { askAll } from '../../../cli/client.ts';
import { PeerReportSchema, type PeerReport } from '../../../engine/model.ts';
import type { LabNode } from '../../../cli/demo/bed.ts';
import type { KubeObject } from '../../support/api-server/resources.ts';
import { customType } from '../../support/api-server/resources.ts';
import { TestApiServer } from '../../support/api-server/server.ts';
import { addFelixPeer, felixAnnotations, setUpFelix } from './felix-node.ts';
import { addKubeCulvert, grantSidecar, kubeNode } from './kube-culvert.ts';
import { POD_NETWORKS, TunnelLab, podCidrsOf, remotesOf, type Place } from './tunnel-lab.ts';
import { PATIENCE_MS } from '../../support/until.ts';

export const CULVERT = 1;
export const FELIX = 2;
export const STRANGER = 3;

/** A mode of pools, as their objects have it. */
export type PoolMode = 'Always' | 'CrossSubnet';

export class CalicoLab {
  readonly lab: TunnelLab;
  readonly server: TestApiServer;
  readonly culvert: CulvertNode;
  readonly felix: Place;
  readonly stranger: LabNode;

  private constructor(lab: TunnelLab, server: TestApiServer, parts: Parts) {
    this.lab = lab;
    this.server = server;
    this.culvert = parts.culvert;
    this.felix = parts.felix;
    this.stranger = parts.stranger;
  }

  /** Starts all of it and waits until the Culvert node has told of itself, and knows the other. */
  static async create(mode: PoolMode): Promise<CalicoLab> {
    const server = await serverWithPool(mode);
    let parts: Parts | null = null;
    const lab = await TunnelLab.create(async (made) => {
      made.onClose(() => server.close());
      parts = await build(made, server);
    });
    if (parts === null) throw new Error('nothing was built');
    const calico = new CalicoLab(lab, server, parts);
    try {
      await calico.#meet(mode);
      return calico;
    } catch (error) {
      await lab.close();
      throw error;
    }
  }

  node(number: number): KubeObject {
    const node = this.server.get('nodes', `node-${number}`);
    if (node === null) throw new Error(`there is no Node ${number}`);
    return node;
  }

  peers(): Promise<PeerReport[]> {
    return askAll(this.culvert.runtimeDirectory, 'peer.list', PeerReportSchema);
  }

  /** Waits until it is so. */
  async until(what: string, isSo: () => boolean | Promise<boolean>): Promise<void> {
    const deadline = performance.now() + PATIENCE_MS;
    while (!await isSo()) {
      if (performance.now() > deadline) {
        throw new Error(`in vain: ${what}; ${this.culvert.sidecar?.log() ?? ''}`);
      }
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
  }

  close(): Promise<void> {
    return this.lab.close();
  }

  /** Has Felix, which reached our node without a tunnel, do so by VXLAN. */
  async encapsulate(): Promise<void> {
    const { host } = this.#felixNode;
    for (const scope of ['all', 'eth0']) host.sysctl({ [`net.ipv4.conf.${scope}.rp_filter`]: 0 });
    for (const prefix of Object.values(podCidrsOf(CULVERT))) {
      await host.links.removeRoute({ prefix, device: 'eth0' });
    }
    await addFelixPeer(this.#felixNode, this.node(CULVERT), CULVERT);
  }

  get #felixNode(): LabNode {
    const { node } = this.felix;
    if (node === null) throw new Error('the node is a namespace');
    return node;
  }

  /** Has the other node learn of ours, as Felix does of a node that the API server tells of. */
  async #meet(mode: PoolMode): Promise<void> {
    await this.until('what our Node says', () =>
      this.node(CULVERT).metadata.annotations?.['projectcalico.org/IPv6VXLANTunnelAddr']
        !== undefined);
    if (mode === 'Always') await addFelixPeer(this.#felixNode, this.node(CULVERT), CULVERT);
    else await addLinkPeer(this.#felixNode);
    await this.until('both tunnels', async () => (await this.peers()).length === 2);
  }
}

interface Parts {
  culvert: CulvertNode;
  felix: Place;
  stranger: LabNode;
}

/** Routes as BIRD, or Felix, makes them to nodes of the same link, with rp_filter as strict as can
 * be (RFC 3704 section 2.2). */
async function addLinkPeer({ host }: LabNode): Promise<void> {
  for (const scope of ['all', 'eth0']) host.sysctl({ [`net.ipv4.conf.${scope}.rp_filter`]: 1 });
  for (const family of ['IPv4', 'IPv6'] as const) {
    await host.links.addRoute({
      prefix: podCidrsOf(CULVERT)[family], device: 'eth0', via: remotesOf(CULVERT)[family],
    });
  }
}

async function serverWithPool(mode: PoolMode): Promise<TestApiServer> {
  const server = new TestApiServer();
  const definition: KubeObject = {
    apiVersion: 'apiextensions.k8s.io/v1', kind: 'CustomResourceDefinition',
    metadata: { name: 'ippools.crd.projectcalico.org' },
    spec: {
      group: 'crd.projectcalico.org', scope: 'Cluster',
      names: { plural: 'ippools', kind: 'IPPool' },
      versions: [{ name: 'v1', served: true, storage: true }],
    },
  };
  server.store.collection('customresourcedefinitions').put(definition);
  server.store.add(customType(definition));
  for (const [index, cidr] of POD_NETWORKS.entries()) {
    server.create('ippools', {
      metadata: { name: `pool-${index}` }, spec: { cidr, vxlanMode: mode, ipipMode: 'Never' },
    });
  }
  grantSidecar(server,
    { apiGroups: ['crd.projectcalico.org'], resources: ['ippools'], verbs: ['list'] });
  server.create('nodes', kubeNode(CULVERT));
  server.create('nodes', kubeNode(FELIX, felixAnnotations(FELIX)));
  await server.start();
  return server;
}

async function build(lab: TunnelLab, server: TestApiServer): Promise<Parts> {
  const culvert = await addKubeCulvert(lab, server, CULVERT, { sync: ['--profile', 'calico'] });
  const theirs = await lab.addNode(FELIX);
  const node = server.get('nodes', `node-${FELIX}`);
  if (node === null) throw new Error('there is no Node of Felix\'s');
  await setUpFelix(theirs, node);
  const felix = await lab.addKernelPod(FELIX, theirs, 1430);
  return { culvert, felix, stranger: await lab.addNode(STRANGER) };
}

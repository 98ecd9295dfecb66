// Culvert with each kind of tunnel between its nodes: what carries a packet beside VXLAN, and no
// tunnel at all. Each node is told of the other as a sidecar would tell it; how a cluster comes to
// have one kind or another is none of the path's concern.

import { join } from 'node:path';
import type { ClusterNode, Tunnel } from '../../engine/model.ts';
import { SYNC_SOCKET } from '../../host/main.ts';
import { Sender } from '../../sync/send.ts';
import { Bed, type BedNode, type Place } from './bed.ts';
import { podAddress, podCidr, withBed, type Contender, type Recipe, type Site }
  from './contender.ts';
import { addPod, nodeName, packageVersion, startDaemon, untilTold, type Daemon }
  from './culvert.ts';

const VNI = 1;
const POD = 10;
const SILENT = { debug: () => {}, info: () => {}, warn: () => {}, error: () => {} };

type Kind = Exclude<Tunnel['kind'], 'vxlan'>;

/** What the kinds leave of the link's 1,500 bytes: an IPv4 header is 20, UDP and Geneve have 8
 * each, Ethernet 14. */
const POD_MTU: Record<Kind, number> = { udp: 1472, geneve: 1450, ipip: 1480, direct: 1500 };

function tunnelTo({ address, number }: BedNode, kind: Kind): Tunnel {
  const common = { family: 'IPv4', remote: address } as const;
  if (kind !== 'geneve') return { ...common, kind };
  return { ...common, kind, vni: VNI, mac: `02:c0:00:00:00:0${number}` };
}

function clusterNode(node: BedNode, kind: Kind): ClusterNode {
  return {
    name: nodeName(node.number), podCidrs: [podCidr(node.number)], addresses: [node.address],
    tunnels: [tunnelTo(node, kind)],
  };
}

/** Tells a daemon of both nodes, for as long as the bed is there. */
async function tell(bed: Bed, node: BedNode, daemon: Daemon, kind: Kind): Promise<void> {
  const stop = new AbortController();
  bed.onClose(() => stop.abort());
  const sender = new Sender({
    socket: join(daemon.folder, SYNC_SOCKET), version: packageVersion(), log: SILENT,
  });
  const nodes = bed.nodes.map((each) => clusterNode(each, kind));
  sender.tell({ nodes, removedNodes: [], pods: [], removedPods: [] }, () => ({
    local: nodeName(node.number), nodes, pods: [], policy: null, services: null,
  }));
  void sender.run(stop.signal);
  await untilTold(daemon);
}

async function twoNodes({ cores, stop }: Site, kind: Kind): Promise<Contender> {
  const bed = await Bed.create({ cores, link: 'wire', txChecksum: true, stop });
  return withBed(bed, async () => {
    const daemons: Daemon[] = [];
    const pods: Place[] = [];
    for (const node of bed.nodes) {
      const daemon = await startDaemon(bed, node, 'auto', bed.makeFolder(),
        ['--policy-unknown-pods', 'open']);
      daemons.push(daemon);
      await tell(bed, node, daemon, kind);
      pods.push(await addPod(bed, daemon, node, POD, node.cores, POD_MTU[kind]));
    }
    const [near, far] = pods as [Place, Place];
    return {
      near, far, target: podAddress(bed.far.number, POD),
      daemons: daemons.map(({ program }) => program),
      traces: daemons.map(({ trace }) => trace),
    };
  });
}

/** Culvert between nodes, one contender for each kind of tunnel beside VXLAN. */
export const TUNNELS: readonly Recipe[] = (Object.keys(POD_MTU) as Kind[]).map((kind): Recipe =>
  ({ name: kind, make: (site) => twoNodes(site, kind) }));

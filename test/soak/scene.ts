// What a soak runs on: two nodes with pods, policy and a Service, and everything between them that
// goes on for the whole time.
//
//   namespace node-3                    hub (router)           namespace node-2
//   culvert run, restarted, killed and                         culvert run: one process all the
//   started again; culvert sync                                time; culvert sync
//   eth0 192.0.2.3 -------------------- port1   port0 -------- eth0 192.0.2.2
//     |                                                          |
//     +-- pod-3-10   a connection, datagrams and echoes <-----> pod-2-10
//     |   (takes no connections) <------- denied datagrams ----- pod-2-11
//     +-- pod-3-11   datagrams, pings <-----------------------> pod-2-10
//     |   (a gate) <---------- connections while it is open ---- pod-2-11
//     +-- pod-3-12   short connections, questions, uploads ----> Service, of pod-2-10 to pod-2-12
//     +-- pod-3-13   comes and goes                             pod-2-13   comes and goes

import { join } from 'node:path';
import type { Bed } from '../../cli/demo/bed.ts';
import { clusterNode, nodeAddress, podAddress, podName } from '../netns/support/forge-cluster.ts';
import { Place, mustReach, type Pod } from '../netns/support/forge-scene.ts';
import { Stream, type StreamReport } from '../netns/support/forge-stream.ts';
import { AWAY_FLAGS, Flow } from '../netns/support/killed.ts';
import { FAMILIES, serviceObject, sliceObjects, type EndpointObject } from
  '../netns/support/kube-scene.ts';
import { Lines } from '../netns/support/lines.ts';
import { SERVICE_NETWORKS } from '../netns/support/service-scene.ts';
import { Manager } from './manager.ts';

const NODES = [2, 3];
/** Port of the gate, and of the backends. */
export const GATE_PORT = 7100;
const SERVICE_NUMBER = 80;
export const SERVICE_PORTS = { web: 80, dns: 53 };
const FLOW_PORTS = { out: 7001, back: 7002, denied: 7004 };
const PER_SECOND = 100;
const DENIED_PER_SECOND = 10;

/** Takes connections from nobody, or only from one. */
function closed(pod: string, admitted: string | null): object {
  const from = [{ podSelector: { matchLabels: { name: admitted } } }];
  return {
    apiVersion: 'networking.k8s.io/v1', kind: 'NetworkPolicy',
    metadata: { namespace: 'test', name: `closed-${pod}` },
    spec: {
      podSelector: { matchLabels: { name: pod } }, policyTypes: ['Ingress'],
      ...admitted === null ? {} : { ingress: [{ from }] },
    },
  };
}

/** What the objects say now. */
export interface Wanted {
  isGateOpen: boolean;
  /** Pods of node 2 that the Service has. */
  backends: number[];
}

/** Who keeps the descriptors of the daemon that is killed. */
export type Keeper = 'holder' | 'systemd';

type Flows = Record<'outbound' | 'inbound' | 'denied', Flow>;

export class SoakScene {
  readonly bed: Bed;
  /** The node whose daemon is killed, and the one whose daemon lives on. */
  readonly killed: Place;
  readonly lasting: Place;
  readonly pods = new Map<string, Pod>();
  readonly lines = new Map<string, Lines>();
  wanted: Wanted = { isGateOpen: true, backends: [10, 11, 12] };
  flows: Flows | null = null;
  streams: Stream[] = [];
  /** Keeps what the killed daemon leaves; null where its holder does. */
  readonly manager: Manager | null;
  #said = 0;

  private constructor(bed: Bed, killed: Place, lasting: Place, manager: Manager | null) {
    this.manager = manager;
    this.bed = bed;
    this.killed = killed;
    this.lasting = lasting;
  }

  static async make(bed: Bed, keeper: Keeper): Promise<SoakScene> {
    const flags = [...AWAY_FLAGS, '--service-networks', SERVICE_NETWORKS.join(',')];
    const lasting = await Place.add(bed, 2, NODES, flags);
    const manager = keeper === 'systemd' ? new Manager(join(bed.folder, 'notify')) : null;
    const killed = await Place.add(bed, 3, NODES, flags, manager?.launch.bind(manager));
    const scene = new SoakScene(bed, killed, lasting, manager);
    scene.#write();
    await lasting.culvert.start();
    await killed.culvert.start();
    for (const place of scene.places) {
      for (const number of [10, 11, 12]) {
        const pod = await place.addPod(number);
        scene.pods.set(pod.name, pod);
        await scene.#serve(pod);
      }
    }
    await scene.pod(2, 10).host.agent.ask({ verb: 'serve' });
    await lasting.host.agent.ask({ verb: 'serve', addresses: [nodeAddress(2, 'IPv4')] });
    for (const number of [10, 11, 12]) {
      await mustReach(scene.pod(3, number).host, scene.pod(2, number).addresses);
    }
    return scene;
  }

  get places(): [Place, Place] {
    return [this.lasting, this.killed];
  }

  pod(n: number, number: number): Pod {
    const pod = this.pods.get(podName(n, number));
    if (pod === undefined) throw new Error(`there is no ${podName(n, number)}`);
    return pod;
  }

  linesOf(n: number, number: number): Lines {
    const lines = this.lines.get(podName(n, number));
    if (lines === undefined) throw new Error(`nothing serves in ${podName(n, number)}`);
    return lines;
  }

  /** Puts other objects in force on both nodes. */
  async say(wanted: Partial<Wanted>): Promise<void> {
    this.wanted = { ...this.wanted, ...wanted };
    const before = await Promise.all(this.places.map(({ culvert }) => culvert.status()));
    this.#write();
    for (const [at, { culvert }] of this.places.entries()) {
      await culvert.waitFor(({ sync }) => sync.revision !== before[at]?.sync.revision);
    }
  }

  /** Starts what goes on for the whole time. */
  async startTraffic(): Promise<void> {
    const way = (from: Pod, through: Place, to: Pod) =>
      ({ from: from.host, device: 'eth0', through: through.host, to: to.host });
    this.flows = {
      outbound: await Flow.start(way(this.pod(3, 11), this.lasting, this.pod(2, 10)),
        podAddress(2, 10, 'IPv4'), FLOW_PORTS.out, PER_SECOND),
      inbound: await Flow.start(way(this.pod(2, 10), this.killed, this.pod(3, 11)),
        podAddress(3, 11, 'IPv6'), FLOW_PORTS.back, PER_SECOND),
      denied: await Flow.start(way(this.pod(2, 11), this.killed, this.pod(3, 10)),
        podAddress(3, 10, 'IPv4'), FLOW_PORTS.denied, DENIED_PER_SECOND),
    };
    for (const family of FAMILIES) {
      this.streams.push(await Stream.start(
        this.pod(3, 10).host, this.pod(2, 10).host, podAddress(2, 10, family)));
    }
  }

  /** Ends it, and says what became of it. */
  async stopTraffic(): Promise<{
    streams: StreamReport[]; flows: [string, Awaited<ReturnType<Flow['report']>>][];
  }> {
    const streams = await Promise.all(this.streams.map((stream) => stream.stop()));
    const ends = Object.entries(this.flows ?? {});
    for (const [, flow] of ends) await flow.stop();
    await new Promise((resolve) => setTimeout(resolve, 1000));
    const flows: [string, Awaited<ReturnType<Flow['report']>>][] = [];
    for (const [name, flow] of ends) flows.push([name, await flow.report()]);
    for (const [, flow] of ends) await flow.close();
    return { streams, flows };
  }

  async close(): Promise<void> {
    for (const lines of this.lines.values()) await lines.close();
    await this.bed.close();
    this.manager?.close();
  }

  async #serve({ host, name, addresses }: Pod): Promise<void> {
    const lines = new Lines(host);
    this.lines.set(name, lines);
    await lines.serve(name, GATE_PORT);
    for (const address of addresses) await lines.serveDatagrams(name, address, GATE_PORT);
  }

  #write(): void {
    const { isGateOpen, backends } = this.wanted;
    const endpoints = backends.map((pod): EndpointObject => ({ node: 2, pod }));
    this.#said += 1;
    const mark = serviceObject('mark', 250, [{ name: '', protocol: 'TCP', port: this.#said }]);
    const objects = [
      mark, closed(podName(3, 10), null),
      ...isGateOpen ? [] : [closed(podName(3, 11), podName(2, 10))],
      serviceObject('web', SERVICE_NUMBER, [
        { name: 'web', protocol: 'TCP', port: SERVICE_PORTS.web },
        { name: 'dns', protocol: 'UDP', port: SERVICE_PORTS.dns },
      ]),
      ...sliceObjects('web', [
        { name: 'web', protocol: 'TCP', port: GATE_PORT },
        { name: 'dns', protocol: 'UDP', port: GATE_PORT },
      ], endpoints),
    ];
    for (const place of this.places) place.write(NODES.map(clusterNode), objects);
  }
}


// The flannel profile: has our Node say what flannel's nodes must know of it, and keeps it so.
//
//   net-conf.json, the host's facts, our Node -----> the lease ----> node-writer.ts
//
// The MAC of a VTEP is the one that we wrote, else the one that stands there, else one made of the
// Node's uid. Nothing is written before the Node has its pod networks, since flannel reads these
// only where the annotations change.

import { addressFamily } from '../../engine/address.ts';
import type { Family } from '../../engine/address.ts';
import type { NetConf } from '../../engine/net-conf.ts';
import { NodeWriter } from '../node-writer.ts';
import type { Author, NodeWriterOptions, Plan } from '../node-writer.ts';
import type { OwnNode } from '../own-node.ts';
import { FLANNEL_SIGNS, findRivalDevice } from '../rival.ts';
import {
  FAMILIES, FLANNEL_IS_UP, PREFIX, heededLease, leaseAnnotations, madeMac, publicAddress,
  standingMac, standingNoData, vtepData,
} from './annotations.ts';
import type { Lease } from './annotations.ts';
import { compareWithHost, followNetConf, leasedCidrs } from './net-conf.ts';
import type { HostFacts, NetConfReader, NetConfSource } from './net-conf.ts';

export interface FlannelProfileOptions extends Omit<NodeWriterOptions, 'findDevice'> {
  netConf: NetConfSource;
  /** Told of net-conf.json whenever it was read. */
  onNetConf?(conf: NetConf): void;
  findDevice?(): string | null;
}

export class FlannelProfile implements NetConfReader, Author {
  readonly name = 'flannel';
  readonly prefix = PREFIX;
  readonly up = FLANNEL_IS_UP;
  readonly signs = FLANNEL_SIGNS;
  readonly #options: FlannelProfileOptions;
  readonly #writer: NodeWriter;
  #facts: HostFacts | null = null;
  #conf: NetConf | null = null;
  #confProblem = '';
  /** The lease that was written, and of the Node with which uid. */
  #written: { uid: string; lease: Lease } | null = null;

  constructor(options: FlannelProfileOptions) {
    this.#options = options;
    const findDevice = options.findDevice ?? (() => findRivalDevice(FLANNEL_SIGNS));
    this.#writer = new NodeWriter(this, { ...options, findDevice });
  }

  /** What the host is set up with. */
  facts(facts: HostFacts): void {
    this.#facts = facts;
    this.#writer.ring();
  }

  /** Our Node, as the API server has it now; null where it has none. */
  node(object: object | null): void {
    this.#writer.node(object);
  }

  netConf(conf: NetConf): void {
    this.#conf = conf;
    this.#confProblem = '';
    this.#options.onNetConf?.(conf);
    this.#writer.ring();
  }

  netConfProblem(problem: string): void {
    this.#confProblem = problem;
    this.#writer.ring();
  }

  /** Works until the signal aborts. */
  async run(signal: AbortSignal): Promise<void> {
    await Promise.all([
      followNetConf(this.#options.netConf, this, signal), this.#writer.run(signal),
    ]);
  }

  plan(node: OwnNode | null, problems: string[]): Plan | null {
    const [facts, conf] = [this.#facts, this.#conf];
    if (this.#confProblem !== '') problems.push(this.#confProblem);
    if (facts === null || node === null || conf === null) return null;
    problems.push(...compareWithHost(conf, facts));
    const { problem } = leasedCidrs(conf, node.podCidrs);
    if (problem !== null) problems.push(problem);
    // A host of another network or port would promise peers what it cannot keep.
    const isSpoken = (conf.type !== 'vxlan' || conf.port === facts.port)
      && conf.podNetworks.every((prefix) => facts.podNetworks.includes(prefix));
    if (problem !== null || !isSpoken) return null;
    const lease = heededLease(node.annotations, this.#lease(facts, node, conf, problems), node.uid);
    if (FAMILIES.every((family) => lease[family] === undefined)) return null;
    return {
      annotations: leaseAnnotations(lease),
      onWritten: () => { this.#written = { uid: node.uid, lease }; },
    };
  }

  #lease(facts: HostFacts, node: OwnNode, conf: NetConf, problems: string[]): Lease {
    const lease: Lease = { type: conf.type };
    for (const family of FAMILIES) {
      if (!conf.podNetworks.some((prefix) => addressFamily(prefix) === family)) continue;
      const own = facts.underlay.filter((item) => item.family === family)
        .map(({ address }) => address);
      const { address, problem } = publicAddress(node.annotations, family, own);
      if (problem !== null) problems.push(problem);
      if (address !== null) lease[family] = { address, data: this.#data(node, conf, family) };
    }
    return lease;
  }

  /** The data of one family: what we wrote, else what stands there, else what is made now. */
  #data({ uid, annotations }: OwnNode, { type, vni }: NetConf, family: Family): string {
    const written = this.#written?.uid === uid ? this.#written.lease : null;
    const before = written?.type === type ? written[family]?.data : undefined;
    if (type !== 'vxlan') return before ?? standingNoData(annotations, family);
    const mac = before === undefined ? null : vtepMac(before);
    return vtepData(vni, mac ?? standingMac(annotations, family) ?? madeMac(uid, family));
  }
}

/** The MAC in data that we wrote. */
function vtepMac(data: string): string {
  return (JSON.parse(data) as { VtepMAC: string }).VtepMAC;
}

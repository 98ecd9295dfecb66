// Two nodes on one machine, in namespaces without names: nothing is left when the process is gone.
//
//     near, processor 0                            far, processor 1
//   [ eth0 192.0.2.1 ]============ veth ============[ eth0 192.0.2.2 ]
//
// On a "wire" every packet on the link has the size of the MTU, as with a NIC that has no offloads:
// segmentation (TSO, GSO, UDP and tunnel segmentation) is off where packets leave, GRO is on where
// they arrive. A "plain" veth is as the kernel makes it.

import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setFeatures, setTxChecksum } from '../../ffi/ethtool.ts';
import { Links } from '../../ffi/netlink.ts';
import { createNamespace, writeSysctl } from '../../ffi/netns.ts';
import { Program, type Stage } from './program.ts';

export const UNDERLAY_DEVICE = 'eth0';
const PREFIX_LENGTH = 24;

/** A namespace of a bed. */
export interface Place extends Stage {
  links: Links;
}

/** A node of a bed: its address on the link, and the number that its pods' addresses have. */
export interface BedNode extends Place {
  number: number;
  address: string;
}

export interface BedOptions {
  /** The processors of the near and of the far node, as taskset lists them. */
  cores: readonly [string, string];
  link: 'wire' | 'plain';
  /** Off where unfinished inner checksums would meet a program: a veth that claims to compute them
   * leaves them to nobody. */
  txChecksum: boolean;
  /** Ends everything. */
  stop: AbortSignal;
}

export class Bed {
  readonly near: BedNode;
  readonly far: BedNode;
  readonly #stop: AbortSignal;
  readonly #programs: Program[] = [];
  readonly #places: Place[] = [];
  readonly #leftovers: (() => void)[] = [];
  readonly #onAbort = (): void => {
    for (const program of this.#programs) program.kill();
    this.#clear();
  };

  private constructor({ cores, stop }: BedOptions) {
    this.#stop = stop;
    this.near = { ...this.addPlace(cores[0]), number: 1, address: '192.0.2.1' };
    this.far = { ...this.addPlace(cores[1]), number: 2, address: '192.0.2.2' };
    stop.addEventListener('abort', this.#onAbort);
  }

  static async create(options: BedOptions): Promise<Bed> {
    const bed = new Bed(options);
    try {
      const { near, far } = bed;
      await near.links.addVeth(UNDERLAY_DEVICE, UNDERLAY_DEVICE, far.namespace.fd);
      for (const node of [near, far]) await setUpNode(node, options);
      return bed;
    } catch (error) {
      await bed.close();
      throw error;
    }
  }

  get nodes(): readonly [BedNode, BedNode] {
    return [this.near, this.far];
  }

  /** Adds a namespace: a pod's. */
  addPlace(cores: string): Place {
    const namespace = createNamespace();
    const place = { namespace, cores, links: namespace.run(() => new Links()) };
    this.#places.push(place);
    return place;
  }

  /** Has something removed that would stay. */
  onClose(remove: () => void): void {
    this.#leftovers.push(remove);
  }

  /** Makes a folder that goes with the bed. */
  makeFolder(parent = tmpdir()): string {
    const folder = mkdtempSync(join(parent, 'culvert-bench-'));
    this.onClose(() => rmSync(folder, { recursive: true, force: true }));
    return folder;
  }

  /** Starts a program and waits until it has printed `readyText`. */
  async start(
    stage: Stage, command: string[], readyText: string, onOutput?: (text: string) => void,
  ): Promise<Program> {
    this.#stop.throwIfAborted();
    const program = new Program(stage, command, onOutput);
    this.#programs.push(program);
    if (readyText !== '') await program.waitFor(readyText);
    return program;
  }

  /** Runs a program to its end and gives what it printed. */
  async run(stage: Stage, command: string[], timeoutMs: number): Promise<string> {
    const program = await this.start(stage, command, '');
    try {
      return await program.finish(timeoutMs);
    } finally {
      this.#forget(program);
    }
  }

  /** Ends a program before the others. */
  async end(program: Program): Promise<void> {
    await program.stop();
    this.#forget(program);
  }

  /** Ends everything. */
  async close(): Promise<void> {
    this.#stop.removeEventListener('abort', this.#onAbort);
    await Promise.all(this.#programs.map((program) => program.stop()));
    for (const { links, namespace } of this.#places) {
      links.close();
      namespace.close();
    }
    this.#clear();
  }

  #forget(program: Program): void {
    const at = this.#programs.indexOf(program);
    if (at >= 0) this.#programs.splice(at, 1);
  }

  #clear(): void {
    for (const remove of this.#leftovers) remove();
  }
}

async function setUpNode(node: BedNode, { link, txChecksum }: BedOptions): Promise<void> {
  const { links, namespace, address } = node;
  namespace.run(() => {
    writeSysctl('net.ipv4.ip_forward', 1);
    for (const scope of ['all', 'default']) writeSysctl(`net.ipv4.conf.${scope}.rp_filter`, 0);
    if (link === 'wire') {
      setFeatures(UNDERLAY_DEVICE, (name) => /^tx-.*-segmentation$/.test(name), false);
      setFeatures(UNDERLAY_DEVICE, (name) => name === 'rx-gro', true);
    }
    if (!txChecksum) setTxChecksum(UNDERLAY_DEVICE, false);
  });
  await links.setLink(UNDERLAY_DEVICE, { linkLocalIpv6: false });
  await links.setLink(UNDERLAY_DEVICE, { up: true });
  await links.addAddress(UNDERLAY_DEVICE, `${address}/${PREFIX_LENGTH}`);
}

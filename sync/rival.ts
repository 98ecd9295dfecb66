// Whether another network's daemon lives on this node: it and we would undo each other's work. A
// sidecar without privileges sees three signs of one: its network devices, its pod, its handwriting
// on our Node.

import { readFileSync } from 'node:fs';
import * as v from 'valibot';
import type { ObjectReader } from './node-writer.ts';

/** The interfaces of the network namespace that this process is in. */
const INTERFACES = '/proc/self/net/dev';

/** The label of nodes that run Culvert, by which other networks' DaemonSets leave them out. */
export const NODE_LABEL = 'culvert.net/node';

/** So often may others change what we wrote, within the time, until they are taken for a rival. */
export const RIVAL_CHANGES = 5;
export const RIVAL_WINDOW_MS = 1_800_000;
/** Wait after the first of their changes; it doubles with each. */
export const RIVAL_WAIT_MS = 1000;

/** What another network's daemon is known by. */
export interface RivalSigns {
  /** Whose it is, and what it is called. */
  network: string;
  daemon: string;
  /** Its kernel devices' names, whole. */
  devices: RegExp;
  /** The label of its pods, as KEY=VALUE. */
  podLabel: string;
}

export const FLANNEL_SIGNS: RivalSigns = {
  network: 'flannel',
  daemon: 'flanneld',
  // flannel.1, flannel-v6.1, flannel0, flannel-wg, ...
  devices: /^flannel[.-]?[\w.-]*$/,
  podLabel: 'app=flannel',
};

export const CALICO_SIGNS: RivalSigns = {
  network: 'calico',
  daemon: 'calico-node',
  devices: /^vxlan(-v6)?\.calico$/,
  podLabel: 'k8s-app=calico-node',
};

function howToExclude({ network }: RivalSigns): string {
  return `keep ${network}'s DaemonSet off this node: give its nodeAffinity a `
    + `matchExpression {key: ${NODE_LABEL}, operator: DoesNotExist}, and label the node`;
}

/** A device of the rival's on this node, or null. It may be what a daemon has left. */
export function findRivalDevice(
  signs: RivalSigns, read = () => readFileSync(INTERFACES, 'utf8'),
): string | null {
  let text = '';
  try {
    text = read();
  } catch {
    return null;
  }
  const names = [...text.matchAll(/^\s*([^\s:]+):/gm)].map(([, device = '']) => device);
  const name = names.find((device) => signs.devices.test(device));
  if (name === undefined) return null;
  return `the device ${name} is there: ${signs.daemon} runs on this node, or has left it. `
    + `${howToExclude(signs)}; then remove the device (ip link delete ${name})`;
}

const PodsSchema = v.object({
  items: v.array(v.object({
    metadata: v.object({ name: v.string(), namespace: v.string() }),
    status: v.nullish(v.object({
      phase: v.nullish(v.string()),
      containerStatuses: v.nullish(v.array(v.object({ ready: v.boolean() }))),
    })),
  })),
});

/** A pod of the rival's that does its work on this node, or null, also where we may not ask. One
 * that fails again and again, as on a kernel without vxlan, is none. */
export async function findRivalPod(
  signs: RivalSigns, client: ObjectReader, nodeName: string, signal: AbortSignal,
): Promise<string | null> {
  const query = { labelSelector: signs.podLabel, fieldSelector: `spec.nodeName=${nodeName}` };
  try {
    const { items } = v.parse(PodsSchema, await client.get('/api/v1/pods', query, signal));
    const pod = items.find(({ status }) => status?.phase === 'Running'
      && (status.containerStatuses ?? []).some(({ ready }) => ready));
    if (pod === undefined) return null;
    const { namespace, name } = pod.metadata;
    return `the pod ${namespace}/${name} is ${signs.network}'s and runs on this node. `
      + howToExclude(signs);
  } catch {
    return null;
  }
}

/** Counts how often others have changed what we wrote. */
export class Handwriting {
  readonly #signs: RivalSigns;
  readonly #waitMs: number;
  #changes: number[] = [];

  constructor(signs: RivalSigns, waitMs = RIVAL_WAIT_MS) {
    this.#signs = signs;
    this.#waitMs = waitMs;
  }

  /** Others have done so once more. Gives how long to wait before we write again. */
  changed(nowMs: number): number {
    this.#changes = [...this.#changes.filter((time) => nowMs - time < RIVAL_WINDOW_MS), nowMs];
    return this.#waitMs * (2 ** (this.#changes.length - 1));
  }

  /** What is to be told where it was too often, or null. */
  get rival(): string | null {
    if (this.#changes.length < RIVAL_CHANGES) return null;
    const { network, daemon } = this.#signs;
    return `somebody else has changed our Node's ${network} annotations ${this.#changes.length} `
      + `times in ${RIVAL_WINDOW_MS / 60_000} minutes, as a ${daemon} would; they are not written `
      + `any more. ${howToExclude(this.#signs)}; then start the sidecar again`;
  }

  forget(): void {
    this.#changes = [];
  }
}

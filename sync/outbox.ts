// Changes that wait to be sent, each with the revision that it leads to.
//
// Each change of policy goes alone while few wait: one object's change is safe at every moment of
// its application, several in one only at its end. Where many wait they become one, in which only
// the last word about each thing stands, so that what waits never grows beyond the state itself.
// What does not fit one delta is of no use: then the host needs everything anew.

import type { Delta, Pod, PolicyChange, ServiceChange } from '../engine/model.ts';
import { PART_LIMIT } from '../engine/model.ts';
import { isSmallChange, joinChanges, kept } from './policy/change.ts';
import { PART_WEIGHT, weightOf } from './services/services.ts';

/** A delta that has no numbers yet. */
export type Change = Omit<Delta, 'from' | 'to'>;

/** A change and the revision that it leads to. */
export interface Step {
  revision: number;
  change: Change;
}

/** So many steps may wait to be sent one by one; of more all go in one. */
const SINGLE_STEPS = 16;
/** So many wait before they are made one. */
const WAITING_STEPS = 1000;

export class Outbox {
  /** Oldest first; null where nothing but everything will do. */
  #steps: Step[] | null = null;
  /** How many of the first are on the way. */
  #taken = 0;

  /** True where the host cannot be brought up to date from here. */
  get isLost(): boolean {
    return this.#steps === null;
  }

  /** Begins anew: the host has, or is being sent, everything up to now. */
  begin(): void {
    this.#steps = [];
    this.#taken = 0;
  }

  lose(): void {
    this.#steps = null;
  }

  add(revision: number, change: Change): void {
    const steps = this.#steps;
    if (steps === null) return;
    const last = steps.length > this.#taken ? steps.at(-1) : undefined;
    const isAlone = last?.change.policy !== undefined && change.policy !== undefined;
    const joined = last === undefined || isAlone ? null : join(last.change, change);
    if (joined === null || !isSmall(joined)) steps.push({ revision, change });
    else steps[steps.length - 1] = { revision, change: joined };
    if (steps.length - this.#taken > WAITING_STEPS) this.#compact(steps);
  }

  /** What to send next, null for nothing. It is on the way until confirm() or retry(). */
  next(): Step | null {
    const steps = this.#steps ?? [];
    const last = steps.at(-1);
    if (last === undefined) return null;
    this.#taken = steps.length <= SINGLE_STEPS ? 1 : steps.length;
    if (this.#taken === 1) return steps[0] ?? null;
    return { revision: last.revision, change: steps.map(({ change }) => change).reduce(join) };
  }

  /** The host has everything up to this revision. */
  confirm(revision: number): void {
    this.#steps = this.#steps?.filter((step) => step.revision > revision) ?? null;
    this.#taken = 0;
  }

  #compact(steps: Step[]): void {
    const waiting = steps.splice(this.#taken);
    const { revision } = waiting.at(-1) ?? { revision: 0 };
    const change = waiting.map((step) => step.change).reduce(join);
    steps.push({ revision, change });
    if (!isSmall(change)) this.lose();
  }
}

/** Whether a change fits one frame whatever its names and addresses are. */
export function isSmall(change: Change): boolean {
  const { nodes, pods, removedNodes, removedPods, policy, services = [], removedServices = [] }
    = change;
  const count = nodes.length + podWeight(pods) + removedNodes.length + removedPods.length;
  const served = services.length + removedServices.length;
  const weight = services.reduce((sum, service) => sum + weightOf(service), 0);
  const isAlone = count === 0 && policy === undefined;
  return count + served <= PART_LIMIT && weight <= (isAlone ? PART_WEIGHT : SIDE_WEIGHT)
    && (policy === undefined || isSmallChange(policy));
}

/** So many host ports of a pod take no more room than a node may. */
const PORTS_OF_A_NODE = 32;

/** How much of PART_LIMIT pods take up. */
export function podWeight(pods: readonly Pod[]): number {
  return pods.reduce((sum, { hostPorts = [] }) =>
    sum + 1 + Math.ceil(hostPorts.length / PORTS_OF_A_NODE), 0);
}

/** Weight of Services in a change of other things, too. */
const SIDE_WEIGHT = 2000;

/** Two changes, one after the other, as one. */
function join(first: Change, second: Change): Change {
  const name = (item: { name: string }): string => item.name;
  const pod = (item: { namespace: string; name: string }): string =>
    `${item.namespace}/${item.name}`;
  const own = (item: string): string => item;
  const policy = joinPolicies(first.policy, second.policy);
  return {
    nodes: kept(first.nodes, second.nodes, name, second.removedNodes),
    removedNodes: kept(first.removedNodes, second.removedNodes, own, second.nodes.map(name)),
    pods: kept(first.pods, second.pods, pod, second.removedPods.map(pod)),
    removedPods: kept(first.removedPods, second.removedPods, pod, second.pods.map(pod)),
    ...(policy === undefined ? {} : { policy }),
    ...joinServices(first, second),
  };
}

function joinServices(first: Change, second: Change): Partial<ServiceChange> {
  const key = ({ namespace, name }: { namespace: string; name: string }): string =>
    `${namespace}/${name}`;
  const [{ services: early, removedServices: gone }, { services: late, removedServices: going }]
    = [first, second];
  if ((early ?? gone ?? late ?? going) === undefined) return {};
  return {
    services: kept(early ?? [], late ?? [], key, (going ?? []).map(key)),
    removedServices: kept(gone ?? [], going ?? [], key, (late ?? []).map(key)),
  };
}

function joinPolicies(
  first: PolicyChange | undefined, second: PolicyChange | undefined,
): PolicyChange | undefined {
  return first === undefined || second === undefined ? second ?? first : joinChanges(first, second);
}

// Policy as a sidecar would send it, made by hand: what a test says is in force is in force when it
// has been said.

import { connect } from 'node:net';
import { join } from 'node:path';
import * as v from 'valibot';
import { hostPrefix } from '../../../engine/address.ts';
import { connectionOver, type Connection } from '../../../engine/connection.ts';
import {
  RevisionAnswerSchema, type EndpointPolicy, type PolicyChange, type Program, type RuleSet,
} from '../../../engine/model.ts';
import { VERSION } from '../../../cli/version.ts';
import { SYNC_SOCKET } from '../../../host/main.ts';
import { clusterNode, podAddresses, podName } from './forge-cluster.ts';
import type { Place } from './forge-scene.ts';

export const TCP = 6;
export const UDP = 17;
const RULE_SHIFT = 8;
const ALLOW = 1;

/** Ports of a protocol, both ends included. */
export interface Ports {
  protocol: number;
  first: number;
  last: number;
}

/** One port, or a range of them. */
export function ports(protocol: number, first: number, last = first): Ports {
  return { protocol, first, last };
}

/** Whom a rule set lets talk, and by what; without `ports`, by anything. */
export interface Permission {
  identity: number;
  ports?: Ports[];
}

/** A rule set that allows what the permissions say, each by the rule with the set's number. */
export function allowing(number: number, permissions: Permission[]): RuleSet {
  const answer = (number << RULE_SHIFT) | ALLOW;
  const programs: Program[] = [[[0, 0]]];
  const entries = permissions.map(({ identity, ports: allowed }, at): [number, number] => {
    programs.push(allowed === undefined ? [[0, answer]] : programOf(allowed, answer));
    return [identity, at + 1];
  });
  return { number, programs, fallback: 0, entries };
}

/** Precondition: the ranges ascend and do not touch. */
function programOf(allowed: Ports[], answer: number): Program {
  return [[0, 0], ...allowed.flatMap(({ protocol, first, last }): [number, number][] => [
    [(protocol << 16) | first, answer], [((protocol << 16) | last) + 1, 0],
  ])];
}

/** A pod of node `n` and its rule sets; 0 allows everything. */
export function podPolicy(n: number, pod: number, ingress: number, egress: number): EndpointPolicy {
  const name = podName(n, pod);
  return { namespace: 'test', name, uid: `uid-${name}`, ingress, egress };
}

/** Gives both addresses of a pod an identity. */
export function identify(n: number, pod: number, identity: number): [string, number][] {
  return podAddresses(n, pod).map((address) => [hostPrefix(address), identity]);
}

/** The sidecar of a daemon. */
export class Voice {
  readonly #connection: Connection;
  #revision = 1;

  private constructor(connection: Connection) {
    this.#connection = connection;
  }

  /** Connects, and tells of nodes, but nothing of policy. */
  static async start({ culvert, n }: Place, nodes: number[]): Promise<Voice> {
    const socket = connect(join(culvert.runtimeDirectory, SYNC_SOCKET));
    const connection = connectionOver(socket, { version: VERSION, role: 'sync', methods: {} });
    await connection.opened;
    const counts = { nodes: nodes.length, pods: 0 };
    const begin = { revision: 1, local: clusterNode(n).name, counts };
    await connection.request('snapshot.begin', begin, v.null());
    await connection.request('snapshot.part', { nodes: nodes.map(clusterNode) }, v.null());
    await connection.request('snapshot.commit', { revision: 1 }, RevisionAnswerSchema);
    return new Voice(connection);
  }

  /** Puts a change of policy into force. */
  async say(change: Partial<PolicyChange>): Promise<void> {
    const from = this.#revision;
    this.#revision += 1;
    const { status } = await this.#connection.request('delta', {
      from, to: this.#revision, nodes: [], removedNodes: [], pods: [], removedPods: [],
      policy: {
        identities: [], ruleSets: [], removedRuleSets: [], endpoints: [], removedEndpoints: [],
        rules: [], removedRules: [], ...change,
      },
    }, RevisionAnswerSchema);
    if (status !== 'applied') throw new Error(`delta ${this.#revision}: ${status}`);
  }

  close(): void {
    this.#connection.close();
  }
}

// Services as a sidecar would send them, made by hand, to a daemon whose pods no policy closes.

import { connect } from 'node:net';
import { join } from 'node:path';
import * as v from 'valibot';
import { connectionOver, type Connection } from '../../../engine/connection.ts';
import {
  RevisionAnswerSchema, type Backend, type Service, type ServicePort,
} from '../../../engine/model.ts';
import type { Family } from '../../../engine/address.ts';
import { VERSION } from '../../../cli/version.ts';
import { SYNC_SOCKET } from '../../../host/main.ts';
import { clusterNode } from './forge-cluster.ts';
import type { Place } from './forge-scene.ts';

/** Where Services have their addresses. */
export const SERVICE_NETWORKS = ['10.96.0.0/16', 'fd00:96::/112'];

/** Address of Service `n`. */
export function serviceAddress(n: number, family: Family): string {
  return family === 'IPv4' ? `10.96.0.${n}` : `fd00:96::${n.toString(16)}`;
}

/** Port of a Service, and the port of its backends. */
export interface Mapping {
  protocol: ServicePort['protocol'];
  port: number;
  to: number;
}

/** Service `n` of both families: each mapping with each backend. */
export function makeService(
  n: number, mappings: Mapping[], backends: string[], more: Partial<Service> = {},
): Service {
  const all = (port: number): Backend[] => backends.map((address) =>
    ({ address, port, state: 'ready' }));
  return {
    namespace: 'test', name: `service-${n}`,
    addresses: [serviceAddress(n, 'IPv4'), serviceAddress(n, 'IPv6')],
    ports: mappings.map(({ protocol, port, to }) =>
      ({ name: `${protocol}-${port}`, protocol, port, backends: all(to) })),
    affinitySeconds: 0, empty: 'reject', ...more,
  };
}

/** The sidecar of a daemon, which speaks of nodes and Services, not of policy. */
export class ServiceVoice {
  readonly #connection: Connection;
  #revision = 1;

  private constructor(connection: Connection) {
    this.#connection = connection;
  }

  static async start(
    { culvert, n }: Place, nodes: number[], services: Service[],
  ): Promise<ServiceVoice> {
    const socket = connect(join(culvert.runtimeDirectory, SYNC_SOCKET));
    const connection = connectionOver(socket, { version: VERSION, role: 'sync', methods: {} });
    await connection.opened;
    const counts = { nodes: nodes.length, pods: 0 };
    const begin = { revision: 1, local: clusterNode(n).name, counts };
    await connection.request('snapshot.begin', begin, v.null());
    await connection.request('snapshot.part', { nodes: nodes.map(clusterNode) }, v.null());
    await connection.request('snapshot.part', { services }, v.null());
    await connection.request('snapshot.commit', { revision: 1 }, RevisionAnswerSchema);
    return new ServiceVoice(connection);
  }

  /** Puts Services into force, and takes others out. */
  async say(services: Service[], removedServices: { namespace: string; name: string }[] = []):
  Promise<void> {
    const from = this.#revision;
    this.#revision += 1;
    const { status } = await this.#connection.request('delta', {
      from, to: this.#revision, nodes: [], removedNodes: [], pods: [], removedPods: [],
      services, removedServices,
    }, RevisionAnswerSchema);
    if (status !== 'applied') throw new Error(`delta ${this.#revision}: ${status}`);
  }

  close(): void {
    this.#connection.close();
  }
}

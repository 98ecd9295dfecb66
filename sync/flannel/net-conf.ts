// Where a cluster's net-conf.json is read, and whether the host is set up as it says. flannel keeps
// it in a ConfigMap, `kube-flannel-cfg`; k3s and an operator keep it in a file.

import { readFile } from 'node:fs/promises';
import * as v from 'valibot';
import { addressFamily, prefixHolds } from '../../engine/address.ts';
import type { Family } from '../../engine/address.ts';
import { parseNetConf } from '../../engine/net-conf.ts';
import type { NetConf } from '../../engine/net-conf.ts';
import type { ObjectReader } from '../node-writer.ts';
import { follow, type Readable } from '../poll.ts';

/** A file costs little to look at, a ConfigMap is asked of a server that every node asks. */
export const FILE_PERIOD_MS = 5000;
export const MAP_PERIOD_MS = 300_000;
const NOT_FOUND = 404;
const KEY = 'net-conf.json';
const MAP_NAME = 'kube-flannel-cfg';
/** Where flannel's manifests put the ConfigMap: now, and before version 0.18. */
const MAP_PLACES = [`kube-flannel/${MAP_NAME}`, `kube-system/${MAP_NAME}`];

/** Reads net-conf.json. Throws what the operator should know. */
export interface NetConfSource extends Readable<NetConf> {
  /** As the operator calls it. */
  readonly place: string;
}

/** The source that an operator means by FILE or configmap:NAMESPACE/NAME; empty for the ConfigMap
 * that flannel's manifests make. Throws for what is neither, and for a ConfigMap where there is no
 * API server to ask. */
export function netConfSource(text: string, client: ObjectReader | null): NetConfSource {
  if (text !== '' && !text.startsWith('configmap:')) return fileSource(text);
  if (client === null) throw new Error('net-conf: a file is to be named where the source is one');
  if (text === '') return mapSource(MAP_PLACES, client);
  const place = text.slice('configmap:'.length);
  if (!/^[a-z0-9.-]+\/[a-z0-9.-]+$/.test(place)) {
    throw new Error(`net-conf ${text}: not configmap:NAMESPACE/NAME`);
  }
  return mapSource([place], client);
}

function fileSource(path: string): NetConfSource {
  return {
    place: path,
    periodMs: FILE_PERIOD_MS,
    read: async () => {
      const text = await readFile(path, 'utf8').catch((error: NodeJS.ErrnoException) => {
        throw new Error(`read ${path}: ${error.code ?? error.message}`);
      });
      return parseNetConf(text, path);
    },
  };
}

const MapSchema = v.object({ data: v.nullish(v.record(v.string(), v.string())) });

function mapSource(places: readonly string[], client: ObjectReader): NetConfSource {
  const place = places.map((name) => `ConfigMap ${name}`).join(' or ');
  return {
    place,
    periodMs: MAP_PERIOD_MS,
    read: async (signal) => {
      for (const name of places) {
        const text = await readMap(name, client, signal);
        if (text !== null) return parseNetConf(text, `ConfigMap ${name}: ${KEY}`);
      }
      throw new Error(`${place}: not there; make it, or name a file with --net-conf`);
    },
  };
}

/** The text in a ConfigMap; null where there is no such ConfigMap. */
async function readMap(
  name: string, client: ObjectReader, signal: AbortSignal,
): Promise<string | null> {
  const [namespace = '', map = ''] = name.split('/');
  try {
    const object = await client.get(
      `/api/v1/namespaces/${namespace}/configmaps/${map}`, {}, signal);
    const text = v.parse(MapSchema, object).data?.[KEY];
    if (text === undefined) throw new Error(`ConfigMap ${name}: there is no ${KEY} in it`);
    return text;
  } catch (error) {
    const status: unknown = Reflect.get(Object(error), 'status');
    if (status === NOT_FOUND) return null;
    if (status !== 403) throw error;
    throw new Error(`ConfigMap ${name}: forbidden: verb get, resource configmaps`, {
      cause: error,
    });
  }
}

/** Who is told of net-conf.json. */
export interface NetConfReader {
  netConf(conf: NetConf): void;
  /** It cannot be read now; what was read before still counts. */
  netConfProblem(problem: string): void;
}

/** Reads it again and again until the signal aborts. */
export function followNetConf(
  source: NetConfSource, reader: NetConfReader, signal: AbortSignal,
): Promise<void> {
  return follow(source, {
    value: (conf) => reader.netConf(conf), problem: (problem) => reader.netConfProblem(problem),
  }, signal);
}

/** What of the host has to do with net-conf.json. */
export interface HostFacts {
  underlay: readonly { family: Family; address: string; mtu: number }[];
  podNetworks: readonly string[];
  port: number;
}

/** Where the host is not set up as the cluster is, one line each. */
export function compareWithHost(conf: NetConf, facts: HostFacts): string[] {
  const problems: string[] = [];
  const differs = conf.podNetworks.some((prefix) => !facts.podNetworks.includes(prefix))
    || facts.podNetworks.some((prefix) => !conf.podNetworks.includes(prefix));
  if (differs) {
    problems.push(`the cluster's pod networks are ${conf.podNetworks.join(', ')}, the host has `
      + `${facts.podNetworks.join(', ') || 'none'}: set podNetworks, or netConf, of culvert run`);
  }
  if (conf.type === 'vxlan' && conf.port !== facts.port) {
    problems.push(`the cluster's VXLAN port is ${conf.port}, the host has ${facts.port}: `
      + 'set underlay.port, or netConf, of culvert run');
  }
  for (const { family, mtu } of facts.underlay) {
    if (conf.linkMtu === 0 || conf.linkMtu === mtu) continue;
    problems.push(`the cluster's links have an MTU of ${conf.linkMtu}, the host's ${family} link `
      + `has ${mtu}: set underlay.mtu of culvert run`);
  }
  for (const prefix of conf.podNetworks) {
    const family = addressFamily(prefix);
    if (facts.underlay.some((own) => own.family === family)) continue;
    problems.push(`the host has no ${family} address to tunnel from, and the cluster has `
      + `${prefix}: flannel's nodes take no note of this one`);
  }
  return problems;
}

/** The prefix that a node has of each network, in their order; null where one is missing, or is not
 * part of it. flannel takes a node's first of a family, and no other. */
export function leasedCidrs(
  conf: NetConf, podCidrs: readonly string[],
): { cidrs: string[]; problem: string | null } {
  const cidrs: string[] = [];
  for (const network of conf.podNetworks) {
    const family = addressFamily(network);
    const cidr = podCidrs.find((prefix) => addressFamily(prefix) === family);
    if (cidr === undefined) {
      return { cidrs, problem: `our Node has no ${family} pod network yet (spec.podCIDRs)` };
    }
    const [base = '', length] = cidr.split('/');
    if (!prefixHolds(network, base) || Number(length) < Number(network.split('/')[1])) {
      return { cidrs, problem: `our Node's ${cidr} is not part of the cluster's ${network}` };
    }
    cidrs.push(cidr);
  }
  return { cidrs, problem: null };
}

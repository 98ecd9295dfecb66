// The names of the demo: a real DNS server, dnsmasq, runs in the pod that is the backend of the
// cluster's DNS Service, and every pod and node of a Culvert node asks it for each other Service by
// way of that Service's address.

import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { addressFamily, type Family } from '../../engine/address.ts';
import type { Entry } from '../../sync/objects.ts';
import { servicesFor } from '../policy/services.ts';
import { PACKAGE_FOLDER } from '../version.ts';
import type { Bed } from './bed.ts';
import { expectedOf, type Question } from './expect.ts';
import type { Patience } from './patience.ts';
import type { Client } from './services.ts';

const DNS_PORT = 53;
const ZONE = 'svc.cluster.local';
/** Where administrators' programs are, and what `npm run demo` fetches. */
const PLACES = [
  '/usr/sbin/dnsmasq', '/usr/local/sbin/dnsmasq', '/usr/bin/dnsmasq',
  join(PACKAGE_FOLDER, '.tools', 'debian', 'dnsmasq', 'dnsmasq'),
];

/** One client's question for a Service's address of one family. */
export interface NameTrial {
  from: string;
  name: string;
  family: Family;
  /** Address of the DNS Service. */
  server: string;
  expected: 'reach' | 'blocked';
  /** What was answered; empty for nothing. */
  answer: string;
  ok: boolean;
}

interface DnsService {
  addresses: string[];
  /** The pod behind it. */
  backend: Client;
}

/** The Service with a UDP port 53 and one pod behind it, if the cluster has one. */
export function findDns(entries: readonly Entry[], clients: readonly Client[]): DnsService | null {
  for (const { addresses, ports } of servicesFor('', entries)) {
    const dns = ports.find(({ protocol, port }) => protocol === 'UDP' && port === DNS_PORT);
    const backend = clients.find((client) => dns?.backends.some(({ address, port }) =>
      port === DNS_PORT && client.addresses.includes(address)));
    if (backend !== undefined) return { addresses, backend };
  }
  return null;
}

/** The machine's DNS server, or null. */
export function findDnsServer(): string | null {
  return PLACES.find((path) => existsSync(path)) ?? null;
}

/** Starts the DNS server in its pod, with a record for each Service. */
export async function startDns(
  bed: Bed, program: string, { backend }: DnsService, entries: readonly Entry[],
): Promise<void> {
  await bed.start(backend.host, [
    program, '--no-daemon', '--log-facility=-', '--conf-file=/dev/null',
    '--no-resolv', '--no-hosts', '--pid-file=', '--bind-interfaces', `--port=${DNS_PORT}`,
    ...backend.addresses.map((address) => `--listen-address=${address}`), `--local=/${ZONE}/`,
    ...servicesFor('', entries).map(({ namespace, name, addresses }) =>
      `--host-record=${name}.${namespace}.${ZONE},${addresses.join(',')}`),
  ], 'started, version');
}

/** Has each client resolve each Service that is not the DNS server's own. */
export async function tryNames(
  entries: readonly Entry[], clients: readonly Client[],
  { addresses: servers, backend }: DnsService, { openMs, blockedMs }: Patience, stop: AbortSignal,
): Promise<NameTrial[]> {
  const services = servicesFor('', entries).filter(({ addresses }) => addresses[0] !== servers[0]);
  const plans = clients.filter((client) => client !== backend).flatMap((client) =>
    services.flatMap(({ namespace, name, addresses }) => addresses.flatMap((address) => {
      const family = addressFamily(address);
      const server = servers.find((candidate) => addressFamily(candidate) === family);
      const full = `${name}.${namespace}.${ZONE}`;
      return server === undefined ? [] : [{ client, server, address, family, name: full }];
    })));
  const questions = plans.map(({ client, family }): Question =>
    ({ from: client.name, to: backend.name, protocol: 'UDP', family }));
  const answers = expectedOf(entries, questions, DNS_PORT);
  return Promise.all(plans.map(async ({ client, server, address, family, name }, at) => {
    const expected = answers[at] ?? 'blocked';
    const { ok, from } = await client.host.agent.ask({
      verb: 'resolve', server, name, kind: family === 'IPv4' ? 'A' : 'AAAA',
      timeoutMs: expected === 'reach' && !stop.aborted ? openMs : blockedMs,
    });
    const answer = ok ? from : '';
    const isAsExpected = answer === (expected === 'reach' ? address : '');
    return { from: client.name, name, family, server, expected, answer, ok: isAsExpected };
  }));
}

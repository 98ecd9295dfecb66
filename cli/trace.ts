// `culvert trace`: the walk of one packet through the running daemon's tables, step by step.

import * as v from 'valibot';
import { addressFamily, isAddress, type Family } from '../engine/address.ts';
import { TraceReportSchema, type TraceQuery } from '../engine/model-capture.ts';
import { EndpointReportSchema, ServiceReportSchema } from '../engine/model.ts';
import { ask, askAll } from './client.ts';
import { CommandError, EXIT_FAILED, EXIT_OK, EXIT_USAGE } from './exit.ts';
import { parsePort } from './policy/flows.ts';
import { print, type OutputFormat } from './table.ts';

export interface TraceOptions {
  runtimeDirectory: string;
  output: OutputFormat;
  from: string;
  to: string;
  port: string;
  family?: Family;
  size: number;
}

/** Prints the walk. Returns the exit status: 1 where the packet would be dropped. */
export async function trace(options: TraceOptions): Promise<number> {
  const query = await queryOf(options);
  const report = await ask(options.runtimeDirectory, 'trace', query, TraceReportSchema);
  const { verdict, reason, steps } = report;
  print(options.output, { ...query, ...report }, ['STEP', 'OUTCOME', 'DETAIL'], () => [
    ...steps.map(({ step, outcome, detail }) => [step, outcome, detail]),
    ['verdict', verdict, reason ?? ''],
  ]);
  return verdict === 'dropped' ? EXIT_FAILED : EXIT_OK;
}

async function queryOf(options: TraceOptions): Promise<TraceQuery> {
  const { from, to, port, family, size } = options;
  const parsed = parsePort(port);
  if (parsed === null) refuse(`--port ${port}: not as 80/TCP, 53/UDP or ICMP`);
  if (!Number.isInteger(size) || size < 0 || size > 65_535) refuse('--size is 0 to 65535 bytes');
  const sources = await addressesOf(from, options);
  const destinations = await addressesOf(to, options);
  const pair = (['IPv4', 'IPv6'] as const)
    .filter((one) => family === undefined || one === family)
    .map((one) => [firstOf(sources, one), firstOf(destinations, one)] as const)
    .find(([source, destination]) => source !== undefined && destination !== undefined);
  const [source, destination] = pair ?? [];
  if (source === undefined || destination === undefined) {
    return refuse(`${from} and ${to} have no address of ${family ?? 'one family'}`);
  }
  const { protocol, port: number } = parsed ?? { protocol: 'ICMP', port: null };
  return { source, destination, protocol, port: number ?? null, size };
}

/** The addresses of an end: its own, of a pod of this node, or of a Service. */
async function addressesOf(
  end: string, { runtimeDirectory }: TraceOptions,
): Promise<readonly string[]> {
  if (isAddress(end)) return [end];
  const [, isService, namespace = '', name = ''] =
    /^(service:)?([^/:]+)\/([^/:]+)$/.exec(end) ?? [];
  if (name === '') return refuse(`${end}: not NAMESPACE/POD, service:NAMESPACE/NAME or an address`);
  if (isService !== undefined) {
    const service = await ask(runtimeDirectory, 'service.get', { namespace, name },
      v.nullable(ServiceReportSchema));
    return service?.addresses ?? fail(`no Service ${namespace}/${name}`);
  }
  const endpoints = await askAll(runtimeDirectory, 'endpoint.list', EndpointReportSchema);
  const found = endpoints.find((one) => one.namespace === namespace && one.name === name);
  return found?.addresses ?? fail(`no pod ${end} is attached to this node; of another node's pod `
    + 'give the address');
}

function firstOf(addresses: readonly string[], family: Family): string | undefined {
  return addresses.find((address) => addressFamily(address) === family);
}

function refuse(why: string): never {
  throw new CommandError(EXIT_USAGE, `trace: ${why}`);
}

function fail(why: string): never {
  throw new CommandError(EXIT_FAILED, `trace: ${why}`);
}

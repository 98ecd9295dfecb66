// `culvert service list|get`: the Services that a running daemon serves, and who answers for them.

import * as v from 'valibot';
import { ServiceReportSchema, ServiceSummarySchema } from '../engine/model.ts';
import type { ServiceReport } from '../engine/model.ts';
import { ask, askAll } from './client.ts';
import { CommandError, EXIT_FAILED, EXIT_USAGE } from './exit.ts';
import type { ShowOptions } from './show.ts';
import { print, table } from './table.ts';

/** A port as `http:80/TCP`, with a node port as `http:80:30080/TCP`. */
function portText({ name, port, nodePort, protocol }: {
  name: string; port: number; nodePort?: number; protocol: string;
}): string {
  const outside = nodePort === undefined ? '' : `:${nodePort}`;
  return `${name === '' ? '' : `${name}:`}${port}${outside}/${protocol}`;
}

function endText(address: string, port: number): string {
  return address.includes(':') ? `[${address}]:${port}` : `${address}:${port}`;
}

export async function showServices({ runtimeDirectory, output }: ShowOptions): Promise<void> {
  const services = await askAll(runtimeDirectory, 'service.list', ServiceSummarySchema);
  const headers = ['NAMESPACE', 'NAME', 'ADDRESSES', 'PORTS', 'READY', 'FLOWS', 'REFUSED'];
  print(output, services, headers, () => services.map((service) => [
    service.namespace,
    service.name,
    service.addresses.join(','),
    service.ports.map(portText).join(',') || '-',
    service.ports.map(({ ready, backends }) => `${ready}/${backends}`).join(',') || '-',
    String(service.opened),
    String(service.refused),
  ]));
}

/** `name` is NAMESPACE/NAME. */
export async function showService(
  name: string, { runtimeDirectory, output }: ShowOptions,
): Promise<void> {
  const [namespace = '', own = '', rest] = name.split('/');
  if (namespace === '' || own === '' || rest !== undefined) {
    throw new CommandError(EXIT_USAGE, `service get: ${name} is not NAMESPACE/NAME`);
  }
  const service = await ask(runtimeDirectory, 'service.get', { namespace, name: own },
    v.nullable(ServiceReportSchema));
  if (service === null) {
    throw new CommandError(EXIT_FAILED, `service get: ${name} is not served by this node`);
  }
  if (output === 'table') process.stdout.write(headText(service));
  print(output, service, ['PORT', 'BACKEND', 'STATE'], () => service.ports.flatMap((port) =>
    (port.backends.length === 0 ? [[portText(port), '-', service.empty]]
      : port.backends.map(({ address, port: number, state }) =>
        [portText(port), endText(address, number), state]))));
}

function headText(service: ServiceReport): string {
  const { affinitySeconds } = service;
  return `${table([], [
    ['Service:', `${service.namespace}/${service.name}`],
    ['Addresses:', service.addresses.join(', ')],
    ['Affinity:', affinitySeconds === 0 ? 'none' : `client, ${affinitySeconds} s`],
    ['Flows:', `${service.opened} given to backends, ${service.refused} packets found none`],
  ])}\n`;
}

// What becomes of a flow to a Service's address before policy sees it: a flow to one of its
// backends, chosen as the sidecar of the client's node would have them.

import { addressFamily, isAddress } from '../../engine/address.ts';
import type { Backend, Service } from '../../engine/model.ts';
import type { Entry } from '../../sync/objects.ts';
import { Services } from '../../sync/services/services.ts';
import type { Flow } from './flows.ts';

const SERVICE = 'service:';

/** A flow to a Service, and the flows that it may become. */
export interface Translation {
  /** As namespace/name. */
  service: string;
  address: string;
  /** One for each backend that a new connection may get. */
  flows: Flow[];
}

/** The Services as the objects make them for clients of a node. */
export function servicesFor(node: string, entries: readonly Entry[]): Service[] {
  const services = new Services(node);
  for (const entry of entries) {
    if (entry.kind === 'Service') services.setService(entry.key, entry.service);
    if (entry.kind === 'EndpointSlice') services.setSlice(entry.key, entry.slice);
    const labels = entry.kind === 'Node' && entry.key === node ? entry.labels : null;
    if (labels !== null) services.setNodeLabels(labels);
  }
  services.take(false);
  return [...services.parts()].flat();
}

/** The address of an end that is written `service:NAMESPACE/NAME`; any other text as it is. */
export function endAddress(
  text: string, family: string | undefined, entries: readonly Entry[],
): string {
  if (!text.startsWith(SERVICE)) return text;
  const key = text.slice(SERVICE.length);
  const found = servicesFor('', entries).find(({ namespace, name }) =>
    `${namespace}/${name}` === key);
  const address = found?.addresses.find((candidate) =>
    family === undefined || addressFamily(candidate) === family);
  return address ?? text;
}

/** What becomes of a flow; null where its destination is no Service's. */
export function translationOf(flow: Flow, entries: readonly Entry[]): Translation | null {
  const { dst: { ip: address }, src, port, protocol } = flow;
  if (address === undefined || !isAddress(address)) return null;
  const pod = entries.find((entry) => entry.kind === 'Pod' && entry.key === src.pod);
  const node = src.node ?? (pod?.kind === 'Pod' ? pod.nodeName : '');
  for (const { namespace, name, addresses, ports } of servicesFor(node, entries)) {
    if (!addresses.includes(address)) continue;
    const front = ports.find((one) => one.port === port && one.protocol === protocol);
    const family = addressFamily(address);
    const backends = (front?.backends ?? []).filter((one) =>
      addressFamily(one.address) === family);
    return {
      service: `${namespace}/${name}`,
      address,
      flows: offered(backends).map((backend) =>
        ({ ...flow, dst: { ip: backend.address }, port: backend.port })),
    };
  }
  return null;
}

/** Those that new connections get. */
function offered(backends: readonly Backend[]): readonly Backend[] {
  const ready = backends.filter(({ state }) => state === 'ready');
  return ready.length > 0 ? ready : backends.filter(({ state }) => state === 'draining');
}

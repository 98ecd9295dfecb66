// What becomes of a flow to a Service's address before policy sees it: a flow to one of its
// backends, chosen as the sidecar of the client's node would have them.

import { addressBytes, addressFamily, addressText } from '../../engine/address.ts';
import type { Backend, Service } from '../../engine/model.ts';
import type { Entry } from '../../sync/objects.ts';
import { Services } from '../../sync/services/services.ts';
import type { Flow } from './flows.ts';
import type { FlowResult } from './judge.ts';

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

export class Translator {
  /** What Services are made of. */
  readonly #parts: Entry[];
  readonly #nodeOfPod = new Map<string, string>();
  /** Services by address, for clients of a node. */
  readonly #served = new Map<string, Map<string, Service>>();

  constructor(entries: readonly Entry[]) {
    this.#parts = entries.filter(({ kind }) =>
      kind === 'Service' || kind === 'EndpointSlice' || kind === 'Node');
    for (const entry of entries) {
      if (entry.kind === 'Pod') this.#nodeOfPod.set(entry.key, entry.nodeName);
    }
  }

  /** The address of an end that is written `service:NAMESPACE/NAME`; any other text as it is. */
  addressOf(text: string, family: string | undefined): string {
    if (!text.startsWith(SERVICE)) return text;
    const key = text.slice(SERVICE.length);
    const found = [...this.#servedFor('').values()].find(({ namespace, name }) =>
      `${namespace}/${name}` === key);
    const address = found?.addresses.find((candidate) =>
      family === undefined || addressFamily(candidate) === family);
    return address ?? text;
  }

  /** What becomes of a flow; null where its destination is no Service's. */
  translate(flow: Flow): Translation | null {
    const { dst: { ip }, src, port, protocol } = flow;
    if (ip === undefined) return null;
    const address = addressText(addressBytes(ip));
    if (!this.#servedFor('').has(address)) return null;
    const pod = src.pod?.includes('/') ? src.pod : `default/${src.pod ?? ''}`;
    const node = src.node ?? this.#nodeOfPod.get(pod) ?? '';
    const service = this.#servedFor(node).get(address);
    if (service === undefined) return null;
    const front = service.ports.find((one) => one.port === port && one.protocol === protocol);
    const family = addressFamily(address);
    const backends = (front?.backends ?? []).filter((one) =>
      addressFamily(one.address) === family);
    return {
      service: `${service.namespace}/${service.name}`,
      address,
      flows: offered(backends).map((backend) =>
        ({ ...flow, dst: { ip: backend.address }, port: backend.port })),
    };
  }

  #servedFor(node: string): Map<string, Service> {
    const known = this.#served.get(node);
    if (known !== undefined) return known;
    const served = new Map(servicesFor(node, this.#parts).flatMap((service) =>
      service.addresses.map((address) => [address, service] as const)));
    this.#served.set(node, served);
    return served;
  }
}

/** Those that new connections get. */
function offered(backends: readonly Backend[]): readonly Backend[] {
  const ready = backends.filter(({ state }) => state === 'ready');
  return ready.length > 0 ? ready : backends.filter(({ state }) => state === 'draining');
}

/** Flows as policy sees them. `places` are those of the flows that they were. */
export interface Translated {
  asked: Flow[];
  places: number[];
}

/** Has each flow to a Service become one for each backend that it may get. */
export function throughServices(flows: readonly Flow[], entries: readonly Entry[]): Translated {
  const translator = new Translator(entries);
  const turned = flows.map((flow) => translator.translate(flow)?.flows ?? [flow]);
  return {
    asked: turned.flat(), places: turned.flatMap((some, index) => some.map(() => index)),
  };
}

/** One result for each flow: the first that is denied of those that it has become, or the first.
 * One that finds no backend does not pass, and no policy was asked. */
export function joinResults(
  flows: readonly Flow[], { places }: Translated, results: readonly FlowResult[],
): FlowResult[] {
  const joined = new Map<number, FlowResult>();
  for (const [at, result] of results.entries()) {
    const index = places[at] ?? at;
    const known = joined.get(index);
    const isWorse = known?.verdict === 'allow' && result.verdict === 'deny';
    if (known === undefined || isWorse) joined.set(index, result);
  }
  return flows.map(({ id }, index) => joined.get(index)
    ?? { id, verdict: 'deny', egress: 'allow', ingress: 'allow', policy: null });
}

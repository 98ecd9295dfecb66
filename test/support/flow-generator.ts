// Random flows over a random cluster: between pods, nodes and addresses outside, at the ports where
// rules begin and end.

import type { TwinEnd, TwinFlow } from '../reference/policy.ts';
import { PORTS, PROTOCOLS, isLive, type ClusterGenerator, type PodObject } from
  './cluster-generator.ts';

type Family = 'IPv4' | 'IPv6';

/** An end and the families it has. */
interface Candidate {
  end: TwinEnd;
  families: Family[];
}

const BOUNDARIES = [...new Set(PORTS.flatMap((port) => [port - 1, port, port + 1]))]
  .filter((port) => port >= 1 && port <= 65535);

/** Gives flows over the cluster as it is now. */
export class FlowGenerator {
  #cluster: ClusterGenerator;
  #pods: Candidate[];
  #others: Candidate[];

  constructor(cluster: ClusterGenerator) {
    this.#cluster = cluster;
    const hasAddress = (pod: PodObject): boolean => isLive(pod)
      || (pod.spec?.hostNetwork === true && pod.status?.phase === 'Running');
    this.#pods = cluster.pods().filter(hasAddress).map(({ metadata, status }) => ({
      end: { pod: `${metadata.namespace ?? 'default'}/${metadata.name}` },
      families: (status?.podIPs ?? []).map(({ ip }) => familyOf(ip)),
    }));
    this.#others = cluster.nodes().map(({ metadata }) =>
      ({ end: { node: metadata.name }, families: ['IPv4', 'IPv6'] }));
  }

  next(): TwinFlow {
    const { random } = this.#cluster;
    for (;;) {
      const [source, destination] = [this.#end(), this.#end()];
      const families = source.families.filter((family) => destination.families.includes(family));
      if (families.length === 0) continue;
      const protocol = random.oneIn(6) ? 'ICMP' : random.pick(PROTOCOLS);
      return {
        src: source.end, dst: destination.end, protocol,
        ...protocol === 'ICMP' ? {} : { port: this.#port() },
        ...families.length > 1 || random.oneIn(8) ? { family: random.pick(families) } : {},
      };
    }
  }

  #port(): number {
    const { random } = this.#cluster;
    if (random.oneIn(2)) return random.pick(PORTS);
    return random.oneIn(10) ? random.between(1, 65535) : random.pick(BOUNDARIES);
  }

  #end(): Candidate {
    const { random } = this.#cluster;
    const choice = random.below(10);
    if (choice < 7 && this.#pods.length > 0) return random.pick(this.#pods);
    if (choice < 9) return random.pick(this.#others);
    const ip = this.#cluster.anyAddress();
    return { end: { ip }, families: [familyOf(ip)] };
  }
}

function familyOf(address: string): Family {
  return address.includes(':') ? 'IPv6' : 'IPv4';
}

// Which endpoints answer in a Service's place, for clients of one node.
//
// The rules are those of Kubernetes' own proxy (its pkg/proxy/topology.go): hints count only where
// every ready endpoint has them and one of them is for us, those for nodes before those for zones;
// `internalTrafficPolicy: Local` leaves the node's own endpoints only. `trafficDistribution` is not
// looked at: whoever writes the slices makes hints of it.
//
// A node port of such a Service may lead to other nodes all the same. Their endpoints stand there,
// then, as ones that clients within the cluster do not get: those that are ready as distant, others
// as unready, because draining ones would stand in for the node's own.
//
// An endpoint that is passed over for a nearer one, or that is not ready, keeps the connections
// that it has.

import type { Backend } from '../../engine/model.ts';
import type { EndpointFacts, ServiceFacts } from './objects.ts';

/** Where the clients are. */
export interface Place {
  node: string;
  /** Empty for none. */
  zone: string;
}

/** An endpoint by one of its ports. */
export interface Candidate {
  address: string;
  port: number;
  facts: EndpointFacts;
}

type Rules = Pick<ServiceFacts, 'isLocal' | 'takesUnready'>;

/** The backends among the endpoints of one port and one family. `isForAll` says that a node port
 * takes them wherever they are. */
export function chooseBackends(
  candidates: readonly Candidate[], { isLocal, takesUnready }: Rules, place: Place,
  isForAll = false,
): Backend[] {
  const isOwn = ({ node }: EndpointFacts): boolean => node === place.node;
  const ours = isLocal && !isForAll ? candidates.filter(({ facts }) => isOwn(facts)) : candidates;
  const conditionOf = ({ condition }: EndpointFacts): EndpointFacts['condition'] =>
    (takesUnready ? 'ready' : condition);
  const ready = ours.filter(({ facts }) => conditionOf(facts) === 'ready');
  const isNear = isLocal ? isOwn : nearness(ready.map(({ facts }) => facts), place);
  const stateOf = (facts: EndpointFacts): Backend['state'] => {
    const condition = conditionOf(facts);
    if (condition === 'ready') return isNear(facts) ? 'ready' : 'distant';
    return isLocal && !isOwn(facts) ? 'unready' : condition;
  };
  return ours.map(({ address, port, facts }) => ({
    address, port, state: stateOf(facts), ...isOwn(facts) ? { local: true } : {},
  }));
}

/** Says of a ready endpoint whether it is for clients of this place. */
function nearness(
  ready: readonly EndpointFacts[], { node, zone }: Place,
): (facts: EndpointFacts) => boolean {
  const isOfNode = ({ nodes }: EndpointFacts): boolean => nodes?.includes(node) === true;
  const isOfZone = ({ zones }: EndpointFacts): boolean => zones?.includes(zone) === true;
  if (ready.every(({ nodes }) => nodes !== null) && ready.some(isOfNode)) return isOfNode;
  if (ready.every(({ zones }) => zones !== null) && ready.some(isOfZone)) return isOfZone;
  return () => true;
}

// Which endpoints answer in a Service's place, for clients of one node.
//
// The rules are those of Kubernetes' own proxy (its pkg/proxy/topology.go): hints count only where
// every ready endpoint has them and one of them is for us, those for nodes before those for zones;
// `internalTrafficPolicy: Local` leaves the node's own endpoints only. `trafficDistribution` is not
// looked at: whoever writes the slices makes hints of it.
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

/** The backends among the endpoints of one port and one family. */
export function chooseBackends(
  candidates: readonly Candidate[], { isLocal, takesUnready }: Rules, place: Place,
): Backend[] {
  const ours = isLocal ? candidates.filter(({ facts }) => facts.node === place.node) : candidates;
  const conditionOf = ({ condition }: EndpointFacts): EndpointFacts['condition'] =>
    (takesUnready ? 'ready' : condition);
  const ready = ours.filter(({ facts }) => conditionOf(facts) === 'ready');
  const isNear = isLocal ? () => true : nearness(ready.map(({ facts }) => facts), place);
  return ours.map(({ address, port, facts }) => {
    const condition = conditionOf(facts);
    const isPassedOver = condition === 'ready' && !isNear(facts);
    return { address, port, state: isPassedOver ? 'distant' : condition };
  });
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

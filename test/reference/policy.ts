// The slow twin of policy: who may talk to whom, read off Kubernetes objects by going through all
// of them for each flow, rule by rule, as the API documentation puts it. It shares no code with
// what it checks. Sources:
//
//   NP    k8s.io/api/networking/v1 types.go, comments of NetworkPolicy
//   doc   kubernetes.io/docs/concepts/services-networking/network-policies
//   CNP   sigs.k8s.io/network-policy-api apis/v1alpha2/clusternetworkpolicy_types.go, comments
//   ours  docs/POLICY.md, where these leave a choice

import {
  blockHolds, parseAddress, selects, sortObjects, type Address, type Cluster, type ClusterPeer,
  type ClusterProtocol, type ClusterRule, type ContainerPort, type Labels,
  type NamespacedPod, type Peer, type PolicyPort, type RawClusterPolicy, type RawNetworkPolicy,
  type RawPod, type Rule,
} from './policy-objects.ts';

export type TwinEnd = { pod: string } | { ip: string } | { node: string };
export type TwinProtocol = 'TCP' | 'UDP' | 'SCTP' | 'ICMP';

export interface TwinFlow {
  src: TwinEnd;
  dst: TwinEnd;
  protocol: TwinProtocol;
  port?: number;
  family?: 'IPv4' | 'IPv6';
}

export type Word = 'allow' | 'deny';

export interface TwinVerdict {
  verdict: Word;
  egress: Word;
  ingress: Word;
  policy: string | null;
}

/** What a policy module is told of a flow, addresses by their last 32 bits. */
export interface ModuleQuestion {
  direction: Direction;
  protocol: number;
  port: number;
  source: number;
  destination: number;
}

/** A policy module as a function of the flow. */
export interface TwinModule {
  name: string;
  mayAllow: boolean;
  evaluate(question: ModuleQuestion): 'pass' | 'allow' | 'deny' | 'reject';
}

export interface TwinOptions {
  /** Reads the annotation that was NetworkPolicy before Kubernetes 1.7. */
  legacyAnnotation?: boolean;
  /** In the order in which they are asked. */
  modules?: readonly TwinModule[];
}

type Direction = 'ingress' | 'egress';

/** A pod that has an address of its own. */
interface TwinPod {
  key: string;
  namespace: string;
  labels: Labels;
  nodeName: string;
  addresses: Address[];
  ports: ContainerPort[];
}

interface TwinNode {
  name: string;
  labels: Labels;
  addresses: Address[];
}

/** One end of a flow: its address, and whose that is. */
interface Place {
  address: Address;
  pod: TwinPod | undefined;
  node: TwinNode | undefined;
}

/** What one pod's rules in one direction are asked. */
interface Question {
  direction: Direction;
  pod: TwinPod;
  /** The pod's own in this flow. */
  address: Address;
  peer: Place;
  /** Where the connection leads: named ports are its. */
  destination: TwinPod | undefined;
  protocol: TwinProtocol;
  port: number;
}

interface Answer {
  word: Word;
  policy: string | null;
}

/** No rule looks at it: "the default kubernetes policy is applied, which says that all pods can
 * communicate with each other" (CNP, Tier). */
const BY_DEFAULT: Answer = { word: 'allow', policy: null };

export class PolicyTwin {
  readonly pods: TwinPod[];
  readonly nodes: TwinNode[];
  #cluster: Cluster;
  #namespaces: Map<string, Labels>;
  #legacy: boolean;
  #modules: readonly TwinModule[];

  constructor(objects: readonly unknown[], options: TwinOptions = {}) {
    this.#cluster = sortObjects(objects);
    this.#cluster.networkPolicies.sort(byName);
    // "Policies with lower priority values have higher precedence"; of equal ones "the
    // implementation can apply any" (CNP, Priority). Ours: the first by name.
    this.#cluster.clusterPolicies.sort((a, b) =>
      a.spec.priority - b.spec.priority || byName(a, b));
    this.#namespaces = new Map(this.#cluster.namespaces.map(({ metadata }) =>
      [metadata.name, namespaceLabels(metadata.name, metadata.labels ?? {})]));
    this.pods = this.#cluster.pods.filter(hasOwnAddress).map(readPod);
    this.nodes = readNodes(this.#cluster);
    this.#legacy = options.legacyAnnotation === true;
    this.#modules = options.modules ?? [];
  }

  /** The verdict on the first packet of a flow: "both the egress policy on the source pod and the
   * ingress policy on the destination pod need to allow the connection" (doc). */
  judge(flow: TwinFlow): TwinVerdict {
    const [source, destination] = this.#places(flow);
    const rest = { protocol: flow.protocol, port: flow.port ?? 0, destination: destination.pod };
    const egress = source.pod === undefined ? BY_DEFAULT
      : this.#decide({
        ...rest, direction: 'egress', pod: source.pod, address: source.address, peer: destination,
      });
    const ingress = destination.pod === undefined ? BY_DEFAULT
      : this.#decide({
        ...rest, direction: 'ingress', pod: destination.pod, address: destination.address,
        peer: source,
      });
    return {
      verdict: egress.word === 'allow' && ingress.word === 'allow' ? 'allow' : 'deny',
      egress: egress.word,
      ingress: ingress.word,
      // Ours: who denied, egress before ingress; else who allowed last.
      policy: egress.word === 'deny' ? egress.policy
        : ingress.word === 'deny' ? ingress.policy : ingress.policy ?? egress.policy,
    };
  }

  /** The addresses of the flow's first packet. Throws where there are none, or several. */
  #places(flow: TwinFlow): [Place, Place] {
    const wanted = flow.family === undefined ? [32, 128] : [flow.family === 'IPv4' ? 32 : 128];
    const first = (end: TwinEnd, bits: number): Address | undefined =>
      this.#addresses(end).find((address) => address.bits === bits);
    const pairs = wanted.flatMap((bits): [Address, Address][] => {
      const [from, to] = [first(flow.src, bits), first(flow.dst, bits)];
      return from === undefined || to === undefined ? [] : [[from, to]];
    });
    const [pair, other] = pairs;
    if (pair === undefined) throw new Error('no address of the family at both ends');
    if (other !== undefined) throw new Error('both families are possible');
    return [this.#place(pair[0]), this.#place(pair[1])];
  }

  #addresses(end: TwinEnd): Address[] {
    if ('ip' in end) return [parseAddress(end.ip)];
    if ('node' in end) return this.nodes.find(({ name }) => name === end.node)?.addresses ?? [];
    const pod = this.pods.find(({ key }) => key === end.pod);
    if (pod !== undefined) return pod.addresses;
    // "hostNetwork pods … are treated like node traffic" (doc): the pod's addresses are its node's.
    const raw = this.#cluster.pods.find((object) => podKey(object) === end.pod);
    return raw !== undefined && isOnHostNetwork(raw) && !isFinished(raw) ? podAddresses(raw) : [];
  }

  #place(address: Address): Place {
    const holds = ({ addresses }: { addresses: Address[] }): boolean =>
      addresses.some((own) => own.bits === address.bits && own.value === address.value);
    return { address, pod: this.pods.find(holds), node: this.nodes.find(holds) };
  }

  #decide(question: Question): Answer {
    const { pod, peer } = question;
    // "A pod cannot block access to itself; traffic to and from the node where a pod is running is
    // always allowed" (doc, "The two sorts of pod isolation" and "What you can't do").
    if (peer.pod === pod) return BY_DEFAULT;
    if (peer.node !== undefined && peer.node.name === pod.nodeName) return BY_DEFAULT;
    // "Policy tiers are evaluated in the following order: Admin tier, NetworkPolicy tier, Baseline
    // tier" (CNP, Tier).
    return this.#decideTier('Admin', question)
      ?? this.#decideModules(question)
      ?? this.#decideNetworkPolicies(question)
      ?? this.#decideTier('Baseline', question)
      ?? BY_DEFAULT;
  }

  /** Ours: modules come behind the admin tier. The first that refuses decides, or that allows and
   * may. */
  #decideModules({ direction, peer, protocol, port, address }: Question): Answer | null {
    const [source, destination] = direction === 'egress'
      ? [address, peer.address] : [peer.address, address];
    const numbers = { TCP: 6, UDP: 17, SCTP: 132, ICMP: address.bits === 32 ? 1 : 58 };
    const question = {
      direction, protocol: numbers[protocol], port: protocol === 'ICMP' ? 0 : port,
      source: lastWord(source), destination: lastWord(destination),
    };
    for (const { name, mayAllow, evaluate } of this.#modules) {
      const said = evaluate(question);
      const isDenied = said === 'deny' || said === 'reject';
      if (isDenied) return { word: 'deny', policy: `module ${name}` };
      if (said === 'allow' && mayAllow) return { word: 'allow', policy: `module ${name}` };
    }
    return null;
  }

  /** One ClusterNetworkPolicy tier; null where it does not decide. */
  #decideTier(tier: string, question: Question): Answer | null {
    for (const policy of this.#cluster.clusterPolicies) {
      if (policy.spec.tier !== tier || !this.#isSubject(policy, question.pod)) continue;
      // "The relative precedence of ingress rules within a single CNP object … will be determined
      // by the order in which the rule is written" (CNP, Ingress).
      for (const rule of policy.spec[question.direction] ?? []) {
        const action = this.#clusterRuleActs(rule, question);
        // "Pass: Skips all further ClusterNetworkPolicy rules in the current tier … and passes
        // evaluation to the next tier" (CNP, Action).
        if (action === 'Pass') return null;
        if (action === null) continue;
        const word = action === 'Accept' ? 'allow' : 'deny';
        return { word, policy: `ClusterNetworkPolicy ${policy.metadata.name}` };
      }
    }
    return null;
  }

  /** "Note that host-networked pods are not included in subject selection" (CNP, Subject). */
  #isSubject({ spec: { subject } }: RawClusterPolicy, pod: TwinPod): boolean {
    if (subject.namespaces) return selects(subject.namespaces, this.#labelsOf(pod.namespace));
    return subject.pods ? this.#selectsPod(subject.pods, pod) : false;
  }

  #clusterRuleActs(rule: ClusterRule, question: Question): ClusterRule['action'] | null {
    const peers = (question.direction === 'ingress' ? rule.from : rule.to) ?? [];
    // "If an implementation sees no fields are set then … it should fail closed. For Accept rules:
    // treat the rule as matching no traffic. For Deny and Pass rules: treat the rule as a Deny all
    // rule" (CNP, EgressPeer).
    if (peers.some((peer) => !isKnownPeer(peer, question.direction))) {
      return rule.action === 'Accept' ? null : 'Deny';
    }
    // "If any element matches the source of incoming traffic then the specified action is applied"
    // (CNP, From).
    if (!peers.some((peer) => this.#clusterPeerMatches(peer, question.peer))) return null;
    // "If unspecified, protocol-specific attributes will not be used to match traffic" (CNP,
    // Protocols).
    const { protocols } = rule;
    if (protocols && !protocols.some((item) => protocolMatches(item, question))) return null;
    return rule.action;
  }

  #clusterPeerMatches(peer: ClusterPeer, { address, pod, node }: Place): boolean {
    // "Namespaces defines a way to select all pods within a set of Namespaces. Note that
    // host-networked pods are not included" (CNP, Namespaces).
    if (peer.namespaces) {
      return pod !== undefined && selects(peer.namespaces, this.#labelsOf(pod.namespace));
    }
    if (peer.pods) return pod !== undefined && this.#selectsPod(peer.pods, pod);
    // "It selects the nodeIPs … present in the node.Status.Addresses field" (CNP, Nodes).
    if (peer.nodes) return node !== undefined && selects(peer.nodes, node.labels);
    // "Note that cluster-internal traffic will be checked against the rule as well" (CNP,
    // Networks).
    return (peer.networks ?? []).some((cidr) => blockHolds(cidr, address));
  }

  /** "NamespaceSelector … if empty, it selects all Namespaces. PodSelector … if empty, it selects
   * all Pods" (CNP, NamespacedPod). */
  #selectsPod({ namespaceSelector, podSelector }: NamespacedPod, pod: TwinPod): boolean {
    return selects(namespaceSelector ?? {}, this.#labelsOf(pod.namespace))
      && selects(podSelector ?? {}, pod.labels);
  }

  /** "v1.NetworkPolicy always makes a final decision for selected pods" (CNP, Tier): allowed "if
   * the traffic matches at least one ingress rule across all of the NetworkPolicy objects whose
   * podSelector matches the pod" (NP, Ingress). */
  #decideNetworkPolicies(question: Question): Answer | null {
    const { pod, direction } = question;
    const isolating = this.#cluster.networkPolicies.filter((policy) =>
      namespaceOf(policy) === pod.namespace
      // "If it is not specified, it defaults to an empty selector" (NP, PodSelector).
      && selects(policy.spec?.podSelector ?? {}, pod.labels)
      && policyTypes(policy).includes(direction === 'ingress' ? 'Ingress' : 'Egress'));
    const names = isolating.map(({ metadata }) =>
      `NetworkPolicy ${pod.namespace}/${metadata.name}`);
    const allowing = isolating.findIndex((policy) =>
      (policy.spec?.[direction] ?? []).some((rule) =>
        this.#ruleMatches(rule, pod.namespace, question)));
    if (allowing >= 0) return { word: 'allow', policy: names[allowing] ?? null };
    if (this.#isLegacyIsolated(pod, direction)) names.push(`Namespace ${pod.namespace}`);
    const [first] = names;
    return first === undefined ? null : { word: 'deny', policy: first };
  }

  /** Kubernetes 1.3 to 1.6: the annotation isolates the pods of its namespace for ingress. */
  #isLegacyIsolated(pod: TwinPod, direction: Direction): boolean {
    if (!this.#legacy || direction === 'egress') return false;
    const text = this.#cluster.namespaces.find(({ metadata }) => metadata.name === pod.namespace)
      ?.metadata.annotations?.['net.beta.kubernetes.io/network-policy'];
    if (text === undefined) return false;
    const { ingress } = JSON.parse(text) as { ingress?: { isolation?: string } };
    return ingress?.isolation === 'DefaultDeny';
  }

  /** "The traffic must match both ports and from" (NP, IngressRule). A list that is "empty or
   * missing" matches all. */
  #ruleMatches(rule: Rule, namespace: string, question: Question): boolean {
    const peers = (question.direction === 'ingress' ? rule.from : rule.to) ?? [];
    const ports = rule.ports ?? [];
    return (peers.length === 0
        || peers.some((peer) => this.#peerMatches(peer, namespace, question.peer)))
      && (ports.length === 0 || ports.some((port) => portMatches(port, question)));
  }

  /** NP, NetworkPolicyPeer. */
  #peerMatches(peer: Peer, namespace: string, { address, pod }: Place): boolean {
    if (peer.ipBlock) {
      // "The except entry describes CIDRs that should not be included within this rule" (NP,
      // IPBlock).
      return blockHolds(peer.ipBlock.cidr, address)
        && !(peer.ipBlock.except ?? []).some((cidr) => blockHolds(cidr, address));
    }
    if (pod === undefined) return false;
    // "If namespaceSelector is also set, then … the pods matching podSelector in the Namespaces
    // selected by NamespaceSelector. Otherwise … in the policy's own namespace."
    if (peer.namespaceSelector) {
      return selects(peer.namespaceSelector, this.#labelsOf(pod.namespace))
        && selects(peer.podSelector ?? {}, pod.labels);
    }
    return peer.podSelector
      ? pod.namespace === namespace && selects(peer.podSelector, pod.labels)
      : false;
  }

  #labelsOf(namespace: string): Labels {
    return this.#namespaces.get(namespace) ?? namespaceLabels(namespace, {});
  }
}

/** "The Kubernetes control plane sets an immutable label kubernetes.io/metadata.name on all
 * namespaces" (doc, "Targeting a Namespace by its name"). */
function namespaceLabels(name: string, labels: Labels): Labels {
  return { ...labels, 'kubernetes.io/metadata.name': name };
}

/** "If no policyTypes are specified on a NetworkPolicy then by default Ingress will always be set
 * and Egress will be set if the NetworkPolicy has any egress rules" (doc). */
function policyTypes({ spec }: RawNetworkPolicy): string[] {
  if (spec?.policyTypes && spec.policyTypes.length > 0) return spec.policyTypes;
  return (spec?.egress ?? []).length > 0 ? ['Ingress', 'Egress'] : ['Ingress'];
}

/** NP, NetworkPolicyPort. ICMP has no port and is none of the protocols: ours, it matches only
 * rules without `ports`. */
function portMatches(item: PolicyPort, question: Question): boolean {
  // "If not specified, this field defaults to TCP."
  if ((item.protocol ?? 'TCP') !== question.protocol) return false;
  const { port, endPort } = item;
  // "If this field is not provided, this matches all port names and numbers."
  if (port === undefined || port === null) return true;
  if (typeof port === 'number') {
    return question.port >= port && question.port <= (endPort ?? port);
  }
  // "This can either be a numerical or named port on a pod."
  return hasNamedPort(question, port);
}

/** CNP, ClusterNetworkPolicyProtocol: "Exactly one field must be set." */
function protocolMatches(item: ClusterProtocol, question: Question): boolean {
  if (item.destinationNamedPort) return hasNamedPort(question, item.destinationNamedPort);
  const match = { TCP: item.tcp, UDP: item.udp, SCTP: item.sctp, ICMP: null }[question.protocol];
  if (!match) return false;
  const { number, range } = match.destinationPort ?? {};
  if (number !== undefined) return question.port === number;
  return range ? question.port >= range.start && question.port <= range.end : true;
}

/** True where the destination pod has a container port of that name that is the flow's. */
function hasNamedPort({ destination, protocol, port }: Question, wanted: string): boolean {
  return (destination?.ports ?? []).some((item) => item.name === wanted
    && item.containerPort === port && (item.protocol ?? 'TCP') === protocol);
}

/** Domain names cannot be told from a packet: as good as a field that is not known. */
function isKnownPeer(peer: ClusterPeer, direction: Direction): boolean {
  if (peer.namespaces || peer.pods) return true;
  return direction === 'egress' && Boolean(peer.nodes ?? peer.networks);
}

function lastWord({ value }: Address): number {
  return Number(value & 0xffffffffn);
}

function namespaceOf({ metadata }: { metadata: RawPod['metadata'] }): string {
  return metadata.namespace ?? 'default';
}

function podKey(pod: RawPod): string {
  return `${namespaceOf(pod)}/${pod.metadata.name}`;
}

function isOnHostNetwork({ spec }: RawPod): boolean {
  return spec?.hostNetwork === true;
}

/** "Succeeded: All containers in the Pod have terminated in success, and will not be restarted"
 * (kubernetes.io, Pod phase): its address is free for another. */
function isFinished({ status }: RawPod): boolean {
  return status?.phase === 'Succeeded' || status?.phase === 'Failed';
}

function podAddresses({ status }: RawPod): Address[] {
  const listed = (status?.podIPs ?? []).map(({ ip }) => ip);
  const single = status?.podIP ? [status.podIP] : [];
  return (listed.length > 0 ? listed : single).map(parseAddress);
}

function hasOwnAddress(pod: RawPod): boolean {
  return !isOnHostNetwork(pod) && !isFinished(pod) && podAddresses(pod).length > 0;
}

function readPod(pod: RawPod): TwinPod {
  // "restartPolicy: Always … this init container will be restarted … until all regular containers
  // have terminated … often referred to as a sidecar container" (core/v1 types.go, Container).
  const sidecars = (pod.spec?.initContainers ?? [])
    .filter(({ restartPolicy }) => restartPolicy === 'Always');
  return {
    key: podKey(pod),
    namespace: namespaceOf(pod),
    labels: pod.metadata.labels ?? {},
    nodeName: pod.spec?.nodeName ?? '',
    addresses: podAddresses(pod),
    ports: [...pod.spec?.containers ?? [], ...sidecars].flatMap(({ ports }) => ports ?? []),
  };
}

function readNodes(cluster: Cluster): TwinNode[] {
  return cluster.nodes.map(({ metadata, status }) => ({
    name: metadata.name,
    labels: metadata.labels ?? {},
    addresses: (status?.addresses ?? []).filter(({ type }) => type.endsWith('IP'))
      .map(({ address }) => parseAddress(address)),
  }));
}

function byName(a: { metadata: RawPod['metadata'] }, b: { metadata: RawPod['metadata'] }): number {
  return a.metadata.name < b.metadata.name ? -1 : Number(a.metadata.name > b.metadata.name);
}

// The slow twin of flows: a map from the two ends to a record, the states and lifetimes of
// docs/POLICY.md and wasm/flow-track.ts spelled out. It has no limit and forgets nobody.

export interface TwinPacket {
  source: string;
  destination: string;
  protocol: number;
  sourcePort: number;
  destinationPort: number;
  /** TCP's flags or ICMP's type. */
  signal: number;
}

interface TwinFlow {
  opener: TwinPacket;
  epoch: number;
  expires: number;
  state: 'new' | 'established' | 'closing';
  answered: boolean;
  finished: Set<string>;
}

/** Reason of a packet that would be the first of a flow, null where policy allows it. */
export type Judge = (first: TwinPacket) => string | null;

const SECOND = 1000;
const [FIN, SYN, RST, ACK] = [1, 2, 4, 16];

export class FlowTwin {
  readonly flows = new Map<string, TwinFlow>();

  /** Why the packet is dropped, null where it passes. */
  decide(packet: TwinPacket, now: number, epoch: number, judge: Judge): string | null {
    for (const [name, { expires }] of this.flows) if (expires <= now) this.flows.delete(name);
    const name = nameOf(packet);
    const flow = this.flows.get(name);
    if (flow === undefined) return this.#open(name, packet, now, epoch, judge);
    const byOpener = flow.opener.source === packet.source
      && flow.opener.sourcePort === packet.sourcePort;
    if (!byOpener && isOpening(packet)) {
      const reason = judge(packet);
      if (reason === null && flow.state !== 'established') {
        this.#open(name, packet, now, epoch, () => null);
      }
      return reason;
    }
    if (flow.epoch !== epoch) {
      flow.epoch = epoch;
      const reason = judge(flow.opener);
      if (reason !== null) {
        this.#cut(name, flow, now);
        return reason;
      }
    }
    note(flow, packet, byOpener);
    flow.expires = now + lifetime(flow);
    return null;
  }

  /** A connection that is cut stays one of its opener, until both ends have given up. */
  #cut(name: string, flow: TwinFlow, now: number): void {
    if (![6, 132].includes(flow.opener.protocol)) return void this.flows.delete(name);
    flow.epoch = NaN;
    flow.state = 'new';
    flow.expires = now + (240 * SECOND);
  }

  #open(
    name: string, packet: TwinPacket, now: number, epoch: number, judge: Judge,
  ): string | null {
    const reason = judge(packet);
    if (reason !== null) return reason;
    const reset = packet.protocol === 6 && (packet.signal & RST) !== 0;
    const flow: TwinFlow = {
      opener: packet, epoch, expires: 0, state: reset ? 'closing' : 'new', answered: false,
      finished: new Set(),
    };
    flow.expires = now + lifetime(flow);
    this.flows.set(name, flow);
    return null;
  }
}

function nameOf(packet: TwinPacket): string {
  const ends = [`${packet.source} ${packet.sourcePort}`,
    `${packet.destination} ${packet.destinationPort}`];
  return `${packet.protocol} ${ends.sort().join(' ')}`;
}

function isOpening({ protocol, signal }: TwinPacket): boolean {
  if (protocol === 6) return (signal & (SYN | ACK | RST)) === SYN;
  return (protocol === 1 && signal === 8) || (protocol === 58 && signal === 128);
}

function note(flow: TwinFlow, packet: TwinPacket, byOpener: boolean): void {
  const tcp = packet.protocol === 6;
  if (tcp && (packet.signal & RST) !== 0) {
    flow.state = 'closing';
    return;
  }
  if (tcp && (packet.signal & SYN) !== 0) {
    if (!byOpener) flow.answered = true;
    else if (flow.state === 'closing') {
      flow.state = 'new';
      flow.answered = false;
      flow.finished.clear();
    }
    return;
  }
  const end = `${packet.source} ${packet.sourcePort}`;
  if (tcp && (packet.signal & FIN) !== 0) flow.finished.add(end);
  if (flow.finished.size === 2) flow.state = 'closing';
  else if (!byOpener) flow.answered = true;
  else if (flow.answered) flow.state = 'established';
}

function lifetime({ opener, state, answered, finished }: TwinFlow): number {
  if (opener.protocol === 1 || opener.protocol === 58) return 60 * SECOND;
  if (opener.protocol !== 6) {
    if (state === 'new' && !answered) return 30 * SECOND;
    return (opener.protocol === 17 ? 300 : 600) * SECOND;
  }
  if (state === 'new') return 30 * SECOND;
  if (state === 'closing') return 10 * SECOND;
  return finished.size > 0 ? 240 * SECOND : 7440 * SECOND;
}

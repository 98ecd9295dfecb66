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
  isCut: boolean;
  /** When its first packet came. */
  began: number;
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
        this.#cut(flow, now);
        return reason;
      }
    }
    flow.isCut = false;
    note(flow, packet, byOpener, now);
    flow.expires = now + lifetime(flow);
    return null;
  }

  /** A connection that is cut stays one of its opener, until both ends have given up; any other
   * flow does for a while. */
  #cut(flow: TwinFlow, now: number): void {
    flow.epoch = NaN;
    flow.state = 'new';
    if ([6, 132].includes(flow.opener.protocol)) flow.expires = now + (240 * SECOND);
    else if (!flow.isCut) flow.expires = now + (10 * SECOND);
    flow.isCut = true;
  }

  #open(
    name: string, packet: TwinPacket, now: number, epoch: number, judge: Judge,
  ): string | null {
    const reason = judge(packet);
    if (reason !== null) return reason;
    const reset = packet.protocol === 6 && (packet.signal & RST) !== 0;
    const flow: TwinFlow = {
      opener: packet, epoch, expires: 0, state: reset ? 'closing' : 'new', answered: false,
      isCut: false, began: now, finished: new Set(),
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

/** UDP is established no sooner than after 9 steps of 256 ms, which are counted modulo 256. */
function isOld({ opener, began }: TwinFlow, now: number): boolean {
  const steps = Math.floor(now / 256) - Math.floor(began / 256);
  return opener.protocol !== 17 || steps % 256 > 8;
}

function note(flow: TwinFlow, packet: TwinPacket, byOpener: boolean, now: number): void {
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
  else if (flow.answered && isOld(flow, now)) flow.state = 'established';
}

function lifetime({ opener, state, answered, finished }: TwinFlow): number {
  if (opener.protocol === 1 || opener.protocol === 58) return 60 * SECOND;
  if (opener.protocol === 17) return (state === 'new' ? 30 : 300) * SECOND;
  if (opener.protocol !== 6) return (state === 'new' && !answered ? 30 : 600) * SECOND;
  if (state === 'new') return 30 * SECOND;
  if (state === 'closing') return 10 * SECOND;
  return finished.size > 0 ? 240 * SECOND : 7440 * SECOND;
}

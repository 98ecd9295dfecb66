// What a policy module in AssemblyScript works with: `import { Flow, Verdict } from
// 'culvert/module'`. The words are those of modules/wit/policy.wit.
//
// A module's index.ts exports `evaluate(flow: Flow): Verdict` and, where it needs them,
// `configure(text: string): string`, which returns what is wrong or an empty string,
// `endpoints(pods: Endpoint[]): void`, and `inspect(flow: Flow, offset: u32, payload: Uint8Array):
// Verdict`, for which module.json asks for the world `payload-module`.

export { Flow } from './flow';

export enum Family { IPv4, IPv6 }

export enum Direction { Ingress, Egress }

export enum Verdict { Pass, Allow, Deny, Reject, More }

export enum Level { Debug, Info, Warn, Error }

/** Bits of `Flow.tcp`, RFC 9293 section 3.1. */
export enum TcpFlag { FIN = 1, SYN = 2, RST = 4, PSH = 8, ACK = 16, URG = 32, ECE = 64, CWR = 128 }

/** The protocols that have ports, and ICMP of both families (IANA's protocol numbers). */
export enum Protocol { ICMP = 1, TCP = 6, UDP = 17, ICMPv6 = 58, SCTP = 132 }

/** A pod of this node. */
export class Endpoint {
  constructor(
    /** The identity of its addresses, as flows have it. */
    readonly id: u32,
    readonly namespace: string,
    readonly pod: string,
    readonly labels: Map<string, string>,
  ) {}
}

@external('culvert:policy/host@0.1.0', 'log')
declare function hostLog(level: i32, text: usize, length: i32): void;

@external('culvert:policy/clock@0.1.0', 'now-ms')
declare function hostNowMs(): u32;

/** Writes a line into the daemon's log. */
export function log(level: Level, text: string): void {
  const bytes = String.UTF8.encode(text);
  hostLog(level, changetype<usize>(bytes), bytes.byteLength);
}

/** Milliseconds that never go backwards and wrap after 2^32, so subtract before you compare. A
 * module that calls this runs only where the operator says `--allow clock`. */
export function nowMs(): u32 {
  return hostNowMs();
}

/** The lines of a configuration that say something: without comments, which `#` begins, and without
 * white space at both ends. */
export function linesOf(text: string): string[] {
  const found: string[] = [];
  const lines = text.split('\n');
  for (let at = 0; at < lines.length; at += 1) {
    const comment = lines[at].indexOf('#');
    const line = (comment < 0 ? lines[at] : lines[at].substring(0, comment)).trim();
    if (line.length > 0) found.push(line);
  }
  return found;
}

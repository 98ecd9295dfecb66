// A flow as the core passes it, sixteen words in the order of the WIT record, in its other forms:
// as the bindings take it, and as the canonical ABI lays it in memory.

export const FLOW_WORDS = 16;
/** The type of `evaluate` in a core module. */
export const EVALUATE_TYPE = `${Array.from({ length: FLOW_WORDS }, () => 'i32').join(',')}->i32`;
/** The type of `inspect` in a core module: its parameters are passed in memory. */
export const INSPECT_TYPE = 'i32->i32';

const FAMILIES = ['ipv4', 'ipv6'] as const;
const DIRECTIONS = ['ingress', 'egress'] as const;
const TCP_FLAGS = ['fin', 'syn', 'rst', 'psh', 'ack', 'urg', 'ece', 'cwr'] as const;
export const VERDICTS = ['pass', 'allow', 'deny', 'reject', 'more'] as const;
export type ModuleVerdict = (typeof VERDICTS)[number];
export const LEVELS = ['debug', 'info', 'warn', 'error'] as const;
export type ModuleLevel = (typeof LEVELS)[number];

/** Where the parameters of `inspect` are in memory (component-model, CanonicalABI.md, storing). */
export const INSPECT_OFFSET = 48;
export const INSPECT_BYTES = 52;
export const INSPECT_SIZE = 60;
const FLOW_PORTS = 4;
const FLOW_WIDE = 8;
const NARROW_WORDS = 4;
const PORT_WORDS = 2;

type Words = readonly [number, number, number, number];

/** A flow as the bindings take it. */
export interface ModuleFlow {
  family: (typeof FAMILIES)[number];
  direction: (typeof DIRECTIONS)[number];
  protocol: number;
  tcp: Record<(typeof TCP_FLAGS)[number], boolean>;
  srcPort: number;
  dstPort: number;
  srcIdentity: number;
  dstIdentity: number;
  src: Words;
  dst: Words;
}

/** The flow that sixteen words mean. */
export function flowOf(words: ArrayLike<number>): ModuleFlow {
  const word = (at: number): number => (words[at] ?? 0) >>> 0;
  const address = (at: number): Words => [word(at), word(at + 1), word(at + 2), word(at + 3)];
  const flags = TCP_FLAGS.map((name, bit) => [name, ((word(3) >>> bit) & 1) === 1]);
  return {
    family: FAMILIES[word(0)] ?? 'ipv4',
    direction: DIRECTIONS[word(1)] ?? 'ingress',
    protocol: word(2),
    tcp: Object.fromEntries(flags) as ModuleFlow['tcp'],
    srcPort: word(4),
    dstPort: word(5),
    srcIdentity: word(6),
    dstIdentity: word(7),
    src: address(8),
    dst: address(12),
  };
}

/** Writes a flow where the parameters of `inspect` begin. */
export function writeFlow(view: DataView, at: number, words: ArrayLike<number>): void {
  for (let word = 0; word < FLOW_WORDS; word += 1) {
    const value = words[word] ?? 0;
    if (word < NARROW_WORDS) view.setUint8(at + word, value);
    else if (word < NARROW_WORDS + PORT_WORDS) {
      view.setUint16(at + FLOW_PORTS + ((word - NARROW_WORDS) * 2), value, true);
    } else {
      const wide = word - NARROW_WORDS - PORT_WORDS;
      view.setInt32(at + FLOW_WIDE + (wide * 4), value, true);
    }
  }
}

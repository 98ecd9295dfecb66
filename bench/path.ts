// `culvert bench path`: bytes and packets through real namespaces, Culvert beside its rivals. Every
// contender is set up once and kept; in each round all take their turns, one after the other, so
// that what disturbs the machine disturbs all of them, and a ratio is taken within a round.

import { setMaxListeners } from 'node:events';
import { constants, readFileSync } from 'node:fs';
import { closeFd, openFile } from '../ffi/file.ts';
import { createNamespace } from '../ffi/netns.ts';
import { TIERS } from '../host/tier.ts';
import { bringTools, findTool, toolReason, TOOLS, WIREGUARD_GO } from '../scripts/tools.ts';
import type { Contender, Recipe, Site } from './path/contender.ts';
import { CULVERTS, SAME_NODE } from './path/culvert.ts';
import { byService, congestionControl, flood, roundTrip, transfer, type Measure, type Sample }
  from './path/measure.ts';
import { nativeProgram, RIVALS } from './path/rivals.ts';
import { TUNNELS } from './path/tunnels.ts';
import { Hash } from './random.ts';
import { describeMachine, median, round, summarise, type Measurement, type Ratio,
  type Report } from './report.ts';

export const PATH_ROUNDS = 7;
export const PATH_SECONDS = 3;
/** Before the first round everybody carries this much, for what is compiled or learned at first. */
const WARM_UP_SECONDS = 0.5;
const RECIPES: readonly Recipe[] = [...CULVERTS, ...TUNNELS, ...RIVALS, SAME_NODE];
const TUNNEL_NAMES = new Set(TUNNELS.map(({ name }) => name));
export const CONTENDERS: readonly string[] = RECIPES.map(({ name }) => name);

export interface PathOptions {
  rounds: number;
  /** Of each transfer and each flood. */
  seconds: number;
  /** The names of those to set up; all unless said. */
  contenders?: readonly string[];
  /** Congestion control of the streams; Linux's own default unless said. */
  congestion?: string;
  say: (text: string) => void;
  stop: AbortSignal;
}

/** A figure of the path: bytes have a rate that people know, and processor time. */
export interface PathMeasurement extends Measurement {
  mbitPerSecond?: number;
  packetsPerSecond?: number;
  /** Of the daemons of both ends, for each byte; absent where the kernel forwards. */
  cpuNsPerByte?: number;
}

/** Pauses for garbage, during the TCP transfers. */
export interface PauseReport {
  collections: number;
  longestMs: number;
}

/** The daemons of one tier, after the run. */
export interface ProcessReport {
  residentBytes: number;
  dataWorker: PauseReport;
  mainThread: PauseReport;
}

export interface PathReport extends Report {
  results: PathMeasurement[];
  ratios: Record<string, Ratio>;
  /** Of the TCP streams. */
  congestionControl: string;
  /** By tier. */
  process: Record<string, ProcessReport>;
  /** Who was left out, and why. */
  skipped: Record<string, string>;
}

/** The machine lacks what no contender can do without. */
export class MissingError extends Error {
  override name = 'MissingError';
}

type Unit = 'byte' | 'packet' | 'exchange';

/** One thing that is measured of one contender. */
interface Trial {
  name: string;
  unit: Unit;
  contender: string;
  measure: Measure;
  /** By round. */
  samples: (Sample | undefined)[];
}

/** A ratio of two trials. */
interface RatioSpec {
  name: string;
  ours: string;
  theirs: string;
  of: 'speed' | 'cost' | 'cpuCost';
}

/** Runs everything. Whoever cannot take part is named and left out. */
export async function runPath(options: PathOptions): Promise<PathReport> {
  const { rounds, say, stop } = options;
  checkMachine();
  // Every bed listens, for as long as it is there, and one more while it is being made.
  setMaxListeners(RECIPES.length + 1, stop);
  const hasWireguard = options.contenders?.includes('wireguardGo') ?? true;
  await bringTools([
    ...TOOLS.filter(({ name }) => name === 'iperf3'), ...(hasWireguard ? [WIREGUARD_GO] : []),
  ]);
  const iperf3 = findTool('iperf3');
  if (iperf3 === null) throw new MissingError(`iperf3 is needed: ${toolReason('iperf3')}`);
  const field = new Field(options, iperf3);
  try {
    await field.setUp(findSite(options));
    const trials = field.trials();
    for (let index = 0; index < rounds; index += 1) {
      say(`round ${index + 1} of ${rounds}`);
      await field.takeTurns(trials, index);
    }
    stop.throwIfAborted();
    return field.report(trials);
  } finally {
    await field.close();
  }
}

/** Throws what to do where namespaces or TUNs are not to be had. */
export function checkMachine(): void {
  try {
    createNamespace().close();
    closeFd(openFile('/dev/net/tun', constants.O_RDWR));
  } catch (error) {
    throw new MissingError(`${(error as Error).message}; run as root, where there is /dev/net/tun`);
  }
}

/** The first two processors that this process may use; all, unpinned, where there is but one. */
function findSite({ stop, say }: PathOptions): Site {
  const status = readFileSync('/proc/self/status', 'utf8');
  const list = /^Cpus_allowed_list:\s+(\S+)$/m.exec(status)?.[1] ?? '';
  const [first, second] = list.split(',').flatMap((range) => {
    const [from = 0, to = from] = range.split('-').map(Number);
    return Array.from({ length: to - from + 1 }, (_, index) => from + index);
  });
  if (first === undefined || second === undefined || findTool('taskset') === null) {
    say('not pinned: two processors and taskset are needed for one processor for each node');
    return { cores: ['', ''], bothCores: '', stop };
  }
  return { cores: [`${first}`, `${second}`], bothCores: `${first},${second}`, stop };
}

/** The contenders that are there. */
class Field {
  readonly #options: PathOptions;
  readonly #iperf3: string;
  readonly #congestion: string;
  readonly #contenders = new Map<string, Contender>();
  readonly #skipped: Record<string, string> = {};
  #probe = '';

  constructor(options: PathOptions, iperf3: string) {
    this.#options = options;
    this.#iperf3 = iperf3;
    this.#congestion = options.congestion ?? congestionControl();
  }

  async setUp(site: Site): Promise<void> {
    const { contenders, say, stop } = this.#options;
    try {
      this.#probe = nativeProgram('udp-probe.c');
    } catch (error) {
      this.#skip('udp-probe', error);
    }
    for (const { name, make } of RECIPES) {
      if (contenders !== undefined && !contenders.includes(name)) continue;
      stop.throwIfAborted();
      say(`setting up ${name}`);
      try {
        this.#contenders.set(name, await make(site));
        await this.#warmUp(name);
      } catch (error) {
        stop.throwIfAborted();
        await this.#drop(name, error);
      }
    }
    if (this.#contenders.size === 0) throw new Error('no contender is there');
  }

  /** What there is to measure: TCP of everybody, TCP by a Service of one, small packets and round
   * trips of two. */
  trials(): Trial[] {
    const { seconds } = this.#options;
    const trials: Trial[] = [];
    const add = (kind: string, unit: Unit, contender: string, measure: Measure): void => {
      if (!this.#contenders.has(contender)) return;
      trials.push({ name: `${kind}/${contender}`, unit, contender, measure, samples: [] });
    };
    const stream = transfer(this.#iperf3, seconds, this.#congestion);
    for (const { name } of RECIPES) add(streamKind(name), 'byte', name, stream);
    add('tcpByService', 'byte', this.#bestTier(), byService(stream));
    if (this.#probe === '') return trials;
    for (const name of [this.#bestTier(), 'flannelUdp']) {
      add('smallPackets', 'packet', name, flood(this.#probe, seconds));
      add('rtt', 'exchange', name, roundTrip(this.#probe, seconds));
    }
    return trials;
  }

  /** One round: everybody once, another one first each time. */
  async takeTurns(trials: Trial[], index: number): Promise<void> {
    for (let turn = 0; turn < trials.length; turn += 1) {
      const trial = trials[(index + turn) % trials.length];
      const contender = this.#contenders.get(trial?.contender ?? '');
      if (trial === undefined || contender === undefined) continue;
      this.#options.stop.throwIfAborted();
      try {
        trial.samples[index] = await trial.measure(contender);
      } catch (error) {
        this.#options.stop.throwIfAborted();
        await this.#drop(trial.contender, error);
      }
    }
  }

  report(all: Trial[]): PathReport {
    const trials = all.filter(({ contender }) => this.#contenders.has(contender));
    const ratios = Object.fromEntries(ratioSpecs(this.#bestTier()).flatMap((spec) => {
      const ratio = ratioOf(spec, trials);
      return ratio === null ? [] : [[spec.name, ratio]];
    }));
    return {
      machine: describeMachine(), results: trials.map(resultOf), ratios,
      congestionControl: this.#congestion,
      process: this.#processes(), skipped: this.#skipped,
    };
  }

  async close(): Promise<void> {
    for (const { bed } of this.#contenders.values()) await bed.close();
  }

  /** The best tier that works with nothing but a TUN and a socket. */
  #bestTier(): string {
    return ['T2', 'T1', 'T0'].find((tier) => this.#contenders.has(tier)) ?? '';
  }

  async #warmUp(name: string): Promise<void> {
    const contender = this.#contenders.get(name);
    const { seconds } = this.#options;
    const length = Math.min(WARM_UP_SECONDS, seconds);
    const measure = transfer(this.#iperf3, length, this.#congestion);
    if (contender !== undefined) await measure(contender);
  }

  #processes(): Record<string, ProcessReport> {
    return Object.fromEntries(TIERS.flatMap((tier) => {
      const contender = this.#contenders.get(tier);
      if (contender === undefined) return [];
      const { daemons, traces } = contender;
      const pauses = (of: 'main' | 'workers'): PauseReport => ({
        collections: traces.reduce((sum, trace) => sum + trace[of].count, 0),
        longestMs: Math.max(...traces.map((trace) => trace[of].longestMs)),
      });
      return [[tier, {
        residentBytes: Math.max(...daemons.map((daemon) => daemon.residentBytes())),
        dataWorker: pauses('workers'), mainThread: pauses('main'),
      }]];
    }));
  }

  async #drop(name: string, error: unknown): Promise<void> {
    this.#skip(name, error);
    await this.#contenders.get(name)?.bed.close();
    this.#contenders.delete(name);
  }

  #skip(name: string, error: unknown): void {
    const reason = error instanceof Error ? error.message : String(error);
    this.#skipped[name] = reason;
    this.#options.say(`${name}: skipped: ${reason}`);
  }
}

/** What a trial of TCP is called, in front of who takes part. */
function streamKind(contender: string): string {
  return TUNNEL_NAMES.has(contender) ? 'tunnels' : 'tcp';
}

/** The ratios that are contracts; `best` is the tier that stands for Culvert where one has to. */
function ratioSpecs(best: string): RatioSpec[] {
  const tcp = (ours: string, theirs: string): RatioSpec =>
    ({
      name: `${ours}/${theirs}`, ours: `${streamKind(ours)}/${ours}`, theirs: `tcp/${theirs}`,
      of: 'speed',
    });
  const perTier = ['T1', 'T2'].flatMap((tier) => [
    tcp(tier, 'flannelUdp'), tcp(tier, 'wireguardGo'), tcp(tier, 'kernelVxlan'),
    tcp(tier, 'nativeTwin'),
    { ...tcp(tier, 'nativeTwin'), name: `${tier}/nativeTwinCpu`, of: 'cpuCost' as const },
  ]);
  const small = (kind: string, of: 'speed' | 'cost'): RatioSpec =>
    ({ name: `${kind}/flannelUdp`, ours: `${kind}/${best}`, theirs: `${kind}/flannelUdp`, of });
  return [
    ...perTier, tcp('T3', 'kernelVxlan'), tcp('T3', 'T2'), tcp('T3', 'nativeTwinT3'),
    tcp('T0', 'flannelUdp'), tcp('udp', 'flannelUdp'),
    small('smallPackets', 'speed'), small('rtt', 'cost'), tcp('sameNode', 'veth'),
    { name: 'service/direct', ours: `tcpByService/${best}`, theirs: `tcp/${best}`, of: 'speed' },
  ];
}

/** A ratio over the rounds that have both; null where none has. */
function ratioOf({ ours, theirs, of }: RatioSpec, trials: Trial[]): Ratio | null {
  const samplesOf = (name: string): Trial['samples'] =>
    trials.find((trial) => trial.name === name)?.samples ?? [];
  const others = samplesOf(theirs);
  const values = samplesOf(ours).flatMap((sample, index) => {
    const other = others[index];
    if (sample === undefined || other === undefined) return [];
    if (of === 'cpuCost') return [(sample.cpuCost ?? NaN) / (other.cpuCost ?? NaN)];
    return [of === 'cost' ? sample.cost / other.cost : other.cost / sample.cost];
  }).filter((value) => Number.isFinite(value));
  return values.length === 0 ? null : summarise(values);
}

/** A trial's figures. The hash is of what the receiver has counted in each round. */
function resultOf({ name, unit, samples }: Trial): PathMeasurement {
  const taken = samples.filter((sample) => sample !== undefined);
  const hash = new Hash();
  for (const { ops } of taken) hash.addBytes(new TextEncoder().encode(`${ops};`));
  const nsPerOp = median(taken.map(({ cost }) => cost));
  const cpuCosts = taken.flatMap(({ cpuCost }) => (cpuCost === undefined ? [] : [cpuCost]));
  return {
    name, nsPerOp: round(nsPerOp, 4), ops: taken.reduce((sum, { ops }) => sum + ops, 0),
    hash: hash.text(),
    ...(unit === 'byte' ? { mbitPerSecond: round(8000 / nsPerOp, 1) } : {}),
    ...(unit === 'packet' ? { packetsPerSecond: Math.round(1e9 / nsPerOp) } : {}),
    ...(cpuCosts.length === 0 ? {} : { cpuNsPerByte: round(median(cpuCosts), 4) }),
  };
}

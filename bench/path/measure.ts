// What is measured of a contender: a TCP transfer by iperf3, small datagrams, round trips. Each
// answers with a cost and with what the receiver has counted.

import * as v from 'valibot';
import { readSysctl } from '../../ffi/netns.ts';
import { median } from '../report.ts';
import type { Contender } from './contender.ts';
import { sleep } from './program.ts';

const LISTENING = 'listening on';
const READY = 'ready';
const CONNECT_TIMEOUT_MS = 3000;
/** Beyond the time that is measured. */
const GRACE_MS = 10_000;
/** iperf3 takes whole seconds; where less is wanted, a number of bytes for each second. */
const SHORT_BYTES_PER_SECOND = 100_000_000;
/** Where iperf3 listens unless told otherwise. */
export const IPERF3_PORT = 5201;
const PORT = 9999;
/** IPv4 and UDP headers make it 64 bytes. */
const SMALL_PAYLOAD = 36;
/** Datagrams a second that are offered: more than any contender has taken. */
const OFFERED_RATE = 400_000;
/** For what is under way to arrive. */
const SETTLE_MS = 100;
const EXCHANGES = 300;
const PAUSE_US = 4000;

/** One round's figures. `cost` is in nanoseconds for each byte, datagram or exchange. */
export interface Sample {
  cost: number;
  /** What arrived, as the receiver counts. */
  ops: number;
  /** Processor time of the daemons for each byte, in nanoseconds. */
  cpuCost?: number;
}

export type Measure = (contender: Contender) => Promise<Sample>;

const IperfSchema = v.object({
  error: v.optional(v.string()),
  end: v.optional(v.object({
    sum_received: v.optional(v.object({ seconds: v.number(), bytes: v.number() })),
  })),
});

/** The congestion control that streams use, where the kernel has it: Linux's own default. With the
 * machine's, whatever that is, figures of two machines would not be of the same thing. */
const CONGESTION_CONTROL = 'cubic';

/** Names the congestion control of the streams. */
export function congestionControl(): string {
  const available = readSysctl('net.ipv4.tcp_available_congestion_control').split(' ');
  return available.includes(CONGESTION_CONTROL)
    ? CONGESTION_CONTROL
    : readSysctl('net.ipv4.tcp_congestion_control');
}

/** TCP, one stream, from near to far. */
export function transfer(iperf3: string, seconds: number, congestion: string): Measure {
  const length = seconds >= 1
    ? ['-t', `${Math.round(seconds)}`]
    : ['-n', `${Math.round(seconds * SHORT_BYTES_PER_SECOND)}`];
  return async ({ bed, near, far, target, daemons, traces }) => {
    const server = await bed.start(far, [iperf3, '-s', '-1'], LISTENING);
    try {
      const before = daemons.map((daemon) => daemon.cpuSeconds());
      for (const trace of traces) trace.watch(true);
      const output = await bed.run(near, [iperf3, '-c', target, '-J', '-C', congestion,
        ...length, '--connect-timeout', `${CONNECT_TIMEOUT_MS}`], (seconds * 1000) + GRACE_MS);
      for (const trace of traces) trace.watch(false);
      const after = daemons.map((daemon) => daemon.cpuSeconds());
      const { error, end } = v.parse(IperfSchema, JSON.parse(output));
      const received = end?.sum_received;
      if (received === undefined) throw new Error(`iperf3: ${error ?? 'no figures'}`);
      if (received.bytes === 0) throw new Error('iperf3: nothing arrived');
      const cpu = after.reduce((sum, value, index) => sum + value - (before[index] ?? NaN), 0);
      const sample = { cost: (received.seconds * 1e9) / received.bytes, ops: received.bytes };
      if (daemons.length === 0) return sample;
      return { ...sample, cpuCost: (cpu * 1e9) / received.bytes };
    } finally {
      for (const trace of traces) trace.watch(false);
      await bed.end(server);
    }
  };
}

/** The same by way of the Service that has the far end as its backend. */
export function byService(measure: Measure): Measure {
  return (contender) => {
    const { service } = contender;
    if (service === undefined) throw new Error('it has no Services');
    return measure({ ...contender, target: service });
  };
}

/** Datagrams of 64 bytes of one flow: how many arrive when too many are sent. */
export function flood(probe: string, seconds: number): Measure {
  return async ({ bed, near, far, target }) => {
    const sink = await bed.start(far, [probe, 'sink', '0.0.0.0', `${PORT}`], READY);
    try {
      await bed.run(near, [probe, 'flood', target, `${PORT}`, `${SMALL_PAYLOAD}`,
        `${OFFERED_RATE}`, `${seconds}`], (seconds * 1000) + GRACE_MS);
      await sleep(SETTLE_MS);
      sink.closeInput();
      const [count = 0, nanoseconds = 0] =
        (await sink.finish(GRACE_MS)).trim().split(' ').map(Number);
      if (count < 2) throw new Error(`udp-probe: ${count} datagrams arrived`);
      return { cost: nanoseconds / (count - 1), ops: count };
    } finally {
      await bed.end(sink);
    }
  };
}

/** Small datagrams there and back, one at a time with pauses: the median. */
export function roundTrip(probe: string, seconds: number): Measure {
  const exchanges = Math.max(Math.min(EXCHANGES, Math.round((seconds * 1e6) / PAUSE_US)), 1);
  return async ({ bed, near, far, target }) => {
    const echo = await bed.start(far, [probe, 'echo', '0.0.0.0', `${PORT}`], READY);
    try {
      const output = await bed.run(near, [probe, 'ping', target, `${PORT}`, `${exchanges}`,
        `${PAUSE_US}`], (seconds * 1000) + GRACE_MS);
      const times = output.trim().split('\n').filter((line) => line !== '').map(Number);
      if (times.length === 0) throw new Error('udp-probe: no answer came back');
      return { cost: median(times), ops: times.length };
    } finally {
      await bed.end(echo);
    }
  };
}

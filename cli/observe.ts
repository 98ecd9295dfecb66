// `culvert observe`: what the running daemon judged, one line a verdict, as Hubble prints flows.

import * as v from 'valibot';
import { method } from '../engine/connection.ts';
import { pageOf, VerdictReportSchema, VerdictsSchema } from '../engine/model.ts';
import type { VerdictReport } from '../engine/model.ts';
import { addressBytes, addressText, isAddress } from '../engine/address.ts';
import { withDaemon } from './client.ts';
import { CommandError, EXIT_USAGE } from './exit.ts';
import { aborted } from './run.ts';
import type { OutputFormat } from './table.ts';

const PROTOCOLS = new Map([[1, 'ICMP'], [6, 'TCP'], [17, 'UDP'], [58, 'ICMPv6'], [132, 'SCTP']]);
const TCP_FLAGS = ['FIN', 'SYN', 'RST', 'PSH', 'ACK', 'URG', 'ECE', 'CWR'];

export interface ObserveOptions {
  runtimeDirectory: string;
  output: OutputFormat;
  follow: boolean;
  last: number;
  verdict?: 'allowed' | 'denied';
  fromPod?: string;
  toPod?: string;
  pod?: string;
  ip?: string;
  direction?: 'ingress' | 'egress';
  module?: string;
}

/** Prints the last verdicts, or with `follow` those from now on until told to stop, or until nobody
 * reads them any more. */
export async function observe(given: ObserveOptions, stop: AbortSignal): Promise<void> {
  const options = checkOptions(given);
  const unread = new Promise<void>((resolve) => process.stdout.once('error', () => resolve()));
  const show = (verdicts: VerdictReport[]): void => {
    for (const verdict of verdicts.filter((candidate) => isWanted(candidate, options))) {
      const text = options.output === 'json' ? JSON.stringify(verdict) : line(verdict);
      process.stdout.write(`${text}\n`);
    }
  };
  const verdicts = method(VerdictsSchema, ({ verdicts: batch, lost }) => {
    show(batch);
    if (lost > 0) process.stderr.write(`culvert: ${lost} verdicts came too fast and were lost\n`);
  });
  await withDaemon(options.runtimeDirectory, async (connection) => {
    if (options.follow) {
      await connection.request('verdict.follow', null, v.unknown());
      const ended = connection.closed.then((error) => Promise.reject(error ?? new Error('closed')));
      await Promise.race([aborted(stop), unread, ended]);
      return;
    }
    const wanted: VerdictReport[] = [];
    for (let from: number | null = 0; from !== null;) {
      const page: { entries: VerdictReport[]; next: number | null } =
        await connection.request('verdict.recent', { from }, pageOf(VerdictReportSchema));
      wanted.push(...page.entries.filter((verdict) => isWanted(verdict, options)));
      from = page.next;
    }
    show(wanted.slice(-options.last));
  }, { methods: { verdicts }, isLong: options.follow });
}

/** Refuses what could match nothing. Returns the options with the address in canonical form. */
function checkOptions(options: ObserveOptions): ObserveOptions {
  const refuse = (flag: string, value: unknown, why: string): never => {
    throw new CommandError(EXIT_USAGE, `observe: ${flag} ${value}: ${why}`);
  };
  const { last, pod, fromPod, toPod, ip } = options;
  if (!Number.isSafeInteger(last) || last < 1) refuse('--last', last, 'not a count from 1 on');
  for (const [flag, name] of [['--pod', pod], ['--from-pod', fromPod], ['--to-pod', toPod]]) {
    if (name !== undefined && !/^[^/]+\/[^/]+$/.test(name)) {
      refuse(flag ?? '', name, 'not namespace/name');
    }
  }
  if (ip === undefined) return options;
  if (!isAddress(ip)) refuse('--ip', ip, 'not an IP address');
  return { ...options, ip: addressText(addressBytes(ip)) };
}

function isWanted(verdict: VerdictReport, options: ObserveOptions): boolean {
  const { verdict: kind, fromPod, toPod, pod, ip, direction, module } = options;
  if (kind !== undefined && verdict.allowed !== (kind === 'allowed')) return false;
  if (direction !== undefined && verdict.direction !== direction) return false;
  if (module !== undefined && verdict.module !== module) return false;
  if (fromPod !== undefined && verdict.sourcePod !== fromPod) return false;
  if (toPod !== undefined && verdict.destinationPod !== toPod) return false;
  if (pod !== undefined && ![verdict.sourcePod, verdict.destinationPod].includes(pod)) return false;
  return ip === undefined || [verdict.source, verdict.destination].includes(ip);
}

/** `Nov 21 10:31:07.218: shop/web:4321 (ID:17) -> data/db:5432 (ID:4) ... INGRESS DENIED (...)` */
function line(verdict: VerdictReport): string {
  const from = end(verdict.sourcePod ?? verdict.source, verdict.sourcePort, verdict.sourceIdentity);
  const to = end(verdict.destinationPod ?? verdict.destination, verdict.destinationPort,
    verdict.destinationIdentity);
  const outcome = `${verdict.direction.toUpperCase()} ${verdict.allowed ? 'ALLOWED' : 'DENIED'}`;
  const decision = `${cause(verdict)} ${outcome}`;
  return `${time(verdict.time)}: ${from} -> ${to} ${decision} (${protocol(verdict)})`;
}

/** Who decided: a module, a policy by one of its rules, or nobody. */
function cause({ module, policy, rule }: VerdictReport): string {
  if (module !== null) return `module ${module}`;
  if (policy === null) return 'no policy';
  return rule === null ? policy : `${policy} ${rule}`;
}

function end(name: string, port: number, identity: number): string {
  const host = name.includes(':') && port > 0 ? `[${name}]` : name;
  return `${host}${port > 0 ? `:${port}` : ''} (ID:${identity})`;
}

function time(text: string): string {
  const date = new Date(text);
  const month = date.toLocaleString('en', { month: 'short' });
  const clock = date.toTimeString().slice(0, 8);
  const day = String(date.getDate()).padStart(2, '0');
  return `${month} ${day} ${clock}.${String(date.getMilliseconds()).padStart(3, '0')}`;
}

function protocol(verdict: VerdictReport): string {
  const name = PROTOCOLS.get(verdict.protocol) ?? `protocol ${verdict.protocol}`;
  const flags = TCP_FLAGS.filter((_, bit) => (verdict.tcpFlags & (1 << bit)) !== 0);
  return name === 'TCP' && flags.length > 0 ? `TCP Flags: ${flags.join(', ')}` : name;
}

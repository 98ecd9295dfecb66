// The report of `bench path` as tables for people.

import type { PathReport } from '../path.ts';
import { reportText } from '../report.ts';

const MIB = 1024 * 1024;

export function pathText(report: PathReport): string {
  const rates = report.results.map(({ name, mbitPerSecond, packetsPerSecond, cpuNsPerByte }) => [
    name,
    mbitPerSecond !== undefined ? `${mbitPerSecond} Mbit/s` : '',
    packetsPerSecond !== undefined ? `${packetsPerSecond} packets/s` : '',
    cpuNsPerByte !== undefined ? `daemons ${cpuNsPerByte} ns/byte` : '',
  ].filter((part) => part !== ''));
  const processes = Object.entries(report.process)
    .map(([tier, { residentBytes, dataWorker, mainThread }]) => {
      const pauses = [['data worker', dataWorker], ['main thread', mainThread]] as const;
      return [tier, `${Math.round(residentBytes / MIB)} MiB resident`,
        ...pauses.map(([name, { collections, longestMs }]) =>
          `${name}: ${collections} collections, longest ${longestMs} ms`)];
    });
  const hasWireguard = report.results.some(({ name }) => name === 'tcp/wireguardGo');
  const notes = [[`TCP streams under ${report.congestionControl} congestion control`]];
  if (hasWireguard) notes.push(['wireguardGo encrypts what it carries; Culvert does not']);
  const skipped = Object.entries(report.skipped).map(([name, reason]) => ['skipped', name, reason]);
  return [
    reportText(report),
    ...[...rates.filter((row) => row.length > 1), ...processes, ...notes, ...skipped]
      .map((row) => `${row.join('  ')}\n`),
  ].join('');
}

// `npm run soak`: a soak for as long as one likes. Needs root and /dev/net/tun. Build first.
//
// usage: npm run soak -- [--minutes N] [--keeper holder|systemd] [--output FOLDER]
//
// The keeper is who keeps what a killed daemon leaves. Only with systemd, or rather what stands in
// for it here, a daemon is also restarted in peace.
//
// The folder gets samples.jsonl and soak.svg as time goes by, and pings.json and
// verdict.txt at the end. Exit status 1 if anything grew, was lost or was dropped without a cause.

import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { soak } from './soak.ts';

const KEEPERS = ['holder', 'systemd'] as const;
const { values } = parseArgs({
  options: {
    minutes: { type: 'string', default: '60' },
    keeper: { type: 'string', default: 'systemd' },
    output: { type: 'string', default: join(tmpdir(), `culvert-soak-${process.pid}`) },
  },
});
const minutes = Number(values.minutes);
const keeper = KEEPERS.find((name) => name === values.keeper);
if (!(minutes > 0) || keeper === undefined) {
  process.stderr.write(
    'usage: soak [--minutes N] [--keeper holder|systemd] [--output FOLDER]\n');
  process.exit(2);
}
const print = (line: string): void => void process.stdout.write(`${line}\n`);
print(`${minutes} minutes; figures go to ${values.output}`);
const checks = await soak({ minutes, keeper, folder: values.output, print });
process.exitCode = checks.every(({ isSound }) => isSound) ? 0 : 1;

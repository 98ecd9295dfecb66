// The long run of the fuzzer, for a machine with time to spare.
//
// usage: node dist/test/fuzz/run.js [--packets N] [--seed S] [--only NAME]
//
// NAME is what names of the corpus begin with that are used: `geneve`, `ipip-`.

import { parseArgs } from 'node:util';
import { Fuzzer } from './fuzzer.ts';

const { values } = parseArgs({ options: {
  packets: { type: 'string', default: '100000000' },
  seed: { type: 'string', default: String(Date.now() % 1_000_000) },
  only: { type: 'string', default: '' },
} });
const packets = Number(values.packets);
const seed = Number(values.seed);
if (!Number.isSafeInteger(packets) || !Number.isSafeInteger(seed)) {
  console.error('usage: node dist/test/fuzz/run.js [--packets N] [--seed S] [--only NAME]');
  process.exit(2);
}

const fuzzer = new Fuzzer(seed, () => {}, values.only);
console.log(`corpus: ${fuzzer.entries.length} packets; seed ${seed}`);
const report = fuzzer.run(packets);
const seconds = report.milliseconds / 1000;
console.log(`${report.packets} packets in ${seconds.toFixed(1)} s, `
  + `${Math.round(report.packets / seconds)} a second: ${report.sent} sent, `
  + `${report.icmpSent} of them ICMP errors and ${report.neighbourAnswered} answers to neighbours; `
  + `${report.dropped} dropped`);
for (const [name, count] of Object.entries(report.drops)) console.log(`  ${name}: ${count}`);

// `culvert demo --nodes 2`, every process of it on an emulated processor:
//
//   pods of edge-1 -- daemon, sidecar == VXLAN == daemon, sidecar -- pods of edge-2

import { readlinkSync } from 'node:fs';
import { basename } from 'node:path';
import * as assert from 'uvu/assert';
import * as v from 'valibot';
import { Command } from '../../support/command.ts';

/** Far more than it takes on a machine that has nothing else to do. */
const LIMIT_MS = 900_000;
const PROTOCOLS = ['TCP', 'UDP', 'ICMP'];
const FAMILIES = ['IPv4', 'IPv6'];
/** The demo, two daemons, two sidecars. */
const PROCESSES = 5;

const ReportSchema = v.looseObject({
  ok: v.boolean(),
  nodes: v.array(v.looseObject({ name: v.string(), kind: v.literal('culvert') })),
  pairs: v.array(v.looseObject({
    from: v.string(), to: v.string(), protocol: v.picklist(PROTOCOLS), family: v.picklist(FAMILIES),
    expected: v.string(), seen: v.string(),
  })),
  skipped: v.array(v.unknown()),
  services: v.array(v.looseObject({ ok: v.boolean() })),
  throughputMbps: v.number(),
});

/** Programs that processes run, without their folders. */
function programsOf(pids: number[]): string[] {
  return pids.flatMap((pid) => {
    try {
      return [basename(readlinkSync(`/proc/${pid}/exe`))];
    } catch {
      return [];
    }
  });
}

/** Runs the demo by `command`, and holds its report to what two nodes must do. */
export async function checkDemo(
  name: string, command: string[], emulator: string, env: Record<string, string> = {},
): Promise<void> {
  const demo = new Command([...command, 'demo', '--nodes', '2', '-o', 'json'], { env }, LIMIT_MS);
  try {
    await demo.untilSaid('trying every pair');
    const programs = programsOf(demo.processes());
    assert.equal(programs, Array.from({ length: PROCESSES }, () => emulator));
    const { code, stdout, stderr } = await demo.ended;
    assert.is(code, 0, `${stderr}\n${stdout.slice(0, 2000)}`);
    const report = v.parse(ReportSchema, JSON.parse(stdout));
    assert.equal(report.nodes.map((node) => node.name), ['edge-1', 'edge-2']);
    assert.equal(report.skipped, []);
    assert.ok(report.services.length > 0);
    // No policy is about any of these.
    for (const [from, to] of [['demo/web', 'demo/api'], ['demo/web', 'node/edge-2'],
      ['node/edge-1', 'demo/api'], ['node/edge-2', 'demo/legacy']]) {
      const seen = report.pairs.filter((pair) => pair.from === from && pair.to === to)
        .map((pair) => `${pair.family} ${pair.protocol} ${pair.seen}`);
      assert.equal(seen.sort(), FAMILIES.flatMap((family) =>
        PROTOCOLS.map((protocol) => `${family} ${protocol} reach`)).sort(), `${from} to ${to}`);
    }
    console.log(`${name}: ${report.pairs.length} pairs as expected, TCP between pods of two nodes `
      + `${report.throughputMbps} Mbit/s`);
  } finally {
    await demo.end();
  }
}

// `bench path`, run with tiny inputs: that everybody takes part and carries what was sent, and that
// the report is what it should be; never how fast anything is.

import { spawn } from 'node:child_process';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { runPath, type PathReport } from '../../bench/path.ts';
import type { Contender, Recipe } from '../../bench/path/contender.ts';
import { GarbageTrace } from '../../bench/path/garbage.ts';
import { pathPlot } from '../../bench/path/plot.ts';
import { RIVALS } from '../../bench/path/rivals.ts';
import { pathText } from '../../bench/path/text.ts';
import { findCompiler } from '../../bench/native.ts';
import { describeMachine } from '../../bench/report.ts';
import { Agent } from '../../cli/demo/bed.ts';
import { needs, printSkip } from '../support/needs.ts';
import { ROOT } from '../support/source.ts';
import { findTool, toolReason } from '../support/tools.ts';

const test = suite('bench/path');
const UPLOAD_BYTES = 24 * 1024 * 1024;
const TIMEOUT_MS = 30_000;
/** From one byte to the largest datagram that the pods' link takes whole, and fragmented ones. */
const SIZES = [1, 36, 500, 1000, 1399, 1400, 1401, 1422, 1423, 3000, 9000];
const MAIN = 'dist/bench/main.js';
const INTERRUPT_AFTER = 'round 1';

/** Adds a test of those of the wanted contenders that this machine can have. */
function testPath(
  name: string, wanted: string[], fn: (present: string[]) => Promise<void>,
): void {
  const isNative = (contender: string): boolean => /flannel|Twin/.test(contender);
  const present = wanted.filter((contender) =>
    (findCompiler() !== null || !isNative(contender))
    && (needs.vxlan || contender !== 'kernelVxlan'));
  for (const missing of wanted.filter((contender) => !present.includes(contender))) {
    const reason = isNative(missing) ? 'no C compiler' : 'a kernel with vxlan is needed';
    printSkip(`${name}: ${missing}`, reason);
  }
  if (wanted.length > 0 && present.length === 0) return;
  if (!needs.tun) return printSkip(name, 'root and /dev/net/tun are needed');
  test(name, () => fn(present));
}

async function withContender(
  name: string, use: (contender: Contender) => Promise<void>,
): Promise<void> {
  const recipe = RIVALS.find((candidate) => candidate.name === name) as Recipe;
  const stop = new AbortController();
  const contender = await recipe.make({ cores: ['', ''], bothCores: '', stop: stop.signal });
  try {
    await use(contender);
  } finally {
    await contender.bed.close();
  }
}

/** What arrives through a contender is what was sent: a stream by its digest, datagrams by their
 * echoes. */
async function expectIntact(name: string): Promise<void> {
  await withContender(name, async ({ near, far, target }) => {
    const server = new Agent(far.namespace, 'far');
    const client = new Agent(near.namespace, 'near');
    try {
      await server.ask({ verb: 'serve', addresses: [target] });
      const upload = await client.ask({
        verb: 'upload', address: target, bytes: UPLOAD_BYTES, timeoutMs: TIMEOUT_MS,
      });
      assert.ok(upload.ok, upload.detail);
      const echoes = await client.ask({
        verb: 'sizes', address: target, sizes: SIZES, timeoutMs: TIMEOUT_MS,
      });
      assert.ok(echoes.ok, echoes.detail);
    } finally {
      await client.close();
      await server.close();
    }
  });
}

for (const name of ['flannelUdp', 'nativeTwin', 'nativeTwinT3']) {
  testPath(`${name} damages nothing`, [name], () => expectIntact(name));
}

function expectFigures({ results, ratios }: PathReport): void {
  for (const result of results) {
    assert.ok(result.nsPerOp > 0 && Number.isFinite(result.nsPerOp), result.name);
    assert.ok(result.ops > 0, result.name);
    assert.match(result.hash, /^[0-9a-f]{8}$/);
    assert.is((result.mbitPerSecond ?? 0) > 0, /^(tcp|tunnels)/.test(result.name));
    assert.is((result.packetsPerSecond ?? 0) > 0, /^smallPackets\//.test(result.name));
  }
  for (const ratio of Object.values(ratios)) {
    assert.equal(Object.keys(ratio), ['median', 'min', 'max', 'rounds']);
    assert.is(ratio.rounds, 1);
    assert.ok(ratio.min > 0 && ratio.min <= ratio.median && ratio.median <= ratio.max);
  }
}

if (findTool('iperf3') === null) printSkip('one small run', toolReason('iperf3'));
else {
  const tunnels = ['udp', 'geneve', 'ipip', 'direct'];
  const wanted = ['T0', ...tunnels, 'kernelVxlan', 'flannelUdp', 'nativeTwin'];
  testPath('one small run', wanted, async (present) => {
    const said: string[] = [];
    const report = await runPath({
      rounds: 1, seconds: 0.2, contenders: present, say: (text) => said.push(text),
      stop: new AbortController().signal,
    });
    assert.equal(report.skipped, {});
    assert.equal(Object.keys(report),
      ['machine', 'results', 'ratios', 'congestionControl', 'process', 'skipped']);
    const hasNative = present.includes('flannelUdp');
    const small = ['T0', 'flannelUdp'].flatMap((name) => [`smallPackets/${name}`, `rtt/${name}`]);
    assert.equal(report.results.map(({ name }) => name),
      [...present.map((name) => `${tunnels.includes(name) ? 'tunnels' : 'tcp'}/${name}`),
        'tcpByService/T0', ...(hasNative ? small : [])]);
    const rivals = ['T0/flannelUdp', 'udp/flannelUdp', 'smallPackets/flannelUdp', 'rtt/flannelUdp'];
    assert.equal(Object.keys(report.ratios), [...(hasNative ? rivals : []), 'service/direct']);
    expectFigures(report);
    const { T0 } = report.process;
    assert.ok((T0?.residentBytes ?? 0) > 10_000_000);
    assert.ok((T0?.dataWorker.collections ?? -1) >= 0);
    assert.ok(said.includes('round 1 of 1'));
    assert.ok(pathText(report).includes('MiB resident'));
  });
}

testPath('interrupted, it ends everything that it started', [], async () => {
  const child = spawn(process.execPath, [MAIN, 'path', '--rounds', '9', '--contenders', 'veth'],
    { cwd: ROOT, stdio: ['ignore', 'pipe', 'pipe'] });
  let [said, printed] = ['', ''];
  child.stdout.on('data', (chunk: Buffer) => { printed += chunk.toString(); });
  child.stderr.on('data', (chunk: Buffer) => {
    said += chunk.toString();
    // Once: whoever is told twice ends at once.
    if (chunk.includes(INTERRUPT_AFTER)) child.kill('SIGINT');
  });
  const code = await new Promise((resolve) => { child.once('close', resolve); });
  // Its pipes are closed only once nobody that it started holds them.
  assert.is(code, 1, said);
  assert.is(printed, '');
  assert.match(said, /interrupted/);
});

test('unknown contenders are refused with the names of all', async () => {
  const child = spawn(process.execPath, [MAIN, 'path', '--contenders', 'T0,turtle'],
    { cwd: ROOT, stdio: ['ignore', 'ignore', 'pipe'] });
  let said = '';
  child.stderr.on('data', (chunk: Buffer) => { said += chunk.toString(); });
  assert.is(await new Promise((resolve) => { child.once('close', resolve); }), 2);
  assert.match(said, /turtle; there are T0, T1, T2, T3, udp, geneve, ipip, direct, kernelVxlan/);
});

test('pauses for garbage are counted by thread, while somebody watches', () => {
  const line = (isolate: string, ms: number): string => `[4711:${isolate}]       34 ms: Scavenge `
    + `4.4 (6.0) -> 4.2 (7.0) MB, ${ms} / 0.00 ms  (average mu = 1.000) allocation failure; \n`;
  const trace = new GarbageTrace();
  trace.read(line('0x1', 9));
  trace.watch(true);
  const text = `${line('0x1', 0.5)}${line('0x2', 0.25)}something else\n${line('0x2', 1.5)}`;
  trace.read(text.slice(0, 100));
  trace.read(text.slice(100));
  trace.watch(false);
  trace.read(line('0x2', 9));
  assert.equal(trace.main, { count: 1, longestMs: 0.5 });
  assert.equal(trace.workers, { count: 2, longestMs: 1.5 });
});

test('the plot has a bar and a whisker for each ratio', () => {
  const ratio = (median: number) => ({ median, min: median / 2, max: median * 2, rounds: 7 });
  const report = {
    machine: describeMachine(), results: [],
    ratios: {
      'T1/flannelUdp': ratio(8), 'rtt/flannelUdp': ratio(1.1), 'T1/kernelVxlan': ratio(0.6),
    },
  };
  const svg = pathPlot(report) ?? '';
  assert.is(svg.match(/<rect/g)?.length, 4);
  for (const name of Object.keys(report.ratios)) assert.ok(svg.includes(name), name);
  assert.is(svg.match(/<text/g)?.length, svg.match(/<\/text>/g)?.length);
  assert.not.match(svg, /NaN|Infinity|undefined/);
  assert.is(pathPlot({ ...report, ratios: {} }), null);
});

test.run();

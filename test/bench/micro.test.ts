// The benches, run with tiny inputs: that they work and report what they should, never how long
// anything takes.

import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { runMicro, selectBenches } from '../../bench/micro.ts';
import { findCompiler } from '../../bench/native.ts';
import { policyPlot } from '../../bench/plot.ts';
import { quantile, median, reportText, summarise, type Report } from '../../bench/report.ts';
import { Hash, Random, Zipf } from '../../bench/random.ts';
import { ROUNDS } from '../../bench/rounds.ts';
import { needs, printSkip } from '../support/needs.ts';
import { findTool, toolReason } from '../support/tools.ts';

const test = suite('bench/micro');
const SECONDS = 0.02;
const TABLES = ['lpm4', 'lpm6', 'lpm4Cluster', 'lpm6Cluster'];
const CHECKSUMS = ['checksum', 'checksum20', 'checksum64000'];
/** With a compiler there are twins: one that does not compile is a fault. */
const hasTwins = findCompiler() !== null;

async function run(filter: string): Promise<Report> {
  const said: string[] = [];
  const report = await runMicro({
    seconds: SECONDS, rounds: 2, small: true, filter, say: (text) => said.push(text),
  });
  assert.ok(said.length > 0);
  return report;
}

/** A bench's results and ratios have these names, and figures a bench can have. */
async function expectReport(filter: string, results: string[], ratios: string[]): Promise<Report> {
  const report = await run(filter);
  assert.equal(Object.keys(report), ['machine', 'results', 'ratios']);
  assert.equal(report.results.map(({ name }) => name), results);
  for (const result of report.results) {
    assert.equal(Object.keys(result), ['name', 'nsPerOp', 'ops', 'hash']);
    assert.ok(Number.isFinite(result.nsPerOp), result.name);
    assert.ok(result.ops > 0, result.name);
    assert.match(result.hash, /^[0-9a-f]{8}$/);
  }
  assert.equal(Object.keys(report.ratios), ratios);
  for (const ratio of Object.values(report.ratios)) {
    assert.equal(Object.keys(ratio), ['median', 'min', 'max', 'rounds']);
    assert.is(ratio.rounds, 2);
    assert.ok(ratio.min <= ratio.median && ratio.median <= ratio.max);
  }
  return report;
}

/** The hashes of a bench are the same in every run. */
async function expectSameWork(filter: string, names: string[], ratios: string[]): Promise<void> {
  const hashes = async (): Promise<string[]> =>
    (await expectReport(filter, names, ratios)).results.map(({ hash }) => hash);
  const first = await hashes();
  assert.equal(await hashes(), first);
  assert.is(new Set(first).size > 0, true);
}

/** Names of subjects, each followed by its twins in C where these can be built. */
function withTwins(names: string[], twins = ['native']): string[] {
  return names.flatMap((name) => [name, ...twinsOf([name], twins)]);
}

/** Names of twins, and of their ratios to what they are twins of. */
function twinsOf(names: string[], twins = ['native']): string[] {
  if (!hasTwins) return [];
  return names.flatMap((name) => twins.map((twin) => `${name}/${twin}`));
}

test('routes', () => expectSameWork(
  'route',
  [...withTwins(TABLES), ...TABLES.map((table) => `${table}/change`)],
  [...twinsOf(TABLES), 'lpm4/lookupBytes:prefixes']));

test('flows', () => expectSameWork('flow', withTwins(['flow'], ['native', 'nativePrefetch']),
  twinsOf(['flow'], ['native', 'nativePrefetch'])));

test('parsing and encapsulating', () => {
  const names = ['ipv4', 'ipv6'].flatMap((family) => {
    const both = [`parse/${family}`, `encapsulate/${family}`];
    return [...both, ...twinsOf(both)];
  });
  return expectSameWork('parse', names, names.filter((name) => name.endsWith('/native')));
});

test('checksums', () => expectSameWork('checksum', withTwins(CHECKSUMS), twinsOf(CHECKSUMS)));

test('pipelines without policy', () => expectSameWork(
  'pipeline', [...withTwins(['outbound/ipv4', 'outbound/ipv6']), 'inbound/ipv4', 'inbound/ipv6'],
  hasTwins ? ['outbound/native', 'outbound6/native'] : []));

test('policies', () => expectSameWork(
  'policyMiss', ['policy/10', 'policyMiss/10', 'policy/100', 'policyMiss/100'],
  ['policy/100:10', 'policyMiss/100:10']));

test('changes of policy', () => expectSameWork('policyDelta', [
  'policyDelta/p50Ms', 'policyDelta/p99Ms', 'policyDelta/fromDueP99Ms', 'policyDelta/apply',
  'policyDelta/sustained',
], []));

test('Services', async () => {
  const names = ['service/10', 'service/20', 'service/direct', 'serviceFirst/10',
    'serviceFirst/20', 'serviceFirst/backends2', 'serviceFirst/backends3', 'serviceChange/p50',
    'serviceChange/p99'];
  await expectSameWork('service', names, ['service/20:10', 'serviceFirst/20:10', 'service/direct']);
});

test('policy modules: the same packets with and without, and what that costs', async () => {
  const { results, ratios } = await run('module');
  assert.equal(results.map(({ name }) => name), [
    'module/none', 'module/direct', 'module/component', 'module/established/none',
    'module/established/direct', ...hasTwins ? ['module/call/native'] : [],
  ]);
  const [none, direct, component, known, knownDirect] = results.map(({ hash }) => hash);
  assert.equal([direct, component, knownDirect], [none, none, known]);
  assert.ok(results.every(({ ops, nsPerOp }) => ops > 0 && Number.isFinite(nsPerOp)));
  assert.equal(Object.keys(ratios),
    ['module/directExtraNs', 'module/componentExtraNs', 'module/establishedExtraNs']);
});

if (needs.root && findTool('nft') !== null) {
  test('rules of nft', () => expectSameWork('nft', ['nft/0', 'nft/10'], ['nft/10:10']));
} else {
  printSkip('rules of nft', needs.root ? toolReason('nft') : 'root is needed');
}

test('a filter names benches or their results', () => {
  const names = (filter: string): string[] => selectBenches(filter).map(({ name }) => name);
  assert.equal(names('policyMiss/100'), ['policy']);
  assert.equal(names('delta'), ['delta']);
  assert.equal(names('outbound/ipv6'), ['pipeline']);
  assert.equal(names('nothing of that name'), []);
  assert.ok(names('').length >= 5);
});

test('ratios are taken over enough rounds', () => assert.ok(ROUNDS >= 7));

test('medians, quantiles and summaries', () => {
  assert.is(median([3, 1, 2]), 2);
  assert.is(median([4, 1, 2, 3]), 2.5);
  assert.is(quantile([4, 1, 2, 3], 0.25), 2);
  assert.is(quantile([5], 0.99), 5);
  assert.equal(summarise([2, 1, 4]), { median: 2, min: 1, max: 4, rounds: 3 });
});

test("Zipf's law: ranks by weight, the same for a seed", () => {
  const count = (seed: number): number[] => {
    const zipf = new Zipf(new Random(seed), 100, 1.1);
    const drawn = new Array<number>(100).fill(0);
    for (let index = 0; index < 20_000; index += 1) {
      const rank = zipf.next();
      drawn[rank] = (drawn[rank] ?? 0) + 1;
    }
    return drawn;
  };
  const [first = 0, second = 0, , , , , , , , tenth = 0] = count(1);
  assert.ok(Math.abs((first / second) - (2 ** 1.1)) < 0.3);
  assert.ok(Math.abs((first / tenth) - (10 ** 1.1)) < 3);
  assert.equal(count(1), count(1));
});

test('hashes tell bytes apart', () => {
  const of = (...bytes: number[]): string => {
    const hash = new Hash();
    hash.addBytes(Uint8Array.from(bytes));
    return hash.text();
  };
  // FNV-1a of no bytes is its offset basis, of "a" e40c292c: draft-eastlake-fnv, appendix C.
  assert.is(of(), '811c9dc5');
  assert.is(of(0x61), 'e40c292c');
  assert.is.not(of(1, 2), of(2, 1));
});

const result = (name: string, nsPerOp: number): Report['results'][number] =>
  ({ name, nsPerOp, ops: 1, hash: '00000000' });
const SAMPLE: Report = {
  machine: {
    cpu: 'a', cpus: 2, memoryBytes: 2 ** 30, arch: 'x64', kernel: '6', node: 'v20', v8: '11',
  },
  results: [result('policy/100', 50), result('policy/1000', 55), result('nft/100', 3000),
    result('nft/1000', 9000), result('lpm4', 3)],
  ratios: { 'policy/1000:100': { median: 1.1, min: 1, max: 1.2, rounds: 9 } },
};

test('the table has every figure', () => {
  const text = reportText(SAMPLE);
  for (const part of ['policy/1000', '55.00', 'nft/100', '3000.00', '1.100', '1.200', 'v20']) {
    assert.ok(text.includes(part), part);
  }
});

test('the plot has a line for each series, and is well-formed', () => {
  const svg = policyPlot(SAMPLE) ?? '';
  assert.is(svg.match(/<polyline/g)?.length, 2);
  assert.is(svg.match(/<circle/g)?.length, 4);
  assert.is(svg.match(/<text/g)?.length, svg.match(/<\/text>/g)?.length);
  assert.not.match(svg, /NaN|Infinity|undefined/);
  assert.is(policyPlot({ ...SAMPLE, results: [] }), null);
});

test.run();

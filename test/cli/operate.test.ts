// What whoever looks after a node sees: metrics and health over HTTP, captures, the walk of one
// packet, the archive.
// support/friends.ts draws the node; node-2 is a peer that is not there.

import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import * as v from 'valibot';
import { REASON_NAMES } from '../../engine/counters.ts';
import { TraceReportSchema, type TraceReport } from '../../engine/model-capture.ts';
import {
  StatusReportSchema, VerdictReportSchema, type StatusReport, type VerdictReport,
} from '../../engine/model.ts';
import { findTool, toolReason } from '../../scripts/tools.ts';
import { podAddress } from '../netns/support/forge-cluster.ts';
import type { Pod } from '../netns/support/forge-scene.ts';
import { CLI, Command, culvert } from '../support/command.ts';
import { needs, testNeeding } from '../support/needs.ts';
import { call, openFriends, PORT, REACH_MS, wordsOf, type Friends } from './support/friends.ts';

const test = suite<Friends>('cli/operate');
const HTTP = 'http://127.0.0.1:9478';

test.before(async (context) => {
  if (needs.tun) Object.assign(context, await openFriends([1, 2]));
});
test.after(async ({ bed }) => {
  if (needs.tun) await bed.close();
});

/** Why a tool cannot be used; null where it can. */
function missing(tool: string): string | null {
  return findTool(tool) === null ? toolReason(tool) : null;
}

async function answer(context: Friends, words: string, code = 0): Promise<string> {
  const outcome = await culvert(wordsOf(context, words));
  assert.equal([outcome.code, outcome.stderr], [code, ''], words);
  return outcome.stdout;
}

async function statusOf(context: Friends): Promise<StatusReport> {
  return v.parse(StatusReportSchema, JSON.parse(await answer(context, 'status -o json')));
}

/** What the daemon's server answers inside its node's namespace. */
function fetched({ one }: Friends, path: string): { status: number; text: string } {
  const program = `fetch('${HTTP}${path}').then(async (answer) => process.stdout.write(`
    + 'JSON.stringify({ status: answer.status, text: await answer.text() })))';
  const { stdout, stderr } = one.host.namespace.run(() =>
    spawnSync(process.execPath, ['-e', program], { encoding: 'utf8', timeout: REACH_MS }));
  assert.is(stderr, '');
  return JSON.parse(stdout) as { status: number; text: string };
}

testNeeding('tun', test, 'every drop reason and every table is a metric', async (context) => {
  const { status, text } = fetched(context, '/metrics');
  assert.is(status, 200);
  const lines = text.split('\n');
  for (const direction of ['outbound', 'inbound']) {
    for (const reason of REASON_NAMES.slice(1)) {
      const labels = `{reason="${reason}",direction="${direction}"}`;
      for (const name of ['culvert_drop_packets_total', 'culvert_drop_bytes_total']) {
        assert.ok(lines.some((line) => line.startsWith(`${name}${labels} `)), `${name}${labels}`);
      }
    }
  }
  const { tables } = await statusOf(context);
  for (const { name, limit } of tables) {
    assert.ok(lines.includes(`culvert_table_limit{table="${name}"} ${limit}`), name);
    assert.ok(lines.some((line) => line.startsWith(`culvert_table_entries{table="${name}"} `)));
  }
  const routes = lines.filter((line) => line.startsWith('culvert_route_table_entries{'));
  assert.is(routes.length, 2);
  const told = (await answer(context, 'metrics -o prometheus')).split('\n');
  const names = (all: string[]): string[] => all.filter((line) => line.startsWith('# TYPE'));
  assert.equal(names(told), names(lines));
  const some = JSON.parse(await answer(context, 'metrics -o json culvert_build_info')) as
    { name: string; value: number }[];
  assert.equal(some.map(({ name, value }) => [name, value]), [['culvert_build_info', 1]]);
});

testNeeding('tun', test, 'promtool has nothing to say about the metrics', async (context) => {
  await call(context, context.friend, 'IPv4');
  const { text } = fetched(context, '/metrics');
  const { status, stdout, stderr } = spawnSync(findTool('promtool') ?? '', ['check', 'metrics'], {
    input: text, encoding: 'utf8',
  });
  assert.equal([status, stdout, stderr], [0, '', '']);
}, missing('promtool'));

testNeeding('tun', test, 'judgements are counted as they are made', async (context) => {
  const read = async (verdict: string): Promise<number> => {
    const wanted = `culvert_policy_verdicts_total{verdict="${verdict}",direction="ingress",`
      + 'source="networkpolicy"} ';
    const text = await answer(context, 'metrics -o prometheus');
    const line = text.split('\n').find((one) => one.startsWith(wanted)) ?? '';
    return Number(line.slice(wanted.length));
  };
  const before = [await read('allow'), await read('deny')] as const;
  await call(context, context.friend, 'IPv6');
  await call(context, context.stranger, 'IPv6');
  assert.ok(await read('allow') > before[0]);
  assert.ok(await read('deny') > before[1]);
});

testNeeding('tun', test, 'it lives, it is ready, and says of what', (context) => {
  assert.equal(fetched(context, '/healthz'), { status: 200, text: 'ok\n' });
  const { status, text } = fetched(context, '/readyz?verbose');
  assert.is(status, 200);
  for (const name of ['data-plane', 'tun', 'cluster', 'policy']) {
    assert.match(text, `[+]${name} ok`);
  }
});

/** Packet blocks of a pcapng file, as text where a reader sees text. */
function packetsOf(file: string): string[] {
  const bytes = readFileSync(file);
  const packets: string[] = [];
  for (let at = 0; at < bytes.length;) {
    const size = bytes.readUInt32LE(at + 4);
    if (bytes.readUInt32LE(at) === 6) packets.push(bytes.toString('latin1', at, at + size));
    at += size;
  }
  return packets;
}

testNeeding('tun', test, 'a capture has what the counters say', async (context) => {
  const file = join(context.bed.folder, 'drop.pcapng');
  const count = async (): Promise<number> =>
    (await statusOf(context)).drops.outbound['policyIngress'] ?? 0;
  const before = await count();
  const words = wordsOf(context, `capture -i drop tun -w ${file}`);
  const capture = new Command([process.execPath, CLI, ...words]);
  try {
    await capture.untilSaid('capturing at drop, tun');
    for (const family of ['IPv4', 'IPv6', 'IPv4'] as const) {
      await call(context, context.stranger, family);
    }
    await call(context, context.friend, 'IPv4');
    const dropped = await count() - before;
    assert.ok(dropped >= 3);
    await new Promise((resolve) => setTimeout(resolve, 500));
    capture.child.kill('SIGINT');
    const { code, stderr } = await capture.ended;
    assert.is(code, 0, stderr);
    const packets = packetsOf(file);
    const said = 'dropped outbound: policyIngress, from test_pod-1-12';
    assert.is(packets.filter((text) => text.includes(said)).length, dropped);
    assert.match(stderr, `${packets.length} packets captured`);
    const tshark = findTool('tshark');
    if (tshark === null) return;
    const seen = spawnSync(tshark, ['-r', file, '-T', 'fields', '-e', 'frame.interface_name',
      '-e', 'frame.comment'], { encoding: 'utf8' });
    const lines = seen.stdout.split('\n').filter((line) => line.trim() !== '');
    assert.is(lines.length, packets.length, seen.stderr);
    assert.is(lines.filter((line) => line.startsWith('drop\t') && line.includes(said)).length,
      dropped);
    assert.ok(lines.some((line) => line.startsWith('test_pod-1-11')));
  } finally {
    await capture.end();
  }
});

testNeeding('tun', test, 'tshark reads a capture while it goes on', async (context) => {
  const capture = wordsOf(context, 'capture -i tun -w - -c 4').join(' ');
  const line = `${process.execPath} ${CLI} ${capture} | ${findTool('tshark') ?? ''} -r - -T fields `
    + '-e tcp.dstport';
  const live = new Command(['sh', '-c', line]);
  try {
    await live.untilSaid('capturing at tun');
    await call(context, context.friend, 'IPv4');
    const { stdout, stderr } = await live.ended;
    assert.ok(stdout.split('\n').includes(String(PORT)), stderr);
  } finally {
    await live.end();
  }
}, missing('tshark'));

interface End { allowed: boolean; policy: string | null; rule: string | null }

function sideOf({ egress, ingress }: TraceReport): (End | null)[] {
  return [egress, ingress];
}

async function observed(context: Friends, from: Pod, family: 'IPv4' | 'IPv6')
  : Promise<(End | null)[]> {
  await call(context, from, family);
  const text = await answer(context, `observe -o json --last 1000 --from-pod test/${from.name}`);
  const address = from.addresses[family === 'IPv4' ? 0 : 1];
  const verdicts: VerdictReport[] = text.split('\n').filter(Boolean)
    .map((line) => v.parse(VerdictReportSchema, JSON.parse(line)));
  return (['egress', 'ingress'] as const).map((side) => {
    const last = verdicts.filter(({ direction, source }) =>
      direction === side && source === address).at(-1);
    return last === undefined ? null
      : { allowed: last.allowed, policy: last.policy, rule: last.rule };
  });
}

async function explained({ one, server }: Friends, from: Pod, family: string)
  : Promise<(End | null)[]> {
  const { code, stdout } = await culvert(['policy', 'explain', '--objects', one.source,
    '--from', `test/${from.name}`, '--to', `test/${server.name}`, '--port', `${PORT}/TCP`,
    '--family', family, '-o', 'json']);
  assert.is(code, 0);
  const explanation = JSON.parse(stdout) as Record<'egress' | 'ingress',
    { verdict: string; policy: string | null; rule: string | null }>;
  return (['egress', 'ingress'] as const).map((side) => {
    const { verdict, policy, rule } = explanation[side];
    return { allowed: verdict === 'allow', policy, rule };
  });
}

testNeeding('tun', test, 'trace, explain and observe say the same of a packet', async (context) => {
  const { friend, server, stranger } = context;
  for (const from of [friend, stranger]) {
    for (const family of ['IPv4', 'IPv6'] as const) {
      const isFriend = from === friend;
      const text = await answer(context, `trace --from test/${from.name} --to test/${server.name} `
        + `--port ${PORT}/TCP --family ${family} -o json`, isFriend ? 0 : 1);
      const { source: _, destination: _to, protocol: _of, port: _at, size: _is, ...report } =
        JSON.parse(text) as Record<string, unknown>;
      const traced = v.parse(TraceReportSchema, report);
      assert.is(traced.verdict, isFriend ? 'delivered' : 'dropped');
      const name = `${from.name} ${family}`;
      assert.equal(sideOf(traced), await observed(context, from, family), `observe, ${name}`);
      assert.equal(sideOf(traced), await explained(context, from, family), `explain, ${name}`);
    }
  }
});

testNeeding('tun', test, 'a trace changes nothing, and says where it leaves', async (context) => {
  const before = await statusOf(context);
  const text = await answer(context,
    `trace --from test/${context.friend.name} --to ${podAddress(2, 10, 'IPv4')} --port 53/UDP`);
  for (const step of ['device', 'source', 'egress', 'route', 'tunnel', 'mtu', 'verdict']) {
    assert.match(text, new RegExp(`^${step} `, 'm'));
  }
  assert.match(text, /tunnel\s+ok\s+vxlan to /);
  await answer(context, `trace --from test/${context.stranger.name} --to `
    + `test/${context.server.name} --port ${PORT}/TCP`, 1);
  const after = await statusOf(context);
  assert.is(after.drops.outbound['policyIngress'], before.drops.outbound['policyIngress']);
  assert.is(after.events['ingressDenied'], before.events['ingressDenied']);
});

testNeeding('tun', test, 'what a trace cannot answer is said by name', async (context) => {
  for (const [words, why] of [
    ['--from test/pod-1-77 --to 192.0.2.1 --port 80/TCP', 'no pod test/pod-1-77'],
    [`--from ${podAddress(2, 10, 'IPv4')} --to 192.0.2.1 --port ICMP`, 'is on node node-2'],
    ['--from test/pod-1-11 --to service:test/none --port 80/TCP', 'no Service test/none'],
    ['--from test/pod-1-11 --to 192.0.2.1 --port 80/XYZ', 'not as 80/TCP'],
  ] as const) {
    const { code, stdout, stderr } = await culvert(wordsOf(context, `trace ${words}`));
    assert.is(stdout, '', words);
    assert.is.not(code, 0);
    assert.match(stderr, why, stderr);
  }
});

testNeeding('tun', test, 'one archive has everything', async (context) => {
  const file = join(context.bed.folder, 'diag.tar.gz');
  assert.is(await answer(context, `diag -w ${file}`), `${file}\n`);
  const read = (name: string): string => spawnSync('tar', ['-xzOf', file, `culvert-diag/${name}`],
    { encoding: 'utf8' }).stdout;
  assert.is((JSON.parse(read('status.json')) as StatusReport).nodeName, 'node-1');
  assert.match(read('metrics.txt'), 'culvert_build_info');
  assert.match(read('config.json'), '"podNetworks"');
  assert.match(read('endpoints.json'), 'pod-1-11');
  assert.match(read('policy.json'), 'NetworkPolicy test/friends');
  assert.match(read('verdicts.json'), 'ingress');
});

test.run();

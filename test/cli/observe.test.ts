// What a user sees of policy on a running node: `culvert observe`, and what status and endpoint
// list say of it.
// support/friends.ts draws the node.

import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import * as v from 'valibot';
import {
  EndpointReportSchema, StatusReportSchema, VerdictReportSchema, type VerdictReport,
} from '../../engine/model.ts';
import { DatagramSender } from '../netns/support/datagrams.ts';
import type { Pod } from '../netns/support/forge-scene.ts';
import { CLI, Command, culvert, type Outcome } from '../support/command.ts';
import { until } from '../support/until.ts';
import { needs, testNeeding } from '../support/needs.ts';
import { call, openFriends, PORT, wordsOf, type Friends } from './support/friends.ts';

interface Context extends Friends { stray: Pod }

const test = suite<Context>('cli/observe');

test.before(async (context) => {
  if (!needs.tun) return;
  Object.assign(context, await openFriends([1]));
  context.stray = await context.one.addPod(99);
});
test.after(async ({ bed }) => {
  if (needs.tun) await bed.close();
});

async function linesOf(context: Context, words: string): Promise<string[]> {
  const { code, stdout, stderr } = await culvert(wordsOf(context, words));
  assert.equal([code, stderr], [0, '']);
  return stdout.split('\n').filter(Boolean);
}

async function verdictsOf(context: Context, words: string): Promise<VerdictReport[]> {
  const lines = await linesOf(context, `observe -o json --last 1000 ${words}`.trim());
  return lines.map((line) => v.parse(VerdictReportSchema, JSON.parse(line)));
}

/** Direction, whether it passed, and who decided. */
function outcomeOf({ direction, allowed, policy, rule }: VerdictReport): string {
  return `${direction} ${allowed ? 'allowed' : 'denied'} ${policy} ${rule}`;
}

testNeeding('tun', test, 'verdicts have names, addresses, ports and a cause', async (context) => {
  const { friend, server, stranger } = context;
  await call(context, friend, 'IPv4');
  await call(context, stranger, 'IPv6');
  const lines = await linesOf(context, 'observe');
  const head = String.raw`^[A-Z][a-z]{2} \d\d \d\d:\d\d:\d\d\.\d{3}: `;
  const cause = String.raw`NetworkPolicy test/friends ingress\[0\]`;
  const flow = (from: Pod): string =>
    String.raw`test/${from.name}:\d+ \(ID:\d+\) -> test/${server.name}:${PORT} \(ID:\d+\)`;
  for (const expected of [
    `${flow(friend)} no policy EGRESS ALLOWED`, `${flow(friend)} ${cause} INGRESS ALLOWED`,
    `${flow(stranger)} NetworkPolicy test/friends isolates ingress INGRESS DENIED`,
  ]) {
    const pattern = new RegExp(String.raw`${head}${expected} \(TCP Flags: SYN\)$`);
    assert.ok(lines.some((line) => pattern.test(line)), `${pattern} in\n${lines.join('\n')}`);
  }
  const verdicts = await verdictsOf(context, `--from-pod test/${friend.name}`);
  assert.equal(verdicts.map(outcomeOf), [
    'egress allowed null null', 'ingress allowed NetworkPolicy test/friends ingress[0]',
  ]);
  for (const { time, ...verdict } of verdicts) {
    assert.ok(Math.abs(Date.parse(time) - Date.now()) < 600_000, time);
    const { source, sourcePod, destination, destinationPod, destinationPort, protocol } = verdict;
    assert.equal([source, sourcePod], [friend.addresses[0], `test/${friend.name}`]);
    assert.equal([destination, destinationPod], [server.addresses[0], `test/${server.name}`]);
    assert.equal([destinationPort, protocol, verdict.tcpFlags], [PORT, 6, 2]);
    assert.ok(verdict.sourcePort > 0);
  }
});

testNeeding('tun', test, 'filters choose, and --last counts what they leave', async (context) => {
  const { friend, server, stranger } = context;
  await call(context, friend, 'IPv6');
  await call(context, stranger, 'IPv4');
  const all = await verdictsOf(context, '');
  const [, ipv6 = ''] = friend.addresses;
  const long = ipv6.toUpperCase().replace('::', ':0:0:0:');
  for (const [words, isWanted] of [
    ['--verdict denied', ({ allowed }) => !allowed],
    ['--verdict allowed', ({ allowed }) => allowed],
    ['--direction egress', ({ direction }) => direction === 'egress'],
    [`--pod test/${stranger.name}`, ({ sourcePod }) => sourcePod === `test/${stranger.name}`],
    [`--from-pod test/${friend.name}`, ({ sourcePod }) => sourcePod === `test/${friend.name}`],
    [`--to-pod test/${server.name}`, () => true],
    [`--to-pod test/${friend.name}`, () => false],
    [`--ip ${ipv6}`, ({ source }) => source === ipv6],
    [`--ip ${long}`, ({ source }) => source === ipv6],
    [`--verdict allowed --direction ingress --ip ${ipv6}`,
      ({ allowed, direction, source }) => allowed && direction === 'ingress' && source === ipv6],
  ] as [words: string, isWanted: (verdict: VerdictReport) => boolean][]) {
    const wanted = all.filter(isWanted);
    assert.equal(await verdictsOf(context, words), wanted, words);
    const [last] = await linesOf(context, `observe -o json --last 1 ${words}`);
    assert.equal(last === undefined ? [] : [JSON.parse(last)], wanted.slice(-1), words);
  }
});

testNeeding('tun', test, 'what could match nothing is refused', async (context) => {
  for (const [words, expected] of [
    ['--last x', /^culvert: observe: --last NaN: not a count from 1 on\n$/],
    ['--last 0', /--last 0: not a count from 1 on/],
    ['--from-pod web', /--from-pod web: not namespace\/name/],
    ['--ip somewhere', /--ip somewhere: not an IP address/],
    ['--verdict maybe', /Allowed choices are allowed, denied/],
  ] as [words: string, expected: RegExp][]) {
    const { code, stdout, stderr } = await culvert(wordsOf(context, `observe ${words}`));
    assert.equal([code, stdout], [2, ''], words);
    assert.match(stderr, expected);
  }
});

/** A command that runs until the test has seen enough of it. */
async function following(
  context: Context, words: string, work: (command: Command, output: () => string) => Promise<void>,
): Promise<Outcome> {
  const all = wordsOf(context, `observe -f ${words}`.trim());
  const command = new Command([process.execPath, CLI, ...all]);
  let output = '';
  command.child.stdout?.on('data', (chunk: Buffer) => { output += chunk.toString(); });
  try {
    await work(command, () => output);
    return await command.ended;
  } finally {
    await command.end();
  }
}

testNeeding('tun', test, '-f shows what is judged from now on until Ctrl-C', async (context) => {
  const { friend, stranger } = context;
  await call(context, stranger, 'IPv4');
  const from = `--from-pod test/${friend.name}`;
  const outcome = await following(context, `-o json ${from}`, async ({ child }, output) => {
    await until('a verdict', async () => {
      await call(context, friend, 'IPv4');
      return output().includes('\n');
    });
    child.kill('SIGINT');
  });
  assert.equal([outcome.code, outcome.stderr], [0, '']);
  const verdicts = outcome.stdout.trimEnd().split('\n')
    .map((line) => v.parse(VerdictReportSchema, JSON.parse(line)));
  assert.ok(verdicts.every(({ sourcePod }) => sourcePod === `test/${friend.name}`));
});

testNeeding('tun', test, '-f ends in peace when its reader leaves', async (context) => {
  const { code, stderr } = await following(context, '', async ({ child }) => {
    child.stdout?.destroy();
    await until('the end', async () => {
      await call(context, context.friend, 'IPv4');
      return child.exitCode !== null;
    });
  });
  assert.equal([code, stderr], [0, '']);
});

testNeeding('tun', test, 'verdicts that come too fast are counted', async (context) => {
  const { server, stranger } = context;
  const [address = ''] = server.addresses;
  const targets = Array.from({ length: 8 }, (_, at) => ({ address, port: 7000 + at }));
  const sender = await DatagramSender.start(stranger.host, targets);
  try {
    const { code, stderr } = await following(context, '', async (command) => {
      await command.untilSaid('verdicts came too fast and were lost\n');
      command.child.kill('SIGINT');
    });
    assert.is(code, 0);
    assert.match(stderr, /^(culvert: [1-9]\d* verdicts came too fast and were lost\n)+$/);
  } finally {
    await sender.close();
  }
});

testNeeding('tun', test, 'status and endpoint list say what is closed', async (context) => {
  const [json = ''] = await linesOf(context, 'status -o json');
  const { policy, drops } = v.parse(StatusReportSchema, JSON.parse(json));
  assert.equal(policy, { known: true, endpoints: 4, ruleSets: 1 });
  assert.ok((drops.outbound['policyIngress'] ?? 0) > 0);
  const status = (await linesOf(context, 'status')).join('\n');
  assert.match(status, /^Policy: +Ok +known for 4 pods, 1 rule sets$/m);
  const [list = ''] = await linesOf(context, 'endpoint list -o json');
  const endpoints = v.parse(v.array(EndpointReportSchema), JSON.parse(list));
  assert.equal(endpoints.map(({ name, state }) => `${name} ${state}`), [
    'pod-1-10 ready', 'pod-1-11 ready', 'pod-1-12 ready', 'pod-1-99 closed',
  ]);
  const table = await linesOf(context, 'endpoint list');
  assert.ok(table.some((line) => /^test +pod-1-99 .* closed +0 B +0 B$/.test(line)));
  assert.match(context.one.daemon.log(), /"name":"pod-1-99".*pod is closed/);
});

testNeeding('tun', test, 'policy list says what the daemon enforces', async (context) => {
  const [json = ''] = await linesOf(context, 'policy list -o json');
  const policies: unknown = JSON.parse(json);
  assert.equal(policies, [
    { policy: 'NetworkPolicy test/friends', rules: ['ingress[0]', 'isolates ingress'] },
  ]);
  const [header = ''] = await linesOf(context, 'policy list');
  assert.match(header, /^POLICY +RULES HERE$/);
});

testNeeding('tun', test, '-f ends with the daemon, and says so', async (context) => {
  const { code, stderr } = await following(context, '', async ({ child }, output) => {
    await until('a verdict', async () => {
      await call(context, context.friend, 'IPv4');
      return output() !== '';
    });
    context.one.daemon.process.stdin?.end();
    await until('the end', () => child.exitCode !== null);
  });
  assert.is(code, 69);
  assert.match(stderr, /^culvert: connect .*control\.sock: /);
});

test.run();

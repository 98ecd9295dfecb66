// Services on the command line, offline: what `policy explain` makes of a flow to one.

import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { ROOT } from '../support/source.ts';

const CLI = join(ROOT, 'dist', 'cli', 'main.js');
const CLUSTER = join(ROOT, 'deploy', 'demo', 'cluster.yaml');

interface Explanation {
  service: string;
  to: string;
  backends: { to: string; port: number; verdict: string; policy: string | null }[];
}

function explain(...words: string[]): { code: number | null; stdout: string; stderr: string } {
  const { status, stdout, stderr } = spawnSync(process.execPath, [
    CLI, 'policy', 'explain', '--objects', CLUSTER, ...words,
  ], { encoding: 'utf8' });
  return { code: status, stdout, stderr };
}

test('a flow to a Service is explained for each backend', () => {
  for (const [to, family] of [['service:demo/front', 'IPv6'], ['fd00:10:96::50', 'IPv6']]) {
    const { code, stdout, stderr } = explain('--from', 'demo/legacy', '--to', to ?? '',
      '--port', '80/TCP', '--family', family ?? '', '-o', 'json');
    assert.is(code, 0, stderr);
    const explanation = JSON.parse(stdout) as Explanation;
    assert.is(explanation.service, 'demo/front');
    assert.is(explanation.to, 'fd00:10:96::50');
    assert.equal(explanation.backends.map(({ to: backend, port, verdict, policy }) =>
      [backend, port, verdict, policy]), [
      ['fd00:10:244:1::a', 8080, 'deny', 'NetworkPolicy demo/web-from-api'],
      ['fd00:10:244:2::a', 8080, 'deny', 'NetworkPolicy demo/legacy-egress'],
    ]);
  }
});

test('on a terminal the Service comes first, and a port that it lacks has no backends', () => {
  const api = explain('--from', 'demo/api', '--to', 'service:demo/front', '--port', '80/TCP');
  assert.match(api.stdout,
    /^Service demo\/front, 10\.96\.0\.80 80\/TCP: 2 backends for new connections\n\nallow: /);
  const other = explain('--from', 'demo/api', '--to', 'service:demo/front', '--port', '81/TCP');
  assert.is(other.stdout,
    'Service demo/front, 10.96.0.80 81/TCP: no backends for new connections\n');
  const none = explain('--from', 'demo/api', '--to', 'service:demo/nothing', '--port', '80/TCP');
  assert.is(none.code, 2);
  assert.match(none.stderr, /service:demo\/nothing is not namespace\/pod/);
});

test('policy test has flows to a Service judged as flows to its backends', () => {
  const folder = mkdtempSync(join(tmpdir(), `culvert-service-${process.pid}-`));
  try {
    const flows = join(folder, 'flows.json');
    const flow = (id: string, pod: string, ip: string, port: number): object =>
      ({ id, src: { pod }, dst: { ip }, protocol: 'TCP', port });
    writeFileSync(flows, JSON.stringify({ flows: [
      flow('api', 'demo/api', '10.96.0.80', 80), flow('legacy', 'demo/legacy', '10.96.0.80', 80),
      flow('six', 'demo/legacy', 'FD00:10:96::0:50', 80),
      flow('port', 'demo/api', '10.96.0.80', 81),
      flow('other', 'demo/api', '10.96.0.81', 80),
    ] }));
    const { status, stdout, stderr } = spawnSync(process.execPath, [
      CLI, 'policy', 'test', '--objects', CLUSTER, '--flows', flows, '-o', 'json',
    ], { encoding: 'utf8' });
    assert.is(status, 0, stderr);
    const { results } = JSON.parse(stdout) as { results: { id: string; verdict: string;
      policy: string | null; }[]; };
    assert.equal(results.map(({ id, verdict, policy }) => [id, verdict, policy]), [
      ['api', 'allow', 'NetworkPolicy demo/web-from-api'],
      ['legacy', 'deny', 'NetworkPolicy demo/web-from-api'],
      ['six', 'deny', 'NetworkPolicy demo/web-from-api'],
      ['port', 'deny', null],
      ['other', 'allow', null],
    ]);
    writeFileSync(flows, JSON.stringify({ flows: [
      flow('api', 'demo/api', '10.96.0.80', 80), flow('nobody', 'demo/nobody', '10.96.0.80', 80),
    ] }));
    const wrong = spawnSync(process.execPath, [
      CLI, 'policy', 'test', '--objects', CLUSTER, '--flows', flows,
    ], { encoding: 'utf8' });
    assert.is(wrong.status, 2);
    assert.match(wrong.stderr, /flows\.json:1: flows\[1\]\.src\.pod: there is no pod demo\/nobody/);
  } finally {
    rmSync(folder, { recursive: true });
  }
});

test.run();

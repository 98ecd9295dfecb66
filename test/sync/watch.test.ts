// The file source, on real files in a temporary folder: what it reports, and what it keeps to
// itself.

import {
  mkdirSync, mkdtempSync, renameSync, rmSync, symlinkSync, unlinkSync, writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { watchFiles } from '../../sync/watch.ts';

const root = mkdtempSync(join(tmpdir(), `culvert-watch-${process.pid}-`));
const NEVER_MS = 3_600_000;
let folders = 0;
let stops: (() => Promise<void>)[] = [];

test.after.each(async () => {
  const running = stops;
  stops = [];
  for (const stop of running) await stop();
});
test.after(() => rmSync(root, { recursive: true }));

/** Everything a source has told, in order, as text; `next` waits for the one after the last. */
interface Told {
  all: string[];
  next(): Promise<string>;
}

function follow(path: string, rescanMs = NEVER_MS): Told {
  const stop = new AbortController();
  const all: string[] = [];
  let seen = 0;
  let wake = (): void => {};
  const tell = (text: string): void => { all.push(text); wake(); };
  const done = watchFiles({ path, debounceMs: 10, rescanMs }, {
    state: (entries) => tell(entries.map(({ kind, key }) => `${kind} ${key}`).join(', ')),
    problem: (problems) => tell(`problem: ${problems.join('; ').replaceAll(path, 'PATH')}`),
  }, stop.signal);
  stops.push(async () => { stop.abort(); await done; });
  const next = async (): Promise<string> => {
    while (all.length <= seen) await new Promise<void>((resolve) => { wake = resolve; });
    seen += 1;
    return all[seen - 1] ?? '';
  };
  return { all, next };
}

function folder(): string {
  folders += 1;
  const path = join(root, `${folders}`);
  mkdirSync(path);
  return path;
}

function node(name: string): string {
  return `{apiVersion: v1, kind: Node, metadata: {name: ${name}}}\n`;
}

test('reads a file, and again whenever it changes', async () => {
  const path = join(folder(), 'cluster.yaml');
  writeFileSync(path, node('a'));
  const told = follow(path);
  assert.is(await told.next(), 'Node a');
  writeFileSync(path, `${node('a')}---\n${node('b')}`);
  assert.is(await told.next(), 'Node a, Node b');
  writeFileSync(`${path}.new`, node('c'));
  renameSync(`${path}.new`, path);
  assert.is(await told.next(), 'Node c');
});

test('reads the YAML and JSON files of a folder, sorted, and no others', async () => {
  const path = folder();
  writeFileSync(join(path, 'b.yml'), node('b'));
  writeFileSync(join(path, 'a.json'), JSON.stringify({
    apiVersion: 'v1', kind: 'Node', metadata: { name: 'a' },
  }));
  writeFileSync(join(path, 'c.yaml~'), 'not: [read');
  writeFileSync(join(path, '.hidden.yaml'), 'not: [read');
  const told = follow(path);
  assert.is(await told.next(), 'Node a, Node b');
  writeFileSync(join(path, 'c.yaml'), node('c'));
  assert.is(await told.next(), 'Node a, Node b, Node c');
  unlinkSync(join(path, 'a.json'));
  assert.is(await told.next(), 'Node b, Node c');
});

test('tells of a bad file by line and field, once, and goes on when it is mended', async () => {
  const path = folder();
  writeFileSync(join(path, 'a.yaml'), node('a'));
  writeFileSync(join(path, 'b.yaml'), node('b'));
  const told = follow(path, 5);
  assert.is(await told.next(), 'Node a, Node b');
  const bad = ['---', 'apiVersion: v1', 'kind: Node', 'metadata: {name: b}', 'spec:',
    '  podCIDR: 10.0.0.0/40', ''];
  writeFileSync(join(path, 'b.yaml'), bad.join('\n'));
  assert.is(
    await told.next(),
    'problem: PATH/b.yaml:6: Node b: spec.podCIDR: not a prefix in CIDR form',
  );
  writeFileSync(join(path, 'b.yaml'), node('b'));
  assert.is(await told.next(), 'Node a, Node b');
  assert.is(told.all.length, 3);
});

test('says nothing when nothing changed', async () => {
  const path = folder();
  writeFileSync(join(path, 'a.yaml'), node('a'));
  const told = follow(path, 1);
  assert.is(await told.next(), 'Node a');
  writeFileSync(join(path, 'a.yaml'), node('a'));
  writeFileSync(join(path, 'other.txt'), 'x');
  await new Promise((resolve) => setTimeout(resolve, 50));
  writeFileSync(join(path, 'a.yaml'), node('b'));
  assert.is(await told.next(), 'Node b');
  assert.is(told.all.length, 2);
});

test('finds a path that comes late, goes away and comes back', async () => {
  const parent = folder();
  const path = join(parent, 'objects');
  const told = follow(path, 5);
  assert.is(await told.next(), 'problem: read PATH: ENOENT');
  mkdirSync(path);
  assert.match(await told.next(), /^problem: PATH: no \.yaml/);
  writeFileSync(join(path, 'a.yaml'), node('a'));
  assert.is(await told.next(), 'Node a');
  renameSync(path, `${path}.old`);
  assert.is(await told.next(), 'problem: read PATH: ENOENT');
  renameSync(`${path}.old`, path);
  assert.is(await told.next(), 'Node a');
});

test('follows the links of a mounted ConfigMap', async () => {
  const path = folder();
  const version = (name: string): void => {
    mkdirSync(join(path, `..${name}`));
    writeFileSync(join(path, `..${name}`, 'a.yaml'), node(name));
    symlinkSync(`..${name}`, join(path, '..data_tmp'));
    renameSync(join(path, '..data_tmp'), join(path, '..data'));
  };
  version('first');
  symlinkSync('..data/a.yaml', join(path, 'a.yaml'));
  const told = follow(path);
  assert.is(await told.next(), 'Node first');
  version('second');
  assert.is(await told.next(), 'Node second');
});

test('refuses what is not a file', async () => {
  const path = folder();
  mkdirSync(join(path, 'a.yaml'));
  assert.is(await follow(path).next(), 'problem: read PATH/a.yaml: not a file');
});

test('lists few of many problems', async () => {
  const path = join(folder(), 'a.yaml');
  writeFileSync(path, 'x\n---\n'.repeat(30));
  assert.match(await follow(path).next(), /; and 20 more$/);
});

test('stops at once, and before it has begun', async () => {
  const path = folder();
  writeFileSync(join(path, 'a.yaml'), node('a'));
  const told = follow(path);
  await told.next();
  const [stop] = stops.splice(0);
  await stop?.();
  await watchFiles({ path }, {
    state: () => assert.unreachable(), problem: () => assert.unreachable(),
  }, AbortSignal.abort());
});

test.run();

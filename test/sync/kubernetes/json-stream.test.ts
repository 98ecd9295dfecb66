// Bytes to objects: however a body is cut, the objects are the same; whatever the bytes are, the
// answer is an object that JSON.parse would give too, or an error.

import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { JsonError, JsonStream } from '../../../sync/kubernetes/json-stream.ts';
import type { Shape } from '../../../sync/kubernetes/json-stream.ts';
import { bodyOf, isWatch, readRecording } from '../../support/api-server/recording.ts';
import { Random } from '../../support/random.ts';

const test = suite('json stream');

interface Decoded {
  objects: object[];
  envelope: object | null;
}

function* pieces(bytes: Buffer, size: () => number): Generator<Buffer> {
  for (let at = 0; at < bytes.length;) {
    const length = size();
    yield bytes.subarray(at, at + length);
    at += length;
  }
}

function decode(bytes: Buffer, shape: Shape, size = (): number => bytes.length): Decoded {
  const objects: object[] = [];
  const stream = new JsonStream({ shape, onObject: (object) => objects.push(object) });
  for (const piece of pieces(bytes, size)) stream.push(piece);
  return { objects, envelope: stream.end() };
}

/** The value without the one list that is cut out. */
function withoutManagedFields(value: unknown): unknown {
  return JSON.parse(JSON.stringify(value, (key, field: unknown) =>
    (key === 'managedFields' ? [] : field)));
}

function refuses(text: string, shape: Shape, reason: RegExp): void {
  const bytes = Buffer.from(text);
  for (const size of [bytes.length, 1]) {
    assert.throws(() => decode(bytes, shape, () => size),
      (error: unknown) => error instanceof JsonError && reason.test(error.message), text);
  }
}

test('objects of a stream, whatever stands between them', () => {
  const text = ' {"a":[1,{"b":"}]{["}]}\n\n{}\r\n{"c":"\\"}\\\\"}\t{"d":"ü 監視 🛰"}';
  const wanted = [{ a: [1, { b: '}]{[' }] }, {}, { c: '"}\\' }, { d: 'ü 監視 🛰' }];
  for (const size of [1, 2, 3, 5, 100]) {
    assert.equal(decode(Buffer.from(text), 'objects', () => size).objects, wanted);
  }
  assert.equal(decode(Buffer.from(''), 'objects'), { objects: [], envelope: null });
});

test('items of a list, wherever they stand in it', () => {
  const items = [{ a: 1, items: [{ b: 2 }] }, {}, { c: '],"items":[{}]' }];
  const list = { kind: 'L', metadata: { resourceVersion: '5', items: [{ x: 1 }] }, items };
  const turned = { items, 'x"items': [{ y: 1 }], 'kind': 'L', 'metadata': { continue: '' } };
  for (const value of [list, turned]) {
    for (const text of [JSON.stringify(value), JSON.stringify(value, null, 2)]) {
      for (const size of [1, 7, 10_000]) {
        const { objects, envelope } = decode(Buffer.from(text), 'list', () => size);
        assert.equal(objects, items);
        assert.equal(envelope, { ...value, items: [] });
      }
    }
  }
  assert.equal(decode(Buffer.from('{"items":[]}\n'), 'list'),
    { objects: [], envelope: { items: [] } });
  assert.equal(decode(Buffer.from('{"items":null}'), 'list').envelope, { items: null });
});

test('what is cut, and what is no stream of objects, is an error', () => {
  refuses('{"a":1', 'objects', /cut/);
  refuses('{"a":"', 'objects', /cut/);
  refuses('{"items":[{"a":1},', 'list', /cut/);
  refuses('', 'list', /cut/);
  refuses('{"items":[{"a":1}]', 'list', /cut/);
  refuses('{} 5', 'objects', /"5" is not expected/);
  refuses('{},{}', 'objects', /"," is not expected/);
  refuses('"a"', 'objects', /is not expected/);
  refuses('[{}]', 'objects', /"\[" is not expected/);
  refuses('{}}', 'objects', /"}" is not expected/);
  refuses('{"items":[1]}', 'list', /"1" is not expected/);
  refuses('{"items":[[]]}', 'list', /"\[" is not expected/);
  refuses('{"items":[]}{}', 'list', /"{" is not expected/);
  refuses('{"items":[}', 'list', /cut|not JSON/);
  refuses('{"a":1]', 'objects', /not JSON/);
  refuses('{a:1}', 'objects', /not JSON/);
  refuses('404 page not found', 'list', /"4" is not expected/);
  refuses('<html></html>', 'objects', /"<" is not expected/);
});

test('an object has a limit, a stream has none', () => {
  const stream = new JsonStream({ shape: 'objects', onObject: () => {}, sizeLimit: 1000 });
  for (let i = 0; i < 100; i += 1) stream.push(Buffer.from(`{"a":"${'x'.repeat(900)}"}`));
  assert.is(stream.end(), null);
  assert.throws(() => {
    for (let i = 0; i < 100; i += 1) stream.push(Buffer.from(i === 0 ? '{"a":"' : 'x'.repeat(50)));
  }, /longer than 1000 bytes/);
  const list = new JsonStream({ shape: 'list', onObject: () => {}, sizeLimit: 1000 });
  assert.throws(() => {
    list.push(Buffer.from('{"items":[],"metadata":"'));
    for (let i = 0; i < 100; i += 1) list.push(Buffer.from('x'.repeat(50)));
  }, /longer than 1000 bytes/);
});

test('managedFields go, and only they', () => {
  const managed = [{ manager: 'a', fieldsV1: { 'k:{"x":"]}"}': { '.': {} } } }];
  const object = {
    metadata: {
      annotations: { last: '{"metadata":{"managedFields":[{"a":1}]}}' }, managedFields: managed,
      labels: { managedFields: 'x' },
    },
    spec: { a: [1] },
  };
  for (const size of [1, 1000]) {
    const { objects: [read] } = decode(Buffer.from(JSON.stringify(object)), 'objects', () => size);
    assert.equal(read, { ...object, metadata: { ...object.metadata, managedFields: [] } });
  }
  const late = { metadata: { annotations: { last: '"managedFields":[' }, managedFields: managed } };
  const { objects } = decode(Buffer.from(JSON.stringify(late)), 'objects');
  assert.equal(withoutManagedFields(objects[0]), withoutManagedFields(late));
});

const RECORDINGS = ['01-paged-list.v1.36.2', '02a-watch-namespaces.v1.36.2',
  '02b-watch-pods.v1.20.2', '03-watchlist.v1.36.2', '10-real-cluster.v1.36.2'];

for (const name of RECORDINGS) {
  test(`${name}: the same objects however the bytes are cut`, () => {
    const random = new Random(7);
    let count = 0;
    for (const exchange of readRecording(name).exchanges) {
      const { response } = exchange;
      if (response?.status !== 200 || response.headers['content-encoding'] !== undefined) continue;
      const body = bodyOf(exchange);
      const shape = isWatch(exchange) ? 'objects' : 'list';
      const text = body.toString();
      const wanted = shape === 'objects'
        ? text.split('\n').filter((line) => line !== '').map((line) => JSON.parse(line) as unknown)
        : (JSON.parse(text) as { items?: unknown[] }).items ?? [];
      for (const size of [() => 1, () => 1 + random.below(300), () => body.length]) {
        const { objects } = decode(body, shape, size);
        assert.equal(objects.map(withoutManagedFields), wanted.map(withoutManagedFields));
      }
      count += wanted.length;
    }
    assert.ok(count > 20, `${count} objects`);
  });
}

test('damaged bytes never give an object that JSON would not', () => {
  const random = new Random(42);
  const seedText = '{"type":"ADDED","object":{"metadata":{"name":"a",'
    + '"managedFields":[{"k":["]"]}]},"x":[{"y":"\\\\\\"z\\u00fc"}]}}\n';
  const seed = Buffer.from(seedText.repeat(2));
  let objects = 0;
  for (let round = 0; round < 20_000; round += 1) {
    const bytes = Buffer.from(seed);
    for (let i = random.below(4); i >= 0; i -= 1) {
      bytes[random.below(bytes.length)] = random.oneIn(2) ? random.below(256)
        : random.pick([...Buffer.from('{}[]",:\\ \n')]);
    }
    const cut = bytes.subarray(0, random.oneIn(3) ? random.below(bytes.length) : bytes.length);
    const whole = outcome(cut, () => cut.length);
    assert.equal(outcome(cut, () => 1 + random.below(9)), whole);
    objects += whole.objects.length;
    const isJson = cut.toString().split('\n').every((line) => line.trim() === '' || parses(line));
    if (isJson) assert.is(whole.error, '');
  }
  assert.ok(objects > 5000, `${objects} objects`);
});

function outcome(bytes: Buffer, size: () => number): { objects: object[]; error: string } {
  const objects: object[] = [];
  const stream = new JsonStream({ shape: 'objects', onObject: (object) => objects.push(object) });
  try {
    for (const piece of pieces(bytes, size)) stream.push(piece);
    stream.end();
    return { objects, error: '' };
  } catch (error) {
    if (!(error instanceof JsonError)) throw error;
    return { objects, error: error.message };
  }
}

function parses(line: string): boolean {
  try {
    const value: unknown = JSON.parse(line);
    return typeof value === 'object' && value !== null && !Array.isArray(value);
  } catch {
    return false;
  }
}

test.run();

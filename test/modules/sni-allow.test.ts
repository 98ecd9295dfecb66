// The example sni-allow: hosts by the name in the ClientHello, whole, in pieces, with GREASE,
// without a name, and what is no TLS.

import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { VERDICTS, type ModuleInstance, type ModuleVerdict } from '../../modules/runtime.ts';
import { clientHello, ENCRYPTED_CLIENT_HELLO, filler,
  realClientHello } from '../support/client-hello.ts';
import { configured, exampleImage } from '../support/examples.ts';
import { Random } from '../support/random.ts';

const CONFIG = `
# hosts
allow www.example.com
allow *.example.org
port 8443
`;
const image = await exampleImage('sni-allow');

function flow(srcPort = 40000, dstPort = 443): number[] {
  return [0, 1, 6, 2, srcPort, dstPort, 7, 9, 0x0a000001, 0, 0, 0, 0xc0000201, 0, 0, 0];
}

/** The verdict on a connection whose first bytes come in these pieces. */
function judge(module: ModuleInstance, pieces: Uint8Array[], srcPort = 40000)
  : ModuleVerdict | undefined {
  let offset = 0;
  let verdict = VERDICTS[module.evaluate(...flow(srcPort))];
  for (const piece of pieces) {
    if (verdict !== 'more') return verdict;
    verdict = VERDICTS[module.inspect(flow(srcPort), offset, piece)];
    offset += piece.length;
  }
  return verdict;
}

/** Bytes in pieces that end at these places. */
function cut(bytes: Uint8Array, ...ends: number[]): Uint8Array[] {
  const edges = [0, ...ends, bytes.length];
  return edges.slice(1).map((end, at) => bytes.subarray(edges[at], end));
}

test('it describes itself as its module.json says, and judges payload', () => {
  assert.equal([image.name, image.version, image.stateful, image.hasPayload, image.path],
    ['sni-allow', '0.1.0', false, true, 'direct']);
});

test('only connections that pods open to the ports are looked at', () => {
  const module = configured(image, CONFIG);
  const verdict = (words: number[]): ModuleVerdict | undefined =>
    VERDICTS[module.evaluate(...words)];
  assert.is(verdict(flow()), 'more');
  assert.is(verdict(flow(1, 8443)), 'more');
  assert.is(verdict(flow(1, 80)), 'pass');
  assert.is(verdict(flow().with(1, 0)), 'pass', 'ingress');
  assert.is(verdict(flow().with(2, 17)), 'pass', 'UDP');
});

test('names on the list pass, all others are refused', () => {
  const module = configured(image, CONFIG);
  const cases: [string, ModuleVerdict][] = [
    ['www.example.com', 'pass'], ['WWW.Example.COM', 'pass'], ['www.example.com.', 'pass'],
    ['example.com', 'reject'], ['a.www.example.com', 'reject'],
    ['a.example.org', 'pass'], ['a.b.example.org', 'pass'], ['example.org', 'reject'],
    ['badexample.org', 'reject'], ['.example.org', 'reject'], ['a.example.org.evil.test', 'reject'],
    ['a.example.org\0.evil.test', 'reject'], ['a b.example.org', 'reject'],
    ['\u00fc.example.org', 'reject'], ['x'.repeat(244) + '.example.org', 'reject'],
  ];
  for (const [name, expected] of cases) {
    assert.is(judge(module, [clientHello({ name })]), expected, JSON.stringify(name));
  }
});

test('a ClientHello of a real TLS library is read', async () => {
  const module = configured(image, CONFIG);
  assert.is(judge(module, [await realClientHello('www.example.com')]), 'pass');
  assert.is(judge(module, [await realClientHello('evil.test')]), 'reject');
});

test('GREASE and unknown extensions are skipped', () => {
  const module = configured(image, CONFIG);
  for (const name of ['www.example.com', 'evil.test']) {
    const expected = name === 'evil.test' ? 'reject' : 'pass';
    const before = [filler(0x4a4a, 0), filler(21, 700), filler(51, 1216)];
    assert.is(judge(module, [clientHello({ name, grease: true, before })]), expected);
  }
});

test('of an encrypted ClientHello the outer name is judged', () => {
  const module = configured(image, CONFIG);
  const before = [filler(ENCRYPTED_CLIENT_HELLO, 200)];
  assert.is(judge(module, [clientHello({ name: 'provider.test', before })]), 'reject');
  assert.is(judge(module, [clientHello({ name: 'a.example.org', before })]), 'pass');
});

test('a ClientHello is put together from packets, wherever they end', () => {
  const module = configured(image, CONFIG);
  for (const [name, expected] of [['a.example.org', 'pass'], ['evil.test', 'reject']] as const) {
    const bytes = clientHello({ name, grease: true });
    for (let end = 1; end < bytes.length; end += 1) {
      assert.is(judge(module, cut(bytes, end)), expected, `${name} cut at ${end}`);
    }
    const steps = Array.from({ length: 7 }, (_, at) => (at + 1) * 20);
    assert.is(judge(module, cut(bytes, ...steps)), expected);
  }
});

test('a ClientHello is put together from records', () => {
  const module = configured(image, CONFIG);
  for (const recordSize of [1, 3, 4, 5, 50, 100]) {
    for (const [name, expected] of [['a.example.org', 'pass'], ['evil.test', 'reject']] as const) {
      const bytes = clientHello({ name, recordSize });
      assert.is(judge(module, [bytes]), expected, `records of ${recordSize}`);
      assert.is(judge(module, cut(bytes, 7, 90)), expected, `records of ${recordSize}, cut`);
    }
  }
});

test('pieces of two connections are not mixed up', () => {
  const module = configured(image, CONFIG);
  const [good, bad] = ['a.example.org', 'evil.test'].map((name) => cut(clientHello({ name }), 90));
  const inspect = (port: number, offset: number, piece?: Uint8Array): ModuleVerdict | undefined =>
    VERDICTS[module.inspect(flow(port), offset, piece ?? new Uint8Array())];
  assert.is(inspect(1, 0, good?.[0]), 'more');
  assert.is(inspect(2, 0, bad?.[0]), 'more');
  assert.is(inspect(2, 90, bad?.[1]), 'reject');
  assert.is(inspect(1, 90, good?.[1]), 'pass');
  assert.is(inspect(1, 90, good?.[1]), 'more', 'nothing is kept once it is judged');
});

test('pieces may come in any order, and twice; in one place they must say the same', () => {
  const bytes = clientHello({ name: 'a.example.org', grease: true });
  const pieces = [[0, 60], [60, 100], [100, 130], [50, 110], [130, bytes.length]] as const;
  const random = new Random(5);
  for (let round = 0; round < 200; round += 1) {
    const module = configured(image, CONFIG);
    const left = [...pieces, ...pieces.slice(0, 3)];
    const seen = new Uint8Array(bytes.length);
    while (left.length > 0) {
      const [[start, end] = [0, 0]] = left.splice(random.below(left.length), 1);
      seen.fill(1, start, end);
      const whole = seen.every((byte) => byte === 1);
      const verdict = VERDICTS[module.inspect(flow(), start, bytes.subarray(start, end))];
      assert.is(verdict, whole ? 'pass' : 'more');
      if (whole) break;
    }
  }
  const module = configured(image, CONFIG);
  const other = clientHello({ name: 'b.example.org', grease: true });
  assert.is(VERDICTS[module.inspect(flow(), 0, bytes.subarray(0, 125))], 'more');
  assert.is(VERDICTS[module.inspect(flow(), 20, other.subarray(20))], 'reject');
  assert.is(VERDICTS[module.inspect(flow(), 0x80000000, bytes)], 'reject');
});

test('the oldest of too many unfinished ones gives way', () => {
  const module = configured(image, CONFIG);
  const [first, second] = cut(clientHello({ name: 'a.example.org' }), 90);
  for (let port = 1; port <= 257; port += 1) {
    assert.is(VERDICTS[module.inspect(flow(port), 0, first ?? new Uint8Array())], 'more');
  }
  const finish = (port: number): ModuleVerdict | undefined =>
    VERDICTS[module.inspect(flow(port), 90, second ?? new Uint8Array())];
  assert.equal([finish(2), finish(257), finish(1)], ['pass', 'pass', 'more']);
});

test('a client that names no host is refused, unless it may', () => {
  const bare = [clientHello({ name: null }), clientHello({ bare: true })];
  for (const [more, expected] of [['', 'reject'], ['nameless pass', 'pass']] as const) {
    const module = configured(image, `${CONFIG}${more}\n`);
    for (const bytes of bare) assert.is(judge(module, [bytes]), expected);
    assert.is(judge(module, [clientHello({ name: 'evil.test' })]), 'reject');
  }
});

test('what is no TLS is refused', () => {
  const module = configured(image, `${CONFIG}nameless pass\n`);
  const texts = ['GET / HTTP/1.1\r\n\r\n', 'SSH-2.0-OpenSSH_9.2\r\n', '\x16', '\x16\x03'];
  for (const text of texts) {
    const verdict = judge(module, [new TextEncoder().encode(text)]);
    assert.is(verdict, text.startsWith('\x16') ? 'more' : 'reject', JSON.stringify(text));
  }
  const hello = clientHello();
  for (const [at, value] of [[0, 23], [1, 2], [5, 2], [6, 1], [3, 0xff]] as const) {
    assert.is(judge(module, [hello.with(at, value)]), 'reject', `byte ${at}`);
  }
});

test('damaged ClientHellos get an answer each, and none makes it trap', () => {
  const module = configured(image, CONFIG);
  const random = new Random(7);
  const whole = clientHello({ name: 'a.example.org', grease: true });
  for (let round = 0; round < 20_000; round += 1) {
    const bytes = Uint8Array.from(whole.subarray(0, random.between(0, whole.length)));
    for (let left = random.below(4); left > 0 && bytes.length > 0; left -= 1) {
      bytes[random.below(bytes.length)] = random.below(256);
    }
    const verdict = judge(module, [bytes], round & 0xffff);
    assert.ok(['pass', 'reject', 'more'].includes(verdict ?? ''), `round ${round}`);
  }
  assert.ok(module.memoryBytes() < 4 * 1024 * 1024, `${module.memoryBytes()} bytes`);
});

test('a configuration that makes no sense is refused with the line', () => {
  for (const line of ['allow', 'allow ', 'permit a.b', 'port 0', 'port x', 'port 70000', 'allow *.',
    'nameless deny', 'allow a b']) {
    assert.throws(() => configured(image, `allow a.test\n${line}\n`), /is no rule/, line);
  }
});

test.run();

// Services in tables: limits with a name, changes that undo themselves, fronts that two want, and
// how long a change takes where there are many.

import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { DIRECTORY_SERVICE_EPOCH } from '../../wasm/abi/layout.ts';
import { fateOf, TCP, tcpPacket } from '../support/policy-core.ts';
import { Random } from '../support/random.ts';
import { innerOf, read, service, ServiceBed } from '../support/service-core.ts';

const PODS = { a: ['10.1.0.2', 'fd00:1::2'] };
const MANY = 10_000;
const WIDTH = 5;

function reach(bed: ServiceBed, destination: string, sourcePort = 1024): string {
  const packet = tcpPacket({ source: '10.1.0.2', destination, sourcePort }, TCP.syn);
  const verdict = bed.send('a', packet);
  if (verdict.reason !== 0) return fateOf(verdict);
  const to = read(innerOf(verdict)).destination;
  return to === destination ? 'outside' : to;
}

function remove(bed: ServiceBed, name: string): void {
  bed.services.apply({ services: [], removedServices: [{ namespace: 'test', name }] });
}

test('a full table is told by name, and nothing has changed', () => {
  const bed = new ServiceBed(PODS, { services: { fronts: 2, backends: 4 } });
  bed.serve(service(['10.96.0.1'], ['10.1.1.1', '10.1.1.2'], { name: 'first' }));
  const refuses = (problem: RegExp, ...args: Parameters<typeof service>): void => {
    const before = [bed.services.tables(), bed.forwarding.routes().length];
    bed.serve(service(...args));
    assert.match(bed.services.problems().join('; '), problem);
    assert.equal([bed.services.tables(), bed.forwarding.routes().length], before);
  };
  refuses(/service test\/second: .* to fronts: the table is full \(2 entries\)/,
    ['10.96.0.2', '10.96.0.3'], [], { name: 'second' });
  refuses(/service test\/second: .* to backends: the table is full \(4 entries\)/,
    ['10.96.0.2'], ['10.1.1.3', '10.1.1.4', '10.1.1.5'], { name: 'second' });
  assert.is(reach(bed, '10.96.0.2'), 'outside');
  assert.ok(['10.1.1.1', '10.1.1.2'].includes(reach(bed, '10.96.0.1')));
  bed.serve(service(['10.96.0.1'], ['10.1.1.1'], { name: 'first' }));
  assert.equal(bed.services.problems(), [], 'tried again once there is room');
  assert.ok(['10.1.1.3', '10.1.1.4', '10.1.1.5'].includes(reach(bed, '10.96.0.2')));
});

test('a Service that contradicts itself is refused', () => {
  const bed = new ServiceBed(PODS);
  const twice = service(['10.96.0.1'], ['10.1.1.1']);
  bed.serve({ ...twice, ports: [...twice.ports, ...twice.ports] });
  assert.match(bed.services.problems().join(), /service test\/web: .* comes twice/);
  assert.is(reach(bed, '10.96.0.1'), 'outside');
});

test('of two that want a front the first has it until it goes', () => {
  const bed = new ServiceBed(PODS);
  bed.serve(service(['10.96.0.1'], ['10.1.1.1'], { name: 'first' }));
  bed.serve(service(['10.96.0.1'], ['10.1.1.2'], { name: 'second' }));
  assert.is(reach(bed, '10.96.0.1'), '10.1.1.1');
  assert.match(bed.services.problems().join(), /test\/second is kept by service test\/first/);
  remove(bed, 'first');
  assert.equal(bed.services.problems(), []);
  assert.is(reach(bed, '10.96.0.1', 2000), '10.1.1.2');
});

test('ports and addresses come and go; what is gone takes no place', () => {
  const bed = new ServiceBed(PODS);
  const first = service(['10.96.0.1', '10.96.0.2'], ['10.1.1.1']);
  bed.serve(first);
  assert.is(reach(bed, '10.96.0.2'), '10.1.1.1');
  bed.serve({ ...first, addresses: ['10.96.0.1'] });
  assert.is(reach(bed, '10.96.0.2'), 'outside');
  bed.serve({ ...first, ports: [] });
  assert.is(reach(bed, '10.96.0.1', 2000), 'servicePort');
  bed.services.replace([]);
  assert.equal(bed.services.tables().map(({ used }) => used), [0, 0]);
  assert.is(bed.services.bytes, 0);
  assert.is(reach(bed, '10.96.0.1'), 'outside');
});

test('what says nothing new changes nothing', () => {
  const bed = new ServiceBed(PODS);
  const backends = ['10.1.1.1', '10.1.1.2', '10.1.1.3'];
  bed.serve(service(['10.96.0.1'], backends));
  const epoch = bed.core.directory(DIRECTORY_SERVICE_EPOCH);
  bed.serve(service(['10.96.0.1'], backends.reverse()));
  assert.is(bed.core.directory(DIRECTORY_SERVICE_EPOCH), epoch, 'the order says nothing');
});

test('a random history ends as its last state would have begun', () => {
  const random = new Random(77);
  const bed = new ServiceBed(PODS);
  const names = ['one', 'two', 'three', 'four'];
  const last = new Map<string, ReturnType<typeof service>>();
  for (let change = 0; change < 2000; change += 1) {
    const name = random.pick(names);
    if (random.oneIn(5)) {
      remove(bed, name);
      last.delete(name);
      continue;
    }
    const backends = Array.from({ length: random.below(6) }, () =>
      `10.1.1.${random.between(1, 9)}`);
    const own = names.indexOf(name);
    const next = service([`10.96.${own}.1`, `10.96.${own}.2`].slice(random.below(2)),
      [...new Set(backends)], { name });
    bed.serve(next);
    last.set(name, next);
    bed.idle();
  }
  const fresh = new ServiceBed(PODS);
  fresh.serve(...last.values());
  assert.equal(bed.services.tables(), fresh.services.tables());
  assert.is(bed.services.bytes, fresh.services.bytes);
  assert.equal(bed.forwarding.routes().map(({ prefix }) => prefix).sort(),
    fresh.forwarding.routes().map(({ prefix }) => prefix).sort());
  let port = 5000;
  for (const { addresses } of last.values()) {
    for (const address of addresses) {
      port += 1;
      const isThere = (one: ServiceBed): boolean => reach(one, address, port).startsWith('10.1.1.');
      assert.is(isThere(bed), isThere(fresh), address);
    }
  }
});

test(`one of ${MANY} Services changes without the others`, () => {
  const bed = new ServiceBed(PODS, {
    services: { fronts: MANY, backends: (MANY + 1) * WIDTH }, routes: 16_384,
  });
  const make = (index: number, skipped = -1): ReturnType<typeof service> => service(
    [`10.96.${index >>> 8}.${index & 255}`],
    Array.from({ length: WIDTH }, (_, number) => number).filter((one) => one !== skipped)
      .map((number) => {
        const pod = (index * WIDTH) + number;
        return { address: `10.1.${1 + (pod & 1)}.${(pod >>> 1) & 255}`, port: 1024 + (pod >>> 9),
          state: 'ready' as const };
      }),
    { name: `service-${index}` });
  bed.services.replace(Array.from({ length: MANY }, (_, index) => make(index)));
  console.log(`${MANY} Services, ${MANY * WIDTH} backends: ${bed.services.bytes >> 10} KiB`);
  const times: number[] = [];
  for (let change = 0; change < 1000; change += 1) {
    const index = (change * 7919) % MANY;
    const start = process.cpuUsage();
    bed.serve(make(index, change % WIDTH));
    const { user, system } = process.cpuUsage(start);
    times.push(user + system);
    bed.idle();
  }
  times.sort((a, b) => a - b);
  console.log(`a change: p50 ${times[500]} us, p99 ${times[990]} us of processor time`);
  assert.is(bed.services.tables()[1]?.used, (MANY * WIDTH) - 1000);
});

test.run();

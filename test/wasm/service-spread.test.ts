// How flows spread over backends, how few move when a backend comes or goes, and that nothing is
// mixed up while backends change a thousand times a second.

import { test } from 'uvu';
import * as assert from 'uvu/assert';
import * as layout from '../../wasm/abi/layout.ts';
import { REASON_NAMES } from '../../engine/counters.ts';
import type { Service } from '../../engine/model.ts';
import { placePacket, readVerdict } from '../support/core.ts';
import { back, TCP, tcpPacket, udpPacket, type Flow } from '../support/policy-core.ts';
import { Random } from '../support/random.ts';
import { assertSums, innerOf, read, service, ServiceBed } from '../support/service-core.ts';

const PODS = { a: ['10.1.0.2'], b: ['10.1.0.3'] };
const FLOWS = 100_000;
const BACKENDS = 8;
const MS_PER_SECOND = 1000;

const backend = (index: number): string => `10.1.1.${10 + index}`;
const backends = (count: number): string[] =>
  Array.from({ length: count }, (_, index) => backend(index));

/** Runs TCP packets of flows through the core, many in a batch, and says where each went. */
function destinations(bed: ServiceBed, flows: Flow[], flags: number): string[] {
  const found: string[] = [];
  const device = bed.device('a');
  for (let first = 0; first < flows.length; first += 64) {
    const batch = flows.slice(first, first + 64);
    for (const [slot, flow] of batch.entries()) {
      placePacket(bed.core, slot, tcpPacket(flow, flags), device);
    }
    bed.core.exports.processBatch(0, batch.length, bed.nowMs | 0);
    for (const slot of batch.keys()) {
      const verdict = readVerdict(bed.core, slot);
      const isOut = verdict.sent && verdict.reason === 0;
      found.push(isOut ? read(innerOf(verdict)).destination : REASON_NAMES[verdict.reason] ?? '');
    }
  }
  return found;
}

/** Flows of one pod, each with a port or an address of its own of the Service. */
function flowsOf(count: number, fronts: string[]): Flow[] {
  const ports = Math.ceil(count / fronts.length);
  return Array.from({ length: count }, (_, index) => ({
    source: '10.1.0.2', sourcePort: 1024 + (index % ports),
    destination: fronts[Math.floor(index / ports)] ?? '', destinationPort: 80,
  }));
}

function countBy(names: string[]): Map<string, number> {
  const counts = new Map<string, number>();
  for (const name of names) counts.set(name, (counts.get(name) ?? 0) + 1);
  return counts;
}

const BIG = { policy: { flows: 524_288 } };
// More flows than one front has client ports: each front's backends have a port of their own.
const FRONTS = ['10.96.0.10', '10.96.0.11', '10.96.0.12'];

function serveAll(bed: ServiceBed, list: string[]): void {
  bed.serve(...FRONTS.map((front, index): Service => service(
    [front],
    list.map((address) => ({ address, port: 8000 + index, state: 'ready' })),
    { name: `web-${index}` })));
}

test('100,000 flows spread evenly, and few move when a backend comes or goes', () => {
  const bed = new ServiceBed(PODS, BIG);
  const flows = flowsOf(FLOWS, FRONTS);
  serveAll(bed, backends(BACKENDS));
  const before = destinations(bed, flows, TCP.syn);
  const share = FLOWS / BACKENDS;
  const counts = [...countBy(before).values()];
  console.log(`shares of ${share}: ${counts.join(' ')}`);
  assert.is(counts.length, BACKENDS);
  for (const count of counts) assert.ok(Math.abs(count - share) <= share * 0.1, `${count} flows`);

  // What is known stays where it is; what is new goes by the new state.
  serveAll(bed, backends(BACKENDS + 1));
  assert.equal(destinations(bed, flows, TCP.ack), before);
  const fresh = new ServiceBed(PODS, BIG);
  const keys = bed.core.bytes.slice(
    layout.DIRECTORY_START + layout.DIRECTORY_FLOW_KEYS,
    layout.DIRECTORY_START + layout.DIRECTORY_FLOW_KEYS + 48);
  fresh.core.bytes.set(keys, layout.DIRECTORY_START + layout.DIRECTORY_FLOW_KEYS);
  serveAll(fresh, backends(BACKENDS + 1));
  const added = destinations(fresh, flows, TCP.syn);
  const moved = added.filter((to, index) => to !== before[index]);
  console.log(`a ninth backend: ${moved.length} flows move, all to it`);
  assert.ok(moved.every((to) => to === backend(BACKENDS)));
  assert.ok(moved.length <= FLOWS * (1 / 8 + 0.05));

  serveAll(bed, backends(BACKENDS - 1));
  const kept = destinations(bed, flows, TCP.ack);
  const gone = backend(BACKENDS - 1);
  for (const [index, to] of kept.entries()) {
    assert.is(to, before[index] === gone ? 'serviceGone' : before[index]);
  }
  const again = destinations(bed, flows, TCP.syn);
  const changed = again.filter((to, index) => to !== before[index]);
  console.log(`without the eighth: ${changed.length} flows move, all of them its own`);
  assert.is(changed.length, before.filter((to) => to === gone).length);
  assert.ok(changed.length <= FLOWS * (1 / 8 + 0.05));
});

test('a thousand changes a second: nothing to a backend that left, nothing mixed up', () => {
  const bed = new ServiceBed(PODS, { policy: { flows: 16_384 } });
  const random = new Random(1000);
  const fronts = ['10.96.0.10', '10.96.0.11'];
  const there = fronts.map(() => new Set(backends(BACKENDS)));
  const tcp = new Map<string, string>();
  const put = (index: number): void => bed.serve(
    service([fronts[index] ?? ''], [...there[index] ?? []], { name: `web-${index}` }),
    service([fronts[index] ?? ''], [...there[index] ?? []],
      { name: `dns-${index}`, protocol: 'UDP' }));
  fronts.forEach((_, index) => put(index));
  let resets = 0;
  for (let change = 0; change < 4 * MS_PER_SECOND; change += 1) {
    const index = random.below(2);
    const set = there[index] ?? new Set();
    const one = backend(random.below(BACKENDS));
    if (set.has(one) && set.size > 1) set.delete(one);
    else set.add(one);
    put(index);
    bed.nowMs += 1;
    for (let packet = 0; packet < 8; packet += 1) {
      const at = random.below(2);
      const flow = {
        source: '10.1.0.2', sourcePort: random.between(1024, 1224),
        destination: fronts[at] ?? '', destinationPort: 80,
      };
      const name = `${flow.sourcePort} ${flow.destination}`;
      const isUdp = random.oneIn(3);
      const known = tcp.get(name);
      const verdict = bed.send('a', isUdp ? udpPacket(flow)
        : tcpPacket(flow, known === undefined ? TCP.syn : TCP.ack));
      if (REASON_NAMES[verdict.reason] === 'serviceGone') {
        assert.not(there[at]?.has(known ?? ''), 'reset only where the backend has left');
        tcp.delete(name);
        resets += 1;
        continue;
      }
      if (REASON_NAMES[verdict.reason] === 'serviceConflict') continue;
      assert.is(verdict.reason, 0, REASON_NAMES[verdict.reason]);
      const out = read(innerOf(verdict));
      assertSums(out.packet);
      assert.ok(there[at]?.has(out.destination), `${out.destination} has left`);
      if (!isUdp) {
        assert.is(out.destination, known ?? out.destination, 'a known flow stays');
        tcp.set(name, out.destination);
      }
      const answer = back({ ...out, sourcePort: flow.sourcePort, destinationPort: 8080 });
      const reply = bed.back(1, isUdp ? udpPacket(answer) : tcpPacket(answer, TCP.ack));
      assert.is(`${reply.source} ${reply.sourcePort}`, `${flow.destination} 80`);
    }
    bed.idle(4);
    assert.ok(bed.flowCount() <= 16_384);
  }
  console.log(`${resets} resets, ${bed.flowCount()} entries in the flow table`);
  assert.ok(resets > 100);
  bed.nowMs += 8_000_000;
  bed.idle(1024);
  assert.is(bed.flowCount(), 0);
});

test.run();

// Flows that outlive their daemon: a second core takes the first one's file over. What was torn by
// the first one's death lets nothing pass that policy does not.

import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import * as layout from '../../wasm/abi/layout.ts';
import * as abi from '../../wasm/abi/policy.ts';
import { readFlowFill } from '../../engine/counters.ts';
import { keptPages, recoverTurn } from '../../engine/tables/kept.ts';
import { closeFd } from '../../ffi/file.ts';
import { createMemfd, fileSize } from '../../ffi/memfd.ts';
import { keepFlows } from '../../host/kept-flows.ts';
import { Slots } from '../../host/slots.ts';
import {
  ALLOW_ALL, back, DENY_ALL, fateOf, PolicyBed, ruleSet, TCP, tcpPacket, type Flow,
} from '../support/policy-core.ts';
import { Random } from '../support/random.ts';

const test = suite('host/kept-flows');
const PODS = { a: ['10.1.0.2', 'fd00:1::2'], b: ['10.1.0.3', 'fd00:1::3'] };
const SETTINGS = { policy: { flows: 1024 } };
const OPENED = 200;
const ROUNDS = 40;

const flow = (port: number): Flow =>
  ({ source: '10.1.0.2', destination: '10.1.1.9', sourcePort: port });

interface Kept {
  bed: PolicyBed;
  fd: number;
  /** -1 where nothing was. */
  adopted: number;
}

/** A node whose pod a may open connections and take none, with the flows of `held`. */
function makeBed(held: number, allowed = true, workers = 1): Kept {
  const bed = new PolicyBed(PODS, { ...SETTINGS, limits: { workers } });
  const { fd, adopted } = keepFlows(bed.core, held, bed.nowMs);
  bed.isolate('a', { ingress: 1, egress: 2 }, {
    ruleSets: [ruleSet(1, DENY_ALL), ruleSet(2, allowed ? ALLOW_ALL : DENY_ALL)],
  });
  return { bed, fd, adopted: adopted ?? -1 };
}

function handshake(bed: PolicyBed, port: number): void {
  assert.is(fateOf(bed.send('a', tcpPacket(flow(port), TCP.syn))), 'pass');
  assert.is(reply(bed, port), 'pass');
  assert.is(fateOf(bed.send('a', tcpPacket(flow(port), TCP.ack))), 'pass');
}

function reply(bed: PolicyBed, port: number): string {
  return fateOf(bed.receive(1, tcpPacket(back(flow(port)), TCP.ack)));
}

test('replies of connections pass after another core took over', () => {
  const first = makeBed(-1);
  assert.is(first.adopted, -1);
  for (let port = 1000; port < 1000 + OPENED; port += 1) handshake(first.bed, port);
  const second = makeBed(first.fd);
  assert.is(second.fd, first.fd);
  assert.is(second.adopted, OPENED);
  assert.is(readFlowFill(second.bed.core).used, OPENED);
  for (let port = 1000; port < 1000 + OPENED; port += 1) {
    assert.is(reply(second.bed, port), 'pass');
  }
  assert.is(reply(second.bed, 999), 'policyIngress');
  closeFd(second.fd);
});

test('a connection that policy forbids by now is cut', () => {
  const first = makeBed(-1);
  handshake(first.bed, 1000);
  const second = makeBed(first.fd, false);
  assert.is(reply(second.bed, 1000), 'policyEgress');
  closeFd(second.fd);
});

test('what has expired meanwhile is gone', () => {
  const first = makeBed(-1);
  handshake(first.bed, 1000);
  const bed = new PolicyBed(PODS, SETTINGS);
  const nowMs = first.bed.nowMs + abi.FLOW_TIMEOUT_TCP;
  assert.equal(keepFlows(bed.core, first.fd, nowMs), { fd: first.fd, adopted: 0 });
  assert.is(bed.flowCount(), 0);
  closeFd(first.fd);
});

test('entries of mixed halves let nothing pass that is not allowed', () => {
  const random = new Random(7);
  for (let round = 0; round < ROUNDS; round += 1) {
    const first = makeBed(-1);
    for (let port = 1000; port < 1000 + OPENED; port += 1) handshake(first.bed, port);
    const { core } = first.bed;
    const flows = core.directory(layout.DIRECTORY_FLOWS);
    const tags = flows + (SETTINGS.policy.flows * abi.FLOW_SIZE);
    const used = Array.from({ length: SETTINGS.policy.flows }, (_, place) => place)
      .filter((place) => core.bytes[tags + place] !== 0);
    // A copy that stopped somewhere: the first words are one flow's, the rest another's.
    for (let torn = 0; torn < OPENED / 2; torn += 1) {
      const from = flows + ((used[random.below(used.length)] ?? 0) * abi.FLOW_SIZE);
      const to = flows + ((used[random.below(used.length)] ?? 0) * abi.FLOW_SIZE);
      const cut = 8 * random.below(8);
      core.bytes.copyWithin(to, from, from + cut);
      if (random.below(4) === 0) core.bytes[tags + random.below(SETTINGS.policy.flows)] = 0x81;
    }
    const second = makeBed(first.fd);
    assert.ok(second.adopted <= OPENED);
    assert.is(readFlowFill(second.bed.core).used, second.adopted);
    for (let port = 1000; port < 1000 + OPENED; port += 1) reply(second.bed, port);
    for (let port = 3000; port < 3000 + OPENED; port += 1) {
      assert.is(reply(second.bed, port), 'policyIngress');
    }
    closeFd(second.fd);
  }
});

/** Fills slots with packets of pod a, as its device would. */
function readFromPod(bed: PolicyBed, slots: Slots, ports: number[]): void {
  ports.forEach((port, place) => {
    const packet = tcpPacket(flow(port), TCP.syn);
    const slot = slots.first + place;
    bed.core.bytes.set(packet, bed.core.packetAddress(slot));
    slots.fill(slot, bed.device('a'), packet.length);
  });
}

/** What a core makes of the packets that are in a worker's hands: how many it would send. */
function finish(bed: PolicyBed, worker = 0): number {
  const slots = new Slots(bed.core, worker);
  const [first, end] = slots.takeTurn();
  if (first < end) {
    bed.core.exports.processBatch(slots.first + first, end - first, bed.nowMs);
  }
  assert.equal(slots.takeTurn(), [0, 0], 'once and no more');
  return first < end ? slots.sends.count : 0;
}

for (const killed of ['before the core has run', 'after it', 'after some were written'] as const) {
  test(`packets that were in hand are sent by the next daemon: killed ${killed}`, () => {
    const first = makeBed(-1);
    const slots = new Slots(first.bed.core, 0);
    readFromPod(first.bed, slots, [1000, 1001, 1002]);
    if (killed !== 'before the core has run') {
      slots.beginTurn();
      first.bed.core.exports.processBatch(0, 3, first.bed.nowMs);
    }
    if (killed === 'after some were written') slots.noteDone(2);
    const second = makeBed(first.fd);
    const left = killed === 'after some were written' ? 1 : 3;
    assert.is(recoverTurn(second.bed.core, 0, (index) => index), left);
    assert.is(finish(second.bed), left);
    closeFd(first.fd);
  });
}

test('two workers: one table, the lock free, and to each the packets that it had', () => {
  const first = makeBed(-1, true, 2);
  for (let port = 1000; port < 1000 + OPENED; port += 1) handshake(first.bed, port);
  readFromPod(first.bed, new Slots(first.bed.core, 0), [3000]);
  readFromPod(first.bed, new Slots(first.bed.core, 1), [3001, 3002]);
  first.bed.core.setDirectory(layout.DIRECTORY_FLOW_LOCK, 2);
  const second = makeBed(first.fd, true, 2);
  assert.is(second.adopted, OPENED);
  assert.is(readFlowFill(second.bed.core).used, OPENED);
  assert.is(second.bed.core.directory(layout.DIRECTORY_FLOW_LOCK), 0);
  for (const [worker, packets] of [[0, 1], [1, 2]] as const) {
    assert.is(recoverTurn(second.bed.core, worker, (index) => index), packets);
    assert.is(finish(second.bed, worker), packets);
  }
  const { adopted, fd } = makeBed(second.fd);
  assert.is(adopted, -1, 'one worker takes no pages of two');
  closeFd(fd);
});

test('packets in hand that are of no use are not sent', () => {
  for (const [isBegun, device, segmentSize] of [[true, 3, 40], [false, -1, 0]] as const) {
    const first = makeBed(-1);
    const slots = new Slots(first.bed.core, 0);
    readFromPod(first.bed, slots, [1000]);
    slots.fill(0, first.bed.device('a'), slots.length(0), segmentSize);
    if (isBegun) slots.beginTurn();
    const { bed, fd } = makeBed(first.fd);
    recoverTurn(bed.core, 0, () => device);
    assert.is(finish(bed), 0);
    closeFd(fd);
  }
  const idle = makeBed(-1);
  const slots = new Slots(idle.bed.core, 0);
  readFromPod(idle.bed, slots, [1000]);
  slots.endTurn();
  const { bed, fd } = makeBed(idle.fd);
  assert.is(recoverTurn(bed.core, 0, (index) => index), 0);
  assert.is(finish(bed), 0);
  closeFd(fd);
});

test('a file of random bytes, of another size, or of another layout is not used', () => {
  const random = new Random(11);
  const size = keptPages(new PolicyBed(PODS, SETTINGS).core).length;
  const noise = makeBed(createMemfd('culvert-test', size));
  assert.is(noise.adopted, -1);
  handshake(noise.bed, 1000);
  const pages = keptPages(noise.bed.core);
  for (let at = layout.KEPT_HEADER_SIZE; at < pages.length; at += 1) pages[at] = random.below(256);
  const after = makeBed(noise.fd);
  // An entry of random bytes is sound about once in 2^13 times the rest of its checks.
  assert.ok(after.adopted <= 1, `${after.adopted} entries of noise`);
  new DataView(pages.buffer, pages.byteOffset).setUint32(layout.KEPT_VERSION, 0xffff, true);
  const other = makeBed(after.fd);
  assert.is(other.adopted, -1);
  assert.is(readFlowFill(other.bed.core).used, 0);
  const short = makeBed(createMemfd('culvert-test', size + layout.KEPT_GRANULE));
  assert.is(short.adopted, -1);
  assert.is(fileSize(short.fd), size);
  closeFd(other.fd);
  closeFd(short.fd);
});

test.run();

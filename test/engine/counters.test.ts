// What the core counts, read by name; what the host adds for its devices.

import { test } from 'uvu';
import * as assert from 'uvu/assert';
import * as verdict from '../../wasm/abi/verdict.ts';
import { WORKER_DROP_REASONS, WORKER_EVENT_LIMIT } from '../../wasm/abi/layout.ts';
import { EVENT_NAMES, REASON_NAMES, clearTraffic, countDrop, readDrops, readEvents,
  readTraffic } from '../../engine/counters.ts';
import { createCore, processOne, TEST_LIMITS } from '../support/core.ts';
import { deviceIndex, makeHome } from '../support/home.ts';
import { ipv4 } from '../support/packets.ts';

test('every reason and event has a name of its own', () => {
  assert.is(REASON_NAMES.length, verdict.REASON_COUNT);
  assert.is(EVENT_NAMES.length, verdict.EVENT_COUNT);
  for (const names of [REASON_NAMES, EVENT_NAMES]) {
    assert.ok(names.every((name) => /^[a-z][A-Za-z]*$/.test(name)), names.join(' '));
    assert.is(new Set(names).size, names.length);
  }
  assert.is(REASON_NAMES[verdict.REASON_SPOOFED_SOURCE], 'spoofedSource');
  assert.is(EVENT_NAMES[verdict.EVENT_ICMP_SENT], 'icmpSent');
  assert.ok(verdict.REASON_COUNT <= WORKER_DROP_REASONS);
  assert.ok(verdict.EVENT_COUNT <= WORKER_EVENT_LIMIT);
});

test('a new core has counted nothing, and says so for every reason', () => {
  const core = createCore();
  for (const direction of ['outbound', 'inbound'] as const) {
    const drops = readDrops(core, direction);
    assert.equal(Object.keys(drops), REASON_NAMES.slice(1));
    assert.ok(Object.values(drops).every((count) => count === 0));
  }
  assert.equal(readEvents(core),
    { icmpSent: 0, icmpSuppressed: 0, neighbourAnswered: 0, outerFragmented: 0,
      segmented: 0, coalesced: 0, unfinished: 0, served: 0, resetSent: 0,
      egressAllowed: 0, egressDenied: 0, ingressAllowed: 0, ingressDenied: 0,
      moduleEgressAllowed: 0, moduleEgressDenied: 0, moduleIngressAllowed: 0,
      moduleIngressDenied: 0, mssClamped: 0 });
});

test('packets are counted where they come from and go to, as IP packets', () => {
  const home = makeHome();
  const { core, forwarding } = home;
  const pod = home.endpoints.get('pod-a')?.nextHop ?? 0;
  const peer = forwarding.peers.get('edge/IPv4')?.nextHop ?? 0;
  const input = deviceIndex(home, 'pod-a');
  const packet = ipv4({ source: '10.244.0.5', destination: '10.244.1.7', protocol: 17 },
    new Uint8Array(80));
  for (let count = 0; count < 3; count += 1) processOne(core, packet, input);
  assert.equal(readTraffic(core, pod), { rxPackets: 3, rxBytes: 300, txPackets: 0, txBytes: 0 });
  assert.equal(readTraffic(core, peer), { rxPackets: 0, rxBytes: 0, txPackets: 3, txBytes: 300 });
  clearTraffic(core, peer);
  assert.equal(readTraffic(core, peer), { rxPackets: 0, rxBytes: 0, txPackets: 0, txBytes: 0 });
});

test('drops are counted by direction and reason', () => {
  const home = makeHome();
  const packet = ipv4({ source: '10.244.0.9', destination: '10.244.1.7', protocol: 17 },
    new Uint8Array(80));
  processOne(home.core, packet, deviceIndex(home, 'pod-a'));
  processOne(home.core, packet, deviceIndex(home, 'underlay-ipv4'),
    { address: '203.0.113.1', port: 1 });
  const outbound = readDrops(home.core, 'outbound');
  const inbound = readDrops(home.core, 'inbound');
  assert.equal([outbound.spoofedSource, outbound.unknownPeer], [1, 0]);
  assert.equal([inbound.spoofedSource, inbound.unknownPeer], [0, 1]);
});

test('an ICMP error is beside the drop, and its rate is limited for each origin', () => {
  const home = makeHome({ icmpRate: 1, icmpBurst: 2 });
  const { core } = home;
  const fail = (source: string, device: string, nowMs: number): boolean => processOne(core,
    ipv4({ source, destination: '10.244.99.1', protocol: 17 }, new Uint8Array(8)),
    deviceIndex(home, device), undefined, nowMs).sent;
  const answers = [10_000, 10_000, 10_000, 10_999, 11_000, 11_001].map((nowMs) =>
    fail('10.244.0.5', 'pod-a', nowMs));
  assert.equal(answers, [true, true, false, false, true, false]);
  assert.ok(fail('192.0.2.10', 'node', 11_001), 'another origin has a bucket of its own');
  assert.is(readDrops(core, 'outbound').noRoute, 7);
  assert.equal(readEvents(core),
    { icmpSent: 4, icmpSuppressed: 3, neighbourAnswered: 0, outerFragmented: 0,
      segmented: 0, coalesced: 0, unfinished: 0, served: 0, resetSent: 0,
      egressAllowed: 1, egressDenied: 0, ingressAllowed: 0, ingressDenied: 0,
      moduleEgressAllowed: 0, moduleEgressDenied: 0, moduleIngressAllowed: 0,
      moduleIngressDenied: 0, mssClamped: 0 });
});

test('the rate limit outlives a wrap of the clock', () => {
  const home = makeHome({ icmpRate: 1, icmpBurst: 1 });
  const packet = ipv4({ source: '10.244.0.5', destination: '10.244.99.1', protocol: 17 },
    new Uint8Array(8));
  const input = deviceIndex(home, 'pod-a');
  const wrap = 2 ** 32;
  const answers = [wrap - 500, wrap - 1, 499, 500].map((nowMs) =>
    processOne(home.core, packet, input, undefined, nowMs | 0).sent);
  assert.equal(answers, [true, false, false, true]);
});

test('what is too big for the tunnel and may be fragmented is counted as an event', () => {
  const home = makeHome();
  const fields = { source: '10.244.0.5', destination: '10.244.1.7', protocol: 17 };
  const input = deviceIndex(home, 'pod-a');
  assert.ok(processOne(home.core, ipv4(fields, new Uint8Array(1430)), input).sent);
  assert.is(readEvents(home.core).outerFragmented, 0);
  assert.ok(processOne(home.core, ipv4(fields, new Uint8Array(1431)), input).sent);
  assert.is(readEvents(home.core).outerFragmented, 1);
});

test('counters of workers are added up, and drops at devices counted in', () => {
  const core = createCore({ ...TEST_LIMITS, workers: 2 });
  const count = (worker: number, direction: number): void =>
    countDrop(core, worker, direction, verdict.REASON_DEVICE_FULL, 100, 1);
  count(0, verdict.DIRECTION_OUTBOUND);
  count(1, verdict.DIRECTION_OUTBOUND);
  count(1, verdict.DIRECTION_INBOUND);
  assert.is(readDrops(core, 'outbound').deviceFull, 2);
  assert.is(readDrops(core, 'inbound').deviceFull, 1);
});

test.run();

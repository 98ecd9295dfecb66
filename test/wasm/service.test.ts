// What the core does with packets for Services and with replies, one behaviour after the other.

import { test } from 'uvu';
import * as assert from 'uvu/assert';
import * as layout from '../../wasm/abi/layout.ts';
import { REASON_NAMES } from '../../engine/counters.ts';
import {
  concat, icmp, icmpv6, ipv4, ipv6, PROTOCOL, tcp, udp, read16, read32,
} from '../support/packets.ts';
import { ALLOW_ALL, DENY_ALL, fateOf, ruleSet, TCP, tcpPacket, udpPacket, type Flow } from
  '../support/policy-core.ts';
import {
  assertSums, innerOf, read, sctp, service, ServiceBed, type Seen,
} from '../support/service-core.ts';

const PODS = {
  a: ['10.1.0.2', 'fd00:1:0:0::2'], b: ['10.1.0.3', 'fd00:1:0:0::3'],
};
const WEB = { namespace: 'test', name: 'web' };
const FRONT = { IPv4: '10.96.0.10', IPv6: 'fd00:96::10' } as const;
const FAMILIES = ['IPv4', 'IPv6'] as const;
type Family = (typeof FAMILIES)[number];
const CLIENT = { IPv4: '10.1.0.2', IPv6: 'fd00:1::2' } as const;
const LOCAL = { IPv4: '10.1.0.3', IPv6: 'fd00:1::3' } as const;
const REMOTE = { IPv4: '10.1.1.7', IPv6: 'fd00:1:0:1::7' } as const;
const OTHER = { IPv4: '10.1.2.7', IPv6: 'fd00:1:0:2::7' } as const;

function bedWith(...backends: string[]): ServiceBed {
  const bed = new ServiceBed(PODS);
  bed.serve(service(Object.values(FRONT), backends));
  return bed;
}

function request(family: Family, more: Partial<Flow> = {}): Flow {
  return { source: CLIENT[family], destination: FRONT[family], ...more };
}

/** The answer of whoever got the packet. */
function answer(to: Seen, flags: number): Uint8Array {
  return tcpPacket({
    source: to.destination, destination: to.source,
    sourcePort: to.destinationPort, destinationPort: to.sourcePort,
  }, flags);
}

function ends({ source, sourcePort, destination, destinationPort }: Seen): string {
  return `${source} ${sourcePort} > ${destination} ${destinationPort}`;
}

for (const family of FAMILIES) {
  test(`${family}: a connection to a backend on another node, and its replies`, () => {
    const bed = bedWith(REMOTE[family]);
    const out = bed.through('a', tcpPacket(request(family), TCP.syn));
    assert.is(ends(out), `${CLIENT[family]} 40000 > ${REMOTE[family]} 8080`);
    const reply = bed.back(1, answer(out, TCP.syn | TCP.ack));
    assert.is(ends(reply), `${FRONT[family]} 80 > ${CLIENT[family]} 40000`);
    const data = bed.through('a', tcpPacket(request(family), TCP.ack, 101));
    assert.is(ends(data), ends(out));
    assert.equal(bed.services.counts(WEB), { opened: 1, refused: 0 });
    assert.is(bed.flowCount(), 2);
  });

  test(`${family}: a backend on the same node, with and without policy`, () => {
    for (const judged of [false, true]) {
      const bed = bedWith(LOCAL[family]);
      if (judged) {
        bed.isolate('b', { ingress: 1 }, { ruleSets: [ruleSet(1, ALLOW_ALL)] });
        bed.isolate('a', { egress: 1, ingress: 2 }, { ruleSets: [ruleSet(2, DENY_ALL)] });
      }
      const out = bed.through('a', tcpPacket(request(family), TCP.syn));
      assert.is(ends(out), `${CLIENT[family]} 40000 > ${LOCAL[family]} 8080`);
      const reply = bed.through('b', answer(out, TCP.syn | TCP.ack));
      assert.is(ends(reply), `${FRONT[family]} 80 > ${CLIENT[family]} 40000`);
    }
  });

  test(`${family}: policy judges the backend, and what it denies opens nothing`, () => {
    const bed = bedWith(LOCAL[family]);
    bed.isolate('b', { ingress: 1 }, { ruleSets: [ruleSet(1, DENY_ALL)] });
    const packet = tcpPacket(request(family), TCP.syn);
    assert.is(fateOf(bed.send('a', packet)), 'policyIngress');
    assert.is(bed.flowCount(), 0);
    bed.core.setDirectory(layout.DIRECTORY_DENY_WITH_ICMP, 1);
    const error = innerOf(bed.send('a', packet));
    assertSums(error);
    const quoted = error.subarray(family === 'IPv4' ? 28 : 48);
    assert.is(ends(read(quoted)), `${CLIENT[family]} 40000 > ${FRONT[family]} 80`);
    assertSums(quoted);
  });

  test(`${family}: a pod reaches itself through its Service`, () => {
    const bed = bedWith(CLIENT[family]);
    const out = bed.through('a', tcpPacket(request(family), TCP.syn));
    assert.is(ends(out), `${FRONT[family]} 40000 > ${CLIENT[family]} 8080`);
    const reply = bed.through('a', answer(out, TCP.syn | TCP.ack));
    assert.is(ends(reply), `${FRONT[family]} 80 > ${CLIENT[family]} 40000`);
    assert.is(ends(bed.through('a', tcpPacket(request(family), TCP.ack, 7))), ends(out));
    assert.is(ends(bed.through('a', answer(out, TCP.ack))), ends(reply));
  });

  test(`${family}: the node reaches Services, of pods, of peers and of itself`, () => {
    const own = { IPv4: '192.168.0.10', IPv6: '2001:db8::10' }[family];
    const base = { IPv4: '10.1.0.0', IPv6: 'fd00:1::' }[family];
    const flow = request(family, { source: base });
    for (const backend of [LOCAL[family], REMOTE[family], own]) {
      const bed = bedWith(backend);
      const out = bed.through(layout.DEVICE_NODE, tcpPacket(flow, TCP.syn));
      const source = backend === own ? FRONT[family] : base;
      assert.is(ends(out), `${source} 40000 > ${backend} 8080`);
      const packet = answer(out, TCP.syn | TCP.ack);
      const reply = backend === REMOTE[family]
        ? bed.back(1, packet)
        : bed.through(backend === own ? layout.DEVICE_NODE : 'b', packet);
      assert.is(ends(reply), `${FRONT[family]} 80 > ${base} 40000`);
    }
  });

  test(`${family}: a backend at a node's own address, another's and ours`, () => {
    const nodes = {
      IPv4: ['192.168.0.11', '192.168.0.10'], IPv6: ['2001:db8::11', '2001:db8::10'],
    };
    for (const [index, backend] of nodes[family].entries()) {
      const bed = bedWith(backend);
      const verdict = bed.send('a', tcpPacket(request(family), TCP.syn));
      const expected = index === 0 ? layout.DEVICE_UNDERLAY_IPV4 : layout.DEVICE_NODE;
      assert.is(verdict.output, expected);
      const out = read(innerOf(verdict));
      assert.is(ends(out), `${CLIENT[family]} 40000 > ${backend} 8080`);
      const packet = answer(out, TCP.syn | TCP.ack);
      const reply = index === 0 ? bed.back(1, packet) : bed.through(layout.DEVICE_NODE, packet);
      assert.is(ends(reply), `${FRONT[family]} 80 > ${CLIENT[family]} 40000`);
    }
  });

  test(`${family}: nothing is served at other ports, by ICMP, or without backends`, () => {
    const bed = bedWith(REMOTE[family]);
    const fails = (packet: Uint8Array, reason: string, type: number | null): void => {
      const verdict = bed.send('a', packet);
      assert.is(REASON_NAMES[verdict.reason], reason);
      assert.is(verdict.sent, type !== null);
      if (type === null) return;
      const error = innerOf(verdict);
      assertSums(error);
      const offset = family === 'IPv4' ? 20 : 40;
      assert.is(read16(error, offset), type);
      assert.equal(error.subarray(offset + 8), packet);
    };
    const unreachable = family === 'IPv4' ? 0x0303 : 0x0104;
    fails(tcpPacket(request(family, { destinationPort: 81 }), TCP.syn), 'servicePort', unreachable);
    fails(udpPacket(request(family)), 'servicePort', unreachable);
    const { source, destination } = request(family);
    const echo = family === 'IPv4'
      ? ipv4({ source, destination, protocol: 1 }, icmp(8, 0, 1, new Uint8Array(8)))
      : ipv6({ source, destination, nextHeader: 58 },
        icmpv6({ source, destination, type: 128 }, new Uint8Array(8)));
    fails(echo, 'serviceProtocol', null);
    bed.serve(service([FRONT[family]], []));
    fails(tcpPacket(request(family), TCP.syn), 'serviceEmpty', unreachable);
    bed.serve(service([FRONT[family]], [], { empty: 'drop' }));
    fails(tcpPacket(request(family), TCP.syn), 'serviceSilent', null);
    assert.is(bed.services.counts(WEB).refused, 2);
    const stranger = { ...request(family), source: REMOTE[family] };
    const foreign = bed.receive(1, tcpPacket(stranger, TCP.syn));
    assert.is(fateOf(foreign), 'servicePeer');
  });

  test(`${family}: a connection whose backend leaves is reset, and a SYN chooses again`, () => {
    const bed = bedWith(REMOTE[family]);
    const out = bed.through('a', tcpPacket(request(family), TCP.syn));
    bed.back(1, answer(out, TCP.syn | TCP.ack));
    bed.through('a', tcpPacket(request(family), TCP.ack));
    bed.serve(service(Object.values(FRONT), [OTHER[family]]));
    const verdict = bed.send('a', tcpPacket(request(family), TCP.ack, 10));
    assert.is(REASON_NAMES[verdict.reason], 'serviceGone');
    const reset = innerOf(verdict);
    assertSums(reset);
    assert.is(ends(read(reset)), `${FRONT[family]} 80 > ${CLIENT[family]} 40000`);
    const { offset } = read(reset);
    assert.is(reset.length, offset + 20);
    assert.is(read32(reset, offset + 4), 2, 'sequence number: what was acknowledged');
    assert.is(reset[offset + 13], TCP.rst);
    assert.is(fateOf(bed.send('a', tcpPacket(request(family), TCP.rst))), 'serviceGone');
    const again = bed.through('a', tcpPacket(request(family), TCP.syn));
    assert.is(ends(again), `${CLIENT[family]} 40000 > ${OTHER[family]} 8080`);
    bed.services.apply({ services: [], removedServices: [WEB] });
    assert.is(bed.send('a', tcpPacket(request(family), TCP.ack)).output, layout.DEVICE_NODE);
  });

  test(`${family}: a draining backend keeps its flows and gets no others`, () => {
    const bed = bedWith(REMOTE[family]);
    const out = bed.through('a', tcpPacket(request(family), TCP.syn));
    const draining = { address: REMOTE[family], port: 8080, state: 'draining' } as const;
    bed.serve(service(Object.values(FRONT), [draining, OTHER[family]]));
    assert.is(ends(bed.through('a', tcpPacket(request(family), TCP.ack))), ends(out));
    for (let sourcePort = 1000; sourcePort < 1050; sourcePort += 1) {
      const next = bed.through('a', tcpPacket(request(family, { sourcePort }), TCP.syn));
      assert.is(next.destination, OTHER[family]);
    }
    bed.serve(service(Object.values(FRONT), [draining]));
    const last = bed.through('a', tcpPacket(request(family, { sourcePort: 2000 }), TCP.syn));
    assert.is(last.destination, REMOTE[family], 'better than none');
  });

  test(`${family}: UDP and SCTP; a datagram without a checksum stays without`, () => {
    const bed = bedWith();
    bed.serve(service([FRONT[family]], [REMOTE[family]], { protocol: 'UDP' }),
      service([FRONT[family]], [REMOTE[family]], { protocol: 'SCTP', name: 'sctp' }));
    const out = bed.through('a', udpPacket(request(family), 33));
    assert.is(ends(out), `${CLIENT[family]} 40000 > ${REMOTE[family]} 8080`);
    const bare = udpPacket(request(family), 33);
    bare.set([0, 0], (family === 'IPv4' ? 20 : 40) + 6);
    const without = bed.through('a', bare);
    assert.is(read16(without.packet, without.offset + 6), 0);
    const reply = bed.back(1, udpPacket({
      source: REMOTE[family], destination: CLIENT[family], sourcePort: 8080, destinationPort: 40000,
    }, 5));
    assert.is(ends(reply), `${FRONT[family]} 80 > ${CLIENT[family]} 40000`);
    const { source, destination } = request(family);
    for (const size of [0, 4, 100, 1300]) {
      const chunk = sctp({ sourcePort: 9, destinationPort: 80 }, new Uint8Array(size).fill(7));
      const packet = family === 'IPv4'
        ? ipv4({ source, destination, protocol: PROTOCOL.sctp }, chunk)
        : ipv6({ source, destination, nextHeader: PROTOCOL.sctp }, chunk);
      const there = bed.through('a', packet);
      assert.is(ends(there), `${CLIENT[family]} 9 > ${REMOTE[family]} 8080`);
    }
  });
}

test('a pod whose policy is not known hears nothing of Services', () => {
  const bed = bedWith();
  const devices = bed.core.directory(layout.DIRECTORY_DEVICES);
  const closed = devices + (bed.device('a') * layout.DEVICE_STRIDE) + layout.DEVICE_CLOSED;
  for (const destinationPort of [80, 81]) {
    bed.core.view.setUint32(closed, 1, true);
    const packet = tcpPacket(request('IPv4', { destinationPort }), TCP.syn);
    const verdict = bed.send('a', packet);
    assert.equal([fateOf(verdict), verdict.sent], ['policyPending', false]);
    bed.core.view.setUint32(closed, 0, true);
    assert.is(bed.send('a', packet).sent, true);
  }
});

test('the same ends and ports by two Services, and by a connection of its own', () => {
  const bed = bedWith(REMOTE.IPv4, OTHER.IPv4);
  bed.serve(service(['10.96.0.11'], [REMOTE.IPv4, OTHER.IPv4], { name: 'second' }),
    service(['10.96.0.12'], [REMOTE.IPv4, OTHER.IPv4], { name: 'third' }));
  const to = (destination: string): Uint8Array =>
    tcpPacket(request('IPv4', { destination }), TCP.syn);
  const first = bed.through('a', to(FRONT.IPv4)).destination;
  const second = bed.through('a', to('10.96.0.11')).destination;
  assert.is.not(first, second);
  assert.is(fateOf(bed.send('a', to('10.96.0.12'))), 'serviceConflict');
  const reply = (source: string): Seen => bed.back(source === REMOTE.IPv4 ? 1 : 2, tcpPacket({
    source, destination: CLIENT.IPv4, sourcePort: 8080, destinationPort: 40000,
  }, TCP.syn | TCP.ack));
  assert.is(reply(first).source, FRONT.IPv4);
  assert.is(reply(second).source, '10.96.0.11');
  bed.through('a', tcpPacket(request('IPv4'), TCP.ack));
  const direct = { source: CLIENT.IPv4, destination: first, destinationPort: 8080 };
  assert.is(fateOf(bed.send('a', tcpPacket(direct, TCP.syn))), 'serviceConflict');
});

test('a client with affinity keeps its backend until it is idle for long, or that leaves', () => {
  const bed = bedWith();
  const backends = Array.from({ length: 8 }, (_, index) => `10.1.1.${10 + index}`);
  const sticky = { affinitySeconds: 60 };
  bed.serve(service([FRONT.IPv4], backends.slice(0, 4), sticky));
  const next = (sourcePort: number): string =>
    bed.through('a', tcpPacket(request('IPv4', { sourcePort }), TCP.syn)).destination;
  const kept = next(1);
  for (let port = 2; port < 20; port += 1) assert.is(next(port), kept);
  bed.serve(service([FRONT.IPv4], backends, sticky));
  for (let port = 20; port < 40; port += 1) {
    bed.nowMs += 50_000;
    assert.is(next(port), kept);
  }
  bed.nowMs += 60_000;
  const chosen = next(40);
  bed.nowMs += 60_000;
  assert.is(next(41), chosen, 'the same choice among the same backends');
  bed.serve(service([FRONT.IPv4], backends.filter((one) => one !== chosen), sticky));
  assert.is.not(next(50), chosen);
});

test('ICMP errors about what is translated, from either end and from between', () => {
  const bed = bedWith();
  bed.serve(service([FRONT.IPv4], [REMOTE.IPv4], { protocol: 'UDP' }),
    service([FRONT.IPv6], [REMOTE.IPv6], { protocol: 'UDP', name: 'six' }));
  for (const family of FAMILIES) {
    const out = bed.through('a', udpPacket(request(family), 40));
    const offset = family === 'IPv4' ? 20 : 40;
    const error = (source: string, destination: string, quoted: Uint8Array): Uint8Array =>
      family === 'IPv4'
        ? ipv4({ source, destination, protocol: 1 }, icmp(3, 3, 0, quoted))
        : ipv6({ source, destination, nextHeader: 58 },
          icmpv6({ source, destination, type: 1, code: 4 }, quoted));
    // From the backend, about the request: all of it, or as much as RFC 792 asks for.
    for (const length of [out.packet.length, offset + 8]) {
      const cut = out.packet.subarray(0, length);
      const seen = bed.back(1, error(REMOTE[family], CLIENT[family], cut));
      assert.is(seen.source, REMOTE[family], 'its own source stays');
      const quoted = seen.packet.subarray(offset + 8);
      assert.is(ends(read(quoted)), `${CLIENT[family]} 40000 > ${FRONT[family]} 80`);
      if (length === out.packet.length) assertSums(quoted);
    }
    // From the client, about the reply.
    const reply = bed.back(1, udpPacket({
      source: REMOTE[family], destination: CLIENT[family], sourcePort: 8080, destinationPort: 40000,
    }, 5));
    const told = bed.through('a', error(CLIENT[family], FRONT[family], reply.packet));
    assert.equal([told.source, told.destination], [CLIENT[family], REMOTE[family]]);
    const quoted = told.packet.subarray(offset + 8);
    assert.is(ends(read(quoted)), `${REMOTE[family]} 8080 > ${CLIENT[family]} 40000`);
    assertSums(quoted);
  }
});

test('errors that the core makes quote what their receiver sent', () => {
  const bed = bedWith(REMOTE.IPv4);
  const fields = { ...request('IPv4'), sourcePort: 40000, destinationPort: 80, flags: TCP.syn };
  const fixed = ipv4({ ...fields, protocol: 6, ttl: 1 }, tcp(fields, new Uint8Array(0)));
  const error = innerOf(bed.send('a', fixed));
  assertSums(error);
  assert.equal(error.subarray(28), fixed);
  const out = bed.through('a', tcpPacket(request('IPv4'), TCP.syn));
  const ends = { source: out.destination, destination: out.source };
  const reply = ipv4({ ...ends, protocol: 6, ttl: 1 },
    tcp({ ...ends, sourcePort: 8080, destinationPort: 40000, flags: 0x12 }, new Uint8Array(0)));
  const told = innerOf(bed.receive(1, reply));
  assertSums(told);
  assert.equal(told.subarray(28), reply, 'as the backend sent it');
});

for (const judged of [false, true]) {
  test(`fragments follow their first, there and back${judged ? ', judged' : ''}`, () => {
    const bed = bedWith();
    bed.serve(service([FRONT.IPv4], [REMOTE.IPv4], { protocol: 'UDP' }));
    if (judged) bed.isolate('a', { egress: 1 }, { ruleSets: [ruleSet(1, ALLOW_ALL)] });
    const pass = (from: 'a' | 1, flow: Flow, back: string): void => {
      const { source, destination, sourcePort = 0, destinationPort = 0 } = flow;
      const whole = udp({ source, destination, sourcePort, destinationPort },
        new Uint8Array(2000).fill(9));
      const cut = [0, 800, 1600].map((at) => ipv4({
        source, destination, protocol: 17, identification: 77, offset: at / 8,
        moreFragments: at < 1600,
      }, whole.subarray(at, at + 800)));
      const parts = cut.map((packet) =>
        innerOf(from === 'a' ? bed.send('a', packet) : bed.receive(from, packet)).slice());
      const headers = parts.map((part) => read(part));
      for (const { source: from_, destination: to } of headers) {
        assert.is(`${from_} > ${to}`, back);
      }
      const joined = concat(...parts.map((part) => part.subarray(20)));
      const [first] = headers;
      assertSums(ipv4({
        source: first?.source ?? '', destination: first?.destination ?? '', protocol: 17,
      }, joined));
    };
    pass('a', { ...request('IPv4'), sourcePort: 5, destinationPort: 80 },
      `${CLIENT.IPv4} > ${REMOTE.IPv4}`);
    pass(1, { source: REMOTE.IPv4, destination: CLIENT.IPv4, sourcePort: 8080, destinationPort: 5 },
      `${FRONT.IPv4} > ${CLIENT.IPv4}`);
  });
}

test('a session lives as long as the flow to its backend', () => {
  const bed = bedWith();
  const backends = Array.from({ length: 16 }, (_, index) => `10.1.1.${10 + index}`);
  bed.serve(service([FRONT.IPv4], backends, { protocol: 'UDP' }));
  const out = bed.through('a', udpPacket(request('IPv4')));
  const more = backends.map((one) => one.replace('10.1.1', '10.1.2'));
  bed.serve(service([FRONT.IPv4], [out.destination, ...more], { protocol: 'UDP' }));
  const reply = udpPacket({
    source: out.destination, destination: CLIENT.IPv4, sourcePort: 8080, destinationPort: 40000,
  });
  assert.is(bed.back(1, reply).source, FRONT.IPv4);
  for (let times = 0; times < 20; times += 1) {
    bed.nowMs += 20_000;
    assert.is(bed.back(1, reply).source, FRONT.IPv4);
    bed.idle(5000);
  }
  assert.is(ends(bed.through('a', udpPacket(request('IPv4')))), ends(out));
  bed.nowMs += 400_000;
  bed.idle(5000);
  assert.is(bed.flowCount(), 0);
});

test.run();

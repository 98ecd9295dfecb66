// The core and its slow twin decide alike about random packets for Services, replies, packets past
// them, and ICMP errors, while Services change; and every checksum that comes out is right.

import { test } from 'uvu';
import * as assert from 'uvu/assert';
import * as layout from '../../wasm/abi/layout.ts';
import { FLOW_KEYS, FLOW_KEYS_SIZE } from '../../wasm/abi/policy.ts';
import { addressFamily, type Family } from '../../engine/address.ts';
import { writeFlowKeys } from '../../engine/flow-keys.ts';
import { REASON_NAMES } from '../../engine/counters.ts';
import type { Backend, Service } from '../../engine/model.ts';
import { ServiceTwin, type Asked, type Ends } from '../reference/services.ts';
import type { Verdict } from '../support/core.ts';
import {
  concat, fragmentHeader, icmp, icmpv6, ipv4, ipv6, PROTOCOL, tcp, udp, word32,
} from '../support/packets.ts';
import { TCP } from '../support/policy-core.ts';
import { Random } from '../support/random.ts';
import { assertSums, innerOf, read, sctp, ServiceBed } from '../support/service-core.ts';

const SEED = 0x5e12;
const SCENES = 6;
const STEPS = 6000;
const PODS = {
  a: ['10.1.0.2', 'fd00:1::2'], b: ['10.1.0.3', 'fd00:1::3'], c: ['10.1.0.4', 'fd00:1::4'],
};
const FAMILIES = ['IPv4', 'IPv6'] as const;
/** Who may be a client or a backend, and where its packets come from. */
const HOSTS: Record<Family, { address: string; from: string | number }[]> = {
  IPv4: [
    ...Object.entries(PODS).map(([from, [address = '']]) => ({ address, from })),
    { address: '10.1.0.0', from: layout.DEVICE_NODE },
    { address: '192.168.0.10', from: layout.DEVICE_NODE },
    { address: '10.1.1.7', from: -1 }, { address: '192.168.0.11', from: -1 },
    { address: '10.1.2.7', from: -2 },
  ],
  IPv6: [
    ...Object.entries(PODS).map(([from, [, address = '']]) => ({ address, from })),
    { address: 'fd00:1::', from: layout.DEVICE_NODE },
    { address: '2001:db8::10', from: layout.DEVICE_NODE },
    { address: 'fd00:1:0:1::7', from: -1 }, { address: '2001:db8::11', from: -1 },
    { address: 'fd00:1:0:2::7', from: -2 },
  ],
};
const FRONTS = { IPv4: ['10.96.0.1', '10.96.0.2'], IPv6: ['fd00:96::1', 'fd00:96::2'] };
const FRONT_PORTS = [80, 81];
const BACKEND_PORTS = [80, 8080];
const CLIENT_PORTS = [40000, 40001, 40002];
const NAMES = ['TCP', 'UDP', 'SCTP'] as const;
const STATES = ['draining', 'distant', 'unready'] as const;
const NUMBERS = { TCP: PROTOCOL.tcp, UDP: PROTOCOL.udp, SCTP: PROTOCOL.sctp };

function hostOf(address: string): { address: string; from: string | number } | undefined {
  return HOSTS[addressFamily(address)].find((host) => host.address === address);
}

function placeOf(address: string): string {
  const from = hostOf(address)?.from ?? 'nowhere';
  if (typeof from === 'string') return `pod ${from}`;
  return from === layout.DEVICE_NODE ? 'node' : `peer ${from}`;
}

/** One run of core and twin side by side. */
class Pair {
  readonly bed = new ServiceBed(PODS, { policy: { fragments: 65_536 } });
  readonly twin: ServiceTwin;
  readonly random: Random;
  readonly seen = new Map<string, number>();
  /** Packets as they went on, which may be answered. */
  readonly sent: Asked[] = [];
  #datagrams = 0;

  constructor(seed: number) {
    this.random = new Random(seed);
    writeFlowKeys(this.bed.core.view, seed);
    const keys = this.bed.core.bytes.slice(FLOW_KEYS, FLOW_KEYS + FLOW_KEYS_SIZE);
    this.twin = new ServiceTwin(keys, placeOf);
    for (const index of [0, 1]) this.change(index);
  }

  /** Gives a Service other backends. */
  change(index: number): void {
    const backends = this.random.oneIn(12) ? [] : FAMILIES.flatMap((family) =>
      HOSTS[family].flatMap(({ address }): Backend[] => this.random.oneIn(2) ? [] : [{
        address, port: this.random.pick(BACKEND_PORTS),
        state: this.random.oneIn(2) ? 'ready' : this.random.pick(STATES),
      }]));
    const service: Service = {
      namespace: 'test', name: `service-${index}`, affinitySeconds: 0, empty: 'reject',
      addresses: FAMILIES.map((family) => FRONTS[family][index] ?? ''),
      ports: NAMES.map((protocol) => ({ name: protocol, protocol, port: 80, backends })),
    };
    this.bed.serve(service);
    this.twin.put(service);
  }

  /** A packet to a Service, past one, or back. */
  next(): Asked {
    const { random } = this;
    if (this.sent.length > 0 && random.oneIn(2)) return this.#answer(random.pick(this.sent));
    const family = random.pick(FAMILIES);
    const isDirect = random.oneIn(5);
    const source = isDirect ? random.pick(HOSTS[family])
      : random.pick(HOSTS[family].filter(({ from }) => typeof from === 'string' || from >= 0));
    const others = HOSTS[family]
      .filter(({ address }) => placeOf(address) !== placeOf(source.address));
    const protocol = NUMBERS[random.pick(NAMES)];
    return {
      source: source.address, sourcePort: random.pick(CLIENT_PORTS), protocol,
      destination: isDirect ? random.pick(others).address : random.pick(FRONTS[family]),
      destinationPort: random.oneIn(20) ? random.pick(FRONT_PORTS) : isDirect
        ? random.pick(BACKEND_PORTS) : 80,
      flags: protocol === PROTOCOL.tcp ? random.pick([TCP.syn, TCP.ack, TCP.ack | TCP.psh]) : 0,
    };
  }

  #answer(to: Asked): Asked {
    const isTcp = to.protocol === PROTOCOL.tcp;
    const flags = [TCP.syn | TCP.ack, TCP.ack, TCP.ack, ...this.random.oneIn(9) ? [TCP.syn] : []];
    return { ...back(to), flags: isTcp ? this.random.pick(flags) : 0 };
  }

  /** Sends a packet by both. */
  step(asked: Asked): void {
    const { random } = this;
    if (asked.protocol !== PROTOCOL.sctp && random.oneIn(8)) return this.#stepInFragments(asked);
    const packet = packetOf(asked, random);
    const verdict = this.#through(asked.source, packet);
    if (verdict === null) return;
    const expected = this.twin.decide(asked);
    const what = `${JSON.stringify(asked)}\ntwin: ${JSON.stringify(expected)}`;
    if (typeof expected === 'string') {
      assert.is(REASON_NAMES[verdict.reason], expected, what);
      this.#count(expected);
      return;
    }
    assert.is(REASON_NAMES[verdict.reason], 'none', what);
    const found = innerOf(verdict);
    assertSums(found);
    assert.equal(endsOf(found), endsFrom(expected), what);
    const { length } = packet;
    const body = packet.length - read(packet).offset - (asked.protocol === PROTOCOL.tcp ? 20 : 12);
    assert.equal(found.subarray(length - body), packet.subarray(length - body), 'the payload');
    this.#count(expected.source === asked.source ? 'there' : 'back');
    this.sent.push({ ...asked, ...endsFrom(expected) });
    if (this.sent.length > 50) this.sent.shift();
    if (this.random.oneIn(6)) this.#error({ ...asked, ...endsFrom(expected) }, found);
  }

  /** The same in two fragments: both go the same way. */
  #stepInFragments(asked: Asked): void {
    this.#datagrams += 1;
    const [first, later] = fragmentsOf(asked, this.#datagrams);
    const verdict = this.#through(asked.source, first);
    if (verdict === null) return;
    const expected = this.twin.decide(asked);
    const what = `in fragments: ${JSON.stringify(asked)}\ntwin: ${JSON.stringify(expected)}`;
    if (typeof expected === 'string') {
      assert.is(REASON_NAMES[verdict.reason], expected, what);
      return;
    }
    assert.is(REASON_NAMES[verdict.reason], 'none', what);
    const one = innerOf(verdict).slice();
    const rest = this.#through(asked.source, later);
    assert.is(rest?.reason, 0, `${what}\nthe later one: ${REASON_NAMES[rest?.reason ?? 0]}`);
    const two = rest === null ? one : innerOf(rest);
    const joined = joinFragments(one, two);
    assertSums(joined);
    assert.equal(endsOf(joined), endsFrom(expected), what);
    this.#count(expected.source === asked.source ? 'thereInFragments' : 'backInFragments');
    this.sent.push({ ...asked, ...endsFrom(expected) });
  }

  /** The receiver of a packet says that it could not take it. */
  #error(about: Asked, quoted: Uint8Array): void {
    const cut = quoted.subarray(0, this.random.oneIn(2) ? quoted.length : read(quoted).offset + 8);
    const [source, destination] = [about.destination, about.source];
    const error = addressFamily(source) === 'IPv4'
      ? ipv4({ source, destination, protocol: 1 }, icmp(3, 1, 0, cut))
      : ipv6({ source, destination, nextHeader: 58 },
        icmpv6({ source, destination, type: 1 }, cut));
    const verdict = this.#through(source, error);
    if (verdict === null) return;
    const other = this.twin.otherSide(about);
    const what = `error about ${JSON.stringify(about)}: ${JSON.stringify(other)}`;
    if (FRONTS[addressFamily(destination)].includes(destination) && other === null) {
      assert.is(REASON_NAMES[verdict.reason], 'serviceSession', what);
      return;
    }
    if (REASON_NAMES[verdict.reason] === 'serviceSession') return this.#count('orphan');
    assert.is(REASON_NAMES[verdict.reason], 'none', what);
    const found = innerOf(verdict);
    assertSums(found);
    const { offset } = read(found);
    const inside = found.subarray(offset + 8);
    assert.is(read(found).source, source, 'its own source stays');
    assert.equal(endsOf(inside), endsFrom(other ?? about), what);
    assert.is(read(found).destination, other?.source ?? destination, what);
    if (cut.length === quoted.length && about.protocol !== PROTOCOL.sctp) assertSums(inside);
    this.#count('error');
  }

  /** Null where who has the address is not here to send: then there is nothing to compare. */
  #through(source: string, packet: Uint8Array): Verdict | null {
    const from = hostOf(source)?.from;
    if (from === undefined) return null;
    if (typeof from === 'string' || from >= 0) return this.bed.send(from, packet);
    const destination = placeOf(read(packet).destination);
    return destination.startsWith('peer') ? null : this.bed.receive(-from, packet);
  }

  #count(what: string): void {
    this.seen.set(what, (this.seen.get(what) ?? 0) + 1);
  }
}

function back(to: Asked): Asked {
  return {
    ...to, source: to.destination, sourcePort: to.destinationPort,
    destination: to.source, destinationPort: to.sourcePort,
  };
}

function packetOf(asked: Asked, random: Random): Uint8Array {
  const { source, destination, protocol } = asked;
  const data = random.bytes(random.below(60));
  const payload = protocol === PROTOCOL.tcp ? tcp(asked, data)
    : protocol === PROTOCOL.udp ? udp(asked, concat([1, 2, 3, 4], data))
      : sctp({ ...asked, chunk: 0 }, data);
  return addressFamily(source) === 'IPv4'
    ? ipv4({ source, destination, protocol }, payload)
    : ipv6({ source, destination, nextHeader: protocol }, payload);
}

const CUT = 40;
const FRAGMENT_HEADER = 8;

/** A packet in two fragments; without ports to show, the second has addresses only. */
function fragmentsOf(asked: Asked, identification: number): [Uint8Array, Uint8Array] {
  const { source, destination, protocol } = asked;
  const payload = new Uint8Array(90).fill(0x37);
  const whole = protocol === PROTOCOL.tcp ? tcp(asked, payload) : udp(asked, payload);
  const part = (at: number, more: boolean): Uint8Array => {
    const bytes = whole.subarray(at, more ? CUT : whole.length);
    if (addressFamily(source) === 'IPv4') {
      const place = { identification, moreFragments: more, offset: at / 8 };
      return ipv4({ source, destination, protocol, ...place }, bytes);
    }
    const header = fragmentHeader(protocol, at / 8, more);
    header.set(word32(identification), 4);
    return ipv6({ source, destination, nextHeader: PROTOCOL.fragment }, concat(header, bytes));
  };
  return [part(0, true), part(CUT, false)];
}

/** The packet that two fragments make, from the addresses of the second. */
function joinFragments(first: Uint8Array, second: Uint8Array): Uint8Array {
  const [one, two] = [read(first), read(second)];
  assert.equal([one.source, one.destination], [two.source, two.destination]);
  const isIpv4 = addressFamily(one.source) === 'IPv4';
  const skip = isIpv4 ? one.offset : one.offset + FRAGMENT_HEADER;
  const protocol = isIpv4 ? one.protocol : first[one.offset] ?? 0;
  const segment = concat(first.subarray(skip), second.subarray(skip));
  const { source, destination } = two;
  return isIpv4 ? ipv4({ source, destination, protocol }, segment)
    : ipv6({ source, destination, nextHeader: protocol }, segment);
}

function endsFrom({ source, sourcePort, destination, destinationPort }: Ends): Ends {
  return { source, sourcePort, destination, destinationPort };
}

function endsOf(packet: Uint8Array): Ends {
  return endsFrom(read(packet));
}

const seenByAll = new Set<string>();

for (let scene = 0; scene < SCENES; scene += 1) {
  test(`core and twin agree on scene ${scene}`, () => {
    const pair = new Pair(SEED + scene);
    for (let step = 0; step < STEPS; step += 1) {
      if (pair.random.oneIn(60)) pair.change(pair.random.below(2));
      pair.step(pair.next());
    }
    for (const what of pair.seen.keys()) seenByAll.add(what);
  });
}

test('packets met every fate', () => {
  for (const fate of [
    'there', 'back', 'error', 'thereInFragments', 'backInFragments', 'serviceGone',
    'serviceEmpty', 'servicePort', 'serviceConflict', 'serviceSession',
  ]) assert.ok(seenByAll.has(fate), fate);
});

test.run();

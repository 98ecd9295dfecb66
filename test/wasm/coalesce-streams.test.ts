// Streams of packets from a peer, shuffled, damaged and mixed, with and without joining: pods get
// the same packets in the same order.

import { test } from 'uvu';
import * as assert from 'uvu/assert';
import * as layout from '../../wasm/abi/layout.ts';
import { comparable, segment } from '../reference/offload.ts';
import { fromEdge, makeJoining, receive, type Arrival, type Delivery } from
  '../support/arrivals.ts';
import { TEST_LIMITS } from '../support/core.ts';
import { toHex } from '../support/packets.ts';
import { Random } from '../support/random.ts';
import { Trains, type Ends, type Stream } from '../support/trains.ts';

const SEED = 9293;
const ROUNDS = 300;
const ENDS: Ends = { family: 'IPv4', source: '10.244.1.7', destination: '10.244.0.5' };

/** Packets of some streams: mostly in order and sound, some damaged, swapped, or sent twice. */
function mixture(random: Random, trains: Trains): Uint8Array[] {
  const streams = Array.from({ length: random.between(1, 3) }, (): Stream =>
    ({ ...trains.stream(ENDS), destination: random.pick(['10.244.0.5', '10.244.0.6']) }));
  const packets: Uint8Array[] = [];
  const count = random.between(5, 60);
  while (packets.length < count) {
    const size = random.pick([1, 100, 100, 800, 1400]);
    packets.push(...trains.train(random.pick(streams), random.between(1, 20), size,
      random.between(1, size)));
  }
  for (let left = random.below(4); left > 0; left -= 1) {
    const at = random.below(packets.length);
    const [packet = new Uint8Array(0)] = packets.splice(at, 1);
    const place = Math.min(at + random.below(3), packets.length);
    const kind = random.below(3);
    if (kind === 0) packets.splice(place, 0, damaged(random, packet));
    else if (kind === 1) packets.splice(place, 0, packet);
    else packets.splice(place, 0, packet, packet);
  }
  return packets;
}

/** A byte becomes 0, behind the IP header, so that the packet still is delivered. */
function damaged(random: Random, packet: Uint8Array): Uint8Array {
  const copy = packet.slice();
  copy[random.between(20, packet.length - 1)] = 0;
  return copy;
}

/** Slots as the kernel joins datagrams: equal sizes, the last may be shorter. */
function inSlots(random: Random, packets: Uint8Array[]): Arrival[] {
  const slots: Arrival[] = [];
  let open: Uint8Array[] = [];
  for (const packet of packets) {
    const datagram = fromEdge(packet);
    const size = open[0]?.length ?? 0;
    const fits = open.length > 0 && datagram.length <= size && open.at(-1)?.length === size
      && (open.length + 1) * size < layout.PACKET_CAPACITY && !random.oneIn(20);
    if (fits) open.push(datagram);
    else slots.push({ datagrams: open = [datagram] });
  }
  return slots;
}

/** What a delivery stands for, packet by packet. */
function takenApart({ packet, header }: Delivery): Uint8Array[] {
  if (header.gsoSize === 0) return [packet];
  return segment(packet, { gsoType: header.gsoType, segmentSize: header.gsoSize });
}

test('a pod gets the same packets in the same order, joined or not', () => {
  const random = new Random(SEED);
  const trains = new Trains(random);
  const joining = makeJoining(layout.COALESCE_TCP | layout.COALESCE_UDP);
  const plain = makeJoining(0);
  let joined = 0;
  for (let round = 0; round < ROUNDS; round += 1) {
    const slots = inSlots(random, mixture(random, trains));
    assert.ok(slots.length <= TEST_LIMITS.slots * 4);
    for (let at = 0; at < slots.length; at += TEST_LIMITS.slots) {
      const batch = slots.slice(at, at + TEST_LIMITS.slots);
      const found = receive(joining, batch);
      const expected = receive(plain, batch);
      for (const device of ['pod-a', 'pod-b']) {
        const ofDevice = (all: Delivery[]): string[] => all
          .filter((delivery) => delivery.device === device)
          .flatMap(takenApart).map((packet) => toHex(comparable(packet)));
        assert.equal(ofDevice(found), ofDevice(expected), `round ${round}, ${device}`);
      }
      joined += found.filter(({ packets }) => packets > 1).length;
    }
  }
  assert.ok(joined > ROUNDS, `${joined} super-packets`);
});

test.run();

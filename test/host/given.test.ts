// What the kernel had given a daemon that was killed before it could note so: found in the bytes
// that the kernel left, and entered once.

import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { DEVICE_UNDERLAY_IPV4, REMOTE_IPV6_SIZE } from '../../wasm/abi/layout.ts';
import { recoverTurn } from '../../engine/tables/kept.ts';
import { closeFd } from '../../ffi/file.ts';
import { MessageVector } from '../../ffi/message-vector.ts';
import { sendTo } from '../../ffi/raw-socket.ts';
import { localPort, openUdpSocket, receiveTos } from '../../ffi/socket.ts';
import { enterGiven } from '../../host/given.ts';
import { RECEIVE_AT_ONCE } from '../../host/limits.ts';
import { Slots } from '../../host/slots.ts';
import { deviceIndex, makeHome } from '../support/home.ts';
import {
  arp, ethernet, ETHER_TYPE, ipv4, ipv6, PROTOCOL, toHex, udp,
} from '../support/packets.ts';

const test = suite('host/given');
const LOOPBACK = '127.0.0.1';
const ROOM = 2048;
const PAYLOAD = Uint8Array.of(1, 2, 3, 4, 5);
const MACS = { destination: '02:00:00:00:00:01', source: '02:00:00:00:00:02' };

function packet4(): Uint8Array {
  const [source, destination] = ['10.244.0.5', '10.244.1.9'];
  const ends = { source, destination, sourcePort: 1, destinationPort: 2 };
  return ipv4({ source, destination, protocol: PROTOCOL.udp }, udp(ends, PAYLOAD));
}

function packet6(): Uint8Array {
  const [source, destination] = ['fd00:10:244::5', 'fd00:10:244:1::9'];
  const ends = { source, destination, sourcePort: 1, destinationPort: 2 };
  return ipv6({ source, destination, nextHeader: PROTOCOL.udp }, udp(ends, PAYLOAD));
}

/** What the next daemon finds in its slots of the packets that are to be turned over. */
function recovered({ core }: Slots, isTap: boolean): string[] {
  const slots = new Slots(core, 0);
  enterGiven(slots, () => isTap);
  assert.is(enterGiven(slots, () => isTap), 0, 'once');
  recoverTurn(core, 0, (index) => index);
  const [first, end] = slots.takeTurn();
  return Array.from({ length: end - first }, (_, place) => {
    const start = slots.start(first + place);
    return toHex(core.bytes.slice(start, start + slots.length(first + place)));
  });
}

/** As a device reads a packet: offered, given by the kernel, and noted or not. */
function give(slots: Slots, slot: number, device: number, bytes: Uint8Array, isNoted: boolean)
  : void {
  slots.offer(slot, device, 1);
  slots.core.bytes.set(bytes, slots.core.packetAddress(slot));
  if (isNoted) slots.fill(slot, device, bytes.length);
}

const KINDS: [name: string, isTap: boolean, bytes: Uint8Array][] = [
  ['an IPv4 packet of a TUN', false, packet4()],
  ['an IPv6 packet of a TUN', false, packet6()],
  ['an IPv4 packet of a TAP', true, ethernet({ ...MACS, type: ETHER_TYPE.ipv4 }, packet4())],
  ['an IPv6 packet of a TAP', true, ethernet({ ...MACS, type: ETHER_TYPE.ipv6 }, packet6())],
  ['an ARP packet of a TAP', true, ethernet({ ...MACS, type: ETHER_TYPE.arp }, arp({
    operation: 1, senderMac: MACS.source, senderAddress: '10.244.0.5',
    targetMac: '00:00:00:00:00:00', targetAddress: '10.244.0.1',
  }))],
];

for (const [name, isTap, bytes] of KINDS) {
  test(`${name}, read and not noted`, () => {
    const scene = makeHome();
    const slots = new Slots(scene.core, 0);
    const device = deviceIndex(scene, 'pod-a');
    give(slots, slots.first, device, bytes, true);
    give(slots, slots.first + 1, device, bytes, false);
    assert.equal(recovered(slots, isTap), [toHex(bytes), toHex(bytes)]);
    assert.equal(recovered(slots, isTap), [], 'nothing is left of it');
  });
}

test('what lies in slots from earlier turns is nobody\'s', () => {
  const scene = makeHome();
  const slots = new Slots(scene.core, 0);
  const device = deviceIndex(scene, 'pod-a');
  for (const slot of [0, 1, 2]) give(slots, slots.first + slot, device, packet4(), true);
  slots.endTurn();
  assert.equal(recovered(slots, false), []);
  give(slots, slots.first, device, packet4(), true);
  assert.is(recovered(slots, false).length, 1);
  slots.offer(slots.first, device, 1);
  assert.equal(recovered(slots, false), [], 'offered, and nothing came');
});

test('datagrams, received and not noted, with what belongs to them', () => {
  const slots = new Slots(makeHome().core, 0);
  const [from, to] = [0, 0].map(() => openUdpSocket({
    family: 'IPv4', address: LOOPBACK, port: 0, receiveBufferBytes: 65536, sendBufferBytes: 65536,
  })) as [number, number];
  receiveTos(to, 'IPv4');
  const messages = new MessageVector(slots.count, slots.arrivalPlace());
  for (let slot = 0; slot < slots.count; slot += 1) {
    messages.set(slot, slots.room(slot), ROOM, slots.source(slot), REMOTE_IPV6_SIZE);
  }
  const sent = [1, 2, 3].map((length) => PAYLOAD.subarray(0, length));
  for (const bytes of sent) sendTo(from, bytes, LOOPBACK, localPort(to));
  slots.offer(slots.first, DEVICE_UNDERLAY_IPV4, RECEIVE_AT_ONCE);
  assert.is(messages.receive(to, 0, RECEIVE_AT_ONCE), 3);
  slots.fill(slots.first, DEVICE_UNDERLAY_IPV4, messages.length(0));
  messages.clear(0);
  assert.equal(recovered(slots, false), sent.map(toHex));
  for (const fd of [from, to]) closeFd(fd);
});

test('sockets that were offered slots, and nothing came', () => {
  const slots = new Slots(makeHome().core, 0);
  slots.offer(slots.first, DEVICE_UNDERLAY_IPV4, RECEIVE_AT_ONCE);
  assert.is(enterGiven(slots, () => false), 0);
});

test.run();

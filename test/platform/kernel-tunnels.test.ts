// What Linux's tunnels put on the wire, and what they take: pings of a pod behind a kernel that has
// the tunnel, answered by a program that writes every byte of the outer headers itself.
//
//     this program                                                 pod 2
//   [ eth0 ]----[ switch ]----[ eth0   guest   eth1 ]----[ TAP 10.244.2.10 ]
//   192.0.2.1                192.0.2.2  ipip, geneve

import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { addressText } from '../../engine/address.ts';
import { closeFd } from '../../ffi/file.ts';
import { openIpSocket } from '../../ffi/raw-socket.ts';
import { Capture, sendPackets } from '../netns/support/capture.ts';
import { addGuest, useTunnel, type GuestPlace, type GuestTunnel }
  from '../netns/support/guest-node.ts';
import { macOf, podAddressesOf, remotesOf, TunnelLab } from '../netns/support/tunnel-lab.ts';
import { testNeeding } from '../support/needs.ts';
import { ETHER_TYPE, ethernet, geneve, icmp, ipv4, macOf as macBytes, parseEthernet, parseIpv4,
  PROTOCOL, read16, read32, toHex, udp } from '../support/packets.ts';
import { guestReason } from '../support/qemu-image.ts';
import { PATIENCE_MS } from '../support/until.ts';

const OURS = 1;
const GUEST = 2;
const IPIP = 4;
const GENEVE_PORT = 6081;
/** Without options, RFC 8926 section 3.4. */
const GENEVE_SIZE = 8;
const TRANSPARENT_ETHERNET = 0x6558;
const UDP_SIZE = 8;
const [ours, theirs] = [remotesOf(OURS).IPv4, remotesOf(GUEST).IPv4];
const target = podAddressesOf(OURS).IPv4;

const test = suite('platform/kernel-tunnels');
const reason = guestReason();
let made: { lab: TunnelLab; guest: GuestPlace } | null = null;

async function bed(): Promise<{ lab: TunnelLab; guest: GuestPlace }> {
  if (made !== null) return made;
  let guest: GuestPlace | null = null;
  const lab = await TunnelLab.create(async (created) => {
    const { host } = await created.addNode(OURS);
    // A socket keeps the kernel from refusing the protocol; it is not read.
    const socket = host.namespace.run(() => openIpSocket('IPv4', IPIP));
    created.onClose(async () => closeFd(socket));
    guest = await addGuest(created, GUEST);
  });
  made = { lab, guest: guest as unknown as GuestPlace };
  return made;
}

test.after(() => made?.lab.close());

/** The answer to an echo request, as an IPv4 packet. */
function replyTo(request: Uint8Array): Uint8Array {
  const { source, destination, headerSize } = parseIpv4(request);
  const echo = request.subarray(headerSize);
  return ipv4({ source: destination, destination: source, protocol: PROTOCOL.icmp },
    icmp(0, 0, read32(echo, 4), echo.subarray(8)));
}

/** Has the pod behind the guest ping us by a tunnel. Gives the outer packet that came, after
 * `answer` has made one that the pod takes. */
async function pingBy(
  tunnel: GuestTunnel, protocol: number, answer: (payload: Uint8Array) => Uint8Array,
): Promise<Uint8Array> {
  const { lab, guest } = await bed();
  await useTunnel(guest, tunnel, OURS, ['IPv4']);
  const node = lab.bed.hosts.find(({ name }) => name === `node-${OURS}`);
  if (node === undefined) throw new Error('no node');
  const capture = new Capture(node, 'eth0');
  try {
    const pinged = guest.pod.agent.ask(
      { verb: 'ping', address: target, size: 56, timeoutMs: PATIENCE_MS });
    const [frame = new Uint8Array(0)] = await capture.take(1, (candidate) => {
      const { type, payload } = parseEthernet(candidate);
      if (type !== ETHER_TYPE.ipv4) return false;
      const header = parseIpv4(payload);
      return header.protocol === protocol && addressText(header.source) === theirs;
    });
    const outer = parseEthernet(frame).payload;
    const reply = answer(outer.subarray(parseIpv4(outer).headerSize));
    sendPackets(node, theirs, [ipv4({ source: ours, destination: theirs, protocol }, reply)]);
    const answered = await pinged;
    assert.ok(answered.ok, answered.detail);
    assert.is(answered.from, target);
    return outer;
  } finally {
    capture.close();
  }
}

testNeeding('bridge', test, 'ipip is the packet behind an IPv4 header', async () => {
  const outer = await pingBy(
    { name: 'tunl', link: `type ipip local ${theirs}`, mtu: 1480, nextHop: ours }, IPIP, replyTo);
  const { dontFragment, headerSize } = parseIpv4(outer);
  assert.is(headerSize, 20);
  // RFC 2003 section 3.1: the outer packet is not to be fragmented where the inner one is not.
  assert.ok(dontFragment);
  const inner = parseIpv4(outer.subarray(headerSize));
  assert.is(addressText(inner.source), podAddressesOf(GUEST).IPv4);
  assert.is(inner.ttl, 63);
}, reason);

/** A Geneve datagram from us, from a port of its own. */
function datagram(vni: number, protocol: number, payload: Uint8Array): Uint8Array {
  return udp({
    source: ours, destination: theirs, sourcePort: 49_152, destinationPort: GENEVE_PORT,
  }, geneve({ vni, protocol }, payload));
}

testNeeding('bridge', test, 'geneve carries Ethernet frames', async () => {
  const [own, peer] = [macOf(GUEST, 'IPv4'), macOf(OURS, 'IPv4')];
  const outer = await pingBy({
    name: 'gnv4', link: `type geneve id 1 remote ${ours} dstport ${GENEVE_PORT}`, mtu: 1450,
    macs: { own, peer },
  }, PROTOCOL.udp, (request) => {
    const frame = parseEthernet(request.subarray(UDP_SIZE + GENEVE_SIZE));
    assert.is(toHex(frame.destination), toHex(macBytes(peer)));
    assert.is(toHex(frame.source), toHex(macBytes(own)));
    return datagram(1, TRANSPARENT_ETHERNET, ethernet({
      destination: macBytes(own), source: macBytes(peer), type: ETHER_TYPE.ipv4,
    }, replyTo(frame.payload)));
  });
  const segment = outer.subarray(20);
  assert.is(read16(segment, 2), GENEVE_PORT);
  assert.is(toHex(segment.subarray(UDP_SIZE, UDP_SIZE + GENEVE_SIZE)), '00 00 65 58 00 00 01 00');
}, reason);

testNeeding('bridge', test, 'geneve carries IP packets as they are', async () => {
  const outer = await pingBy({
    name: 'gni4', mtu: 1464,
    link: `type geneve id 2 remote ${ours} dstport ${GENEVE_PORT} innerprotoinherit`,
  }, PROTOCOL.udp, (request) =>
    datagram(2, ETHER_TYPE.ipv4, replyTo(request.subarray(UDP_SIZE + GENEVE_SIZE))));
  const segment = outer.subarray(20);
  assert.is(toHex(segment.subarray(UDP_SIZE, UDP_SIZE + GENEVE_SIZE)), '00 00 08 00 00 00 02 00');
  assert.is(addressText(parseIpv4(segment.subarray(UDP_SIZE + GENEVE_SIZE)).destination), target);
}, reason);

test.run();

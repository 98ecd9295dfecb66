// What cutting and joining must keep, at every tier: ECN marks, of the sender and of the way, PSH
// and FIN where the sender put them, urgent data, TCP timestamps.
//
//     pod                                                              pod
//   [ TUN ]--culvert [ eth0 ]----[ hub ]----[ eth0 ] kernel VXLAN----[ veth ]
//   10.244.1.10     192.0.2.1             192.0.2.2              10.244.2.10
//
// A packet that met congestion on the way is made by hand and sent from node 2's address.

import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { addressFamily, type Family } from '../../engine/address.ts';
import { ETHER_TYPE, PROTOCOL, ethernet, ipv4, ipv6, parseEthernet, parseIpv4, parseIpv6, read16,
  udp, vxlan } from '../support/packets.ts';
import { Capture, sendPackets } from './support/capture.ts';
import { FAMILIES, STRAIGHT, type Place } from './support/lab.ts';
import { until } from '../support/until.ts';
import { TcpCapture, TCP_FLAG, type Segment } from './support/tcp-capture.ts';
import { TierLab, TIERS, tierTest } from './support/tier-lab.ts';
import { writeDatagram } from './support/traffic-trains.ts';
import { TRAFFIC_PORT, type TrainAnswer } from './support/traffic.ts';

const CULVERT = 1;
const KERNEL = 2;
const WAYS = [[CULVERT, KERNEL], [KERNEL, CULVERT]] as const;
const TUNNEL_PORT = 8472;
/** TOS of trains: each ECN codepoint, and with DSCP EF beside. */
const MARKS = [1, 2, 3, 0xb8, 0xba];
const CE = 3;
const DATAGRAMS = 120;
const SIZE = 1000;
/** What the queue of a packet socket holds. */
const CAPTURED = 50;
/** Link headers of the pods' interfaces. */
const LINK_SIZE = { [CULVERT]: 0, [KERNEL]: 14 };
const SETTLE_MS = 100;

async function trainOf(lab: TierLab, to: number, stream: number): Promise<TrainAnswer | undefined> {
  return (await lab.traffic(to).streams()).find((train) => train.stream === stream);
}

/** Trains whose senders set TOS arrive with it. */
async function keepMarks(lab: TierLab): Promise<void> {
  for (const family of FAMILIES) {
    for (const [from, to] of WAYS) {
      for (const tos of MARKS) {
        const stream = lab.nextStream();
        await lab.traffic(from).train({
          address: lab.address(to, family), stream, first: 0, size: SIZE, count: DATAGRAMS,
          segmented: true, tos,
        });
        const train = await trainOf(lab, to, stream);
        assert.equal(train?.marks, { [tos]: DATAGRAMS }, `${family} from ${from}, TOS ${tos}`);
      }
    }
  }
}

/** The outer header of what leaves has the inner one's ECN field, RFC 6040 section 4.1. */
async function markOutside(lab: TierLab): Promise<void> {
  for (const family of FAMILIES) {
    for (const tos of [0, 1, 2, 3]) {
      const capture = new Capture(lab.lab.bed.hub, lab.lab.place(CULVERT).node.port);
      try {
        await lab.traffic(CULVERT).train({
          address: lab.address(KERNEL, family), stream: lab.nextStream(), first: 0, size: SIZE,
          count: CAPTURED, segmented: true, tos,
        });
        const frames = await capture.take(CAPTURED, (frame) => isTrain(frame, family));
        for (const frame of frames) assert.is(outerTos(frame, family) & CE, tos);
      } finally {
        capture.close();
      }
    }
  }
}

/** A datagram of a train in a tunnel, by the port that tunnels have and the size that it has. */
function isTrain(frame: Uint8Array, family: Family): boolean {
  const { type, payload } = parseEthernet(frame);
  if (type !== (family === 'IPv4' ? ETHER_TYPE.ipv4 : ETHER_TYPE.ipv6)) return false;
  const outer = family === 'IPv4' ? 20 : 40;
  return read16(payload, outer + 2) === TUNNEL_PORT && frame.length > SIZE;
}

function outerTos(frame: Uint8Array, family: Family): number {
  const { payload } = parseEthernet(frame);
  return family === 'IPv4' ? parseIpv4(payload).tos : parseIpv6(payload).trafficClass;
}

/** A datagram of a train as a tunnel packet of node 2, whose outer header says that it met
 * congestion. */
function congested(lab: TierLab, family: Family, stream: number, number: number, tos: number) {
  const [from, to] = [lab.lab.place(KERNEL), lab.lab.place(CULVERT)];
  const datagram = Buffer.alloc(SIZE);
  writeDatagram(datagram, stream, number, false);
  const inner = packet(from.address[family], to.address[family], tos, 40_000, TRAFFIC_PORT,
    datagram);
  const type = family === 'IPv4' ? ETHER_TYPE.ipv4 : ETHER_TYPE.ipv6;
  const frame = ethernet({ destination: macOf(to, family), source: macOf(from, family), type },
    inner);
  const [source, destination] = [remoteOf(from, family), remoteOf(to, family)];
  return packet(source, destination, CE, 50_000, TUNNEL_PORT, vxlan({ vni: 1 }, frame));
}

function packet(
  source: string, destination: string, tos: number, sourcePort: number, destinationPort: number,
  payload: Uint8Array,
): Uint8Array {
  const upper = udp({ source, destination, sourcePort, destinationPort }, payload);
  return addressFamily(source) === 'IPv4'
    ? ipv4({ source, destination, tos, protocol: PROTOCOL.udp }, upper)
    : ipv6({ source, destination, trafficClass: tos, nextHeader: PROTOCOL.udp }, upper);
}

function macOf({ cluster }: Place, family: Family): string {
  const tunnel = cluster.tunnels.find((candidate) => candidate.family === family);
  return tunnel?.kind === 'vxlan' ? tunnel.mac : '';
}

function remoteOf({ cluster }: Place, family: Family): string {
  return cluster.tunnels.find((tunnel) => tunnel.family === family)?.remote ?? '';
}

/** RFC 6040 section 4.2: congestion on the way arrives, or, where the sender knows no ECN, the
 * packet does not. */
async function handOnCongestion(lab: TierLab): Promise<void> {
  for (const family of FAMILIES) {
    for (const tos of [1, 2, 3, 0]) {
      const stream = lab.nextStream();
      const before = (await lab.status(CULVERT)).drops.inbound.congestion ?? 0;
      const packets = Array.from({ length: DATAGRAMS }, (_, number) =>
        congested(lab, family, stream, number, tos));
      const { node } = lab.lab.place(KERNEL);
      sendPackets(node.host, remoteOf(lab.lab.place(CULVERT), family), packets);
      if (tos === 0) {
        await lab.lab.waitFor(CULVERT, ({ drops }) =>
          drops.inbound.congestion === before + DATAGRAMS);
        assert.is(await trainOf(lab, CULVERT, stream), undefined);
        continue;
      }
      await until(`${family} marked ${tos}`, async () =>
        (await trainOf(lab, CULVERT, stream))?.received === DATAGRAMS);
      const train = await trainOf(lab, CULVERT, stream);
      assert.equal(train?.marks, { [CE]: DATAGRAMS }, `${family}, TOS ${tos}`);
      assert.is(train?.damaged, 0);
    }
  }
}

/** What one side sends is captured at both. */
async function captureStream(
  lab: TierLab, from: 1 | 2, to: 1 | 2, send: () => Promise<void>,
): Promise<{ sent: Segment[]; received: Segment[] }> {
  const captures = [from, to].map((end) =>
    new TcpCapture(lab.pod(end), 'eth0', LINK_SIZE[end as 1 | 2]));
  try {
    await send();
    await new Promise((resolve) => setTimeout(resolve, SETTLE_MS));
    const [sent = [], received = []] = captures.map((capture, end) => {
      capture.drain();
      return capture.segments.filter(({ isOutgoing, destinationPort }) =>
        isOutgoing === (end === 0) && destinationPort === TRAFFIC_PORT);
    });
    return { sent, received };
  } finally {
    for (const capture of captures) capture.close();
  }
}

/** Numbers of the bytes behind which a flag stands. */
function endsWith(segments: Segment[], flag: number): number[] {
  const ends = segments.filter(({ flags }) => (flags & flag) !== 0)
    .map(({ sequence, length }) => (sequence + length) >>> 0);
  return [...new Set(ends)].sort((left, right) => left - right);
}

/** Whether a byte was sent, once or again, with a timestamp. */
function wasSent(segments: Segment[], number: number, time: number | null): boolean {
  return segments.some(({ sequence, length, timestamp }) =>
    ((number - sequence) >>> 0) < length && timestamp === time);
}

/** PSH and FIN stand behind the same bytes as at the sender; bytes have the time at which they were
 * sent. */
async function keepFlags(lab: TierLab): Promise<void> {
  for (const family of FAMILIES) {
    for (const [from, to] of WAYS) {
      const what = `${family} from ${from}`;
      const { sent, received } = await captureStream(lab, from, to, async () => {
        assert.ok(await lab.traffic(from).bursts(lab.address(to, family)), `${what}: not the same`);
      });
      for (const flag of ['psh', 'fin'] as const) {
        const ends = endsWith(sent, TCP_FLAG[flag]);
        assert.ok(ends.length > 0, `${what}: ${flag} was sent`);
        assert.equal(endsWith(received, TCP_FLAG[flag]), ends, `${what}: ${flag}`);
      }
      for (const { sequence, length, timestamp } of received) {
        const last = (sequence + length - 1) >>> 0;
        for (const number of length === 0 ? [] : [sequence, last]) {
          assert.ok(wasSent(sent, number, timestamp), `${what}: byte ${number} at ${timestamp}`);
        }
      }
      const largest = Math.max(...received.map(({ length }) => length));
      console.log(`${what}: ${sent.length} segments sent, ${received.length} received, the largest `
        + `of ${largest} bytes`);
    }
  }
}

/** Urgent pointers point to the same bytes. */
async function keepUrgent(lab: TierLab): Promise<void> {
  const pointers = (segments: Segment[]): number[] =>
    [...new Set(segments.filter(({ flags }) => (flags & TCP_FLAG.urg) !== 0)
      .map(({ sequence, urgent }) => (sequence + urgent) >>> 0))].sort((a, b) => a - b);
  for (const family of FAMILIES) {
    for (const [from, to] of WAYS) {
      const what = `${family} from ${from}`;
      const { sent, received } = await captureStream(lab, from, to, async () => {
        assert.ok(await lab.traffic(from).urgent(lab.address(to, family)), `${what}: not the same`);
      });
      assert.ok(pointers(sent).length > 0, `${what}: something was urgent`);
      assert.equal(pointers(received), pointers(sent), what);
    }
  }
}

for (const tier of TIERS) {
  const test = suite(`netns/tier-headers, ${tier}`);
  let made: TierLab | null = null;
  const lab = async (): Promise<TierLab> => {
    made ??= await TierLab.create({ tiers: [tier, null], carriers: STRAIGHT });
    return made;
  };
  test.after(() => made?.close());

  tierTest(tier, test, `${tier}: ECN marks of the sender arrive`, async () =>
    keepMarks(await lab()));
  tierTest(tier, test, `${tier}: the outer header is marked like the inner one`, async () =>
    markOutside(await lab()));
  tierTest(tier, test, `${tier}: congestion on the way is handed on`, async () =>
    handOnCongestion(await lab()));
  tierTest(tier, test, `${tier}: PSH, FIN and timestamps stay with their bytes`, async () =>
    keepFlags(await lab()));
  tierTest(tier, test, `${tier}: urgent data stays urgent`, async () => keepUrgent(await lab()));

  test.run();
}

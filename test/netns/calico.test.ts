// A Culvert node in a cluster of Calico's: what it writes on its Node is all that a node with
// Felix's kernel devices needs of it, and what it reads there all that it needs itself. Who is no
// node of the cluster, or says that it is another, gets nothing in. calico-lab.ts draws the
// topology.

import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { examinePeers } from '../../cli/doctor-peers.ts';
import type { LabNode } from '../../cli/demo/bed.ts';
import { addressFamily } from '../../engine/address.ts';
import { testNeeding } from '../support/needs.ts';
import { PROTOCOL, ipv4, ipv6, udp } from '../support/packets.ts';
import { CalicoLab, CULVERT, FELIX, type PoolMode } from './support/calico-lab.ts';
import { sendPackets } from './support/capture.ts';
import { felixVtep } from './support/felix-node.ts';
import { Tap, echoRequest, encapsulate, type Forgery } from './support/forge.ts';
import { dropsOf } from './support/lab.ts';
import { expectDatagrams, expectPings, expectStreams } from './support/tunnel-checks.ts';
import { FAMILIES, remotesOf } from './support/tunnel-lab.ts';

const STREAM_BYTES = 50 * 1024 * 1024;
const PORT = 4789;
const VNI = 4096;
const PREFIX = 'projectcalico.org/';
const KINDS: Record<PoolMode, [kind: string, why: RegExp]> = {
  Always: ['vxlan', /^vxlan, of IPPool pool-[01]$/],
  CrossSubnet: ['direct', /^CrossSubnet, of IPPool pool-[01], on our link (192\.0\.2\.|2001:db8:)/],
};

/** A case of a forged packet: the outer source, the inner one, what else is wrong, and the counter
 * that it ends in. */
type Case = [name: string, outer: string, inner: string, forgery: Forgery, reason: string];

/** What a right packet has, by family. */
const RIGHT = {
  IPv4: { outer: '192.0.2.2', inner: '10.244.2.77', pod: '10.244.1.10' },
  IPv6: { outer: '2001:db8::2', inner: 'fd00:10:244:2::77', pod: 'fd00:10:244:1::a' },
};

const OTHER_POD = RIGHT.IPv4.inner;
const CASES: Case[] = [
  ['of no node', '192.0.2.3', OTHER_POD, {}, 'unknownPeer'],
  ['of an address of nobody', '203.0.113.9', OTHER_POD, {}, 'unknownPeer'],
  ['with a source of ours', '192.0.2.2', '10.244.1.77', {}, 'foreignSource'],
  ['with a source of nobody', '192.0.2.2', '198.51.100.9', {}, 'foreignSource'],
  ['with another VNI', '192.0.2.2', OTHER_POD, { vni: 1 }, 'wrongVni'],
  ['with a group policy', '192.0.2.2', OTHER_POD, { flags: 0x88 }, 'tunnelHeader'],
  ['for another VTEP', '192.0.2.2', OTHER_POD, { destinationMac: '66:00:00:00:00:01' },
    'wrongMac'],
  ['of no node, over IPv6', '2001:db8::3', 'fd00:10:244:2::77', {}, 'unknownPeer'],
  ['with a source of ours, over IPv6', '2001:db8::2', 'fd00:10:244:1::77', {}, 'foreignSource'],
  ['with a group policy, over IPv6', '2001:db8::2', 'fd00:10:244:2::77', { flags: 0x88 },
    'tunnelHeader'],
];

type Suite = ReturnType<typeof suite>;

function addForgeries(test: Suite, lab: () => Promise<CalicoLab>): void {
  for (const [index, [name, outer, inner, forgery, reason]] of CASES.entries()) {
    testNeeding('vxlan', test, `a packet ${name} gets nowhere, and is counted`, async () => {
      const bed = await lab();
      const family = addressFamily(outer);
      const right = RIGHT[family];
      const [own, peer] = [CULVERT, FELIX].map((number) => felixVtep(bed.node(number), family));
      if (!own || !peer) throw new Error('both are VTEPs');
      const send = (source: string, from: string, number: number, wrong: Forgery): void => {
        const side = {
          family, own: { address: source, mac: peer.mac },
          remote: { address: own.address, mac: own.mac },
        };
        const payload = encapsulate(
          side, echoRequest(from, right.pod, number), { vni: VNI, ...wrong });
        sendDatagram(bed.stranger, source, own.address, payload);
      };
      await expectRefused(bed, index + 1, reason, {
        forge: (number) => send(outer, inner, number, forgery),
        control: (number) => send(right.outer, right.inner, number, {}),
      });
    });
  }
}

/** Nodes of the link may send as they are, by what address they have there; others may not. */
function addPlainForgeries(test: Suite, lab: () => Promise<CalicoLab>): void {
  const plain: [name: string, inner: string, reason: string][] = [
    ['with a source of ours', '10.244.1.77', 'spoofedSource'],
    ['with a source of a pod network of nobody', '10.244.9.9', 'spoofedSource'],
  ];
  for (const [index, [name, inner, reason]] of plain.entries()) {
    testNeeding('vxlan', test, `a packet ${name} gets nowhere, without a tunnel too`, async () => {
      const bed = await lab();
      const { links } = bed.stranger.host;
      await links.addRoute({
        prefix: '10.244.1.0/24', device: 'eth0', via: remotesOf(CULVERT).IPv4, replace: true,
      });
      const send = (from: string, number: number): void =>
        sendPackets(bed.stranger.host, '10.244.1.10', [echoRequest(from, '10.244.1.10', number)]);
      await expectRefused(bed, 100 + index, reason, {
        forge: (number) => send(inner, number), control: (number) => send(OTHER_POD, number),
      });
    });
  }
}

/** Sends what is forged and, after it, what is right but for who sends it: when that has arrived,
 * the other would have. */
async function expectRefused(
  bed: CalicoLab, number: number, reason: string,
  { forge, control }: Record<'forge' | 'control', (number: number) => void>,
): Promise<void> {
  const { pod } = bed.lab.place(CULVERT);
  const tap = new Tap(pod, 'eth0', 0);
  try {
    const before = await refused(bed);
    forge(number);
    control(number + 1000);
    await bed.until('the control packet', () => tap.arrived().includes(number + 1000));
    assert.not.ok(tap.arrived().includes(number));
    const after = await refused(bed);
    assert.is((after[reason] ?? 0) - (before[reason] ?? 0), 1,
      dropsOf(await bed.culvert.status()).join(' '));
  } finally {
    tap.close();
  }
}

/** Packets dropped by reason, on whichever way. */
async function refused({ culvert }: CalicoLab): Promise<Record<string, number>> {
  const { drops: { inbound, outbound } } = await culvert.status();
  return Object.fromEntries(Object.entries(inbound).map(([reason, count]) =>
    [reason, count + (outbound[reason] ?? 0)]));
}

function sendDatagram(
  from: LabNode, source: string, destination: string, payload: Uint8Array,
): void {
  const ports = { sourcePort: 49_152, destinationPort: PORT };
  const datagram = udp({ source, destination, ...ports }, payload);
  sendPackets(from.host, destination, [
    addressFamily(source) === 'IPv4'
      ? ipv4({ source, destination, protocol: PROTOCOL.udp }, datagram)
      : ipv6({ source, destination, nextHeader: PROTOCOL.udp }, datagram),
  ]);
}

for (const mode of ['Always', 'CrossSubnet'] as const) {
  const test = suite(`netns/calico, ${mode}`);
  let made: CalicoLab | null = null;
  const lab = async (): Promise<CalicoLab> => (made ??= await CalicoLab.create(mode));
  test.after(() => made?.close());

  testNeeding('vxlan', test, 'our Node says what Calico\'s nodes read', async () => {
    const bed = await lab();
    assert.equal(bed.node(CULVERT).metadata.annotations, {
      [`${PREFIX}IPv4Address`]: '192.0.2.1/24',
      [`${PREFIX}IPv4VXLANTunnelAddr`]: '10.244.1.0',
      [`${PREFIX}IPv6Address`]: '2001:db8::1/64',
      [`${PREFIX}IPv6VXLANTunnelAddr`]: 'fd00:10:244:1::',
    });
    const { sync } = await bed.culvert.status();
    assert.equal(sync.problems, []);
  });

  testNeeding('vxlan', test, 'the other node is reached as the pool says', async () => {
    const bed = await lab();
    const [kind, why] = KINDS[mode];
    const known = await examinePeers(bed.culvert.runtimeDirectory);
    assert.equal(known?.problems, []);
    assert.equal(known?.peers.map((peer) => [peer.node, peer.family, peer.kind, peer.remote]), [
      ['node-2', 'IPv4', kind, '192.0.2.2'], ['node-2', 'IPv6', kind, '2001:db8::2'],
    ]);
    for (const peer of known?.peers ?? []) assert.match(peer.why, why);
  });

  for (const family of FAMILIES) {
    testNeeding('vxlan', test, `${family}: pings, datagrams, a stream, both ways`, async () => {
      const { lab: bed } = await lab();
      const pair = [bed.place(CULVERT), bed.place(FELIX)] as const;
      await expectPings(pair, family);
      await expectDatagrams(pair, family);
      await expectStreams(pair, family, mode, STREAM_BYTES);
    });
  }

  testNeeding('vxlan', test, 'nothing was dropped', async () => {
    const status = await (await lab()).culvert.status();
    assert.equal(dropsOf(status), []);
    assert.is(status.dataPlane.crashes, 0);
  });

  if (mode === 'Always') addForgeries(test, lab);
  else {
    addPlainForgeries(test, lab);
    testNeeding('vxlan', test, 'who takes us for a node of another link is heard', async () => {
      const bed = await lab();
      await bed.encapsulate();
      const before = await refused(bed);
      for (const family of FAMILIES) {
        await expectPings([bed.lab.place(CULVERT), bed.lab.place(FELIX)], family);
      }
      assert.equal(await refused(bed), before);
    });
  }
  test.run();
}

// Forged packets against a running node: what a kernel vxlan device refuses, we refuse, what it
// takes, we take, and beyond that nobody speaks for an address that is not its own. Each refusal is
// counted under its own reason, exactly as often as it happened, while right packets pass.
//
//   namespace node-1                    hub               namespace node-2
//   culvert run                       (router)            forged VXLAN, by hand
//   eth0 192.0.2.1  2001:db8::1 ------ port0               no device, no route: sockets only
//     |                                port1 ------------ eth0 192.0.2.2  2001:db8::2
//     +-- pod "tun"  10.244.1.10  fd00:10:244:1::a
//     +-- pod "tap"  10.244.1.11  fd00:10:244:1::b         node-3: only told of, never there
//
// TX checksum offload is off on every veth (cli/demo/bed.ts).

import { execFile } from 'node:child_process';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import type { Bed, Host } from '../../cli/demo/bed.ts';
import { CulvertNode } from '../../cli/demo/culvert-node.ts';
import type { Family } from '../../engine/address.ts';
import type { StatusReport } from '../../engine/model.ts';
import { testNeeding } from '../support/needs.ts';
import {
  Forge, Tap, echoRequest, encapsulate, spoilHeaderChecksum, type Forgery, type Side,
} from './support/forge.ts';
import {
  POD_NETWORKS, clusterNode, nodeAddress, podAddress, podAddresses, podName, vtepMac, writeCluster,
} from './support/forge-cluster.ts';
import { CLI, openBed } from './support/forge-scene.ts';

const FAMILIES = ['IPv4', 'IPv6'] as const;
/** Forged packets of a kind, each between right ones. */
const COUNT = 5;
const POD = 10;
const OUTSIDE = { IPv4: '198.51.100.77', IPv6: '2001:db8:77::1' };
const STRANGER = { IPv4: '203.0.113.66', IPv6: '2001:db8:66::1' };

interface Lab {
  bed: Bed;
  node: CulvertNode;
  pods: Record<'tun' | 'tap', Host>;
  taps: Record<'tun' | 'tap', Tap>;
  forges: Record<Family, Forge>;
}

const test = suite('netns/forged');
let lab: Lab | null = null;
let lastNumber = 0;

function sideOf(family: Family): Side {
  return {
    family,
    own: { address: nodeAddress(2, family), mac: vtepMac(2, family) },
    remote: { address: nodeAddress(1, family), mac: vtepMac(1, family) },
  };
}

/** Builds the lab at the first use. */
async function theLab(): Promise<Lab> {
  if (lab !== null) return lab;
  const bed = await openBed();
  try {
    const forwardAnySource = { 'net.ipv4.conf.all.rp_filter': 0 };
    const [first, second] = [await addNode(bed, 1), await addNode(bed, 2)];
    for (const port of ['port0', 'port1']) {
      bed.hub.sysctl({ ...forwardAnySource, [`net.ipv4.conf.${port}.rp_filter`]: 0 });
    }
    first.host.sysctl({ ...forwardAnySource, 'net.ipv4.conf.eth0.rp_filter': 0 });
    const source = join(bed.folder, 'cluster.yaml');
    writeCluster(source, [1, 2, 3].map(clusterNode));
    const node = new CulvertNode(bed, first, {
      name: 'node-1', source, podNetworks: POD_NETWORKS,
    });
    await node.start();
    const add = (name: string, device: 'tun' | 'tap', pod: number): Promise<Host> =>
      node.addPod({ namespace: 'test', name, device, addresses: podAddresses(1, pod) });
    const pods = {
      tun: await add(podName(1, POD), 'tun', POD),
      tap: await add(podName(1, POD + 1), 'tap', POD + 1),
    };
    lab = {
      bed, node, pods,
      taps: { tun: new Tap(pods.tun, 'eth0', 0), tap: new Tap(pods.tap, 'eth0', 14) },
      forges: {
        IPv4: new Forge(second.host, sideOf('IPv4')), IPv6: new Forge(second.host, sideOf('IPv6')),
      },
    };
    return lab;
  } catch (error) {
    await bed.close();
    throw error;
  }
}

function addNode(bed: Bed, n: number): ReturnType<Bed['addNode']> {
  const [ipv4, ipv6] = [nodeAddress(n, 'IPv4'), nodeAddress(n, 'IPv6')];
  return bed.addNode(`node-${n}`, { ipv4, ipv6 });
}

test.after(async () => {
  if (lab === null) return;
  for (const one of [...Object.values(lab.forges), ...Object.values(lab.taps)]) one.close();
  await lab.bed.close();
});

type Drops = StatusReport['drops'];

/** What all tests before have made the node drop. */
const total: Drops = { outbound: {}, inbound: {} };

async function drops(): Promise<Drops> {
  return (await (await theLab()).node.status()).drops;
}

/** The drops as `culvert status -o json` tells them. */
async function dropsByCommand(): Promise<Drops> {
  const { node } = await theLab();
  const words = ['status', '-o', 'json', '--runtime-directory', node.runtimeDirectory];
  const { stdout } = await promisify(execFile)(process.execPath, [CLI, ...words]);
  return (JSON.parse(stdout) as StatusReport).drops;
}

/** What a pod's stack says of itself when it pleases, and is refused: its groups (MLD), and whether
 * somebody has its address (duplicate address detection). */
const UNASKED = ['multicast', 'neighbour'];

/** What was counted in between, without what was not. */
function added(
  before: Record<string, number>, after: Record<string, number>,
): Record<string, number> {
  const counts = Object.entries(after)
    .map(([reason, count]): [string, number] => [reason, count - (before[reason] ?? 0)]);
  return Object.fromEntries(
    counts.filter(([name, count]) => count !== 0 && !UNASKED.includes(name)));
}

function nextNumber(): number {
  lastNumber += 1;
  return lastNumber;
}

/** Sends forged packets between right ones and holds the counters against it. `reason` null: they
 * do not even get to us. `forge` sends one that has the number. */
async function expectDropped(
  side: Side, direction: 'inbound' | 'outbound', reason: string | null,
  forge: (number: number) => void, sendRight: (number: number) => void,
): Promise<void> {
  const { node, taps, forges } = await theLab();
  const before = await drops();
  const [bad, good]: number[][] = [[], []];
  for (let sent = 0; sent < COUNT; sent += 1) {
    bad.push(nextNumber());
    good.push(nextNumber());
    forge(bad.at(-1) ?? 0);
    sendRight(good.at(-1) ?? 0);
  }
  const peer = forges[side.family];
  await (direction === 'inbound' ? peer.replies(good) : peer.requests(good));
  if (reason !== null) {
    const expected = (before[direction][reason] ?? 0) + COUNT;
    await node.waitFor((status) => (status.drops[direction][reason] ?? 0) >= expected);
  }
  const after = await drops();
  const expected = reason === null ? {} : { [reason]: COUNT };
  assert.equal(added(before[direction], after[direction]), expected, direction);
  if (reason !== null) total[direction][reason] = (total[direction][reason] ?? 0) + COUNT;
  const other = direction === 'inbound' ? 'outbound' : 'inbound';
  assert.equal(added(before[other], after[other]), {}, other);
  const arrived = [...taps.tun.arrived(), ...taps.tap.arrived()];
  const answered = FAMILIES.flatMap((family) => forges[family].echoes).map(({ number }) => number);
  assert.equal(bad.filter((number) => arrived.includes(number) || answered.includes(number)), []);
}

/** A forged datagram of the peer, made from the request that it should have been. */
interface Kind {
  name: string;
  reason: string | null;
  forge(peer: Forge, number: number): void;
}

const right = (side: Side, number: number): Uint8Array =>
  echoRequest(podAddress(2, POD, side.family), podAddress(1, POD, side.family), number);

/** A kind whose tunnel or Ethernet header is wrong. */
function badHeader(name: string, reason: string, forgery: (side: Side) => Forgery): Kind {
  return {
    name, reason,
    forge: (peer, number) =>
      peer.send(encapsulate(peer.side, right(peer.side, number), forgery(peer.side))),
  };
}

/** A kind whose inner addresses are wrong. */
function badAddress(
  name: string, reason: string,
  addresses: (family: Family) => { source?: string; destination?: string },
): Kind {
  return {
    name, reason,
    forge: (peer, number) => {
      const { family } = peer.side;
      const { source, destination } = addresses(family);
      peer.sendEcho(
        source ?? podAddress(2, POD, family), destination ?? podAddress(1, POD, family), number);
    },
  };
}

/** A kind whose datagram is cut to `size` bytes. */
function cut(size: number): Kind {
  return {
    name: `datagram cut to ${size} bytes`, reason: 'tooShort',
    forge: (peer, number) =>
      peer.send(encapsulate(peer.side, right(peer.side, number)).slice(0, size)),
  };
}

/** Numbers are those of the rows in the table of what a kernel device does. */
const KINDS: Kind[] = [
  badHeader('3: inner destination MAC of another node', 'wrongMac',
    ({ family }) => ({ destinationMac: vtepMac(3, family) })),
  badHeader('inner destination MAC of a group', 'wrongMac',
    () => ({ destinationMac: '33:33:00:00:00:01' })),
  badHeader('5: inner source MAC our own', 'ownMac', ({ remote }) => ({ sourceMac: remote.mac })),
  badHeader('7: VNI 2', 'wrongVni', () => ({ vni: 2 })),
  badHeader('VNI 0x010001', 'wrongVni', () => ({ vni: 0x010001 })),
  badHeader('8: flags 0x00', 'tunnelHeader', () => ({ flags: 0x00 })),
  badHeader('9: flags 0x88 (GBP)', 'tunnelHeader', () => ({ flags: 0x88 })),
  badHeader('10: flags 0x09', 'tunnelHeader', () => ({ flags: 0x09 })),
  badHeader('reserved bits', 'tunnelHeader', () => ({ reserved: 0x000100 })),
  badHeader('reserved last byte', 'tunnelHeader', () => ({ reservedLast: 1 })),
  badHeader('EtherType of the other version', 'ipVersion',
    ({ family }) => ({ etherType: family === 'IPv4' ? 0x86dd : 0x0800 })),
  badHeader('EtherType ARP', 'etherType', () => ({ etherType: 0x0806 })),
  ...[0, 1, 7, 8, 21, 22, 23, 22 + 19, 22 + 20, 22 + 39, 22 + 47].map(cut),
  {
    name: '11: unknown outer source', reason: 'unknownPeer',
    forge: (peer, number) => {
      const { family } = peer.side;
      peer.sendFrom(STRANGER[family], encapsulate(peer.side, right(peer.side, number)));
    },
  },
  {
    name: 'outer source of another peer', reason: 'foreignSource',
    forge: (peer, number) => {
      const { family } = peer.side;
      peer.sendFrom(nodeAddress(3, family), encapsulate(peer.side, right(peer.side, number)));
    },
  },
  {
    name: 'a packet of the other family, whose tunnel is another', reason: 'foreignSource',
    forge: (peer, number) => {
      const family = peer.side.family === 'IPv4' ? 'IPv6' : 'IPv4';
      peer.send(encapsulate(peer.side, right({ ...peer.side, family }, number)));
    },
  },
  badAddress('inner source of another peer', 'foreignSource',
    (family) => ({ source: podAddress(3, POD, family) })),
  badAddress('inner source of another node', 'foreignSource',
    (family) => ({ source: nodeAddress(3, family) })),
  badAddress('inner source of a pod here', 'foreignSource',
    (family) => ({ source: podAddress(1, POD + 1, family) })),
  badAddress('inner source in our podCIDR', 'foreignSource',
    (family) => ({ source: podAddress(1, 99, family) })),
  badAddress('inner source our base address', 'foreignSource',
    (family) => ({ source: podAddress(1, 0, family) })),
  badAddress('inner source our node', 'foreignSource',
    (family) => ({ source: nodeAddress(1, family) })),
  badAddress('inner source nowhere in the pod network', 'foreignSource',
    (family) => ({ source: podAddress(77, 7, family) })),
  badAddress('inner source outside the cluster', 'foreignSource',
    (family) => ({ source: OUTSIDE[family] })),
  badAddress('inner source of the loopback', 'martianSource',
    (family) => ({ source: family === 'IPv4' ? '127.0.0.1' : '::1' })),
  badAddress('inner destination of another peer', 'notLocal',
    (family) => ({ destination: podAddress(3, POD, family) })),
  badAddress('inner destination outside the cluster', 'notLocal',
    (family) => ({ destination: OUTSIDE[family] })),
  badAddress('inner destination of no pod', 'noRoute',
    (family) => ({ destination: podAddress(1, 99, family) })),
];

const IPV4_KINDS: Kind[] = [{
  name: 'inner header checksum', reason: 'headerChecksum',
  forge: (peer, number) =>
    peer.send(encapsulate(peer.side, spoilHeaderChecksum(right(peer.side, number)))),
}];

const IPV6_KINDS: Kind[] = [{
  name: '20: outer UDP checksum absent', reason: null,
  forge: (peer, number) => {
    const { side } = peer;
    peer.sendFrom(side.own.address, encapsulate(side, right(side, number)), 0);
  },
}];

for (const family of FAMILIES) {
  for (const { name, reason, forge } of [
    ...KINDS, ...(family === 'IPv4' ? IPV4_KINDS : IPV6_KINDS),
  ]) {
    testNeeding('tun', test, `${family}: ${name}: dropped`, async () => {
      const { forges } = await theLab();
      const peer = forges[family];
      await expectDropped(peer.side, 'inbound', reason, (number) => forge(peer, number),
        (number) => peer.send(encapsulate(peer.side, right(peer.side, number))));
    });
  }
}

/** What the kernel device takes: `send` sends one that must be answered. */
const TAKEN: { name: string; send(peer: Forge, number: number): void }[] = [
  {
    name: '1: as flannel sends it',
    send: (peer, number) => peer.send(encapsulate(peer.side, right(peer.side, number)), true),
  },
  {
    name: '2: from any UDP port',
    send: (peer, number) => peer.send(encapsulate(peer.side, right(peer.side, number))),
  },
  {
    name: '4: inner destination MAC broadcast',
    send: (peer, number) => peer.send(encapsulate(peer.side, right(peer.side, number), {
      destinationMac: 'ff:ff:ff:ff:ff:ff',
    })),
  },
  {
    name: '6: unknown inner source MAC',
    send: (peer, number) => peer.send(encapsulate(peer.side, right(peer.side, number), {
      sourceMac: '02:11:22:33:44:55',
    })),
  },
  {
    name: '13: inner packet of 1450 bytes',
    send: (peer, number) => peer.sendEcho(podAddress(2, POD, peer.side.family),
      podAddress(1, POD, peer.side.family), number, peer.side.family === 'IPv4' ? 1422 : 1402),
  },
  {
    name: '14: outer fragments, inner packet of 1472 bytes',
    send: (peer, number) => peer.sendEcho(podAddress(2, POD, peer.side.family),
      podAddress(1, POD, peer.side.family), number, peer.side.family === 'IPv4' ? 1444 : 1424),
  },
  {
    name: 'from the peer\'s base address',
    send: (peer, number) => peer.sendEcho(
      podAddress(2, 0, peer.side.family), podAddress(1, POD, peer.side.family), number),
  },
  {
    name: 'from the peer\'s node address',
    send: (peer, number) => peer.sendEcho(
      nodeAddress(2, peer.side.family), podAddress(1, POD, peer.side.family), number),
  },
  {
    name: 'for a pod on a TAP',
    send: (peer, number) => peer.sendEcho(
      podAddress(2, POD, peer.side.family), podAddress(1, POD + 1, peer.side.family), number),
  },
  {
    name: 'for the node\'s base address',
    send: (peer, number) => peer.sendEcho(
      podAddress(2, POD, peer.side.family), podAddress(1, 0, peer.side.family), number),
  },
];

for (const family of FAMILIES) {
  for (const { name, send } of TAKEN) {
    testNeeding('tun', test, `${family}: ${name}: answered`, async () => {
      const peer = (await theLab()).forges[family];
      const before = await drops();
      const numbers = Array.from({ length: COUNT }, nextNumber);
      for (const number of numbers) send(peer, number);
      await peer.replies(numbers);
      const after = await drops();
      assert.equal(added(before.inbound, after.inbound), {});
      assert.equal(added(before.outbound, after.outbound), {});
    });
  }
}

/** Whom a pod must not speak for. */
const SPOOFED: { name: string; source(family: Family, own: number): string }[] = [
  {
    name: 'another pod here',
    source: (family, own) => podAddress(1, own === POD ? POD + 1 : POD, family),
  },
  { name: 'nobody in our podCIDR', source: (family) => podAddress(1, 99, family) },
  { name: 'the node', source: (family) => nodeAddress(1, family) },
  { name: 'the node\'s base address', source: (family) => podAddress(1, 0, family) },
  { name: 'a pod of the peer', source: (family) => podAddress(2, POD, family) },
  { name: 'the peer', source: (family) => nodeAddress(2, family) },
  { name: 'a pod of a third node', source: (family) => podAddress(3, POD, family) },
  { name: 'somebody outside', source: (family) => OUTSIDE[family] },
];

for (const family of FAMILIES) {
  for (const [device, own] of [['tun', POD], ['tap', POD + 1]] as const) {
    for (const { name, source } of SPOOFED) {
      testNeeding('tun', test, `${family}: a pod on a ${device} as ${name}: dropped`, async () => {
        const { forges, taps } = await theLab();
        const send = (from: string, number: number): void =>
          taps[device].send(echoRequest(from, podAddress(2, POD, family), number));
        await expectDropped(forges[family].side, 'outbound', 'spoofedSource',
          (number) => send(source(family, own), number),
          (number) => send(podAddress(1, own, family), number));
      });
    }
  }
}

testNeeding('tun', test, '`culvert status -o json` has counted all that, and no more', async () => {
  const counted = await dropsByCommand();
  for (const direction of ['outbound', 'inbound'] as const) {
    assert.equal(added({}, counted[direction]), total[direction], direction);
    assert.ok(Object.keys(total[direction]).length > 0);
  }
});

testNeeding('tun', test, 'all that came to the peer was right in every field', async () => {
  const { forges } = await theLab();
  for (const family of FAMILIES) {
    forges[family].drain();
    assert.equal(forges[family].faults, []);
    assert.ok(forges[family].echoes.length > 0);
  }
});

test.run();

// A cluster in which every kind of tunnel is in use at once: six nodes on one link, three of them
// Culvert's. Each pair of pods reaches each other.
//
//             1 Culvert   2 Culvert   3 Culvert
//   2 Culvert   vxlan
//   3 Culvert   geneve      ipip
//   4 kernel    vxlan       vxlan       vxlan         the kernel's VXLAN, as flannel sets it up
//   5 kernel    direct      direct      direct        routes on the link, with rp_filter=1
//   6 flannel   udp         udp         udp           flannel's udp backend, IPv4 only
//
// Pod N is 10.244.N.10 and fd00:10:244:N::a; node N is 192.0.2.N. Nodes 4, 5 and 6 have routes on
// the link to each other. TX checksum offload is off on every veth that a node sends from.

import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { findCompiler } from '../../bench/native.ts';
import type { Family } from '../../engine/address.ts';
import { needs, printSkip, testNeeding } from '../support/needs.ts';
import { ipv4, PROTOCOL, udp } from '../support/packets.ts';
import { sendPackets } from './support/capture.ts';
import { expectStreams } from './support/tunnel-checks.ts';
import { addDirect, addFlannelUdp, addKernelVxlan, routeTo } from './support/tunnel-nodes.ts';
import { FAMILIES, straight, TunnelLab, type Way, type Ways } from './support/tunnel-lab.ts';
import { PATIENCE_MS } from '../support/until.ts';

const CULVERTS = [1, 2, 3];
const KERNEL = 4;
const DIRECT = 5;
const FLANNEL = 6;
const POD_MTU = 1400;
const VXLAN: Way = { kind: 'vxlan', vni: 1, port: 8472 };
const GENEVE: Way = { kind: 'geneve', vni: 7, hasEthernet: true };
const BYTES = 5 * 1024 * 1024;

/** By which way two Culvert nodes reach each other. */
const BETWEEN: Record<string, Way> = { '1-2': VXLAN, '1-3': GENEVE, '2-3': { kind: 'ipip' } };

const test = suite('netns/mixed-tunnels');
const hasCompiler = findCompiler() !== null;
/** One address family carries both where the peer's tunnel is over IPv4 alone. */
const overIpv4 = (way: Way): Ways =>
  ({ IPv4: { way, carrier: 'IPv4' }, IPv6: { way, carrier: 'IPv4' } });

const others: number[] = [
  ...(needs.vxlan ? [KERNEL] : []), DIRECT, ...(hasCompiler ? [FLANNEL] : []),
];
if (!needs.vxlan) printSkip('a node with the kernel\'s VXLAN', 'a kernel with vxlan is needed');
if (!hasCompiler) printSkip('a node with flannel\'s udp backend', 'no C compiler');

let made: TunnelLab | null = null;

function waysTo(self: number, other: number): Ways {
  if (other === KERNEL) return overIpv4(VXLAN);
  if (other === DIRECT) return straight({ kind: 'direct' });
  if (other === FLANNEL) return { IPv4: { way: { kind: 'udp' } } };
  const way = BETWEEN[`${Math.min(self, other)}-${Math.max(self, other)}`];
  if (way === undefined) throw new Error(`no way from ${self} to ${other}`);
  return overIpv4(way);
}

async function lab(): Promise<TunnelLab> {
  made ??= await TunnelLab.create(async (created) => {
    for (const number of CULVERTS) await created.addCulvert(number, [], POD_MTU);
    if (needs.vxlan) {
      await addKernelVxlan(created, KERNEL, { peers: CULVERTS, vni: 1, port: 8472 });
    }
    await addDirect(created, DIRECT, CULVERTS);
    if (hasCompiler) await addFlannelUdp(created, FLANNEL, CULVERTS);
    for (const number of others) {
      const { node } = created.place(number);
      for (const other of others.filter((candidate) => candidate !== number)) {
        if (node !== null) await routeTo(node.host.links, other);
      }
    }
    for (const number of CULVERTS) {
      const ways = [...CULVERTS, ...others].filter((other) => other !== number)
        .map((other): [number, Ways] => [other, waysTo(number, other)]);
      await created.tell(number, overIpv4(VXLAN), Object.fromEntries(ways));
    }
  });
  return made;
}

test.after(() => made?.close());

/** Between flannel's node and those of Culvert there is no IPv6. */
function canReach(from: number, to: number, family: Family): boolean {
  const ends = [from, to];
  const hasTunnel = ends.includes(FLANNEL) && ends.some((end) => CULVERTS.includes(end));
  return family === 'IPv4' || !hasTunnel;
}

for (const family of FAMILIES) {
  testNeeding('bridge', test, `${family}: every pod reaches every other`, async () => {
    const bed = await lab();
    const numbers = [...bed.places.keys()];
    const failures: string[] = [];
    for (const from of numbers) {
      for (const to of numbers.filter((number) => number !== from)) {
        if (!canReach(from, to, family)) continue;
        const address = bed.place(to).address[family];
        for (const verb of ['ping', 'tcp', 'udp'] as const) {
          const answer = await bed.place(from).pod.agent.ask(
            { verb, address, size: 1000, timeoutMs: PATIENCE_MS });
          if (!answer.ok) failures.push(`${verb} ${from} to ${to}: ${answer.detail}`);
          // Nobody's address is changed on the way: the pod answers the pod.
          else if (verb === 'tcp') {
            assert.is(answer.from, bed.place(from).address[family]);
          }
        }
      }
    }
    assert.equal(failures, [], failures.join('\n'));
  });
}

testNeeding('bridge', test, 'streams between nodes of all kinds arrive unchanged', async () => {
  const bed = await lab();
  for (const [one, two] of [[1, 2], [1, 3], [2, 3], ...others.map((other) => [1, other])]) {
    await expectStreams([bed.place(one ?? 0), bed.place(two ?? 0)], 'IPv4',
      `nodes ${one} and ${two}`, BYTES);
  }
});

testNeeding('bridge', test, 'without a tunnel, nobody speaks for a node that has one', async () => {
  const bed = await lab();
  const before = await bed.status(1);
  const [to, from] = [bed.place(1), bed.place(DIRECT)];
  const node = from.node?.host;
  const destination = to.address.IPv4;
  // From pods of nodes that come by tunnels, from one of the receiver's own, and from nowhere.
  const sources = [2, 3, ...others.filter((other) => other !== DIRECT)]
    .map((number) => bed.place(number).address.IPv4);
  const forged = [...sources, destination.replace(/10$/, '11'), '10.244.99.1'].map((source) =>
    ipv4({ source, destination, protocol: PROTOCOL.udp },
      udp({ source, destination, sourcePort: 9, destinationPort: 9 }, new Uint8Array(8))));
  if (node !== undefined) sendPackets(node, destination, forged);
  const dropsOf = ({ drops }: typeof before): number =>
    Object.values(drops.inbound).reduce((sum, count) => sum + count, 0)
    + Object.values(drops.outbound).reduce((sum, count) => sum + count, 0);
  await bed.culvert(1).waitFor((status) => dropsOf(status) >= dropsOf(before) + forged.length);
});

test.run();

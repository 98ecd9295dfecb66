// Culvert and the tunnels of Open vSwitch, which are its own in its userspace datapath: Geneve and
// VXLAN, one after the other between the same two nodes.
//
//     pod 1                                        node 2, its own pod
//   [ TUN  ]--culvert [ eth0 ]----[ switch ]----[ eth0--br-out ~ tunnel0--br-in ]
//   10.244.1.10      192.0.2.1                  192.0.2.2          10.244.2.10
//   fd00:10:244:1::a                                           fd00:10:244:2::a
//
// TX checksum offload is off on the veths that nodes send from.

import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import type { StatusReport } from '../../engine/model.ts';
import { testNeeding } from '../support/needs.ts';
import { findTool, toolReason } from '../support/tools.ts';
import { expectDatagrams, expectNoDrops, expectPings, expectStreams }
  from './support/tunnel-checks.ts';
import { addGeneveOption, addOpenVswitch, removeGeneveOption, SWITCH_MTU, switchTunnel,
  type SwitchPlace } from './support/tunnel-nodes.ts';
import { FAMILIES, TunnelLab, type Way, type Ways } from './support/tunnel-lab.ts';

const CULVERT = 1;
const SWITCH = 2;
/** An option of nobody's: RFC 8926 section 7 leaves this class to experiments. */
const OPTION_CLASS = 0xffff;
const OPTION_TYPE = 1;
const OPTION_CRITICAL = 0x80;
const OPTION_BYTES = 5 * 1024 * 1024;
const SILENCE_MS = 1000;
const KINDS: { name: 'geneve' | 'vxlan'; vni: number; port: number; way: Way }[] = [
  {
    name: 'geneve', vni: 0x123456, port: 6081,
    way: { kind: 'geneve', vni: 0x123456, hasEthernet: true },
  },
  { name: 'vxlan', vni: 1, port: 8472, way: { kind: 'vxlan', vni: 1, port: 8472 } },
];

const test = suite('netns/switch-tunnels');
const reason = findTool('ovs-vswitchd') === null ? toolReason('ovs-vswitchd') : null;
let made: { lab: TunnelLab; other: SwitchPlace } | null = null;

async function bed(): Promise<{ lab: TunnelLab; other: SwitchPlace }> {
  if (made !== null) return made;
  let other: SwitchPlace | null = null;
  const lab = await TunnelLab.create(async (created) => {
    await created.addCulvert(CULVERT, [], SWITCH_MTU);
    other = await addOpenVswitch(created, SWITCH, CULVERT);
  });
  made = { lab, other: other as unknown as SwitchPlace };
  return made;
}

test.after(() => made?.lab.close());

for (const { name, vni, port, way } of KINDS) {
  testNeeding('bridge', test, `${name}: pings, also in fragments`, async () => {
    const { lab, other } = await bed();
    const entry = { way, carrier: 'IPv4' } as const;
    const ways: Ways = { IPv4: entry, IPv6: entry };
    await lab.tell(CULVERT, ways, { [SWITCH]: ways });
    await switchTunnel(other, CULVERT, name, vni, port);
    for (const family of FAMILIES) await expectPings([lab.place(CULVERT), other], family);
  }, reason);
  for (const family of FAMILIES) {
    testNeeding('bridge', test, `${name}: ${family}: UDP of every size`, async () => {
      const { lab, other } = await bed();
      await expectDatagrams([lab.place(CULVERT), other], family);
    }, reason);
    testNeeding('bridge', test, `${name}: ${family}: 50 MB of TCP arrive unchanged`, async () => {
      const { lab, other } = await bed();
      await expectStreams([lab.place(CULVERT), other], family, `Open vSwitch, ${name}`);
    }, reason);
  }
}

testNeeding('bridge', test, 'geneve: options are passed over, but not critical ones', async () => {
  const { lab, other } = await bed();
  const [geneve] = KINDS;
  if (geneve === undefined) return;
  const entry = { way: geneve.way, carrier: 'IPv4' } as const;
  const ways: Ways = { IPv4: entry, IPv6: entry };
  await lab.tell(CULVERT, ways, { [SWITCH]: ways });
  await switchTunnel(other, CULVERT, 'geneve', geneve.vni, geneve.port);
  await addGeneveOption(other, OPTION_CLASS, OPTION_TYPE);
  for (const family of FAMILIES) await expectPings([lab.place(CULVERT), other], family);
  await expectStreams([lab.place(CULVERT), other], 'IPv4', 'geneve with an option', OPTION_BYTES);
  const countOf = ({ drops }: StatusReport): number => drops.inbound.tunnelOption ?? 0;
  assert.is(countOf(await lab.status(CULVERT)), 0);

  await addGeneveOption(other, OPTION_CLASS, OPTION_TYPE | OPTION_CRITICAL);
  const answer = await other.pod.agent.ask(
    { verb: 'ping', address: lab.place(CULVERT).address.IPv4, size: 56, timeoutMs: SILENCE_MS });
  assert.not(answer.ok, 'a packet with an option that must be understood came through');
  assert.ok(countOf(await lab.status(CULVERT)) > 0, 'it was not counted');
  await removeGeneveOption(other);
  await expectPings([lab.place(CULVERT), other], 'IPv4');
}, reason);

// A switch floods what goes to a group, and neighbours are looked for by groups.
testNeeding('bridge', test, 'no packet was dropped but those that had to be', async () =>
  expectNoDrops((await bed()).lab, CULVERT, /\.(wrongMac|tunnelOption|wrongTunnel)=/), reason);

test.run();

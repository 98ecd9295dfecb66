// A peer on our link that routes, without a tunnel, and takes packets only from where it would send
// the answers (rp_filter=1): what host-gw and DirectRouting of flannel's are, and Calico's
// CrossSubnet.
//
//     pod 1                                                              pod 2
//   [ TUN  ]--culvert, node's stack [ eth0 ]----[ switch ]----[ eth0 ] node's stack [ veth ]
//   10.244.1.10                    192.0.2.1                192.0.2.2          10.244.2.10
//   fd00:10:244:1::a              2001:db8::1             2001:db8::2     fd00:10:244:2::a
//
// TX checksum offload is off on the veths that nodes send from.

import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { addressText } from '../../engine/address.ts';
import { testNeeding } from '../support/needs.ts';
import { parseEthernet, parseIpv4, PROTOCOL } from '../support/packets.ts';
import { Capture } from './support/capture.ts';
import { expectDatagrams, expectNoDrops, expectPathMtu, expectPings, expectStreams }
  from './support/tunnel-checks.ts';
import { addDirect } from './support/tunnel-nodes.ts';
import { FAMILIES, straight, TunnelLab, type Place } from './support/tunnel-lab.ts';

const CULVERT = 1;
const DIRECT = 2;
const POD_MTU = 1500;
/** The peer's link to its pod takes less, and its kernel says so. */
const NARROW_MTU = 1400;

const test = suite('netns/direct-peer');
let made: TunnelLab | null = null;

async function lab(): Promise<TunnelLab> {
  made ??= await TunnelLab.create(async (created) => {
    await created.addCulvert(CULVERT, [], POD_MTU);
    await addDirect(created, DIRECT, [CULVERT]);
    const ways = straight({ kind: 'direct' });
    await created.tell(CULVERT, ways, { [DIRECT]: ways });
  });
  return made;
}

test.after(() => made?.close());

async function pair(): Promise<[Place, Place]> {
  const bed = await lab();
  return [bed.place(CULVERT), bed.place(DIRECT)];
}

for (const family of FAMILIES) {
  testNeeding('bridge', test, `${family}: pings, also in fragments`, async () =>
    expectPings(await pair(), family));
  testNeeding('bridge', test, `${family}: UDP of every size, and in fragments`, async () =>
    expectDatagrams(await pair(), family));
  testNeeding('bridge', test, `${family}: 50 MB of TCP arrive unchanged`, async () =>
    expectStreams(await pair(), family, 'direct'));
}

testNeeding('bridge', test, 'what is on the link is the pod\'s packet', async () => {
  const bed = await lab();
  const [ours, theirs] = await pair();
  const capture = new Capture(bed.bed.hub, `port${DIRECT}`);
  try {
    const address = theirs.address.IPv4;
    const answer = await ours.pod.agent.ask({ verb: 'ping', address, size: 100, timeoutMs: 5000 });
    assert.ok(answer.ok, answer.detail);
    const [frame = new Uint8Array(0)] = await capture.take(1, (candidate) => {
      const { source, protocol } = parseIpv4(parseEthernet(candidate).payload);
      return protocol === PROTOCOL.icmp && addressText(source) === ours.address.IPv4;
    });
    const { destination, ttl } = parseIpv4(parseEthernet(frame).payload);
    assert.is(addressText(destination), address);
    // The node's stack is the one router that it has passed.
    assert.is(ttl, 63);
  } finally {
    capture.close();
  }
});

for (const family of FAMILIES) {
  testNeeding('bridge', test, `${family}: the pod hears of the path's MTU`, async () => {
    const [ours, theirs] = await pair();
    await theirs.node?.host.links.setLink(`pod${DIRECT}`, { mtu: NARROW_MTU });
    await expectPathMtu([ours, theirs], family, NARROW_MTU);
  });
}

testNeeding('bridge', test, 'no packet was dropped', async () =>
  expectNoDrops(await lab(), CULVERT));

test.run();

// Two Culvert nodes and one that runs flannel with the kernel's VXLAN, in one cluster: they know of
// each other what the API server's Nodes say, and nothing else. kube-lab.ts draws the topology.

import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { testNeeding } from '../support/needs.ts';
import { KubeLab, type Place } from './support/kube-lab.ts';

const test = suite('netns/kubernetes-flannel');
const PREFIX = 'flannel.alpha.coreos.com/';
const FAMILIES = ['IPv4', 'IPv6'] as const;
const FLANNEL = 3;

let made: KubeLab | null = null;
async function lab(): Promise<KubeLab> {
  made ??= await KubeLab.create(2);
  return made;
}
test.after(() => made?.close());

/** The MAC in a node's annotation. */
function mac(bed: KubeLab, number: number, name = 'backend-data'): string {
  const data = JSON.parse(bed.annotations(number)[PREFIX + name] ?? '{}') as { VtepMAC?: string };
  return data.VtepMAC ?? '';
}

/** Waits until a node's pod is reached from the Culvert nodes, and they from it, and says how long
 * it took. */
async function reachedAgain(
  bed: KubeLab, place: Place, what: string, places = bed.places,
): Promise<void> {
  const startMs = performance.now();
  for (const other of places.filter((candidate) => candidate !== place)) {
    for (const family of FAMILIES) {
      await bed.until(`${family} to ${place.name}`, () => bed.reaches(other, place, family));
      await bed.until(`${family} from ${place.name}`, () => bed.reaches(place, other, family));
    }
  }
  const tookMs = performance.now() - startMs;
  console.log(`${what}: all reach each other after ${Math.round(tookMs)} ms`);
}

testNeeding('vxlan', test, 'Culvert nodes write what flannel would, byte by byte', async () => {
  const bed = await lab();
  for (const number of [1, 2]) {
    await bed.until('the annotations',
      () => bed.annotations(number)[`${PREFIX}public-ipv6`] !== undefined);
    assert.equal(bed.annotations(number), {
      [`${PREFIX}backend-data`]: `{"VNI":1,"VtepMAC":"${mac(bed, number)}"}`,
      [`${PREFIX}backend-type`]: 'vxlan',
      [`${PREFIX}backend-v6-data`]: `{"VNI":1,"VtepMAC":"${mac(bed, number, 'backend-v6-data')}"}`,
      [`${PREFIX}kube-subnet-manager`]: 'true',
      [`${PREFIX}public-ip`]: `192.0.2.${number}`,
      [`${PREFIX}public-ipv6`]: `2001:db8::${number}`,
    });
    const status = bed.server.get('nodes', `node-${number}`)?.['status'] as {
      conditions: { type: string; status: string; reason?: string; message?: string }[];
    };
    const condition = status.conditions.find(({ type }) => type === 'NetworkUnavailable');
    assert.equal([condition?.status, condition?.reason, condition?.message],
      ['False', 'FlannelIsUp', 'Flannel is running on this node']);
  }
  const names = (number: number): string[] => Object.keys(bed.annotations(number)).sort();
  assert.equal(names(1), names(FLANNEL));
});

testNeeding('vxlan', test, 'all pods reach each other, in both families', async () => {
  const bed = await lab();
  console.log(`all pods reach each other after ${Math.round(await bed.allReach())} ms`);
  assert.equal([...(bed.flannel?.leases.keys() ?? [])].sort(), ['node-1', 'node-2']);
});

testNeeding('vxlan', test, 'a peer with new MACs', async () => {
  const bed = await lab();
  const before = mac(bed, FLANNEL);
  bed.flannel = await bed.flannel?.restarted() ?? null;
  assert.not.equal(mac(bed, FLANNEL), before);
  await reachedAgain(bed, bed.place(FLANNEL), 'new MACs');
});

testNeeding('vxlan', test, 'a peer with a new address', async () => {
  const bed = await lab();
  await bed.addUnderlayAddress(bed.place(FLANNEL), '192.0.2.33');
  bed.flannel = await bed.flannel?.restarted({ v4: '192.0.2.33' }) ?? null;
  await reachedAgain(bed, bed.place(FLANNEL), 'new address');
});

testNeeding('vxlan', test, 'flannel heeds our address changing in one family', async () => {
  const bed = await lab();
  const [before, before6] = [mac(bed, 1), mac(bed, 1, 'backend-v6-data')];
  const patch = (value: string | null): void => {
    bed.server.patch('nodes', 'node-1', {
      metadata: { annotations: { [`${PREFIX}public-ip-overwrite`]: value } },
    });
  };
  const known = (address: string) => (): boolean =>
    bed.flannel?.leases.get('node-1')?.v4.address === address;
  patch('192.0.2.111');
  await bed.until('the overwritten address', known('192.0.2.111'));
  assert.is(mac(bed, 1), before);
  assert.not.equal(mac(bed, 1, 'backend-v6-data'), before6);
  patch(null);
  await bed.until('the own address', known('192.0.2.1'));
  await reachedAgain(bed, bed.place(1), 'overwritten, and back');
});

testNeeding('vxlan', test, 'our own address on the underlay changes', async () => {
  const bed = await lab();
  await bed.moveUnderlay(bed.place(1), '192.0.2.101');
  const tookMs = await bed.until('the new address',
    () => bed.annotations(1)[`${PREFIX}public-ip`] === '192.0.2.101');
  console.log(`told after ${Math.round(tookMs)} ms`);
  await reachedAgain(bed, bed.place(1), 'own address changed');
  const { underlay } = await bed.culvert(1).status();
  assert.equal(underlay.addresses, ['192.0.2.101', '2001:db8::1']);
});

testNeeding('vxlan', test, 'the next daemon goes on from there', async () => {
  const bed = await lab();
  await bed.replaceDaemon(1);
  const { handover, underlay } = await bed.culvert(1).status();
  assert.equal([handover.pods, handover.lostPods], [1, 0]);
  assert.equal(underlay.addresses, ['192.0.2.101', '2001:db8::1']);
  await reachedAgain(bed, bed.place(1), 'daemon killed');
});

testNeeding('vxlan', test, 'beside a device of flannel no daemon starts', async () => {
  const bed = await lab();
  const complaint = await bed.complaint(bed.place(FLANNEL));
  assert.match(complaint, /bind on 192\.0\.2\.3:8472: EADDRINUSE.*: flannel\.1 has it\./);
});

testNeeding('vxlan', test, 'what somebody else writes on our Node is set right', async () => {
  const bed = await lab();
  bed.server.patch('nodes', 'node-2', {
    metadata: {
      annotations: { [`${PREFIX}backend-type`]: 'extension', [`${PREFIX}public-ip`]: '' },
    },
  });
  await bed.until('our annotations', () => bed.annotations(2)[`${PREFIX}backend-type`] === 'vxlan'
    && bed.annotations(2)[`${PREFIX}public-ip`] === '192.0.2.2');
  await reachedAgain(bed, bed.place(2), 'set right');
});

testNeeding('vxlan', test, 'a sidecar that starts again writes nothing', async () => {
  const bed = await lab();
  const before = bed.server.get('nodes', 'node-1')?.metadata.resourceVersion;
  await bed.stopSidecar(1);
  await bed.startSidecar(1);
  await bed.culvert(1).waitFor(({ sync }) => sync.connected && sync.revision !== null);
  await reachedAgain(bed, bed.place(1), 'sidecar started again');
  assert.is(bed.server.get('nodes', 'node-1')?.metadata.resourceVersion, before);
});

testNeeding('vxlan', test, 'our Node made anew', async () => {
  const bed = await lab();
  const before = mac(bed, 2);
  bed.server.delete('nodes', 'node-2');
  await bed.until('flannel forgets it', () => bed.flannel?.leases.has('node-2') === false);
  bed.server.create('nodes', bed.nodeObject(2));
  await bed.until('the annotations', () => mac(bed, 2) !== '');
  assert.not.equal(mac(bed, 2), before);
  await reachedAgain(bed, bed.place(2), 'our Node made anew');
});

testNeeding('vxlan', test, 'a peer that comes back with another pod network', async () => {
  const bed = await lab();
  const place = bed.place(FLANNEL);
  bed.server.delete('nodes', 'node-3');
  await bed.until('peers forget it', async () => (await bed.culvert(1).status()).nodes === 2
    && (await bed.culvert(2).status()).nodes === 2);
  for (const family of FAMILIES) assert.not.ok(await bed.reaches(bed.place(1), place, family));
  bed.server.create('nodes', bed.nodeObject(FLANNEL, 9));
  bed.flannel = await bed.flannel?.restarted() ?? null;
  const moved = { IPv4: '10.244.9.10', IPv6: 'fd00:10:244:9::a' };
  await bed.movePod(place, moved);
  await reachedAgain(bed, bed.place(FLANNEL), 'another pod network');
});

testNeeding('vxlan', test, 'a peer that is gone is no peer', async () => {
  const bed = await lab();
  await bed.flannel?.close();
  bed.server.delete('nodes', 'node-3');
  for (const number of [1, 2]) {
    await bed.until('no peer', async () => (await bed.culvert(number).status()).nodes === 2);
    const status = await bed.culvert(number).status();
    assert.is(status.tables.find(({ name }) => name === 'peers')?.used, 2);
    assert.equal(status.sync.problems, []);
  }
  await reachedAgain(bed, bed.place(1), 'without it', bed.places.slice(0, 2));
});

testNeeding('vxlan', test, 'an older server, VNI and port as for Windows', async () => {
  await made?.close();
  made = await KubeLab.create(1, { vni: 4096, port: 4789 }, { version: '1.20' });
  console.log(`all pods reach each other after ${Math.round(await made.allReach())} ms`);
  assert.match(made.annotations(1)[`${PREFIX}backend-data`] ?? '', /^\{"VNI":4096,/);
});

test.run();

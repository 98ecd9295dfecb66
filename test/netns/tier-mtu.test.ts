// The MTU of the underlay, and that of a pod, go down and up again while streams run at every tier:
// the same bytes arrive, without a stall.
//
//     pod                                                              pod
//   [ TUN ]--culvert [ eth0 ]----[ hub ]----[ eth0 ] kernel VXLAN----[ veth ]
//   10.244.1.10     192.0.2.1             192.0.2.2              10.244.2.10
//   MTU 1430 .. 1280      MTU 1500 .. 1400
//
// Pods send packets that no longer fit the underlay behind their tunnel headers: until the daemon
// has seen the change the outer packets go in fragments, as the kernel's own VXLAN sends them, and
// after it pods hear what is too large.

import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import type { Host } from '../../cli/demo/bed.ts';
import { dropsOf, FAMILIES, STRAIGHT } from './support/lab.ts';
import { TierLab, TIERS, tierTest } from './support/tier-lab.ts';

const BYTES = 30 * 1024 * 1024;
const TIMEOUT_MS = 60_000;
/** TCP sends again after 0.2 s, then waits twice as long each time: this is seven times in vain. */
const STALL_MS = 25_400;
const CHANGE_MS = 50;
const UNDERLAY_MTUS = [1400, 1500];
const POD_MTUS = [1280, 1430];

/** Gives the interfaces one MTU after the other until `done`, and the last one in the end. */
async function alternate(
  links: [host: Host, name: string][], mtus: number[], done: Promise<unknown>,
): Promise<number> {
  let isDone = false;
  let changes = 0;
  void done.catch(() => {}).finally(() => { isDone = true; });
  while (!isDone) {
    for (const mtu of mtus) {
      await new Promise((resolve) => setTimeout(resolve, CHANGE_MS));
      for (const [host, name] of links) await host.links.setLink(name, { mtu });
      changes += 1;
    }
  }
  return changes;
}

async function streamMeanwhile(
  lab: TierLab, links: [Host, string][], mtus: number[], title: string,
): Promise<void> {
  for (const family of FAMILIES) {
    for (const way of ['send', 'fetch'] as const) {
      const stream = lab.traffic(1)[way](lab.address(2, family), BYTES, TIMEOUT_MS);
      const changes = await alternate(links, mtus, stream);
      const { same, bytes, longestPauseMs, elapsedMs } = await stream;
      const what = `${title}, ${family}, ${way}`;
      assert.ok(same, `${what}: ${bytes} bytes, not the same`);
      assert.ok(longestPauseMs < STALL_MS, `${what}: nothing for ${Math.round(longestPauseMs)} ms`);
      console.log(`${what}: ${changes} changes in ${Math.round(elapsedMs)} ms, longest pause `
        + `${Math.round(longestPauseMs)} ms`);
    }
  }
}

for (const tier of TIERS) {
  const name = `netns/tier-mtu, ${tier}`;
  const test = suite(name);
  let made: TierLab | null = null;
  const lab = async (): Promise<TierLab> => {
    made ??= await TierLab.create({ tiers: [tier, null], carriers: STRAIGHT });
    return made;
  };
  test.after(() => made?.close());

  tierTest(tier, test, `${tier}: the underlay's MTU changes`, async () => {
    const bed = await lab();
    const { node } = bed.lab.place(1);
    await streamMeanwhile(bed, [[node.host, 'eth0'], [bed.lab.bed.hub, node.port]], UNDERLAY_MTUS,
      `${name}, underlay`);
  });
  tierTest(tier, test, `${tier}: a pod's MTU changes`, async () => {
    const bed = await lab();
    await streamMeanwhile(bed, [[bed.pod(1), 'eth0']], POD_MTUS, `${name}, pod`);
  });
  tierTest(tier, test, `${tier}: counters say so`, async () => {
    const status = await (await lab()).status(1);
    const drops = dropsOf(status);
    console.log(`${name}: ${drops.join(' ') || 'no drops'}`);
    assert.is(status.dataPlane.crashes, 0);
    assert.equal(drops.filter((drop) => !drop.startsWith('outbound.tooBig=')), []);
  });

  test.run();
}

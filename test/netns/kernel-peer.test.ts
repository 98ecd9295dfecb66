// Culvert and the kernel's VXLAN as flannel programs it, talking: ICMP, TCP, UDP of every size,
// fragments; both pods begin each of them.
//
//     pod                                                                        pod
//   [ TUN  ]--culvert [ eth0 ]----[ hub ]----[ eth0 ] flannel.1, flannel-v6.1--[ veth ]
//   10.244.1.10      192.0.2.1              192.0.2.2                       10.244.2.10
//   fd00:10:244:1::a 2001:db8::1          2001:db8::2                  fd00:10:244:2::a
//
// In one bed each family carries its own, as flannel has it; in another each carries the other; in
// the last IPv4 carries both, so that both share one tunnel. TX checksum offload is off on every
// veth that a node sends from.

import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import type { AgentAnswer, AgentRequest } from '../../cli/demo/agent.ts';
import { testNeeding } from '../support/needs.ts';
import { dropsOf, FAMILIES, Lab, STRAIGHT, type Carriers } from './support/lab.ts';
import { PATIENCE_MS } from '../support/until.ts';

const CULVERT = 1;
const KERNEL = 2;
const TRANSFER_BYTES = 100 * 1024 * 1024;
const PING_SIZES = [0, 56, 1300, 3000, 20_000];
const FRAGMENTED_SIZES = [...range(1500, 8000, 50), 60_000];

interface Layout {
  name: string;
  carriers: Carriers;
  tunnels: number;
}

const LAYOUTS: Layout[] = [
  { name: 'each over its own', carriers: STRAIGHT, tunnels: 2 },
  { name: 'each over the other', carriers: { IPv4: 'IPv6', IPv6: 'IPv4' }, tunnels: 2 },
  { name: 'both over IPv4', carriers: { IPv4: 'IPv4', IPv6: 'IPv4' }, tunnels: 1 },
];

function range(least: number, most: number, step = 1): number[] {
  return Array.from({ length: Math.floor((most - least) / step) + 1 }, (_, at) =>
    least + (at * step));
}

for (const { name, carriers, tunnels } of LAYOUTS) {
  const test = suite(`netns/kernel-peer, ${name}`);
  let made: Lab | null = null;
  const lab = async (): Promise<Lab> => {
    made ??= await Lab.create({ nodes: ['culvert', 'kernel'], carriers });
    return made;
  };
  test.after(() => made?.close());

  for (const family of FAMILIES) {
    const title = (what: string): string => `${family} over ${carriers[family]}: ${what}`;

    /** One pod asks for what the other serves, then the other way round. */
    const bothWays = async (
      request: (address: string) => AgentRequest,
      onAnswer: (answer: AgentAnswer, from: string) => void = () => {},
    ): Promise<void> => {
      const bed = await lab();
      for (const [from, to] of [[CULVERT, KERNEL], [KERNEL, CULVERT]] as const) {
        const asked = request(bed.place(to).address[family]);
        const answer = await bed.place(from).pod.agent.ask(asked);
        const who = from === CULVERT ? 'from the Culvert pod' : 'from the kernel pod';
        assert.ok(answer.ok, `${JSON.stringify(asked).slice(0, 200)} ${who}: ${answer.detail}`);
        onAnswer(answer, who);
      }
    };

    testNeeding('vxlan', test, title('pings, also in fragments'), async () => {
      for (const size of PING_SIZES) {
        await bothWays((address) => ({ verb: 'ping', address, size, timeoutMs: PATIENCE_MS }));
      }
    });

    testNeeding('vxlan', test, title('UDP of every size from 1 to 1500 bytes'), async () => {
      const sizes = range(1, 1500);
      await bothWays((address) => ({ verb: 'sizes', address, sizes, timeoutMs: PATIENCE_MS }),
        ({ detail, elapsedMs }, who) =>
          console.log(`${title('UDP')} ${who}: ${detail}, ${Math.round(elapsedMs)} ms`));
    });

    testNeeding('vxlan', test, title('UDP in fragments, up to 60,000 bytes'), () =>
      bothWays((address) =>
        ({ verb: 'sizes', address, sizes: FRAGMENTED_SIZES, timeoutMs: PATIENCE_MS }),
      ({ detail }, who) => console.log(`${title('fragments')} ${who}: ${detail}`)));

    testNeeding('vxlan', test, title('100 MB of TCP arrive unchanged'), () =>
      bothWays((address) =>
        ({ verb: 'upload', address, bytes: TRANSFER_BYTES, timeoutMs: PATIENCE_MS }),
      ({ elapsedMs }, who) => {
        const rate = Math.round((TRANSFER_BYTES * 8) / elapsedMs / 1000);
        console.log(`${title('TCP')} ${who}: ${rate} Mbit/s`);
      }));
  }

  testNeeding('vxlan', test, 'no packet was dropped', async () => {
    const status = await (await lab()).status(CULVERT);
    const drops = dropsOf(status);
    assert.equal(drops, [], drops.join(' '));
    assert.is(status.dataPlane.crashes, 0);
    assert.is(status.tables.find((table) => table.name === 'peers')?.used, tunnels);
  });

  test.run();
}

// Clusters of each of flannel's backend types: two Culvert nodes that know of each other what the
// API server says, and of the cluster what net-conf.json says.
//
//     node 1: culvert                       node 2: culvert
//     [ eth0 192.0.2.1/24   ]---switch---[ eth0 192.0.2.2/24   ]
//     [      2001:db8::1/64 ]            [      2001:db8::2/64 ]
//       pod 10.244.1.10                    pod 10.244.2.10
//           fd00:10:244:1::a                   fd00:10:244:2::a

import { renameSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { askAll } from '../../cli/client.ts';
import type { CulvertNode } from '../../cli/demo/culvert-node.ts';
import { PeerReportSchema } from '../../engine/model.ts';
import { TestApiServer } from '../support/api-server/server.ts';
import { testNeeding } from '../support/needs.ts';
import { addKubeCulvert, grantSidecar, kubeNode } from './support/kube-culvert.ts';
import { dropsOf } from './support/lab.ts';
import { expectPings, expectStreams } from './support/tunnel-checks.ts';
import { FAMILIES, POD_NETWORKS, TunnelLab } from './support/tunnel-lab.ts';
import { PATIENCE_MS } from '../support/until.ts';

const PREFIX = 'flannel.alpha.coreos.com/';
const STREAM_BYTES = 10 * 1024 * 1024;
const [NETWORK = '', NETWORK_6 = ''] = POD_NETWORKS;

interface Case {
  name: string;
  tunnel: object;
  families: readonly ('IPv4' | 'IPv6')[];
  /** What the nodes write as their type, and by which kind they reach each other. */
  type: string;
  kind: string;
  why: string;
}

const ON_LINK = 'on our link 192.0.2.0/24';
const CASES: Case[] = [
  { name: 'udp', tunnel: { Type: 'udp', Port: 9285 }, families: ['IPv4'], type: '', kind: 'udp',
    why: 'type udp' },
  { name: 'ipip', tunnel: { Type: 'ipip' }, families: ['IPv4'], type: 'ipip', kind: 'ipip',
    why: 'type ipip' },
  { name: 'host-gw', tunnel: { Type: 'host-gw' }, families: FAMILIES, type: 'host-gw',
    kind: 'direct', why: `type host-gw, ${ON_LINK}` },
  { name: 'vxlan, with DirectRouting', tunnel: { Type: 'vxlan', DirectRouting: true },
    families: FAMILIES, type: 'vxlan', kind: 'direct',
    why: `DirectRouting of net-conf.json, ${ON_LINK}` },
];

function netConfOf({ bed }: TunnelLab): string {
  return join(bed.folder, 'net-conf.json');
}

/** Writes what the nodes read: all at once, as a half-written file would be told of. */
function writeNetConf(
  lab: TunnelLab, { tunnel, families }: Pick<Case, 'tunnel' | 'families'>,
): void {
  const hasIpv6 = families.includes('IPv6');
  const file = netConfOf(lab);
  writeFileSync(`${file}.new`, JSON.stringify({
    Network: NETWORK, EnableIPv6: hasIpv6, ...hasIpv6 ? { IPv6Network: NETWORK_6 } : {},
    Backend: tunnel,
  }));
  renameSync(`${file}.new`, file);
}

/** A cluster of one type. */
class TypedLab {
  readonly lab: TunnelLab;
  readonly server: TestApiServer;
  readonly culverts: CulvertNode[];

  private constructor(lab: TunnelLab, server: TestApiServer, culverts: CulvertNode[]) {
    this.lab = lab;
    this.server = server;
    this.culverts = culverts;
  }

  static async create(entry: Case): Promise<TypedLab> {
    const server = new TestApiServer();
    grantSidecar(server);
    for (const number of [1, 2]) server.create('nodes', kubeNode(number));
    await server.start();
    const culverts: CulvertNode[] = [];
    const lab = await TunnelLab.create(async (made) => {
      made.onClose(() => server.close());
      const netConf = netConfOf(made);
      const hasIpv6 = entry.families.includes('IPv6');
      writeNetConf(made, entry);
      for (const number of [1, 2]) {
        culverts.push(await addKubeCulvert(made, server, number, {
          sync: ['--profile', 'flannel', '--net-conf', netConf],
          run: ['--net-conf', netConf],
          podNetworks: hasIpv6 ? POD_NETWORKS : [NETWORK],
        }));
      }
    });
    return new TypedLab(lab, server, culverts);
  }

  annotations(number: number): Record<string, string> {
    const all = this.server.get('nodes', `node-${number}`)?.metadata.annotations ?? {};
    return Object.fromEntries(Object.entries(all)
      .map(([name, value]) => [name.replace(PREFIX, ''), value]));
  }

  /** The ways to the other node, as soon as there are so many, of this kind. */
  async ways(number: number, count: number, wanted: string): Promise<string[][]> {
    const { runtimeDirectory } = this.culverts[number - 1] ?? { runtimeDirectory: '' };
    const deadline = performance.now() + PATIENCE_MS;
    for (;;) {
      const peers = await askAll(runtimeDirectory, 'peer.list', PeerReportSchema);
      if (peers.filter(({ kind }) => kind === wanted).length >= count) {
        return peers.map(({ family, kind, why = '' }) => [family, kind, why]);
      }
      if (performance.now() > deadline) throw new Error('waited in vain for peers');
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
  }
}

for (const entry of CASES) {
  const { name, families, type, kind, why } = entry;
  const test = suite(`netns/flannel-types, ${name}`);
  let made: TypedLab | null = null;
  const bed = async (): Promise<TypedLab> => (made ??= await TypedLab.create(entry));
  test.after(() => made?.lab.close());

  testNeeding('tun', test, 'nodes say what flannel\'s would, and reach each other so', async () => {
    const typed = await bed();
    for (const number of [1, 2]) {
      const [first] = await typed.ways(number, families.length, kind);
      assert.equal(first, ['IPv4', kind, why]);
      const written = typed.annotations(number);
      assert.is(written['backend-type'], type);
      assert.is(written['public-ip'], `192.0.2.${number}`);
      assert.is(written['public-ipv6'],
        families.includes('IPv6') ? `2001:db8::${number}` : undefined);
      if (type !== 'vxlan') assert.is(written['backend-data'], 'null');
    }
  });

  for (const family of families) {
    testNeeding('tun', test, `${family}: pings and a stream, both ways`, async () => {
      const { lab } = await bed();
      const pair = [lab.place(1), lab.place(2)] as const;
      await expectPings(pair, family);
      await expectStreams(pair, family, name, STREAM_BYTES);
    });
  }

  if (type === 'vxlan') {
    testNeeding('tun', test, 'DirectRouting is switched off and on, and all follow', async () => {
      const typed = await bed();
      for (const [DirectRouting, next] of [[false, 'vxlan'], [true, 'direct']] as const) {
        writeNetConf(typed.lab, { tunnel: { Type: 'vxlan', DirectRouting }, families });
        for (const number of [1, 2]) await typed.ways(number, families.length, next);
        const pair = [typed.lab.place(1), typed.lab.place(2)] as const;
        for (const family of families) await expectPings(pair, family);
      }
    });
  }

  testNeeding('tun', test, 'nothing is wrong, and nothing was dropped', async () => {
    for (const culvert of (await bed()).culverts) {
      const status = await culvert.status();
      assert.equal(status.sync.problems, []);
      assert.equal(dropsOf(status), []);
    }
  });

  test.run();
}

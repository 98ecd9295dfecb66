// Stock plugins on a Culvert node: the CNI project's bridge and host-local, configured from
// subnet.env as flannel's plugin does it, reach pods of another node through our node device.
//
//   node-1: culvert run, bridge cni0 --- pod (veth)            node-2: culvert run --- pod (TUN)

import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { Bed, type Host } from '../../cli/demo/bed.ts';
import { CulvertNode } from '../../cli/demo/culvert-node.ts';
import { findTool, toolReason } from '../../scripts/tools.ts';
import { testNeeding } from '../support/needs.ts';
import { pluginFolder } from './support/containerd.ts';
import { POD_NETWORKS, Runtime } from './support/runtime.ts';
import { PATIENCE_MS } from '../support/until.ts';

const test = suite('cni/stock');
const NAME = 'bridge and host-local attach pods by subnet.env; they reach other nodes\' pods';
const REMOTE = '10.244.2.10';

function nodeFields(number: number): object {
  const flannel = 'flannel.alpha.coreos.com';
  return {
    metadata: {
      name: `node-${number}`,
      annotations: {
        [`${flannel}/kube-subnet-manager`]: 'true',
        [`${flannel}/backend-type`]: 'vxlan',
        [`${flannel}/backend-data`]: `{"VNI":1,"VtepMAC":"02:c0:00:00:0${number}:04"}`,
        [`${flannel}/public-ip`]: `192.0.2.${number}`,
      },
    },
    spec: { podCIDRs: [`10.244.${number}.0/24`] },
    status: { addresses: [{ type: 'InternalIP', address: `192.0.2.${number}` }] },
  };
}

/** The settings of subnet.env. */
function readEnv(path: string): Record<string, string> {
  return Object.fromEntries(readFileSync(path, 'utf8').trim().split('\n')
    .map((line) => line.split('=') as [string, string]));
}

/** Starts both nodes. Returns node-2's pod. */
async function start(bed: Bed, runtime: Runtime): Promise<Host> {
  runtime.nodeFields = nodeFields(1);
  runtime.writeObjects([
    { apiVersion: 'v1', kind: 'Node', ...nodeFields(2) },
    { apiVersion: 'v1', kind: 'Pod',
      metadata: { name: 'remote', namespace: 'shop', uid: 'uid-remote' },
      spec: { nodeName: 'node-2' }, status: { phase: 'Running', podIP: REMOTE } },
  ]);
  const node = await bed.addNode('node-2', { ipv4: '192.0.2.2', ipv6: '2001:db8::2' });
  const other = new CulvertNode(bed, node, {
    name: 'node-2', source: runtime.objects, podNetworks: POD_NETWORKS,
  });
  await runtime.culvert.start();
  await other.start();
  return other.addPod({ namespace: 'shop', name: 'remote', addresses: [REMOTE], device: 'tun' });
}

async function scenario(): Promise<void> {
  const bed = await Bed.create();
  try {
    const file = join(bed.folder, 'flannel', 'subnet.env');
    const runtime = await Runtime.add(bed, ['--subnet-env', file]);
    const remote = await start(bed, runtime);
    const env = readEnv(file);
    const [base = ''] = (env['FLANNEL_SUBNET'] ?? '').split('.1/');
    const config = {
      type: 'bridge', bridge: 'cni0', isGateway: true, ipMasq: false,
      mtu: Number(env['FLANNEL_MTU']),
      ipam: { type: 'host-local', subnet: `${base}.0/24`, dataDir: join(bed.folder, 'host-local'),
        routes: [{ dst: env['FLANNEL_NETWORK'] }] },
    };
    const call = { version: '1.0.0', config, program: join(pluginFolder(), 'bridge'),
      environment: { CNI_PATH: pluginFolder() } };
    const host = bed.addHost('stock');
    const pod = runtime.container(host, 'stock');
    const { status, result } = await runtime.call('ADD', pod, call);
    assert.is(status, 0, JSON.stringify(result));
    const address = result.ips?.[0]?.address.split('/')[0] ?? '';
    for (const [from, to] of [[host, REMOTE], [remote, address]] as const) {
      const ping = { verb: 'ping', address: to, size: 56, timeoutMs: PATIENCE_MS } as const;
      const answer = await from.agent.ask(ping);
      assert.ok(answer.ok, `${from.name} to ${to}: ${answer.detail}`);
    }
    assert.is((await runtime.call('DEL', pod, call)).status, 0);
  } finally {
    await bed.close();
  }
}

const missing = findTool('cni-bridge') === null ? toolReason('cni-bridge') : null;
testNeeding('bridge', test, NAME, scenario, missing);

test.run();

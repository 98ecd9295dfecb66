// The flannel profile before an API server of each version that the one for tests imitates, and
// before the real one that KUBECONFIG names: what it writes is what stands there.

import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { parseNetConf } from '../../../engine/net-conf.ts';
import { FlannelProfile } from '../../../sync/flannel/profile.ts';
import { ApiClient } from '../../../sync/kubernetes/client.ts';
import type { ServerVersion } from '../../support/api-server/resources.ts';
import { Target, eventually, onTestServer } from '../../support/api-server/target.ts';
import { printSkip } from '../../support/needs.ts';

const test = suite('sync/flannel/server');
const VERSIONS: readonly ServerVersion[] = ['1.36', '1.20'];
const NODES = '/api/v1/nodes';
const PREFIX = 'flannel.alpha.coreos.com/';
const MERGE = { contentType: 'application/merge-patch+json' };
const NET_CONF = '{"Network":"10.244.0.0/16","Backend":{"Type":"vxlan"}}';
const NAME = `culvert-flannel-${process.pid}`;
const CONDITION = 'NetworkUnavailable';

interface Condition {
  type: string;
  status: string;
  reason?: string;
}

/** A Node gets its annotations, keeps its own, and gets them back. */
async function behave(target: Target): Promise<void> {
  await target.create(NODES, {
    metadata: { name: NAME, annotations: { own: 'kept' } },
    spec: { podCIDR: '10.244.1.0/24', podCIDRs: ['10.244.1.0/24'] },
  });
  const path = `${NODES}/${NAME}`;
  await target.ask('PATCH', `${path}/status`,
    { status: { conditions: [{ type: 'Ready', status: 'True' }] } }, MERGE);
  const read = async () => (await target.ask('GET', path)).body;
  const annotations = async () => (await read()).metadata.annotations ?? {};
  const stop = new AbortController();
  const log = { debug: () => {}, info: () => {}, warn: () => {}, error: () => {} };
  const profile = new FlannelProfile({
    client: new ApiClient(target.access), nodeName: NAME, log, rivalWaitMs: 1,
    netConf: { place: 'conf', periodMs: 60_000,
      read: () => Promise.resolve(parseNetConf(NET_CONF, 'conf')) },
    findDevice: () => null,
  });
  profile.facts({
    underlay: [{ family: 'IPv4', address: '192.0.2.10', mtu: 1500 }],
    podNetworks: ['10.244.0.0/16'], port: 8472,
  });
  profile.node(await read());
  const running = profile.run(stop.signal);
  try {
    await eventually('the annotations', async () =>
      (await annotations())[`${PREFIX}public-ip`] === '192.0.2.10');
    const { metadata, status } = await read();
    assert.match(metadata.annotations?.[`${PREFIX}backend-data`] ?? '',
      /^\{"VNI":1,"VtepMAC":"[0-9a-f]{2}(:[0-9a-f]{2}){5}"\}$/);
    assert.is(metadata.annotations?.['own'], 'kept');
    const conditions = (status as { conditions: Condition[] }).conditions;
    const stands = (type: string) => conditions.find((condition) => condition.type === type);
    assert.is(stands('Ready')?.status, 'True', 'the others\' conditions stay');
    assert.equal([stands(CONDITION)?.status, stands(CONDITION)?.reason], ['False', 'FlannelIsUp']);
    const changed = { metadata: { annotations: { [`${PREFIX}backend-type`]: 'extension' } } };
    await target.ask('PATCH', path, changed, MERGE);
    profile.node(await read());
    await eventually('it is set right', async () =>
      (await annotations())[`${PREFIX}backend-type`] === 'vxlan');
  } finally {
    stop.abort();
    await running;
  }
}

for (const version of VERSIONS) {
  test(`a server like ${version}`, () => onTestServer(version, behave));
}

const REAL = 'the server that KUBECONFIG names';
const { KUBECONFIG = '' } = process.env;
if (KUBECONFIG === '') {
  test.skip(REAL, () => {});
  printSkip(REAL, 'KUBECONFIG names no server');
} else {
  test(REAL, async () => {
    const target = new Target(KUBECONFIG);
    try {
      await behave(target);
    } finally {
      await target.close();
    }
  });
}

test.run();

// What the host knows of its node's pods takes the place of what the source says.

import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import type { Pod } from '../../engine/model.ts';
import { withEndpoint } from '../../sync/local-endpoints.ts';
import type { Entry } from '../../sync/objects.ts';
import { readObjects } from '../../sync/read.ts';

const test = suite('sync/local-endpoints');

/** A pod's object; `spec` and `status` as YAML. */
function podEntries(uid: string, spec = '{ nodeName: edge-1 }', status = '{}'): Entry[] {
  const { entries, problems } = readObjects('pod.yaml', [
    'apiVersion: v1', 'kind: Pod', `metadata: { name: web, namespace: shop, uid: "${uid}" }`,
    `spec: ${spec}`, `status: ${status}`,
  ].join('\n'));
  assert.equal(problems, []);
  return entries;
}

function attached(uid: string): Pod {
  return { namespace: 'shop', name: 'web', uid, addresses: ['10.244.1.9'] };
}

/** Uid and addresses of the pod, once the host has spoken. */
function podAfter(entries: Entry[], [attached]: Pod[]): unknown[] {
  return entries.map((entry) => {
    if (entry.kind !== 'Pod') return entry;
    const { pod } = withEndpoint(entry, attached);
    return [pod.uid, pod.addresses];
  });
}

test('addresses come from the host, whatever the source says', () => {
  assert.equal(podAfter(podEntries('u1'), [attached('u1')]), [['u1', ['10.244.1.9']]]);
  const stale = podEntries('u1', undefined, '{ podIP: 10.244.1.3 }');
  assert.equal(podAfter(stale, [attached('u1')]), [['u1', ['10.244.1.9']]]);
});

test('a uid that only one side knows is the pod\'s, in the runtime\'s words', () => {
  assert.equal(podAfter(podEntries(''), [attached('u1')]), [['u1', ['10.244.1.9']]]);
  assert.equal(podAfter(podEntries('u1'), [attached('')]), [['', ['10.244.1.9']]]);
});

test('another pod of the name and one without network are left alone', () => {
  assert.equal(podAfter(podEntries('u2'), [attached('u1')]), [['u2', []]]);
  const onHost = podEntries('u1', '{ nodeName: edge-1, hostNetwork: true }');
  assert.equal(podAfter(onHost, [attached('u1')]), [['u1', []]]);
  assert.equal(podAfter(podEntries('u1'), []), [['u1', []]]);
});

test.run();

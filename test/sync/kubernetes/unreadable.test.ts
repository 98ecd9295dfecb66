// Objects that the server has and we cannot read: told, never in the way of others, and a policy
// among them fails closed.

import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import type { Entry } from '../../../sync/objects.ts';
import { Projector } from '../../../sync/kubernetes/projector.ts';
import { RESOURCES } from '../../../sync/kubernetes/resources.ts';
import { Collector } from '../../support/followed.ts';

const test = suite('unreadable');

interface Reading {
  projector: Projector;
  collector: Collector;
  /** Takes an object of the next version. */
  take(object: object, uid?: string): void;
}

function reading(kind: Entry['kind']): Reading {
  const resource = RESOURCES.find((item) => item.kind === kind);
  if (resource === undefined) throw new Error(`no resource of kind ${kind}`);
  const collector = new Collector();
  const projector = new Projector({ resource, sink: collector, onFlush: () => {} });
  let version = 0;
  return {
    projector, collector,
    take: (object, uid = 'u1') => {
      version += 1;
      const { metadata, ...rest } = object as { metadata?: object };
      const { apiVersion } = resource;
      projector.upsert({
        apiVersion, kind, ...rest,
        metadata: { namespace: 'a', name: 'x', ...metadata, uid, resourceVersion: `${version}` },
      });
    },
  };
}

function policyOf({ collector }: Reading): Extract<Entry, { policy: unknown }>['policy'] | null {
  const [entry] = collector.entries.values();
  return entry !== undefined && 'policy' in entry ? entry.policy : null;
}

const GOOD = { spec: { podSelector: { matchLabels: { app: 'web' } }, ingress: [{}] } };
const BAD = { spec: { ...GOOD.spec, ingress: [{ from: [{}] }] } };
const ISOLATED = { isolates: true, rules: [] };

test('a good policy that becomes unreadable stays as it was', () => {
  const read = reading('NetworkPolicy');
  read.take(GOOD);
  const before = policyOf(read);
  read.take(BAD);
  read.take(BAD);
  assert.equal(policyOf(read), before);
  assert.is(read.projector.problems.length, 1);
  assert.match(read.projector.problems[0] ?? '',
    /^NetworkPolicy a\/x: spec\.ingress\[0\]\.from\[0\]: .*; its last good version counts$/);
  read.take(GOOD);
  assert.equal(read.projector.problems, []);
});

test('an unreadable policy without a good version isolates whom it selects', () => {
  const read = reading('NetworkPolicy');
  read.take(BAD);
  const { pods, ingress, egress } = policyOf(read) ?? {};
  assert.equal(pods, [{ key: 'app', operator: 'In', values: ['web'] }]);
  assert.equal([ingress, egress], [ISOLATED, null]);
  assert.match(read.projector.problems[0] ?? '', /; whom it is about is isolated$/);
  // Its selector changes and it is still not readable.
  read.take({ spec: { ...BAD.spec, podSelector: {}, policyTypes: ['Egress'] } });
  assert.equal([policyOf(read)?.pods, policyOf(read)?.ingress, policyOf(read)?.egress],
    [[], null, ISOLATED]);
  read.take(GOOD);
  assert.is(policyOf(read)?.ingress?.rules.length, 1);
  assert.equal(read.projector.problems, []);
});

test('without a selector that can be read the namespace is isolated, in both directions', () => {
  for (const spec of [
    { podSelector: { matchExpressions: [{ key: 'a', operator: 'Like' }] }, policyTypes: ['Both'] },
    { podSelector: 5, policyTypes: 'Ingress', egress: 7 }, { podSelector: { matchLabels: [] },
      policyTypes: [1], ingress: {} },
  ]) {
    const read = reading('NetworkPolicy');
    read.take({ spec });
    const { namespaces, pods } = policyOf(read) ?? {};
    assert.equal(pods, []);
    assert.match(JSON.stringify(namespaces), /kubernetes\.io\/metadata\.name.*"a"/);
    assert.equal(policyOf(read)?.ingress, ISOLATED, JSON.stringify(spec));
    assert.equal(policyOf(read)?.egress, ISOLATED, JSON.stringify(spec));
  }
});

test('an unreadable policy of the whole cluster denies in its tier and directions', () => {
  const read = reading('ClusterNetworkPolicy');
  const subject = { namespaces: { matchLabels: { team: 'shop' } } };
  const spec = { tier: 'Baseline', priority: 5, subject, ingress: [{ action: 'Allow', from: [] }] };
  read.take({ metadata: { namespace: undefined }, spec });
  const denied = {
    isolates: false,
    rules: [{ text: 'ingress (not readable)', action: 'deny', peers: null, ports: null }],
  };
  const { tier, priority, namespaces, ingress, egress } = policyOf(read) ?? {};
  assert.equal([tier, priority, namespaces?.length, ingress, egress], [2, 5, 1, denied, null]);
  read.take({
    metadata: { namespace: undefined },
    spec: { ...spec, tier: 'Future', subject: { pods: {}, other: {} }, egress: [{}] },
  });
  const closed = policyOf(read);
  assert.equal([closed?.tier, closed?.priority, closed?.namespaces, closed?.pods], [0, 0, [], []]);
  assert.is(closed?.egress?.rules[0]?.action, 'deny');
});

test('an object of another uid has no good version to keep', () => {
  const read = reading('NetworkPolicy');
  read.take(GOOD);
  read.take(BAD, 'u2');
  assert.equal(policyOf(read)?.ingress, ISOLATED);
  assert.equal(read.collector.told,
    ['+NetworkPolicy a/x', '-NetworkPolicy a/x', '+NetworkPolicy a/x']);
  read.projector.remove('a/x', 'u1');
  assert.is(read.collector.entries.size, 1);
  read.projector.remove('a/x', 'u2');
  assert.is(read.collector.entries.size, 0);
  assert.equal(read.projector.problems, []);
});

test('other objects keep their last good version, and the rest goes on', () => {
  const read = reading('Pod');
  const pod = { spec: { nodeName: 'n1' }, status: { podIP: '10.0.0.1' } };
  read.take(pod);
  read.take({ ...pod, status: { podIP: 'nonsense' } });
  read.take({ metadata: { name: 'y' }, status: { podIP: 'nonsense' } });
  read.take({ metadata: { name: 'z' }, ...pod });
  assert.equal([...read.collector.entries.keys()], ['Pod a/x', 'Pod a/z']);
  assert.is(read.projector.problems.length, 2);
  assert.match(read.projector.problems[1] ?? '', /it does not count$/);
  for (const object of [{}, { metadata: null }, { metadata: { name: '', uid: 'a' } },
    { metadata: { name: 'x'.repeat(300), uid: 'a', resourceVersion: '1' } }]) {
    read.projector.upsert(object);
  }
  assert.match(read.projector.problems.join(), /Pod without identity/);
  read.projector.begin();
  read.take({ metadata: { name: 'z' }, ...pod });
  read.projector.end();
  assert.equal([...read.collector.entries.keys()], ['Pod a/z']);
  assert.equal(read.projector.problems, []);
});

test('strangers\' objects of every shape are stood', () => {
  const values = [null, 5, 'x', [], {}, [null], { a: 1 }, [[]], true, 'a/b', -1, 1e300];
  for (const { kind } of RESOURCES) {
    const read = reading(kind);
    for (const spec of values) {
      for (const inner of values) {
        read.take({ spec, status: inner });
        read.take({ spec: { podSelector: spec, policyTypes: inner, ingress: [inner],
          subject: spec, tier: inner, podCIDRs: inner, containers: inner, egress: spec } });
        read.take({ metadata: { labels: spec, annotations: inner } });
        read.take({ metadata: { creationTimestamp: spec } });
      }
    }
    assert.ok(read.projector.problems.length <= 2, kind);
  }
});

test.run();

// What is known of the cluster beside its objects, and what a change of it means for the host.

import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { parseNetConf } from '../../engine/net-conf.ts';
import type { Change } from '../../sync/outbox.ts';
import { readObjects } from '../../sync/read.ts';
import type { Whole } from '../../sync/send.ts';
import { ClusterState } from '../../sync/state.ts';
import type { ClusterView } from '../../sync/tunnels.ts';
import { ViewKeeper } from '../../sync/view.ts';

const test = suite('sync/view');
const FLANNEL = 'flannel.alpha.coreos.com';
const FACTS = {
  underlay: [
    { family: 'IPv4' as const, address: '192.0.2.1', prefix: '192.0.2.0/24', mtu: 1500 },
  ],
};
const DIRECT = '{"Network":"10.244.0.0/16","Backend":{"Type":"vxlan","DirectRouting":true}}';

function nodeYaml(name: string, address: string): string {
  return `
apiVersion: v1
kind: Node
metadata:
  name: ${name}
  annotations:
    ${FLANNEL}/kube-subnet-manager: "true"
    ${FLANNEL}/backend-type: vxlan
    ${FLANNEL}/backend-data: '{"VNI":1,"VtepMAC":"12:c6:65:89:b4:e3"}'
    ${FLANNEL}/public-ip: ${address}
---`;
}

/** A state that has begun, and what it told: nodes with the kinds of their tunnels. */
function stateOf(): { state: ClusterState; told: string[] } {
  const told: string[] = [];
  const log = { debug: () => {}, info: () => {}, warn: () => {}, error: () => {} };
  const state = new ClusterState({ local: 'a', log });
  state.connect({
    isReading: false,
    tell: ({ nodes }: Change, _: () => Whole) => {
      told.push(nodes.map(({ name, tunnels }) =>
        `${name} ${tunnels.map(({ kind }) => kind).join()}`).sort().join('; '));
    },
    health: () => {},
  });
  const { entries, problems } = readObjects('x.yaml',
    nodeYaml('a', '192.0.2.1') + nodeYaml('b', '192.0.2.2') + nodeYaml('c', '198.51.100.3'));
  assert.equal(problems, []);
  for (const entry of entries) state.upsert(entry);
  return { state, told };
}

test('each piece of news is told once, and whose words count from the beginning', () => {
  const views: ClusterView[] = [];
  const view = new ViewKeeper('flannel', (next) => views.push(next));
  assert.equal(views.map(({ flannel, calico, links }) => [flannel?.type, calico, links]),
    [[null, null, null]]);
  view.facts(FACTS);
  view.facts(structuredClone(FACTS));
  view.netConf(parseNetConf(DIRECT, 'conf'));
  view.netConf(parseNetConf(DIRECT, 'conf'));
  assert.is(views.length, 3);
  assert.equal(views.at(-1), {
    flannel: { type: 'vxlan', port: null, isDirectRouting: true }, calico: null,
    links: ['192.0.2.0/24'],
  });
  view.netConf(parseNetConf('{"Network":"10.244.0.0/16"}', 'conf'));
  assert.equal(views.at(-1)?.flannel, { type: 'udp', port: 8285, isDirectRouting: false });
});

test('with Calico\'s words, or those of either', () => {
  const views: ClusterView[] = [];
  const calico = new ViewKeeper('calico', (next) => views.push(next));
  calico.calico({ mode: 'ipip', pools: [] });
  assert.equal(views.map(({ flannel, calico: found }) => [flannel, found?.mode]),
    [[null, null], [null, 'ipip']]);
  views.length = 0;
  new ViewKeeper('none', (next) => views.push(next));
  assert.equal(views.map(({ flannel, calico: found }) => [flannel !== null, found !== null]),
    [[true, true]]);
});

test('a change tells the host of the nodes that are reached otherwise, and of no others', () => {
  const { state, told } = stateOf();
  const view = new ViewKeeper('flannel', (next) => state.setView(next));
  view.netConf(parseNetConf(DIRECT, 'conf'));
  assert.equal(told, [], 'nothing is told before there is a state');
  state.commit();
  assert.equal(told, ['a vxlan; b vxlan; c vxlan']);
  view.facts(FACTS);
  // The reason changes for the node of another link; our own node stays what it is.
  assert.equal(told.slice(1), ['b direct; c vxlan']);
  view.netConf(parseNetConf(DIRECT.replace('true', 'false'), 'conf'));
  assert.equal(told.slice(2), ['b vxlan; c vxlan']);
  view.netConf(parseNetConf('{"Network":"10.244.0.0/16","Backend":{"Type":"ipip"}}', 'conf'));
  assert.equal(told.slice(3), ['a ; b ; c ']);
});

test.run();

// Which tunnel leads to a node: what flannel's and Calico's own nodes would use, and why.

import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import type { Tunnel } from '../../engine/model.ts';
import type { Pool } from '../../sync/calico/pools.ts';
import type { FlannelView } from '../../sync/flannel/lease.ts';
import { PLAIN_VIEW, chooseTunnels, readReachOf } from '../../sync/tunnels.ts';
import type { Choice, ClusterView } from '../../sync/tunnels.ts';

const test = suite('sync/tunnels');
const LINKS = ['192.0.2.0/24', '2001:db8::/64'];
const POD_CIDRS = ['10.244.2.0/24', 'fd00:10:244:2::/64'];

function choose(
  annotations: Record<string, string>, view: Partial<ClusterView>, isLocal = false,
): Choice {
  const reach = readReachOf('edge-2', annotations, (path, reason) => {
    throw new Error(`${path.join('.')}: ${reason}`);
  });
  const node = { name: 'edge-2', podCidrs: POD_CIDRS };
  return chooseTunnels(node, reach, { ...PLAIN_VIEW, links: LINKS, ...view }, isLocal);
}

/** Kind, remote and reason of each tunnel, then the warnings without the node's name. */
function told({ tunnels, warnings }: Choice): string[] {
  const text = ({ family, kind, remote, why = '' }: Tunnel): string =>
    `${family} ${kind} ${remote}: ${why}`;
  return [...tunnels.map(text), ...warnings.map((line) => line.replace('Node edge-2: ', '! '))];
}

function flannel(type: string, address: string, address6 = ''): Record<string, string> {
  const prefix = 'flannel.alpha.coreos.com/';
  const data = type === 'vxlan' ? '{"VNI":1,"VtepMAC":"12:c6:65:89:b4:e3"}' : 'null';
  return {
    [`${prefix}kube-subnet-manager`]: 'true',
    [`${prefix}backend-type`]: type,
    [`${prefix}backend-data`]: data,
    [`${prefix}public-ip`]: address,
    ...address6 === '' ? {} : {
      [`${prefix}backend-v6-data`]: data, [`${prefix}public-ipv6`]: address6,
    },
  };
}

const NEAR = ['192.0.2.7', '2001:db8::7'] as const;
const FAR = ['198.51.100.7', '2001:db8:1::7'] as const;

const FLANNEL: [name: string, view: FlannelView, annotations: Record<string, string>,
  expected: string[]][] = [
  ['vxlan', { type: 'vxlan', port: null, isDirectRouting: false }, flannel('vxlan', ...NEAR),
    ['IPv4 vxlan 192.0.2.7: type vxlan', 'IPv6 vxlan 2001:db8::7: type vxlan']],
  ['vxlan with DirectRouting, of our link', { type: 'vxlan', port: null, isDirectRouting: true },
    flannel('vxlan', ...NEAR), [
      'IPv4 direct 192.0.2.7: DirectRouting of net-conf.json, on our link 192.0.2.0/24',
      'IPv6 direct 2001:db8::7: DirectRouting of net-conf.json, on our link 2001:db8::/64',
    ]],
  ['vxlan with DirectRouting, of another link',
    { type: 'vxlan', port: null, isDirectRouting: true }, flannel('vxlan', NEAR[0], FAR[1]), [
      'IPv4 direct 192.0.2.7: DirectRouting of net-conf.json, on our link 192.0.2.0/24',
      'IPv6 vxlan 2001:db8:1::7: type vxlan, not on our link',
    ]],
  ['host-gw', { type: 'host-gw', port: null, isDirectRouting: true },
    flannel('host-gw', NEAR[0], FAR[1]), [
      'IPv4 direct 192.0.2.7: type host-gw, on our link 192.0.2.0/24',
      '! type host-gw, and 2001:db8:1::7 is not on our link: no IPv6 tunnel',
    ]],
  ['ipip', { type: 'ipip', port: null, isDirectRouting: false }, flannel('ipip', ...NEAR),
    ['IPv4 ipip 192.0.2.7: type ipip']],
  ['ipip with DirectRouting', { type: 'ipip', port: null, isDirectRouting: true },
    flannel('ipip', FAR[0]), ['IPv4 ipip 198.51.100.7: type ipip, not on our link']],
  ['udp', { type: 'udp', port: 8285, isDirectRouting: false }, flannel('', ...NEAR),
    ['IPv4 udp 192.0.2.7: type udp']],
  ['another type', { type: 'vxlan', port: null, isDirectRouting: false }, flannel('ipip', FAR[0]),
    ['! flannel backend type ipip, and the cluster\'s is vxlan: no tunnel']],
  ['a type that nobody speaks', { type: null, port: null, isDirectRouting: false },
    flannel('wireguard', FAR[0]),
    ['! flannel backend type wireguard is not spoken here: no tunnel']],
];

for (const [name, view, annotations, expected] of FLANNEL) {
  test(`flannel: ${name}`, () => {
    assert.equal(told(choose(annotations, { flannel: view, calico: null })), expected);
  });
}

test('flannel: the port of udp is said, our own node is never one of our link', () => {
  const udp: FlannelView = { type: 'udp', port: 9000, isDirectRouting: false };
  const [tunnel] = choose(flannel('', NEAR[0]), { flannel: udp }).tunnels;
  assert.equal(tunnel, {
    family: 'IPv4', kind: 'udp', remote: '192.0.2.7', port: 9000, why: 'type udp',
  });
  const direct: FlannelView = { type: 'vxlan', port: null, isDirectRouting: true };
  const own = choose(flannel('vxlan', NEAR[0]), { flannel: direct }, true);
  assert.is(own.tunnels[0]?.kind, 'vxlan');
});

test('the other end may see otherwise who is on its link', () => {
  const view = {
    flannel: { type: 'vxlan', port: null, isDirectRouting: true } satisfies FlannelView,
  };
  const vxlan = { kind: 'vxlan', vni: 1, mac: '12:c6:65:89:b4:e3' };
  const alternatives = (address: string, given: Partial<ClusterView>): unknown[] =>
    choose(flannel('vxlan', address), given).tunnels.map(({ alternative }) => alternative);
  assert.equal(alternatives(NEAR[0], view), [vxlan]);
  assert.equal(alternatives(FAR[0], view), [{ kind: 'direct' }]);
  assert.equal(alternatives(FAR[0], { ...view, links: null }), [undefined]);
  const plain = { flannel: { ...view.flannel, isDirectRouting: false } };
  assert.equal(alternatives(NEAR[0], plain), [undefined]);
  const ofCalico = (address: string, mode: Pool['mode']): unknown[] =>
    choose(calico(address, VTEP), pool(mode)).tunnels.map(({ alternative }) => alternative);
  assert.equal(ofCalico(NEAR[0], 'ipip-cross-subnet'), [{ kind: 'ipip' }]);
  assert.equal(ofCalico(FAR[0], 'vxlan-cross-subnet'), [{ kind: 'direct' }]);
  assert.equal(ofCalico(NEAR[0], 'vxlan'), [undefined]);
});

test('before the links are known, what nodes say is believed', () => {
  const view: FlannelView = { type: 'host-gw', port: null, isDirectRouting: true };
  assert.equal(told(choose(flannel('host-gw', FAR[0]), { flannel: view, links: null })),
    ['IPv4 direct 198.51.100.7: type host-gw']);
});

function calico(address: string, more: Record<string, string> = {}): Record<string, string> {
  const all = Object.entries({ IPv4Address: `${address}/24`, ...more });
  return Object.fromEntries(all.map(([name, value]) => [`projectcalico.org/${name}`, value]));
}

const VTEP = { IPv4VXLANTunnelAddr: '10.244.2.0' };
const IPIP = { IPv4IPIPTunnelAddr: '10.244.2.1' };

function pool(mode: Pool['mode'], cidr = '10.244.0.0/16'): Partial<ClusterView> {
  return { flannel: null, calico: { mode: null, pools: [{ name: 'default', cidr, mode }] } };
}

const ON_LINK = 'on our link 192.0.2.0/24';
const OF_POOL = 'of IPPool default';
const CALICO: [name: string, view: Partial<ClusterView>, annotations: Record<string, string>,
  expected: string[]][] = [
  ['vxlan', pool('vxlan'), calico(NEAR[0], VTEP),
    [`IPv4 vxlan 192.0.2.7: vxlan, ${OF_POOL}`]],
  ['vxlan across subnets, near', pool('vxlan-cross-subnet'), calico(NEAR[0], VTEP),
    [`IPv4 direct 192.0.2.7: CrossSubnet, ${OF_POOL}, ${ON_LINK}`]],
  ['vxlan across subnets, far', pool('vxlan-cross-subnet'), calico(FAR[0], VTEP),
    [`IPv4 vxlan 198.51.100.7: vxlan-cross-subnet, ${OF_POOL}, not on our link`]],
  ['no VTEP', pool('vxlan'), calico(NEAR[0], IPIP),
    [`! vxlan, ${OF_POOL}, without projectcalico.org/IPv4VXLANTunnelAddr: no IPv4 tunnel`]],
  ['ipip', pool('ipip'), calico(NEAR[0]), [`IPv4 ipip 192.0.2.7: ipip, ${OF_POOL}`]],
  ['ipip across subnets, near', pool('ipip-cross-subnet'), calico(NEAR[0]),
    [`IPv4 direct 192.0.2.7: CrossSubnet, ${OF_POOL}, ${ON_LINK}`]],
  ['no encapsulation, near', pool('none'), calico(NEAR[0], VTEP),
    [`IPv4 direct 192.0.2.7: no encapsulation, ${OF_POOL}, ${ON_LINK}`]],
  ['no encapsulation, far', pool('none'), calico(FAR[0], VTEP),
    [`! no encapsulation, ${OF_POOL}, and 198.51.100.7 is not on our link: no IPv4 tunnel`]],
  ['by annotations, a VTEP', pool('ipip', '10.9.0.0/16'), calico(NEAR[0], { ...VTEP, ...IPIP }),
    ['IPv4 vxlan 192.0.2.7: vxlan, of annotations']],
  ['by annotations, IPIP', pool('vxlan', '10.9.0.0/16'), calico(FAR[0], IPIP),
    ['IPv4 ipip 198.51.100.7: ipip, of annotations']],
  ['by the operator', { flannel: null, calico: { mode: 'ipip', pools: [] } },
    calico(NEAR[0], VTEP), ['IPv4 ipip 192.0.2.7: ipip, of --calico-mode']],
  ['IPv6', { flannel: null, calico: { mode: 'vxlan', pools: [] } },
    calico(NEAR[0], { ...VTEP, IPv6Address: '2001:db8::7/64', IPv6VXLANTunnelAddr: 'fd00::' }),
    ['IPv4 vxlan 192.0.2.7: vxlan, of --calico-mode',
      'IPv6 vxlan 2001:db8::7: vxlan, of --calico-mode']],
  ['IPv6 by IPIP', { flannel: null, calico: { mode: 'ipip', pools: [] } },
    calico(NEAR[0], { IPv6Address: '2001:db8::7/64' }), [
      'IPv4 ipip 192.0.2.7: ipip, of --calico-mode',
      '! ipip, of --calico-mode, which carries IPv4 alone: no IPv6 tunnel',
    ]],
];

for (const [name, view, annotations, expected] of CALICO) {
  test(`calico: ${name}`, () => assert.equal(told(choose(annotations, view)), expected));
}

test('calico: a VTEP is the one that Felix makes, with addresses that others gave it', () => {
  const { tunnels, addresses } = choose(
    calico(NEAR[0], { IPv4VXLANTunnelAddr: '10.9.0.4', ...IPIP }), pool('vxlan'));
  assert.equal(tunnels, [{
    family: 'IPv4', kind: 'vxlan', remote: '192.0.2.7', port: 4789, vni: 4096,
    mac: '66:18:8e:78:8d:6d', why: 'vxlan, of IPPool default',
  }]);
  assert.equal(addresses, ['10.9.0.4']);
});

test('a Node that both have written on is flannel\'s, but for who asks for Calico\'s', () => {
  const both = { ...flannel('vxlan', NEAR[0]), ...calico(FAR[0], VTEP) };
  assert.is(choose(both, {}).tunnels[0]?.remote, '192.0.2.7');
  assert.is(choose(both, { flannel: null }).tunnels[0]?.remote, '198.51.100.7');
  assert.equal(choose(both, { flannel: null, calico: null }).tunnels, []);
});

test.run();

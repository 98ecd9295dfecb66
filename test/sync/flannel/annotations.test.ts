// Our Node in flannel's words: the bytes, the MACs, the addresses, and changes that peers heed.

import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { isMac } from '../../../engine/address.ts';
import { project } from '../../../sync/objects.ts';
import {
  FLANNEL_IS_UP, heededLease, leaseAnnotations, madeMac, publicAddress, standingMac,
  standingNoData, vtepData, type Lease, type LeaseEnd,
} from '../../../sync/flannel/annotations.ts';
import { missingFrom, nodePatch, readOwnNode } from '../../../sync/own-node.ts';
import { PLAIN_VIEW, chooseTunnels } from '../../../sync/tunnels.ts';
import { ROOT } from '../../support/source.ts';

const test = suite('sync/flannel/annotations');
const PREFIX = 'flannel.alpha.coreos.com/';
const [MAC4, MAC6] = ['12:c6:65:89:b4:e3', '3e:1f:00:aa:b0:0c'];
const IPV4: LeaseEnd = { address: '192.0.2.10', data: vtepData(1, MAC4) };
const IPV6: LeaseEnd = { address: '2001:db8::10', data: vtepData(1, MAC6) };
const BOTH: Lease = { type: 'vxlan', IPv4: IPV4, IPv6: IPV6 };

/** The body under a heading of the golden file. */
function golden(heading: string): string {
  const text = readFileSync(join(ROOT, 'test/golden/flannel-annotations.md'), 'utf8');
  return new RegExp(`^## ${heading}\n\n    (.*)$`, 'm').exec(text)?.[1] ?? '';
}

test('patches are flannel\'s, byte by byte', () => {
  const patch = (lease: Lease): string =>
    JSON.stringify(nodePatch(leaseAnnotations(lease), null, FLANNEL_IS_UP));
  assert.is(patch({ type: 'vxlan', IPv4: IPV4 }), golden('IPv4'));
  assert.is(patch(BOTH), golden('IPv4 and IPv6'));
  const other = { ...IPV6, data: vtepData(4096, MAC6) };
  assert.is(patch({ type: 'vxlan', IPv6: other }), golden('IPv6'));
  const bare = (end: LeaseEnd): LeaseEnd => ({ ...end, data: 'null' });
  assert.is(patch({ type: 'udp', IPv4: bare(IPV4) }), golden('udp'));
  assert.is(patch({ type: 'ipip', IPv4: bare(IPV4) }), golden('ipip'));
  assert.is(patch({ type: 'host-gw', IPv4: bare(IPV4) }), golden('host-gw'));
  assert.is(patch({ type: 'host-gw', IPv4: bare(IPV4), IPv6: bare(IPV6) }),
    golden('host-gw, IPv4 and IPv6'));
  const up = nodePatch({}, '2026-11-21T10:00:00Z', FLANNEL_IS_UP);
  assert.is(JSON.stringify(up), golden('Network available'));
  assert.equal(nodePatch({}, null, FLANNEL_IS_UP), {});
});

test('what we write we read as a peer does', () => {
  const object = {
    apiVersion: 'v1', kind: 'Node',
    metadata: { name: 'edge-1', annotations: leaseAnnotations(BOTH) },
  };
  const { entry, problems } = project(object, () => 'here');
  assert.equal(problems, []);
  if (entry?.kind !== 'Node') throw new Error('no Node');
  const { tunnels } = chooseTunnels(entry.node, entry.reach, PLAIN_VIEW, false);
  assert.equal(tunnels, [
    { family: 'IPv4', kind: 'vxlan', remote: IPV4.address, vni: 1, mac: MAC4, why: 'type vxlan' },
    { family: 'IPv6', kind: 'vxlan', remote: IPV6.address, vni: 1, mac: MAC6, why: 'type vxlan' },
  ]);
});

test('flannel reads the MAC back by cutting the text', () => {
  const data = leaseAnnotations(BOTH)[`${PREFIX}backend-data`] ?? '';
  const [, rest = ''] = data.split('"VtepMAC":"');
  assert.is(rest.replace(/["}]+$/, ''), MAC4);
});

test('only what is missing or different is written', () => {
  const wanted = leaseAnnotations({ type: 'vxlan', IPv4: IPV4 });
  assert.equal(missingFrom(wanted, wanted), {});
  assert.equal(missingFrom({ ...wanted, other: 'x', [`${PREFIX}public-ip`]: '192.0.2.9' }, wanted),
    { [`${PREFIX}public-ip`]: '192.0.2.10' });
});

test('a MAC made of the uid is always the same, local and unicast', () => {
  const macs = ['uid-1', 'uid-2', 'uid-3', 'uid-4'].flatMap((uid) =>
    [madeMac(uid, 'IPv4'), madeMac(uid, 'IPv6'), madeMac(uid, 'IPv4', madeMac(uid, 'IPv4'))]);
  assert.is(new Set(macs).size, macs.length);
  for (const mac of macs) {
    assert.ok(isMac(mac), mac);
    assert.is(Number.parseInt(mac.slice(0, 2), 16) & 3, 2, mac);
  }
  assert.is(madeMac('uid-1', 'IPv4'), macs[0]);
});

test('a MAC that stands there is taken where a VTEP can go on with it', () => {
  const standing = (data: string): string | null =>
    standingMac({ [`${PREFIX}backend-data`]: data }, 'IPv4');
  assert.is(standing('{"VNI":7,"VtepMAC":"12:C6:65:89:B4:E3"}'), MAC4);
  const refused = [
    'null', '', '{', '"text"', '{"VNI":1}', '{"VtepMAC":"12:c6:65:89:b4"}',
    '{"VtepMAC":"13:c6:65:89:b4:e3"}', '{"VtepMAC":"00:00:00:00:00:00"}',
    '{"VtepMAC":"00:50:56:89:b4:e3"}', '{"PublicKey":"abc"}',
  ];
  for (const data of refused) assert.is(standing(data), null, data);
  assert.is(standingMac({}, 'IPv6'), null);
});

test('where one family changes, the other one changes too', () => {
  const present = leaseAnnotations(BOTH);
  assert.equal(heededLease(present, BOTH, 'uid'), BOTH, 'nothing has changed');
  const moved = { ...IPV4, address: '192.0.2.77' };
  const heeded = heededLease(present, { ...BOTH, IPv4: moved }, 'uid');
  assert.equal(heeded.IPv4, moved);
  assert.is(heeded.IPv6?.data, vtepData(1, madeMac('uid', 'IPv6', MAC6)));
  assert.is(heeded.IPv6?.address, IPV6.address);
  const other = heededLease(
    present, { ...BOTH, IPv6: { ...IPV6, data: vtepData(2, MAC6) } }, 'uid');
  assert.is(other.IPv4?.data, vtepData(1, madeMac('uid', 'IPv4', MAC4)));
  const names = Object.keys(missingFrom(present, leaseAnnotations(heeded)));
  assert.equal(names, [`${PREFIX}backend-v6-data`, `${PREFIX}public-ip`]);
});

test('one family alone, and a Node new to flannel, are as they are', () => {
  const present = leaseAnnotations({ type: 'vxlan', IPv4: IPV4 });
  const moved: Lease = { type: 'vxlan', IPv4: { ...IPV4, address: '192.0.2.77' } };
  assert.equal(heededLease(present, moved, 'uid'), moved);
  assert.equal(heededLease({}, BOTH, 'uid'), BOTH);
  const second = heededLease(present, BOTH, 'uid');
  assert.not.equal(second.IPv4?.data, IPV4.data, 'a second family is a change of one');
  const foreign = { ...leaseAnnotations(BOTH), [`${PREFIX}backend-type`]: 'extension' };
  assert.equal(heededLease(foreign, BOTH, 'uid'), BOTH, 'the type counts for both');
});

test('where there are no data, another text of none makes peers take note', () => {
  const bare: Lease = {
    type: 'host-gw', IPv4: { ...IPV4, data: 'null' }, IPv6: { ...IPV6, data: 'null' },
  };
  const moved = { ...bare, IPv4: { address: '192.0.2.77', data: 'null' } };
  const heeded = heededLease(leaseAnnotations(bare), moved, 'uid');
  assert.equal([heeded.IPv4?.data, heeded.IPv6?.data], ['null', '{}']);
  const standing = leaseAnnotations(heeded);
  assert.equal(heededLease(standing, heeded, 'uid'), heeded, 'and it stays');
  assert.equal(['IPv4', 'IPv6'].map((family) =>
    standingNoData(standing, family as 'IPv4' | 'IPv6')), ['null', '{}']);
  const back = heededLease(standing, { ...heeded, IPv4: { ...IPV4, data: 'null' } }, 'uid');
  assert.is(back.IPv6?.data, 'null');
});

test('the operator picks or overwrites the address that peers send to', () => {
  const own = ['192.0.2.10', '192.0.2.11'];
  const address = (annotations: Record<string, string>): unknown[] => {
    const named = Object.fromEntries(
      Object.entries(annotations).map(([name, value]) => [PREFIX + name, value]));
    const found = publicAddress(named, 'IPv4', own);
    return [found.address, found.problem !== null];
  };
  assert.equal(address({}), ['192.0.2.10', false]);
  assert.equal(address({ 'public-ip': '203.0.113.9' }), ['192.0.2.10', false]);
  assert.equal(address({ 'public-ip-overwrite': '203.0.113.9' }), ['203.0.113.9', false]);
  assert.equal(address({ 'node-public-ip': '192.0.2.11' }), ['192.0.2.11', false]);
  assert.equal(address({ 'node-public-ip': '192.0.2.12' }), ['192.0.2.10', true]);
  assert.equal(address({ 'public-ip-overwrite': '2001:db8::1' }), ['192.0.2.10', true]);
  assert.equal(address({ 'public-ip-overwrite': 'nat' }), ['192.0.2.10', true]);
  const both = { 'public-ip-overwrite': '203.0.113.9', 'node-public-ip': '192.0.2.11' };
  assert.equal(address(both), ['203.0.113.9', false]);
  const ipv6 = { [`${PREFIX}public-ipv6-overwrite`]: '2001:DB8:0::9' };
  assert.equal(publicAddress(ipv6, 'IPv6', []), { address: '2001:db8::9', problem: null });
  assert.equal(publicAddress({}, 'IPv6', []), { address: null, problem: null });
});

test('of our Node only what matters is read', () => {
  const node = readOwnNode({
    metadata: {
      uid: 'u', resourceVersion: '7', labels: { a: 'b' },
      annotations: { [`${PREFIX}public-ip`]: '192.0.2.10', other: 'x' },
    },
    spec: { podCIDR: '10.244.1.0/24', podCIDRs: ['10.244.1.9/24', 'FD00::/64', 'nonsense'] },
    status: { conditions: [{ type: 'Ready', status: 'True' },
      { type: 'NetworkUnavailable', status: 'False', reason: 'x' }] },
  }, PREFIX);
  assert.equal(node, {
    uid: 'u', resourceVersion: '7', podCidrs: ['10.244.1.0/24', 'fd00::/64'],
    annotations: { [`${PREFIX}public-ip`]: '192.0.2.10' }, isNetworkUp: true,
  });
  const bare = readOwnNode({ metadata: { annotations: null }, spec: { podCIDR: '10.1.0.0/24' } },
    PREFIX);
  assert.equal([bare.uid, bare.podCidrs, bare.isNetworkUp], ['', ['10.1.0.0/24'], false]);
  assert.throws(() => readOwnNode('text', PREFIX), /our Node/);
});

test.run();

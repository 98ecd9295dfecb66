// Our Node in flannel's words: the bytes, the MACs, the addresses, and changes that peers heed.

import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { isMac } from '../../../engine/address.ts';
import { project } from '../../../sync/objects.ts';
import {
  heededLease, leaseAnnotations, madeMac, missingFrom, nodePatch, publicAddress, readOwnNode,
  standingMac, type Lease, type Vtep,
} from '../../../sync/flannel/annotations.ts';
import { ROOT } from '../../support/source.ts';

const test = suite('sync/flannel/annotations');
const PREFIX = 'flannel.alpha.coreos.com/';
const IPV4: Vtep = { vni: 1, mac: '12:c6:65:89:b4:e3', address: '192.0.2.10' };
const IPV6: Vtep = { vni: 1, mac: '3e:1f:00:aa:b0:0c', address: '2001:db8::10' };
const BOTH: Lease = { IPv4: IPV4, IPv6: IPV6 };

/** The body under a heading of the golden file. */
function golden(heading: string): string {
  const text = readFileSync(join(ROOT, 'test/golden/flannel-annotations.md'), 'utf8');
  return new RegExp(`^## ${heading}\n\n    (.*)$`, 'm').exec(text)?.[1] ?? '';
}

test('patches are flannel\'s, byte by byte', () => {
  const patch = (lease: Lease): string =>
    JSON.stringify(nodePatch(leaseAnnotations(lease), null));
  assert.is(patch({ IPv4: IPV4 }), golden('IPv4'));
  assert.is(patch(BOTH), golden('IPv4 and IPv6'));
  assert.is(patch({ IPv6: { ...IPV6, vni: 4096 } }), golden('IPv6'));
  const up = nodePatch({}, '2026-11-21T10:00:00Z');
  assert.is(JSON.stringify(up), golden('Network available'));
  assert.equal(nodePatch({}, null), {});
});

test('what we write we read as a peer does', () => {
  const object = {
    apiVersion: 'v1', kind: 'Node',
    metadata: { name: 'edge-1', annotations: leaseAnnotations(BOTH) },
  };
  const { entry, problems } = project(object, () => 'here');
  assert.equal(problems, []);
  assert.equal(entry?.kind === 'Node' && entry.node.tunnels.map((tunnel) =>
    tunnel.kind === 'vxlan' && [tunnel.family, tunnel.remote, tunnel.mac, tunnel.vni]), [
    ['IPv4', IPV4.address, IPV4.mac, 1], ['IPv6', IPV6.address, IPV6.mac, 1],
  ]);
});

test('flannel reads the MAC back by cutting the text', () => {
  const data = leaseAnnotations(BOTH)[`${PREFIX}backend-data`] ?? '';
  const [, rest = ''] = data.split('"VtepMAC":"');
  assert.is(rest.replace(/["}]+$/, ''), IPV4.mac);
});

test('only what is missing or different is written', () => {
  const wanted = leaseAnnotations({ IPv4: IPV4 });
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
  assert.is(standing('{"VNI":7,"VtepMAC":"12:C6:65:89:B4:E3"}'), IPV4.mac);
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
  const heeded = heededLease(present, { IPv4: moved, IPv6: IPV6 }, 'uid');
  assert.equal(heeded.IPv4, moved);
  assert.not.equal(heeded.IPv6?.mac, IPV6.mac);
  assert.is(heeded.IPv6?.address, IPV6.address);
  const other = heededLease(present, { IPv4: IPV4, IPv6: { ...IPV6, vni: 2 } }, 'uid');
  assert.not.equal(other.IPv4?.mac, IPV4.mac);
  const names = Object.keys(missingFrom(present, leaseAnnotations(heeded)));
  assert.equal(names, [`${PREFIX}backend-v6-data`, `${PREFIX}public-ip`]);
});

test('one family alone, and a Node new to flannel, are as they are', () => {
  const present = leaseAnnotations({ IPv4: IPV4 });
  const moved = { IPv4: { ...IPV4, address: '192.0.2.77' } };
  assert.equal(heededLease(present, moved, 'uid'), moved);
  assert.equal(heededLease({}, BOTH, 'uid'), BOTH);
  const second = heededLease(present, BOTH, 'uid');
  assert.not.equal(second.IPv4?.mac, IPV4.mac, 'a second family is a change of one');
  const foreign = { ...leaseAnnotations(BOTH), [`${PREFIX}backend-type`]: 'extension' };
  assert.equal(heededLease(foreign, BOTH, 'uid'), BOTH, 'the type counts for both');
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
  });
  assert.equal(node, {
    uid: 'u', resourceVersion: '7', podCidrs: ['10.244.1.0/24', 'fd00::/64'],
    annotations: { [`${PREFIX}public-ip`]: '192.0.2.10' }, isNetworkUp: true,
  });
  const bare = readOwnNode({ metadata: { annotations: null }, spec: { podCIDR: '10.1.0.0/24' } });
  assert.equal([bare.uid, bare.podCidrs, bare.isNetworkUp], ['', ['10.1.0.0/24'], false]);
  assert.throws(() => readOwnNode('text'), /our Node/);
});

test.run();

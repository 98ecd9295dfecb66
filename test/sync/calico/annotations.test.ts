// Nodes in Calico's words: the bytes we write, the MACs, and what we read of others.

import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import {
  CALICO_IS_UP, nodeAnnotations, readReach, vtepMac, type OwnEnd,
} from '../../../sync/calico/annotations.ts';
import { nodePatch } from '../../../sync/own-node.ts';
import { ROOT } from '../../support/source.ts';

const test = suite('sync/calico/annotations');
const PREFIX = 'projectcalico.org/';
const TEXT = readFileSync(join(ROOT, 'test/golden/calico-annotations.md'), 'utf8');
const IPV4: OwnEnd = {
  address: '192.0.2.10', link: '192.0.2.0/24', podCidr: '10.244.1.0/24', hasVxlan: true,
  hasIpip: false,
};
const IPV6: OwnEnd = {
  address: '2001:db8::10', link: '2001:db8::/64', podCidr: 'fd00:10:244:1::/64', hasVxlan: true,
  hasIpip: true,
};

/** The lines under a heading of the golden file. */
function golden(heading: string): string[] {
  const [, rest = ''] = TEXT.split(`\n## ${heading}\n`);
  const [section = ''] = rest.split('\n## ');
  return section.split('\n').filter((line) => line.startsWith('    ')).map((line) => line.trim());
}

test('patches are as Calico would have them, byte by byte', () => {
  const patch = (ends: Parameters<typeof nodeAnnotations>[0]): string[] =>
    [JSON.stringify(nodePatch(nodeAnnotations(ends), null, CALICO_IS_UP))];
  assert.equal(patch({ IPv4: IPV4 }), golden('VXLAN, IPv4'));
  assert.equal(patch({ IPv4: IPV4, IPv6: IPV6 }), golden('VXLAN, IPv4 and IPv6'));
  assert.equal(patch({ IPv4: { ...IPV4, hasVxlan: false, hasIpip: true } }), golden('IPIP'));
  assert.equal(patch({ IPv4: { ...IPV4, hasVxlan: false } }), golden('No encapsulation'));
  const up = nodePatch({}, '2026-11-21T10:00:00Z', CALICO_IS_UP);
  assert.equal([JSON.stringify(up)], golden('Network available'));
});

test('a VTEP\'s MAC is made of the node\'s name', () => {
  const lines = golden('MACs of VTEPs');
  assert.is(lines.length, 5);
  for (const line of lines) {
    const [name = '', family, mac] = line.split(' ');
    assert.is(vtepMac(name, family as 'IPv4' | 'IPv6'), mac, line);
  }
});

test('a node is read as Calico reads it', () => {
  assert.is(readReach('a', {}), null);
  assert.is(readReach('a', { [`${PREFIX}IPv4VXLANTunnelAddr`]: '10.1.0.0' }), null, 'no address');
  assert.equal(readReach('remotehostname', {
    [`${PREFIX}IPv4Address`]: '192.0.2.7/24', [`${PREFIX}IPv4VXLANTunnelAddr`]: '10.1.0.0',
    [`${PREFIX}IPv4IPIPTunnelAddr`]: '10.1.0.1', [`${PREFIX}IPv6Address`]: '2001:DB8::7',
    [`${PREFIX}IPv6VXLANTunnelAddr`]: 'fd00:0::', [`${PREFIX}VXLANTunnelMACAddrV6`]: 'nonsense',
  }), {
    IPv4: {
      address: '192.0.2.7', vxlan: '10.1.0.0', mac: '66:3e:ca:a4:db:65', ipip: '10.1.0.1',
    },
    IPv6: { address: '2001:db8::7', vxlan: 'fd00::', mac: '66:a0:68:c9:4c:79', ipip: null },
  });
  const given = readReach('a', {
    [`${PREFIX}IPv4Address`]: '192.0.2.7/24', [`${PREFIX}VXLANTunnelMACAddr`]: '66:00:00:00:00:0A',
    [`${PREFIX}IPv6Address`]: '192.0.2.8/24',
  });
  assert.equal([given?.IPv4?.mac, given?.IPv6], ['66:00:00:00:00:0a', undefined]);
});

test('what we write, peers read back', () => {
  const reach = readReach('edge-1', nodeAnnotations({ IPv4: IPV4, IPv6: IPV6 }));
  assert.equal(reach?.IPv4, {
    address: '192.0.2.10', vxlan: '10.244.1.0', mac: '66:82:e7:5b:ec:6e', ipip: null,
  });
  assert.is(reach?.IPv6?.vxlan, 'fd00:10:244:1::');
});

test.run();

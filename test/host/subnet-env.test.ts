// The file for flannel's CNI plugin.

import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { isForeign, subnetEnvText, writeSubnetEnv } from '../../host/subnet-env.ts';

const test = suite('host/subnet-env');
const BOTH = {
  podNetworks: ['10.244.0.0/16', 'fd00:10:244::/48'],
  podCidrs: ['10.244.1.0/24', 'fd00:10:244:1::/64'],
  mtu: 1430,
};

test('both families, each with the address after the network\'s own', () => {
  assert.is(subnetEnvText(BOTH), [
    'FLANNEL_NETWORK=10.244.0.0/16', 'FLANNEL_SUBNET=10.244.1.1/24',
    'FLANNEL_IPV6_NETWORK=fd00:10:244::/48', 'FLANNEL_IPV6_SUBNET=fd00:10:244:1::1/64',
    'FLANNEL_MTU=1430', 'FLANNEL_IPMASQ=false', '',
  ].join('\n'));
});

test('the network is the one that holds the subnet', () => {
  const text = subnetEnvText(
    { podNetworks: ['10.1.0.0/16', '10.2.0.0/16'], podCidrs: ['10.2.3.128/25'], mtu: 1450 });
  assert.is(text, 'FLANNEL_NETWORK=10.2.0.0/16\nFLANNEL_SUBNET=10.2.3.129/25\n'
    + 'FLANNEL_MTU=1450\nFLANNEL_IPMASQ=false\n');
});

test('the file is written in one step, in a folder that may be missing', () => {
  const folder = mkdtempSync(join(tmpdir(), `culvert-subnet-env-${process.pid}-`));
  try {
    const path = join(folder, 'flannel', 'subnet.env');
    writeSubnetEnv(path, { ...BOTH, mtu: 1400 });
    writeSubnetEnv(path, BOTH);
    assert.is(readFileSync(path, 'utf8'), subnetEnvText(BOTH));
    assert.equal(readdirSync(join(folder, 'flannel')), ['subnet.env']);
    assert.not.ok(isForeign(path));
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
});

test('a flanneld\'s file is known by what it says', () => {
  const folder = mkdtempSync(join(tmpdir(), `culvert-subnet-env-${process.pid}-`));
  try {
    const path = join(folder, 'subnet.env');
    assert.not.ok(isForeign(path));
    writeFileSync(path, subnetEnvText(BOTH).replace('IPMASQ=false', 'IPMASQ=true'));
    assert.ok(isForeign(path));
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
});

test.run();

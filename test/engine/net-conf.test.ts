// flannel's net-conf.json, read as flannel reads it.

import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { NetConfError, parseNetConf } from '../../engine/net-conf.ts';

const test = suite('engine/net-conf');

/** What is wrong with a text. */
function fault(value: unknown): string {
  try {
    parseNetConf(typeof value === 'string' ? value : JSON.stringify(value), 'conf');
  } catch (error) {
    assert.instance(error, NetConfError);
    return (error as Error).message;
  }
  return 'no error';
}

test('what flannel\'s own manifest says', () => {
  const text = '{\n  "Network": "10.244.0.0/16",\n  "EnableNFTables": false,\n'
    + '  "Backend": {\n    "Type": "vxlan"\n  }\n}\n';
  assert.equal(parseNetConf(text, 'conf'), {
    podNetworks: ['10.244.0.0/16'], type: 'vxlan', vni: 1, port: 8472, linkMtu: 0,
    isDirectRouting: false,
  });
});

test('keys have any case, null is absent, host bits are cleared, port 0 is the kernel\'s', () => {
  const conf = parseNetConf(JSON.stringify({
    NETWORK: '10.42.7.1/16', ipv6network: 'FD00:42::1/56', enableIpv6: true, enableIPV4: null,
    SubnetLen: 24, backend: { TYPE: 'VXLAN', vni: 4096, Port: 0, mtu: null, DirectRouting: true },
  }), 'conf');
  assert.equal(conf, {
    podNetworks: ['10.42.0.0/16', 'fd00:42::/56'], type: 'vxlan', vni: 4096, port: 8472, linkMtu: 0,
    isDirectRouting: true,
  });
});

test('each type has what it needs; without one it is udp', () => {
  const conf = (tunnel?: object): unknown[] => {
    const text = JSON.stringify({ Network: '10.244.0.0/16', Backend: tunnel });
    const { type, port, isDirectRouting } = parseNetConf(text, 'conf');
    return [type, port, isDirectRouting];
  };
  assert.equal(conf(), ['udp', 8285, false]);
  assert.equal(conf({ Type: 'UDP', Port: 9000 }), ['udp', 9000, false]);
  assert.equal(conf({ Type: 'host-gw' }), ['host-gw', 0, true]);
  assert.equal(conf({ Type: 'ipip' }), ['ipip', 0, false]);
  assert.equal(conf({ Type: 'ipip', DirectRouting: true }), ['ipip', 0, true]);
});

test('IPv6 alone', () => {
  const { podNetworks } = parseNetConf(JSON.stringify({
    EnableIPv4: false, EnableIPv6: true, IPv6Network: 'fd00::/56', Network: '',
    Backend: { Type: 'vxlan' },
  }).replace('"Network":"",', ''), 'conf');
  assert.equal(podNetworks, ['fd00::/56']);
});

test('what cannot be used is named, with its field', () => {
  const network = { Network: '10.244.0.0/16' };
  const tunnel = { Backend: { Type: 'vxlan' } };
  const cases: [value: unknown, expected: RegExp][] = [
    ['{', /^conf: not JSON$/],
    ['[]', /^conf: Network: missing/],
    [{ ...network, Backend: {} }, /^conf: Backend\.Type: none is not spoken here; vxlan, host-gw/],
    [{ ...network, EnableIPv6: true, Backend: { Type: 'ipip' } }, /^conf: EnableIPv6: .* ipip/],
    [{ ...network, EnableIPv6: true }, /^conf: EnableIPv6: true, and type udp carries IPv4 alone/],
    [{ ...network, Backend: { Type: 'wireguard' } }, /^conf: Backend\.Type: wireguard is not/],
    [{ ...network, Backend: { Type: 'vxlan', GBP: true } }, /^conf: Backend\.GBP: /],
    [{ ...network, Backend: { Type: 'vxlan', VNI: '1' } }, /^conf: Backend\.VNI: /],
    [{ ...network, Backend: { Type: 'vxlan', Port: 65536 } }, /^conf: Backend\.Port: /],
    [tunnel, /^conf: Network: missing, and EnableIPv4 is on$/],
    [{ ...tunnel, Network: '10.244.0.0' }, /^conf: Network: not a prefix/],
    [{ ...tunnel, Network: 'fd00::/48' }, /^conf: Network: not an IPv4 prefix$/],
    [{ ...tunnel, ...network, EnableIPv6: true }, /^conf: IPv6Network: missing, .* EnableIPv6/],
    [{ ...tunnel, ...network, EnableIPv4: false }, /^conf: EnableIPv4: false, and EnableIPv6/],
    [{ ...tunnel, ...network, network: '10.1.0.0/16' }, /^conf: network: stands twice/],
  ];
  for (const [value, expected] of cases) assert.match(fault(value), expected);
});

test.run();

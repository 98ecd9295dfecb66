// The node that golden packets and the fuzzer's corpus speak of. test/golden/README.md draws it.

import * as layout from '../../wasm/abi/layout.ts';
import { TEST_LIMITS } from './core.ts';
import { makeScene, type Scene, type SceneSettings } from './scene.ts';

export const HOME: SceneSettings = {
  podNetworks: ['10.244.0.0/16', 'fd00:10:244::/56'],
  underlayMtu: 1500,
  local: {
    name: 'home',
    podCidrs: ['10.244.0.0/24', 'fd00:10:244::/64'],
    addresses: ['192.0.2.10', '2001:db8::10'],
    tunnels: [
      { family: 'IPv4', kind: 'vxlan', remote: '192.0.2.10', port: 8472, vni: 1,
        mac: '0e:00:00:00:04:10' },
      { family: 'IPv6', kind: 'vxlan', remote: '2001:db8::10', port: 8472, vni: 1,
        mac: '0e:00:00:00:06:10' },
    ],
  },
  remotes: [
    {
      name: 'edge',
      podCidrs: ['10.244.1.0/24', 'fd00:10:244:1::/64'],
      addresses: ['192.0.2.11', '2001:db8::11'],
      tunnels: [
        { family: 'IPv4', kind: 'vxlan', remote: '192.0.2.11', port: 8472, vni: 1,
          mac: '0e:00:00:00:04:11' },
        { family: 'IPv6', kind: 'vxlan', remote: '2001:db8::11', port: 8472, vni: 1,
          mac: '0e:00:00:00:06:11' },
      ],
    },
    {
      name: 'cross',
      podCidrs: ['10.244.2.0/24', 'fd00:10:244:2::/64'],
      addresses: ['192.0.2.12', '2001:db8::12'],
      tunnels: [
        { family: 'IPv4', kind: 'vxlan', remote: '2001:db8::12', port: 8472, vni: 1,
          mac: '0e:00:00:00:04:12' },
        { family: 'IPv6', kind: 'vxlan', remote: '192.0.2.12', port: 8472, vni: 1,
          mac: '0e:00:00:00:06:12' },
      ],
    },
    {
      name: 'geneve',
      podCidrs: ['10.244.3.0/24', 'fd00:10:244:3::/64'],
      addresses: ['192.0.2.13', '2001:db8::13'],
      tunnels: [
        { family: 'IPv4', kind: 'geneve', remote: '192.0.2.13', vni: 0x123456,
          mac: '0e:00:00:00:04:13' },
        { family: 'IPv6', kind: 'geneve', remote: '2001:db8::13', vni: 7, mac: null },
      ],
    },
    {
      name: 'ipip',
      podCidrs: ['10.244.4.0/24', 'fd00:10:244:4::/64'],
      addresses: ['192.0.2.14', '2001:db8::14'],
      tunnels: [
        { family: 'IPv4', kind: 'ipip', remote: '192.0.2.14' },
        { family: 'IPv6', kind: 'ipip', remote: '2001:db8::14' },
      ],
    },
    {
      name: 'ipip-cross',
      podCidrs: ['10.244.5.0/24', 'fd00:10:244:5::/64'],
      addresses: ['192.0.2.15', '2001:db8::15'],
      tunnels: [
        { family: 'IPv4', kind: 'ipip', remote: '2001:db8::15' },
        { family: 'IPv6', kind: 'ipip', remote: '192.0.2.15' },
      ],
    },
    {
      name: 'udp',
      podCidrs: ['10.244.6.0/24'],
      addresses: ['192.0.2.16'],
      tunnels: [{ family: 'IPv4', kind: 'udp', remote: '192.0.2.16' }],
    },
    {
      name: 'direct',
      podCidrs: ['10.244.7.0/24', 'fd00:10:244:7::/64'],
      addresses: ['192.0.2.17', '2001:db8::17'],
      tunnels: [
        { family: 'IPv4', kind: 'direct', remote: '192.0.2.17' },
        { family: 'IPv6', kind: 'direct', remote: '2001:db8::17' },
      ],
    },
  ],
  pods: [
    { name: 'pod-a', addresses: ['10.244.0.5', 'fd00:10:244::5'], mac: null },
    { name: 'pod-b', addresses: ['10.244.0.6', 'fd00:10:244::6'], mac: '0a:00:00:00:00:06' },
  ],
  special: [
    { prefix: '10.244.200.0/24', kind: 'prohibit' },
    { prefix: 'fd00:10:244:c8::/64', kind: 'prohibit' },
    { prefix: '10.244.201.0/24', kind: 'blackhole' },
    { prefix: 'fd00:10:244:c9::/64', kind: 'blackhole' },
  ],
  services: [
    {
      namespace: 'home', name: 'web', addresses: ['10.96.0.10', 'fd00:96::10'],
      affinitySeconds: 0, empty: 'reject',
      ports: [
        { name: 'http', protocol: 'TCP', port: 80, backends: [
          { address: '10.244.1.7', port: 8080, state: 'ready' },
          { address: 'fd00:10:244:1::7', port: 8080, state: 'ready' },
        ] },
        { name: 'dns', protocol: 'UDP', port: 53, backends: [
          { address: '10.244.0.6', port: 5353, state: 'ready' },
          { address: 'fd00:10:244::6', port: 5353, state: 'ready' },
        ] },
        { name: 'self', protocol: 'TCP', port: 81, backends: [
          { address: '10.244.0.5', port: 8080, state: 'ready' },
        ] },
      ],
    },
  ],
  icmpRate: 1000,
  icmpBurst: 1000,
};

const DEVICES = new Map([
  ['node', layout.DEVICE_NODE],
  ['underlay-ipv4', layout.DEVICE_UNDERLAY_IPV4], ['underlay-ipv6', layout.DEVICE_UNDERLAY_IPV6],
  ['geneve-ipv4', layout.DEVICE_GENEVE_IPV4], ['geneve-ipv6', layout.DEVICE_GENEVE_IPV6],
  ['udp-ipv4', layout.DEVICE_UDP_IPV4], ['udp-ipv6', layout.DEVICE_UDP_IPV6],
  ['ipip-ipv4', layout.DEVICE_IPIP_IPV4], ['ipip-ipv6', layout.DEVICE_IPIP_IPV6],
  ['ip6ip-ipv4', layout.DEVICE_IP6IP_IPV4], ['ip6ip-ipv6', layout.DEVICE_IP6IP_IPV6],
]);

/** Device indexes by the names that golden packets and the corpus use. */
export function deviceIndex(scene: Scene, name: string): number {
  const index = DEVICES.get(name) ?? scene.endpoints.get(name)?.device;
  if (index === undefined) throw new Error(`there is no device ${name}`);
  return index;
}

export function deviceName(scene: Scene, index: number): string {
  const names = [...DEVICES.keys(), ...scene.endpoints.keys()];
  const name = names.find((candidate) => deviceIndex(scene, candidate) === index);
  return name ?? `device ${index}`;
}

export function makeHome(changes: Partial<SceneSettings> = {}, limits = TEST_LIMITS): Scene {
  return makeScene({ ...HOME, ...changes }, limits);
}

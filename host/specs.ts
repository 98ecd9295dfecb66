// What the data workers are told of each device: its descriptors, and what the configuration says
// of offloads, recording and faults.

import { join } from 'node:path';
import { DEVICE_NODE, DEVICE_UNDERLAY_IPV4, DEVICE_UNDERLAY_IPV6 } from '../wasm/abi/layout.ts';
import { CUT_BY_KERNEL } from '../engine/tables/device.ts';
import type { HostConfig } from './config.ts';
import type { NodeDevice } from './node-device.ts';
import type { Tier } from './tier.ts';
import type { TunnelTap } from './tunnel-tap.ts';
import type { Underlay } from './underlay.ts';
import type { TunnelSockets } from './underlay-tunnels.ts';
import type { DeviceEnds, DeviceSpec } from './worker.ts';

export class DeviceSpecs {
  readonly #config: HostConfig;
  readonly #tier: Tier;

  constructor(config: HostConfig, tier: Tier) {
    this.#config = config;
    this.#tier = tier;
  }

  /** The underlay's devices: for each family that of VXLAN, and those of other tunnels. */
  underlay({ sockets, tap }: Underlay): DeviceSpec[] {
    return sockets.flatMap(({ family, receivers, senders, tunnels }) => {
      const index = family === 'IPv4' ? DEVICE_UNDERLAY_IPV4 : DEVICE_UNDERLAY_IPV6;
      const name = `underlay-${family.toLowerCase()}`;
      const spec = this.of({ index, name, kind: 'udp', receivers, senders });
      return [
        { ...spec, tunnelTap: tap?.families.includes(family) === true ? tap.fd : -1 },
        ...tunnels.map((tunnel) => this.#tunnel(tunnel, tap)),
      ];
    });
  }

  #tunnel({ need, receivers, senders }: TunnelSockets, tap: TunnelTap | null): DeviceSpec {
    const { device: index, kind, family } = need;
    const spec = this.of({ index, name: `${kind}-${index}`, kind: 'udp', receivers, senders });
    const isCut = tap?.families.includes(family) === true && CUT_BY_KERNEL[family].includes(index);
    return { ...spec, tunnelTap: isCut ? tap.fd : -1 };
  }

  /** The node's own device. */
  node({ descriptors: receivers }: NodeDevice): DeviceSpec {
    const { name } = this.#config.device;
    return this.of({ index: DEVICE_NODE, name, kind: 'tun', receivers, senders: [] });
  }

  /** Any device; faults are the underlay's. */
  of(device: DeviceEnds): DeviceSpec {
    const { pcap, fault } = this.#config.debug;
    const isFaulty = device.kind === 'udp'
      && (fault.drop + fault.corrupt + fault.duplicate + fault.reorder + fault.crashAfter) > 0;
    return {
      ...device,
      vnetSize: device.kind === 'udp' ? 0 : this.#tier.vnetSize,
      tunnelTap: -1,
      pcap: pcap === '' ? null : join(pcap, `${device.name.replaceAll('/', '_')}.pcap`),
      fault: isFaulty ? fault : null,
    };
  }
}

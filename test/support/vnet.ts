// The vnet header, as virtio 1.2 section 5.1.6 draws it, for a machine of little-endian byte order:
// built from named fields and read back.

/** `linux/virtio_net.h`, VIRTIO_NET_HDR_GSO_*. */
export const GSO = {
  none: 0, tcpv4: 1, udpFragments: 3, tcpv6: 4, udp: 5,
  tunnelIpv4: 0x20, tunnelIpv6: 0x40, ecn: 0x80,
} as const;

/** VIRTIO_NET_HDR_F_*. */
export const VNET_FLAG = { needsChecksum: 1, dataValid: 2, tunnelChecksum: 8 } as const;

export interface Vnet {
  flags: number;
  gsoType: number;
  headerLength: number;
  gsoSize: number;
  checksumStart: number;
  checksumOffset: number;
}

/** Of a packet that asks for nothing. */
export const PLAIN: Vnet = {
  flags: 0, gsoType: 0, headerLength: 0, gsoSize: 0, checksumStart: 0, checksumOffset: 0,
};

const SIZE = 10;

/** A header of 10 bytes, or of `size`, the rest zero. */
export function vnet(fields: Partial<Vnet>, size = SIZE): Uint8Array {
  const all = { ...PLAIN, ...fields };
  const halves = [all.headerLength, all.gsoSize, all.checksumStart, all.checksumOffset];
  const header = new Uint8Array(size);
  header.set([all.flags, all.gsoType, ...halves.flatMap((half) => [half & 0xff, half >> 8])]);
  return header;
}

/** Reads the first 10 bytes. */
export function parseVnet(header: Uint8Array): Vnet {
  const half = (at: number): number => (header[at] ?? 0) | ((header[at + 1] ?? 0) << 8);
  return {
    flags: header[0] ?? 0,
    gsoType: header[1] ?? 0,
    headerLength: half(2),
    gsoSize: half(4),
    checksumStart: half(6),
    checksumOffset: half(8),
  };
}

// Headers that tell a backend who its client is: the PROXY protocol, which HAProxy's
// doc/proxy-protocol.txt specifies. Version 1 is a line of text (section 2.1), for TCP only;
// version 2 is binary (section 2.2), for datagrams too, of which each gets one.

import { addressBytes, addressFamily } from '../../engine/address.ts';

/** Section 2.2: 12 bytes that no other protocol begins with. */
const SIGNATURE = [0x0d, 0x0a, 0x0d, 0x0a, 0x00, 0x0d, 0x0a, 0x51, 0x55, 0x49, 0x54, 0x0a];
/** Version 2, command PROXY. */
const VERSION_COMMAND = 0x21;
/** Address family in the high half, transport in the low one. */
const FAMILY = { IPv4: 0x10, IPv6: 0x20 } as const;
const TRANSPORT = { TCP: 0x01, UDP: 0x02 } as const;
const PORTS_SIZE = 4;
const FIXED_SIZE = 16;

/** Who asked, and what was asked: addresses of one family, zones allowed. */
export interface Ends {
  protocol: 'TCP' | 'UDP';
  client: string;
  clientPort: number;
  address: string;
  port: number;
}

/** The header; empty where there is none: for `none`, and for datagrams in version 1. */
export function proxyHeader(version: 'none' | 'v1' | 'v2', ends: Ends): Uint8Array {
  if (version === 'v2') return binaryHeader(ends);
  return version === 'v1' && ends.protocol === 'TCP' ? textHeader(ends) : new Uint8Array(0);
}

function textHeader({ client, clientPort, address, port }: Ends): Uint8Array {
  const family = addressFamily(client) === 'IPv4' ? 'TCP4' : 'TCP6';
  const line = `PROXY ${family} ${bare(client)} ${bare(address)} ${clientPort} ${port}\r\n`;
  return new TextEncoder().encode(line);
}

function binaryHeader({ protocol, client, clientPort, address, port }: Ends): Uint8Array {
  const [from, to] = [addressBytes(bare(client)), addressBytes(bare(address))];
  const addressesSize = from.length + to.length;
  const header = new Uint8Array(FIXED_SIZE + addressesSize + PORTS_SIZE);
  const view = new DataView(header.buffer);
  header.set(SIGNATURE);
  header[12] = VERSION_COMMAND;
  header[13] = FAMILY[addressFamily(client)] | TRANSPORT[protocol];
  view.setUint16(14, addressesSize + PORTS_SIZE);
  header.set(from, FIXED_SIZE);
  header.set(to, FIXED_SIZE + from.length);
  view.setUint16(FIXED_SIZE + addressesSize, clientPort);
  view.setUint16(FIXED_SIZE + addressesSize + 2, port);
  return header;
}

/** A link-local address without its zone, which means nothing to another machine. */
function bare(address: string): string {
  return address.split('%')[0] ?? '';
}

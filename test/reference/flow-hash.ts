// The slow twin of wasm/table/flow-hash.ts: the same sum in whole numbers, cut to 64 bits.

import {
  FLOW_ADDRESS_A, FLOW_ADDRESS_B, FLOW_KEYS, FLOW_KEYS_ADDRESS_A, FLOW_KEYS_ADDRESS_B,
  FLOW_KEYS_REST, FLOW_KEYS_SPREAD, FLOW_PORT_A, FLOW_PROTOCOL,
} from '../../wasm/abi/policy.ts';

const WORD = 2n ** 32n;

/** Hash of the flow key at `key`, by the hash's keys in the same memory. */
export function flowKeyHash(view: DataView, key: number): bigint {
  const word = (at: number): bigint => BigInt(view.getUint32(at, true));
  let sum = 0n;
  for (let at = 0; at < 16; at += 4) {
    const a = word(key + FLOW_ADDRESS_A + at) + word(FLOW_KEYS + FLOW_KEYS_ADDRESS_A + at);
    const b = word(key + FLOW_ADDRESS_B + at) + word(FLOW_KEYS + FLOW_KEYS_ADDRESS_B + at);
    sum += (a % WORD) * (b % WORD);
  }
  const rest = word(key + FLOW_PORT_A) + (BigInt(view.getUint8(key + FLOW_PROTOCOL)) * WORD);
  sum += rest * view.getBigUint64(FLOW_KEYS + FLOW_KEYS_REST, true);
  sum %= WORD * WORD;
  const spread = view.getBigUint64(FLOW_KEYS + FLOW_KEYS_SPREAD, true);
  return ((sum ^ (sum / WORD)) * spread) % (WORD * WORD);
}

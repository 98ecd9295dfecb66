// Fields that many schemas of the model have.

import * as v from 'valibot';
import { isAddress, isMac, isPrefix } from './address.ts';

export const Address = v.pipe(v.string(), v.check(isAddress, 'not an IP address'));
export const Prefix = v.pipe(v.string(), v.check(isPrefix, 'not a prefix in CIDR form'));
export const Mac = v.pipe(v.string(), v.check(isMac, 'not a unicast MAC address'));
export const Name = v.pipe(v.string(), v.minLength(1), v.maxLength(253));
export const Port = v.pipe(v.number(), v.integer(), v.minValue(1), v.maxValue(65535));
export const Count = v.pipe(v.number(), v.safeInteger(), v.minValue(0));

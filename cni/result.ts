// The answer to ADD, in the form that each version of the specification has: "ADD Success".

import * as v from 'valibot';
import type { InterfaceSetUp } from '../engine/model.ts';
import { ShapeError, parseShape } from '../engine/shape.ts';
import { CODE, CniError } from './errors.ts';
import type { Request, Version } from './request.ts';

const Whole = v.pipe(v.number(), v.integer(), v.minValue(0));
const ResultSchema = v.looseObject({
  interfaces: v.optional(v.array(v.looseObject({
    name: v.string(), sandbox: v.optional(v.string()),
  })), []),
  ips: v.optional(v.array(v.looseObject({
    address: v.string(), interface: v.optional(Whole),
  })), []),
  routes: v.optional(v.array(v.looseObject({ dst: v.string() })), []),
  dns: v.optional(v.looseObject({})),
});
export type Result = v.InferOutput<typeof ResultSchema>;

/** Reads the result of an earlier plugin, or of an IPAM plugin. Throws CniError. */
export function parseResult(value: unknown, what: string): Result {
  try {
    return parseShape(ResultSchema, value, what);
  } catch (error) {
    if (!(error instanceof ShapeError)) throw error;
    throw new CniError(CODE.invalidConfig, error.message);
  }
}

/** What we have made, behind what the plugins before us have. */
export function makeResult(request: Request, setUp: InterfaceSetUp, dns: object): object {
  const { version, netns, config: { prevResult } } = request;
  const before = parseResult(prevResult ?? {}, 'prevResult');
  const index = before.interfaces.length;
  const mtu = version === '1.1.0' ? { mtu: setUp.mtu } : {};
  return {
    cniVersion: version,
    interfaces: [...before.interfaces, { name: setUp.name, ...mtu, sandbox: netns }],
    ips: [
      ...before.ips,
      ...setUp.addresses.map((address) => ({ ...familyOf(version, address), address,
        interface: index })),
    ],
    routes: [
      ...before.routes,
      ...setUp.routes.map(({ prefix: dst, via }) =>
        ({ dst, ...(via === null ? {} : { gw: via }) })),
    ],
    dns: before.dns ?? dns,
  };
}

/** Before 1.0.0 an address names its family beside itself. */
function familyOf(version: Version, address: string): object {
  if (version === '1.0.0' || version === '1.1.0') return {};
  return { version: address.includes(':') ? '6' : '4' };
}

/** The addresses that a result gives to an interface of a pod; null where it has no such one. */
export function addressesIn(result: Result, name: string, sandbox: string): string[] | null {
  const index = result.interfaces.findIndex((each) =>
    each.name === name && (each.sandbox ?? '') === sandbox);
  if (index < 0) return null;
  return result.ips.filter((ip) => ip.interface === index).map(({ address }) => address);
}

// The exports of a module in AssemblyScript. `culvert module build` puts this file beside the
// user's folder (`user/`) and beside constants from its module.json (manifest.ts), compiles it and
// gives the exports the names that the component model wants.

import { Endpoint } from 'culvert/module';
import { flow, setFlow } from 'culvert/flow';
import { dropInfo, dropProblem, giveInfo, giveProblem, inspectOffset, loadFlow, realloc,
  takeEndpoints, takePayload, takeText } from 'culvert/glue';
import { NAME, STATEFUL, VERSION } from './manifest';
import * as user from './user/index';

export function cabi_realloc(old: usize, oldSize: usize, align: usize, size: usize): usize {
  return realloc(old, oldSize, align, size);
}

export function describe(): usize {
  return giveInfo(NAME, VERSION, STATEFUL);
}

export function cabi_post_describe(info: usize): void {
  dropInfo(info);
}

export function configure(config: usize, length: usize): usize {
  const text = takeText(config, length);
  if (isDefined(user.configure)) return giveProblem(user.configure(text));
  return giveProblem('');
}

export function cabi_post_configure(answer: usize): void {
  dropProblem(answer);
}

export function endpoints(list: usize, count: i32): void {
  const pods: Endpoint[] = takeEndpoints(list, count);
  if (isDefined(user.endpoints)) user.endpoints(pods);
}

export function evaluate(
  family: i32, direction: i32, protocol: i32, tcp: i32, srcPort: i32, dstPort: i32,
  srcIdentity: u32, dstIdentity: u32, src0: u32, src1: u32, src2: u32, src3: u32,
  dst0: u32, dst1: u32, dst2: u32, dst3: u32,
): i32 {
  setFlow(
    family, direction, protocol, tcp, srcPort, dstPort, srcIdentity, dstIdentity,
    src0, src1, src2, src3, dst0, dst1, dst2, dst3);
  return user.evaluate(flow);
}

export function inspect(from: usize): i32 {
  loadFlow(from);
  const offset = inspectOffset(from);
  const payload = takePayload(from);
  if (isDefined(user.inspect)) return user.inspect(flow, offset, payload);
  return unreachable();
}

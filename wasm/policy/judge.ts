// Judging a flow: egress of its source's endpoint, ingress of its destination's, where they are on
// this node. Everything follows from the flow's entry, so a known flow is judged anew by any of its
// packets, always in the direction in which it was opened.
//
// A change of policy moves addresses to other identities and devices to other rule sets, one store
// after the other, such that at each moment they fit each other (engine/tables/policy-moves.ts). So
// what is read must be of one moment: it is read again until the rule sets before and after reading
// the identities are the same, within one epoch. Rule sets cannot come back within an epoch, and a
// change takes far longer than a look.

import { DIRECTORY_POLICY_EPOCH, DIRECTORY_START } from "../abi/layout";
import {
  ANSWER_ALLOW, ANSWER_MODULE_MASK, ANSWER_MODULE_SHIFT, ANSWER_REJECT, FLOW_ANSWER_EGRESS,
  FLOW_ANSWER_INGRESS, FLOW_EPOCH,
} from "../abi/policy";
import {
  REASON_MODULE_EGRESS, REASON_MODULE_INGRESS, REASON_MODULE_REJECTED, REASON_NONE,
  REASON_POLICY_EGRESS, REASON_POLICY_INGRESS,
} from "../abi/verdict";
import { flowDestination, flowIsIpv4, flowPolicyKey, flowSource } from "../flow-key";
import { flowCandidate } from "../table/flow";
import { deviceEgress, deviceIngress, endpointDevice, nextHopAt } from "../table/record";
import { routeIpv4, routeIpv6 } from "../table/route";
import { watchFind, watchedEpoch } from "../table/watch";
import { identityOfIpv4, identityOfIpv6, policyAnswer } from "./match";
import {
  askModules, closeJudgement, moduleList, modulesLookOn, modulesWatch, pendingModules, setPending,
} from "./module";
import { recordVerdict } from "./ring";

/** The policy epoch. What is judged after reading it is at least as new. */
export function policyEpoch(): u32 {
  return atomic.load<u32>(DIRECTORY_START, DIRECTORY_POLICY_EPOCH);
}

/** Judges a flow and writes epoch and answers into its entry. REASON_NONE allows it. */
export function judgeFlow(flow: usize, worker: i32, nowMs: i32): i32 {
  const source = flowSource(flow);
  const destination = flowDestination(flow);
  const ipv4 = flowIsIpv4(flow);
  const from = localEndpoint(source, ipv4);
  const to = localEndpoint(destination, ipv4);
  let epoch: u32;
  let sender: usize;
  let receiver: usize;
  let near: i32;
  let far: i32;
  do {
    epoch = policyEpoch();
    sender = from != 0 ? deviceEgress(from) : 0;
    receiver = to != 0 ? deviceIngress(to) : 0;
    near = identityOf(source, ipv4);
    far = identityOf(destination, ipv4);
  } while ((from != 0 && deviceEgress(from) != sender)
    || (to != 0 && deviceIngress(to) != receiver) || policyEpoch() != epoch);
  const key = flowPolicyKey(flow);
  let egress = policyAnswer(sender, far, key);
  let ingress = policyAnswer(receiver, near, key);
  const modules = moduleList();
  setPending(worker, 0);
  if (modules != 0) {
    if (from != 0) {
      egress = askModules(
        modules, worker, flow, source, destination, ipv4, key, 0, egress, near, far);
    }
    if (to != 0) {
      ingress = askModules(
        modules, worker, flow, source, destination, ipv4, key, 1, ingress, near, far);
    }
    closeJudgement(worker, flow);
    if (modulesLookOn(modules) && isWatched(modules, worker, flow)) epoch = watchedEpoch(epoch);
  }
  if (from != 0) recordVerdict(worker, nowMs, flow, from, 0, egress, near, far, key);
  if (to != 0) recordVerdict(worker, nowMs, flow, to, 1, ingress, near, far, key);
  store<u32>(flow, epoch, FLOW_EPOCH);
  store<u32>(flow, egress, FLOW_ANSWER_EGRESS);
  store<u32>(flow, ingress, FLOW_ANSWER_INGRESS);
  return reasonOf(egress, ingress);
}

/** True where modules are to look at further packets of the flow. Payload is shown from a flow's
 * beginning only: a known flow that is judged anew goes on as it is, unless it is being shown. */
function isWatched(modules: usize, worker: i32, flow: usize): bool {
  const isKnown = flow != flowCandidate(worker);
  if (pendingModules(worker) != 0 && isKnown && watchFind(flow) == 0) setPending(worker, 0);
  return modulesWatch(modules) || pendingModules(worker) != 0;
}

/** Why the packet of a flow with these answers is dropped, REASON_NONE where it is not. */
export function reasonOf(egress: u32, ingress: u32): i32 {
  if ((egress & ANSWER_ALLOW) == 0) {
    return refusal(egress, REASON_POLICY_EGRESS, REASON_MODULE_EGRESS);
  }
  if ((ingress & ANSWER_ALLOW) != 0) return REASON_NONE;
  return refusal(ingress, REASON_POLICY_INGRESS, REASON_MODULE_INGRESS);
}

function refusal(answer: u32, policy: i32, module: i32): i32 {
  if ((answer & ANSWER_REJECT) != 0) return REASON_MODULE_REJECTED;
  return ((answer >>> ANSWER_MODULE_SHIFT) & ANSWER_MODULE_MASK) != 0 ? module : policy;
}

/** The device of the endpoint with the address, 0 where it is not on this node. */
export function localEndpoint(address: usize, ipv4: bool): usize {
  return endpointDevice(nextHopAt(ipv4 ? routeIpv4(address + 12) : routeIpv6(address)));
}

export function identityOf(address: usize, ipv4: bool): i32 {
  return ipv4 ? identityOfIpv4(address + 12) : identityOfIpv6(address);
}

// Keeps pods from talking to some of the world: prefixes, or the lists of prefixes that registries
// publish for countries and autonomous systems. Configuration, a line each:
//
//   192.0.2.0/24                blocked
//   203.0.113.0/24 AS64496      has a label: blocked where a line says so
//   2001:db8::/32 CC
//   block AS64496               blocks a label
//   allow 192.0.2.8/29          not blocked, whatever is around it: the longest prefix decides
//
// Judges the far end: the destination where a connection leaves a pod, the source where it arrives.

import { Direction, Family, Flow, Level, linesOf, log, Verdict } from 'culvert/module';
import { NO_VALUE, parsePrefix, Prefix, PrefixTable } from './prefixes';

const ALLOWED = 'allow';
const UNLABELLED = '';

/** Labels by their numbers, and whether they are blocked. */
const labels = new Map<string, i32>();
const blocked = new Array<bool>();
let ipv4 = new PrefixTable([]);
let ipv6 = new PrefixTable([]);

function labelOf(name: string): i32 {
  if (!labels.has(name)) {
    labels.set(name, blocked.length);
    blocked.push(name == UNLABELLED);
  }
  return labels.get(name);
}

/** Takes the configuration. Returns what is wrong with it, or an empty string. */
export function configure(text: string): string {
  labels.clear();
  blocked.length = 0;
  const prefixes4 = new Array<Prefix>();
  const prefixes6 = new Array<Prefix>();
  const lines = linesOf(text);
  for (let at = 0; at < lines.length; at += 1) {
    const words = lines[at].split(' ');
    if (words[0] == 'block') {
      for (let word = 1; word < words.length; word += 1) blocked[labelOf(words[word])] = true;
      continue;
    }
    const isAllow = words[0] == ALLOWED && words.length == 2;
    const prefix = parsePrefix(isAllow ? words[1] : words[0]);
    if (prefix === null || words.length > 2) return `"${lines[at]}" is no prefix and no rule`;
    const label = isAllow ? ALLOWED : words.length == 2 ? words[1] : UNLABELLED;
    prefix.value = labelOf(label);
    (prefix.isIpv4 ? prefixes4 : prefixes6).push(prefix);
  }
  ipv4 = new PrefixTable(prefixes4);
  ipv6 = new PrefixTable(prefixes6);
  log(Level.Info, `${prefixes4.length} IPv4 and ${prefixes6.length} IPv6 prefixes`);
  return '';
}

/** Denies connections whose far end is in a blocked prefix. */
export function evaluate(flow: Flow): Verdict {
  const isOut = flow.direction == Direction.Egress;
  const hi = (<u64>(isOut ? flow.dst0 : flow.src0) << 32) | (isOut ? flow.dst1 : flow.src1);
  const lo = (<u64>(isOut ? flow.dst2 : flow.src2) << 32) | (isOut ? flow.dst3 : flow.src3);
  const label = (flow.family == Family.IPv4 ? ipv4 : ipv6).find(hi, lo);
  return label != NO_VALUE && blocked[label] ? Verdict.Deny : Verdict.Pass;
}

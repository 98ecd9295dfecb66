// A policy module: denies TCP connections to the ports that its configuration lists, one a line.

import { Flow, Level, linesOf, log, Protocol, Verdict } from 'culvert/module';

const denied = new Set<i32>();

/** Takes the configuration. Returns what is wrong with it, or an empty string. */
export function configure(text: string): string {
  denied.clear();
  const lines = linesOf(text);
  for (let at = 0; at < lines.length; at += 1) {
    const port = I32.parseInt(lines[at]);
    if (port < 1 || port > 65535) return `"${lines[at]}" is not a port`;
    denied.add(port);
  }
  log(Level.Info, `${denied.size} ports are denied`);
  return '';
}

/** Judges the first packet of a flow, once at each end that has a policy. */
export function evaluate(flow: Flow): Verdict {
  const isDenied = flow.protocol == Protocol.TCP && denied.has(flow.dstPort);
  return isDenied ? Verdict.Deny : Verdict.Pass;
}

// The smallest module in AssemblyScript: denies telnet (TCP port 23).

import { Flow, Protocol, Verdict } from 'culvert/module';

const TELNET = 23;

export function evaluate(flow: Flow): Verdict {
  const isTelnet = flow.protocol == Protocol.TCP && flow.dstPort == TELNET;
  return isTelnet ? Verdict.Deny : Verdict.Pass;
}

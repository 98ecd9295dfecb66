// The report of `bench cni` as tables for people.

import type { CniReport } from '../cni.ts';
import { reportText } from '../report.ts';

const NS_PER_MS = 1e6;
const NAME_WIDTH = 18;
const MS_WIDTH = 7;

/** What the results' names mean. */
const MEANINGS: Record<string, string> = {
  'add/culvert': 'ADD by our plugin',
  'add/bridge': 'ADD by bridge and host-local',
  'add/tapped': 'ADD by our plugin, its words to the daemon tapped; made of:',
  'part/start': 'Node.js starts, loads the program, checks the request, connects',
  'part/greeting': 'hello and welcome',
  'part/daemonAdd': 'the daemon claims addresses, makes the TUN, enters the pod',
  'part/interface': 'the plugin moves the TUN and sets it up',
  'part/daemonReady': 'the daemon waits for the rule sets, keeps the attachment on disk',
  'part/end': 'the result, and the end of the process',
  'floor/node': 'a Node.js that does nothing',
  'floor/move': 'the kernel moves a TUN to another namespace',
};

export function cniText(report: CniReport): string {
  const rows = Object.entries(MEANINGS).flatMap(([name, meaning]) => {
    const result = report.results.find((each) => each.name === name);
    if (result === undefined) return [];
    const ms = (result.nsPerOp / NS_PER_MS).toFixed(1).padStart(MS_WIDTH);
    return [`${name.padEnd(NAME_WIDTH)}${ms} ms   ${meaning}\n`];
  });
  const skipped = Object.entries(report.skipped)
    .map(([name, reason]) => `skipped  ${name}  ${reason}\n`);
  return [reportText(report), '\n', ...rows, ...skipped].join('');
}

// Lets pods open TLS connections to the hosts of a list only, by the name that the client asks for.
// Configuration, a line each:
//
//   allow example.com        this name
//   allow *.example.org      every name below it, at any depth
//   port 8443                judge this port too (443 is judged in any case)
//   nameless pass            clients that name no host; refused unless said
//
// A ClientHello may come in several packets, in any order: what was seen of it is kept until it is
// whole.

import { Direction, Flow, linesOf, Protocol, Verdict } from 'culvert/module';
import { Pieces } from './pieces';
import { Hello, HelloReader } from './tls';

/** ClientHellos that are kept at once; the oldest gives way. */
const UNFINISHED_LIMIT = 256;
/** No ClientHello is so long. */
const OFFSET_LIMIT: u32 = 32768;
const PORT_HTTPS = 443;
const PORT_LIMIT = 65535;

const ports = new Set<i32>();
const names = new Set<string>();
/** What follows the star, with its dot. */
const suffixes = new Array<string>();
const unfinished = new Map<string, Pieces>();
const reader = new HelloReader();
let nameless: Verdict = Verdict.Reject;

/** Takes the configuration. Returns what is wrong with it, or an empty string. */
export function configure(text: string): string {
  ports.clear();
  names.clear();
  suffixes.length = 0;
  nameless = Verdict.Reject;
  ports.add(PORT_HTTPS);
  const lines = linesOf(text);
  for (let at = 0; at < lines.length; at += 1) {
    const words = lines[at].split(' ');
    if (words.length != 2 || !configureOne(words[0], words[1].toLowerCase())) {
      return `"${lines[at]}" is no rule`;
    }
  }
  return '';
}

function configureOne(verb: string, word: string): bool {
  if (verb == 'allow') {
    if (word.startsWith('*.')) suffixes.push(word.substring(1));
    else names.add(word);
    return word.length > 2;
  }
  if (verb == 'nameless') {
    nameless = word == 'pass' ? Verdict.Pass : Verdict.Reject;
    return word == 'pass' || word == 'reject';
  }
  const port = I32.parseInt(word);
  ports.add(port);
  return verb == 'port' && port > 0 && port <= PORT_LIMIT;
}

/** Asks for the payload of connections that pods open to the judged ports. */
export function evaluate(flow: Flow): Verdict {
  const isJudged = flow.direction == Direction.Egress && flow.protocol == Protocol.TCP
    && ports.has(flow.dstPort);
  return isJudged ? Verdict.More : Verdict.Pass;
}

/** Judges a connection by its first bytes. */
export function inspect(flow: Flow, offset: u32, payload: Uint8Array): Verdict {
  const key = keyOf(flow);
  const pieces = unfinished.has(key) ? unfinished.get(key) : new Pieces();
  unfinished.delete(key);
  if (offset > OFFSET_LIMIT || !pieces.add(offset, payload)) return Verdict.Reject;
  const found = reader.read(pieces.joined());
  if (found == Hello.Unfinished) {
    keep(key, pieces);
    return Verdict.More;
  }
  if (found == Hello.Nameless) return nameless;
  return found == Hello.Named && isAllowed(reader.name) ? Verdict.Pass : Verdict.Reject;
}

function isAllowed(name: string): bool {
  if (names.has(name)) return true;
  for (let at = 0; at < suffixes.length; at += 1) {
    if (name.length > suffixes[at].length && name.endsWith(suffixes[at])) return true;
  }
  return false;
}

function keyOf(flow: Flow): string {
  const from = `${flow.src0} ${flow.src1} ${flow.src2} ${flow.src3} ${flow.srcPort}`;
  return `${from} ${flow.dst0} ${flow.dst1} ${flow.dst2} ${flow.dst3} ${flow.dstPort}`;
}

function keep(key: string, pieces: Pieces): void {
  if (unfinished.size >= UNFINISHED_LIMIT) unfinished.delete(unfinished.keys()[0]);
  unfinished.set(key, pieces);
}

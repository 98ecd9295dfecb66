// Limits how many connections a second a source may open. Configuration, a line each:
//
//   rate 10            connections a second; 10 unless said
//   burst 20           at once after a pause; as many as the rate unless said
//   per identity       a source is an identity (pods that no policy tells apart), or `address`
//   at egress          judge where connections leave pods, or at `ingress`
//
// Each source has a token bucket (as RFC 2697 section 3 has it): it fills with time, and each
// connection takes a token. Needs the clock: `culvert module add --allow clock`.

import { Direction, Flow, linesOf, nowMs, Verdict } from 'culvert/module';

/** Sources that are remembered, in sets of WAYS: one that is not there takes the place of the one
 * in its set that was quiet for longest, and begins with a full bucket. */
const SETS = 2048;
const WAYS = 4;
/** A token in the unit in which tokens are counted, so that a millisecond's share is a number. */
const TOKEN: u64 = 1000;
const RATE_LIMIT = 1_000_000;
const RATE_DEFAULT = 10;
const GOLDEN = 0x9e3779b1;

@unmanaged
class Bucket {
  key0: u32;
  key1: u32;
  key2: u32;
  key3: u32;
  tokens: u32;
  lastMs: u32;
}

const buckets: usize = heap.alloc(SETS * WAYS * offsetof<Bucket>());
memory.fill(buckets, 0, SETS * WAYS * offsetof<Bucket>());
let rate: u32 = RATE_DEFAULT;
let burst: u32 = RATE_DEFAULT;
let byIdentity: bool = false;
let direction: Direction = Direction.Ingress;

/** Takes the configuration. Returns what is wrong with it, or an empty string. */
export function configure(text: string): string {
  rate = RATE_DEFAULT;
  burst = 0;
  byIdentity = false;
  direction = Direction.Ingress;
  const lines = linesOf(text);
  for (let at = 0; at < lines.length; at += 1) {
    const words = lines[at].split(' ');
    if (words.length != 2 || !configureOne(words[0], words[1])) return `"${lines[at]}" is no rule`;
  }
  if (burst == 0) burst = rate;
  return '';
}

function configureOne(verb: string, word: string): bool {
  if (verb == 'per') {
    byIdentity = word == 'identity';
    return byIdentity || word == 'address';
  }
  if (verb == 'at') {
    direction = word == 'egress' ? Direction.Egress : Direction.Ingress;
    return word == 'egress' || word == 'ingress';
  }
  const count = I32.parseInt(word);
  if (count < 1 || count > RATE_LIMIT) return false;
  if (verb == 'rate') rate = count;
  else if (verb == 'burst') burst = count;
  return verb == 'rate' || verb == 'burst';
}

/** Takes a token of the source; denies where there is none. */
export function evaluate(flow: Flow): Verdict {
  if (flow.direction != direction) return Verdict.Pass;
  const now = nowMs();
  const bucket = byIdentity
    ? find(flow.srcIdentity, 0, 0, 0, now)
    : find(flow.src0, flow.src1, flow.src2, flow.src3, now);
  const full = burst * TOKEN;
  // The tokens of a millisecond are `rate` thousandths of one.
  const filled = <u64>bucket.tokens + (<u64>(now - bucket.lastMs) * rate);
  const tokens = min(filled, full);
  bucket.lastMs = now;
  bucket.tokens = <u32>(tokens >= TOKEN ? tokens - TOKEN : tokens);
  return tokens >= TOKEN ? Verdict.Pass : Verdict.Deny;
}

/** The bucket of a source. */
function find(key0: u32, key1: u32, key2: u32, key3: u32, now: u32): Bucket {
  const hash = ((((key0 * GOLDEN) ^ key1) * GOLDEN ^ key2) * GOLDEN ^ key3) * GOLDEN;
  const set = buckets + (((hash >>> 16) % SETS) * WAYS * offsetof<Bucket>());
  let oldest = changetype<Bucket>(set);
  for (let way = 0; way < WAYS; way += 1) {
    const bucket = changetype<Bucket>(set + (way * offsetof<Bucket>()));
    const isIt = bucket.key0 == key0 && bucket.key1 == key1 && bucket.key2 == key2
      && bucket.key3 == key3;
    if (isIt && bucket.lastMs != 0) return bucket;
    if (now - bucket.lastMs > now - oldest.lastMs) oldest = bucket;
  }
  oldest.key0 = key0;
  oldest.key1 = key1;
  oldest.key2 = key2;
  oldest.key3 = key3;
  oldest.tokens = <u32>(burst * TOKEN);
  oldest.lastMs = now;
  return oldest;
}

// The inside of the core for tests: compiles test/assembly/wire.ts with the core's own settings and
// keeps the result under dist/, by the hash of all it was made from.

import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readFileSync, readdirSync, renameSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { ROOT } from './source.ts';

const ENTRY = 'test/assembly/wire.ts';
const FOLDER = 'dist/test/assembly';
/** Imported by a name that the type checker does not follow: the compiler's own types declare a
 * global console without console.error. */
const COMPILER: string = 'assemblyscript/asc';
const OPTIONS = [
  '--runtime', 'stub', '--importMemory', '--sharedMemory', '--initialMemory', '1',
  '--maximumMemory', '1', '--noExportMemory', '--noAssert', '--optimizeLevel', '3',
  '--enable', 'threads', '--enable', 'simd', '--enable', 'bulk-memory',
];

type Numeric = (...args: number[]) => number;
type Wide = (...args: number[]) => bigint;
type Hashed = (hash: bigint, count?: number) => number;

/** Exports of test/assembly/wire.ts that tests call. Addresses are those of WireMemory. */
export interface WireExports {
  checksum: Numeric; checksumMany: Numeric; checksumUpdate: Numeric; headerChecksum: Numeric;
  flowKeyHash: Wide; homeGroup: Hashed; secondGroup: Hashed; tagOf: Hashed;
  etherType: Numeric; setEtherType: Numeric; macEquals: Numeric; macIsBroadcast: Numeric;
  macIsGroup: Numeric; copyMac: Numeric; emitEthernet: Numeric;
  checkIp: Numeric; isIpv4: Numeric; ipTotalLength: Numeric; ipEtherType: Numeric;
  ipHopLimit: Numeric; ipDecrementHopLimit: Numeric; ipDontFragment: Numeric; flowHash: Numeric;
  ipSourceAddress: Numeric; ipDestinationAddress: Numeric; ipTransport: Numeric;
  checkIpv4: Numeric; checkIpv4Addresses: Numeric; ipv4HeaderLength: Numeric;
  ipv4TotalLength: Numeric; ipv4Source: Numeric; ipv4Destination: Numeric; ipv4Protocol: Numeric;
  ipv4Ttl: Numeric; ipv4DontFragment: Numeric; ipv4IsFragment: Numeric;
  ipv4FragmentOffset: Numeric; ipv4DecrementTtl: Numeric; emitIpv4: Numeric;
  checkIpv6: Numeric; checkIpv6Addresses: Numeric; ipv6TotalLength: Numeric;
  ipv6NextHeader: Numeric; ipv6HopLimit: Numeric; ipv6SourceHi: Wide; ipv6SourceLo: Wide;
  ipv6DestinationHi: Wide; ipv6DestinationLo: Wide; ipv6Equals: Numeric; copyIpv6: Numeric;
  ipv6DecrementHopLimit: Numeric; emitIpv6: Numeric;
  transportProtocol: Numeric; transportOffset: Numeric; isFragment: Numeric;
  isHeaderless: Numeric; isSourceRouted: Numeric; transportPorts: Numeric;
  mayAnswerWithError: Numeric; emitIcmp: Numeric; emitIcmpv6: Numeric; icmpv6Checksum: Numeric;
  checkVxlan: Numeric; vxlanVni: Numeric;
  checkGeneve: Numeric; geneveIsCritical: Numeric; geneveLength: Numeric; geneveProtocol: Numeric;
  geneveVni: Numeric;
}

/** The compiled functions over a memory of one page. */
export class WireMemory {
  readonly wire: WireExports;
  readonly bytes: Uint8Array;

  private constructor(module: WebAssembly.Module) {
    const memory = new WebAssembly.Memory({ initial: 1, maximum: 1, shared: true });
    const env = { memory, inspectPayload: () => 0 };
    const { exports } = new WebAssembly.Instance(module, { env });
    this.wire = exports as unknown as WireExports;
    this.bytes = new Uint8Array(memory.buffer);
  }

  static async create(): Promise<WireMemory> {
    return new WireMemory(new WebAssembly.Module(readFileSync(await compiled())));
  }

  /** Puts bytes at an address; everything around them becomes 0xa5. Returns the address. */
  put(at: number, bytes: Uint8Array): number {
    this.bytes.fill(0xa5, Math.max(at - 256, 0), at + bytes.length + 256);
    this.bytes.set(bytes, at);
    return at;
  }

  /** Fills an area with 0xa5, so that an unwritten byte shows. Returns its address. */
  blank(at: number, length: number): number {
    this.bytes.fill(0xa5, Math.max(at - 64, 0), at + length + 64);
    return at;
  }

  read(at: number, length: number): Uint8Array {
    return this.bytes.slice(at, at + length);
  }

  /** True where the 64 bytes on both sides of an area are still 0xa5. */
  isIntactAround(at: number, length: number): boolean {
    const sides = [...this.read(at - 64, 64), ...this.read(at + length, 64)];
    return sides.every((byte) => byte === 0xa5);
  }
}

interface Compiler {
  main(args: string[]): Promise<{ error: Error | null; stderr: { toString(): string } }>;
}

/** Path of the module, compiled now unless an earlier run has. */
async function compiled(): Promise<string> {
  const hash = createHash('sha256').update(OPTIONS.join(' '));
  for (const file of [ENTRY, ...sources('wasm')]) hash.update(readFileSync(join(ROOT, file)));
  const path = join(ROOT, FOLDER, `wire-${hash.digest('hex').slice(0, 16)}.wasm`);
  if (existsSync(path)) return path;
  mkdirSync(join(ROOT, FOLDER), { recursive: true });
  // Tests run side by side: each writes a file of its own, and the last to rename it wins.
  const own = `${FOLDER}/wire-${process.pid}.wasm`;
  const asc = await import(COMPILER) as Compiler;
  const { error, stderr } = await asc.main(
    [ENTRY, '--baseDir', ROOT, '--outFile', own, ...OPTIONS]);
  if (error !== null) throw new Error(`compile ${ENTRY}: ${error.message}\n${stderr.toString()}`);
  for (const file of readdirSync(join(ROOT, FOLDER))) {
    const isStale = /^wire-[0-9a-f]{16}\.wasm$/.test(file) && !path.endsWith(file);
    if (isStale) rmSync(join(ROOT, FOLDER, file), { force: true });
  }
  renameSync(join(ROOT, own), path);
  return path;
}

function sources(folder: string): string[] {
  return readdirSync(join(ROOT, folder), { recursive: true, encoding: 'utf8' })
    .filter((file) => file.endsWith('.ts'))
    .map((file) => `${folder}/${file}`)
    .sort();
}

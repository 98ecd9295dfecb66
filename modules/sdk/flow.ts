// The flow that a module is asked about. Its words are globals: the compiler leaves out those that
// a module never reads, and with them what would be most of the work of a call.

let family: u8 = 0;
let direction: u8 = 0;
let protocol: u8 = 0;
let tcp: u8 = 0;
let srcPort: u16 = 0;
let dstPort: u16 = 0;
let srcIdentity: u32 = 0;
let dstIdentity: u32 = 0;
let src0: u32 = 0;
let src1: u32 = 0;
let src2: u32 = 0;
let src3: u32 = 0;
let dst0: u32 = 0;
let dst1: u32 = 0;
let dst2: u32 = 0;
let dst3: u32 = 0;

/** The packet that opens a flow. One serves all calls: it is good until the function that got it
 * returns. It is no object of the garbage collector's, which would cost each call more than most
 * modules do. */
@unmanaged
export class Flow {
  /** Of `Family`. */
  get family(): u8 { return family; }
  /** Of `Direction`. */
  get direction(): u8 { return direction; }
  /** Of `Protocol`, or another number of IANA's. */
  get protocol(): u8 { return protocol; }
  /** Bits of `TcpFlag`. */
  get tcp(): u8 { return tcp; }
  get srcPort(): u16 { return srcPort; }
  get dstPort(): u16 { return dstPort; }
  get srcIdentity(): u32 { return srcIdentity; }
  get dstIdentity(): u32 { return dstIdentity; }
  /** An IPv4 address is the first word; the others are 0. */
  get src0(): u32 { return src0; }
  get src1(): u32 { return src1; }
  get src2(): u32 { return src2; }
  get src3(): u32 { return src3; }
  get dst0(): u32 { return dst0; }
  get dst1(): u32 { return dst1; }
  get dst2(): u32 { return dst2; }
  get dst3(): u32 { return dst3; }
}

/** There is nothing of it in memory. */
export const flow = changetype<Flow>(0);

/** Fills the flow with the words of the WIT's record, in its order. */
// @ts-ignore: decorator
@inline
export function setFlow(
  ofFamily: i32, ofDirection: i32, ofProtocol: i32, ofTcp: i32, ofSrcPort: i32, ofDstPort: i32,
  ofSrcIdentity: u32, ofDstIdentity: u32, ofSrc0: u32, ofSrc1: u32, ofSrc2: u32, ofSrc3: u32,
  ofDst0: u32, ofDst1: u32, ofDst2: u32, ofDst3: u32,
): void {
  family = <u8>ofFamily;
  direction = <u8>ofDirection;
  protocol = <u8>ofProtocol;
  tcp = <u8>ofTcp;
  srcPort = <u16>ofSrcPort;
  dstPort = <u16>ofDstPort;
  srcIdentity = ofSrcIdentity;
  dstIdentity = ofDstIdentity;
  src0 = ofSrc0;
  src1 = ofSrc1;
  src2 = ofSrc2;
  src3 = ofSrc3;
  dst0 = ofDst0;
  dst1 = ofDst1;
  dst2 = ofDst2;
  dst3 = ofDst3;
}

// What the core keeps inside, for the tests of headers: AssemblyScript, compiled by
// test/support/assembly.ts and never shipped.

export * from "../../wasm/checksum";
export { flowKeyHash, homeGroup, secondGroup, tagOf } from "../../wasm/table/flow-hash";
export * from "../../wasm/wire/ethernet";
export * from "../../wasm/wire/geneve";
export * from "../../wasm/wire/icmp";
export * from "../../wasm/wire/ip";
export * from "../../wasm/wire/ipv4";
export * from "../../wasm/wire/ipv6";
export * from "../../wasm/wire/transport";
export * from "../../wasm/wire/vxlan";

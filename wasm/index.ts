// The exports of the core, and nothing else. processBatch() is the data plane; the rest is for the
// control side, which calls it from its own instance over the same memory.

export { ABI_VERSION } from "./abi/version";
export { checksumMany } from "./checksum";
export { encapsulateMany, parseMany } from "./many";
export { policyAnswer, policyProgram } from "./policy/match";
export { processBatch, resumeBatch } from "./process";
export { flowFindMany } from "./table/flow";
export { flowAdopt } from "./table/flow-adopt";
export { frontEnter, frontRemove, frontReplace } from "./table/front";
export {
  prefixAbove,
  prefixCount,
  prefixFind,
  prefixFindMany4,
  prefixFindMany6,
  prefixGet,
  prefixInsert,
  prefixPublish,
  prefixReclaim,
  prefixRemove,
  prefixStage,
  prefixTableInit,
  prefixTableSize,
  prefixUsage,
} from "./table/prefix-update";

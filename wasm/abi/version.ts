// Version of the contract between the core and its host: every constant in wasm/abi. The engine
// refuses a core of another version; test/golden/abi.txt lists the constants, so that none changes
// without a new number here.
export const ABI_VERSION = 10;

// The limits that policy modules live under; those of the data path are in wasm/abi/module.ts.

/** A component may have so many bytes. */
export const MODULE_COMPONENT_BYTES = 32 * 1024 * 1024;
/** The linear memory of a module, unless the operator says otherwise. */
export const MODULE_MEMORY_CAP_BYTES = 16 * 1024 * 1024;
/** More is not given, whatever the operator says. */
export const MODULE_MEMORY_CAP_BYTES_LIMIT = 256 * 1024 * 1024;
/** A table of a module may grow to so many functions; each is memory outside the module's. */
export const MODULE_TABLE_ENTRIES = 65536;
/** Tables of a module, all its parts together. */
export const MODULE_TABLES = 8;
/** Core modules that a component may be made of, and instances of them. */
export const MODULE_CORES = 64;
/** Compiling a component, its start and its describe() included. */
export const MODULE_COMPILE_MS = 30_000;
/** Its start and its describe(), of that. */
export const MODULE_START_MS = 5_000;
/** Resident memory of the process that compiles a component. */
export const MODULE_COMPILE_BYTES = 256 * 1024 * 1024;
/** A line that a module logs is cut to so many bytes. */
export const MODULE_LOG_BYTES = 1024;
/** What a module says is wrong with its configuration is cut to so many characters. */
export const MODULE_PROBLEM_LENGTH = 1024;

// Limits of policy modules on a node, beside those of the core (wasm/abi/module.ts) and of what a
// component may be (modules/limits.ts).

/** Faults after which a module is not asked any more; its failure verdict applies. */
export const MODULE_FAULT_LIMIT = 3;

/** How often the watchdog looks. */
export const WATCH_MS = 5;
/** Time on a processor that one evaluation may take; an honest one takes microseconds. */
export const CALL_LIMIT_MS = 10;
/** Likewise for being configured, or told of the node's pods. */
export const CONTROL_LIMIT_MS = 2000;
/** Where the kernel does not tell what a thread has run, so much longer by the clock. */
export const CLOCK_FACTOR = 3;
/** How long a standby may take to try a change; it is ended after that, and the change is the
 * worker's to try. The watchdog counts time on a processor, of which a busy machine gives a thread
 * little: it must be the first to end a module that does not return. */
export const REHEARSAL_LIMIT_MS = 30 * CONTROL_LIMIT_MS;

/** Changes of the node's pods are told together: wait after the first. */
export const ENDPOINTS_SETTLE_MS = 50;

/** How often a place that is still read is looked at again. */
export const PLACE_WAIT_MS = 1;

/** Lines that a module may write to the log in a second, in each worker. Others are counted. */
export const LOG_LINES_LIMIT = 20;

// The words that a data worker's thread shares with those who watch it: Int32, by index.

/** 1 once a standby is to begin. */
export const THREAD_GO = 0;
/** Its number among the kernel's threads, 0 until it runs. */
export const THREAD_ID = 1;
/** While a module is configured or told of pods: its index + 1, else 0. */
export const THREAD_CONTROL = 2;
/** Descriptors that only it knows: those that it waits by as a worker and as a standby, + 1; 0 once
 * it has closed them. Nothing closes them where it was ended. */
export const THREAD_EVENTS = 3;
export const THREAD_STANDBY_EVENTS = 4;
export const THREAD_STATE_SIZE = 20;

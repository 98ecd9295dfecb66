// The words that a data worker's thread shares with those who watch it: Int32, by index.

/** 1 once a standby is to begin. */
export const THREAD_GO = 0;
/** Its number among the kernel's threads, 0 until it runs. */
export const THREAD_ID = 1;
/** While a module is configured or told of pods: its index + 1, else 0. */
export const THREAD_CONTROL = 2;
export const THREAD_STATE_SIZE = 16;

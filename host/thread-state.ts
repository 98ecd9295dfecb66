// The words that a data worker's thread shares with those who watch it: Int32, by index.

/** How a thread that stands by is to begin; 0 while it is to wait. */
export const THREAD_GO = 0;
/** In the place of a thread of this process, which may have left a turn half done. */
export const GO_INSTEAD = 1;
/** With the packets that an earlier process had in its hands. */
export const GO_FIRST = 2;
/** Its number among the kernel's threads, 0 until it runs. */
export const THREAD_ID = 1;
/** While a module is configured or told of pods: its index + 1, else 0. */
export const THREAD_CONTROL = 2;
/** Descriptors that only it knows: those that it waits by as a worker and as a standby, + 1; 0 once
 * it has closed them. Nothing closes them where it was ended. */
export const THREAD_EVENTS = 3;
export const THREAD_STANDBY_EVENTS = 4;
export const THREAD_STATE_SIZE = 20;

// Limits of the host process, beside those of linear memory (engine/memory-map.ts).

/** Packets a TUN may queue towards us. */
export const TUN_QUEUE_LENGTH = 1000;

/** Metric of the routes that drop what is for pods while no interface is there: the worst. */
export const GUARD_METRIC = 9999;

/** Buffers of underlay sockets, bytes. */
export const RECEIVE_BUFFER_BYTES = 8 * 1024 * 1024;
/** Nobody sends to the sockets that only send. */
export const SENDER_RECEIVE_BUFFER_BYTES = 4096;
export const SEND_BUFFER_BYTES = 4 * 1024 * 1024;

/** Host numbers of pods: an IPv6 /64 is not given out beyond this. */
export const ADDRESS_NUMBER_LIMIT = 65535;
/** Addresses that were given back and whose resting time is kept on disk. */
export const FREE_ADDRESS_FILE_LIMIT = 4096;

/** Descriptors that a holder keeps: those of the devices of four workers, senders, the kept
 * tables. */
export const HELD_LIMIT = 4096;

/** Bytes that one turn reads, or little more: as much as stays in a processor's cache until it has
 * been written out again. */
export const TURN_BYTES = 1024 * 1024;
/** Slots that one call of recvmmsg() fills: each may hold 64 KiB where the kernel joins
 * datagrams. */
export const RECEIVE_AT_ONCE = 16;

/** Bytes of changes that are kept after a snapshot before another one is asked for. */
export const JOURNAL_BYTES_LIMIT = 8 * 1024 * 1024;
/** The journal keeps as many as so many times its snapshot has, where that is more: while a large
 * snapshot is put into force, changes wait. */
export const JOURNAL_SNAPSHOTS = 2;

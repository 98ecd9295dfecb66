// Services in linear memory: docs/SERVICES.md says what they mean. Fields are little-endian u32
// unless said. A front is what clients address, a backend what answers in its place.

// Front: an address, a protocol and a port of a Service. Its words do not change while anything
// leads to it, but for the two that are stored atomically. Fronts are found through buckets, an
// array of u32 addresses of the first front of each, atomic.
export const FRONT_ADDRESS = 0;               // 16 bytes; IPv4 as in a flow, IPv4-mapped
export const FRONT_PORT = 16;                 // u16 network order
export const FRONT_PROTOCOL = 18;             // u8
export const FRONT_BACKENDS = 20;             // address of its block of backends, never 0; atomic
export const FRONT_NEXT = 24;                 // address of its bucket's next front, or 0; atomic
export const FRONT_SIZE = 32;

// Block of backends: immutable, replaced as a whole. Seeds are what backends are chosen by, each
// another number; backends that are ready stand first.
export const BACKENDS_EPOCH = 0;              // service epoch that began with it
export const BACKENDS_READY = 4;
export const BACKENDS_COUNT = 8;              // ready and draining ones
export const BACKENDS_AFFINITY = 12;          // milliseconds that a client keeps its backend, or 0
export const BACKENDS_FLAGS = 16;
export const BACKENDS_SEEDS = 32;             // u32 each, room for a multiple of BACKENDS_LANES
export const BACKENDS_LANES = 4;
export const BACKENDS_FLAG_SILENT = 1;        // while there are none, packets are not answered
export const BACKEND_ADDRESS = 0;             // behind the seeds; 16 bytes, as in a flow
export const BACKEND_PORT = 16;               // u16 network order
export const BACKEND_SIZE = 24;

// What a front has seen, on one worker.
export const FRONT_COUNTS_OPENED = 0;         // u64, flows given to a backend
export const FRONT_COUNTS_REFUSED = 8;        // u64, packets that found no backend
export const FRONT_COUNTS_SIZE = 16;

// Services in linear memory: docs/SERVICES.md says what they mean. Fields are little-endian u32
// unless said.

// Front: an address, a protocol and a port of a Service, and the backends that answer in its place.
// Nothing of it changes while anything leads to it but FRONT_NEXT: a change is another front in its
// place. Fronts are found through buckets, an array of u32 addresses of the first front of each.
// Seeds are what backends are chosen by, each another number. The first backends are offered to new
// connections, the others keep those they have.
export const FRONT_ADDRESS = 0;               // 16 bytes; IPv4 as in a flow, IPv4-mapped
export const FRONT_PORT = 16;                 // u16 network order
export const FRONT_PROTOCOL = 18;             // u8
export const FRONT_FLAGS = 19;                // u8
export const FRONT_NEXT = 20;                 // address of its bucket's next front, or 0; atomic
export const FRONT_EPOCH = 24;                // service epoch that began with it
export const FRONT_OFFERED = 28;              // u16, backends that new connections get
export const FRONT_BACKENDS = 30;             // u16, all of them
export const FRONT_AFFINITY = 32;             // milliseconds that a client keeps its backend, or 0
export const AFFINITY_LIMIT = 86400000;       // milliseconds: a day, the API server's limit
export const FRONT_COUNTS = 36;               // index of what it has seen
export const FRONT_SEEDS = 40;                // u32 each, room for a multiple of FRONT_LANES
export const FRONT_LANES = 4;
export const FRONT_FLAG_SILENT = 1;           // while it has no backends, packets are not answered
export const BACKEND_ADDRESS = 0;             // behind the seeds; 16 bytes, as in a flow
export const BACKEND_PORT = 16;               // u16 network order
export const BACKEND_SIZE = 24;

// What a front has seen, on one worker.
export const FRONT_COUNTS_OPENED = 0;         // u64, flows given to a backend
export const FRONT_COUNTS_REFUSED = 8;        // u64, packets that found no backend
export const FRONT_COUNTS_SIZE = 16;

// Limits of the proxy behind node ports. A machine's `nofile` limit must allow two descriptors for
// each connection and one for each session.

export interface ProxyLimits {
  /** Connections of all ports together. */
  connections: number;
  /** UDP sessions, each a client's with one port, of all ports together. */
  sessions: number;
  /** Clients of one port whose backend is remembered. */
  affinities: number;
  /** Datagrams that wait while a session's socket is made. */
  waitingDatagrams: number;
  /** Bytes of datagrams that a socket may have queued. */
  queuedBytes: number;
  /** How long a backend may take to accept a connection, and how many of them are tried. */
  connectMs: number;
  attempts: number;
  /** A connection on which nothing moves ends after this, and so does one that is half closed: as
   * long as kube-proxy has the kernel remember them. */
  idleMs: number;
  halfClosedMs: number;
  /** A session ends when it was silent for so long: before its first answer, and after. */
  unansweredMs: number;
  answeredMs: number;
  /** How long the connections and sessions of a port that is gone may go on. */
  drainMs: number;
  /** First wait before a port that cannot be had is tried again, and the longest. */
  retryFirstMs: number;
  retryMs: number;
}

export const PROXY_LIMITS: ProxyLimits = {
  connections: 4096,
  sessions: 4096,
  affinities: 16_384,
  waitingDatagrams: 16,
  queuedBytes: 1024 * 1024,
  connectMs: 3000,
  attempts: 3,
  idleMs: 24 * 3600 * 1000,
  halfClosedMs: 3600 * 1000,
  unansweredMs: 30_000,
  answeredMs: 120_000,
  drainMs: 30_000,
  retryFirstMs: 200,
  retryMs: 5000,
};

/** Silence after which the kernel asks whether a connection's other end is still there. */
export const KEEP_ALIVE_MS = 60_000;

/** Memory that the proxy's thread may have for objects, MiB; bytes under way are beside it. */
export const PROXY_HEAP_MIB = 128;

/** How often the proxy's thread says what it has counted. */
export const REPORT_MS = 500;
/** Wait before a new thread in place of one that died. */
export const RESTART_MS = 1000;

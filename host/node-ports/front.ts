// What the proxy's two protocols share: the state of one port, and what is counted.

import type { Listener } from './plan.ts';
import type { ProxyLimits } from './limits.ts';

/** What happened since the thread's start. Bytes are as clients see the node: rx from them. */
export function zeroCounters() {
  return {
    connectionsOpened: 0,
    /** The limit of connections was reached. */
    connectionsRefused: 0,
    /** No backend accepted. */
    connectionsFailed: 0,
    /** Ended by us: backend gone, port gone, silent for too long. */
    connectionsEnded: 0,
    rxBytes: 0,
    txBytes: 0,
    sessionsOpened: 0,
    sessionsRefused: 0,
    sessionsFailed: 0,
    datagramsDropped: 0,
    rxDatagrams: 0,
    txDatagrams: 0,
    portsRetried: 0,
  };
}
export type ProxyCounters = ReturnType<typeof zeroCounters>;

/** What all ports of one proxy have in common. */
export interface Shared {
  readonly limits: ProxyLimits;
  readonly counters: ProxyCounters;
  /** How many there are now. */
  readonly used: { connections: number; sessions: number };
}

/** One port at one address. */
export interface Front {
  readonly listener: Listener;
  /** Starts to listen; `onLost` is told if that ends by itself. Rejects with the system's error;
   * then it may be tried again. */
  open(onLost: (error: NodeJS.ErrnoException) => void): Promise<void>;
  /** Takes other backends and rules for the same port. What is under way to a backend that is gone
   * ends. */
  update(listener: Listener): void;
  /** Accepts nothing new, and frees the port. What is under way goes on. */
  close(): void;
  /** Ends what is under way. */
  end(): void;
  /** Connections or sessions under way. */
  readonly busy: number;
}

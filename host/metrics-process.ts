// What Prometheus's own clients tell of a process, by the names that they gave it.

import { readdirSync } from 'node:fs';
import { monitorEventLoopDelay, type IntervalHistogram } from 'node:perf_hooks';
import { single, type Metric } from '../engine/exposition.ts';

/** How often the event loop is asked how late it is. */
const DELAY_STEP_MS = 100;

let delays: IntervalHistogram | null = null;

/** Metrics of this process, as of now. */
export function processMetrics(): Metric[] {
  const { rss, heapUsed, heapTotal, external } = process.memoryUsage();
  const { user, system } = process.cpuUsage();
  const started = (Date.now() / 1000) - process.uptime();
  return [
    single('counter', 'process_cpu_seconds_total', 'CPU time, user and system.',
      (user + system) / 1e6),
    single('gauge', 'process_start_time_seconds', 'Unix time of the start.', started),
    single('gauge', 'process_resident_memory_bytes', 'Resident memory.', rss),
    single('gauge', 'process_open_fds', 'Descriptors in use.', openDescriptors()),
    single('gauge', 'nodejs_heap_size_used_bytes', 'Heap of the main thread in use.', heapUsed),
    single('gauge', 'nodejs_heap_size_total_bytes', 'Heap of the main thread.', heapTotal),
    single('gauge', 'nodejs_external_memory_bytes', 'What objects hold beside it.', external),
    single('gauge', 'nodejs_eventloop_lag_p99_seconds',
      'How late the main thread was since the last time it was asked.', lagSeconds()),
  ];
}

/** Begins to measure with the first time it is asked: nobody else pays for it. */
function lagSeconds(): number {
  if (delays === null) {
    delays = monitorEventLoopDelay({ resolution: DELAY_STEP_MS });
    delays.enable();
    return 0;
  }
  const lag = delays.count === 0 ? 0 : Math.max(0, (delays.percentile(99) / 1e6) - DELAY_STEP_MS);
  delays.reset();
  return lag / 1000;
}

function openDescriptors(): number {
  try {
    // One of them is the folder's own.
    return readdirSync('/proc/self/fd').length - 1;
  } catch {
    return 0;
  }
}

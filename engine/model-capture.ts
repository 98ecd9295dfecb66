// What the command line and the daemon say to each other about captures and traces, a part of the
// model: docs/OPERATE.md.

import * as v from 'valibot';
import { Address, Count, Port } from './fields.ts';

/** Where packets are looked at: devices of pods and node, tunnels, and where they are dropped. */
export const CAPTURE_PLACES = ['tun', 'underlay', 'drop'] as const;
export type CapturePlace = (typeof CAPTURE_PLACES)[number];

/** Most bytes of a packet that are captured: above every super-packet. */
export const SNAP_LENGTH_LIMIT = 262_144;

/** `capture.begin`. What comes from then on is fetched by `capture.read`; `capture.end` gives the
 * rest, and the statistics. It ends with the connection, too. */
export const CaptureBeginSchema = v.strictObject({
  places: v.pipe(v.array(v.picklist(CAPTURE_PLACES)), v.minLength(1), v.maxLength(3)),
  snapLength: v.pipe(v.number(), v.integer(), v.minValue(1), v.maxValue(SNAP_LENGTH_LIMIT)),
});
export type CaptureBegin = v.InferOutput<typeof CaptureBeginSchema>;

/** The answer of all three: blocks of a pcapng file; packets in them so far, and packets that there
 * was no room for; `more` is true where `capture.end` has to be asked again. */
export const CapturedSchema = v.strictObject({
  bytes: v.instance(Uint8Array), packets: Count, lost: Count, more: v.boolean(),
});
export type Captured = v.InferOutput<typeof CapturedSchema>;

/** `trace`: the first packet of a flow, as its source would send it; ICMP has no port. */
export const TraceSchema = v.strictObject({
  source: Address,
  destination: Address,
  protocol: v.picklist(['TCP', 'UDP', 'SCTP', 'ICMP']),
  port: v.nullable(Port),
  size: v.pipe(v.number(), v.integer(), v.minValue(0), v.maxValue(65_535)),
});
export type TraceQuery = v.InferOutput<typeof TraceSchema>;

/** One step of the walk: what was decided, and by what. */
export const TraceStepSchema = v.strictObject({
  step: v.string(), outcome: v.picklist(['ok', 'drop', 'note']), detail: v.string(),
});
export type TraceStep = v.InferOutput<typeof TraceStepSchema>;

/** What became of the packet. `reason` is the drop's; ends that policy was not asked about have
 * null. */
export const TraceEndSchema = v.nullable(v.strictObject({
  allowed: v.boolean(), policy: v.nullable(v.string()), rule: v.nullable(v.string()),
}));
export const TraceReportSchema = v.strictObject({
  verdict: v.picklist(['delivered', 'sent', 'dropped']),
  reason: v.nullable(v.string()),
  egress: TraceEndSchema,
  ingress: TraceEndSchema,
  steps: v.array(TraceStepSchema),
});
export type TraceReport = v.InferOutput<typeof TraceReportSchema>;

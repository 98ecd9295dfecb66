// Services as sidecar, host and command line speak of them, a part of the model: docs/SERVICES.md.

import * as v from 'valibot';
import { Address, Count, Name, Port } from './fields.ts';

/** Who answers in a Service's place. All keep the connections that they have; new ones go to those
 * that are ready, and where none is to draining ones. Distant ones are ready, too, and passed over
 * for nearer ones. `local` says that it runs on this node; node ports ask for it. */
export const BackendSchema = v.strictObject({
  address: Address, port: Port, state: v.picklist(['ready', 'draining', 'distant', 'unready']),
  local: v.exactOptional(v.boolean()),
});
export type Backend = v.InferOutput<typeof BackendSchema>;

export const ServicePortSchema = v.strictObject({
  name: v.pipe(v.string(), v.maxLength(253)),
  protocol: v.picklist(['TCP', 'UDP', 'SCTP']),
  port: Port,
  /** The port of every node that leads to the backends, too; absent where there is none. */
  nodePort: v.exactOptional(Port),
  backends: v.pipe(v.array(BackendSchema), v.maxLength(10_000)),
});
export type ServicePort = v.InferOutput<typeof ServicePortSchema>;

/** Most ports of a Service, and most backends of it, each counted once for each of its ports: the
 * largest possible fits a frame. */
export const SERVICE_PORT_LIMIT = 128;
export const SERVICE_BACKEND_LIMIT = 8000;

/** A Service with addresses of its own. Each address is served by the backends of its family.
 * `affinitySeconds` is how long a client keeps its backend, 0 for no longer than a connection;
 * `empty` what its packets get while there is no backend. The others are for node ports alone:
 * `externalLocal` keeps them to this node's backends. With `internalLocal` it is for clients within
 * the cluster alone that other nodes' backends are distant or unready. `proxyProtocol` tells
 * backends who the client is (PROXY protocol of HAProxy, by version). */
export const ServiceSchema = v.strictObject({
  namespace: Name,
  name: Name,
  addresses: v.pipe(v.array(Address), v.maxLength(16)),
  ports: v.pipe(v.array(ServicePortSchema), v.maxLength(SERVICE_PORT_LIMIT)),
  affinitySeconds: v.pipe(v.number(), v.integer(), v.minValue(0), v.maxValue(86_400)),
  empty: v.picklist(['reject', 'drop']),
  externalLocal: v.exactOptional(v.boolean()),
  internalLocal: v.exactOptional(v.boolean()),
  proxyProtocol: v.exactOptional(v.picklist(['none', 'v1', 'v2'])),
});
export type Service = v.InferOutput<typeof ServiceSchema>;

export const ServiceNameSchema = v.strictObject({ namespace: Name, name: Name });

/** A change of Services: whole ones, by namespace and name. */
export interface ServiceChange {
  services: Service[];
  removedServices: v.InferOutput<typeof ServiceNameSchema>[];
}

/** A Service in short; `opened` connections got a backend, `refused` packets found none. */
export const ServiceSummarySchema = v.strictObject({
  namespace: Name,
  name: Name,
  addresses: v.array(Address),
  ports: v.array(v.strictObject({
    name: v.string(),
    protocol: v.picklist(['TCP', 'UDP', 'SCTP']),
    port: Port,
    nodePort: v.exactOptional(Port),
    ready: Count,
    backends: Count,
  })),
  opened: Count,
  refused: Count,
});
export type ServiceSummary = v.InferOutput<typeof ServiceSummarySchema>;

/** A Service with its backends. */
export const ServiceReportSchema = v.strictObject({
  ...ServiceSchema.entries, opened: Count, refused: Count,
});
export type ServiceReport = v.InferOutput<typeof ServiceReportSchema>;

// Who takes a hop off the TTL (RFC 1812 section 5.3.1) on the way from a pod to a peer's. We do,
// once on each node, but for these:
//
//   - What passes the node's own stack has lost one there: what the node itself forwards, and what
//     goes to or comes from a peer without a tunnel. What the node itself sends loses none.
//   - flannel's udp backend is a router of its own between the stack and its tunnel: its proxy
//     takes one off whatever enters the tunnel and whatever leaves it, the node's own packets
//     included (pkg/backend/udp/proxy_amd64.c).

import { DEVICE_NODE, TUNNEL_DIRECT, TUNNEL_UDP } from "../abi/layout";
import { inputDevice } from "../packet";
import { deviceAt, deviceTunnel } from "../table/record";

/** True where a packet has come by way of the node's own stack. */
export function isFromStack(descriptor: usize): bool {
  return inputDevice(descriptor) == DEVICE_NODE;
}

/** Does a packet that goes to a peer lose a hop here? */
export function costsHopOut(descriptor: usize, tunnel: i32): bool {
  if (tunnel == TUNNEL_DIRECT) return false;
  return tunnel == TUNNEL_UDP || !isFromStack(descriptor);
}

/** Does a packet that goes to the node itself? */
export function costsHopToNode(descriptor: usize): bool {
  return !isFromStack(descriptor)
    && deviceTunnel(deviceAt(inputDevice(descriptor))) == TUNNEL_UDP;
}

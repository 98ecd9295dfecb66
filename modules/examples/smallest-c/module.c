/* The smallest module in C: denies telnet (TCP port 23). */

#include "culvert.h"

#define TCP 6
#define TELNET 23

enum culvert_verdict culvert_evaluate(const struct culvert_flow *flow) {
  return flow->protocol == TCP && flow->dst_port == TELNET ? CULVERT_DENY : CULVERT_PASS;
}

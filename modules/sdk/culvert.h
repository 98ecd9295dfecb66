/* What a policy module in C works with. module.c defines culvert_evaluate() and, where it needs
 * them, culvert_configure(), culvert_endpoints() and, for the world payload-module,
 * culvert_inspect(). The words are those of modules/wit/policy.wit. */

#ifndef CULVERT_H
#define CULVERT_H

#include <stdint.h>

enum culvert_family { CULVERT_IPV4, CULVERT_IPV6 };
enum culvert_direction { CULVERT_INGRESS, CULVERT_EGRESS };
enum culvert_level { CULVERT_DEBUG, CULVERT_INFO, CULVERT_WARN, CULVERT_ERROR };
enum culvert_verdict {
  CULVERT_PASS, CULVERT_ALLOW, CULVERT_DENY, CULVERT_REJECT, CULVERT_MORE
};

/* The packet that opens a flow, laid out as the canonical ABI has it in memory. An IPv4 address is
 * the first word, in host order. */
struct culvert_flow {
  uint8_t family;
  uint8_t direction;
  uint8_t protocol;
  uint8_t tcp;
  uint16_t src_port;
  uint16_t dst_port;
  uint32_t src_identity;
  uint32_t dst_identity;
  uint32_t src[4];
  uint32_t dst[4];
};

struct culvert_text {
  const char *bytes;
  uint32_t length;
};

struct culvert_label {
  struct culvert_text key;
  struct culvert_text value;
};

struct culvert_endpoint {
  uint32_t id;
  struct culvert_text namespace_name;
  struct culvert_text pod;
  const struct culvert_label *labels;
  uint32_t label_count;
};

/* Judges the first packet of a flow, once at each end that has a policy. */
enum culvert_verdict culvert_evaluate(const struct culvert_flow *flow);

/* Takes the configuration, which is gone when this returns. Returns what is wrong, or 0. */
const char *culvert_configure(const char *config, uint32_t length);

/* Takes the pods of this node, which are gone when this returns. */
void culvert_endpoints(const struct culvert_endpoint *endpoints, uint32_t count);

/* Judges payload of a flow that was answered CULVERT_MORE. */
enum culvert_verdict culvert_inspect(const struct culvert_flow *flow, uint32_t offset,
                                     const uint8_t *payload, uint32_t length);

/* Writes a line into the daemon's log. */
void culvert_log(enum culvert_level level, const char *text);

/* Milliseconds that never go backwards and wrap after 2^32; needs `--allow clock`. */
uint32_t culvert_now_ms(void);

#endif

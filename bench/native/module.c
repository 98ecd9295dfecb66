// Calls of a policy module as C would make them: a function by its pointer, with a flow as sixteen
// integers, as wasm/policy/module.ts has it. The module is that of modules/examples/smallest-as.

#include "core.h"

typedef int (*evaluate_function)(int, int, int, int, int, int, int, int, int, int, int, int, int,
                                 int, int, int);

static int smallest(int family, int direction, int protocol, int flags, int from, int to,
                    int source, int destination, int s0, int s1, int s2, int s3, int d0, int d1,
                    int d2, int d3)
{
    (void)family, (void)direction, (void)flags, (void)from, (void)source, (void)destination;
    (void)s0, (void)s1, (void)s2, (void)s3, (void)d0, (void)d1, (void)d2, (void)d3;
    return protocol == 6 && to == 23 ? 2 : 0;
}

/** The compiler cannot tell where it leads. */
static evaluate_function volatile place = smallest;

/** Asks about a flow, `count` times; the sum of the verdicts. */
int module_calls(const uint8_t *flow, int count)
{
    int sum = 0;
    for (int call = 0; call < count; call += 1) {
        const uint8_t *from = flow + FLOW_ADDRESS_A;
        const uint8_t *to = flow + FLOW_ADDRESS_B;
        uint16_t ports[2] = { load16(flow + FLOW_PORT_A), load16(flow + FLOW_PORT_B) };
        sum += place(0, 1, flow[FLOW_PROTOCOL], flow[FLOW_SIGNAL],
                     (uint16_t)(ports[0] << 8 | ports[0] >> 8),
                     (uint16_t)(ports[1] << 8 | ports[1] >> 8), call, 0,
                     (int)__builtin_bswap32(load32(from + 12)), 0, 0, 0,
                     (int)__builtin_bswap32(load32(to + 12)), 0, 0, 0);
    }
    return sum;
}

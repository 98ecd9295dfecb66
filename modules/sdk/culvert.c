/* The canonical ABI of the component model for modules in C (component-model, CanonicalABI.md).
 * What the host passes lies in an arena behind the module's own memory, which each call begins
 * anew. */

#include "culvert.h"

#define POLICY "culvert:policy/policy@0.1.0"
#define EXPORT(name) __attribute__((export_name(name)))
#define IMPORT(module, name) __attribute__((import_module(module), import_name(name)))
#define PAGE_SIZE 65536u
#define ALIGNMENT 16u

IMPORT("culvert:policy/host@0.1.0", "log")
void host_log(uint32_t level, const char *text, uint32_t length);

IMPORT("culvert:policy/clock@0.1.0", "now-ms")
uint32_t host_now_ms(void);

extern unsigned char __heap_base;
static uintptr_t arena;

static void clear_arena(void) {
  arena = (uintptr_t)&__heap_base;
}

EXPORT("cabi_realloc")
void *cabi_realloc(void *old, uint32_t old_size, uint32_t align, uint32_t size) {
  (void)align;
  if (arena == 0) clear_arena();
  uintptr_t start = (arena + ALIGNMENT - 1) & ~(uintptr_t)(ALIGNMENT - 1);
  uintptr_t end = start + size;
  uintptr_t have = __builtin_wasm_memory_size(0) * PAGE_SIZE;
  if (end < start) __builtin_trap();
  if (end > have) {
    uint32_t pages = (uint32_t)((end - have + PAGE_SIZE - 1) / PAGE_SIZE);
    if (__builtin_wasm_memory_grow(0, pages) == (unsigned long)-1) __builtin_trap();
  }
  arena = end;
  for (uint32_t at = 0; at < old_size && at < size; at += 1) {
    ((char *)start)[at] = ((const char *)old)[at];
  }
  return (void *)start;
}

static uint32_t length_of(const char *text) {
  uint32_t length = 0;
  while (text[length] != 0) length += 1;
  return length;
}

void culvert_log(enum culvert_level level, const char *text) {
  host_log(level, text, length_of(text));
}

uint32_t culvert_now_ms(void) {
  return host_now_ms();
}

/* What a module leaves out. */
__attribute__((weak))
const char *culvert_configure(const char *config, uint32_t length) {
  (void)config;
  (void)length;
  return 0;
}

__attribute__((weak))
void culvert_endpoints(const struct culvert_endpoint *endpoints, uint32_t count) {
  (void)endpoints;
  (void)count;
}

struct info {
  struct culvert_text name;
  struct culvert_text version;
  uint8_t stateful;
};

static const struct info INFO = {
  { CULVERT_NAME, sizeof CULVERT_NAME - 1 }, { CULVERT_VERSION, sizeof CULVERT_VERSION - 1 },
  CULVERT_STATEFUL,
};

EXPORT(POLICY "#describe")
const struct info *describe(void) {
  return &INFO;
}

/* result<_, string> */
static struct {
  uint8_t is_error;
  struct culvert_text problem;
} answer;

EXPORT(POLICY "#configure")
void *configure(const char *config, uint32_t length) {
  const char *problem = culvert_configure(config, length);
  answer.is_error = problem != 0;
  answer.problem.bytes = problem;
  answer.problem.length = problem != 0 ? length_of(problem) : 0;
  clear_arena();
  return &answer;
}

EXPORT(POLICY "#endpoints")
void endpoints(const struct culvert_endpoint *list, uint32_t count) {
  culvert_endpoints(list, count);
  clear_arena();
}

EXPORT(POLICY "#evaluate")
uint32_t evaluate(uint32_t family, uint32_t direction, uint32_t protocol, uint32_t tcp,
                  uint32_t src_port, uint32_t dst_port, uint32_t src_identity,
                  uint32_t dst_identity, uint32_t src0, uint32_t src1, uint32_t src2,
                  uint32_t src3, uint32_t dst0, uint32_t dst1, uint32_t dst2, uint32_t dst3) {
  const struct culvert_flow flow = {
    (uint8_t)family, (uint8_t)direction, (uint8_t)protocol, (uint8_t)tcp, (uint16_t)src_port,
    (uint16_t)dst_port, src_identity, dst_identity, { src0, src1, src2, src3 },
    { dst0, dst1, dst2, dst3 },
  };
  return culvert_evaluate(&flow);
}

#ifdef CULVERT_PAYLOAD
/* The parameters of `inspect`, which the host lays in memory. */
struct inspected {
  struct culvert_flow flow;
  uint32_t offset;
  const uint8_t *payload;
  uint32_t length;
};

EXPORT("culvert:policy/payload@0.1.0#inspect")
uint32_t inspect(const struct inspected *from) {
  clear_arena();
  return culvert_inspect(&from->flow, from->offset, from->payload, from->length);
}
#endif

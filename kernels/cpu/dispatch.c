// dispatch.c: the CPU backend's table for this processor.
//
// The best instruction set that the processor and the operating system support is chosen once. The environment variable
// TL_ISA (avx512bf16, avx512, avx2, portable) asks for a lesser one, for tests; one that is not supported is passed over.
#include "../ops.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const tlk_ops *tlk_cpu_table_portable(void);
#ifdef TLK_X86
const tlk_ops *tlk_cpu_table_avx2(void);
const tlk_ops *tlk_cpu_table_avx512(void);
const tlk_ops *tlk_cpu_table_avx512bf16(void);

static int has_avx2(void) {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
}
static int has_avx512(void) {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
}
static int has_avx512bf16(void) {
  return has_avx512() && __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512vnni");
}
#endif

const tlk_ops *tlk_cpu(void) {
  static const tlk_ops *chosen;
  if (chosen) return chosen;
  const tlk_ops *ops = tlk_cpu_table_portable();
#ifdef TLK_X86
  const char *want = getenv("TL_ISA");
  static const char *const names[] = {"portable", "avx2", "avx512", "avx512bf16"};  // each has what the one before it has
  int most = 3;
  if (want && *want) {
    while (most >= 0 && strcmp(want, names[most])) most--;
    if (most < 0) {
      fprintf(stderr, "TL_ISA is '%s'; it knows avx512bf16, avx512, avx2 and portable: the best that this machine has is taken\n", want);
      most = 3;
    }
  }
  __builtin_cpu_init();
  if (most >= 1 && has_avx2()) ops = tlk_cpu_table_avx2();
  if (most >= 2 && has_avx512()) ops = tlk_cpu_table_avx512();
  if (most >= 3 && has_avx512bf16()) ops = tlk_cpu_table_avx512bf16();
#endif
  return chosen = ops;
}

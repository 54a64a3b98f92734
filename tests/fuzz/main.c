// main.c: a coverage-guided fuzzer (libFuzzer) of the target that TL_FUZZ_TARGET names. See targets.h and docs/fuzzing.md.
//
//   ./dev fuzz [TARGET] [SECONDS]
//
// With TL_FUZZ_SEEDS=FOLDER the target's seeds are written there first.
#include "targets.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const fuzz_target *target;

static void write_seed(void *folder, const char *name, const void *data, size_t n) {
  char path[4096];
  snprintf(path, sizeof path, "%s/seed-%s", (const char *)folder, name);
  if (tl_write_file(path, data, n) != TL_OK) {
    fprintf(stderr, "%s\n", tl_last_error());
    exit(1);
  }
}

int LLVMFuzzerInitialize(int *argc, char ***argv) {
  (void)argc, (void)argv;
  const char *name = getenv("TL_FUZZ_TARGET"), *seeds = getenv("TL_FUZZ_SEEDS");
  for (int i = 0; fuzz_targets[i]; i++)
    if (name && strcmp(fuzz_targets[i]->name, name) == 0)
      target = fuzz_targets[i];
  if (!target) {
    fprintf(stderr, "TL_FUZZ_TARGET is not one of:");
    for (int i = 0; fuzz_targets[i]; i++)
      fprintf(stderr, " %s", fuzz_targets[i]->name);
    fprintf(stderr, "\n");
    exit(2);
  }
  if (seeds && *seeds)
    target->seeds(write_seed, (void *)seeds);
  return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
  if (n <= target->max_bytes)
    target->run(data, n);
  return 0;
}

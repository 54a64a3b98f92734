// files.c: the temporary files that targets are given, and what they share. See targets.h.
#include "targets.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

const fuzz_target *const fuzz_targets[] = {&fuzz_safetensors, &fuzz_gguf,     &fuzz_config,    &fuzz_model,
                                           &fuzz_adapter,     &fuzz_artifact, &fuzz_tokenizer, &fuzz_yaml,
                                           &fuzz_jinja,       &fuzz_json,     &fuzz_hub,       NULL};

static char folder[64];

static void remove_folder(void) {
  char command[128];
  snprintf(command, sizeof command, "rm -rf %s", folder);
  if (system(command) != 0)
    fprintf(stderr, "%s stays\n", folder);
}

const char *fuzz_path(const char *name) {
  static char ring[8][256];
  static int next;
  if (!*folder) {
    // memory, where there is a file system in memory
    snprintf(folder, sizeof folder, "%s/tl-fuzz-XXXXXX", access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
    if (!mkdtemp(folder))
      abort();
    atexit(remove_folder);
  }
  char *p = ring[next++ % 8];
  snprintf(p, sizeof ring[0], "%s/%s", folder, name);
  return p;
}

// Not tl_write_file: a sync for every input would be most of the time.
const char *fuzz_file(const char *name, const void *data, size_t n) {
  const char *path = fuzz_path(name);
  FILE *f = fopen(path, "wb");
  if (!f || fwrite(data, 1, n, f) != n || fclose(f) != 0)
    abort();
  return path;
}

void fuzz_refused(tl_status s) {
  if (s == TL_OK)
    return;
  const char *why = tl_last_error();
  if (!why || !*why || strchr(why, '\n')) {
    fprintf(stderr, "status %d with the message '%s'\n", (int)s, why ? why : "(none)");
    abort();
  }
}

void fuzz_split(const uint8_t *data, size_t n, size_t *first, const uint8_t **second, size_t *n_second) {
  size_t wanted = n >= 2 ? (size_t)data[0] | (size_t)data[1] << 8 : 0, rest = n >= 2 ? n - 2 : 0;
  *first = wanted < rest ? wanted : rest;
  *second = data + (n >= 2 ? 2 : 0) + *first;
  *n_second = rest - *first;
}

void fuzz_put_pair(fuzz_put put, void *ctx, const char *name, const char *first_path, const char *second_path) {
  char *a = NULL, *b = NULL;
  size_t n = 0, m = 0;
  if (tl_read_file(first_path, &a, &n) != TL_OK || tl_read_file(second_path, &b, &m) != TL_OK || n > 0xffff)
    abort();
  uint8_t *both = malloc(2 + n + m);
  if (!both)
    abort();
  both[0] = (uint8_t)n;
  both[1] = (uint8_t)(n >> 8);
  memcpy(both + 2, a, n);
  memcpy(both + 2 + n, b, m);
  put(ctx, name, both, 2 + n + m);
  free(both);
  free(a);
  free(b);
}

void fuzz_put_file(fuzz_put put, void *ctx, const char *name, const char *path) {
  char *a = NULL;
  size_t n = 0;
  if (tl_read_file(path, &a, &n) != TL_OK) {
    fprintf(stderr, "%s\n", tl_last_error());
    abort();
  }
  put(ctx, name, a, n);
  free(a);
}

void fuzz_put_source(fuzz_put put, void *ctx, const char *name, const char *path) {
  char full[512];
  snprintf(full, sizeof full, TL_SOURCE_DIR "/%s", path);
  fuzz_put_file(put, ctx, name, full);
}

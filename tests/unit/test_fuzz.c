// test_fuzz.c: every parser of outside bytes, on its seeds cut short at every length, on its seeds with single bytes changed,
// and on the inputs that the fuzzers once found (tests/fuzz/found). Built plain and with sanitizers like every unit test. Would
// catch: a length or an offset that is believed, a crash, a hang, a failure without a message.
#include "../fuzz/targets.h"
#include "../test.h"
#include <dirent.h>

enum { CUTS = 600, CHANGES = 300 }; // runs a seed at most

typedef struct job {
  const fuzz_target *target;
  int n;
} job;

static void cut_and_change(void *ctx, const char *name, const void *data, size_t n) {
  job *j = ctx;
  // each length in memory of its own: a read past the end is seen
  for (size_t k = 0; k <= n; k += n / CUTS + 1) {
    uint8_t *copy = malloc(k + 1);
    memcpy(copy, data, k);
    j->target->run(copy, k);
    free(copy);
  }
  CHECK(j->target->run(data, n), "%s: %s", name, tl_last_error());
  uint8_t *copy = malloc(n + 1);
  memcpy(copy, data, n);
  for (size_t k = 0; k < n; k += n / CHANGES + 1) {
    static const uint8_t values[] = {0, 0xff, 0x80, '"', '{'};
    copy[k] = values[k % sizeof values];
    j->target->run(copy, n);
    copy[k] = ((const uint8_t *)data)[k];
  }
  free(copy);
  j->n++;
}

static const fuzz_target *current;

static void seeds(void) {
  job j = {.target = current};
  current->seeds(cut_and_change, &j);
  CHECK(j.n > 0);
}

static void found(void) {
  char dir[512], path[1024];
  snprintf(dir, sizeof dir, TL_SOURCE_DIR "/tests/fuzz/found/%s", current->name);
  DIR *d = opendir(dir);
  for (struct dirent *e; d && (e = readdir(d));) {
    if (e->d_name[0] == '.')
      continue;
    snprintf(path, sizeof path, "%s/%s", dir, e->d_name);
    char *data = NULL;
    size_t n = 0;
    CHECK_OK(tl_read_file(path, &data, &n));
    if (data)
      current->run((const uint8_t *)data, n);
    free(data);
  }
  if (d)
    closedir(d);
}

int main(void) {
  for (int i = 0; fuzz_targets[i]; i++) {
    char name[64];
    current = fuzz_targets[i];
    snprintf(name, sizeof name, "%s, cut and changed", current->name);
    test_run(name, seeds);
    snprintf(name, sizeof name, "%s, found inputs", current->name);
    test_run(name, found);
  }
  return test_done();
}

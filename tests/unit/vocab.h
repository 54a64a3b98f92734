// vocab.h: what the tests of tokenizers share: the difficult texts, small tokenizers of tests/parity/fixtures/tokenizer, ids and
// texts in fixed buffers, files in a folder of their own.
#ifndef TL_TEST_VOCAB_H
#define TL_TEST_VOCAB_H
#include "../../runtime/text/text.h"
#include "../test.h"
#include <cjson/cJSON.h>
#include <unistd.h>

#define FIXTURES TL_SOURCE_DIR "/tests/parity/fixtures/tokenizer/"
enum { ROOM = 1 << 16 };
static int32_t ids[ROOM];
static char bytes[1 << 20];

static inline char *read_text(const char *path, size_t *n) {
  FILE *f = fopen(path, "rb");
  if (!f) return NULL;
  char *p = malloc(8 << 20);
  *n = fread(p, 1, (8 << 20) - 1, f);
  p[*n] = 0;
  fclose(f);
  return p;
}

static inline cJSON *read_json(const char *name) {
  char path[1024];
  size_t n;
  snprintf(path, sizeof path, FIXTURES "%s", name);
  char *text = read_text(path, &n);
  cJSON *o = text ? cJSON_Parse(text) : NULL;
  free(text);
  CHECK(o, "%s cannot be read", name);
  return o;
}

typedef struct text {
  char *p;
  size_t n;
} text;
static text *texts;
static int n_texts;

static inline void read_texts(void) {
  cJSON *list = read_json("strings.json"), *v;
  texts = calloc((size_t)cJSON_GetArraySize(list), sizeof *texts);
  cJSON_ArrayForEach(v, list) {
    text *t = &texts[n_texts++];
    const char *hex = cJSON_GetStringValue(cJSON_GetObjectItem(v, "hex"));
    t->n = hex ? strlen(hex) / 2 : strlen(v->valuestring);
    t->p = malloc(t->n + 1);
    if (!hex) memcpy(t->p, v->valuestring, t->n);
    for (size_t i = 0; hex && i < t->n; i++) {
      unsigned b;
      sscanf(hex + 2 * i, "%2x", &b);
      t->p[i] = (char)b;
    }
    t->p[t->n] = 0;
  }
  cJSON_Delete(list);
}

static inline int encode(tl_tokenizer *t, const char *s, size_t n, bool add, bool parse) {
  int count = -1;
  CHECK_OK(tl_tokenizer_encode(t, s, n, add, parse, ids, ROOM, &count));
  return count;
}

static inline uint32_t fnv(const void *data, size_t n) {
  uint32_t h = 2166136261u;
  for (size_t i = 0; i < n; i++) h = (h ^ ((const uint8_t *)data)[i]) * 16777619u;
  return h;
}

// The i-th of the hashes, eight digits each, in one string.
static inline bool same(const cJSON *o, const char *key, int i, uint32_t got) {
  const char *all = cJSON_GetStringValue(cJSON_GetObjectItem(o, key));
  char want[9] = "";
  if (!all || strlen(all) < 8 * (size_t)(i + 1)) return false;
  memcpy(want, all + 8 * i, 8);
  return strtoul(want, NULL, 16) == got;
}

static inline uint32_t ids_hash(int n) { return fnv(ids, (size_t)n * sizeof *ids); }

static inline int decode(tl_tokenizer *t, int n, bool skip_special) {
  int n_bytes = 0;
  CHECK_OK(tl_tokenizer_decode(t, ids, n, skip_special, bytes, sizeof bytes, &n_bytes));
  return n_bytes;
}

static char folder[64];
static inline const char *write_bytes(const char *name, const char *content, size_t n) {
  static char path[200];
  snprintf(path, sizeof path, "%s/%s", folder, name);
  CHECK_OK(tl_write_file(path, content, n));
  return path;
}
static inline const char *write_file(const char *name, const char *content) { return write_bytes(name, content, strlen(content)); }

static inline tl_tokenizer *load(const char *name) {
  char path[1024];
  tl_tokenizer *t = NULL;
  snprintf(path, sizeof path, FIXTURES "%s.json", name);
  CHECK_OK(tl_tokenizer_load(path, &t));
  return t;
}

// bpe.gguf with another name in tokenizer.ggml.pre (u64 length, bytes)
static inline tl_tokenizer *load_pre(const char *pre) {
  static const char key[] = "tokenizer.ggml.pre";
  size_t n, m = strlen(pre);
  char *file = read_text(FIXTURES "bpe.gguf", &n), *at = file ? memmem(file, n, key, strlen(key)) : NULL, *out = at ? malloc(n + 100) : NULL;
  tl_tokenizer *t = NULL;
  if (out) {
    char *length = at + strlen(key) + 4;
    uint64_t old, fresh = m;
    memcpy(&old, length, 8);
    size_t head = (size_t)(length - file);
    memcpy(out, file, head);
    memcpy(out + head, &fresh, 8);
    memcpy(out + head + 8, pre, m);
    memcpy(out + head + 8 + m, length + 8 + old, n - head - 8 - (size_t)old);
    tl_tokenizer_load(write_bytes("bpe.gguf", out, n + m - (size_t)old), &t);
  }
  free(out);
  free(file);
  return t;
}
// Before the first test and behind the last: the texts, the folder, which is emptied.
static inline void vocab_begin(const char *name) {
  read_texts();
  snprintf(folder, sizeof folder, "/tmp/tl_%s_%ld", name, (long)getpid());
  tl_mkdirs(folder);
}
static inline void vocab_end(void) {
  char command[100];
  snprintf(command, sizeof command, "rm -rf '%s'", folder);
  CHECK(system(command) == 0);
  for (int i = 0; i < n_texts; i++) free(texts[i].p);
  free(texts);
}
#endif

// modelfile.h: small model files written by the tests themselves into a temporary folder, with values known by name, so that a
// tensor that ends up in another's place is seen.
#ifndef TEST_MODELFILE_H
#define TEST_MODELFILE_H
#include "../test.h"
#include "../../runtime/base/safetensors.h"
#include "../../runtime/model/model.h"
#include <cjson/cJSON.h>
#include <dirent.h>
#include <unistd.h>

static char temp_dir[64];

static inline bool temp_begin(void) {
  snprintf(temp_dir, sizeof temp_dir, "/tmp/tl-files-XXXXXX");
  return mkdtemp(temp_dir) != NULL;
}

static inline void temp_end(void) {
  char command[128];
  snprintf(command, sizeof command, "rm -r %s", temp_dir);
  if (system(command) != 0) printf("skip cleaning: %s stays\n", temp_dir);
}

// a path in the temporary folder; a few live at a time
static inline const char *at(const char *name) {
  static char ring[8][256];
  static int next;
  char *p = ring[next++ % 8];
  snprintf(p, sizeof ring[0], "%s/%s", temp_dir, name);
  return p;
}

static inline void write_text(const char *name, const char *text) { CHECK_OK(tl_write_file(at(name), text, strlen(text))); }

static inline int count_files(const char *dir) {
  int n = 0;
  DIR *d = opendir(at(dir));
  for (struct dirent *e; d && (e = readdir(d));) n += e->d_name[0] != '.';
  if (d) closedir(d);
  return n;
}

typedef struct sizes {
  const char *family;
  bool tied, extra_head;
  int layers, width, heads, kv_heads, head_dim, ffn, vocab;
} sizes;

// head_dim is not width / heads; nothing is a multiple of a vector's length
static const sizes llama_sizes = {"llama", true, false, 2, 20, 4, 2, 10, 28, 23};
static const sizes qwen2_sizes = {"qwen2", false, false, 2, 20, 4, 2, 6, 28, 23};
static const sizes smollm3_sizes = {"smollm3", false, false, 2, 20, 4, 2, 6, 28, 23};
static const sizes qwen3_sizes = {"qwen3", false, false, 2, 20, 4, 2, 6, 28, 23};
static const sizes mistral_sizes = {"mistral", false, false, 2, 20, 4, 2, 10, 28, 23};

static inline tl_config sizes_config(const sizes *z) {
  return (tl_config){.family = tl_family_find(z->family),
                     .n_layers = z->layers,
                     .width = z->width,
                     .n_heads = z->heads,
                     .n_kv_heads = z->kv_heads,
                     .head_dim = z->head_dim,
                     .ffn = z->ffn,
                     .vocab = z->vocab,
                     .tied = z->tied && !z->extra_head};
}

// a part's values depend on its name
static inline uint64_t part_stream(const tl_part *p) {
  char name[128];
  uint64_t stream = 7;
  tl_part_name(name, sizeof name, p);
  for (const char *c = name; *c; c++) stream = stream * 131 + (uint8_t)*c;
  return stream;
}

static inline float stream_value(uint64_t stream, size_t i) {
  return 0.25f + 0.5f * tl_uniform(1, stream, i);  // in [0.25, 0.75): never near fp16's subnormals
}

static inline float part_value(const tl_part *p, size_t i) { return stream_value(part_stream(p), i); }

static inline float rounded(float v, int dtype) {
  return dtype == TL_BF16 ? tl_bf16_to_f32(tl_f32_to_bf16(v)) : dtype == TL_F16 ? tl_f16_to_f32(tl_f32_to_f16(v)) : v;
}

static tl_status fill_value(void *ctx, size_t i, void *dst) {
  const tl_part *p = (const tl_part *)ctx + 1 + i;
  int dtype = ((const tl_part *)ctx)->rows;  // the first entry carries the dtype
  uint64_t stream = part_stream(p);
  for (size_t k = 0; k < tl_part_size(p); k++) {
    float v = stream_value(stream, k);
    if (dtype == TL_F32)
      ((float *)dst)[k] = v;
    else
      ((uint16_t *)dst)[k] = dtype == TL_BF16 ? tl_f32_to_bf16(v) : tl_f32_to_f16(v);
  }
  return TL_OK;
}

// config.json with `keys` put in place of or beside the usual ones
static inline void write_config(const char *dir, const sizes *z, const char *keys) {
  char text[2048], path[128];
  snprintf(
      text, sizeof text,
      "{\"architectures\":[\"%s\"],\"model_type\":\"%s\",\"hidden_size\":%d,\"intermediate_size\":%d,\"num_hidden_layers\":%d,"
      "\"num_attention_heads\":%d,\"num_key_value_heads\":%d,\"head_dim\":%d,\"vocab_size\":%d,\"rms_norm_eps\":1e-5,"
      "\"max_position_embeddings\":512,\"tie_word_embeddings\":%s,\"hidden_act\":\"silu\",\"eos_token_id\":2,"
      "\"bos_token_id\":1}",
      tl_family_find(z->family)->hf_class, z->family, z->width, z->ffn, z->layers, z->heads, z->kv_heads, z->head_dim, z->vocab,
      z->tied ? "true" : "false");
  cJSON *j = cJSON_Parse(text);
  snprintf(text, sizeof text, "{%s}", keys ? keys : "");
  cJSON *more = cJSON_Parse(text);
  CHECK(j && more);
  while (more && more->child) {
    cJSON *item = cJSON_DetachItemViaPointer(more, more->child);
    char key[64];
    snprintf(key, sizeof key, "%s", item->string);
    cJSON_DeleteItemFromObjectCaseSensitive(j, key);
    cJSON_AddItemToObject(j, key, item);
  }
  char *out = cJSON_Print(j);
  snprintf(path, sizeof path, "%s/config.json", dir);
  CHECK_OK(tl_write_file(at(path), out, strlen(out)));
  cJSON_free(out);
  cJSON_Delete(j);
  cJSON_Delete(more);
}

static inline void write_hf(const char *dir, const sizes *z, const char *dtype_name, int dtype, const char *keys) {
  char path[128];
  CHECK_OK(tl_mkdirs(at(dir)));
  write_config(dir, z, keys);
  tl_config c = sizes_config(z);
  tl_part *p;
  int n;
  CHECK_OK(tl_parts_list(&c, &p, &n));
  tl_part *with = calloc((size_t)n + 1, sizeof *with);
  tl_st_entry *e = calloc((size_t)n, sizeof *e);
  char(*names)[128] = calloc((size_t)n, sizeof *names);
  with[0].rows = dtype;
  for (int i = 0; i < n; i++) {
    with[i + 1] = p[i];
    tl_part_name(names[i], sizeof names[i], &p[i]);
    e[i] = (tl_st_entry){.name = names[i], .dtype = dtype, .n_dims = p[i].cols ? 2 : 1, .shape = {p[i].rows, p[i].cols}};
  }
  CHECK(strcmp(tl_dtype_name(dtype), dtype_name) == 0);
  snprintf(path, sizeof path, "%s/model.safetensors", dir);
  CHECK_OK(tl_safetensors_write(at(path), e, (size_t)n, fill_value, with, NULL));
  free(names);
  free(e);
  free(with);
  free(p);
}

// replaces dir/model.safetensors by n shards and their index
static inline void split_shards(const char *dir, int n) {
  char path[192];
  tl_safetensors s;
  snprintf(path, sizeof path, "%s/model.safetensors", dir);
  CHECK_OK(tl_safetensors_open(&s, at(path)));
  cJSON *index = cJSON_CreateObject(), *map = cJSON_AddObjectToObject(index, "weight_map");
  tl_st_entry *e = calloc(s.n, sizeof *e);
  for (int k = 0; k < n; k++) {
    char file[64];
    size_t m = 0;
    snprintf(file, sizeof file, "model-%05d-of-%05d.safetensors", k + 1, n);
    for (size_t i = 0; i < s.n; i++) {
      const tl_st_tensor *t = &s.tensors[i];
      if ((int)(i % (size_t)n) != k) continue;
      e[m++] = (tl_st_entry){
          .name = t->name, .dtype = t->type, .n_dims = t->n_dims, .shape = {t->shape[0], t->shape[1]}, .data = t->data};
      cJSON_AddStringToObject(map, t->name, file);
    }
    char full[192];
    snprintf(full, sizeof full, "%s/%s", dir, file);
    CHECK_OK(tl_safetensors_write(at(full), e, m, NULL, NULL, NULL));
  }
  tl_safetensors_close(&s);
  CHECK(unlink(at(path)) == 0);
  char *text = cJSON_Print(index);
  snprintf(path, sizeof path, "%s/model.safetensors.index.json", dir);
  CHECK_OK(tl_write_file(at(path), text, strlen(text)));
  cJSON_free(text);
  cJSON_Delete(index);
  free(e);
}

// the model's parts are the written values, rounded to the file's dtype and, where packed, to the compute dtype
static inline void compare_parts(const tl_model *m, const sizes *z, int file_dtype, int compute) {
  tl_config c = sizes_config(z);
  tl_part *p;
  int n;
  CHECK_OK(tl_parts_list(&c, &p, &n));
  for (int i = 0; i < n; i++) {
    size_t size = tl_part_size(&p[i]);
    float *got = malloc(size * sizeof *got);
    char name[128];
    tl_part_name(name, sizeof name, &p[i]);
    tl_weights_part(&m->w, &p[i], got);
    for (size_t k = 0; k < size; k++) {
      float want = rounded(part_value(&p[i], k), file_dtype);
      if (p[i].cols) want = rounded(want, compute);
      CHECK(got[k] == want, "%s[%zu] is %g, expected %g", name, k, got[k], want);
    }
    free(got);
  }
  CHECK((m->w.head == m->w.embed) == z->tied);
  free(p);
}

// loading fails with this status and a line with this word
static inline void refused(const char *path, tl_status status, const char *word) {
  tl_model *m = NULL;
  tl_status st = tl_model_load(path, NULL, &m);
  CHECK(st == status && m == NULL, "status %d, expected %d: %s", (int)st, (int)status, tl_last_error());
  CHECK(strstr(tl_last_error(), word), "no \"%s\" in: %s", word, tl_last_error());
  CHECK(!strchr(tl_last_error(), '\n'));
  tl_model_free(m);
}
#endif

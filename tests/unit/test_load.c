// test_load.c: Hugging Face directories: the safetensors container, loading, creating. What config.json says is test_config.c's, saving and merging
// test_save.c's. Would catch: a wrong offset or shape believed, a tensor under another's name, a crash on a damaged file.
#include "../test.h"
#include "modelfile.h"
#include <sys/wait.h>

static void safetensors_round_trip(void) {
  float f[6] = {1, -2.5f, 3e-8f, 4, 5, 6};
  uint16_t h[3] = {0x3f80, 0xbf80, 0x4000};
  int32_t i[1] = {-7};
  tl_st_entry e[] = {{.name = "z.half", .dtype = TL_BF16, .n_dims = 1, .shape = {3}, .data = h},
                     {.name = "b", .dtype = TL_F32, .n_dims = 2, .shape = {2, 3}, .data = f},
                     {.name = "a \"quoted\"", .dtype = TL_I32, .n_dims = 1, .shape = {1}, .data = i},
                     {.name = "empty", .dtype = TL_F32, .n_dims = 2, .shape = {0, 4}, .data = f}};
  const char *meta[] = {"format", "pt", "seed", "42", NULL};
  CHECK_OK(tl_safetensors_write(at("x.safetensors"), e, 4, NULL, NULL, meta));
  tl_safetensors s;
  CHECK_OK(tl_safetensors_open(&s, at("x.safetensors")));
  uint64_t header;
  memcpy(&header, s.map.data, 8);
  CHECK(header % 8 == 0);
  CHECK(s.n == 4 && strcmp(s.tensors[0].name, "a \"quoted\"") == 0);
  const tl_st_tensor *t = tl_safetensors_find(&s, "b");
  CHECK(t && t->type == TL_F32 && t->n == 6 && t->shape[0] == 2 && t->shape[1] == 3 && memcmp(t->data, f, 24) == 0);
  t = tl_safetensors_find(&s, "z.half");
  CHECK(t && t->type == TL_BF16 && memcmp(t->data, h, 6) == 0);
  CHECK(tl_safetensors_find(&s, "c") == NULL);
  CHECK(strcmp(tl_safetensors_metadata(&s, "seed"), "42") == 0 && !tl_safetensors_metadata(&s, "none"));
  tl_safetensors_close(&s);
}

// every prefix of a file is refused with a line that names it
static void safetensors_truncated(void) {
  size_t n;
  char *all;
  write_hf("cut", &llama_sizes, "F32", TL_F32, NULL);
  CHECK_OK(tl_read_file(at("cut/model.safetensors"), &all, &n));
  uint64_t header;
  memcpy(&header, all, 8);
  CHECK_OK(tl_write_file(at("cut/t.safetensors"), all, n));
  for (size_t len = n; len-- > 0;) {
    tl_safetensors s;
    if (len > header + 64 && len % 997) continue;
    CHECK(truncate(at("cut/t.safetensors"), (off_t)len) == 0);
    tl_status st = tl_safetensors_open(&s, at("cut/t.safetensors"));
    CHECK(st == TL_E_FORMAT, "length %zu: status %d", len, (int)st);
    CHECK(strstr(tl_last_error(), "t.safetensors") && !strchr(tl_last_error(), '\n'), "%s", tl_last_error());
  }
  CHECK_OK(tl_write_file(at("cut/model.safetensors"), all, n - 1));
  free(all);
  refused(at("cut"), TL_E_FORMAT, "truncated");
}

static void safetensors_corrupt(void) {
  static const char *const headers[] = {
      "",
      "[]",
      "{",
      "{\"a\":1}",
      "{\"a\":{}}",
      "{\"a\":{\"dtype\":\"F32\"}}",
      "{\"a\":{\"dtype\":\"F33\",\"shape\":[1],\"data_offsets\":[0,4]}}",
      "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0]}}",
      "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,0]}}",
      "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[-4,0]}}",
      "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,1e300]}}",
      "{\"a\":{\"dtype\":\"F32\",\"shape\":[1.5],\"data_offsets\":[0,6]}}",
      "{\"a\":{\"dtype\":\"F32\",\"shape\":[4294967296,4294967296],\"data_offsets\":[0,4]}}",
      "{\"a\":{\"dtype\":\"F32\",\"shape\":[1,1,1,1,1,1,1,1,1],\"data_offsets\":[0,4]}}",
      "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[9007199254740988,9007199254740992]}}",
      "{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,4]}}",
      "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},\"b\":{\"dtype\":\"I16\",\"shape\":[1],\"data_offsets\":[2,4]}}",
      "{\"a\":{\"dtype\":\"I8\",\"shape\":[1],\"data_offsets\":[0,1]},\"b\":{\"dtype\":\"I8\",\"shape\":[1],\"data_offsets\":[3,4]}}",
      "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}} x",
      "{\"a\":{\"dtype\":\"I32\",\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}",
      "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":"
      "[0,4]}}"};
  for (size_t i = 0; i < sizeof headers / sizeof *headers; i++) {
    char bytes[512] = {0};
    uint64_t n = strlen(headers[i]);
    memcpy(bytes, &n, 8);
    memcpy(bytes + 8, headers[i], n);
    CHECK_OK(tl_write_file(at("bad.safetensors"), bytes, 8 + n + 4));
    tl_safetensors s;
    tl_status st = tl_safetensors_open(&s, at("bad.safetensors"));
    CHECK(st == TL_E_FORMAT || st == TL_E_UNSUPPORTED, "%s was taken", headers[i]);
  }
}

// loads a directory and compares every part with what was written
static void loads_as_written(const char *dir, const sizes *z, int file_dtype, tl_dtype compute) {
  tl_model *m = NULL;
  tl_model_options o = {.compute = compute};
  CHECK_OK(tl_model_load(at(dir), &o, &m));
  if (m) compare_parts(m, z, file_dtype, compute);
  tl_model_free(m);
}

static void load_llama(void) {
  write_hf("llama", &llama_sizes, "F32", TL_F32, NULL);
  loads_as_written("llama", &llama_sizes, TL_F32, TL_F32);
  loads_as_written("llama", &llama_sizes, TL_F32, TL_BF16);
}

static void load_qwen2_biases(void) {
  write_hf("qwen2", &qwen2_sizes, "BF16", TL_BF16, NULL);
  loads_as_written("qwen2", &qwen2_sizes, TL_BF16, TL_F32);
  write_hf("qwen2h", &qwen2_sizes, "F16", TL_F16, NULL);
  loads_as_written("qwen2h", &qwen2_sizes, TL_F16, TL_F32);
}

// rewrites dir/model.safetensors with some of its tensors, under new names: pairs of an old name and a new one (NULL: dropped);
// a name that is not there yet is a copy of the tensor named after it
static void rename_tensors(const char *dir, const char *const (*pairs)[2], int n_pairs) {
  char path[192];
  tl_safetensors s;
  snprintf(path, sizeof path, "%s/model.safetensors", dir);
  CHECK_OK(tl_safetensors_open(&s, at(path)));
  tl_st_entry *e = calloc(s.n + (size_t)n_pairs, sizeof *e);
  size_t m = 0;
  for (size_t i = 0; i < s.n; i++) {
    const tl_st_tensor *t = &s.tensors[i];
    tl_st_entry entry = {.name = t->name, .dtype = t->type, .n_dims = t->n_dims, .shape = {t->shape[0], t->shape[1]}, .data = t->data};
    for (int k = 0; k < n_pairs; k++) {
      if (strcmp(pairs[k][0], t->name) == 0) entry.name = pairs[k][1];
      if (pairs[k][1] && strcmp(pairs[k][1], t->name) == 0 && !tl_safetensors_find(&s, pairs[k][0])) {
        e[m] = entry;
        e[m++].name = pairs[k][0];
      }
    }
    if (entry.name) e[m++] = entry;
  }
  snprintf(path, sizeof path, "%s/renamed.safetensors", dir);
  CHECK_OK(tl_safetensors_write(at(path), e, m, NULL, NULL, NULL));
  tl_safetensors_close(&s);
  char to[192];
  snprintf(to, sizeof to, "%s/model.safetensors", dir);
  CHECK(rename(at(path), at(to)) == 0);
  free(e);
}
#define RENAME(dir, ...)                                                                \
  do {                                                                                  \
    static const char *const pairs_[][2] = {__VA_ARGS__};                               \
    rename_tensors(dir, pairs_, (int)(sizeof pairs_ / sizeof *pairs_));                 \
  } while (0)

// tie_word_embeddings true: a stored head that equals the embedding is tied; one that differs prevails, as in transformers; an
// embedding that is stored as the head only is found there
static void load_tied_with_head(void) {
  sizes z = llama_sizes;
  write_hf("tiedhead", &z, "F32", TL_F32, NULL);
  RENAME("tiedhead", {"lm_head.weight", "model.embed_tokens.weight"});
  loads_as_written("tiedhead", &llama_sizes, TL_F32, TL_F32);
  RENAME("tiedhead", {"model.embed_tokens.weight", NULL});
  loads_as_written("tiedhead", &llama_sizes, TL_F32, TL_F32);
  z.extra_head = true;
  write_hf("twoheads", &z, "F32", TL_F32, NULL);
  z.tied = false;
  loads_as_written("twoheads", &z, TL_F32, TL_F32);
}

// files of the model without its head, of old versions of transformers, and with parts that nothing here computes
static void names_in_files(void) {
  write_hf("names", &llama_sizes, "F32", TL_F32, NULL);
  RENAME("names", {"model.embed_tokens.weight", "embed_tokens.weight"}, {"model.layers.1.mlp.up_proj.weight", "layers.1.mlp.up_proj.weight"},
         {"model.norm.weight", "norm.weight"}, {"model.layers.0.self_attn.rotary_emb.inv_freq", "model.layers.0.input_layernorm.weight"});
  loads_as_written("names", &llama_sizes, TL_F32, TL_F32);
  RENAME("names", {"model.layers.1.self_attn.q_norm.weight", "model.layers.0.input_layernorm.weight"});
  refused(at("names"), TL_E_UNSUPPORTED, "model.layers.1.self_attn.q_norm.weight is no part of a llama model");
  sizes more = llama_sizes;  // another config says two layers
  more.layers = 3;
  write_hf("fewer", &more, "F32", TL_F32, NULL);
  write_hf("two", &llama_sizes, "F32", TL_F32, NULL);
  char from[600], to[600];
  snprintf(from, sizeof from, "%s/config.json", at("two"));
  snprintf(to, sizeof to, "%s/config.json", at("fewer"));
  CHECK(rename(from, to) == 0, "rename");
  refused(at("fewer"), TL_E_UNSUPPORTED, "model.layers.2.");
}

static void load_qwen3_norms(void) {
  write_hf("qwen3", &qwen3_sizes, "BF16", TL_BF16, NULL);
  loads_as_written("qwen3", &qwen3_sizes, TL_BF16, TL_F32);
  RENAME("qwen3", {"model.layers.1.self_attn.k_norm.weight", NULL});
  refused(at("qwen3"), TL_E_FORMAT, "model.layers.1.self_attn.k_norm.weight is missing");
}

static void load_sharded(void) {
  write_hf("sharded", &qwen2_sizes, "BF16", TL_BF16, NULL);
  split_shards("sharded", 3);
  CHECK(!tl_file_exists(at("sharded/model.safetensors")));
  loads_as_written("sharded", &qwen2_sizes, TL_BF16, TL_F32);
  CHECK(unlink(at("sharded/model-00002-of-00003.safetensors")) == 0);
  refused(at("sharded"), TL_E_IO, "model-00002-of-00003.safetensors");
}

// an index that its shards contradict
static void index_against_shards(void) {
  static const char index[] = "index/model.safetensors.index.json";
  write_hf("index", &llama_sizes, "F32", TL_F32, NULL);
  CHECK(rename(at("index/model.safetensors"), at("index/a")) == 0);
  write_text(index, "{\"weight_map\":{\"model.norm.weight\":\"a\"}}");
  loads_as_written("index", &llama_sizes, TL_F32, TL_F32);  // a tensor that the index does not list is there all the same
  write_text(index, "{\"weight_map\":{\"model.norm.weight\":\"a\",\"lm_head.weight\":\"a\"}}");
  refused(at("index"), TL_E_FORMAT, "index.json: weight_map has tensor lm_head.weight in a, which lacks it");
  write_text(index, "{\"weight_map\":{}}");
  refused(at("index"), TL_E_FORMAT, "index/model.safetensors.index.json: weight_map is empty");
  float ones[20] = {0};
  tl_st_entry e = {.name = "model.norm.weight", .dtype = TL_F32, .n_dims = 1, .shape = {20}, .data = ones};
  CHECK_OK(tl_safetensors_write(at("index/b"), &e, 1, NULL, NULL, NULL));
  write_text(index, "{\"weight_map\":{\"model.embed_tokens.weight\":\"a\",\"model.norm.weight\":\"b\"}}");
  refused(at("index"), TL_E_FORMAT, "tensor model.norm.weight is in two of the files");
}

// one value of the last tensor of a file set to NaN or infinity
static void not_finite(void) {
  static const struct {
    const char *name;
    int dtype, bits;
  } cases[] = {{"F32", TL_F32, 0x7fc0}, {"F32", TL_F32, 0xffff}, {"F32", TL_F32, 0xff80}, {"BF16", TL_BF16, 0x7f80},
               {"BF16", TL_BF16, 0xffc1}, {"F16", TL_F16, 0xfc00}, {"F16", TL_F16, 0x7e00}};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    char *all;
    size_t n;
    write_hf("finite", &llama_sizes, cases[i].name, cases[i].dtype, NULL);
    CHECK_OK(tl_read_file(at("finite/model.safetensors"), &all, &n));
    memcpy(all + n - 2, &cases[i].bits, 2);  // little-endian: the upper half of an F32
    CHECK_OK(tl_write_file(at("finite/model.safetensors"), all, n));
    free(all);
    refused(at("finite"), TL_E_FORMAT, "model.norm.weight has an entry that is not finite");
  }
}

// Loading holds the packed weights and little beside them: a second copy, of the file's pages or in fp32, would be seen. In a
// process of its own, whose peak starts at what it holds when it is made.
static void load_peak(const sizes *z, int file_dtype, tl_dtype compute) {
  write_hf("peak", z, tl_dtype_name(file_dtype), file_dtype, NULL);
  fflush(stdout);
  pid_t child = fork();
  if (child == 0) {
    tl_model *m = NULL;
    tl_model_options o = {.compute = compute};
    tl_model_info i;
    int64_t before = tl_peak_rss_bytes();
    if (tl_model_load(at("peak"), &o, &m) != TL_OK) _exit(100);
    tl_model_get_info(m, &i);
    int64_t percent = (tl_peak_rss_bytes() - before) * 100 / i.packed_bytes;
    _exit(percent < 99 ? (int)percent : 99 + (percent >= 150));
  }
  int status = 0;
  CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status));
  int percent = WEXITSTATUS(status);  // 99: 99% to 150%
  CHECK(percent > 90 && percent < 100, "%s in %s: code %d; the peak is not the packed weights and at most half as much more",
        tl_dtype_name(file_dtype), tl_dtype_name(compute), percent);
}

static void load_memory(void) {
#ifdef __SANITIZE_ADDRESS__
  test_skip("load_memory", "a sanitizer keeps memory of its own");
#else
  if (!tl_ops()->host) {  // nor does a driver live in two processes after a fork
    test_skip("load_memory", "a device's memory is not the host's: the peak of resident pages does not show the weights");
    return;
  }
  static const sizes z = {"llama", false, false, 3, 512, 8, 2, 64, 1536, 2000};
  load_peak(&z, TL_BF16, TL_BF16);
  load_peak(&z, TL_F32, TL_BF16);
  load_peak(&z, TL_BF16, TL_F32);
#endif
}

static void info_and_modules(void) {
  tl_model *m = NULL;
  tl_model_options o = {.compute = TL_F32};
  write_hf("info", &qwen2_sizes, "F32", TL_F32, "\"eos_token_id\":[4,5],\"bos_token_id\":null");
  CHECK_OK(tl_model_load(at("info"), &o, &m));
  if (!m) return;
  tl_model_info i;
  tl_model_get_info(m, &i);
  CHECK(i.n_layers == 2 && i.head_dim == 6 && i.vocab == 23 && !i.tied && i.n_modules == 14 && i.bos == -1 && i.pad == -1);
  CHECK(i.n_eos == 2 && i.eos[0] == 4 && i.eos[1] == 5 && strcmp(i.architecture, "qwen2") == 0 && strcmp(i.format, "hf") == 0);
  CHECK(strcmp(i.file_dtype, "F32") == 0 && i.packed_bytes > 0);
  tl_module_info a, b;
  CHECK_OK(tl_model_module(m, 0, &a));
  CHECK_OK(tl_model_module(m, 13, &b));
  CHECK(strcmp(a.name, "model.layers.0.self_attn.q_proj") == 0 && strcmp(a.kind, "q") == 0 && a.out == 24 && a.in == 20);
  CHECK(strcmp(b.name, "model.layers.1.mlp.down_proj") == 0 && b.layer == 1 && b.out == 20 && b.in == 28);
  CHECK(tl_model_module(m, 14, &a) == TL_E_ARG && tl_model_module(m, -1, &a) == TL_E_ARG);
  tl_model_free(m);
  write_text("info/generation_config.json", "{\"eos_token_id\":7,\"pad_token_id\":8}");
  CHECK_OK(tl_model_load(at("info"), &o, &m));
  if (!m) return;
  tl_model_get_info(m, &i);
  CHECK(i.n_eos == 1 && i.eos[0] == 7 && i.pad == 8);
  tl_model_free(m);
}

static void shape_disagreement(void) {
  write_hf("shape", &llama_sizes, "F32", TL_F32, "\"intermediate_size\":32");
  refused(at("shape"), TL_E_SHAPE, "gate_proj.weight is (28, 20), the config wants (32, 20)");
  CHECK(strstr(tl_last_error(), "shape/model.safetensors"));
  write_hf("shape", &llama_sizes, "F32", TL_F32, "\"vocab_size\":24");
  refused(at("shape"), TL_E_SHAPE, "model.embed_tokens.weight is (23, 20), the config wants (24, 20)");
}

static void create_is_seeded(void) {
  tl_model *a = NULL, *b = NULL, *c = NULL;
  tl_model_options o = {.compute = TL_F32};
  float x[800], y[800];
  write_hf("create", &llama_sizes, "F32", TL_F32, NULL);
  CHECK_OK(tl_model_create(at("create/config.json"), &o, 7, &a));
  CHECK_OK(tl_model_create(at("create/config.json"), &o, 7, &b));
  CHECK_OK(tl_model_create(at("create/config.json"), &o, 8, &c));
  if (!a || !b || !c) return;
  CHECK_OK(tl_model_weight(a, 3, x));
  CHECK_OK(tl_model_weight(b, 3, y));
  CHECK(memcmp(x, y, sizeof x) == 0);
  CHECK_OK(tl_model_weight(c, 3, y));
  CHECK(memcmp(x, y, sizeof x) != 0);
  double sum = 0;
  for (int i = 0; i < 800; i++) sum += (double)x[i] * x[i];
  CHECK(fabs(sqrt(sum / 800) - 0.02) < 0.003, "std %g", sqrt(sum / 800));  // 6 sigma of 800 draws
  float first = 0, last = 0;
  tl_ops()->copy(&first, a->w.final_norm, sizeof first);
  tl_ops()->copy(&last, a->w.layers[1].norm2 + 19, sizeof last);
  CHECK(first == 1 && last == 1, "norms of %g and %g", first, last);
  tl_model_free(a);
  tl_model_free(b);
  tl_model_free(c);
}

static void inspect(void) {
  char *json = NULL;
  write_hf("inspect", &qwen2_sizes, "BF16", TL_BF16, NULL);
  CHECK_OK(tl_model_inspect(at("inspect"), &json));
  if (!json) return;
  CHECK(strstr(json, "\"architecture\":\"qwen2\"") && strstr(json, "\"tied\":false") &&
            strstr(json, "\"dtypes\":{\"BF16\":27}"),
        "%s", json);
  tl_string_free(json);
  CHECK(tl_model_inspect(at("none"), &json) == TL_E_IO && json == NULL);
}

int main(void) {
  if (!temp_begin()) return 1;
  RUN(safetensors_round_trip);
  RUN(safetensors_truncated);
  RUN(safetensors_corrupt);
  RUN(load_llama);
  RUN(load_qwen2_biases);
  RUN(load_tied_with_head);
  RUN(names_in_files);
  RUN(load_qwen3_norms);
  RUN(load_sharded);
  RUN(index_against_shards);
  RUN(not_finite);
  RUN(load_memory);
  RUN(info_and_modules);
  RUN(shape_disagreement);
  RUN(create_is_seeded);
  RUN(inspect);
  temp_end();
  return test_done();
}

// test_load.c: Hugging Face directories: the safetensors container, config.json in both key styles, loading, creating, saving
// and merging. Would catch: a wrong offset or shape believed, a rounding done twice, a tensor under another's name, a crash on
// a damaged file, a damaged file left by a failed save.
#include "../test.h"
#include "../../runtime/adapter/adapter.h"
#include "../../runtime/base/safetensors.h"
#include "modelfile.h"
#include <signal.h>
#include <sys/resource.h>
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

// the windows of a directory's two layers with the extra keys given
static void windows(const sizes *z, const char *keys, int first, int second) {
  tl_model *m = NULL;
  tl_model_options o = {.compute = TL_F32};
  write_hf("windows", z, "F32", TL_F32, keys);
  CHECK_OK(tl_model_load(at("windows"), &o, &m));
  if (!m) return;
  CHECK(tl_config_window(&m->cfg, 0) == first && tl_config_window(&m->cfg, 1) == second, "%s: %d and %d", keys,
        tl_config_window(&m->cfg, 0), tl_config_window(&m->cfg, 1));
  tl_model_free(m);
}

// the defaults are those of transformers' configuration classes
static void windows_by_keys(void) {
  windows(&mistral_sizes, "", 4096, 4096);
  windows(&mistral_sizes, "\"sliding_window\":null", 0, 0);
  windows(&mistral_sizes, "\"sliding_window\":8,\"model_type\":\"ministral\",\"architectures\":[\"MinistralForCausalLM\"]", 8, 8);
  windows(&mistral_sizes, "\"sliding_window\":9,\"layer_types\":[\"full_attention\",\"sliding_attention\"]", 0, 9);
  windows(&llama_sizes, "\"sliding_window\":9", 0, 0);
  windows(&llama_sizes, "\"layer_types\":[\"full_attention\",\"full_attention\"]", 0, 0);
  windows(&qwen2_sizes, "\"sliding_window\":9,\"max_window_layers\":0,\"use_sliding_window\":false", 0, 0);
  windows(&qwen2_sizes, "\"sliding_window\":9,\"max_window_layers\":1,\"use_sliding_window\":true", 0, 9);
  windows(&qwen2_sizes, "\"sliding_window\":9,\"use_sliding_window\":true", 0, 0);
  windows(&qwen3_sizes, "\"max_window_layers\":0,\"use_sliding_window\":true", 4096, 4096);
  windows(&qwen3_sizes, "\"sliding_window\":9,\"use_sliding_window\":true,\"layer_types\":[\"sliding_attention\",\"full_attention\"]",
          9, 0);
}

// SmolLM3: which of two layers rotate. Would catch: 1 and 0 the wrong way round, an interval counted from 0, other defaults than transformers'.
static void rotation_by_keys(void) {
  static const struct {
    const char *keys;
    bool first, second;
  } cases[] = {{"\"no_rope_layers\":null", 1, 1}, {"\"no_rope_layer_interval\":2", 1, 0}, {"\"no_rope_layer_interval\":1", 0, 0},
               {"\"no_rope_layers\":[0,1]", 0, 1}, {"\"no_rope_layers\":[1,0,1,1],\"no_rope_layer_interval\":1", 1, 0}};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    write_hf("smollm3", &smollm3_sizes, "F32", TL_F32, cases[i].keys);
    tl_model *m = NULL;
    CHECK_OK(tl_model_load(at("smollm3"), &(tl_model_options){.compute = TL_F32}, &m));
    CHECK(m->cfg.unrotated[0] != cases[i].first && m->cfg.unrotated[1] != cases[i].second, "%s", cases[i].keys);
    tl_model_free(m);
  }
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

// frequencies of a directory's config with the extra keys given
static void frequencies(const char *keys, float *f) {
  tl_model *m = NULL;
  tl_model_options o = {.compute = TL_F32};
  write_hf("rope", &llama_sizes, "F32", TL_F32, keys);
  CHECK_OK(tl_model_load(at("rope"), &o, &m));
  for (int i = 0; m && i < 5; i++) f[i] = tl_rope_frequency(&m->cfg, i);
  tl_model_free(m);
}

static void rope_key_styles(void) {
  float a[5], b[5];
  frequencies("\"rope_theta\":5000.0,\"rope_scaling\":null", a);
  frequencies("\"rope_parameters\":{\"rope_theta\":5000.0,\"rope_type\":\"default\"}", b);
  for (int i = 0; i < 5; i++) CHECK(a[i] == b[i] && fabsf(a[i] / powf(5000, -(float)i / 5) - 1) < 1e-6f);
  frequencies("\"rope_theta\":5000.0,\"rope_scaling\":{\"type\":\"linear\",\"factor\":4}", b);
  for (int i = 0; i < 5; i++) CHECK(b[i] == a[i] / 4);
  // original 64, low 1, high 4: wavelengths above 64 are divided by 8, below 16 kept, between: blended
  frequencies("\"rope_theta\":5000.0,\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":8,\"low_freq_factor\":1,"
              "\"high_freq_factor\":4,\"original_max_position_embeddings\":64}",
              b);
  for (int i = 0; i < 5; i++) {
    double wave = 2 * 3.14159265358979 / a[i], s = (64 / wave - 1) / 3;
    double want = wave > 64 ? a[i] / 8 : wave < 16 ? a[i] : (1 - s) * a[i] / 8 + s * a[i];
    CHECK(fabs(b[i] / want - 1) < 1e-5, "pair %d: %g, expected %g", i, b[i], want);  // fp32 against double
  }
}

static void rope_table_grows(void) {
  tl_model *m = NULL;
  tl_model_options o = {.compute = TL_F32};
  write_hf("grow", &llama_sizes, "F32", TL_F32, NULL);
  CHECK_OK(tl_model_load(at("grow"), &o, &m));
  if (!m) return;
  CHECK_OK(tl_model_need_positions(m, 10));
  CHECK_OK(tl_model_need_positions(m, 700));
  float *all = malloc(sizeof(float) * 700 * 10), *have = malloc(sizeof(float) * 700 * 10);
  tl_rope_table(all, &m->cfg, 700);
  CHECK(m->n_rope >= 700);
  if (m->n_rope >= 700) tl_ops()->copy(have, m->rope, sizeof(float) * 700 * 10);
  CHECK(memcmp(all, have, sizeof(float) * 700 * 10) == 0);
  free(all);
  free(have);
  tl_model_free(m);
}

static void refused_by_name(void) {
  static const struct {
    const char *keys, *word;
    tl_status status;
  } cases[] = {{"\"model_type\":\"mamba\"", "unknown architecture mamba", TL_E_UNSUPPORTED},
               {"\"architectures\":[\"LlamaForSequenceClassification\"]", "LlamaForSequenceClassification", TL_E_UNSUPPORTED},
               {"\"rope_scaling\":{\"rope_type\":\"dynamic\",\"factor\":4}", "rope_type dynamic", TL_E_UNSUPPORTED},
               {"\"rope_scaling\":{\"type\":\"longrope\",\"factor\":4}", "rope_type longrope", TL_E_UNSUPPORTED},
               {"\"rope_scaling\":{\"rope_type\":\"yarn\"}", "factor is missing", TL_E_FORMAT},
               {"\"rope_scaling\":{\"rope_type\":\"yarn\",\"factor\":4,\"beta_fast\":1,\"beta_slow\":2}", "beta_fast", TL_E_FORMAT},
               {"\"rope_scaling\":{\"rope_type\":\"yarn\",\"factor\":4,\"truncate\":1}", "truncate", TL_E_FORMAT},
               {"\"rope_scaling\":{\"factor\":4}", "rope_scaling has no rope_type", TL_E_FORMAT},
               {"\"rope_scaling\":7", "rope_scaling is not an object", TL_E_FORMAT},
               {"\"rope_parameters\":{\"full_attention\":{\"rope_type\":\"default\"}}", "rope_parameters.full_attention",
                TL_E_UNSUPPORTED},
               {"\"rope_parameters\":{\"rope_type\":\"default\",\"partial_rotary_factor\":0.25}", "partial_rotary_factor",
                TL_E_UNSUPPORTED},
               {"\"layer_types\":[\"full_attention\",\"chunked_attention\"]", "layer_types[1] is chunked_attention",
                TL_E_UNSUPPORTED},
               {"\"layer_types\":[\"full_attention\",\"sliding_attention\"]", "layer_types[1] is sliding_attention",
                TL_E_UNSUPPORTED},
               {"\"layer_types\":[\"full_attention\"]", "layer_types", TL_E_FORMAT},
               {"\"is_causal\":false", "is_causal", TL_E_UNSUPPORTED},
               {"\"model_type\":\"mistral\",\"architectures\":null,\"attention_bias\":true", "attention_bias", TL_E_UNSUPPORTED},
               {"\"model_type\":\"mistral\",\"architectures\":null,\"sliding_window\":0", "sliding_window", TL_E_FORMAT},
               {"\"model_type\":\"qwen3\",\"architectures\":null,\"layer_types\":[\"sliding_attention\",\"full_attention\"]",
                "use_sliding_window", TL_E_UNSUPPORTED},
               {"\"model_type\":\"smollm3\",\"architectures\":null,\"no_rope_layers\":[1]", "no_rope_layers is not a list of 2", TL_E_FORMAT},
               {"\"model_type\":\"smollm3\",\"architectures\":null,\"no_rope_layers\":[1,2]", "no_rope_layers[1] is neither 0 nor 1", TL_E_FORMAT},
               {"\"model_type\":\"smollm3\",\"architectures\":null,\"use_sliding_window\":true", "use_sliding_window true is not supported for smollm3",
                TL_E_UNSUPPORTED},
               {"\"architectures\":\"GemmaForCausalLM\"", "architectures is not a list of names", TL_E_FORMAT},
               {"\"hidden_act\":\"gelu\"", "gelu", TL_E_UNSUPPORTED},
               {"\"hidden_act\":5", "hidden_act is not text", TL_E_FORMAT},
               {"\"rope_theta\":1e-60", "rope_theta is not a positive number", TL_E_FORMAT},
               {"\"mlp_bias\":true", "mlp_bias", TL_E_UNSUPPORTED},
               {"\"use_sliding_window\":true", "use_sliding_window", TL_E_UNSUPPORTED},
               {"\"quantization_config\":{\"quant_method\":\"gptq\"}", "gptq", TL_E_UNSUPPORTED},
               {"\"partial_rotary_factor\":0.5", "partial_rotary_factor", TL_E_UNSUPPORTED},
               {"\"hidden_size\":\"many\"", "hidden_size", TL_E_FORMAT},
               {"\"num_hidden_layers\":-3", "num_hidden_layers", TL_E_FORMAT},
               {"\"num_key_value_heads\":3", "key/value heads", TL_E_SHAPE},
               {"\"head_dim\":9", "head_dim", TL_E_SHAPE},
               {"\"eos_token_id\":\"x\"", "eos_token_id", TL_E_FORMAT},
               {"\"num_hidden_layers\":4", "model.layers.2.input_layernorm.weight is missing", TL_E_FORMAT},
               {"\"tie_word_embeddings\":false", "lm_head.weight is missing", TL_E_FORMAT}};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    write_hf("refused", &llama_sizes, "F32", TL_F32, cases[i].keys);
    refused(at("refused"), cases[i].status, cases[i].word);
    CHECK(strstr(tl_last_error(), "/refused/"), "the message names no file: %s", tl_last_error());
  }
  refused(at("nowhere"), TL_E_IO, "nowhere");
  refused(at("refused/config.json"), TL_E_FORMAT, "neither");
  write_text("refused/config.json", "{\"model_type\":");
  refused(at("refused"), TL_E_FORMAT, "not JSON");
  write_text("refused/config.json", "{\"model_type\":\"llama\"} {}");
  refused(at("refused"), TL_E_FORMAT, "not JSON (wrong at byte 23 of 25)");
  write_text("refused/config.json", "{\"rope_scaling\":{\"factor\":2,\"factor\":4}}");
  refused(at("refused"), TL_E_FORMAT, "key factor is there twice");
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

static void same_parts(const tl_model *a, const tl_model *b, float tolerance) {
  tl_part *p;
  int n;
  CHECK_OK(tl_parts_list(&a->cfg, &p, &n));
  for (int i = 0; i < n; i++) {
    size_t size = tl_part_size(&p[i]);
    float *x = malloc(size * 4), *y = malloc(size * 4);
    tl_weights_part(&a->w, &p[i], x);
    tl_weights_part(&b->w, &p[i], y);
    for (size_t k = 0; k < size; k++) CHECK(fabsf(x[k] - y[k]) <= tolerance * fabsf(y[k]), "part %d: %g, %g", i, x[k], y[k]);
    free(x);
    free(y);
  }
  free(p);
}

static void save_and_load(const char *keys, const sizes *z, tl_dtype dtype, float tolerance) {
  tl_model *a = NULL, *b = NULL;
  tl_model_options o = {.compute = TL_F32};
  write_hf("first", z, "F32", TL_F32, keys);
  write_text("first/tokenizer.json", "{}");
  CHECK_OK(tl_model_load(at("first"), &o, &a));
  if (!a) return;
  CHECK_OK(tl_model_save(a, NULL, at("second/deep"), dtype));
  CHECK_OK(tl_model_load(at("second/deep"), &o, &b));
  if (b) {
    same_parts(b, a, tolerance);
    CHECK(a->cfg.norm_eps == b->cfg.norm_eps && a->cfg.rope_theta == b->cfg.rope_theta && a->cfg.rope_type == b->cfg.rope_type);
    CHECK(a->cfg.tied == b->cfg.tied && a->cfg.n_eos == b->cfg.n_eos && a->cfg.bos == b->cfg.bos && a->cfg.pad == b->cfg.pad);
    for (int i = 0; i < 5 && i < a->cfg.head_dim / 2; i++)
      CHECK(tl_rope_frequency(&a->cfg, i) == tl_rope_frequency(&b->cfg, i));
    CHECK(a->cfg.rope_attention == b->cfg.rope_attention);
    for (int l = 0; l < a->cfg.n_layers; l++) CHECK(tl_config_window(&a->cfg, l) == tl_config_window(&b->cfg, l));
    CHECK(!a->cfg.unrotated == !b->cfg.unrotated);
    for (int l = 0; a->cfg.unrotated && l < a->cfg.n_layers; l++) CHECK(a->cfg.unrotated[l] == b->cfg.unrotated[l]);
  }
  CHECK(tl_file_exists(at("second/deep/tokenizer.json")));
  tl_model_free(a);
  tl_model_free(b);
}

static void save_round_trip(void) {
  save_and_load(NULL, &qwen3_sizes, TL_F32, 0);
  save_and_load("\"attention_bias\":false,\"use_sliding_window\":true,\"sliding_window\":9,\"max_window_layers\":1", &qwen3_sizes,
                TL_F32, 0);
  save_and_load("\"use_sliding_window\":true,\"sliding_window\":9,\"layer_types\":[\"sliding_attention\",\"full_attention\"]",
                &qwen2_sizes, TL_F32, 0);
  save_and_load("\"sliding_window\":9", &mistral_sizes, TL_F32, 0);
  save_and_load("\"sliding_window\":null", &mistral_sizes, TL_F32, 0);
  save_and_load("\"sliding_window\":9,\"layer_types\":[\"sliding_attention\",\"full_attention\"]", &mistral_sizes, TL_F32, 0);
  save_and_load("\"rope_scaling\":{\"rope_type\":\"yarn\",\"factor\":4,\"beta_fast\":5,\"beta_slow\":0.7,\"truncate\":false,"
                "\"mscale\":1.1,\"mscale_all_dim\":0.3,\"original_max_position_embeddings\":64}",
                &llama_sizes, TL_F32, 0);
  save_and_load(NULL, &llama_sizes, TL_F32, 0);
  save_and_load("\"attention_bias\":false,\"rms_norm_eps\":3e-6,\"eos_token_id\":[3,4],\"pad_token_id\":0", &llama_sizes,
                TL_F32, 0);
  save_and_load("\"rope_theta\":12345.6,\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":8,\"low_freq_factor\":1,"
                "\"high_freq_factor\":4,\"original_max_position_embeddings\":64}",
                &qwen2_sizes, TL_F32, 0);
  save_and_load("\"rope_scaling\":{\"rope_type\":\"linear\",\"factor\":2.5}", &qwen2_sizes, TL_F32, 0);
  save_and_load("\"no_rope_layers\":[0,1]", &smollm3_sizes, TL_F32, 0);
  save_and_load(NULL, &qwen2_sizes, TL_BF16, 1.0f / 256);  // half a unit in the last of 8 bits
  save_and_load(NULL, &llama_sizes, TL_F16, 1.0f / 2048);  // of 11 bits; the values are in fp16's normal range
}

// transformers cannot run a Ministral whose window is null
static void ministral_keeps_a_window(void) {
  static const sizes z = {"ministral", true, false, 2, 20, 4, 2, 10, 28, 23};
  static const char *const keys[] = {"\"sliding_window\":9,\"layer_types\":[\"full_attention\",\"full_attention\"]", "\"sliding_window\":null",
                                     "\"sliding_window\":9"};
  for (int i = 0; i < 3; i++) {
    char *text;
    save_and_load(keys[i], &z, TL_F32, 0);
    CHECK_OK(tl_read_file(at("second/deep/config.json"), &text, NULL));
    CHECK(!strstr(text, "\"sliding_window\":\tnull") && !strstr(text, "layer_types") == (i == 2), "%s", text);
    free(text);
  }
}

// Infinities in a file are no model: what fp16 cannot hold is refused, and what was there before stays.
static void f16_beyond_its_range(void) {
  tl_model *m = NULL;
  tl_adapter *a = NULL;
  tl_model_options o = {.compute = TL_F32};
  int32_t module = 1;
  tl_adapter_options lora = {.kind = TL_LORA, .modules = &module, .n_modules = 1, .rank = 1, .alpha = 1, .storage = TL_F32};
  write_hf("wide", &llama_sizes, "F32", TL_F32, NULL);
  CHECK_OK(tl_model_load(at("wide"), &o, &m));
  if (!m) return;
  CHECK_OK(tl_adapter_create(m, &lora, &a));
  float *p = tl_adapter_parameters(a);
  for (int64_t i = 0; i < tl_adapter_n_parameters(a); i++) p[i] = 300;
  CHECK_OK(tl_adapter_refresh(a));
  CHECK_OK(tl_model_save(m, a, at("wide-bf16"), TL_BF16));
  CHECK(tl_model_save(m, a, at("wide-f16"), TL_F16) == TL_E_UNSUPPORTED && strstr(tl_last_error(), "k_proj.weight holds 90000"), "%s", tl_last_error());
  CHECK(!tl_file_exists(at("wide-f16/model.safetensors")), "a file with infinities was written");
  tl_adapter_free(a);
  tl_model_free(m);
}

// a failed write (here: the file size limit) leaves the earlier file whole and no temporary file behind
static void full_disk(void) {
  tl_model *m = NULL;
  tl_model_options o = {.compute = TL_F32};
  char before[65], after[65];
  write_hf("full", &qwen2_sizes, "BF16", TL_BF16, NULL);
  CHECK_OK(tl_model_load(at("full"), &o, &m));
  if (!m) return;
  CHECK_OK(tl_sha256_file(at("full/model.safetensors"), before));
  struct rlimit keep, small = {4096, RLIM_INFINITY};
  CHECK(getrlimit(RLIMIT_FSIZE, &keep) == 0);
  small.rlim_max = keep.rlim_max;
  signal(SIGXFSZ, SIG_IGN);
  CHECK(setrlimit(RLIMIT_FSIZE, &small) == 0);
  tl_status st = tl_model_save(m, NULL, at("full"), TL_F32);
  CHECK(setrlimit(RLIMIT_FSIZE, &keep) == 0);
  CHECK(st == TL_E_IO && strstr(tl_last_error(), "full/model.safetensors"), "%s", tl_last_error());
  CHECK_OK(tl_sha256_file(at("full/model.safetensors"), after));
  CHECK(strcmp(before, after) == 0);
  CHECK(count_files("full") == 2, "%d files", count_files("full"));
  tl_model_free(m);
}

static tl_adapter *random_adapter(tl_model *m, tl_adapter_kind kind) {
  int32_t modules[] = {0, 4, 6, 13}, groups[] = {0, 0, 1, 1};
  tl_adapter_options o = {.kind = kind,
                          .modules = modules,
                          .groups = groups,
                          .n_modules = 4,
                          .rank = 2,
                          .u = 3,
                          .alpha = 2,
                          .seed = 5,
                          .train_embeddings = true};
  tl_adapter *a = NULL;
  CHECK_OK(tl_adapter_create(m, &o, &a));
  if (!a) return NULL;
  float *p = tl_adapter_parameters(a);
  for (int64_t i = 0; i < tl_adapter_n_parameters(a); i++) p[i] += 0.25f * (tl_uniform(9, 1, (uint64_t)i) - 0.5f);
  CHECK_OK(tl_adapter_refresh(a));
  return a;
}

// merged and saved weights are W + dW, rounded once; the base stays as it was
static void merge_kind(tl_adapter_kind kind, const sizes *z) {
  tl_model *m = NULL, *merged = NULL, *saved = NULL, *again = NULL;
  tl_model_options o = {.compute = TL_F32};
  write_hf("merge", z, "F32", TL_F32, NULL);
  CHECK_OK(tl_model_load(at("merge"), &o, &m));
  tl_adapter *a = m ? random_adapter(m, kind) : NULL;
  if (!a) return;
  CHECK_OK(tl_model_merge(m, a, &merged));
  CHECK_OK(tl_model_save(m, a, at("merged"), TL_F32));
  CHECK_OK(tl_model_load(at("merged"), &o, &saved));
  if (merged && saved) {
    same_parts(merged, saved, 0);
    int changed = 0;
    for (int i = 0; i < 14; i++) {
      float w[800], dw[800], got[800];
      int n = tl_linear_out(&m->cfg, i % 7) * tl_linear_in(&m->cfg, i % 7);
      CHECK(n <= 800);
      CHECK_OK(tl_model_weight(m, i, w));
      CHECK_OK(tl_adapter_delta(a, i, dw));
      CHECK_OK(tl_model_weight(merged, i, got));
      changed += memcmp(w, got, sizeof(float) * (size_t)n) != 0;
      // TL_FULL's delta is itself a rounded difference: one more unit in the last place
      for (int k = 0; k < n; k++) CHECK(fabsf(got[k] - (w[k] + dw[k])) <= (kind == TL_FULL ? 1e-6f : 0), "module %d", i);
    }
    CHECK(changed == (kind == TL_FULL ? 14 : 4), "%d modules changed", changed);
  }
  tl_adapter_free(a);
  CHECK_OK(tl_model_load(at("merge"), &o, &again));
  if (again) same_parts(m, again, 0);
  tl_model_free(m);  // the merged copy keeps what it shares alive
  float w[800];
  CHECK_OK(tl_model_weight(merged, 1, w));
  tl_model_free(merged);
  tl_model_free(saved);
  tl_model_free(again);
}

static void merge_lowrank(void) {
  merge_kind(TL_TINYLORA, &llama_sizes);
  merge_kind(TL_LORA, &qwen2_sizes);
}

static void merge_full(void) {
  merge_kind(TL_FULL, &llama_sizes);
  merge_kind(TL_FULL, &qwen2_sizes);
  merge_kind(TL_FULL, &qwen3_sizes);
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
  RUN(windows_by_keys);
  RUN(rotation_by_keys);
  RUN(load_sharded);
  RUN(index_against_shards);
  RUN(not_finite);
  RUN(load_memory);
  RUN(info_and_modules);
  RUN(rope_key_styles);
  RUN(rope_table_grows);
  RUN(refused_by_name);
  RUN(shape_disagreement);
  RUN(create_is_seeded);
  RUN(save_round_trip);
  RUN(ministral_keeps_a_window);
  RUN(f16_beyond_its_range);
  RUN(full_disk);
  RUN(merge_lowrank);
  RUN(merge_full);
  RUN(inspect);
  temp_end();
  return test_done();
}

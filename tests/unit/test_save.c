// test_save.c: models saved and loaded again, and merged with their adapters. Would catch: a rounding done twice, a key that is lost on the way, a
// damaged file left by a failed save.
#include "../test.h"
#include "modelfile.h"
#include <sys/resource.h>
#include <sys/wait.h>

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

int main(void) {
  if (!temp_begin()) return 1;
  RUN(save_round_trip);
  RUN(ministral_keeps_a_window);
  RUN(f16_beyond_its_range);
  RUN(full_disk);
  RUN(merge_lowrank);
  RUN(merge_full);
  temp_end();
  return test_done();
}

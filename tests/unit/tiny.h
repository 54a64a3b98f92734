// tiny.h: a small random model written to a temporary folder, for tests of the sampler and of training.
#ifndef TEST_TINY_H
#define TEST_TINY_H
#include "../test.h"
#include "../../runtime/model/model.h"
#include <sys/stat.h>
#include <unistd.h>

// Odd sizes on purpose: 4 heads of 10 with explicit head_dim, 57 feed-forward columns would not be even, so 58; 131 tokens.
// In the families with windows layers slide: all of Mistral's, the last two of Qwen's. SmolLM3's second does not rotate.
static inline tl_model *tiny_model_of(const char *family, tl_dtype compute, int vocab) {
  char dir[] = "/tmp/tl-tiny-XXXXXX", path[64];
  if (!mkdtemp(dir)) return NULL;
  snprintf(path, sizeof path, "%s/config.json", dir);
  FILE *f = fopen(path, "w");
  if (!f) return NULL;
  fprintf(f,
          "{\"architectures\":[\"%s\"],\"model_type\":\"%s\",\"hidden_size\":36,\"intermediate_size\":58,\"num_hidden_layers\":3,"
          "\"num_attention_heads\":4,\"num_key_value_heads\":2,\"head_dim\":10,\"vocab_size\":%d,\"rms_norm_eps\":1e-5,"
          "\"rope_theta\":10000.0,\"max_position_embeddings\":2048,\"tie_word_embeddings\":%s,\"hidden_act\":\"silu\","
          "\"sliding_window\":7,\"use_sliding_window\":%s,\"max_window_layers\":1,\"no_rope_layer_interval\":2,\"eos_token_id\":2,\"bos_token_id\":1}",
          tl_family_find(family)->hf_class, family, vocab, strcmp(family, "qwen2") ? "true" : "false",
          strncmp(family, "qwen", 4) ? "false" : "true");
  fclose(f);
  tl_model *m = NULL;
  tl_model_options o = {.compute = compute};
  CHECK_OK(tl_model_create(path, &o, 11, &m));
  unlink(path);
  rmdir(dir);
  return m;
}

static inline tl_model *tiny_model(const char *family, tl_dtype compute) { return tiny_model_of(family, compute, 131); }

// A larger spread than the usual initialisation, so that gradients are not all tiny: an adapter whose numbers are random.
static inline tl_adapter *tiny_adapter(tl_model *m, tl_adapter_kind kind, int n_groups, float size) {
  tl_model_info info;
  tl_model_get_info(m, &info);
  int32_t modules[64], groups[64];
  for (int i = 0; i < info.n_modules; i++) modules[i] = i, groups[i] = i % n_groups;
  tl_adapter_options o = {.kind = kind, .modules = modules, .groups = groups, .n_modules = info.n_modules, .rank = 2, .u = 5,
                          .alpha = 2, .storage = TL_F32, .seed = 5, .train_embeddings = true};
  tl_adapter *a = NULL;
  CHECK_OK(tl_adapter_create(m, &o, &a));
  if (!a) return NULL;
  float *p = tl_adapter_parameters(a);
  int64_t n = tl_adapter_n_parameters(a);
  for (int64_t i = 0; i < n && size > 0; i++) p[i] += size * (2 * tl_uniform(77, 1, (uint64_t)i) - 1);
  CHECK_OK(tl_adapter_refresh(a));
  return a;
}

static inline void tiny_ids(int32_t *ids, int n, uint64_t stream) {
  for (int i = 0; i < n; i++) ids[i] = 3 + (int32_t)(tl_uniform(3, stream, (uint64_t)i) * 128);
}
#endif

// models.c: config.json, model folders, PEFT's folders, the compact file of adapters. See targets.h.
#include "models.h"
#include "../../runtime/adapter/artifact.h"
#include "../../runtime/model/load.h"
#include "targets.h"
#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>

static const char config[] =
    "{\"architectures\":[\"LlamaForCausalLM\"],\"model_type\":\"llama\",\"hidden_size\":8,\"intermediate_size\":12,"
    "\"num_hidden_layers\":1,\"num_attention_heads\":2,\"num_key_value_heads\":1,\"head_dim\":4,\"vocab_size\":9,"
    "\"rms_norm_eps\":1e-5,\"rope_theta\":10000.0,\"max_position_embeddings\":32,\"tie_word_embeddings\":true,"
    "\"hidden_act\":\"silu\",\"eos_token_id\":2,\"bos_token_id\":1}";
static const char config_rope[] =
    "{\"architectures\":[\"Qwen2ForCausalLM\"],\"model_type\":\"qwen2\",\"hidden_size\":8,\"intermediate_size\":12,"
    "\"num_hidden_layers\":2,\"num_attention_heads\":2,\"num_key_value_heads\":2,\"vocab_size\":9,\"rms_norm_eps\":1e-6,"
    "\"rope_scaling\":{\"rope_type\":\"yarn\",\"factor\":4.0,\"original_max_position_embeddings\":32},"
    "\"sliding_window\":7,\"use_sliding_window\":true,\"max_window_layers\":1,\"layer_types\":[\"full_attention\","
    "\"sliding_attention\"],\"max_position_embeddings\":128,\"eos_token_id\":[2,3]}";

// ---------------------------------------------------------------- config

static bool run_config(const uint8_t *data, size_t n) {
  tl_config c = {0};
  float std;
  const char *path = fuzz_file("config.json", data, n);
  tl_status s = tl_config_read(path, NULL, &c, &std);
  fuzz_refused(s);
  if (s == TL_OK)
    fuzz_refused(tl_config_check(path, &c));
  tl_config_free(&c);
  return s == TL_OK;
}

static void seed_config(fuzz_put put, void *ctx) {
  put(ctx, "llama", config, sizeof config - 1);
  put(ctx, "rope", config_rope, sizeof config_rope - 1);
  fuzz_put_source(put, ctx, "wordproblems", "models/tiny/wordproblems/config.json");
}

const fuzz_target fuzz_config = {"config", run_config, seed_config, 4096};

// ---------------------------------------------------------------- model

bool fuzz_model_at(const char *path) {
  char *json = NULL;
  tl_status s = tl_model_inspect(path, &json);
  fuzz_refused(s);
  if (s == TL_OK)
    tl_string_free(json);
  tl_model *m = NULL;
  tl_model_options o = {.compute = TL_F32};
  s = tl_model_load(path, &o, &m);
  fuzz_refused(s);
  if (s == TL_OK)
    tl_model_free(m);
  return s == TL_OK;
}

// a small model, made once
static tl_model *base_model(void) {
  static tl_model *m;
  tl_model_options o = {.compute = TL_F32};
  if (!m && tl_model_create(fuzz_file("base.json", config, sizeof config - 1), &o, 3, &m) != TL_OK)
    abort();
  return m;
}

static void write_pair(const char *dir, const char *a, const char *b, const uint8_t *data, size_t n) {
  char name[64];
  size_t first, second_bytes;
  const uint8_t *second;
  fuzz_split(data, n, &first, &second, &second_bytes);
  if (tl_mkdirs(fuzz_path(dir)) != TL_OK)
    abort();
  snprintf(name, sizeof name, "%s/%s", dir, a);
  fuzz_file(name, data + (n >= 2 ? 2 : 0), first);
  snprintf(name, sizeof name, "%s/%s", dir, b);
  fuzz_file(name, second, second_bytes);
}

static bool run_model(const uint8_t *data, size_t n) {
  write_pair("model", "config.json", "model.safetensors", data, n);
  return fuzz_model_at(fuzz_path("model"));
}

static void seed_model(fuzz_put put, void *ctx) {
  if (tl_model_save(base_model(), NULL, fuzz_path("saved"), TL_BF16) != TL_OK)
    abort();
  fuzz_put_pair(put, ctx, "llama", fuzz_path("saved/config.json"), fuzz_path("saved/model.safetensors"));
}

const fuzz_target fuzz_model = {"model", run_model, seed_model, 16384};

// ---------------------------------------------------------------- adapters

static tl_adapter *seed_of(tl_adapter_kind kind) {
  int32_t modules[7], groups[7] = {0, 0, 0, 1, 1, 1, 1};
  for (int i = 0; i < 7; i++)
    modules[i] = i;
  tl_adapter_options o = {.kind = kind,
                          .modules = modules,
                          .groups = groups,
                          .n_modules = 7,
                          .rank = 1,
                          .u = 2,
                          .alpha = 2,
                          .storage = TL_F32,
                          .seed = 5};
  tl_adapter *a = NULL;
  if (tl_adapter_create(base_model(), &o, &a) != TL_OK) {
    fprintf(stderr, "%s\n", tl_last_error());
    abort();
  }
  return a;
}

static bool run_adapter(const uint8_t *data, size_t n) {
  write_pair("adapter", "adapter_config.json", "adapter_model.safetensors", data, n);
  tl_adapter *a = NULL;
  tl_status s = tl_adapter_load(base_model(), fuzz_path("adapter"), &a);
  fuzz_refused(s);
  if (s == TL_OK)
    tl_adapter_free(a);
  return s == TL_OK;
}

static void seed_adapter(fuzz_put put, void *ctx) {
  static const struct {
    const char *name;
    tl_adapter_kind kind;
  } kinds[] = {{"lora", TL_LORA}, {"tinylora", TL_TINYLORA}};
  for (int i = 0; i < 2; i++) {
    tl_adapter *a = seed_of(kinds[i].kind);
    if (tl_adapter_save(a, fuzz_path("out"), "base") != TL_OK)
      abort();
    fuzz_put_pair(put, ctx, kinds[i].name, fuzz_path("out/adapter_config.json"), fuzz_path("out/adapter_model.safetensors"));
    tl_adapter_free(a);
  }
}

const fuzz_target fuzz_adapter = {"adapter", run_adapter, seed_adapter, 16384};

// The digest over everything keeps a fuzzer outside, so it is put right here: what is fuzzed is what lies behind it. An input
// whose first byte is odd is taken as it is.
static bool run_artifact(const uint8_t *data, size_t n) {
  if (!n)
    return false;
  bool raw = data[0] & 1;
  size_t bytes = n - 1;
  uint8_t *file = malloc(bytes + 1);
  if (!file)
    abort();
  memcpy(file, data + 1, bytes);
  if (!raw && bytes >= TL_ARTIFACT_HEAD + TL_ARTIFACT_DIGEST) {
    unsigned len = 0;
    uint32_t manifest;
    memcpy(&manifest, file + 8, 4);
    uint64_t room = bytes - TL_ARTIFACT_HEAD - TL_ARTIFACT_DIGEST, payload = manifest <= room ? room - manifest : 0;
    memcpy(file + 12, &payload, 8);
    if (!EVP_Digest(file, bytes - TL_ARTIFACT_DIGEST, file + bytes - TL_ARTIFACT_DIGEST, &len, EVP_sha256(), NULL))
      abort();
  }
  const char *path = fuzz_file("x.tla", file, bytes);
  free(file);
  char *json = NULL;
  tl_status s = tl_artifact_inspect(path, &json);
  fuzz_refused(s);
  if (s == TL_OK)
    tl_string_free(json);
  tl_adapter *a = NULL;
  s = tl_artifact_read(base_model(), path, true, NULL, &a);
  fuzz_refused(s);
  if (s == TL_OK)
    tl_adapter_free(a);
  fuzz_refused(tl_artifact_verify(path, NULL));
  return s == TL_OK;
}

static void seed_artifact(fuzz_put put, void *ctx) {
  static const struct {
    const char *name;
    tl_adapter_kind kind;
    bool carry, sign;
  } kinds[] = {{"tinylora", TL_TINYLORA, false, false},
               {"carried", TL_TINYLORA, true, false},
               {"lora", TL_LORA, false, false},
               {"signed", TL_LORA_XS, false, true}};
  for (int i = 0; i < 4; i++) {
    tl_adapter *a = seed_of(kinds[i].kind);
    tl_artifact_options o = {.base_name = "base", .carry = kinds[i].carry};
    const char *path = fuzz_path("seed.tla");
    if (tl_artifact_write(a, path, &o) != TL_OK)
      abort();
    if (kinds[i].sign &&
        (tl_artifact_keygen(fuzz_path("key")) != TL_OK || tl_artifact_sign(path, fuzz_path("key"), "me") != TL_OK))
      abort();
    char *bytes = NULL;
    size_t n = 0;
    if (tl_read_file(path, &bytes, &n) != TL_OK)
      abort();
    uint8_t *with = malloc(n + 1);
    if (!with)
      abort();
    with[0] = kinds[i].sign; // a signature needs the true digest
    memcpy(with + 1, bytes, n);
    put(ctx, kinds[i].name, with, n + 1);
    free(with);
    free(bytes);
    tl_adapter_free(a);
  }
}

const fuzz_target fuzz_artifact = {"artifact", run_artifact, seed_artifact, 8192};

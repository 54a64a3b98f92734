// test_parity.c: the model, its gradients and PEFT's adapters against transformers and PEFT (tests/parity/make_peft_fixtures.py
// documents the fixtures). Would catch: a wrong RoPE, norm, bias or head; a wrong gradient anywhere; a PEFT key, tying or scale
// read differently from PEFT.
#include "../../runtime/adapter/torch_random.h"
#include "parity.h"

#define FIXTURES TL_SOURCE_DIR "/tests/parity/fixtures/model/"

static tl_model *load_base(const char *family, tl_safetensors *base) {
  char path[1024];
  tl_model *m = NULL;
  tl_model_options o = {.compute = TL_F32};
  snprintf(path, sizeof path, FIXTURES "%s", family);
  CHECK_OK(tl_model_load(path, &o, &m));
  snprintf(path, sizeof path, FIXTURES "%s/reference.safetensors", family);
  CHECK_OK(tl_safetensors_open(base, path));
  return m;
}

static void forward_case(const char *family) {
  tl_safetensors base;
  tl_model *m = load_base(family, &base);
  if (!m) return;
  compare_forward(family, m, &base);
  tl_safetensors_close(&base);
  tl_model_free(m);
}

static void full_case(const char *family) {
  tl_safetensors base;
  tl_model *m = load_base(family, &base);
  if (!m) return;
  compare_full(family, m, &base);
  tl_safetensors_close(&base);
  tl_model_free(m);
}

static void compare_logits(const char *name, tl_model *m, const tl_safetensors *base, const char *dir) {
  char path[1100];
  tl_safetensors s;
  tl_adapter *a = NULL;
  snprintf(path, sizeof path, "%s/reference.safetensors", dir);
  CHECK_OK(tl_safetensors_open(&s, path));
  CHECK_OK(tl_adapter_load(m, dir, &a));
  const tl_st_tensor *ids = need(base, "ids.0");
  int32_t all[64];
  memcpy(all, ids->data, ids->bytes);
  int n = (int)ids->n, V = m->cfg.vocab;
  float *logits = malloc(sizeof(float) * (size_t)n * V), *w = floats(need(&s, "logits_last.0"));
  CHECK_OK(tl_logits(m, a, all, n, logits));
  for (int i = 0; i < 4 * V; i++)
    CHECK(fabsf(logits[(n - 4) * V + i] - w[i]) <= 1e-4f, "%s: logit %d is %g, PEFT's %g", name, i,
          (double)logits[(n - 4) * V + i], (double)w[i]);
  free(logits);
  free(w);
  tl_adapter_free(a);
  tl_safetensors_close(&s);
}

static void peft_case(const char *family, const char *name) {
  tl_safetensors base;
  char dir[1024];
  snprintf(dir, sizeof dir, FIXTURES "%s/%s", family, name);
  tl_model *m = load_base(family, &base);
  if (!m) return;
  compare_adapter(name, m, &base, dir);
  compare_logits(name, m, &base, dir);
  tl_safetensors_close(&base);
  tl_model_free(m);
}

static void llama_forward(void) { forward_case("llama"); }
static void qwen2_forward(void) { forward_case("qwen2"); }
static void llama_gradient_of_all_weights(void) { full_case("llama"); }
static void qwen2_gradient_of_all_weights(void) { full_case("qwen2"); }
// every tying ratio, with and without saved projections; one test a line, so that a failure names its case
#define PEFT_CASE(family, name) \
  static void family##_##name(void) { peft_case(#family, #name); }
#define PEFT_CASES(X)                                                                                                  \
  X(llama, tinylora_full) X(llama, tinylora_none) X(llama, tinylora_ratio) X(llama, tinylora_qv)                       \
  X(llama, tinylora_tie_10_nosave) X(llama, tinylora_tie_25) X(llama, tinylora_tie_40_nosave) X(llama, tinylora_tie_50) \
  X(llama, tinylora_tie_75_nosave) X(llama, tinylora_tie_90) X(llama, tinylora_full_nosave)                            \
  X(llama, tinylora_regex_nosave) X(llama, tinylora_all_linear_nosave) X(llama, tinylora_layers_nosave)                \
  X(llama, tinylora_layer) X(llama, tinylora_rank_nosave) X(llama, lora) X(llama, lora_rslora) X(llama, lora_patterns) \
  X(llama, lora_patterns_rslora) X(llama, lora_exclude) X(qwen2, tinylora_ratio) X(qwen2, tinylora_nosave)
PEFT_CASES(PEFT_CASE)

// P as torch draws it, bit for bit: a wrong order of draws, a tail not drawn again, a fused operation too few
static void torch_normal(void) {
  tl_safetensors s;
  CHECK_OK(tl_safetensors_open(&s, FIXTURES "torch_normal.safetensors"));
  CHECK(s.n >= 40, "%zu sizes", s.n);
  for (size_t i = 0; i < s.n; i++) {
    size_t n;
    unsigned long long seed;
    int r;
    CHECK(sscanf(s.tensors[i].name, "n%zu.seed%llu.r%d", &n, &seed, &r) == 3 && (int64_t)n == s.tensors[i].n, "%s",
          s.tensors[i].name);
    float *x = malloc(sizeof(float) * n);
    tl_torch_normal(x, n, seed, 1 / sqrt(r));
    CHECK(!memcmp(x, s.tensors[i].data, sizeof(float) * n), "%s differs", s.tensors[i].name);
    free(x);
  }
  tl_safetensors_close(&s);
}

int main(void) {
  RUN(llama_forward);
  RUN(qwen2_forward);
  RUN(llama_gradient_of_all_weights);
  RUN(qwen2_gradient_of_all_weights);
#define RUN_CASE(family, name) RUN(family##_##name);
  PEFT_CASES(RUN_CASE)
  RUN(torch_normal);
  return test_done();
}

// test_parity.c: the model, its gradients and PEFT's adapters against transformers and PEFT (tests/parity/make_peft_fixtures.py
// documents the fixtures). Would catch: a wrong RoPE, norm, bias or head; a wrong gradient anywhere; a PEFT key, tying or scale
// read differently from PEFT.
// Tolerances: both sides compute in fp32 with different orders of summation, over values of order 1 in layers of 24 to 40
// terms: 2e-5 of the largest value for logprobs, 2e-4 for gradients, which are sums of terms that cancel.
#include "../../runtime/adapter/adapter.h"
#include "../../runtime/base/safetensors.h"
#include "../test.h"

#define FIXTURES TL_SOURCE_DIR "/tests/parity/fixtures/model/"
static const double forward_tolerance = 2e-5, gradient_tolerance = 2e-4;
enum { n_sequences = 3 };

static const tl_st_tensor *need(const tl_safetensors *s, const char *format, ...) {
  char name[256];
  va_list ap;
  va_start(ap, format);
  vsnprintf(name, sizeof name, format, ap);
  va_end(ap);
  const tl_st_tensor *t = tl_safetensors_find(s, name);
  CHECK(t, "%s is missing", name);
  return t;
}

// values of an F32 tensor, copied for alignment; free()
static float *floats(const tl_st_tensor *t) {
  float *x = malloc(t->bytes + 1);
  memcpy(x, t->data, t->bytes);
  return x;
}

// one pass over the fixture's sequences: 0 and 1 share a prompt
typedef struct {
  tl_batch *batch;
  tl_pass *pass;
  float *logprobs, *entropy, *c, *e;
} run;

static void gather(const tl_safetensors *base, const tl_batch *b, const char *what, float *to) {
  for (int i = 0; i < n_sequences; i++) {
    const tl_st_tensor *t = need(base, "%s.%d", what, i), *p = need(base, "n_prompt");
    int32_t n_prompt;
    memcpy(&n_prompt, p->data + 4 * i, 4);
    memcpy(to + tl_batch_offset(b, i), t->data + 4 * (n_prompt - 1), t->bytes - 4 * (size_t)(n_prompt - 1));
  }
}

static run run_all(tl_model *m, tl_adapter *a, const tl_safetensors *base, bool with_entropy) {
  run r = {0};
  CHECK_OK(tl_batch_create(&r.batch));
  const tl_st_tensor *np = need(base, "n_prompt");
  for (int i = 0, prompt = 0, which; i < n_sequences; i++) {
    const tl_st_tensor *ids = need(base, "ids.%d", i);
    int32_t all[64], n_prompt;
    memcpy(all, ids->data, ids->bytes);
    memcpy(&n_prompt, np->data + 4 * i, 4);
    if (i != 1) CHECK_OK(tl_batch_prompt(r.batch, all, n_prompt, &prompt));
    CHECK_OK(tl_batch_completion(r.batch, prompt, all + n_prompt, (int)ids->n - n_prompt, &which));
  }
  size_t n = (size_t)tl_batch_n_tokens(r.batch);
  r.logprobs = calloc(n, sizeof(float));
  r.entropy = calloc(n, sizeof(float));
  r.c = calloc(n, sizeof(float));
  r.e = calloc(n, sizeof(float));
  gather(base, r.batch, "c", r.c);
  if (with_entropy) gather(base, r.batch, "e", r.e);
  tl_pass_options o = {.temperature = 1, .backward = a != NULL, .want_entropy = true};
  CHECK_OK(tl_pass_create(m, a, r.batch, &o, &r.pass));
  for (int i = 0; r.pass && i < tl_pass_n_micro(r.pass); i++) {
    CHECK_OK(tl_pass_forward(r.pass, i, r.logprobs, r.entropy));
    if (a) CHECK_OK(tl_pass_backward(r.pass, i, r.c, with_entropy ? r.e : NULL));
  }
  return r;
}

static void run_free(run *r) {
  tl_pass_free(r->pass);
  tl_batch_free(r->batch);
  free(r->logprobs);
  free(r->entropy);
  free(r->c);
  free(r->e);
}

static void compare(const char *what, const float *have, const tl_st_tensor *want, double tolerance) {
  if (!want) return;
  float *w = floats(want);
  double d = test_max_rel(have, w, (size_t)want->n);
  CHECK(d <= tolerance, "%s: %s differs by %.2e of its largest value", what, want->name, d);
  free(w);
}

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
  for (int i = 0; i < n_sequences; i++) {
    const tl_st_tensor *ids = need(&base, "ids.%d", i);
    int32_t all[64];
    float logprobs[64];
    memcpy(all, ids->data, ids->bytes);
    CHECK_OK(tl_logprobs(m, NULL, all, (int)ids->n, 1, logprobs));
    compare(family, logprobs, need(&base, "logprobs.%d", i), forward_tolerance);
    if (i) continue;
    const tl_st_tensor *want = need(&base, "logits.0");
    float *logits = malloc(want->bytes);
    CHECK_OK(tl_logits(m, NULL, all, (int)ids->n, logits));
    compare(family, logits, want, forward_tolerance);
    free(logits);
  }
  tl_safetensors_close(&base);
  tl_model_free(m);
}

static void full_case(const char *family) {
  tl_safetensors base;
  tl_model *m = load_base(family, &base);
  if (!m) return;
  tl_adapter_options o = {.kind = TL_FULL, .storage = TL_F32, .train_embeddings = true};
  tl_adapter *a = NULL;
  CHECK_OK(tl_adapter_create(m, &o, &a));
  if (!a) return;
  run r = run_all(m, a, &base, true);
  float *g = tl_adapter_gradient(a);
  compare(family, g + a->off_embed, need(&base, "grad.model.embed_tokens.weight"), gradient_tolerance);
  if (!m->cfg.tied) compare(family, g + a->off_head, need(&base, "grad.lm_head.weight"), gradient_tolerance);
  for (int i = 0; i < m->cfg.n_layers * TL_N_KINDS; i++) {
    char name[128];
    tl_module_name(name, sizeof name, i);
    compare(family, g + a->full_off_w[i], need(&base, "grad.%s.weight", name), gradient_tolerance);
    if (a->full_off_b[i] >= 0) compare(family, g + a->full_off_b[i], need(&base, "grad.%s.bias", name), gradient_tolerance);
  }
  for (int l = 0; l < m->cfg.n_layers; l++) {
    compare(family, tl_adapter_grad_norm(a, l, 0), need(&base, "grad.model.layers.%d.input_layernorm.weight", l),
            gradient_tolerance);
    compare(family, tl_adapter_grad_norm(a, l, 1), need(&base, "grad.model.layers.%d.post_attention_layernorm.weight", l),
            gradient_tolerance);
  }
  compare(family, tl_adapter_grad_norm(a, m->cfg.n_layers, 0), need(&base, "grad.model.norm.weight"), gradient_tolerance);
  run_free(&r);
  tl_adapter_free(a);
  tl_safetensors_close(&base);
  tl_model_free(m);
}

static void compare_logprobs(const char *what, const run *r, const tl_safetensors *base, const tl_safetensors *want) {
  size_t n = (size_t)tl_batch_n_tokens(r->batch);
  float *w = calloc(n, sizeof(float));
  for (int i = 0; i < n_sequences; i++) {
    const tl_st_tensor *t = need(want, "logprobs.%d", i), *p = need(base, "n_prompt");
    int32_t n_prompt;
    memcpy(&n_prompt, p->data + 4 * i, 4);
    memcpy(w + tl_batch_offset(r->batch, i), t->data + 4 * (n_prompt - 1), t->bytes - 4 * (size_t)(n_prompt - 1));
  }
  double d = test_max_rel(r->logprobs, w, n);
  CHECK(d <= forward_tolerance, "%s: logprobs differ by %.2e", what, d);
  free(w);
}

static void peft_case(const char *family, const char *name) {
  tl_safetensors base, want;
  char dir[1024], path[1100];
  snprintf(dir, sizeof dir, FIXTURES "%s/%s", family, name);
  snprintf(path, sizeof path, "%s/reference.safetensors", dir);
  tl_model *m = load_base(family, &base);
  CHECK_OK(tl_safetensors_open(&want, path));
  tl_adapter *a = NULL;
  CHECK_OK(tl_adapter_load(m, dir, &a));
  if (!a) return;
  run r = run_all(m, a, &base, false);
  compare_logprobs(name, &r, &base, &want);
  float *g = tl_adapter_gradient(a);
  if (a->kind == TL_TINYLORA)
    for (int i = 0; i < a->n_groups; i++)
      compare(name, g + (size_t)i * a->u, need(&want, "grad.base_model.tinylora_v.%d", i), gradient_tolerance);
  for (int i = 0; a->kind == TL_LORA && i < a->n_modules; i++) {
    char module[128];
    tl_module_name(module, sizeof module, a->modules[i].module);
    compare(name, g + a->modules[i].off, need(&want, "grad.base_model.model.%s.lora_A.weight", module), gradient_tolerance);
    compare(name, g + a->modules[i].off_b, need(&want, "grad.base_model.model.%s.lora_B.weight", module), gradient_tolerance);
  }
  run_free(&r);
  tl_adapter_free(a);
  tl_safetensors_close(&base);
  tl_safetensors_close(&want);
  tl_model_free(m);
}

static void llama_forward(void) { forward_case("llama"); }
static void qwen2_forward(void) { forward_case("qwen2"); }
static void llama_gradient_of_all_weights(void) { full_case("llama"); }
static void qwen2_gradient_of_all_weights(void) { full_case("qwen2"); }
static void peft_tinylora_one_vector(void) { peft_case("llama", "tinylora_full"); }
static void peft_tinylora_vector_per_module(void) { peft_case("llama", "tinylora_none"); }
static void peft_tinylora_ratio(void) { peft_case("llama", "tinylora_ratio"); }
static void peft_tinylora_two_kinds(void) { peft_case("llama", "tinylora_qv"); }
static void peft_tinylora_ratio_qwen2(void) { peft_case("qwen2", "tinylora_ratio"); }
static void peft_lora(void) { peft_case("llama", "lora"); }

int main(void) {
  RUN(llama_forward);
  RUN(qwen2_forward);
  RUN(llama_gradient_of_all_weights);
  RUN(qwen2_gradient_of_all_weights);
  RUN(peft_tinylora_one_vector);
  RUN(peft_tinylora_vector_per_module);
  RUN(peft_tinylora_ratio);
  RUN(peft_tinylora_two_kinds);
  RUN(peft_tinylora_ratio_qwen2);
  RUN(peft_lora);
  return test_done();
}

// parity.h: comparing a model, its gradients and PEFT's adapters with a folder of reference values; make_peft_fixtures.py and
// make_model_fixtures.py in tests/parity document the files.
// Tolerances: both sides compute in fp32 with different orders of summation, over values of order 1 in layers of 24 to 40
// terms: 2e-5 of the largest value for logits and logprobs, 1e-4 for gradients, which are sums of terms that cancel.
#ifndef TEST_PARITY_H
#define TEST_PARITY_H
#include "../../runtime/adapter/adapter.h"
#include "../../runtime/base/safetensors.h"
#include "../test.h"

static const double forward_tolerance = 2e-5, gradient_tolerance = 1e-4;
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
    if (i != 1)
      CHECK_OK(tl_batch_prompt(r.batch, all, n_prompt, &prompt));
    CHECK_OK(tl_batch_completion(r.batch, prompt, all + n_prompt, (int)ids->n - n_prompt, &which));
  }
  size_t n = (size_t)tl_batch_n_tokens(r.batch);
  r.logprobs = calloc(n, sizeof(float));
  r.entropy = calloc(n, sizeof(float));
  r.c = calloc(n, sizeof(float));
  r.e = calloc(n, sizeof(float));
  gather(base, r.batch, "c", r.c);
  if (with_entropy)
    gather(base, r.batch, "e", r.e);
  tl_pass_options o = {.temperature = 1, .backward = a != NULL, .want_entropy = true};
  CHECK_OK(tl_pass_create(m, a, r.batch, &o, &r.pass));
  for (int i = 0; r.pass && i < tl_pass_n_micro(r.pass); i++) {
    CHECK_OK(tl_pass_forward(r.pass, i, r.logprobs, r.entropy));
    if (a)
      CHECK_OK(tl_pass_backward(r.pass, i, r.c, with_entropy ? r.e : NULL));
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

// the largest difference seen in a case, of its own kind of value
static double worst_forward, worst_gradient;

static void note(const char *what, const char *name, double d, double tolerance) {
  double *worst = tolerance == forward_tolerance ? &worst_forward : &worst_gradient;
  if (!(d <= *worst))
    *worst = d;
  CHECK(d <= tolerance, "%s: %s differs by %.2e of its largest value", what, name, d);
}

static void compare(const char *what, const float *have, const tl_st_tensor *want, double tolerance) {
  if (!want)
    return;
  float *w = floats(want);
  note(what, want->name, test_max_rel(have, w, (size_t)want->n), tolerance);
  free(w);
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
  note(what, "logprobs", test_max_rel(r->logprobs, w, n), forward_tolerance);
  free(w);
}

// logprobs of every sequence, logits of the first and, where they are, of one that transformers had padded on the left
static void compare_forward(const char *what, tl_model *m, const tl_safetensors *base) {
  for (int i = 0; i < n_sequences; i++) {
    const tl_st_tensor *ids = need(base, "ids.%d", i);
    char name[32];
    int32_t all[64];
    float logprobs[64];
    memcpy(all, ids->data, ids->bytes);
    CHECK_OK(tl_logprobs(m, NULL, all, (int)ids->n, 1, logprobs));
    compare(what, logprobs, need(base, "logprobs.%d", i), forward_tolerance);
    snprintf(name, sizeof name, "%s.%d", i ? "left" : "logits", i);
    const tl_st_tensor *want = tl_safetensors_find(base, name);
    if (!want)
      continue;
    float *logits = malloc(want->bytes);
    CHECK_OK(tl_logits(m, NULL, all, (int)ids->n, logits));
    compare(what, logits, want, forward_tolerance);
    free(logits);
  }
}

static int64_t full_offset(const tl_adapter *a, const tl_part *p) {
  int module = p->layer * TL_N_KINDS + p->kind;
  switch (p->role) {
  case TL_PART_EMBED:
    return a->off_embed;
  case TL_PART_HEAD:
    return a->off_head;
  case TL_PART_WEIGHT:
    return a->full_off_w[module];
  case TL_PART_BIAS:
    return a->full_off_b[module];
  default:
    return a->off_norms + tl_norm_part_offset(&a->model->cfg, p);
  }
}

// gradients of the weights with everything trained: of all that the file has, at least those that every file has
static void compare_full(const char *what, tl_model *m, const tl_safetensors *base) {
  tl_adapter_options o = {.kind = TL_FULL, .storage = TL_F32, .train_embeddings = true};
  tl_adapter *a = NULL;
  CHECK_OK(tl_adapter_create(m, &o, &a));
  if (!a)
    return;
  run r = run_all(m, a, base, true);
  tl_part *parts;
  int n, compared = 0, given = 0;
  CHECK_OK(tl_parts_list(&m->cfg, &parts, &n));
  for (int i = 0; i < n; i++) {
    char name[160] = "grad.";
    tl_part_name(name + 5, sizeof name - 5, &parts[i]);
    const tl_st_tensor *want = tl_safetensors_find(base, name);
    if (want)
      compare(what, tl_adapter_gradient(a) + full_offset(a, &parts[i]), want, gradient_tolerance), compared++;
  }
  for (size_t i = 0; i < base->n; i++)
    given += strncmp(base->tensors[i].name, "grad.", 5) == 0;
  CHECK(compared == given && given >= 4, "%s: %d gradients compared of %d", what, compared, given);
  free(parts);
  run_free(&r);
  tl_adapter_free(a);
}

// an adapter that PEFT wrote: logprobs and gradients
static void compare_adapter(const char *what, tl_model *m, const tl_safetensors *base, const char *dir) {
  tl_safetensors want;
  char path[1100];
  snprintf(path, sizeof path, "%s/reference.safetensors", dir);
  CHECK_OK(tl_safetensors_open(&want, path));
  tl_adapter *a = NULL;
  CHECK_OK(tl_adapter_load(m, dir, &a));
  if (!a)
    return;
  run r = run_all(m, a, base, false);
  compare_logprobs(what, &r, base, &want);
  float *g = tl_adapter_gradient(a);
  if (a->kind == TL_TINYLORA)
    for (int i = 0; i < a->n_groups; i++)
      compare(what, g + (size_t)i * a->u, need(&want, "grad.base_model.tinylora_v.%d", i), gradient_tolerance);
  for (int i = 0; a->kind == TL_LORA && i < a->n_modules; i++) {
    char module[128];
    tl_module_name(module, sizeof module, a->modules[i].module);
    compare(what, g + a->modules[i].off, need(&want, "grad.base_model.model.%s.lora_A.weight", module), gradient_tolerance);
    compare(what, g + a->modules[i].off_b, need(&want, "grad.base_model.model.%s.lora_B.weight", module), gradient_tolerance);
  }
  run_free(&r);
  tl_adapter_free(a);
  tl_safetensors_close(&want);
}
#endif

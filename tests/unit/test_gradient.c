// test_gradient.c: the whole model's backward against central finite differences of its own forward, fp32 compute: v, R, A, B
// and full weights (norms, embedding, head, biases included). Would catch a wrong or missing term in any backward op's use,
// a gradient that misses the shared prompt, a tied head counted once.
//
// Step and tolerance: the loss is a sum of some 30 logprobs in fp32 (error about 1e-6 of its size); with a step h of 2e-2 times
// the parameter's scale the truncation error is about h^2; a relative 1e-2 of the largest entry covers both, and a wrong term
// shows as 10% or more. The conformance suite checks each op's own gradient in double to 1e-4.
#include "tiny.h"

enum { N_PROMPT = 7, N_NEW = 9 };

static tl_batch *small_batch(void) {
  tl_batch *b = NULL;
  CHECK_OK(tl_batch_create(&b));
  for (int p = 0; p < 2; p++) {
    int32_t ids[16];
    int at;
    tiny_ids(ids, N_PROMPT + p, (uint64_t)(200 + p));
    CHECK_OK(tl_batch_prompt(b, ids, N_PROMPT + p, &at));
    for (int i = 0; i < 2; i++) {
      tiny_ids(ids, N_NEW - i, (uint64_t)(300 + 2 * p + i));
      CHECK_OK(tl_batch_completion(b, at, ids, N_NEW - i, NULL));
    }
  }
  return b;
}

// sum_t w_t logprob_t + 0.1 sum_t entropy_t, and its gradient when asked for
static double loss(tl_model *m, tl_adapter *a, tl_batch *b, bool grad) {
  tl_pass_options o = {.backward = grad, .want_entropy = true};
  tl_pass *p = NULL;
  CHECK_OK(tl_pass_create(m, a, b, &o, &p));
  if (!p) return 0;
  float lp[64], ent[64], d[64], de[64];
  int n = (int)tl_batch_n_tokens(b);
  for (int i = 0; i < n; i++) d[i] = tl_uniform(9, 9, (uint64_t)i) - 0.3f, de[i] = 0.1f;
  double sum = 0;
  for (int i = 0; i < tl_pass_n_micro(p); i++) {
    CHECK_OK(tl_pass_forward(p, i, lp, ent));
    if (grad) CHECK_OK(tl_pass_backward(p, i, d, de));
  }
  for (int i = 0; i < n; i++) sum += (double)d[i] * lp[i] + 0.1 * ent[i];
  tl_pass_free(p);
  return sum;
}

static void check_kind(tl_adapter_kind kind, const char *family, float size, float step) {
  tl_model *m = tiny_model(family, TL_F32);
  tl_adapter *a = m ? tiny_adapter(m, kind, 2, size) : NULL;
  if (!a) return;
  tl_batch *b = small_batch();
  tl_adapter_zero_gradient(a);
  loss(m, a, b, true);
  int64_t n = tl_adapter_n_parameters(a);
  const float *g = tl_adapter_gradient(a);
  float *p = tl_adapter_parameters(a);
  double largest = 0, worst = 0;
  for (int64_t i = 0; i < n; i++)
    if (fabs(g[i]) > largest) largest = fabs(g[i]);
  int64_t tries = n < 60 ? n : 60, at = 0;
  for (int64_t k = 0; k < tries; k++) {
    int64_t i = n <= 60 ? k : (int64_t)((double)tl_uniform(21, 2, (uint64_t)k) * (double)n);
    float keep = p[i];
    p[i] = keep + step;
    CHECK_OK(tl_adapter_refresh(a));
    double up = loss(m, a, b, false);
    p[i] = keep - step;
    CHECK_OK(tl_adapter_refresh(a));
    double down = loss(m, a, b, false);
    p[i] = keep;
    double e = fabs((up - down) / (2.0 * step) - g[i]);
    if (e > worst) worst = e, at = i;
  }
  CHECK_OK(tl_adapter_refresh(a));
  CHECK(largest > 1e-3, "the gradient is %g: nothing is tested", largest);
  CHECK(worst <= 1e-2 * largest, "number %lld of %lld is off by %g, the largest entry is %g", (long long)at, (long long)n, worst, largest);
  tl_batch_free(b);
  tl_adapter_free(a);
  tl_model_free(m);
}

static void gradient_of_v(void) { check_kind(TL_TINYLORA, "llama", 1.0f, 2e-2f); }
static void gradient_of_v_qwen2(void) { check_kind(TL_TINYLORA, "qwen2", 1.0f, 2e-2f); }
static void gradient_of_R(void) { check_kind(TL_LORA_XS, "llama", 1.0f, 2e-2f); }
static void gradient_of_A_and_B(void) { check_kind(TL_LORA, "qwen2", 0.1f, 5e-3f); }
static void gradient_of_all_weights_tied(void) { check_kind(TL_FULL, "llama", 0.05f, 5e-3f); }
static void gradient_of_all_weights_untied(void) { check_kind(TL_FULL, "qwen2", 0.05f, 5e-3f); }
static void gradient_of_all_weights_qk_norm(void) { check_kind(TL_FULL, "qwen3", 0.05f, 5e-3f); }
static void gradient_of_R_qk_norm(void) { check_kind(TL_LORA_XS, "qwen3", 1.0f, 2e-2f); }
static void gradient_of_v_window(void) { check_kind(TL_TINYLORA, "mistral", 1.0f, 2e-2f); }

int main(void) {
  RUN(gradient_of_v);
  RUN(gradient_of_v_qwen2);
  RUN(gradient_of_R);
  RUN(gradient_of_A_and_B);
  RUN(gradient_of_all_weights_tied);
  RUN(gradient_of_all_weights_untied);
  RUN(gradient_of_all_weights_qk_norm);
  RUN(gradient_of_R_qk_norm);
  RUN(gradient_of_v_window);
  return test_done();
}

// test_invariance.c: the sampler's logprobs are the trainer's, bit for bit, whatever the batch and the number of threads; a
// completion's tokens do not depend on what is sampled beside it; gradients do not depend on the cut into micro-batches nor on
// recomputation; v = 0 changes nothing. Would catch: a kernel that handles leftover rows differently, a reduction split by
// threads, a cache row written in another precision than the trainer's, a draw that depends on the batch. Training from what the
// sampler kept gives the same logprobs and gradients as training with a forward pass, to the bit, however many layers are kept;
// it is not used where it is not the adapter's state any more.
#include "tiny.h"

enum { NEW = 12, PROMPTS = 9 };
static const int prompt_length[PROMPTS] = {5, 17, 33, 1, 8, 21, 16, 75, 3};  // 75: keys in more than one block of 64

typedef struct {
  int n;
  int32_t ids[NEW];
  float logprobs[NEW];
} kept;

// Samples `group` completions of every prompt with room for `width` at once; out[prompt * group + i].
static void sample_keeping(tl_model *m, tl_adapter *a, int group, int width, int prefill, tl_kept *keep, kept *out) {
  tl_sampler_options o = {.max_sequences = width, .prefill_tokens = prefill, .kept = keep};
  tl_sampler *s = NULL;
  CHECK_OK(tl_sampler_create(m, a, NULL, &o, &s));
  if (!s) return;
  int64_t request[PROMPTS];
  for (int i = 0; i < PROMPTS; i++) {
    int32_t ids[80];
    tiny_ids(ids, prompt_length[i], (uint64_t)i);
    tl_sampling p = {.temperature = 0.9f, .top_p = 1, .max_new_tokens = NEW - i % 3, .seed = 4};
    CHECK_OK(tl_sampler_submit(s, ids, prompt_length[i], group, (uint64_t)(100 * i), &p, &request[i]));
  }
  int pending = 1, n = 0;
  while (pending) {
    tl_status st = tl_sampler_run(s, 1 << 20, &pending);
    CHECK(st == TL_OK, "%s", tl_last_error());
    if (st != TL_OK) break;
    for (tl_completion c; tl_sampler_pop(s, &c); n++)
      for (int i = 0; i < PROMPTS; i++)
        if (request[i] == c.request) {
          kept *k = &out[i * group + c.index];
          k->n = c.n_tokens;
          memcpy(k->ids, c.ids, sizeof *c.ids * (size_t)c.n_tokens);
          memcpy(k->logprobs, c.logprobs, sizeof *c.logprobs * (size_t)c.n_tokens);
        }
  }
  CHECK(n == PROMPTS * group, "%d completions of %d", n, PROMPTS * group);
  tl_sampler_free(s);
}

static void sample_all(tl_model *m, tl_adapter *a, int group, int width, int prefill, kept *out) {
  sample_keeping(m, a, group, width, prefill, NULL, out);
}

static tl_batch *batch_of(const kept *k, int group) {
  tl_batch *b = NULL;
  CHECK_OK(tl_batch_create(&b));
  for (int i = 0; i < PROMPTS; i++) {
    int32_t ids[80];
    int at;
    tiny_ids(ids, prompt_length[i], (uint64_t)i);
    CHECK_OK(tl_batch_prompt(b, ids, prompt_length[i], &at));
    for (int j = 0; j < group; j++) {
      int c;
      CHECK_OK(tl_batch_completion(b, at, k[i * group + j].ids, k[i * group + j].n, &c));
      CHECK_OK(tl_batch_sampled(b, c, (uint64_t)(100 * i + j)));
    }
  }
  return b;
}

// logprobs of the whole batch by the trainer's forward, and the adapter's gradient of sum(w_t logprob_t) when grad is given
// kept: what the sampler left, or NULL; returns the first layer that came from there
static int train_from(tl_model *m, tl_adapter *a, tl_batch *b, int64_t memory, tl_kept *keep, float *lp, float *grad, bool *recomputes) {
  tl_pass_options o = {.temperature = 0.9f, .memory_bytes = memory, .backward = grad != NULL, .kept = keep};
  tl_pass *p = NULL;
  CHECK_OK(tl_pass_create(m, a, b, &o, &p));
  if (!p) return -1;
  int first = tl_pass_first_kept(p);
  int64_t n = tl_batch_n_tokens(b);
  float *d = malloc(sizeof(float) * (size_t)n);
  for (int64_t i = 0; i < n; i++) d[i] = tl_uniform(8, 8, (uint64_t)i) - 0.4f;
  if (grad) tl_adapter_zero_gradient(a);
  for (int i = 0; i < tl_pass_n_micro(p); i++) {
    CHECK_OK(tl_pass_forward(p, i, lp, NULL));
    if (grad) CHECK_OK(tl_pass_backward(p, i, d, NULL));
  }
  if (recomputes) *recomputes = tl_pass_recomputes(p);
  if (grad) memcpy(grad, tl_adapter_gradient(a), sizeof(float) * (size_t)tl_adapter_n_parameters(a));
  free(d);
  tl_pass_free(p);
  return first;
}

static void train_pass(tl_model *m, tl_adapter *a, tl_batch *b, int64_t memory, float *lp, float *grad, bool *recomputes) {
  train_from(m, a, b, memory, NULL, lp, grad, recomputes);
}

static void sampler_equals_trainer(tl_dtype compute, const char *family) {
  enum { GROUP = 7 };
  tl_model *m = tiny_model(family, compute);
  tl_adapter *a = m ? tiny_adapter(m, TL_TINYLORA, 3, 0.3f) : NULL;
  if (!a) return;
  static kept first[PROMPTS * GROUP], other[PROMPTS * GROUP];
  tl_set_threads(2);
  sample_all(m, a, GROUP, 64, 512, first);
  const int widths[] = {1, 7, 64}, threads[] = {1, 2};
  for (int w = 0; w < 3; w++)
    for (int t = 0; t < 2; t++) {
      tl_set_threads(threads[t]);
      memset(other, 0, sizeof other);
      sample_all(m, a, GROUP, widths[w], w == 1 ? 13 : 512, other);
      for (int i = 0; i < PROMPTS * GROUP; i++)
        CHECK(other[i].n == first[i].n && !memcmp(other[i].ids, first[i].ids, sizeof(int32_t) * (size_t)first[i].n) &&
                  !memcmp(other[i].logprobs, first[i].logprobs, sizeof(float) * (size_t)first[i].n),
              "completion %d at %d sequences, %d threads", i, widths[w], threads[t]);
      tl_batch *b = batch_of(first, GROUP);
      float lp[PROMPTS * GROUP * NEW];
      train_pass(m, a, b, 0, lp, NULL, NULL);
      for (int i = 0; i < PROMPTS * GROUP; i++)
        CHECK(!memcmp(lp + tl_batch_offset(b, i), first[i].logprobs, sizeof(float) * (size_t)first[i].n),
              "trainer's logprobs of completion %d differ, %d threads: %.9g and %.9g", i, threads[t],
              lp[tl_batch_offset(b, i)], first[i].logprobs[0]);
      tl_batch_free(b);
    }
  tl_set_threads(0);
  tl_adapter_free(a);
  tl_model_free(m);
}

static void sampler_equals_trainer_f32(void) { sampler_equals_trainer(TL_F32, "llama"); }
static void sampler_equals_trainer_bf16(void) { sampler_equals_trainer(TL_BF16, "llama"); }
static void sampler_equals_trainer_f16(void) { sampler_equals_trainer(TL_F16, "qwen3"); }
static void sampler_equals_trainer_qwen2(void) { sampler_equals_trainer(TL_BF16, "qwen2"); }
static void sampler_equals_trainer_smollm3(void) { sampler_equals_trainer(TL_BF16, "smollm3"); }
static void sampler_equals_trainer_qwen3(void) { sampler_equals_trainer(TL_BF16, "qwen3"); }
static void sampler_equals_trainer_qwen3_f32(void) { sampler_equals_trainer(TL_F32, "qwen3"); }
static void sampler_equals_trainer_mistral(void) { sampler_equals_trainer(TL_BF16, "mistral"); }
static void sampler_equals_trainer_mistral_f32(void) { sampler_equals_trainer(TL_F32, "mistral"); }

static void gradient_does_not_depend_on_the_cut(tl_dtype compute, const char *family) {
  enum { GROUP = 3 };
  tl_model *m = tiny_model(family, compute);
  tl_adapter *a = m ? tiny_adapter(m, TL_TINYLORA, 3, 0.3f) : NULL;
  if (!a) return;
  static kept k[PROMPTS * GROUP];
  sample_all(m, a, GROUP, 64, 512, k);
  tl_batch *b = batch_of(k, GROUP);
  float lp[PROMPTS * GROUP * NEW], lp2[PROMPTS * GROUP * NEW], whole[64], part[64];
  bool recomputes = false;
  size_t n = (size_t)tl_adapter_n_parameters(a), bytes = sizeof(float) * (size_t)tl_batch_n_tokens(b);
  train_pass(m, a, b, 0, lp, whole, &recomputes);
  CHECK(!recomputes, "a small batch should keep its activations");
  int64_t budgets[] = {900 << 10, 600 << 10};  // the largest prompt with its completions still fits: it stays one unit
  bool seen = false;
  for (int i = 0; i < 2; i++)
    for (int t = 1; t <= 2; t++) {
      tl_set_threads(t);
      train_pass(m, a, b, budgets[i], lp2, part, &recomputes);
      seen = seen || recomputes;
      CHECK(!memcmp(lp, lp2, bytes), "logprobs at budget %d", i);
      CHECK(!memcmp(whole, part, sizeof(float) * n), "gradient at budget %d, %d threads: %g and %g", i, t, whole[0], part[0]);
    }
  CHECK(seen, "no budget led to recomputation: the test does not test it");
  tl_set_threads(0);
  tl_batch_free(b);
  tl_adapter_free(a);
  tl_model_free(m);
}
static void gradient_cut_f32(void) { gradient_does_not_depend_on_the_cut(TL_F32, "llama"); }
static void gradient_cut_bf16(void) { gradient_does_not_depend_on_the_cut(TL_BF16, "llama"); }
static void gradient_cut_f16(void) { gradient_does_not_depend_on_the_cut(TL_F16, "llama"); }
static void gradient_cut_qwen3(void) { gradient_does_not_depend_on_the_cut(TL_BF16, "qwen3"); }
static void gradient_cut_mistral(void) { gradient_does_not_depend_on_the_cut(TL_BF16, "mistral"); }

static int layers_of(const tl_model *m) {
  tl_model_info info;
  tl_model_get_info(m, &info);
  return info.n_layers;
}

enum { KEPT_GROUP = 3, MOST_GRADIENT = 1 << 16 };

// one budget of what is kept: sampled, then trained from it at two budgets of the pass
static int train_from_kept(tl_model *m, tl_adapter *a, int64_t budget, const float *lp, const float *grad, const kept *want) {
  static kept k[PROMPTS * KEPT_GROUP];
  static float lp2[PROMPTS * KEPT_GROUP * NEW], grad2[MOST_GRADIENT];
  tl_kept *keep = NULL;
  int first = -1;
  CHECK_OK(tl_kept_create(budget, &keep));
  sample_keeping(m, a, KEPT_GROUP, 7, 13, keep, k);
  tl_batch *b = batch_of(k, KEPT_GROUP);
  CHECK(!memcmp(k, want, sizeof k), "keeping changes what is sampled");
  const int64_t memory[] = {0, 450 << 10};
  bool by_unit = tl_adapter_get_kind(a) == TL_TINYLORA || tl_adapter_get_kind(a) == TL_LORA_XS;  // gradients do not depend on the cut
  for (int i = 0; i < (by_unit ? 2 : 1); i++) {
    memset(lp2, 0, sizeof lp2);
    first = train_from(m, a, b, memory[i], keep, lp2, grad2, NULL);
    CHECK(!memcmp(lp, lp2, sizeof(float) * (size_t)tl_batch_n_tokens(b)), "logprobs, layers kept from %d, budget %d", first, i);
    CHECK(!memcmp(grad, grad2, sizeof(float) * (size_t)tl_adapter_n_parameters(a)), "gradient, layers kept from %d, budget %d: %g, %g",
          first, i, grad2[0], grad[0]);
  }
  CHECK_OK(tl_adapter_refresh(a));  // the same numbers, but the pass cannot know that
  CHECK(train_from(m, a, b, 0, keep, lp2, grad2, NULL) == layers_of(m), "kept activations of another state were used");
  tl_batch_free(b);
  tl_kept_free(keep);
  return first;
}

static void from_what_was_kept(tl_model *m, tl_adapter *a) {
  if (!a) return;
  static kept k[PROMPTS * KEPT_GROUP];
  static float lp[PROMPTS * KEPT_GROUP * NEW], grad[MOST_GRADIENT];
  CHECK(tl_adapter_n_parameters(a) <= MOST_GRADIENT, "too many");
  sample_all(m, a, KEPT_GROUP, 64, 512, k);
  tl_batch *b = batch_of(k, KEPT_GROUP);
  train_pass(m, a, b, 0, lp, grad, NULL);
  tl_batch_free(b);
  int n = 0, firsts[8], layers = layers_of(m);
  for (int64_t budget = 16 << 10; budget <= 16 << 20; budget *= 2) {  // none, some, all
    int first = train_from_kept(m, a, budget, lp, grad, k);
    if (!n || firsts[n - 1] != first) firsts[n++] = first;
    if (first == 0) break;
  }
  CHECK(n >= 2 && firsts[0] == layers && firsts[n - 1] == 0, "budgets kept %d .. %d of %d layers", firsts[0], firsts[n - 1], layers);
  tl_adapter_free(a);
  tl_model_free(m);
}
static void training_from_what_was_kept(const char *family, tl_adapter_kind kind) {
  tl_model *m = tiny_model(family, TL_BF16);
  from_what_was_kept(m, m ? tiny_adapter(m, kind, 3, 0.3f) : NULL);
}
// a LoRA of ranks 1, 2 and 3, without the o projections
static void kept_ranks(void) {
  tl_model *m = tiny_model("llama", TL_BF16);
  int32_t modules[21], groups[21], ranks[21], n = 0;
  for (int i = 0; i < 21; i++)
    if (i % TL_N_KINDS != TL_O) modules[n] = i, groups[n] = n, ranks[n] = 1 + n % 3, n++;
  tl_adapter_options o = {.kind = TL_LORA, .modules = modules, .groups = groups, .n_modules = n, .rank = 3, .ranks = ranks, .alpha = 2,
                          .storage = TL_F32, .seed = 5};
  tl_adapter *a = NULL;
  if (m) CHECK_OK(tl_adapter_create(m, &o, &a));
  for (int64_t i = 0; a && i < tl_adapter_n_parameters(a); i++) tl_adapter_parameters(a)[i] += 0.2f * tl_uniform(77, 1, (uint64_t)i) - 0.1f;
  if (a) CHECK_OK(tl_adapter_refresh(a));
  from_what_was_kept(m, a);
}
static void kept_f16(void) {
  tl_model *m = tiny_model("mistral", TL_F16);
  from_what_was_kept(m, m ? tiny_adapter(m, TL_LORA_XS, 3, 0.3f) : NULL);
}
static void kept_tinylora(void) { training_from_what_was_kept("llama", TL_TINYLORA); }
static void kept_lora(void) { training_from_what_was_kept("qwen2", TL_LORA); }
static void kept_full(void) { training_from_what_was_kept("llama", TL_FULL); }
static void kept_qk_norm(void) { training_from_what_was_kept("qwen3", TL_LORA_XS); }

static void zero_adapter_changes_nothing(void) {
  for (int kind = TL_TINYLORA; kind <= TL_LORA; kind++)
    for (int compute = TL_F32; compute <= TL_F16; compute++) {
      tl_model *m = tiny_model("llama", (tl_dtype)compute);
      tl_adapter *a = m ? tiny_adapter(m, (tl_adapter_kind)kind, 2, 0) : NULL;
      if (!a) return;
      int32_t ids[20];
      float with[20 * 131], without[20 * 131];
      tiny_ids(ids, 20, 50);
      CHECK_OK(tl_logits(m, a, ids, 20, with));
      CHECK_OK(tl_logits(m, NULL, ids, 20, without));
      CHECK(!memcmp(with, without, sizeof with), "kind %d compute %d", kind, compute);
      tl_adapter_free(a);
      tl_model_free(m);
    }
}

// A long prompt with a short completion, and a short prompt with many tokens to predict, in micro-batches of their own: the memory is
// planned for the larger of the two, not for the rows of one with the tokens of the other.
static tl_batch *long_and_many(const int32_t *ids, bool rows, bool tokens) {
  tl_batch *b = NULL;
  int at, c;
  CHECK_OK(tl_batch_create(&b));
  if (rows) {
    CHECK_OK(tl_batch_prompt(b, ids, 900, &at));
    CHECK_OK(tl_batch_completion(b, at, ids, 2, &c));
  }
  if (tokens) {
    CHECK_OK(tl_batch_prompt(b, ids, 1, &at));
    for (int i = 0; i < 10; i++) CHECK_OK(tl_batch_completion(b, at, ids + i, 60, &c));
  }
  return b;
}

static void micro_batches_of_unlike_shapes(void) {
  tl_model *m = tiny_model("llama", TL_BF16);
  tl_adapter *a = m ? tiny_adapter(m, TL_TINYLORA, 3, 0.3f) : NULL;
  if (!a) return;
  int32_t ids[900];
  tiny_ids(ids, 900, 2);
  int64_t most = 0;
  float lp[602], alone[602], grad[64];
  for (int i = 0; i < 2; i++) {
    tl_batch *b = long_and_many(ids, i == 0, i == 1);
    tl_pass_options o = {.temperature = 0.9f, .memory_bytes = (int64_t)1 << 30, .backward = true};
    tl_pass *p = NULL;
    CHECK_OK(tl_pass_create(m, a, b, &o, &p));
    if (tl_pass_planned_bytes(p) > most) most = tl_pass_planned_bytes(p);
    tl_pass_free(p);
    train_pass(m, a, b, (int64_t)1 << 30, i ? alone + 2 : alone, grad, NULL);
    tl_batch_free(b);
  }
  tl_batch *b = long_and_many(ids, true, true);
  tl_pass_options o = {.temperature = 0.9f, .memory_bytes = most, .backward = true};
  tl_pass *p = NULL;
  CHECK_OK(tl_pass_create(m, a, b, &o, &p));
  CHECK(tl_pass_n_micro(p) == 2 && tl_pass_planned_bytes(p) <= most, "%d micro-batches, %lld bytes of %lld", tl_pass_n_micro(p),
        (long long)tl_pass_planned_bytes(p), (long long)most);
  tl_pass_free(p);
  train_pass(m, a, b, most, lp, grad, NULL);
  CHECK(!memcmp(lp, alone, sizeof lp), "logprobs differ from those of the two alone");
  tl_batch_free(b);
  tl_adapter_free(a);
  tl_model_free(m);
}

static void budget_too_small_is_said(void) {
  tl_model *m = tiny_model("llama", TL_F32);
  tl_batch *b = NULL;
  int32_t ids[300];
  tiny_ids(ids, 300, 1);
  CHECK_OK(tl_batch_create(&b));
  CHECK_OK(tl_batch_prompt(b, ids, 200, NULL));
  CHECK_OK(tl_batch_completion(b, 0, ids, 100, NULL));
  tl_pass *p = NULL;
  tl_pass_options o = {.memory_bytes = 1000};
  CHECK(tl_pass_create(m, NULL, b, &o, &p) == TL_E_MEMORY && strstr(tl_last_error(), "the budget is"), "%s", tl_last_error());
  tl_sampler *s = NULL;
  tl_sampler_options so = {.memory_bytes = 1000};
  tl_sampling sp = {.top_p = 1, .max_new_tokens = 9};
  CHECK_OK(tl_sampler_create(m, NULL, NULL, &so, &s));
  CHECK(tl_sampler_submit(s, ids, 200, 1, 0, &sp, NULL) == TL_E_MEMORY, "a cache of 1000 bytes took 209 tokens");
  ids[3] = 131;
  CHECK(tl_sampler_submit(s, ids, 5, 1, 0, &sp, NULL) == TL_E_ARG, "a token outside the vocabulary was taken");
  tl_sampler_free(s);
  tl_batch_free(b);
  tl_model_free(m);
}

int main(void) {
  RUN(sampler_equals_trainer_f32);
  RUN(sampler_equals_trainer_bf16);
  RUN(sampler_equals_trainer_f16);
  RUN(sampler_equals_trainer_qwen2);
  RUN(sampler_equals_trainer_smollm3);
  RUN(sampler_equals_trainer_qwen3);
  RUN(sampler_equals_trainer_qwen3_f32);
  RUN(sampler_equals_trainer_mistral);
  RUN(sampler_equals_trainer_mistral_f32);
  RUN(gradient_cut_f32);
  RUN(gradient_cut_bf16);
  RUN(gradient_cut_f16);
  RUN(gradient_cut_qwen3);
  RUN(gradient_cut_mistral);
  RUN(kept_tinylora);
  RUN(kept_lora);
  RUN(kept_f16);
  RUN(kept_full);
  RUN(kept_qk_norm);
  RUN(kept_ranks);
  RUN(zero_adapter_changes_nothing);
  RUN(micro_batches_of_unlike_shapes);
  RUN(budget_too_small_is_said);
  return test_done();
}

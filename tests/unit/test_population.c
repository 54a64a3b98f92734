// test_population.c: members of a population sample, score and learn to the bit what each does alone, whatever stands beside
// them in the batch, from what was kept too and however the pass is cut; the base's rows are the base's; a changed member
// counts at once. Would catch: a row that takes its neighbour's R, a unit's gradient added to another member or in another
// order, sequence ids of two members taken for one in what the sampler kept, a table of R that is older than its members.
#include "tiny.h"

enum { MEMBERS = 4, PROMPTS = 3, GROUP = 3, NEW = 9, ALL = (MEMBERS + 1) * PROMPTS * GROUP, MOST = 256 };
static const int prompt_length[PROMPTS] = {5, 19, 70};

typedef struct {
  int n;
  int32_t ids[NEW];
  float logprobs[NEW];
} drawn;

// Four that differ in kind, u, seed, tying, dtype and numbers; 1 and 3 use the A and B of 0, 2 has its own.
static tl_adapter *member(tl_model *m, int k, tl_adapter *first) {
  static const int groups_of[MEMBERS] = {3, 1, 1, 21};
  tl_model_info info;
  tl_model_get_info(m, &info);
  int32_t modules[64], groups[64];
  for (int i = 0; i < info.n_modules; i++)
    modules[i] = i, groups[i] = i % groups_of[k];
  tl_adapter_options o = {.kind = k == 2 ? TL_LORA_XS : TL_TINYLORA,
                          .modules = modules,
                          .groups = groups,
                          .n_modules = info.n_modules,
                          .rank = 2,
                          .u = 5 - k,
                          .alpha = 2,
                          .storage = k == 1 ? TL_BF16 : TL_F32,
                          .seed = (uint64_t)(5 + k),
                          .basis_of = k % 2 ? first : NULL};
  tl_adapter *a = NULL;
  CHECK_OK(tl_adapter_create(m, &o, &a));
  if (!a)
    return NULL;
  float *p = tl_adapter_parameters(a);
  for (int64_t i = 0; i < tl_adapter_n_parameters(a); i++)
    p[i] += 0.3f * (2 * tl_uniform(77, (uint64_t)k, (uint64_t)i) - 1);
  CHECK_OK(tl_adapter_refresh(a));
  return a;
}

// Members that are alone, or all of them and the base (member -1, at place MEMBERS) when pop is given; out[place * PROMPTS *
// GROUP + ...]. Ids are each member's own, so two members have the same.
static void sample(tl_model *m, tl_adapter *a, int place, tl_population *pop, int width, tl_kept *keep, drawn *out) {
  tl_sampler_options o = {.max_sequences = width, .prefill_tokens = 32, .kept = keep, .population = pop};
  tl_sampler *s = NULL;
  CHECK_OK(tl_sampler_create(m, a, NULL, &o, &s));
  if (!s)
    return;
  int64_t request[(MEMBERS + 1) * PROMPTS];
  int at[(MEMBERS + 1) * PROMPTS], n = 0, pending = 1;
  for (int i = 0; i < PROMPTS; i++)
    for (int k = pop ? 0 : place; k <= (pop ? MEMBERS : place); k++, n++) {
      int32_t ids[80];
      tiny_ids(ids, prompt_length[i], (uint64_t)i);
      tl_sampling p = {.temperature = 0.9f,
                       .top_p = 1,
                       .max_new_tokens = NEW - i,
                       .seed = (uint64_t)(4 + k),
                       .member = !pop          ? 0
                                 : k < MEMBERS ? k
                                               : -1};
      CHECK_OK(tl_sampler_submit(s, ids, prompt_length[i], GROUP, (uint64_t)(10 * i), &p, &request[n]));
      at[n] = (k * PROMPTS + i) * GROUP;
    }
  while (pending && tl_sampler_run(s, 1 << 20, &pending) == TL_OK)
    for (tl_completion c; tl_sampler_pop(s, &c);)
      for (int i = 0; i < n; i++)
        if (request[i] == c.request) {
          drawn *d = &out[at[i] + c.index];
          d->n = c.n_tokens;
          memcpy(d->ids, c.ids, sizeof *c.ids * (size_t)c.n_tokens);
          memcpy(d->logprobs, c.logprobs, sizeof *c.logprobs * (size_t)c.n_tokens);
        }
  CHECK(!pending, "%s", tl_last_error());
  tl_sampler_free(s);
}

// the prompts of one member, or of all, prompt by prompt: then a member's units are not neighbours
static tl_batch *batch_of(const drawn *d, int place, bool all) {
  tl_batch *b = NULL;
  CHECK_OK(tl_batch_create(&b));
  for (int i = 0; i < PROMPTS; i++)
    for (int k = all ? 0 : place; k <= (all ? MEMBERS - 1 : place); k++) {
      int32_t ids[80];
      int at, c;
      tiny_ids(ids, prompt_length[i], (uint64_t)i);
      if (all)
        tl_batch_member(b, k);
      CHECK_OK(tl_batch_prompt(b, ids, prompt_length[i], &at));
      for (int j = 0; j < GROUP; j++) {
        const drawn *q = &d[(k * PROMPTS + i) * GROUP + j];
        CHECK_OK(tl_batch_completion(b, at, q->ids, q->n, &c));
        CHECK_OK(tl_batch_sampled(b, c, (uint64_t)(10 * i + j)));
      }
    }
  return b;
}

// logprobs, and the gradient of sum(w logprob) with w a function of the token's logprob: the same for a member alone and in
// company
static int train(tl_model *m, tl_adapter *a, tl_population *pop, tl_batch *b, int64_t memory, tl_kept *keep, float *lp) {
  tl_pass_options o = {.temperature = 0.9f, .memory_bytes = memory, .backward = true, .kept = keep, .population = pop};
  tl_pass *p = NULL;
  CHECK_OK(tl_pass_create(m, a, b, &o, &p));
  if (!p)
    return -1;
  int first = tl_pass_first_kept(p);
  float *d = calloc((size_t)tl_batch_n_tokens(b), sizeof *d);
  for (int i = 0; i < tl_pass_n_micro(p); i++) {
    CHECK_OK(tl_pass_forward(p, i, lp, NULL));
    int from, count;
    tl_pass_micro_range(p, i, &from, &count);
    for (int64_t t = tl_batch_offset(b, from); t < tl_batch_offset(b, from + count); t++)
      d[t] = lp[t] + 3;
    CHECK_OK(tl_pass_backward(p, i, d, NULL));
  }
  free(d);
  tl_pass_free(p);
  return first;
}

typedef struct {
  tl_model *m;
  tl_adapter *a[MEMBERS];
  tl_population *pop;
  drawn alone[ALL];
  float grad[MEMBERS][MOST];
} fixture;

static bool set_up(fixture *f, const char *family, tl_dtype compute) {
  memset(f, 0, sizeof *f);
  f->m = tiny_model(family, compute);
  for (int k = 0; f->m && k < MEMBERS; k++)
    f->a[k] = member(f->m, k, f->a[0]);
  if (!f->m || !f->a[MEMBERS - 1])
    return false;
  CHECK_OK(tl_population_create(f->a, MEMBERS, &f->pop));
  return f->pop != NULL;
}

static void tear_down(fixture *f) {
  tl_population_free(f->pop);
  for (int k = 0; k < MEMBERS; k++)
    tl_adapter_free(f->a[k]);
  tl_model_free(f->m);
}

static void alone(fixture *f) {
  float lp[PROMPTS * GROUP * NEW];
  for (int k = 0; k <= MEMBERS; k++)
    sample(f->m, k < MEMBERS ? f->a[k] : NULL, k, NULL, 5, NULL, f->alone);
  for (int k = 0; k < MEMBERS; k++) {
    tl_batch *b = batch_of(f->alone, k, false);
    tl_adapter_zero_gradient(f->a[k]);
    train(f->m, f->a[k], NULL, b, 0, NULL, lp);
    CHECK(tl_adapter_n_parameters(f->a[k]) <= MOST, "member %d has too many numbers", k);
    memcpy(f->grad[k], tl_adapter_gradient(f->a[k]), sizeof(float) * (size_t)tl_adapter_n_parameters(f->a[k]));
    tl_batch_free(b);
  }
}

static void same_gradients(fixture *f, const char *when) {
  for (int k = 0; k < MEMBERS; k++) {
    const float *g = tl_adapter_gradient(f->a[k]);
    size_t n = (size_t)tl_adapter_n_parameters(f->a[k]);
    CHECK(!memcmp(g, f->grad[k], sizeof(float) * n), "%s: gradient of member %d: %.9g alone, %.9g", when, k,
          (double)f->grad[k][0], (double)g[0]);
    CHECK(g[0] != 0, "member %d has no gradient: equal bits say nothing", k);
    tl_adapter_zero_gradient(f->a[k]);
  }
}

static void as_alone(const char *family, tl_dtype compute) {
  static fixture f;
  static drawn together[ALL];
  static float lp[ALL * NEW];
  if (!set_up(&f, family, compute))
    return;
  alone(&f);
  for (int k = 0; k < MEMBERS; k++)
    tl_adapter_zero_gradient(f.a[k]);
  const int64_t room[] = {1 << 10, 1 << 22}; // nothing kept, everything kept
  const int64_t memory[] = {0, 700 << 10};
  for (int i = 0; i < 2; i++) {
    tl_kept *keep = NULL;
    CHECK_OK(tl_kept_create(room[i], &keep));
    tl_set_threads(1 + i);
    memset(together, 0, sizeof together);
    sample(f.m, NULL, 0, f.pop, i ? 64 : 7, keep, together);
    CHECK(!memcmp(together, f.alone, sizeof together), "%s: completions of a population of %d differ from those alone", family,
          MEMBERS);
    CHECK(memcmp(together, together + PROMPTS * GROUP, sizeof(drawn) * PROMPTS * GROUP) != 0,
          "members 0 and 1 draw the same: nothing is tested");
    tl_batch *b = batch_of(together, 0, true);
    for (int j = 0; j < 2; j++) {
      int first = train(f.m, NULL, f.pop, b, memory[j], keep, lp);
      CHECK(i ? first == 0 : first > 0, "layers kept from %d", first);
      same_gradients(&f, i ? "from what was kept" : "with a forward pass");
    }
    tl_batch_free(b);
    tl_kept_free(keep);
  }
  tl_set_threads(0);
  tear_down(&f);
}
static void llama_bf16(void) {
  as_alone("llama", TL_BF16);
}
static void llama_f32(void) {
  as_alone("llama", TL_F32);
}
static void llama_f16(void) {
  as_alone("llama", TL_F16);
}
static void qwen3_bf16(void) {
  as_alone("qwen3", TL_BF16);
}

// One member changes between two runs: it samples as its new self, the others as before; what was kept of the old is not used.
static void a_changed_member(void) {
  static fixture f;
  static drawn before[ALL], after[ALL], changed[ALL];
  static float lp[ALL * NEW];
  if (!set_up(&f, "llama", TL_BF16))
    return;
  tl_kept *keep = NULL;
  CHECK_OK(tl_kept_create(1 << 22, &keep));
  sample(f.m, NULL, 0, f.pop, 64, keep, before);
  tl_adapter_parameters(f.a[1])[0] += 0.5f;
  CHECK_OK(tl_adapter_refresh(f.a[1]));
  tl_batch *b = batch_of(before, 0, true);
  CHECK(train(f.m, NULL, f.pop, b, 0, keep, lp) > 0, "kept activations of another state were used");
  sample(f.m, NULL, 0, f.pop, 64, NULL, after);
  sample(f.m, f.a[1], 1, NULL, 64, NULL, changed);
  const size_t one = PROMPTS * GROUP;
  CHECK(!memcmp(after + one, changed + one, one * sizeof *after) && memcmp(after + one, before + one, one * sizeof *after),
        "member 1 is not its new self");
  memcpy(after + one, before + one, one * sizeof *after);
  CHECK(!memcmp(after, before, sizeof after), "another member changed with it");
  tl_batch_free(b);
  tl_kept_free(keep);
  tear_down(&f);
}

// A clone has the numbers, and from then on its own; alike says which adapters it may be mixed with.
static void a_clone(void) {
  static fixture f;
  if (!set_up(&f, "llama", TL_BF16)) return;
  int32_t ids[20];
  static float a[20 * 131], b[20 * 131];
  tiny_ids(ids, 20, 50);
  for (int k = 0; k < MEMBERS; k++) {
    tl_adapter *c = NULL;
    CHECK_OK(tl_adapter_clone(f.a[k], &c));
    if (!c) continue;
    CHECK_OK(tl_adapter_alike(f.a[k], c));
    CHECK_OK(tl_logits(f.m, f.a[k], ids, 20, a));
    CHECK_OK(tl_logits(f.m, c, ids, 20, b));
    CHECK(!memcmp(a, b, sizeof a), "the clone of member %d computes something else", k);
    tl_adapter_parameters(c)[0] += 1;
    CHECK_OK(tl_adapter_refresh(c));
    CHECK_OK(tl_logits(f.m, f.a[k], ids, 20, b));
    CHECK(!memcmp(a, b, sizeof a), "a changed clone changed member %d", k);
    CHECK(tl_adapter_alike(f.a[k], f.a[(k + 1) % MEMBERS]) != TL_OK, "members %d and %d are alike", k, (k + 1) % MEMBERS);
    tl_adapter_free(c);
  }
  tl_adapter *lora = tiny_adapter(f.m, TL_LORA, 1, 0), *c = NULL;
  CHECK(tl_adapter_clone(lora, &c) == TL_E_ARG && strstr(tl_last_error(), "trains more than R"), "%s", tl_last_error());
  tl_adapter_free(lora);
  tear_down(&f);
}

static void refused(tl_adapter *first, tl_adapter *other, const char *why) {
  tl_population *p = NULL;
  CHECK(tl_population_create((tl_adapter *[]){first, other}, 2, &p) != TL_OK && strstr(tl_last_error(), why),
        "wanted \"%s\", got \"%s\"", why, tl_last_error());
}

static void what_cannot_be_a_member(void) {
  static fixture f;
  if (!set_up(&f, "llama", TL_BF16))
    return;
  tl_adapter *lora = tiny_adapter(f.m, TL_LORA, 1, 0), *other = NULL, *peft = NULL;
  int32_t modules[64];
  for (int i = 0; i < 21; i++)
    modules[i] = i;
  tl_adapter_options o = {.kind = TL_TINYLORA, .modules = modules, .n_modules = 21, .rank = 3, .u = 2};
  CHECK_OK(tl_adapter_create(f.m, &o, &other));
  refused(f.a[0], lora, "trains more than R");
  refused(f.a[0], other, "rank 3 of model.layers.0.self_attn.q_proj in member 1, 2 in the first");
  o.rank = 2, o.sigma = TL_SIGMA_PEFT;
  CHECK_OK(tl_adapter_create(f.m, &o, &peft));
  refused(f.a[0], peft, "another sigma");
  o.basis_of = f.a[0];
  tl_adapter *none = NULL;
  CHECK(tl_adapter_create(f.m, &o, &none) == TL_E_SHAPE && strstr(tl_last_error(), "basis_of has other"), "%s",
        tl_last_error());
  tl_sampler *s = NULL;
  tl_sampler_options so = {.population = f.pop};
  CHECK(tl_sampler_create(f.m, f.a[0], NULL, &so, &s) == TL_E_ARG, "an adapter and a population at once");
  CHECK_OK(tl_sampler_create(f.m, NULL, NULL, &so, &s));
  tl_sampling p = {.top_p = 1, .max_new_tokens = 2, .member = MEMBERS};
  CHECK(tl_sampler_submit(s, modules + 3, 2, 1, 0, &p, NULL) == TL_E_ARG &&
            strstr(tl_last_error(), "member 4 of a population of 4"),
        "%s", tl_last_error());
  tl_sampler_free(s);
  tl_adapter_free(lora);
  tl_adapter_free(other);
  tl_adapter_free(peft);
  tear_down(&f);
}

int main(void) {
  RUN(llama_bf16);
  RUN(llama_f32);
  RUN(llama_f16);
  RUN(qwen3_bf16);
  RUN(a_changed_member);
  RUN(a_clone);
  RUN(what_cannot_be_a_member);
  return test_done();
}

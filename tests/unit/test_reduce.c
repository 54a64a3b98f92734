// test_reduce.c: the gradient of a pass for all ranks (tl_pass_reduce), in one process: it is, bit for bit, that of an ordinary pass,
// and it depends on the prompts' places alone, not on the order in which they were computed nor on the cut into micro-batches. Would
// catch: sums that are added as they come, a unit's sums written to another unit's place, sums left over from an earlier pass.
// Several processes: tests/test_ranks.sh.
#include "tiny.h"

enum { PROMPTS = 7, GROUP = 3 };

static int length_of(int prompt) { return 2 + 5 * prompt % 17; }

// the prompts `order` (PROMPTS) with their completions; place: each one's number
static tl_batch *batch_in(const int *order) {
  tl_batch *b = NULL;
  CHECK_OK(tl_batch_create(&b));
  for (int k = 0; k < PROMPTS; k++) {
    int32_t ids[32];
    int at;
    tiny_ids(ids, length_of(order[k]), (uint64_t)order[k]);
    CHECK_OK(tl_batch_prompt(b, ids, length_of(order[k]), &at));
    CHECK_OK(tl_batch_place(b, at, order[k]));
    for (int j = 0; j < GROUP; j++) {
      tiny_ids(ids, 3 + order[k] + j, (uint64_t)(100 + 10 * order[k] + j));
      CHECK_OK(tl_batch_completion(b, at, ids, 3 + order[k] + j, NULL));
    }
  }
  return b;
}

static void gradient_of(tl_model *m, tl_adapter *a, const int *order, bool ranks, int64_t memory, float *grad) {
  tl_batch *b = batch_in(order);
  tl_pass_options o = {.memory_bytes = memory, .backward = true, .ranks = ranks};
  tl_pass *p = NULL;
  CHECK_OK(tl_pass_create(m, a, b, &o, &p));
  if (!p) return;
  int64_t n = tl_batch_n_tokens(b);
  float *lp = malloc(sizeof(float) * (size_t)n), *d = malloc(sizeof(float) * (size_t)n);
  for (int k = 0; k < PROMPTS * GROUP; k++)  // what a token weighs depends on its prompt and completion alone
    for (int64_t t = tl_batch_offset(b, k); t < tl_batch_offset(b, k + 1); t++)
      d[t] = tl_uniform(8, (uint64_t)(order[k / GROUP] * GROUP + k % GROUP), (uint64_t)(t - tl_batch_offset(b, k))) - 0.4f;
  tl_adapter_zero_gradient(a);
  for (int i = 0; i < tl_pass_n_micro(p); i++) {
    CHECK_OK(tl_pass_forward(p, i, lp, NULL));
    CHECK_OK(tl_pass_backward(p, i, d, NULL));
  }
  if (ranks) CHECK_OK(tl_pass_reduce(p));
  memcpy(grad, tl_adapter_gradient(a), sizeof(float) * (size_t)tl_adapter_n_parameters(a));
  free(lp), free(d);
  tl_pass_free(p);
  tl_batch_free(b);
}

static void check_kind(tl_adapter_kind kind) {
  static const int straight[PROMPTS] = {0, 1, 2, 3, 4, 5, 6}, mixed[PROMPTS] = {4, 0, 6, 2, 1, 5, 3};
  tl_model *m = tiny_model("llama", TL_BF16);
  tl_adapter *a = m ? tiny_adapter(m, kind, 2, 0.2f) : NULL;
  if (!a) return;
  size_t n = (size_t)tl_adapter_n_parameters(a), bytes = sizeof(float) * n;
  float *want = malloc(bytes), *got = malloc(bytes);
  gradient_of(m, a, straight, false, 0, want);
  double size = 0;
  for (size_t i = 0; i < n; i++) size += fabs((double)want[i]);
  CHECK(size > 0, "the gradient is zero");
  gradient_of(m, a, straight, true, 0, got);
  CHECK(!memcmp(want, got, bytes), "for all ranks, same order: other bits");
  gradient_of(m, a, mixed, true, 0, got);
  CHECK(!memcmp(want, got, bytes), "prompts in another order: other bits");
  gradient_of(m, a, mixed, true, 1 << 18, got);
  CHECK(!memcmp(want, got, bytes), "in another order and in micro-batches: other bits");
  gradient_of(m, a, straight, false, 0, got);
  CHECK(!memcmp(want, got, bytes), "an ordinary pass afterwards: other bits");
  free(want), free(got);
  tl_adapter_free(a);
  tl_model_free(m);
}

static void tinylora_is_summed_in_order_of_places(void) { check_kind(TL_TINYLORA); }
static void loraxs_is_summed_in_order_of_places(void) { check_kind(TL_LORA_XS); }

static void a_rank_without_prompts_takes_part(void) {
  tl_model *m = tiny_model("qwen2", TL_F32);
  tl_adapter *a = m ? tiny_adapter(m, TL_TINYLORA, 2, 0.2f) : NULL;
  tl_batch *b = NULL;
  tl_pass *p = NULL;
  if (!a) return;
  CHECK_OK(tl_batch_create(&b));
  tl_pass_options o = {.backward = true, .ranks = true};
  CHECK_OK(tl_pass_create(m, a, b, &o, &p));
  if (!p) return;
  CHECK(tl_pass_n_micro(p) == 0);
  CHECK_OK(tl_pass_reduce(p));
  for (int64_t i = 0; i < tl_adapter_n_parameters(a); i++) CHECK(tl_adapter_gradient(a)[i] == 0);
  tl_pass_free(p);
  tl_batch_free(b);
  tl_adapter_free(a);
  tl_model_free(m);
}

static void what_does_not_fit_together_is_refused(void) {
  static const int order[PROMPTS] = {0, 1, 2, 3, 4, 5, 6};
  tl_model *m = tiny_model("llama", TL_F32);
  tl_adapter *a = m ? tiny_adapter(m, TL_TINYLORA, 2, 0.2f) : NULL;
  if (!a) return;
  tl_batch *b = batch_in(order);
  tl_pass *p = NULL;
  CHECK(tl_batch_place(b, PROMPTS, 0) == TL_E_ARG && strstr(tl_last_error(), "there is no prompt 7"), "%s", tl_last_error());
  tl_pass_options o = {.ranks = true};
  CHECK(tl_pass_create(m, a, b, &o, &p) == TL_E_ARG && strstr(tl_last_error(), "trains an adapter"), "%s", tl_last_error());
  o = (tl_pass_options){.backward = true};
  CHECK_OK(tl_pass_create(m, a, b, &o, &p));
  CHECK(tl_pass_reduce(p) == TL_E_ARG && strstr(tl_last_error(), "not created for all ranks"), "%s", tl_last_error());
  tl_pass_free(p);
  tl_batch_free(b);
  tl_adapter_free(a);
  tl_model_free(m);
}

static void alone_a_gather_is_a_copy(void) {
  tl_comm_info info;
  int64_t size = -1;
  char *all = NULL;
  CHECK_OK(tl_comm_start());
  tl_comm_get_info(&info);
  CHECK(info.rank == 0 && info.size == 1 && !strcmp(info.kind, "none"));
  CHECK_OK(tl_comm_gather(TL_COMM_ALL, "x", "abc", 3, &all, &size));
  CHECK(size == 3 && all && !strcmp(all, "abc"));
  tl_string_free(all);
  CHECK(tl_comm_gather(TL_COMM_ALL, "x", NULL, -1, &all, &size) == TL_E_ARG);
}

int main(void) {
  unsetenv("OMPI_COMM_WORLD_SIZE");
  RUN(tinylora_is_summed_in_order_of_places);
  RUN(loraxs_is_summed_in_order_of_places);
  RUN(a_rank_without_prompts_takes_part);
  RUN(what_does_not_fit_together_is_refused);
  RUN(alone_a_gather_is_a_copy);
  return test_done();
}

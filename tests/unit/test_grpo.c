// test_grpo.c: advantages and the GRPO objective against TRL's own code (tests/parity/make_grpo_fixtures.py), the gradient
// against finite differences, and that cutting a step into calls changes nothing. Would catch: a divisor, a clip bound, a
// mask, the order of clip, importance weight and KL, or a derivative that differ from TRL's.
// Tolerance 1e-6: both compute in double from the same fp32 inputs; outputs are fp32.
#include "../../runtime/base/base.h"
#include "../test.h"
#include <cjson/cJSON.h>

enum { max_tokens = 64, max_sequences = 16 };
static const double tolerance = 1e-6;
static cJSON *document;

static const cJSON *get(const cJSON *o, const char *key) {
  const cJSON *v = cJSON_GetObjectItemCaseSensitive(o, key);
  CHECK(v, "%s is missing", key);
  return v;
}
static double num(const cJSON *o, const char *key) {
  const cJSON *v = get(o, key);
  return v ? v->valuedouble : NAN;
}
static int list(const cJSON *o, const char *key, float *x) {
  int n = 0;
  const cJSON *item;
  cJSON_ArrayForEach(item, get(o, key)) if (n < max_tokens) x[n++] = cJSON_IsNull(item) ? NAN : (float)item->valuedouble;
  return n;
}
static bool is(const cJSON *o, const char *key, const char *value) { return !strcmp(get(o, key)->valuestring, value); }

static void advantages_as_trl(void) {
  const cJSON *c;
  cJSON_ArrayForEach(c, get(document, "advantages")) {
    float rewards[max_tokens], want[max_tokens], have[max_tokens];
    int n = list(c, "rewards", rewards), zero = -1;
    list(c, "advantages", want);
    tl_scale_rewards scale = is(c, "scale", "batch") ? TL_SCALE_BATCH : is(c, "scale", "none") ? TL_SCALE_NONE : TL_SCALE_GROUP;
    CHECK_OK(tl_grpo_advantages(rewards, n, (int)num(c, "group_size"), scale, have, &zero));
    // equal rewards give exactly 0 here; in TRL a rounding error over 1e-4, hence the absolute 1e-11 / 1e-4
    for (int i = 0; i < n; i++)
      CHECK(fabs(have[i] - want[i]) <= 1e-6 * fabs(want[i]) + 1e-7, "%s, %d: %g, wanted %g", get(c, "scale")->valuestring, i,
            (double)have[i], (double)want[i]);
    CHECK(zero == (int)num(c, "zero_std"), "%d groups without spread", zero);
  }
}

static void advantages_refuse(void) {
  float r[4] = {1, 0, INFINITY, 0}, a[4];
  CHECK(tl_grpo_advantages(r, 4, 3, TL_SCALE_GROUP, a, NULL) == TL_E_ARG);
  CHECK(tl_grpo_advantages(r, 4, 2, TL_SCALE_GROUP, a, NULL) == TL_E_ARG);
}

// ---------------------------------------------------------------- objective
typedef struct {
  int n_sequences, n_tokens;
  int64_t offsets[max_sequences + 1], total_tokens;
  float logprob[max_tokens], old[max_tokens], ref[max_tokens], sampler[max_tokens], entropy[max_tokens], mask[max_tokens],
        policy_mask[max_tokens];
  float advantage[max_tokens];
  bool use_old, use_sampler, use_mask, use_policy;
  tl_grpo_options o;
} job;

static tl_loss_type loss_type(const cJSON *o) {
  static const char *const names[] = {"grpo", "dr_grpo", "dapo", "bnpo", "cispo", "sapo", "luspo"};
  for (int i = 0; i < (int)(sizeof names / sizeof *names); i++)
    if (is(o, "loss_type", names[i])) return (tl_loss_type)i;
  abort();
}

static job read_job(const cJSON *c) {
  job j = {0};
  const cJSON *s = get(document, "sequences"), *o = get(c, "options"), *item;
  float lengths[max_tokens];
  j.n_sequences = list(s, "lengths", lengths);
  for (int i = 0; i < j.n_sequences; i++) j.offsets[i + 1] = j.offsets[i] + (int)lengths[i];
  j.n_tokens = list(s, "logprob", j.logprob);
  list(s, "old", j.old);
  list(s, "ref", j.ref);
  list(s, "sampler", j.sampler);
  list(s, "entropy", j.entropy);
  list(s, "mask", j.mask);
  list(s, "policy_mask", j.policy_mask);
  list(s, "advantage", j.advantage);
  cJSON_ArrayForEach(item, get(c, "use")) {
    j.use_old |= !strcmp(item->valuestring, "old");
    j.use_sampler |= !strcmp(item->valuestring, "sampler");
    j.use_mask |= !strcmp(item->valuestring, "mask");
    j.use_policy |= !strcmp(item->valuestring, "policy_mask");
  }
  j.total_tokens = (int64_t)num(c, "total_tokens");
  j.o = (tl_grpo_options){
    .loss_type = loss_type(o), .sapo_temperature_pos = (float)num(o, "sapo_temperature_pos"), .sapo_temperature_neg = (float)num(o, "sapo_temperature_neg"),
    .epsilon = (float)num(o, "epsilon"), .epsilon_high = (float)num(o, "epsilon_high"), .delta = (float)num(o, "delta"),
    .beta = (float)num(o, "beta"), .use_bias_correction_kl = cJSON_IsTrue(get(o, "use_bias_correction_kl")), .entropy_coef = (float)num(o, "entropy_coef"),
    .max_completion_length = (int)num(o, "max_completion_length"),
    .ratio_level = is(o, "ratio_level", "sequence") ? TL_IS_SEQUENCE : TL_IS_TOKEN,
    .is_mode = is(o, "is_mode", "truncate") ? TL_IS_TRUNCATE : is(o, "is_mode", "mask") ? TL_IS_MASK : TL_IS_OFF,
    .is_level = is(o, "is_level", "sequence") ? TL_IS_SEQUENCE : TL_IS_TOKEN,
    .is_min = (float)num(o, "is_min"), .is_max = (float)num(o, "is_max")};
  return j;
}

static tl_grpo_stats evaluate(const job *j, int first, int count, tl_grpo_stats stats, float *dlogprob, float *dentropy) {
  CHECK_OK(tl_grpo_objective(&j->o, first, count, j->offsets, j->logprob, j->use_old ? j->old : NULL, j->ref,
                             j->use_sampler ? j->sampler : NULL, j->entropy, j->advantage, j->use_mask ? j->mask : NULL, j->use_policy ? j->policy_mask : NULL,
                             j->n_sequences, j->total_tokens, dlogprob, dentropy, &stats));
  return stats;
}

static void check_stats(const cJSON *c, const job *j, const tl_grpo_stats *s, int index) {
  const cJSON *want = get(c, "stats");
  bool tokens = j->o.ratio_level == TL_IS_TOKEN;  // else a clipped sequence counts once
  struct { const char *name; double have; bool per_token; } rows[] = {
    {"entropy", s->entropy, true}, {"kl", s->kl, true}, {"clip_ratio/low_mean", s->clip_low, tokens},
    {"clip_ratio/high_mean", s->clip_high, tokens}, {"cispo_clip_ratio", s->clip_high, tokens}};
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
    const cJSON *w = cJSON_GetObjectItemCaseSensitive(want, rows[i].name);
    double have = rows[i].have / (double)(rows[i].per_token ? s->n_tokens : s->n_sequences);
    if (w) CHECK(fabs(have - w->valuedouble) <= tolerance, "case %d: %s is %g, wanted %g", index, rows[i].name, have, w->valuedouble);
  }
  CHECK(s->n_tokens == j->total_tokens && s->n_sequences == j->n_sequences, "case %d counts", index);
}

static void objective_as_trl(void) {
  const cJSON *c;
  int index = 0;
  cJSON_ArrayForEach(c, get(document, "objective")) {
    job j = read_job(c);
    float d[max_tokens], e[max_tokens], want_d[max_tokens], want_e[max_tokens];
    tl_grpo_stats s = evaluate(&j, 0, j.n_sequences, (tl_grpo_stats){0}, d, e);
    list(c, "dlogprob", want_d);
    list(c, "dentropy", want_e);
    CHECK(fabs(s.loss - num(c, "loss")) <= tolerance, "case %d: loss %.9g, wanted %.9g", index, s.loss, num(c, "loss"));
    CHECK(test_max_rel(d, want_d, (size_t)j.n_tokens) <= tolerance, "case %d: dlogprob differs by %.2e", index,
          test_max_rel(d, want_d, (size_t)j.n_tokens));
    for (int t = 0; t < j.n_tokens; t++) CHECK(fabs(e[t] - want_e[t]) <= 1e-9, "case %d: dentropy %d", index, t);
    check_stats(c, &j, &s, index++);
  }
}

// A sequence's importance weight counts once in is_sum, however long the sequence; a token's once a token.
static void importance_is_summed_by_level(void) {
  const cJSON *c;
  int index = -1, tried = 0;
  cJSON_ArrayForEach(c, get(document, "objective")) {
    job j = read_job(c);
    index++;
    if (j.o.is_mode != TL_IS_TRUNCATE) continue;
    float d[max_tokens], e[max_tokens];
    double want = 0, high = j.o.is_max;
    for (int i = 0; i < j.n_sequences; i++) {
      double log_w = 0, of_tokens = 0;
      for (int64_t t = j.offsets[i]; t < j.offsets[i + 1]; t++) {
        double m = j.use_mask ? j.mask[t] : 1, diff = (double)(j.use_old ? j.old : j.logprob)[t] - j.sampler[t];
        log_w += m * diff;
        of_tokens += m * fmin(fmax(exp(diff), j.o.is_min), high);
      }
      want += j.o.is_level == TL_IS_SEQUENCE ? fmin(fmax(exp(log_w), j.o.is_min), high) : of_tokens;
    }
    double have = evaluate(&j, 0, j.n_sequences, (tl_grpo_stats){0}, d, e).is_sum;
    CHECK(fabs(have - want) <= tolerance * want, "case %d: is_sum %g, wanted %g", index, have, want);
    tried |= 1 << (j.o.is_level == TL_IS_SEQUENCE);
  }
  CHECK(tried == 3, "both levels are among the cases");
}

// Central differences of the loss that the call itself reports; 1e-3 of the largest derivative: fp32 inputs moved by 1e-3.
static void objective_gradient(void) {
  const cJSON *c;
  int index = -1;
  cJSON_ArrayForEach(c, get(document, "objective")) {
    job j = read_job(c);
    index++;
    if (!j.use_old || j.o.loss_type == TL_LOSS_CISPO) continue;  // weights that move with logprob, though the gradient takes them as constants
    float d[max_tokens], e[max_tokens], scratch[max_tokens], scratch_e[max_tokens], slope[max_tokens];
    evaluate(&j, 0, j.n_sequences, (tl_grpo_stats){0}, d, e);
    for (int t = 0; t < j.n_tokens; t++) {
      float keep = j.logprob[t], h = 1e-3f;
      j.logprob[t] = keep + h;
      double up = evaluate(&j, 0, j.n_sequences, (tl_grpo_stats){0}, scratch, scratch_e).loss, x = j.logprob[t];
      j.logprob[t] = keep - h;
      double down = evaluate(&j, 0, j.n_sequences, (tl_grpo_stats){0}, scratch, scratch_e).loss;
      slope[t] = (float)((up - down) / (x - j.logprob[t]));
      j.logprob[t] = keep;
    }
    double worst = test_max_rel(d, slope, (size_t)j.n_tokens);
    CHECK(worst <= 1e-3, "case %d: differs by %.2e", index, worst);
  }
}

// All but bnpo: the loss and the gradient are the same however the step is cut.
static void objective_in_parts(void) {
  const cJSON *c;
  cJSON_ArrayForEach(c, get(document, "objective")) {
    job j = read_job(c);
    if (j.o.loss_type == TL_LOSS_BNPO) continue;
    float d[max_tokens], e[max_tokens], parts[max_tokens], parts_e[max_tokens];
    tl_grpo_stats whole = evaluate(&j, 0, j.n_sequences, (tl_grpo_stats){0}, d, e), s = {0};
    for (int first = 0; first < j.n_sequences; first += 2) s = evaluate(&j, first, 2, s, parts, parts_e);
    CHECK(!memcmp(d, parts, sizeof(float) * (size_t)j.n_tokens), "gradient depends on the cut");
    CHECK(fabs(s.loss - whole.loss) < 1e-12 && s.is_min == whole.is_min && s.n_tokens == whole.n_tokens,
          "stats depend on the cut");
  }
}

static tl_status without_inputs(const job *j, int total_sequences) {
  float d[max_tokens];
  tl_grpo_stats s = {0};
  return tl_grpo_objective(&j->o, 0, 2, j->offsets, j->logprob, NULL, NULL, NULL, NULL, j->advantage, NULL, NULL, total_sequences, 9,
                           d, NULL, &s);
}

static void objective_refuses(void) {
  job j = read_job(get(document, "objective")->child);
  CHECK(without_inputs(&j, 2) == TL_OK);
  CHECK(without_inputs(&j, 1) == TL_E_ARG);
  j.o.beta = 0.1f;
  CHECK(without_inputs(&j, 2) == TL_E_ARG);
  j.o.beta = 0;
  j.o.entropy_coef = 0.1f;
  CHECK(without_inputs(&j, 2) == TL_E_ARG);
}

int main(void) {
  char *text = NULL;
  if (tl_read_file(TL_SOURCE_DIR "/tests/parity/fixtures/grpo.json", &text, NULL) == TL_OK) document = cJSON_Parse(text);
  free(text);
  if (!document) {
    printf("not ok grpo_fixtures: %s\n", tl_last_error());
    return 1;
  }
  RUN(advantages_as_trl);
  RUN(advantages_refuse);
  RUN(objective_as_trl);
  RUN(importance_is_summed_by_level);
  RUN(objective_gradient);
  RUN(objective_in_parts);
  RUN(objective_refuses);
  cJSON_Delete(document);
  return test_done();
}

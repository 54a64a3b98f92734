// grpo.c: group-relative policy optimisation: advantages, and the objective with its gradient, as TRL's GRPOTrainer defines
// them (Shao et al. 2024, arXiv:2402.03300; DAPO: Yu et al. 2025, arXiv:2503.14476; Dr. GRPO: Liu et al. 2025,
// arXiv:2503.20783; GSPO: Zheng et al. 2025, arXiv:2507.18071; CISPO: MiniMax-M1, arXiv:2506.13585; SAPO: Gao et al. 2025, arXiv:2511.20347;
// LUSPO: arXiv:2602.05261).
//
// Per token t of sequence i, with m the mask and A the sequence's advantage:
//   rho  = exp(logprob - old), or for GSPO exp(sum_t (logprob - old) m / sum_t m) for every token of the sequence
//   clip = -min(min(rho, delta) A, clamp(rho, 1 - epsilon, 1 + epsilon_high) A)
//          cispo: -min(rho, epsilon_high) A logprob, the ratio being a constant for the gradient (TRL's cap; others cap at 1 + epsilon_high)
//          sapo:  -4/tau sigmoid(tau (rho - 1)) A, tau = sapo_temperature_pos where A > 0, else sapo_temperature_neg
//          times the policy mask
//   w    = importance weight for sampler and trainer that disagree: exp(old - sampler), per token or summed over the
//          sequence; clamped to [is_min, is_max] (truncate), or 0 outside of it (mask); a constant for the gradient
//   kl   = exp(ref - logprob) - (ref - logprob) - 1, times rho with use_bias_correction_kl (DeepSeek-V3.2: Liu et al. 2025,
//          arXiv:2512.02556): rho's own derivative makes the gradient that of KL(policy, reference), also where rho is 1
//   l    = clip w + beta kl;   loss = sum_i c_i sum_t m l - entropy_coef * sum_t m entropy / total_tokens
// c_i: grpo, sapo 1 / (total_sequences max(1, sum_t m)); dr_grpo 1 / (total_sequences max_completion_length); dapo, cispo 1 / total_tokens;
//      luspo 1 / total_sequences;
//      bnpo (count / total_sequences) / tokens of this call, TRL's mean over a local batch divided by the number of batches.
// All but bnpo are the same however a step is cut into calls.
//
// Everything is summed in double, in the order of tokens. Nothing is allocated.
#include "../base/profile.h"
#include <math.h>

// ---------------------------------------------------------------- advantages
typedef struct {
  double mean, std;
  int n;
  bool equal;  // all the same: the advantages are exactly 0
} moments;

static moments measure(const float *r, int n) {
  moments m = {.equal = true};
  float first = NAN;
  for (int i = 0; i < n; i++) {
    if (isnan(r[i])) continue;
    if (m.n++ == 0) first = r[i];
    else if (r[i] != first) m.equal = false;
    m.mean += r[i];
  }
  m.mean = m.equal ? (double)first : m.mean / m.n;
  double sum = 0;
  for (int i = 0; i < n; i++)
    if (!isnan(r[i])) sum += (r[i] - m.mean) * (r[i] - m.mean);
  m.std = m.n > 1 ? sqrt(sum / (m.n - 1)) : n == 1 ? 0 : NAN;  // one reward among abstentions has none; TRL: a group of 1 has 0
  return m;
}

tl_status tl_grpo_advantages(const float *rewards, int n, int group_size, tl_scale_rewards scale, float *advantages,
                             int *zero_std) {
  if (n < 1 || group_size < 1 || n % group_size)
    return tl_fail(TL_E_ARG, "advantages: %d rewards are not whole groups of %d", n, group_size);
  for (int i = 0; i < n; i++)
    if (isinf(rewards[i])) return tl_fail(TL_E_ARG, "advantages: reward %d is infinite", i);
  moments all = measure(rewards, n);
  int zero = 0;
  for (int at = 0; at < n; at += group_size) {
    moments g = measure(rewards + at, group_size);
    double std = scale == TL_SCALE_BATCH ? all.std : g.std;
    if (std <= 1e-8) zero++;  // torch.isclose(std, 0)
    for (int i = at; i < at + group_size; i++) {
      double a = g.equal ? 0 : rewards[i] - g.mean;
      if (scale != TL_SCALE_NONE) a /= std + 1e-4;
      advantages[i] = isnan(a) || isnan(rewards[i]) ? 0 : (float)a;
    }
  }
  if (zero_std) *zero_std = zero;
  return TL_OK;
}

// ---------------------------------------------------------------- objective
typedef struct {
  const tl_grpo_options *o;
  const float *logprob, *old, *ref, *sampler, *entropy, *mask, *policy_mask;
  float *dlogprob, *dentropy;
  tl_grpo_stats *stats;
  double loss;
} job;

static inline double mask_of(const job *j, int64_t t) { return j->mask ? j->mask[t] : 1; }
static inline double old_of(const job *j, int64_t t) { return j->old ? j->old[t] : j->logprob[t]; }

// old - sampler; a token that the sampler could not score (NaN) counts as agreeing
static inline double mismatch(const job *j, int64_t t) {
  double d = old_of(j, t) - (double)j->sampler[t];
  return isnan(d) ? 0 : d;
}

static double importance(const tl_grpo_options *o, double log_weight) {
  double w = exp(log_weight), top = o->is_max > 0 ? o->is_max : INFINITY;
  if (o->is_mode == TL_IS_TRUNCATE) return fmin(fmax(w, o->is_min), top);
  return w < o->is_min || w > top ? 0 : w;
}

// *loss = the term of the policy, *slope = its derivative by rho, *direct = that by lp with rho held; m: what a clipped ratio counts
static void policy_term(const tl_grpo_options *o, double rho, double lp, double A, double *loss, double *slope, double *direct,
                        tl_grpo_stats *stats, double m) {
  *slope = *direct = 0;
  if (o->loss_type == TL_LOSS_CISPO) {
    *direct = -fmin(rho, (double)o->epsilon_high) * A;
    *loss = *direct * lp;
    stats->clip_high += rho > (double)o->epsilon_high && A > 0 ? m : 0;
    return;
  }
  if (o->loss_type == TL_LOSS_SAPO) {
    double tau = (double)(A > 0 ? o->sapo_temperature_pos : o->sapo_temperature_neg), gate = 1 / (1 + exp(-tau * (rho - 1)));
    *loss = -4 / tau * gate * A;
    *slope = -4 * gate * (1 - gate) * A;
    return;
  }
  double capped = o->delta > 0 && rho > o->delta ? o->delta : rho;
  double low = 1 - (double)o->epsilon, high = 1 + (double)o->epsilon_high, clamped = fmin(fmax(rho, low), high);
  bool first = capped * A <= clamped * A;
  *loss = -(first ? capped : clamped) * A;
  *slope = (first ? capped == rho : clamped == rho) ? -A : 0;
  stats->clip_low += capped < low && A < 0 ? m : 0;
  stats->clip_high += capped > high && A > 0 ? m : 0;
}

static void count_mismatch(job *j, double m, double diff, double w) {
  tl_grpo_stats *s = j->stats;
  s->logp_diff += m * fabs(diff);
  s->logp_diff_max = fmax(s->logp_diff_max, fabs(diff));
  s->is_sum += j->o->is_level == TL_IS_TOKEN ? m * w : 0;
  s->is_min = fmin(s->is_min, w);
  s->is_max = fmax(s->is_max, w);
}

// One sequence: tokens from .. to; c: its factor in the loss; e: a token's factor in the entropy bonus.
static void sequence(job *j, int64_t from, int64_t to, double A, double c, double e) {
  const tl_grpo_options *o = j->o;
  double tokens = 0, log_rho = 0, log_is = 0, rho_slope = 0;
  for (int64_t t = from; t < to; t++) {
    double m = mask_of(j, t);
    tokens += m;
    log_rho += m * (j->logprob[t] - old_of(j, t));
    if (j->sampler) log_is += m * mismatch(j, t);
  }
  bool by_sequence = o->ratio_level == TL_IS_SEQUENCE, correct = j->sampler && o->is_mode != TL_IS_OFF;
  double n = fmax(tokens, 1), seq_rho = exp(log_rho / n);
  double seq_w = correct && o->is_level == TL_IS_SEQUENCE ? importance(o, log_is) : 1;
  if (o->is_level == TL_IS_SEQUENCE) j->stats->is_sum += seq_w;
  for (int64_t t = from; t < to; t++) {
    double m = mask_of(j, t), lp = j->logprob[t], w = seq_w, diff = j->sampler ? mismatch(j, t) : 0;
    j->dlogprob[t] = 0;
    if (j->dentropy) j->dentropy[t] = (float)(-e * m);
    if (m == 0) continue;
    if (correct && o->is_level == TL_IS_TOKEN) w = importance(o, diff);
    double rho = by_sequence ? seq_rho : exp(lp - old_of(j, t)), loss, slope, direct;
    policy_term(o, rho, lp, A, &loss, &slope, &direct, j->stats, by_sequence ? m / n : m);
    double counts = j->policy_mask ? w * (double)j->policy_mask[t] : w;  // of the policy's term
    double kl = 0, grad = direct * counts, by_rho = slope * counts;      // by_rho: the derivative of the token's term by rho
    if (j->ref) {
      double d = (double)j->ref[t] - lp, ed = exp(d), weight = o->use_bias_correction_kl ? rho : 1;
      if (o->use_bias_correction_kl) by_rho += o->beta * (ed - d - 1);
      kl = weight * (ed - d - 1);
      grad += weight * o->beta * (1 - ed);
    }
    if (by_sequence) rho_slope += c * m * by_rho;
    else grad += by_rho * rho;
    j->loss += c * m * (loss * counts + o->beta * kl);
    if (j->entropy) j->loss -= e * m * j->entropy[t];
    j->dlogprob[t] = (float)(c * m * grad);
    j->stats->kl += m * kl;
    j->stats->ratio += m * rho;
    j->stats->entropy += j->entropy ? m * j->entropy[t] : 0;
    j->stats->n_tokens++;
    count_mismatch(j, m, diff, w);
  }
  if (!by_sequence) return;
  for (int64_t t = from; t < to; t++)  // d rho / d logprob_t = rho m_t / n, the same rho in every token's term
    j->dlogprob[t] = (float)(j->dlogprob[t] + rho_slope * seq_rho * mask_of(j, t) / n);
}

static tl_status check(const tl_grpo_options *o, int count, const float *ref, const float *entropy, const float *dentropy,
                       int64_t total_sequences) {
  if (count < 1 || total_sequences < count)
    return tl_fail(TL_E_ARG, "grpo: %d sequences of a step of %lld", count, (long long)total_sequences);
  if ((int)o->loss_type < TL_LOSS_GRPO || (int)o->loss_type > TL_LOSS_LUSPO)
    return tl_fail(TL_E_ARG, "grpo: loss_type %d is none of grpo, dr_grpo, dapo, bnpo, cispo, sapo, luspo", (int)o->loss_type);
  if (o->loss_type == TL_LOSS_SAPO && !(o->sapo_temperature_pos > 0 && o->sapo_temperature_neg > 0))
    return tl_fail(TL_E_ARG, "grpo: sapo's temperatures are %g and %g; both must be above 0", (double)o->sapo_temperature_pos,
                   (double)o->sapo_temperature_neg);
  if (!(o->epsilon >= 0) || !(o->epsilon_high >= 0))
    return tl_fail(TL_E_ARG, "grpo: epsilon %g, epsilon_high %g; both must be 0 or more", (double)o->epsilon,
                   (double)o->epsilon_high);
  if (o->beta != 0 && !ref) return tl_fail(TL_E_ARG, "grpo: beta is %g, but there are no reference logprobs", (double)o->beta);
  if (o->entropy_coef != 0 && (!entropy || !dentropy))
    return tl_fail(TL_E_ARG, "grpo: entropy_coef is %g, but the entropies were not computed", (double)o->entropy_coef);
  if (o->loss_type == TL_LOSS_DR_GRPO && o->max_completion_length < 1)
    return tl_fail(TL_E_ARG, "grpo: dr_grpo divides by max_completion_length, which is %d", o->max_completion_length);
  return TL_OK;
}

tl_status tl_grpo_objective(const tl_grpo_options *o, int first, int count, const int64_t *offsets, const float *logprob,
                            const float *old, const float *ref, const float *sampler, const float *entropy,
                            const float *advantage, const float *mask, const float *policy_mask, int64_t total_sequences,
                            int64_t total_tokens, float *dlogprob, float *dentropy, tl_grpo_stats *stats) {
  TL_SECTION("objective");
  TL_TRY(check(o, count, ref, entropy, dentropy, total_sequences));
  if (stats->n_tokens == 0) {
    stats->is_min = INFINITY;
    stats->is_max = -INFINITY;
  }
  job j = {.o = o, .logprob = logprob, .old = old, .ref = o->beta != 0 ? ref : NULL, .sampler = sampler, .entropy = entropy,
           .mask = mask, .policy_mask = policy_mask, .dlogprob = dlogprob, .dentropy = dentropy, .stats = stats};
  double step_tokens = (double)(total_tokens > 1 ? total_tokens : 1), step_sequences = (double)total_sequences, here = 0;
  for (int64_t t = offsets[first]; t < offsets[first + count]; t++) here += mask_of(&j, t);
  for (int i = first; i < first + count; i++) {
    double tokens = 0, c = 1 / step_tokens;
    for (int64_t t = offsets[i]; t < offsets[i + 1]; t++) tokens += mask_of(&j, t);
    if (o->loss_type == TL_LOSS_GRPO || o->loss_type == TL_LOSS_SAPO) c = 1 / (step_sequences * fmax(tokens, 1));
    else if (o->loss_type == TL_LOSS_LUSPO) c = 1 / step_sequences;
    else if (o->loss_type == TL_LOSS_DR_GRPO) c = 1 / (step_sequences * o->max_completion_length);
    else if (o->loss_type == TL_LOSS_BNPO) c = (count / step_sequences) / fmax(here, 1);
    sequence(&j, offsets[i], offsets[i + 1], advantage[i], c, o->entropy_coef / step_tokens);
  }
  stats->loss += j.loss;
  stats->n_sequences += count;
  if (stats->n_tokens == 0) stats->is_min = stats->is_max = 0;
  return TL_OK;
}

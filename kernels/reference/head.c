// head.c: the LM head: log-probability, entropy, their gradient, and sampling, one row at a time (reference).
//
//   fwd     l_j = (h . w_j) inv_temp,  lse = log sum_j exp l_j,  logprob = l_target - lse,  entropy = lse - sum_j p_j l_j
//   bwd     dlogit_j = inv_temp (dlogprob (1[j = target] - p_j) - dentropy p_j (l_j - lse + entropy)),  p_j = exp(l_j - lse);
//           dh = sum_j dlogit_j w_j,  dw_j += dlogit_j h
//   sample  temperature 0: the most likely token, the lowest id at ties; logprob and entropy at temperature 1. Otherwise:
//           1. order tokens by falling logit, ties by rising id;
//           2. top_k: the first top_k of them;
//           3. top_p: of those, renormalised, the fewest first ones whose mass reaches top_p (at least one);
//           4. min_p: of those, the ones with p >= min_p p_max;
//           5. in rising order of id, the first token whose cumulative kept mass exceeds u times the kept mass.
//           logprob is that of the whole vocabulary at the temperature, whatever was cut: the bits of fwd's.
//
// A backend that sums masses in another order may differ in steps 3 to 5 when a mass lies within its rounding of a boundary.
// Logits are computed again wherever they are needed; only the sampler orders a row of them, in the packed weight's scratch.
#include "ref.h"

typedef struct {
  double lse, entropy;
} stats;

static double logit(tlk_mat h, int t, const tlk_packed *w, int j, float inv_temp) { return ref_dot(h, t, w, j) * inv_temp; }

// One pass: sums are held relative to the largest logit so far and rescaled when a larger one comes.
static stats row_stats(tlk_mat h, int t, const tlk_packed *w, float inv_temp) {
  double max = -INFINITY, sum = 0, weighted = 0;
  for (int j = 0; j < w->N; j++) {
    double l = logit(h, t, w, j, inv_temp);
    if (l > max) {
      double shrink = exp(max - l);
      sum *= shrink, weighted *= shrink, max = l;
    }
    sum += exp(l - max);
    weighted += exp(l - max) * l;
  }
  double lse = max + log(sum);
  return (stats){lse, lse - weighted / sum};
}

void ref_head_fwd(float *logprob, float *lse, float *entropy, float *logits, tlk_mat h, const tlk_packed *w, const int32_t *targets,
                  float inv_temp, int T) {
  for (int t = 0; t < T; t++) {
    stats s = row_stats(h, t, w, inv_temp);
    for (int j = 0; logits && j < w->N; j++) logits[(size_t)t * w->N + j] = (float)ref_dot(h, t, w, j);
    if (targets) logprob[t] = (float)(logit(h, t, w, targets[t], inv_temp) - s.lse);
    lse[t] = (float)s.lse;
    if (entropy) entropy[t] = (float)s.entropy;
  }
}

void ref_head_bwd(float *dh, float *dw, const float *logits, tlk_mat h, const tlk_packed *w, const int32_t *targets, const float *lse,
                  const float *entropy, const float *dlogprob, const float *dentropy, float inv_temp, int T) {
  int C = w->K;
  for (int t = 0; t < T; t++)
    for (int c0 = 0; c0 < C; c0 += REF_BLOCK) {
      int c1 = c0 + REF_BLOCK < C ? c0 + REF_BLOCK : C;
      double s[REF_BLOCK] = {0};
      for (int j = 0; j < w->N; j++) {
        double l = logit(h, t, w, j, inv_temp), p = exp(l - lse[t]);
        double d = dlogprob[t] * ((j == targets[t]) - p);
        if (dentropy) d -= dentropy[t] * p * (l - lse[t] + entropy[t]);
        d *= inv_temp;
        for (int c = c0; c < c1; c++) {
          s[c - c0] += d * ref_row(w, j)[c];
          if (dw) dw[(size_t)j * C + c] = (float)(dw[(size_t)j * C + c] + d * ref_get(h, t, c));
        }
      }
      for (int c = c0; c < c1; c++) dh[(size_t)t * C + c] = (float)s[c - c0];
    }
}

static int by_logit(const void *a, const void *b) {
  const ref_candidate *x = a, *y = b;
  if (x->logit != y->logit) return x->logit < y->logit ? 1 : -1;
  return (x->id > y->id) - (x->id < y->id);
}

static int by_id(const void *a, const void *b) {
  const ref_candidate *x = a, *y = b;
  return (x->id > y->id) - (x->id < y->id);
}

static int is_banned(const tlk_sample_row *row, int id) {
  for (int i = 0; i < row->n_banned; i++)
    if (row->banned[i] == id) return 1;
  return 0;
}

static double mass(const ref_candidate *c, double max) { return exp(c->logit - max); }

// Steps 2 to 4: how many of the ordered candidates are kept.
static int filter(const ref_candidate *c, int n, const tlk_sample_row *row) {
  double max = c[0].logit, total = 0, head = 0;
  if (row->top_k > 0 && row->top_k < n) n = row->top_k;
  if (row->top_p < 1) {
    for (int i = 0; i < n; i++) total += mass(&c[i], max);
    for (int i = 0; i < n; i++) {
      head += mass(&c[i], max);
      if (head >= row->top_p * total) n = i + 1;
    }
  }
  while (n > 1 && mass(&c[n - 1], max) < row->min_p) n--;
  return n;
}

static int draw(ref_candidate *c, int n, float u) {
  double max = c[0].logit, total = 0, sum = 0;
  qsort(c, (size_t)n, sizeof *c, by_id);
  for (int i = 0; i < n; i++) total += mass(&c[i], max);
  for (int i = 0; i < n; i++) {
    sum += mass(&c[i], max);
    if (sum > u * total) return c[i].id;
  }
  return c[n - 1].id;
}

void ref_head_sample(int32_t *ids, float *logprob, float *lse, float *entropy, tlk_mat h, const tlk_packed *w,
                     const tlk_sample_row *rows, int T) {
  for (int t = 0; t < T; t++) {
    float inv_temp = rows[t].temperature > 0 ? 1 / rows[t].temperature : 1;
    ref_candidate *c = w->order;
    int n = 0;
    for (int j = 0; j < w->N; j++)
      if (!is_banned(&rows[t], j)) c[n++] = (ref_candidate){logit(h, t, w, j, inv_temp), j};
    qsort(c, (size_t)n, sizeof *c, by_logit);
    ids[t] = rows[t].temperature > 0 ? draw(c, filter(c, n, &rows[t]), rows[t].u) : c[0].id;
    float sum;
    tlk_mat row = {(char *)h.p + (size_t)t * h.ld * tlk_dtype_size(h.dtype), h.dtype, h.ld};
    ref_head_fwd(&logprob[t], lse ? &lse[t] : &sum, entropy ? &entropy[t] : NULL, NULL, row, w, &ids[t], inv_temp, 1);
  }
}

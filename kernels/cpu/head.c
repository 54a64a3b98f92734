// head.c: log-probability, log-sum-exp and entropy over the vocabulary without ever holding (T, V) logits.
//
// The vocabulary is cut into fixed blocks of 512. Logits of up to 48 rows by one block are made in fp32 in a thread's buffer
// (96 kB) and reduced at once to three numbers per row: m = max l, s = sum e^(l - m), w = sum e^(l - m) (l - m). The blocks of a
// row are folded in order:  lse = M + log S,  entropy = log S - W / S,  with M the largest m and S, W rescaled to it (double).
// The sampler (sample.c) reduces with the same functions in the same order, so its log-probabilities are these bits.
//
// Memory: 12 bytes per row and block, and the weights are read once per pass over the rows. Cost: 2 T V C flop and T V exp.
#include "cpu.h"

enum { ROW_BLOCK = 48 };

head_stats OP(head_block_stats)(float *l, int n, float inv_temp) {
  vf max = v_set(-INFINITY), sum = {0}, weighted = {0}, scale = v_set(inv_temp);
  for (int j = 0; j < n; j += VL) {
    vf x = v_loadn(l + j, n - j, 0) * scale;
    v_storen(l + j, x, n - j);
    max = v_max(max, n - j >= VL ? x : v_loadn(l + j, n - j, -INFINITY));
  }
  float m = v_hmax(max);
  vf mv = v_set(m);
  for (int j = 0; j < n; j += VL) {
    vf x = v_loadn(l + j, n - j, -INFINITY) - mv;
    x = v_max(x, v_set(-200));  // e^-200 is 0; keeps 0 * inf out of the weighted sum
    vf e = v_exp(x);
    sum += e;
    weighted = v_fma(e, x, weighted);
  }
  return (head_stats){m, v_sum(sum), v_sum(weighted)};
}

void OP(head_finish)(const head_stats *s, int n, size_t stride, float *lse, float *entropy) {
  float max = -INFINITY;
  double sum = 0, weighted = 0;
  for (int i = 0; i < n; i++) max = s[i * stride].max > max ? s[i * stride].max : max;
  for (int i = 0; i < n; i++) {
    const head_stats *b = &s[i * stride];
    double d = (double)b->max - max, e = exp(d);
    sum += e * b->sum;
    weighted += e * (b->weighted + d * b->sum);
  }
  double log_sum = log(sum);
  *lse = (float)(max + log_sum);
  if (entropy) *entropy = (float)(log_sum - weighted / sum);
}

// logits of rows t0..t1 by one block into c, ld HEAD_BLOCK; returns the block's columns
int OP(head_logits)(float *c, ptrdiff_t ld, tlk_mat h, const tlk_packed *w, int t0, int t1, int block) {
  int bf16 = w->compute == TLK_BF16, v0 = block * HEAD_BLOCK, n = min_int(HEAD_BLOCK, w->N - v0);
  for (int j = 0; j < n; j += PANEL)
    OP(gemm)(bf16, t1 - t0, mat_row(h, t0), (ptrdiff_t)h.ld * (bf16 ? 2 : 4), 4,
             w->data + (size_t)(v0 + j) / PANEL * w->panel_words, w->K, PANEL, c + j, ld, 0);
  return n;
}

void OP(head_fwd)(float *logprob, float *lse, float *entropy, tlk_mat h, const tlk_packed *w, const int32_t *targets,
                  float inv_temp, int T) {
  if (T <= 0) return;
  int blocks = div_up(w->N, HEAD_BLOCK), parts = div_up(T, ROW_BLOCK), threads = threads_for((double)T * w->N * w->K);
  h = OP(as_act)(h, T, w->K, w->compute);
  head_stats *stats = tlk_cpu_scratch(SCRATCH_A, sizeof *stats * (size_t)blocks * T);
  float *buffers = tlk_cpu_scratch(SCRATCH_B, sizeof(float) * ROW_BLOCK * HEAD_BLOCK * threads);
#pragma omp parallel num_threads(threads)
  {
    float *c = buffers + (size_t)ROW_BLOCK * HEAD_BLOCK * omp_get_thread_num();
#pragma omp for schedule(static)
    for (int i = 0; i < blocks * parts; i++) {
      int b = i / parts, t0, t1, v0 = b * HEAD_BLOCK;
      share(T, i % parts, parts, &t0, &t1);
      int n = OP(head_logits)(c, HEAD_BLOCK, h, w, t0, t1, b);
      for (int t = t0; t < t1; t++) {
        float *l = c + (size_t)(t - t0) * HEAD_BLOCK;
        stats[(size_t)b * T + t] = OP(head_block_stats)(l, n, inv_temp);
        if (targets && targets[t] >= v0 && targets[t] < v0 + n) logprob[t] = l[targets[t] - v0];
      }
    }
#pragma omp for schedule(static)
    for (int t = 0; t < T; t++) {
      OP(head_finish)(stats + t, blocks, (size_t)T, &lse[t], entropy ? &entropy[t] : NULL);
      if (targets) logprob[t] -= lse[t];
    }
  }
}

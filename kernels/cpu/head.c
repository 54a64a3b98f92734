// head.c: log-probabilities and entropies from the LM head without ever holding (T, V) logits.
//
//   l = (h W^T) inv_temp,   lse = log sum_j exp l_j,   logprob = l_target - lse,   entropy = lse - sum_j p_j l_j
//
// The vocabulary is cut into blocks of 512, the rows into blocks of 48; a thread's items go down the rows of one block, whose
// weights stay in its cache. For each (row, block) the largest logit, the sum of exponentials and the sum of exponentials times
// logits are kept; a row's blocks are folded in order, in double. head_sample uses the same block function, so its logprobs are the
// same bits.
#include "cpu.h"

enum { ROW_BLOCK = 48 };

head_stats OP(head_block_stats)(float *l, int n, float inv_temp) {
  vf max = v_set(-INFINITY), sum = (vf){0}, weighted = (vf){0}, scale = v_set(inv_temp);
  for (int j = 0; j < n; j += VL) {
    vf x = v_loadn(l + j, n - j, 0) * scale;
    v_storen(l + j, x, n - j);
    max = v_max(max, v_loadn(l + j, n - j, -INFINITY));
  }
  head_stats s = {.max = v_hmax(max)};
  vf m = v_set(s.max);
  for (int j = 0; j < n; j += VL) {
    vf d = v_loadn(l + j, n - j, -INFINITY) - m, e = v_exp(d);
    sum += e;
    weighted = v_fma(e, v_max(d, v_set(-1e4f)), weighted);  // beyond -87 e is 0; the bound keeps 0 * inf out
  }
  s.sum = v_sum(sum);
  s.weighted = v_sum(weighted);
  return s;
}

void OP(head_finish)(const head_stats *s, int n, size_t stride, float *lse, float *entropy) {
  double max = -INFINITY, sum = 0, mean = 0;
  for (int i = 0; i < n; i++)
    if (s[i * stride].max > max) max = s[i * stride].max;
  for (int i = 0; i < n; i++) {
    const head_stats *b = &s[i * stride];
    double w = exp((double)b->max - max);
    sum += w * b->sum;
    mean += w * (b->weighted + (double)b->sum * ((double)b->max - max));  // of l - max
  }
  *lse = (float)(max + log(sum));
  if (entropy) *entropy = (float)(log(sum) - mean / sum);
}

void OP(head_fwd)(float *logprob, float *lse, float *entropy, tlk_mat h, const tlk_packed *w, const int32_t *targets, float inv_temp,
                  int T) {
  if (T <= 0) return;
  int V = w->N, C = w->K, bf16 = w->compute == TLK_BF16, blocks = div_up(V, HEAD_BLOCK), row_blocks = div_up(T, ROW_BLOCK);
  h = OP(as_act)(h, T, C, w->compute);
  int threads = threads_for((double)T * V * C);
  head_stats *stats = tlk_cpu_scratch(SCRATCH_A, sizeof *stats * (size_t)T * blocks);
  float *hit = tlk_cpu_scratch(SCRATCH_B, sizeof *hit * (size_t)T);
  float *tiles = tlk_cpu_scratch(SCRATCH_C, sizeof *tiles * ROW_BLOCK * HEAD_BLOCK * (size_t)threads);
  ptrdiff_t stride = (ptrdiff_t)h.ld * (bf16 ? 2 : 4);
#pragma omp parallel num_threads(threads)
  {
    float *tile = tiles + (size_t)ROW_BLOCK * HEAD_BLOCK * (size_t)omp_get_thread_num();
    int a, b;
    share(blocks * row_blocks, omp_get_thread_num(), threads, &a, &b);
    for (int i = a; i < b; i++) {
      int block = i / row_blocks, v0 = block * HEAD_BLOCK, n = min_int(HEAD_BLOCK, V - v0);
      int t0 = i % row_blocks * ROW_BLOCK, rows = min_int(ROW_BLOCK, T - t0);
      for (int j = 0; j < n; j += PANEL)
        OP(gemm)(bf16, rows, mat_row(h, t0), stride, 4, w->data + (size_t)((v0 + j) / PANEL) * w->panel_words, C,
                 min_int(PANEL, n - j), tile + j, HEAD_BLOCK, 0);
      for (int r = 0; r < rows; r++) {
        int t = t0 + r;
        stats[(size_t)t * blocks + block] = OP(head_block_stats)(tile + (size_t)r * HEAD_BLOCK, n, inv_temp);
        if (targets && targets[t] >= v0 && targets[t] < v0 + n) hit[t] = tile[(size_t)r * HEAD_BLOCK + targets[t] - v0];
      }
    }
  }
  for (int t = 0; t < T; t++) {
    OP(head_finish)(stats + (size_t)t * blocks, blocks, 1, &lse[t], entropy ? &entropy[t] : NULL);
    if (targets) logprob[t] = hit[t] - lse[t];
  }
}

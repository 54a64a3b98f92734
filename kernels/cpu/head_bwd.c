// head_bwd.c: gradient of logprob and entropy through the LM head; logits are made again, block by block.
//
//   dlogit_j = inv_temp (dlogprob (1[j = target] - p_j) - dentropy p_j (l_j - lse + entropy)),   p_j = exp(l_j - lse)
//   dh = sum_j dlogit_j w_j,   dw_j += sum_t dlogit_tj h_t
//
// For each block of 512 of the vocabulary, in order: its transposed weights are built once, together; then every thread takes rows
// of 48: logits, dlogits (in the activation dtype), and their product with the transposed block is added to dh. With dw wanted,
// the block's dlogits of all rows are kept, (T, 512), and multiplied with h.
#include "cpu.h"

enum { ROW_BLOCK = 48 };

typedef struct {
  const int32_t *targets;
  const float *lse, *entropy, *dlogprob, *dentropy;
  float inv_temp;
} loss;

// one row of a block: l (n logits, unscaled) -> d (n) in the activation dtype
static void dlogits(const loss *q, void *d, int bf16, const float *l, int t, int v0, int n) {
  vf scale = v_set(q->inv_temp), lse = v_set(q->lse[t]), up = v_set(-q->dlogprob[t] * q->inv_temp);
  vf ent = v_set(q->dentropy ? -q->dentropy[t] * q->inv_temp : 0), h = v_set(q->entropy && q->dentropy ? q->entropy[t] : 0);
  int hit = q->targets[t] - v0;
  for (int j = 0; j < n; j += VL) {
    vf x = v_loadn(l + j, n - j, 0) * scale - lse, p = v_exp(x);
    vf g = p * v_fma(ent, x + h, up);
    if (hit >= j && hit < j + VL && hit < n) g[hit - j] += q->dlogprob[t] * q->inv_temp;
    v_store_as(d, bf16, j, g, n - j);
  }
}

void OP(head_bwd)(float *dh, float *dw, tlk_mat h, const tlk_packed *w, const int32_t *targets, const float *lse,
                  const float *entropy, const float *dlogprob, const float *dentropy, float inv_temp, int T) {
  if (T <= 0) return;
  int V = w->N, C = w->K, bf16 = w->compute == TLK_BF16, es = bf16 ? 2 : 4, panels = n_panels(C), row_blocks = div_up(T, ROW_BLOCK);
  h = OP(as_act)(h, T, C, w->compute);
  loss q = {.targets = targets, .lse = lse, .entropy = entropy, .dlogprob = dlogprob, .dentropy = dentropy, .inv_temp = inv_temp};
  int threads = threads_for((double)T * V * C);
  size_t piece = (size_t)PANEL * HEAD_BLOCK, d_rows = dw ? (size_t)T : (size_t)ROW_BLOCK * threads;
  uint32_t *turned = tlk_cpu_scratch(SCRATCH_E, piece * 4 * (size_t)panels);
  char *d = tlk_cpu_scratch(SCRATCH_D, d_rows * HEAD_BLOCK * (size_t)es);
  float *tiles = tlk_cpu_scratch(SCRATCH_C, sizeof *tiles * ROW_BLOCK * HEAD_BLOCK * (size_t)threads);
  ptrdiff_t stride = (ptrdiff_t)h.ld * es, d_stride = (ptrdiff_t)HEAD_BLOCK * es;
  for (int v0 = 0; v0 < V; v0 += HEAD_BLOCK) {
    int n = min_int(HEAD_BLOCK, V - v0);
#pragma omp parallel num_threads(threads)
    {
      int me = omp_get_thread_num();
      float *tile = tiles + (size_t)ROW_BLOCK * HEAD_BLOCK * (size_t)me;
#pragma omp for schedule(static)
      for (int p = 0; p < panels; p++) OP(panel_transposed)(turned + piece * (size_t)p, w, p * PANEL, v0, v0 + n);
#pragma omp for schedule(static)
      for (int i = 0; i < row_blocks; i++) {
        int t0 = i * ROW_BLOCK, rows = min_int(ROW_BLOCK, T - t0);
        char *mine = d + (size_t)d_stride * (size_t)(dw ? t0 : me * ROW_BLOCK);
        for (int j = 0; j < n; j += PANEL)
          OP(gemm)(bf16, rows, mat_row(h, t0), stride, 4, w->data + (size_t)((v0 + j) / PANEL) * w->panel_words, C,
                   min_int(PANEL, n - j), tile + j, HEAD_BLOCK, 0);
        for (int r = 0; r < rows; r++) dlogits(&q, mine + r * d_stride, bf16, tile + (size_t)r * HEAD_BLOCK, t0 + r, v0, n);
        for (int p = 0; p < panels; p++)
          OP(gemm_out)(bf16, rows, mine, d_stride, 4, turned + piece * (size_t)p, n, min_int(PANEL, C - p * PANEL),
                       dh + (size_t)t0 * C + p * PANEL, C, v0 > 0);
      }
    }
    if (dw) OP(linear_bwd_w)(dw + (size_t)v0 * C, (tlk_mat){d, bf16 ? TLK_BF16 : TLK_F32, HEAD_BLOCK}, h, T, n, C);
  }
}

// head_bwd.c: the gradient of log-probability and entropy with respect to the hidden rows and the head's weight.
//   p_j = exp(l_j - lse),  dlogit_j = inv_temp (dlogprob (1[j = target] - p_j) - dentropy p_j (l_j - lse + entropy)),
//   dh = sum_j dlogit_j w_j,  dw_j += sum_t dlogit_tj h_t.
//
// Up to ROWS rows at a time, block after block of 512 tokens: logits again, dlogits in the compute dtype (ROWS x 512), and the
// block of the weight transposed once for all rows (512 x C). dh sums over blocks in order, dw over row chunks in order; a
// row's logits, dlogits and dh are made by one thread. Scratch: ROWS (512 + C) + 512 C numbers. Cost: 4 T V C flop, 6 with dw.
#include "cpu.h"

enum { ROWS = 1024, LOGIT_ROWS = 48 };

typedef struct {
  tlk_mat h;
  const tlk_packed *w;
  const int32_t *targets;
  const float *lse, *entropy, *dlogprob, *dentropy;
  float inv_temp;
} job;

static void row_dlogits(const job *q, void *out, const float *raw, int t, int v0, int n) {
  int bf16 = q->w->compute == TLK_BF16, target = q->targets[t] - v0, with_entropy = q->dentropy && q->entropy;
  vf lse = v_set(q->lse[t]), scale = v_set(q->inv_temp), up = v_set(q->dlogprob[t]);
  vf de = v_set(with_entropy ? q->dentropy[t] : 0), ent = v_set(with_entropy ? q->entropy[t] : 0);
  vi lane;
  for (int l = 0; l < VL; l++) lane[l] = l;
  for (int j = 0; j < n; j += VL) {
    vf x = v_loadn(raw + j, n - j, 0) * scale - lse, p = v_exp(x);
    vf one = v_select(lane + j == target, v_set(1), v_set(0));
    vf d = v_fma(up, one - p, -(de * p * (x + ent)));
    v_store_as(out, bf16, j, d * scale, n - j);
  }
}

// dlogits of rows t0..t1 of the chunk that starts at row `first`
static void dlogits(const job *q, tlk_mat dl, float *c, int first, int t0, int t1, int block) {
  for (int t = t0; t < t1; t += LOGIT_ROWS) {
    int end = min_int(t1, t + LOGIT_ROWS), n = OP(head_logits)(c, HEAD_BLOCK, q->h, q->w, first + t, first + end, block);
    for (int i = t; i < end; i++)
      row_dlogits(q, mat_row_out(dl, i), c + (size_t)(i - t) * HEAD_BLOCK, first + i, block * HEAD_BLOCK, n);
  }
}

typedef struct {
  tlk_mat dl;            // (ROWS, 512) act
  float *c;              // a thread's logits
  uint32_t *turned;      // panels over C of the transposed block
  char *dl_panels, *h_panels;
  size_t turned_words, t_bytes;  // per panel
} space;

// dh (chunk) += dlogits W_block and dw_block += dlogits^T h, between barriers of the threads that share the chunk
static void chunk_block(const job *q, float *dh, float *dw, int first, int rows, int block, const space *sp) {
  const tlk_packed *w = q->w;
  int bf16 = w->compute == TLK_BF16, C = w->K, pc = n_panels(C), v0 = block * HEAD_BLOCK, n = min_int(HEAD_BLOCK, w->N - v0);
  int t0, t1, pn = n_panels(n);
  share(rows, omp_get_thread_num(), omp_get_num_threads(), &t0, &t1);
#pragma omp for schedule(static) nowait
  for (int i = 0; i < pc; i++) OP(panel_transposed)(sp->turned + i * sp->turned_words, w, i * PANEL, v0, v0 + n);
  dlogits(q, sp->dl, sp->c, first, t0, t1, block);
#pragma omp barrier
  for (int i = 0; i < pc; i++)
    OP(gemm_out)(bf16, t1 - t0, mat_row(sp->dl, t0), HEAD_BLOCK * (bf16 ? 2 : 4), 4, sp->turned + i * sp->turned_words, n,
                 min_int(PANEL, C - i * PANEL), dh + (size_t)(first + t0) * C + i * PANEL, C, block > 0);
  if (dw) {
#pragma omp for schedule(static)
    for (int i = 0; i < pn; i++)
      OP(panel_of_columns)(sp->dl_panels + i * sp->t_bytes, bf16, sp->dl, 0, rows, i * PANEL, min_int(PANEL, n - i * PANEL));
#pragma omp for schedule(static)
    for (int i = 0; i < pn * pc; i++) {
      int j = i / pc * PANEL, c = i % pc * PANEL;
      OP(gemm_out)(bf16, min_int(PANEL, n - j), sp->dl_panels + i / pc * sp->t_bytes, 4, STEP_BYTES,
                   sp->h_panels + i % pc * sp->t_bytes, rows, min_int(PANEL, C - c), dw + (size_t)(v0 + j) * C + c, C, 1);
    }
  } else {
#pragma omp barrier
  }
}

void OP(head_bwd)(float *dh, float *dw, tlk_mat h, const tlk_packed *w, const int32_t *targets, const float *lse,
                  const float *entropy, const float *dlogprob, const float *dentropy, float inv_temp, int T) {
  if (T <= 0) return;
  int bf16 = w->compute == TLK_BF16, C = w->K, pc = n_panels(C), threads = threads_for((double)T * w->N * C);
  int rows = min_int(T, ROWS);
  job q = {OP(as_act)(h, T, C, w->compute), w, targets, lse, entropy, dlogprob, dentropy, inv_temp};
  space sp = {.turned_words = (size_t)n_steps(HEAD_BLOCK, bf16) * PANEL, .t_bytes = (size_t)n_steps(rows, bf16) * STEP_BYTES};
  sp.dl = (tlk_mat){tlk_cpu_scratch(SCRATCH_A, (size_t)rows * HEAD_BLOCK * (bf16 ? 2 : 4)), w->compute, HEAD_BLOCK};
  sp.turned = tlk_cpu_scratch(SCRATCH_B, sp.turned_words * 4 * pc);
  float *buffers = tlk_cpu_scratch(SCRATCH_C, sizeof(float) * LOGIT_ROWS * HEAD_BLOCK * threads);
  if (dw) {
    sp.h_panels = tlk_cpu_scratch(SCRATCH_D, sp.t_bytes * (pc + n_panels(HEAD_BLOCK)));
    sp.dl_panels = sp.h_panels + sp.t_bytes * pc;
  }
#pragma omp parallel num_threads(threads)
  {
    space mine = sp;
    mine.c = buffers + (size_t)LOGIT_ROWS * HEAD_BLOCK * omp_get_thread_num();
    for (int t = 0; t < T; t += ROWS) {
      int n = min_int(ROWS, T - t);
      if (dw) {
#pragma omp for schedule(static)
        for (int i = 0; i < pc; i++)
          OP(panel_of_columns)(sp.h_panels + i * sp.t_bytes, bf16, q.h, t, t + n, i * PANEL, min_int(PANEL, C - i * PANEL));
      }
      for (int b = 0; b < div_up(w->N, HEAD_BLOCK); b++) chunk_block(&q, dh, dw, t, n, b, &mine);
    }
  }
}

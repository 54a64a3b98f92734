// head_bwd.c: the gradient of log-probability and entropy with respect to the hidden rows and the head's weight.
//   p_j = exp(l_j - lse),  dlogit_j = inv_temp (dlogprob (1[j = target] - p_j) - dentropy p_j (l_j - lse + entropy)),
//   dh = sum_j dlogit_j w_j,  dw_j += sum_t dlogit_tj h_t.
//
// Up to ROWS rows at a time, block after block of 512 tokens: logits again (or those that the forward direction left), dlogits in
// the dtype of products (ROWS x 512), and the block of the weight transposed once for all rows (512 x C). dh sums over blocks in order,
// dw over row chunks in order; a row's logits, dlogits and dh are made by one thread. Scratch: ROWS (512 + C) + 512 C numbers.
// Cost: 4 T V C flop, 6 with dw; 2 less from logits that were left, which are read from memory then.
#include "cpu.h"

enum { ROWS = 1024, LOGIT_ROWS = 48 };

typedef struct {
  float *dh, *dw;
  tlk_mat h;
  const tlk_packed *w;
  const int32_t *targets;
  const float *logits, *lse, *entropy, *dlogprob, *dentropy;
  float inv_temp;
  int first, rows, block, n, parts;  // the chunk's rows; the block and its tokens; row parts of a chunk
  tlk_mat dl;                        // (ROWS, 512) bf16 or fp32: the block's dlogits
  float *buffers;                    // a thread's 48 x 512 logits
  uint32_t *turned;                  // panels over C of the transposed block
  char *dl_panels, *h_panels;        // for dw: reduction over the chunk's rows
  size_t turned_words, t_bytes;      // of one panel
} job;

// logits raw of row t in v0 .. v0 + n -> dlogits. plain: there is no term of entropy, and the target is not among them
INLINE void dlogits(const job *q, void *out, const int bf16, const float *raw, int t, int v0, int n, const int plain) {
  int target = q->targets[t] - v0, with_entropy = !plain && q->dentropy && q->entropy;
  vf lse = v_set(q->lse[t]), scale = v_set(q->inv_temp), up = v_set(q->dlogprob[t]);
  vf de = v_set(with_entropy ? q->dentropy[t] : 0), ent = v_set(with_entropy ? q->entropy[t] : 0);
  vi lane;
  for (int l = 0; l < VL; l++) lane[l] = l;
  for (int j = 0; j < n; j += VL) {
    vf x = v_loadn(raw + j, n - j, 0) * scale - lse, p = v_exp(x), d;
    if (plain) d = up * -p;
    else d = v_fma(up, v_select(lane + j == target, v_set(1), v_set(0)) - p, -(de * p * (x + ent)));
    v_store_as(out, bf16, j, d * scale, n - j);
  }
}

static void row_dlogits(const job *q, void *out, const float *raw, int t, int v0, int n) {
  int bf16 = q->w->compute == TLK_BF16, target = q->targets[t] - v0;
  if ((q->dentropy && q->entropy) || (target >= 0 && target < n)) dlogits(q, out, bf16, raw, t, v0, n, 0);
  else if (bf16 && n == HEAD_BLOCK) dlogits(q, out, 1, raw, t, v0, HEAD_BLOCK, 1);
  else dlogits(q, out, bf16, raw, t, v0, n, 1);
}

// items: the panels of the transposed block, then the dlogits of the chunk's row parts
static void turn_and_dlogits(const void *ctx, int i, int thread) {
  const job *q = ctx;
  int pc = n_panels(q->w->K), v0 = q->block * HEAD_BLOCK, t0, t1;
  if (i < pc) {
    OP(panel_transposed)(q->turned + i * q->turned_words, q->w, i * PANEL, v0, v0 + q->n);
    return;
  }
  share(q->rows, i - pc, q->parts, &t0, &t1);
  float *c = q->buffers + (size_t)LOGIT_ROWS * HEAD_BLOCK * thread;
  if (!q->logits) OP(head_logits)(c, HEAD_BLOCK, &(head_rows){.act = q->h}, q->w, q->first + t0, q->first + t1, q->block);
  for (int t = t0; t < t1; t++) {
    const float *l = q->logits ? q->logits + (size_t)(q->first + t) * q->w->N + v0 : c + (size_t)(t - t0) * HEAD_BLOCK;
    if (q->logits && t + 2 < t1)  // rows are far apart in memory
      for (int j = 0; j < q->n; j += 16) __builtin_prefetch(l + 2 * (size_t)q->w->N + j, 0, 3);
    row_dlogits(q, mat_row_out(q->dl, t), l, q->first + t, v0, q->n);
  }
}

// items: dh of the row parts, then (with dw) the dlogits as panels
static void add_dh(const void *ctx, int i, int thread) {
  const job *q = ctx;
  int bf16 = q->w->compute == TLK_BF16, C = q->w->K, t0, t1;
  if (i >= q->parts) {
    int c = (i - q->parts) * PANEL;
    OP(panel_of_columns)(q->dl_panels + (i - q->parts) * q->t_bytes, bf16, q->dl, 0, q->rows, c, min_int(PANEL, q->n - c));
    return;
  }
  share(q->rows, i, q->parts, &t0, &t1);
  for (int p = 0; p < n_panels(C); p++)
    OP(gemm_out)(bf16, t1 - t0, mat_row(q->dl, t0), HEAD_BLOCK * (bf16 ? 2 : 4), 4, q->turned + p * q->turned_words, q->n,
                 min_int(PANEL, C - p * PANEL), q->dh + (size_t)(q->first + t0) * C + p * PANEL, C, q->block > 0);
}

static void add_dw(const void *ctx, int i, int thread) {
  const job *q = ctx;
  int C = q->w->K, pc = n_panels(C), j = i / pc * PANEL, c = i % pc * PANEL;
  OP(gemm_out)(q->w->compute == TLK_BF16, min_int(PANEL, q->n - j), q->dl_panels + i / pc * q->t_bytes, 4, STEP_BYTES,
               q->h_panels + i % pc * q->t_bytes, q->rows, min_int(PANEL, C - c),
               q->dw + (size_t)(q->block * HEAD_BLOCK + j) * C + c, C, 1);
}

static void pack_h(const void *ctx, int i, int thread) {
  const job *q = ctx;
  OP(panel_of_columns)(q->h_panels + i * q->t_bytes, q->w->compute == TLK_BF16, q->h, q->first, q->first + q->rows, i * PANEL,
                       min_int(PANEL, q->w->K - i * PANEL));
}

static void chunk(job *q) {
  int C = q->w->K, V = q->w->N, pc = n_panels(C);
  q->parts = div_up(q->rows, LOGIT_ROWS);
  if (q->dw) tlk_run(pc, (double)q->rows * C, pack_h, q);
  for (q->block = 0; q->block < div_up(V, HEAD_BLOCK); q->block++) {
    q->n = min_int(HEAD_BLOCK, V - q->block * HEAD_BLOCK);
    double cost = (double)q->rows * C * q->n / 16;
    tlk_run(pc + q->parts, cost, turn_and_dlogits, q);
    tlk_run(q->parts + (q->dw ? n_panels(q->n) : 0), cost, add_dh, q);
    if (q->dw) tlk_run(n_panels(q->n) * pc, cost, add_dw, q);
  }
}

void OP(head_bwd)(float *dh, float *dw, const float *logits, tlk_mat h, const tlk_packed *w, const int32_t *targets, const float *lse,
                  const float *entropy, const float *dlogprob, const float *dentropy, float inv_temp, int T) {
  int bf16 = w->compute == TLK_BF16, pc = n_panels(w->K), rows = min_int(T, ROWS);
  if (T <= 0) return;
  job q = {.dh = dh, .dw = dw, .logits = logits, .w = w, .targets = targets, .lse = lse, .entropy = entropy, .inv_temp = inv_temp};
  q.h = OP(as_act)(h, T, w->K, w->compute), q.dlogprob = dlogprob, q.dentropy = dentropy;
  q.turned_words = (size_t)n_steps(HEAD_BLOCK, bf16) * PANEL;
  q.t_bytes = (size_t)n_steps(rows, bf16) * STEP_BYTES;
  q.dl = (tlk_mat){tlk_cpu_scratch(SCRATCH_A, (size_t)rows * HEAD_BLOCK * (bf16 ? 2 : 4)), bf16 ? TLK_BF16 : TLK_F32, HEAD_BLOCK};
  q.turned = tlk_cpu_scratch(SCRATCH_B, q.turned_words * 4 * pc);
  q.buffers = tlk_cpu_scratch(SCRATCH_C, sizeof(float) * LOGIT_ROWS * HEAD_BLOCK * tlk_cpu_threads());
  if (dw) q.h_panels = tlk_cpu_scratch(SCRATCH_D, q.t_bytes * (pc + n_panels(HEAD_BLOCK)));
  if (dw) q.dl_panels = q.h_panels + q.t_bytes * pc;
  for (q.first = 0; q.first < T; q.first += ROWS) {
    q.rows = min_int(ROWS, T - q.first);
    chunk(&q);
  }
}

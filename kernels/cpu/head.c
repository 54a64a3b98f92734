// head.c: log-probability, log-sum-exp and entropy over the vocabulary without ever holding (T, V) logits.
//
// The vocabulary is cut into fixed blocks of 512. Logits of up to 48 rows by one block are made in fp32 in a thread's buffer
// (96 kB) and reduced at once to three numbers per row: m = max l, s = sum e^(l - m), w = sum e^(l - m) (l - m). The blocks of
// a row are folded in order, in double:  lse = M + log S,  entropy = log S - W / S,  M the largest m, S and W rescaled to it.
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

head_rows OP(head_rows_of)(tlk_mat h, int T, const tlk_packed *w) {
  head_rows r = {0};
  if (w->scale) r.bytes = OP(as_bytes)(h, T, w->K);
  else r.act = OP(as_act)(h, T, w->K, w->compute);
  return r;
}

int OP(head_logits)(float *c, ptrdiff_t ld, const head_rows *h, const tlk_packed *w, int t0, int t1, int block) {
  int bf16 = w->compute == TLK_BF16, v0 = block * HEAD_BLOCK, n = min_int(HEAD_BLOCK, w->N - v0);
  for (int j = 0; j < n; j += PANEL) {
    int panel = (v0 + j) / PANEL;
    if (w->scale) OP(gemm_bytes)(c + j, ld, &h->bytes, w, t0, t1, panel, 0, PANEL);
    else OP(gemm_weight)(bf16, t1 - t0, mat_row(h->act, t0), (ptrdiff_t)h->act.ld * (bf16 ? 2 : 4),
                         w->data + panel * w->panel_words, w->K, PANEL, c + j, ld, 0);
  }
  return n;
}

typedef struct {
  float *logprob, *lse, *entropy, *logits;
  head_rows h;
  const tlk_packed *w;
  const int32_t *targets;
  float inv_temp;
  int T, blocks, parts;
  head_stats *stats;  // (blocks, T)
  float *buffers;     // a thread's 48 x 512 logits
} job;

// out (n) = l, past the caches where the processor can: nothing reads it until all blocks are done. finish_stores must follow.
static void store_past_caches(float *out, const float *l, int n) {
#if defined(__AVX512F__)
  if (n % VL == 0 && (uintptr_t)out % 64 == 0) {
    for (int j = 0; j < n; j += VL) _mm512_stream_ps(out + j, (__m512)v_load(l + j));
    return;
  }
#endif
  memcpy(out, l, sizeof *l * (size_t)n);
}
static void finish_stores(void) {  // another thread may read them then
#if defined(__AVX512F__)
  _mm_sfence();
#endif
}

static void block_part(const void *ctx, int i, int thread) {
  const job *q = ctx;
  float *c = q->buffers + (size_t)ROW_BLOCK * HEAD_BLOCK * thread;
  int b = i / q->parts, v0 = b * HEAD_BLOCK, t0, t1;
  share(q->T, i % q->parts, q->parts, &t0, &t1);
  int n = OP(head_logits)(c, HEAD_BLOCK, &q->h, q->w, t0, t1, b);
  for (int t = t0; t < t1; t++) {
    float *l = c + (size_t)(t - t0) * HEAD_BLOCK;
    if (q->logits) store_past_caches(q->logits + (size_t)t * q->w->N + v0, l, n);
    q->stats[(size_t)b * q->T + t] = OP(head_block_stats)(l, n, q->inv_temp);
    if (q->targets && q->targets[t] >= v0 && q->targets[t] < v0 + n) q->logprob[t] = l[q->targets[t] - v0];
  }
  if (q->logits) finish_stores();
}

static void finish_row(const void *ctx, int t, int thread) {
  const job *q = ctx;
  OP(head_finish)(q->stats + t, q->blocks, (size_t)q->T, &q->lse[t], q->entropy ? &q->entropy[t] : NULL);
  if (q->targets) q->logprob[t] -= q->lse[t];
}

void OP(head_fwd)(float *logprob, float *lse, float *entropy, float *logits, tlk_mat h, const tlk_packed *w, const int32_t *targets,
                  float inv_temp, int T) {
  if (T <= 0) return;
  int blocks = div_up(w->N, HEAD_BLOCK);
  job q = {.logprob = logprob, .lse = lse, .entropy = entropy, .logits = logits, .w = w, .targets = targets, .inv_temp = inv_temp, .T = T};
  q.h = OP(head_rows_of)(h, T, w);
  q.blocks = blocks, q.parts = div_up(T, ROW_BLOCK);
  q.stats = tlk_cpu_scratch(SCRATCH_A, sizeof *q.stats * (size_t)blocks * T);
  q.buffers = tlk_cpu_scratch(SCRATCH_B, sizeof(float) * ROW_BLOCK * HEAD_BLOCK * tlk_cpu_threads());
  tlk_run(blocks * q.parts, (double)T * w->N * w->K / 16, block_part, &q);
  tlk_run(T, (double)T * blocks * 20, finish_row, &q);
}

// packed.c: frozen weights in the backend's layout, and back.
//
// W (N, K) is cut into panels of 64 rows; a panel is the transposition of its rows seen as 32-bit words (one fp32, or two
// bf16 neighbours), so packing a bf16 checkpoint moves words and never touches a value. Zeros pad N to 64 and an odd K to
// pairs. int8 rows are rounded first (int8.c), padded to fours, and keep a scale and a sum each. There is one copy: the gradient of the input transposes pieces of it on the fly (linear_bwd.c).
#define _GNU_SOURCE
#include "cpu.h"

// one source row as its panel has it, padded to whole words
static void convert_row(void *out, int compute, const void *row, int w_dtype, int K) {
  if (compute == TLK_F16) {
    for (int k = 0; k < K; k += VL) v_storen((float *)out + k, v_from_f16(v_to_f16(v_load_as(row, w_dtype, k, K - k))), K - k);
    return;
  }
  OP(convert)(out, compute, row, w_dtype, K);
  if (compute == TLK_BF16 && (K & 1)) ((uint16_t *)out)[K] = 0;
}

// one source row as integers, padded to whole words; its scale and sum
static void quantize(tlk_packed *p, int n, int8_t *out, const void *row, int w_dtype) {
  int32_t sum = 0;
  p->scale[n] = OP(quantize_row)((uint8_t *)out, 0, row, w_dtype, p->K);
  for (int k = 0; k < p->K; k++) sum += out[k];
  for (int k = p->K; k < p->steps * 4; k++) out[k] = 0;
  p->sum[n] = 128 * sum;
}

typedef struct {
  tlk_packed *p;
  const void *w;
  int w_dtype, direct;  // direct: rows are whole words of the right kind as they are
  char *scratch;        // a thread's 64 converted rows
  size_t each;
} fill_job;

static void fill_panel(const void *ctx, int i, int thread) {
  const fill_job *q = ctx;
  tlk_packed *p = q->p;
  const void *rows[PANEL];
  int n = min_int(PANEL, p->N - i * PANEL);
  for (int r = 0; r < n; r++) {
    rows[r] = (const char *)q->w + (size_t)(i * PANEL + r) * p->K * tlk_dtype_size(q->w_dtype);
    if (q->direct) continue;
    char *tmp = q->scratch + q->each * thread, *to = tmp + (size_t)r * p->steps * 4;
    if (p->scale) quantize(p, i * PANEL + r, (int8_t *)to, rows[r], q->w_dtype);
    else convert_row(to, p->compute, rows[r], q->w_dtype, p->K);
    rows[r] = to;
  }
  OP(panel_of_rows)(p->data + (size_t)i * p->panel_words, rows, n, p->steps);
}

static void fill(tlk_packed *p, const void *w, int w_dtype) {
  int as_they_are = w_dtype == p->compute && (w_dtype == TLK_F32 || (w_dtype == TLK_BF16 && p->K % 2 == 0));
  fill_job q = {p, w, w_dtype, as_they_are, NULL, (size_t)p->steps * STEP_BYTES};
  if (!q.direct) q.scratch = tlk_cpu_scratch(SCRATCH_A, q.each * tlk_cpu_threads());
  tlk_run(n_panels(p->N), (double)p->N * p->K, fill_panel, &q);
}

tlk_packed *OP(pack)(const void *w, int w_dtype, int N, int K, int compute) {
  tlk_packed *p = calloc(1, sizeof *p);
  if (!p) return NULL;
  p->N = N, p->K = K, p->compute = compute;
  p->steps = n_steps(K, kind_of(compute));
  p->panel_words = (size_t)p->steps * PANEL;
  p->bytes = p->panel_words * 4 * (size_t)n_panels(N);
  p->data = tlk_cpu_block_alloc(p->bytes, &p->block);
  if (compute == TLK_I8) {
    p->scale = calloc((size_t)n_panels(N) * PANEL, sizeof *p->scale);
    p->sum = calloc((size_t)n_panels(N) * PANEL, sizeof *p->sum);
  }
  if (!p->data || (compute == TLK_I8 && (!p->scale || !p->sum))) {
    OP(packed_free)(p);
    return NULL;
  }
  fill(p, w, w_dtype);
  return p;
}

void OP(repack)(tlk_packed *p, const float *w) { fill(p, w, TLK_F32); }

void OP(packed_row)(float *row, const tlk_packed *p, int n) {
  const uint32_t *from = p->data + (size_t)(n / PANEL) * p->panel_words + n % PANEL;
  if (p->scale) {
    for (int k = 0; k < p->K; k++) row[k] = p->scale[n] * (float)(int8_t)(from[(size_t)(k / 4) * PANEL] >> 8 * (k % 4));
    return;
  }
  int bf16 = p->compute == TLK_BF16;
  for (int s = 0; s < p->steps; s++, from += PANEL) {
    if (s + 8 < p->steps) __builtin_prefetch(from + 8 * PANEL);
    uint32_t low = bf16 ? *from << 16 : *from, high = *from & 0xffff0000u;
    memcpy(row + (bf16 ? 2 * s : s), &low, 4);
    if (bf16 && 2 * s + 1 < p->K) memcpy(row + 2 * s + 1, &high, 4);
  }
}

typedef struct {
  float *w;
  const tlk_packed *p;
  int n0;
} unpack_job;

static void unpack_row(const void *ctx, int i, int thread) {
  const unpack_job *q = ctx;
  OP(packed_row)(q->w + (size_t)i * q->p->K, q->p, q->n0 + i);
}

void OP(unpack)(float *w, const tlk_packed *p, int n0, int n1) {
  unpack_job q = {w, p, n0};
  tlk_run(n1 - n0, (double)(n1 - n0) * p->K, unpack_row, &q);
}

void OP(packed_free)(tlk_packed *p) {
  if (!p) return;
  tlk_cpu_block_release(p->block);
  free(p->scale);
  free(p->sum);
  free(p);
}

size_t OP(packed_bytes)(const tlk_packed *p) {
  return p->bytes + sizeof *p + (p->scale ? (size_t)n_panels(p->N) * PANEL * 8 : 0);
}

void OP(packed_dims)(const tlk_packed *p, int *N, int *K, int *compute) {
  if (N) *N = p->N;
  if (K) *K = p->K;
  if (compute) *compute = p->compute;
}

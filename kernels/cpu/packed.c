// packed.c: frozen weights in the backend's layout, and back.
//
// W (N, K) is cut into panels of 64 rows; a panel is the transposition of its rows seen as 32-bit words (one fp32, or two
// bf16 neighbours), so packing a bf16 checkpoint moves words and never touches a value. Zeros pad N to 64 and an odd K to
// pairs. There is one copy: the gradient of the input transposes pieces of it on the fly (linear_bwd.c).
#define _GNU_SOURCE
#include "cpu.h"
#include <sys/mman.h>

// Half precision to fp32, exact: the exponent is rebiased by a multiplication, which also normalises subnormals.
static float from_f16(uint16_t h) {
  union { uint32_t u; float f; } x = {(uint32_t)(h & 0x7fff) << 13}, inf = {0x7f800000u};
  x.f *= 0x1p112f;
  if ((h & 0x7c00) == 0x7c00) x.u = inf.u | (uint32_t)(h & 0x3ff) << 13;
  x.u |= (uint32_t)(h & 0x8000) << 16;
  return x.f;
}

// one source row as the compute dtype, padded to whole words
static void convert_row(void *out, int bf16, const void *row, int w_dtype, int K) {
  if (w_dtype == TLK_F16) {
    for (int k = 0; k < K; k += 64) {
      float piece[64];
      int n = min_int(64, K - k);
      for (int i = 0; i < n; i++) piece[i] = from_f16(((const uint16_t *)row)[k + i]);
      OP(convert)((char *)out + (size_t)k * (bf16 ? 2 : 4), bf16, piece, 0, n);
    }
  } else {
    OP(convert)(out, bf16, row, w_dtype == TLK_BF16, K);
  }
  if (bf16 && (K & 1)) ((uint16_t *)out)[K] = 0;
}

static void fill(tlk_packed *p, const void *w, int w_dtype) {
  int bf16 = p->compute == TLK_BF16, threads = threads_for((double)p->N * p->K);
  size_t row_bytes = (size_t)p->K * tlk_dtype_size(w_dtype), per_thread = (size_t)p->steps * STEP_BYTES;
  int direct = w_dtype == p->compute && !(bf16 && (p->K & 1));
  char *scratch = direct ? NULL : tlk_cpu_scratch(SCRATCH_A, per_thread * threads);
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int i = 0; i < n_panels(p->N); i++) {
    const void *rows[PANEL];
    int n = min_int(PANEL, p->N - i * PANEL);
    for (int r = 0; r < n; r++) {
      rows[r] = (const char *)w + (size_t)(i * PANEL + r) * row_bytes;
      if (direct) continue;
      char *tmp = scratch + per_thread * omp_get_thread_num() + (size_t)r * p->steps * 4;
      convert_row(tmp, bf16, rows[r], w_dtype, p->K);
      rows[r] = tmp;
    }
    OP(panel_of_rows)(p->data + (size_t)i * p->panel_words, rows, n, p->steps);
  }
}

// Large weights are aligned to and advised as huge pages: a panel's steps then do not miss the TLB.
tlk_packed *OP(pack)(const void *w, int w_dtype, int N, int K, int compute) {
  tlk_packed *p = calloc(1, sizeof *p);
  if (!p) return NULL;
  p->N = N, p->K = K, p->compute = compute;
  p->steps = n_steps(K, compute == TLK_BF16);
  p->panel_words = (size_t)p->steps * PANEL;
  p->bytes = p->panel_words * 4 * (size_t)n_panels(N);
  size_t align = p->bytes >= (size_t)4 << 20 ? (size_t)2 << 20 : 64;
  p->data = aligned_alloc(align, (p->bytes + align - 1) / align * align);
  if (!p->data) {
    free(p);
    return NULL;
  }
  if (align > 64) madvise(p->data, p->bytes, MADV_HUGEPAGE);
  fill(p, w, w_dtype);
  return p;
}

void OP(repack)(tlk_packed *p, const float *w) { fill(p, w, TLK_F32); }

void OP(unpack)(float *w, const tlk_packed *p, int n0, int n1) {
  int bf16 = p->compute == TLK_BF16;
#pragma omp parallel for num_threads(threads_for((double)(n1 - n0) * p->K)) schedule(static)
  for (int n = n0; n < n1; n++) {
    const uint32_t *from = p->data + (size_t)(n / PANEL) * p->panel_words + n % PANEL;
    float *to = w + (size_t)(n - n0) * p->K;
    for (int k = 0; k < p->K; k++) {
      union { uint32_t u; float f; } x;
      if (bf16)
        x.u = k & 1 ? from[(size_t)(k / 2) * PANEL] & 0xffff0000u : from[(size_t)(k / 2) * PANEL] << 16;
      else
        x.u = from[(size_t)k * PANEL];
      to[k] = x.f;
    }
  }
}

void OP(packed_free)(tlk_packed *p) {
  if (!p) return;
  free(p->data);
  free(p);
}

size_t OP(packed_bytes)(const tlk_packed *p) { return p->bytes + sizeof *p; }

void OP(packed_dims)(const tlk_packed *p, int *N, int *K, int *compute) {
  if (N) *N = p->N;
  if (K) *K = p->K;
  if (compute) *compute = p->compute;
}

// int8.c: rows as integers, and products of integers, for weights packed with compute = I8 (kernels/ops.h says how they round).
//
// vpdpbusd multiplies unsigned by signed bytes, so a row of x is stored as q + 128 and 128 sum_k w_nk is taken off each int32
// sum. Then y = (scale_x scale_w) sum: one rounding of the sum to fp32, one of the product of scales, one of theirs. An int32 is
// not exceeded up to K = 65,000 (255 * 127 K).
#include "cpu.h"

// q[k] = rint(x[k] * 127 / max |x|) as a byte, XOR flip (0: signed; 0x80: plus 128)
float OP(quantize_row)(uint8_t *q, uint32_t flip, const void *x, int x_dtype, int n) {
  vf most = {0};
  for (int k = 0; k < n; k += VL) {
    vf v = v_load_as(x, x_dtype, k, n - k);
    most = v_max(most, v_max(v, -v));
  }
  float max = v_hmax(most);
  vf inv = v_set(max > 0 ? 127.0f / max : 0), magic = v_set(12582912.0f);  // 1.5 * 2^23: the sum's low bits are the integer
  for (int k = 0; k < n; k += VL) {
    vu bits = (vu)(v_load_as(x, x_dtype, k, n - k) * inv + magic) ^ v_setu(flip);
    uint8_t bytes[VL];
#if defined(__AVX512F__)
    _mm_storeu_si128((__m128i *)bytes, _mm512_cvtepi32_epi8((__m512i)bits));
#else
    for (int l = 0; l < VL; l++) bytes[l] = (uint8_t)bits[l];
#endif
    memcpy(q + k, bytes, (size_t)min_int(VL, n - k));
  }
  return max / 127.0f;
}

typedef struct {
  bytes_mat out;
  tlk_mat x;
  int C;
} job;

static void row(const void *ctx, int t, int thread) {
  const job *j = ctx;
  uint8_t *q = j->out.q + t * j->out.ld;
  for (int k = j->C; k < j->out.ld; k++) q[k] = 0;  // its products are with zeros of the weight
  j->out.scale[t] = OP(quantize_row)(q, 0x80, mat_row(j->x, t), j->x.dtype, j->C);
}

bytes_mat OP(as_bytes)(tlk_mat x, int T, int C) {
  size_t ld = (size_t)div_up(C, 4) * 4, bytes = (ld * T + 63) / 64 * 64;
  uint8_t *q = tlk_cpu_scratch(SCRATCH_ACT, bytes + sizeof(float) * (size_t)T);
  job j = {{q, (float *)(q + bytes), (ptrdiff_t)ld}, x, C};
  tlk_run(T, (double)T * C, row, &j);
  return j.out;
}

void OP(gemm_bytes)(float *c, ptrdiff_t ldc, const bytes_mat *x, const tlk_packed *w, int t0, int t1, int panel, int j0,
                    int width) {
  const float *scale = w->scale + (size_t)panel * PANEL;
  const int32_t *sum = w->sum + (size_t)panel * PANEL;
  OP(gemm_weight)(KIND_I8, t1 - t0, x->q + t0 * x->ld, x->ld, w->data + panel * w->panel_words + j0, w->K, width, c + j0, ldc, 0);
  for (int t = t0; t < t1; t++, c += ldc)
    for (int j = j0; j < j0 + width; j += VL) {
      vi n = (vi)v_load(c + j) - (vi)v_load((const float *)sum + j);
      v_store(c + j, __builtin_convertvector(n, vf) * (v_set(x->scale[t]) * v_load(scale + j)));
    }
}

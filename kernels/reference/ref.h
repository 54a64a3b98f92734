// ref.h: what the files of the reference backend share: the packed weight, reading and writing of rows, rounding.
//
// Everything is computed in double and rounded once, when it is stored. Scalar, one thread, no blocking but the fixed pieces of
// BLOCK numbers that let a row's sums stay on the stack: nothing is allocated except in pack.
#ifndef TLK_REFERENCE_H
#define TLK_REFERENCE_H
#include "../ops.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { REF_BLOCK = 256 };

typedef struct {
  double logit;
  int32_t id;
} ref_candidate;

struct tlk_packed {
  int N, K, compute;
  float *w;              // (N, K) row-major; each value already rounded to the compute dtype
  ref_candidate *order;  // (N) head_sample's scratch, here so that sampling never allocates
};

static inline const float *ref_row(const tlk_packed *w, int n) { return w->w + (size_t)n * w->K; }

static inline float ref_from_bf16(uint16_t h) {
  union { uint32_t u; float f; } x = {(uint32_t)h << 16};
  return x.f;
}

// to nearest, ties to even; a NaN stays one
static inline uint16_t ref_to_bf16(float f) {
  union { float f; uint32_t u; } x = {f};
  if (f != f) return (uint16_t)(x.u >> 16 | 0x40);
  return (uint16_t)((x.u + 0x7fff + (x.u >> 16 & 1)) >> 16);
}

float ref_from_f16(uint16_t h);
float ref_round_f16(float f);   // to nearest even in half precision; beyond 65504 + half a step: infinity
uint16_t ref_to_f16(float f);   // the same

// element (t, c) of a matrix
static inline double ref_get(tlk_mat m, int t, int c) {
  size_t i = (size_t)t * m.ld + c;
  if (m.dtype == TLK_F32) return ((const float *)m.p)[i];
  return m.dtype == TLK_BF16 ? ref_from_bf16(((const uint16_t *)m.p)[i]) : ref_from_f16(((const uint16_t *)m.p)[i]);
}

static inline void ref_put(tlk_mat m, int t, int c, double v) {
  size_t i = (size_t)t * m.ld + c;
  if (m.dtype == TLK_F32) ((float *)m.p)[i] = (float)v;
  else ((uint16_t *)m.p)[i] = m.dtype == TLK_BF16 ? ref_to_bf16((float)v) : ref_to_f16((float)v);
}

// x as a whole number of its row's scales, max / 127 (compute = I8)
static inline float ref_as_byte(float x, float max) {
  return max > 0 ? max / 127.0f * (rintf(x * (127.0f / max)) + 0.0f) : 0;  // + 0: an integer has no -0
}

// h row t . w row n
static inline double ref_dot(tlk_mat h, int t, const tlk_packed *w, int n) {
  const float *row = ref_row(w, n);
  double s = 0;
  if (w->compute == TLK_I8) {
    float max = 0;
    for (int k = 0; k < w->K; k++) max = fmaxf(max, fabsf((float)ref_get(h, t, k)));
    for (int k = 0; k < w->K; k++) s += (double)ref_as_byte((float)ref_get(h, t, k), max) * row[k];
    return s;
  }
  for (int k = 0; k < w->K; k++) s += ref_get(h, t, k) * row[k];
  return s;
}

// The R of row t, NULL for the identity; *none is set when the row has no low-rank term: variant -1 or R all zero.
const float *ref_rotation(const tlk_lowrank *lr, int t, int *none);

// One function an op: file for file the groups of ops.h.
tlk_packed *ref_pack(const void *w, int w_dtype, int N, int K, int compute);
void ref_repack(tlk_packed *p, const float *w);
void ref_unpack(float *w, const tlk_packed *p, int n0, int n1);
void ref_packed_free(tlk_packed *p);
size_t ref_packed_bytes(const tlk_packed *p);
void ref_packed_dims(const tlk_packed *p, int *N, int *K, int *compute);
void ref_linear_fwd(tlk_mat y, float *z, tlk_mat x, const tlk_packed *w, const float *bias, const tlk_lowrank *lr, int T,
                    int accumulate);
void ref_linear_fwd_group(const tlk_linear *l, int n, tlk_mat x, int T);
void ref_linear_bwd_x(tlk_mat dx, float *g, tlk_mat dy, const tlk_packed *w, const tlk_lowrank *lr, int T, int accumulate);
void ref_linear_bwd_w(float *dw, tlk_mat a, tlk_mat b, int T, int N, int K);
void ref_colsum(float *db, tlk_mat dy, int T, int N);
void ref_lowrank_z(float *z, tlk_mat x, const tlk_lowrank *lr, int T, int K);   // z (T, r) = A x
void ref_lowrank_g(float *g, tlk_mat dy, const tlk_lowrank *lr, int T, int N);  // g (T, r) = dy B
void ref_lowrank_bwd(double *dR, const float *g, const float *z, const int32_t *unit_off, int n_units, int r);
void ref_rmsnorm_fwd(tlk_mat y, float *rstd, const float *x, const float *gain, float eps, int T, int C);
void ref_rmsnorm_bwd(float *dx, float *dgain, const float *dy, const float *x, const float *gain, const float *rstd, int T,
                     int C);
void ref_rope_fwd(tlk_mat y, const int32_t *out_rows, tlk_mat x, const int32_t *pos, const float *table, int T, int heads,
                  int D);
void ref_rope_bwd(tlk_mat dx, tlk_mat dy, const int32_t *pos, const float *table, int T, int heads, int D);
void ref_cast(tlk_mat y, const int32_t *out_rows, tlk_mat x, int T, int C);
void ref_gather(tlk_mat y, tlk_mat x, const int32_t *rows, int T, int C);
void ref_attn_fwd(tlk_mat o, float *lse, tlk_mat q, tlk_mat k, tlk_mat v, const tlk_attn_map *map, float scale, int T, int H,
                  int G, int D);
void ref_attn_bwd(tlk_mat dq, tlk_mat dk, tlk_mat dv, tlk_mat d_o, tlk_mat o, const float *lse, tlk_mat q, tlk_mat k, tlk_mat v,
                  const tlk_attn_map *map, const int32_t *unit_off, int n_units, float scale, int T, int H, int G, int D);
void ref_swiglu_fwd(tlk_mat h, tlk_mat gate, tlk_mat up, int T, int F);
void ref_swiglu_bwd(tlk_mat dgate, tlk_mat dup, tlk_mat dh, tlk_mat gate, tlk_mat up, int T, int F);
void ref_embed_fwd(float *x, const tlk_packed *table, const int32_t *ids, int T);
void ref_embed_bwd(float *dtable, const float *dx, const int32_t *ids, int T, int C);
void ref_head_fwd(float *logprob, float *lse, float *entropy, float *logits, tlk_mat h, const tlk_packed *w, const int32_t *targets,
                  float inv_temp, int T);
void ref_head_bwd(float *dh, float *dw, const float *logits, tlk_mat h, const tlk_packed *w, const int32_t *targets, const float *lse,
                  const float *entropy, const float *dlogprob, const float *dentropy, float inv_temp, int T);
void ref_head_sample(int32_t *ids, float *logprob, float *lse, float *entropy, tlk_mat h, const tlk_packed *w,
                     const tlk_sample_row *rows, int T);
void ref_adamw(float *param, float *m, float *v, const float *grad, size_t n, float lr, float beta1, float beta2, float eps,
               float weight_decay, int step);
double ref_sumsq(const float *x, size_t n);
void ref_scale(float *x, float a, size_t n);
void ref_round_to(float *y, const float *x, size_t n, int dtype);
#endif

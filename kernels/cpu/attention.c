// attention.c: causal attention of packed rows, prefill, training and decode alike: query row t sees the keys its list names.
//
//   s_j = scale q . k_j,   p = softmax(s),   o = sum_j p_j v_j,   lse = log sum_j exp s_j
//
// An item is (row, key/value head): the H / G query heads of the group share the gathered rows. Scores of the whole context stay in
// scratch (L1 for ordinary lengths); the exponentials' sum runs by lanes in order of position, and so does the sum of values,
// key after key. Nothing in it depends on the other rows.
#include "attention.h"

enum { HEADS = 4, CHUNKS = 4 };  // tile of the value sum: heads x vectors of D in registers

typedef struct {
  tlk_mat o, q, k, v;
  float *lse;
  const tlk_attn_map *map;
  float scale;
  int H, G, D, stride;  // stride of the score rows
} job;

// o (heads x nv vectors) = sum over keys of p v; `first` key of the list, n keys
INLINE void values(const job *j, vf out[HEADS][CHUNKS], const float *p, const int32_t *list, int first, int n, size_t at, int left,
                   const int heads, const int nv) {
  int bf16 = j->v.dtype == TLK_BF16;
  size_t stride = (size_t)j->v.ld * tlk_dtype_size(j->v.dtype);
  for (int h = 0; h < heads; h++)
    for (int c = 0; c < nv; c++) out[h][c] = (vf){0};
  for (int i = first; i < n; i++) {
    const char *row = (const char *)j->v.p + (size_t)list[i] * stride + at;
    vf v[CHUNKS];
#pragma GCC unroll 4
    for (int c = 0; c < nv; c++) v[c] = v_load_as(row, bf16, c * VL, left - c * VL);
#pragma GCC unroll 4
    for (int h = 0; h < heads; h++) {
      vf ph = v_set(p[(size_t)h * j->stride + i]);
#pragma GCC unroll 4
      for (int c = 0; c < nv; c++) out[h][c] = v_fma(ph, v[c], out[h][c]);
    }
  }
}

#define VALUES_CASE(heads, nv)                                                                                                \
  case (heads) * 8 + (nv): values(j, out, p, list, first, n, at, left, heads, nv); return;
static __attribute__((noinline)) void value_tile(const job *j, vf out[HEADS][CHUNKS], const float *p, const int32_t *list, int first,
                                                 int n, size_t at, int left, int heads, int nv) {
  switch (heads * 8 + nv) {
    VALUES_CASE(1, 1) VALUES_CASE(1, 2) VALUES_CASE(1, 3) VALUES_CASE(1, 4)
    VALUES_CASE(2, 1) VALUES_CASE(2, 2) VALUES_CASE(2, 3) VALUES_CASE(2, 4)
    VALUES_CASE(3, 1) VALUES_CASE(3, 2) VALUES_CASE(3, 3) VALUES_CASE(3, 4)
    VALUES_CASE(4, 1) VALUES_CASE(4, 2) VALUES_CASE(4, 3) VALUES_CASE(4, 4)
  }
}

// scores of one head's query with keys first..n, by blocks of VL positions; lanes outside are -inf
static void scores(const job *j, float *s, const uint32_t *q, const int32_t *list, int first, int n, size_t at) {
  int bf16 = j->k.dtype == TLK_BF16, words = bf16 ? j->D / 2 : j->D;
  vf minus = v_set(-INFINITY), scale = v_set(j->scale);
  for (int b = first / VL * VL; b < n; b += VL) {
    const char *rows[VL];
    int m = min_int(VL, n - b);
    gather_rows(rows, j->k, list, b, m, at);
    vf x = dot_keys(bf16, q, rows, m, words) * scale;
    if (m < VL || b < first) {
      vi l = lanes() + set_vi(b);
      x = v_select((vi)(l < set_vi(n)) & (vi)(l >= set_vi(first)), x, minus);
    }
    v_store(s + b, x);
  }
}

// s -> exp(s - max), the sum by lanes; returns log-sum-exp, and 1 / sum through *inverse
static float softmax(float *s, int first, int n, float *inverse) {
  vf max = v_set(-INFINITY), sum = (vf){0};
  int from = first / VL * VL;
  for (int b = from; b < n; b += VL) max = v_max(max, v_load(s + b));
  float m = v_hmax(max);
  for (int b = from; b < n; b += VL) {
    vf e = v_exp(v_load(s + b) - v_set(m));
    v_store(s + b, e);
    sum += e;
  }
  float total = v_sum(sum);
  *inverse = 1.0f / total;
  return m + logf(total);
}

static void item(const job *j, float *p, int t, int g) {
  int R = j->H / j->G, D = j->D, n = j->map->kv_len[t], first = j->map->window > 0 ? max_int(0, n - j->map->window) : 0;
  const int32_t *list = j->map->kv_rows + j->map->kv_off[t];
  size_t es = tlk_dtype_size(j->k.dtype), at = (size_t)g * D * es;
  for (int h0 = 0; h0 < R; h0 += HEADS) {
    int heads = min_int(HEADS, R - h0);
    float inverse[HEADS];
    for (int h = 0; h < heads; h++) {
      int head = g * R + h0 + h;
      const char *q = (const char *)mat_row(j->q, t) + (size_t)head * D * es;
      float *s = p + (size_t)h * j->stride;
      scores(j, s, (const void *)q, list, first, n, at);
      j->lse[(size_t)t * j->H + head] = softmax(s, first, n, &inverse[h]);
    }
    for (int d = 0; d < D; d += CHUNKS * VL) {
      vf out[HEADS][CHUNKS];
      int left = min_int(CHUNKS * VL, D - d);
      value_tile(j, out, p, list, first, n, at + (size_t)d * es, left, heads, div_up(left, VL));
      for (int h = 0; h < heads; h++)
        for (int c = 0; c * VL < left; c++)
          v_store_as(mat_row_out(j->o, t), j->o.dtype == TLK_BF16, (g * R + h0 + h) * D + d + c * VL, out[h][c] * v_set(inverse[h]),
                     left - c * VL);
    }
  }
}

void OP(attn_fwd)(tlk_mat o, float *lse, tlk_mat q, tlk_mat k, tlk_mat v, const tlk_attn_map *map, float scale, int T, int H, int G,
                  int D) {
  int longest = 1;
  double keys = 0;
  for (int t = 0; t < T; t++) longest = max_int(longest, map->kv_len[t]), keys += map->kv_len[t];
  job j = {.o = o, .q = q, .k = k, .v = v, .lse = lse, .map = map, .scale = scale, .H = H, .G = G, .D = D,
           .stride = div_up(longest, VL) * VL};
  int threads = threads_for(keys * H * D);
  size_t per_thread = (size_t)HEADS * j.stride;
  float *p = tlk_cpu_scratch(SCRATCH_A, per_thread * sizeof *p * (size_t)threads);
#pragma omp parallel for num_threads(threads) schedule(dynamic, 16)
  for (int i = 0; i < T * G; i++) item(&j, p + per_thread * (size_t)omp_get_thread_num(), i / G, i % G);
}

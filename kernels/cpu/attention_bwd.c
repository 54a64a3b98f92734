// attention_bwd.c: gradient of attention. With p_j = exp(s_j - lse) made again from the kept log-sum-exp:
//
//   dv_j += p_j do,   dp_j = do . v_j,   delta = do . o,   ds_j = scale p_j (dp_j - delta),   dq = sum_j ds_j k_j,   dk_j += ds_j q
//
// An item is (unit, key/value head): units share no key rows, so items write disjoint memory and may run in any order; inside one,
// rows, heads and keys go in order. Each gathered key row is touched once per query row for all heads of its group.
#include "attention.h"

enum { MAX_D = 512 };

typedef struct {
  tlk_mat dq, dk, dv, d_o, o, q, k, v;
  const float *lse;
  const tlk_attn_map *map;
  const int32_t *unit_off;
  float scale;
  int H, G, D;
} job;

INLINE float delta_of(const job *j, int t, int head) {
  int bf16 = j->o.dtype == TLK_BF16, dbf16 = j->d_o.dtype == TLK_BF16;
  vf sum = (vf){0};
  for (int d = 0; d < j->D; d += VL)
    sum = v_fma(v_load_as(mat_row(j->o, t), bf16, head * j->D + d, min_int(VL, j->D - d)),
                v_load_as(mat_row(j->d_o, t), dbf16, head * j->D + d, min_int(VL, j->D - d)), sum);
  return v_sum(sum);
}

// key i's share of one head: dk += ds q, dv += p do, dq += ds k
INLINE void spread(const job *j, float *dk, float *dv, float *dq, const char *k, const float *q, const float *d_o, float ds, float p) {
  int bf16 = j->k.dtype == TLK_BF16, D = j->D;
  vf vds = v_set(ds), vp = v_set(p);
  if (D % VL == 0) {
    for (int d = 0; d < D; d += VL) {
      v_store(dk + d, v_fma(vds, v_load(q + d), v_load(dk + d)));
      v_store(dv + d, v_fma(vp, v_load(d_o + d), v_load(dv + d)));
      v_store(dq + d, v_fma(vds, v_load_as(k, bf16, d, VL), v_load(dq + d)));
    }
    return;
  }
  for (int d = 0; d < D; d += VL) {
    int n = min_int(VL, D - d);
    v_storen(dk + d, v_fma(vds, v_loadn(q + d, n, 0), v_loadn(dk + d, n, 0)), n);
    v_storen(dv + d, v_fma(vp, v_loadn(d_o + d, n, 0), v_loadn(dv + d, n, 0)), n);
    v_storen(dq + d, v_fma(vds, v_load_as(k, bf16, d, n), v_loadn(dq + d, n, 0)), n);
  }
}

static void row_head(const job *j, int t, int g, int head) {
  int D = j->D, n = j->map->kv_len[t], first = j->map->window > 0 ? max_int(0, n - j->map->window) : 0;
  int bf16 = j->k.dtype == TLK_BF16, words = bf16 ? D / 2 : D;
  const int32_t *list = j->map->kv_rows + j->map->kv_off[t];
  size_t es = tlk_dtype_size(j->k.dtype), at = (size_t)g * D * es;
  const char *q = (const char *)mat_row(j->q, t) + (size_t)head * D * es, *d_o = (const char *)mat_row(j->d_o, t) + (size_t)head * D * es;
  float qf[MAX_D], df[MAX_D], dq[MAX_D] = {0};
  OP(convert)(qf, 0, q, bf16, D);
  OP(convert)(df, 0, d_o, bf16, D);
  vf scale = v_set(j->scale), lse = v_set(j->lse[(size_t)t * j->H + head]), delta = v_set(delta_of(j, t, head));
  for (int b = first / VL * VL; b < n; b += VL) {
    const char *kr[VL], *vr[VL];
    float ds[VL], p[VL];
    int m = min_int(VL, n - b);
    gather_rows(kr, j->k, list, b, m, at);
    gather_rows(vr, j->v, list, b, m, at);
    vf pv = v_exp(dot_keys(bf16, (const void *)q, kr, m, words) * scale - lse);
    vf dp = dot_keys(bf16, (const void *)d_o, vr, m, words);
    v_store(p, pv);
    v_store(ds, pv * (dp - delta) * scale);
    for (int i = max_int(0, first - b); i < m; i++) {
      size_t row = (size_t)list[b + i];
      spread(j, (float *)j->dk.p + row * j->dk.ld + g * D, (float *)j->dv.p + row * j->dv.ld + g * D, dq, kr[i], qf, df, ds[i], p[i]);
    }
  }
  memcpy((float *)mat_row_out(j->dq, t) + head * D, dq, sizeof(float) * (size_t)D);
}

void OP(attn_bwd)(tlk_mat dq, tlk_mat dk, tlk_mat dv, tlk_mat d_o, tlk_mat o, const float *lse, tlk_mat q, tlk_mat k, tlk_mat v,
                  const tlk_attn_map *map, const int32_t *unit_off, int n_units, float scale, int T, int H, int G, int D) {
  job j = {.dq = dq, .dk = dk, .dv = dv, .d_o = d_o, .o = o, .q = q, .k = k, .v = v, .lse = lse, .map = map, .unit_off = unit_off,
           .scale = scale, .H = H, .G = G, .D = D};
  int R = H / G;
#pragma omp parallel for num_threads(threads_for((double)T * H * D * 16)) schedule(dynamic, 1)
  for (int i = 0; i < n_units * G; i++) {
    int g = i % G;
    for (int t = unit_off[i / G]; t < unit_off[i / G + 1]; t++)
      for (int h = 0; h < R; h++) row_head(&j, t, g, g * R + h);
  }
}

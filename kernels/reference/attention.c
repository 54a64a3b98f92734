// attention.c: softmax attention over lists of key rows (reference).
//
//   fwd  s_j = scale q . k_j,  lse = log sum_j exp s_j,  p_j = exp(s_j - lse),  o = sum_j p_j v_j
//   bwd  delta = d_o . o,  ds_j = p_j (d_o . v_j - delta) scale,
//        dq = sum_j ds_j k_j,  dk_j += ds_j q,  dv_j += p_j d_o
//
// j runs over the query's list (its last `window` entries when there is a window); query head h reads key head h / (H / G).
// A query with an empty list gives o = 0 and lse = -inf. Scores are computed again wherever they are needed: nothing is kept
// but one block of the output row.
#include "ref.h"

typedef struct {
  tlk_mat m;
  int at;  // first column of the head
} head;

typedef struct {
  const int32_t *rows;
  int n;
} keys;

static keys keys_of(const tlk_attn_map *map, int t) {
  int skip = map->window > 0 && map->kv_len[t] > map->window ? map->kv_len[t] - map->window : 0;
  return (keys){map->kv_rows + map->kv_off[t] + skip, map->kv_len[t] - skip};
}

static double dot(head a, int i, head b, int j, int D) {
  double s = 0;
  for (int d = 0; d < D; d++) s += ref_get(a.m, i, a.at + d) * ref_get(b.m, j, b.at + d);
  return s;
}

static double log_sum_exp(head q, head k, int t, keys list, double scale, int D) {
  double max = -INFINITY, sum = 0;
  for (int j = 0; j < list.n; j++) max = fmax(max, scale * dot(q, t, k, list.rows[j], D));
  for (int j = 0; j < list.n; j++) sum += exp(scale * dot(q, t, k, list.rows[j], D) - max);
  return list.n ? max + log(sum) : -INFINITY;
}

static int block_end(int d0, int D) { return d0 + REF_BLOCK < D ? d0 + REF_BLOCK : D; }

void ref_attn_fwd(tlk_mat o, float *lse, tlk_mat q, tlk_mat k, tlk_mat v, const tlk_attn_map *map, float scale, int T, int H,
                  int G, int D) {
  for (int t = 0; t < T; t++)
    for (int h = 0; h < H; h++) {
      int kv = h / (H / G) * D;
      head qh = {q, h * D}, kh = {k, kv};
      keys list = keys_of(map, t);
      double l = log_sum_exp(qh, kh, t, list, scale, D);
      for (int d0 = 0; d0 < D; d0 += REF_BLOCK) {
        double s[REF_BLOCK] = {0};
        for (int j = 0; j < list.n; j++) {
          double p = exp(scale * dot(qh, t, kh, list.rows[j], D) - l);
          for (int d = d0; d < block_end(d0, D); d++) s[d - d0] += p * ref_get(v, list.rows[j], kv + d);
        }
        for (int d = d0; d < block_end(d0, D); d++) ref_put(o, t, h * D + d, s[d - d0]);
      }
      lse[(size_t)t * H + h] = (float)l;
    }
}

static void add(tlk_mat m, int t, int c, double v) { ref_put(m, t, c, ref_get(m, t, c) + v); }

void ref_attn_bwd(tlk_mat dq, tlk_mat dk, tlk_mat dv, tlk_mat d_o, tlk_mat o, const float *lse, tlk_mat q, tlk_mat k, tlk_mat v,
                  const tlk_attn_map *map, const int32_t *unit_off, int n_units, float scale, int T, int H, int G, int D) {
  for (int t = 0; t < T; t++)
    for (int h = 0; h < H; h++) {
      int kv = h / (H / G) * D;
      head qh = {q, h * D}, kh = {k, kv}, vh = {v, kv}, doh = {d_o, h * D}, oh = {o, h * D};
      keys list = keys_of(map, t);
      double delta = dot(doh, t, oh, t, D);
      for (int d0 = 0; d0 < D; d0 += REF_BLOCK) {
        double s[REF_BLOCK] = {0};
        for (int i = 0; i < list.n; i++) {
          int j = list.rows[i];
          double p = exp(scale * dot(qh, t, kh, j, D) - lse[(size_t)t * H + h]);
          double ds = p * (dot(doh, t, vh, j, D) - delta) * scale;
          for (int d = d0; d < block_end(d0, D); d++) {
            s[d - d0] += ds * ref_get(k, j, kv + d);
            add(dk, j, kv + d, ds * ref_get(q, t, h * D + d));
            add(dv, j, kv + d, p * ref_get(d_o, t, h * D + d));
          }
        }
        for (int d = d0; d < block_end(d0, D); d++) ref_put(dq, t, h * D + d, s[d - d0]);
      }
    }
}

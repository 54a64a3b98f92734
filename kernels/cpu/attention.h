// attention.h: what attention.c and attention_bwd.c share.
//
// Queries are taken in tiles: consecutive rows that name the same list of keys (a run of one sequence; a single row in decode),
// with the H/G query heads that share a key/value head: up to TILE_ROWS rows of D numbers, copied side by side. In the forward
// direction rows with different lists share a tile when the lists begin alike for at least one block (a group's completions over
// their prompt): that part is read and multiplied once for all of them, the rest run by run of equal lists. Keys come in
// blocks of 64 by absolute position in the list: a block of K, seen as 32-bit words and transposed, is a panel for scores
// Q K^T; its rows in fp32 are a panel for products over keys. Every score sums over d in order, every sum over keys runs in the
// order of positions with lanes and blocks fixed by position, and what lies outside a query's range enters as an exact zero:
// so a row's bits do not depend on the tile it was in. Queries, keys and values in fp16 are widened to fp32 as they are copied.
#ifndef TL_CPU_ATTENTION_H
#define TL_CPU_ATTENTION_H
#include "cpu.h"

enum { TILE_ROWS = 48 };

typedef struct {
  tlk_mat q, k, v;
  const tlk_attn_map *map;
  float scale;
  int H, G, D;
  int dtype, bf16;  // of q, k and v; whether products are of bf16 pairs
} attn;

static inline attn attn_of(tlk_mat q, tlk_mat k, tlk_mat v, const tlk_attn_map *map, float scale, int H, int G, int D) {
  return (attn){q, k, v, map, scale, H, G, D, q.dtype, q.dtype == TLK_BF16};
}
static inline int item_size(const attn *a) { return a->bf16 ? 2 : 4; }  // of what is multiplied

// first key a query row sees
static inline int first_key(const tlk_attn_map *m, int t) {
  return m->window > 0 && m->kv_len[t] > m->window ? m->kv_len[t] - m->window : 0;
}

// rows t .. returned end: same list, as many as fit a tile of `rows`
static inline int tile_end(const attn *a, int t, int end, int rows) {
  int most = max_int(1, rows / (a->H / a->G)), e = t + 1;
  while (e < end && e - t < most && a->map->kv_off[e] == a->map->kv_off[t]) e++;
  return e;
}

// how many keys, in whole blocks, the lists of two rows begin alike with
static inline int alike(const tlk_attn_map *m, int t, int u) {
  const int32_t *a = m->kv_rows + m->kv_off[t], *b = m->kv_rows + m->kv_off[u];
  int most = min_int(m->kv_len[t], m->kv_len[u]) / PANEL * PANEL, n = 0;
  while (n < most && memcmp(a + n, b + n, PANEL * sizeof *a) == 0) n += PANEL;
  return n;
}

// the same, and rows whose lists begin alike: *shared keys, 0 when all lists are the same
static inline int shared_tile_end(const attn *a, int t, int end, int *shared) {
  int most = max_int(1, TILE_ROWS / (a->H / a->G)), e = t + 1, n = 0;
  for (*shared = 0; e < end && e - t < most; e++) {
    if (a->map->kv_off[e] == a->map->kv_off[e - 1]) continue;
    n = a->map->window > 0 ? 0 : alike(a->map, t, e);
    if (n == 0 || a->map->kv_len[t] < n) break;
    *shared = *shared ? min_int(*shared, n) : n;
  }
  return e;
}

// pointers to head g of the keys at positions j .. j + n of row t's list
static inline void key_rows(const void **rows, tlk_mat m, const attn *a, int t, int g, int j, int n) {
  const int32_t *list = a->map->kv_rows + a->map->kv_off[t] + j;
  size_t at = (size_t)g * a->D * tlk_dtype_size(m.dtype);
  for (int i = 0; i < n; i++) rows[i] = (const char *)mat_row(m, list[i]) + at;
}

// the rows; where they are fp16, widened into wide (n, D), to which `out` (n) then points
static inline const void *const *widened(const void **out, float *wide, const void *const *rows, int n, const attn *a) {
  if (a->dtype != TLK_F16) return rows;
  for (int i = 0; i < n; i++, wide += a->D) {
    OP(convert)(wide, TLK_F32, rows[i], TLK_F16, a->D);
    out[i] = wide;
  }
  return out;
}

// panel over n <= 64 rows with the reduction along d
INLINE void scores_panel(uint32_t *dst, const void *const *rows, int n, const attn *a) {
  OP(panel_of_rows)(dst, rows, n, a->bf16 ? a->D / 2 : a->D);
}

// panels over d (64 columns each, ceil(D / 64) of them, `depth` steps apart) of n rows in fp32; rows n .. padded are zero
INLINE void value_panels(float *dst, const void *const *rows, int n, int depth, int D, int dtype) {
  for (int p = 0; p < n_panels(D); p++)
    for (int i = 0; i < n; i++)
      for (int j = 0; j < PANEL; j += VL) {
        int rest = D - p * PANEL - j;
        vf x = rest > 0 ? v_load_as(rows[i], dtype, p * PANEL + j, rest) : (vf){0};
        v_store(dst + ((size_t)p * depth + i) * PANEL + j, x);
      }
}

// copies rows [t, end) x the query heads of g of m (T, H D) to dst, (end - t) * H/G rows of D as they are multiplied
static inline void gather_heads(void *dst, tlk_mat m, const attn *a, int t, int end, int g) {
  size_t numbers = (size_t)a->D * (size_t)(a->H / a->G), from = g * numbers * tlk_dtype_size(m.dtype);
  for (int i = t; i < end; i++, dst = (char *)dst + numbers * (size_t)item_size(a)) {
    const char *row = (const char *)mat_row(m, i) + from;
    if (m.dtype == TLK_F16) OP(convert)(dst, TLK_F32, row, TLK_F16, (int)numbers);
    else memcpy(dst, row, numbers * tlk_dtype_size(m.dtype));
  }
}
#endif

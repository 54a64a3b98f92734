// attention.c: o = softmax(scale Q K^T) V over the keys each query's list names (attention.h says how it is cut).
//
// All scores of a tile are held (48 x n fp32), so the softmax is the plain one: largest score, e^(s - max), sum, then P V in
// fp32, divided by the sum at the end. Items of (tile, key/value head) write disjoint outputs; threads take the next item when
// free. Scores: bf16 products when q and k are bf16. Cost per query head and key: 4 D flop.
//
// Few rows (a sequence in decode) do not repay copies of their keys and values: values are multiplied where they lie, and a
// key that the thread's panel already holds, for the group's sequence before, is not copied into it again.
#include "attention.h"

enum { FEW_ROWS = 6, STRIP = VL == 16 ? 4 : 2 };  // rows and registers of values that are summed in registers
enum { MOST_AT_ONCE = 3 };                         // rows of a softmax

typedef struct {
  float max, sum;
} row_sum;

// Rows of s, ld apart, hold raw scores for positions j0 .. j0 + n: turned to e^(s - max) in [first, last), to 0 elsewhere. out: of each
// row. `rows` is a constant in every instance: that many rows at a time hide each other's latencies.
INLINE void softmax_some(const int rows, float *s, ptrdiff_t ld, int j0, int n, int first, int last, float scale, row_sum *out) {
  vf max[MOST_AT_ONCE], sum[MOST_AT_ONCE];
  vi lane;
  for (int l = 0; l < VL; l++) lane[l] = l;
#pragma GCC unroll 4
  for (int r = 0; r < rows; r++) max[r] = v_set(-INFINITY), sum[r] = (vf){0};
  int begin = max_int(0, (first - j0) / VL * VL), end = min_int(n, div_up(max_int(0, last - j0), VL) * VL);
  for (int j = begin; j < end; j += VL) {
    vi pos = lane + (j0 + j), outside = (pos < first) | (pos >= last);
#pragma GCC unroll 4
    for (int r = 0; r < rows; r++) {
      vf x = v_select(outside, v_set(-INFINITY), v_load(s + r * ld + j) * v_set(scale));
      v_store(s + r * ld + j, x);
      max[r] = v_max(max[r], x);
    }
  }
#pragma GCC unroll 4
  for (int r = 0; r < rows; r++) {
    out[r].max = v_hmax(max[r]);
    if (out[r].max == -INFINITY) out[r].max = 0;  // no key at all
    max[r] = v_set(out[r].max);
  }
  for (int j = begin; j < end; j += VL)
#pragma GCC unroll 4
    for (int r = 0; r < rows; r++) {
      vf p = v_exp(v_load(s + r * ld + j) - max[r]);
      v_store(s + r * ld + j, p);
      sum[r] += p;
    }
  begin = min_int(begin, n);
#pragma GCC unroll 4
  for (int r = 0; r < rows; r++) {
    out[r].sum = v_sum(sum[r]);
    if (begin) memset(s + r * ld, 0, sizeof(float) * (size_t)begin);
    if (end < n) memset(s + r * ld + max_int(end, begin), 0, sizeof(float) * (size_t)(n - max_int(end, begin)));
  }
}

static void softmax_rows(int rows, float *s, ptrdiff_t ld, int j0, int n, int first, int last, float scale, row_sum *out) {
  for (int r = 0, m; r < rows; r += m) {
    m = min_int(MOST_AT_ONCE, rows - r);
    float *at = s + r * ld;
    if (m == 3) softmax_some(3, at, ld, j0, n, first, last, scale, out + r);
    else if (m == 2) softmax_some(2, at, ld, j0, n, first, last, scale, out + r);
    else softmax_some(1, at, ld, j0, n, first, last, scale, out + r);
  }
}

typedef struct {
  char *q;       // TILE_ROWS x D
  uint32_t *k;   // one panel of keys
  const void **in_k;  // the rows (64) that its columns hold; NULL: none
  float *wide;   // VL keys of fp16, in fp32
  float *v;      // 64 keys x panels of D
  float *o;      // TILE_ROWS x 64 ceil(D / 64)
  float *s;      // scores: rows x (64 blocks)
  row_sum *sum;  // rows
} space;

// One tile and key/value head: rows t0 .. t1 of the queries, of which the first `shared` keys are the same for all.
typedef struct {
  const attn *a;
  const space *sp;
  int t0, t1, g, shared, heads;
  int j0, n;    // scores are held for positions j0 .. j0 + n
  int fetched;  // how many heads' keys and values, from g on, are asked for ahead
} tile;

// rows r0 .. returned end: the run with r0's list
static int run_end(const tile *b, int r0) {
  int r = r0 + 1;
  while (r < b->t1 && b->a->map->kv_off[r] == b->a->map->kv_off[r0]) r++;
  return r;
}

static int last_key(const tile *b, int r0, int r1) {
  int last = 0;
  for (int t = r0; t < r1; t++) last = max_int(last, b->a->map->kv_len[t]);
  return last;
}

// the panel of m keys, of which those that it holds already stay
static void fill_panel(const space *sp, const void *const *keys, int m, const attn *a) {
  for (int r = 0; r < m; r += VL) {
    int n = min_int(VL, m - r);
    if (!memcmp(sp->in_k + r, keys + r, sizeof *keys * (size_t)n)) continue;
    const void *wide[VL];
    OP(panel_strip)(sp->k + r, widened(wide, sp->wide, keys + r, n, a), n, a->bf16 ? a->D / 2 : a->D);
    for (int i = 0; i < VL; i++) sp->in_k[r + i] = i < n ? keys[r + i] : NULL;
  }
}

// Reads the keys (or values) at positions from .. to of row t's list into the cache: in decode they come from memory. Loads, since
// the processor drops prefetches when so many are under way.
static void fetch(const tile *b, tlk_mat m, int t, int from, int to) {
  const int32_t *list = b->a->map->kv_rows + b->a->map->kv_off[t];
  size_t head = (size_t)b->a->D * tlk_dtype_size(m.dtype), bytes = head * (size_t)b->fetched;
  for (int j = from; j < min_int(to, from + 2 * PANEL); j++) {
    const char *row = (const char *)mat_row(m, list[j]) + (size_t)b->g * head;
    for (size_t i = 0; i < bytes; i += 64) (void)*(const volatile char *)(row + i);
  }
}

// scores of rows r0 .. r1, which have the same keys there, for positions from .. to
static void scores(const tile *b, int r0, int r1, int from, int to) {
  const attn *a = b->a;
  const void *keys[PANEL];
  if (r1 - r0 == 1) fetch(b, a->v, r0, from, to);
  if (r1 < b->t1) fetch(b, a->k, r1, from, a->map->kv_len[r1]);
  int first = (r0 - b->t0) * b->heads, D = a->D, size = item_size(a);
  for (int j = from; j < to; j += PANEL) {
    int m = min_int(PANEL, to - j);
    key_rows(keys, a->k, a, r0, b->g, j, m);
    fill_panel(b->sp, keys, m, a);
    OP(gemm)(a->bf16, (r1 - r0) * b->heads, b->sp->q + (size_t)first * D * size, (ptrdiff_t)D * size, 4, b->sp->k, D, m,
             b->sp->s + (size_t)first * b->n + (j - b->j0), b->n, 0);
  }
}

// columns of o (rows, ld) += P V: rows of p (ld_p apart) by m rows of V at `column`, in the order of OP(gemm)
INLINE void add_strip(const int rows, float *o, ptrdiff_t ld, const float *p, ptrdiff_t ld_p, const void *const *v, int m,
                      int column, const int dtype) {
  vf acc[FEW_ROWS][STRIP];
#pragma GCC unroll 6
  for (int i = 0; i < rows; i++)
#pragma GCC unroll 4
    for (int j = 0; j < STRIP; j++) acc[i][j] = (vf){0};
  for (int k = 0; k < m; k++) {
    vf x[STRIP];
#pragma GCC unroll 4
    for (int j = 0; j < STRIP; j++) x[j] = v_load_as(v[k], dtype, column + j * VL, VL);
#pragma GCC unroll 6
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 4
      for (int j = 0; j < STRIP; j++) acc[i][j] = v_fma(v_set(p[i * ld_p + k]), x[j], acc[i][j]);
  }
#pragma GCC unroll 6
  for (int i = 0; i < rows; i++)
#pragma GCC unroll 4
    for (int j = 0; j < STRIP; j++) {
      float *to = o + i * ld + column + j * VL;
      v_store(to, v_load(to) + acc[i][j]);
    }
}

#define STRIP_CASES(dtype)                                                                                                    \
  switch (rows) {                                                                                                             \
  case 1: add_strip(1, o, ld, p, ld_p, v, m, column, dtype); break;                                                           \
  case 2: add_strip(2, o, ld, p, ld_p, v, m, column, dtype); break;                                                           \
  case 3: add_strip(3, o, ld, p, ld_p, v, m, column, dtype); break;                                                           \
  case 4: add_strip(4, o, ld, p, ld_p, v, m, column, dtype); break;                                                           \
  case 5: add_strip(5, o, ld, p, ld_p, v, m, column, dtype); break;                                                           \
  default: add_strip(6, o, ld, p, ld_p, v, m, column, dtype); break;                                                          \
  }

// the same over all D columns, for rows <= FEW_ROWS and D a multiple of 64
static void add_values(int rows, float *o, ptrdiff_t ld, const float *p, ptrdiff_t ld_p, const void *const *v, int m, int D,
                       int dtype) {
  for (int column = 0; column < D; column += STRIP * VL)
    if (dtype == TLK_BF16) STRIP_CASES(TLK_BF16)
    else if (dtype == TLK_F16) STRIP_CASES(TLK_F16)
    else STRIP_CASES(TLK_F32)
}

// o of rows r0 .. r1 += P V over positions from .. to
static void values(const tile *b, int r0, int r1, int from, int to) {
  const attn *a = b->a;
  const void *keys[PANEL];
  int first = (r0 - b->t0) * b->heads, rows = (r1 - r0) * b->heads, D = a->D, width = n_panels(D) * PANEL;
  for (int j = from; j < to; j += PANEL) {
    int m = min_int(PANEL, to - j);
    key_rows(keys, a->v, a, r0, b->g, j, m);
    if (rows <= FEW_ROWS && D % PANEL == 0) {
      add_values(rows, b->sp->o + (size_t)first * width, width, b->sp->s + (size_t)first * b->n + (j - b->j0), b->n, keys, m, D,
                 a->v.dtype);
      continue;
    }
    value_panels(b->sp->v, keys, m, PANEL, D, a->v.dtype);
    for (int p = 0; p < n_panels(D); p++)
      OP(gemm)(0, rows, b->sp->s + (size_t)first * b->n + (j - b->j0), (ptrdiff_t)b->n * 4, 4,
               b->sp->v + (size_t)p * PANEL * PANEL, m, min_int(PANEL, D - p * PANEL), b->sp->o + (size_t)first * width + p * PANEL,
               width, 1);
  }
}

// fn over the shared keys for all rows, then run by run over the rest
static void over_keys(const tile *b, void (*fn)(const tile *, int, int, int, int)) {
  if (b->shared) fn(b, b->t0, b->t1, 0, b->shared);
  for (int r = b->t0, r1; r < b->t1; r = r1) {
    r1 = run_end(b, r);
    fn(b, r, r1, b->shared ? b->shared : b->j0, last_key(b, r, r1));
  }
}

static void tile_item(tlk_mat o, float *lse, const attn *a, int t0, int t1, int shared, int g, int fetched, const space *sp) {
  int heads = a->H / a->G, rows = (t1 - t0) * heads, D = a->D, width = n_panels(D) * PANEL, first = INT32_MAX;
  for (int t = t0; t < t1; t++) first = min_int(first, first_key(a->map, t));
  tile b = {a, sp, t0, t1, g, shared, heads, first / PANEL * PANEL, 0, fetched};
  b.n = div_up(last_key(&b, t0, t1) - b.j0, PANEL) * PANEL;
  gather_heads(sp->q, a->q, a, t0, t1, g);
  over_keys(&b, scores);
  for (int t = t0; t < t1; t++) {
    int n = div_up(last_key(&b, t, t + 1) - b.j0, PANEL) * PANEL, from = (t - t0) * heads;
    row_sum *sum = sp->sum + from;
    float *s = sp->s + (size_t)from * b.n;
    softmax_rows(heads, s, b.n, b.j0, n, first_key(a->map, t), a->map->kv_len[t], a->scale, sum);
    for (int h = 0; h < heads; h++) {
      lse[(size_t)t * a->H + g * heads + h] = sum[h].sum > 0 ? sum[h].max + logf(sum[h].sum) : -INFINITY;
      if (n < b.n) memset(s + (size_t)h * b.n + n, 0, sizeof(float) * (size_t)(b.n - n));
    }
  }
  memset(sp->o, 0, sizeof(float) * (size_t)rows * width);
  over_keys(&b, values);
  for (int i = 0; i < rows; i++) {
    char *out = (char *)mat_row_out(o, t0 + i / heads) + (size_t)(g * heads + i % heads) * D * tlk_dtype_size(o.dtype);
    vf inv = v_set(sp->sum[i].sum > 0 ? 1 / sp->sum[i].sum : 0);
    for (int d = 0; d < D; d += VL)  // + 0: an underflowed sum has no sign
      v_store_as(out, o.dtype, d, v_load(sp->o + (size_t)i * width + d) * inv + v_set(0), D - d);
  }
}

typedef struct {
  attn a;
  tlk_mat o;
  float *lse;
  const int *tiles, *shared;               // first row of each tile; keys that its rows' lists begin alike with
  char *base;                              // a thread's space is `each` bytes, its parts of the sizes below
  size_t each, nq, nk, nv, no, ns, nw;
  int n_tiles, most_rows;
  int heads_at_once;                       // key/value heads of an item: all, where there are tiles enough, or one
} job;

static void item(const void *ctx, int i, int thread) {
  const job *q = ctx;
  char *p = q->base + q->each * thread;
  float *f = (float *)(p + q->nq + q->nk);
  float *o = f + q->nv / 4, *s = o + q->no / 4, *sum = s + q->ns / 4, *wide = sum + 2 * q->most_rows;
  space sp = {p, (uint32_t *)(p + q->nq), (const void **)(wide + q->nw / 4), wide, f, o, s, (row_sum *)sum};
  int n = q->heads_at_once, tile = i / (q->a.G / n), g = i % (q->a.G / n) * n;
  for (int j = 0; j < n; j++)
    tile_item(q->o, q->lse, &q->a, q->tiles[tile], q->tiles[tile + 1], q->shared[tile], g + j, j ? 0 : n, &sp);
}

static int longest(const tlk_attn_map *map, int T) {
  int n = 1;
  for (int t = 0; t < T; t++) n = max_int(n, map->kv_len[t]);
  return n;
}

static size_t round64(size_t n) { return (n + 63) / 64 * 64; }

void OP(attn_fwd)(tlk_mat o, float *lse, tlk_mat q, tlk_mat k, tlk_mat v, const tlk_attn_map *map, float scale, int T, int H,
                  int G, int D) {
  if (T <= 0) return;
  int rows = max_int(TILE_ROWS, H / G), n_tiles = 0, threads = tlk_cpu_threads();
  size_t width = (size_t)n_panels(D) * PANEL;
  job j = {.a = attn_of(q, k, v, map, scale, H, G, D), .o = o, .lse = lse};
  j.nq = round64((size_t)rows * D * 4), j.nk = (size_t)D * STEP_BYTES, j.nv = PANEL * width * 4, j.no = rows * width * 4;
  j.ns = (size_t)rows * (div_up(longest(map, T), PANEL) + 1) * STEP_BYTES;
  j.most_rows = (int)round64((size_t)rows);
  j.nw = q.dtype == TLK_F16 ? round64((size_t)VL * D * 4) : 0;
  j.each = j.nq + j.nk + j.nv + j.no + j.ns + j.nw + (size_t)j.most_rows * sizeof(row_sum) + PANEL * sizeof(void *);
  j.base = tlk_cpu_scratch(SCRATCH_A, j.each * threads);
  for (int i = 0; i < threads; i++) memset(j.base + j.each * (i + 1) - PANEL * sizeof(void *), 0, PANEL * sizeof(void *));
  int *tiles = tlk_cpu_scratch(SCRATCH_B, sizeof(int) * 2 * (size_t)(T + 1)), *shared = tiles + T + 1;
  for (int t = 0; t < T; n_tiles++) {
    tiles[n_tiles] = t;
    t = shared_tile_end(&j.a, t, T, &shared[n_tiles]);
  }
  tiles[n_tiles] = T;
  j.tiles = tiles, j.shared = shared, j.n_tiles = n_tiles;
  j.heads_at_once = n_tiles >= 2 * threads ? G : 1;
  tlk_run(n_tiles * (G / j.heads_at_once), (double)T * H * D * 2, item, &j);
}

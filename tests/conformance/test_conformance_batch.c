// test_conformance_batch.c: bits that must not depend on the batch or on the number of threads.
//
// Batch invariance: a table of ops that work row by row. 64 different input rows are made; the op then runs on selections of
// them (one row alone, 7 rows, all in order, reversed, shuffled, 200 with repetitions) with 1, 2 and 3 threads, and each output
// row must have the bits it had in the first run. A kernel that sums in another order for another batch size is caught here.
// Linears with sums of 1100, and up to 520 rows: a device has tiles of 16, 64 and 128 rows for few and for many, and makes a long sum
// in parts, side by side, while rows are few.
// Thread independence: gradients that are sums over rows, with 1, 2 and 3 threads.
// Identities: no low-rank term, R all zero and variant -1 give the same bits; head_sample's logprob is head_fwd's; a row of the
// embedding is what unpack says.
#include "conformance.h"

enum { ROWS = 64, MOST = 200, N = 203, K = 150, H = 6, G = 2, D = 38, RANK = 3, KEYS = 90, LISTS = (1 + ROWS) * KEYS, V = 1031 };

static tlk_packed *w;  // (N, K) for linears, (V, K) for the head and the embedding
static tlk_packed *whole_heads;  // (192, K)
static mat mat_pick(const mat *from, const int *which, int n) {
  mat a = mat_fill(n, from->cols, from->m.dtype, 0);
  for (int i = 0; i < n; i++) memcpy(row_at(&a, i), row_at(from, which[i]), row_bytes(from));
  return a;
}
static float *floats_pick(const float *from, int width, const int *which, int n) {
  float *a = take(sizeof *a * (size_t)n * width);
  for (int i = 0; i < n; i++) memcpy(a + (size_t)i * width, from + (size_t)which[i] * width, sizeof *a * (size_t)width);
  return a;
}
static int32_t *ints_pick(const int32_t *from, const int *which, int n) {
  int32_t *a = take(sizeof *a * (size_t)n);
  for (int i = 0; i < n; i++) a[i] = from[which[i]];
  return a;
}

// Gathers an output's rows: out (n, bytes) gets row i's bytes appended at its own place.
typedef struct {
  char *p;
  size_t stride, used;  // bytes a row, bytes of it already filled
} out_rows;
static void emit(out_rows *o, const void *base, size_t step, size_t bytes, int n) {
  for (int i = 0; i < n; i++) memcpy(o->p + (size_t)i * o->stride + o->used, (const char *)base + (size_t)i * step, bytes);
  o->used += bytes;
}
static void emit_mat(out_rows *o, const mat *a) {
  emit(o, a->m.p, (size_t)(row_at(a, 1) - row_at(a, 0)), row_bytes(a), a->rows);
}
static void emit_vec(out_rows *o, const void *v, int width, int n) { emit(o, v, 4 * (size_t)width, 4 * (size_t)width, n); }

// ---- inputs of the 64 rows, and the ops on a selection of them
static struct {
  mat x, wide, q, k, v;               // (ROWS, K) act, (ROWS, N) act, (ROWS, H*D) act, (2 * KEYS, G*D) act
  float *f, *gain, *bias, *table;     // (ROWS, K), (K), (N), (KEYS, D/2, 2)
  tlk_lowrank lr;
  int32_t *variant, *ids, *pos, *kv_off, *kv_len, *kv_rows;
  tlk_sample_row *sample;
} in;

static void linear_fwd(const int *which, int n, out_rows *o) {
  mat x = mat_pick(&in.x, which, n), y = mat_nan(n, N, compute), acc = mat_fill(n, N, TLK_F32, 0.25f);
  tlk_lowrank lr = in.lr;
  lr.variant = ints_pick(in.variant, which, n);
  float *z = vec_nan((size_t)n * RANK);
  ops->linear_fwd(y.m, z, x.m, w, in.bias, &lr, n, 0);
  emit_mat(o, &y);
  emit_vec(o, z, RANK, n);
  ops->linear_fwd(acc.m, z, x.m, w, NULL, &lr, n, 1);
  emit_mat(o, &acc);
}

static void linear_bwd_x(const int *which, int n, out_rows *o) {
  mat dy = mat_pick(&in.wide, which, n), dx = mat_nan(n, K, TLK_F32);
  tlk_lowrank lr = in.lr;
  lr.variant = ints_pick(in.variant, which, n);
  float *g = vec_nan((size_t)n * RANK);
  ops->linear_bwd_x(dx.m, g, dy.m, w, &lr, n, 0);
  emit_mat(o, &dx);
  emit_vec(o, g, RANK, n);
}

static void rmsnorm(const int *which, int n, out_rows *o) {
  float *x = floats_pick(in.f, K, which, n), *rstd = vec_nan((size_t)n), *dx = take(4 * (size_t)n * K);
  mat y = mat_nan(n, K, compute);
  ops->rmsnorm_fwd(y.m, rstd, x, in.gain, 1e-5f, n, K);
  emit_mat(o, &y);
  emit_vec(o, rstd, 1, n);
  memset(dx, 0, 4 * (size_t)n * K);
  ops->rmsnorm_bwd(dx, NULL, x, x, in.gain, rstd, n, K);
  emit_vec(o, dx, K, n);
}

static void rope(const int *which, int n, out_rows *o) {
  mat q = mat_pick(&in.q, which, n), y = mat_nan(n, H * D, compute), back = mat_copy(&y);
  mat f = mat_nan(n, H * D, TLK_F32);
  int32_t *pos = ints_pick(in.pos, which, n);
  ops->rope_fwd(y.m, NULL, q.m, pos, in.table, n, H, D);
  emit_mat(o, &y);
  ops->cast(f.m, NULL, q.m, n, H * D);
  ops->rope_bwd(back.m, f.m, pos, in.table, n, H, D);
  emit_mat(o, &back);
}

// Runs of 7 rows find the same keys in other slots of the cache: where they lie must not matter either.
static void attn_fwd(const int *which, int n, out_rows *o) {
  mat q = mat_pick(&in.q, which, n), y = mat_nan(n, H * D, compute);
  float *lse = vec_nan((size_t)n * H);
  int32_t *slots = take(4 * LISTS), moved = n == 7 ? KEYS : 0;
  for (int i = 0; i < LISTS; i++) slots[i] = in.kv_rows[i] + moved;
  tlk_attn_map map = {ints_pick(in.kv_off, which, n), ints_pick(in.kv_len, which, n), slots, 0};
  ops->attn_fwd(y.m, lse, q.m, in.k.m, in.v.m, &map, 0.16f, n, H, G, D);
  emit_mat(o, &y);
  emit_vec(o, lse, H, n);
  map.window = 11;
  ops->attn_fwd(y.m, lse, q.m, in.k.m, in.v.m, &map, 0.16f, n, H, G, D);
  emit_mat(o, &y);
}

static void swiglu(const int *which, int n, out_rows *o) {
  mat gate = mat_pick(&in.wide, which, n), up = mat_pick(&in.wide, which, n), h = mat_nan(n, N, compute);
  mat dh = mat_nan(n, N, TLK_F32), dgate = mat_nan(n, N, compute), dup = mat_nan(n, N, compute);
  ops->swiglu_fwd(h.m, gate.m, up.m, n, N);
  emit_mat(o, &h);
  ops->cast(dh.m, NULL, up.m, n, N);
  ops->swiglu_bwd(dgate.m, dup.m, dh.m, gate.m, up.m, n, N);
  emit_mat(o, &dgate);
  emit_mat(o, &dup);
}

static void linear_swiglu(const int *which, int n, out_rows *o) {
  mat x = mat_pick(&in.x, which, n), h = mat_nan(n, N, compute), y[2] = {mat_nan(n, N, compute), mat_nan(n, N, compute)};
  tlk_lowrank lr = in.lr;
  lr.variant = ints_pick(in.variant, which, n);
  float *z = vec_nan((size_t)n * RANK);
  const tlk_linear gate_up[] = {{y[0].m, z, w, in.bias, &lr}, {y[1].m, NULL, w, NULL, NULL}};
  ops->linear_swiglu_fwd(h.m, gate_up, 0, x.m, n);
  emit_mat(o, &h);
}

static void linear_rope(const int *which, int n, out_rows *o) {
  enum { HEAD = 64, ALL = N / HEAD * HEAD };  // of the N columns those of whole heads, by a weight of them
  mat x = mat_pick(&in.x, which, n), y = mat_nan(n, ALL, compute), wide = mat_nan(n, ALL, TLK_F32);
  int32_t *pos = ints_pick(in.pos, which, n);
  for (int i = 0; i < n; i++) pos[i] %= KEYS * D / HEAD;
  tlk_lowrank lr = in.lr;
  lr.variant = ints_pick(in.variant, which, n);
  const tlk_rotated q = {{wide.m, vec_nan((size_t)n * RANK), whole_heads, in.bias, &lr}, y.m, NULL, ALL / HEAD};
  ops->linear_rope_fwd(&q, 1, pos, in.table, x.m, n, HEAD);
  emit_mat(o, &y);
}

static void embed_fwd(const int *which, int n, out_rows *o) {
  float *x = vec_nan((size_t)n * K);
  ops->embed_fwd(x, w, ints_pick(in.ids, which, n), n);
  emit_vec(o, x, K, n);
}

static void head(const int *which, int n, out_rows *o) {
  mat h = mat_pick(&in.x, which, n);
  int32_t *ids = ints_pick(in.ids, which, n);
  float *logprob = vec_nan((size_t)n), *lse = vec_nan((size_t)n), *entropy = vec_nan((size_t)n), *dh = vec_nan((size_t)n * K);
  ops->head_fwd(logprob, lse, entropy, NULL, h.m, w, ids, 1 / 0.8f, n);
  ops->head_bwd(dh, NULL, NULL, h.m, w, ids, lse, entropy, logprob, entropy, 1 / 0.8f, n);
  emit_vec(o, logprob, 1, n);
  emit_vec(o, lse, 1, n);
  emit_vec(o, entropy, 1, n);
  emit_vec(o, dh, K, n);
}

static void head_sample(const int *which, int n, out_rows *o) {
  mat h = mat_pick(&in.x, which, n);
  tlk_sample_row *rows = take(sizeof *rows * (size_t)n);
  for (int i = 0; i < n; i++) rows[i] = in.sample[which[i]];
  int32_t *ids = take(4 * (size_t)n);
  float *logprob = vec_nan((size_t)n), *entropy = vec_nan((size_t)n);
  ops->head_sample(ids, logprob, NULL, entropy, h.m, w, rows, n);
  emit_vec(o, ids, 1, n);
  emit_vec(o, logprob, 1, n);
  emit_vec(o, entropy, 1, n);
}

typedef struct {
  const char *name;
  void (*run)(const int *which, int n, out_rows *o);
  int vocab;  // w is (V, K)
} invariant;
static const invariant invariants[] = {
  {"linear_fwd", linear_fwd, 0}, {"linear_bwd_x", linear_bwd_x, 0}, {"rmsnorm", rmsnorm, 0}, {"rope", rope, 0},
  {"attn_fwd", attn_fwd, 0},     {"swiglu", swiglu, 0},             {"linear_swiglu", linear_swiglu, 0}, {"linear_rope", linear_rope, 0},
  {"embed", embed_fwd, 1}, {"head", head, 1},
  {"head_sample", head_sample, 1},
};

static void make_inputs(void) {
  in.x = mat_random(ROWS, K, compute, 1), in.wide = mat_random(ROWS, N, compute, 2), in.q = mat_random(ROWS, H * D, compute, 1);
  in.k = mat_random(2 * KEYS, G * D, compute, 1), in.v = mat_random(2 * KEYS, G * D, compute, 1);
  for (int i = 0; i < KEYS; i++) {
    memcpy(row_at(&in.k, KEYS + i), row_at(&in.k, i), row_bytes(&in.k));
    memcpy(row_at(&in.v, KEYS + i), row_at(&in.v, i), row_bytes(&in.v));
  }
  in.f = vec_random(ROWS * K, 2), in.gain = vec_random(K, 1), in.bias = vec_random(N, 1), in.table = vec_random(KEYS * D, 1);
  in.lr = (tlk_lowrank){RANK, vec_random(RANK * K, 0.1), vec_random(N * RANK, 0.5), vec_random(3 * RANK * RANK, 0.5), NULL};
  int32_t **ints[] = {&in.variant, &in.ids, &in.pos, &in.kv_off, &in.kv_len};
  for (int i = 0; i < 5; i++) *ints[i] = take(4 * ROWS);
  in.kv_rows = take(4 * LISTS);
  for (int i = 0; i < LISTS; i++) {  // one list for many rows, then a list a row: all begin alike for 70 keys and then differ
    int at = i % KEYS;
    in.kv_rows[i] = i < KEYS || at < 70 ? at * 37 % KEYS : (at * 41 + i / KEYS) % KEYS;
  }
  in.sample = take(sizeof *in.sample * ROWS);
  for (int t = 0; t < ROWS; t++) {
    in.variant[t] = rng_below(4) - 1, in.ids[t] = rng_below(V), in.pos[t] = rng_below(KEYS);
    in.kv_len[t] = 1 + rng_below(KEYS), in.kv_off[t] = rng_below(KEYS - in.kv_len[t] + 1);
    if (t % 3) in.kv_off[t] = (1 + t) * KEYS, in.kv_len[t] = 60 + rng_below(KEYS - 59);
    in.sample[t] = (tlk_sample_row){.temperature = t % 5 ? 0.5f + 0.01f * (float)t : 0, .top_p = t % 3 ? 1 : 0.9f};
    in.sample[t].min_p = t % 7 ? 0 : 0.01f, in.sample[t].top_k = t % 4 ? 0 : 20;
    in.sample[t].u = (float)(rng_next() >> 40) * 0x1p-24f;
  }
}

static const invariant *current;

static void compare(const out_rows *first, const int *which, int n, const char *what) {
  out_rows o = {take(first->stride * (size_t)n), first->stride, 0};
  current->run(which, n, &o);
  for (int i = 0; i < n; i++)
    if (memcmp(o.p + (size_t)i * o.stride, first->p + (size_t)which[i] * o.stride, o.used) != 0)
      test_fail("row %d has other bits as row %d of %s", which[i], i, what);
}

static void batch_case(void) {
  int which[MOST], threads[] = {1, 2, 3};
  for (int i = 0; i < MOST; i++) which[i] = i % ROWS;
  out_rows first = {take(ROWS * 8192), 8192, 0};
  ops->set_threads(1);
  current->run(which, ROWS, &first);
  for (int k = 0; k < (ops->host ? 3 : 1); k++) {  // a device has no threads to set
    int n_kept = n_taken;
    ops->set_threads(threads[k]);
    compare(&first, which, ROWS, "64");
    compare(&first, which, MOST, "200");
    for (int i = 0; i < ROWS; i++) compare(&first, which + i, 1, "1 (alone)");
    for (int i = 0; i + 7 <= MOST; i += 5) compare(&first, which + i, 7, "7");
    int other[ROWS];
    for (int i = 0; i < ROWS; i++) other[i] = ROWS - 1 - i;
    compare(&first, other, ROWS, "64, reversed");
    for (int i = 0; i < ROWS; i++) other[i] = (i * 29 + 11) % ROWS;
    compare(&first, other, ROWS, "64, shuffled");
    drop_to(n_kept);
  }
}

// ---- long sums and many rows: a linear whose sum is LONG, forward over its inputs, backward over its outputs
enum { LONG = 1100, NARROW = 72, MANY = 520 };
static mat long_x;          // (ROWS, LONG) act
static tlk_packed *long_w;  // (NARROW, LONG) forward, (LONG, NARROW) backward
static tlk_lowrank long_lr;

static void long_fwd(const int *which, int n, out_rows *o) {
  mat x = mat_pick(&long_x, which, n), y = mat_nan(n, NARROW, TLK_F32);  // 16 bits would hide most other orders
  tlk_lowrank lr = long_lr;
  lr.variant = ints_pick(in.variant, which, n);
  float *z = vec_nan((size_t)n * RANK);
  ops->linear_fwd(y.m, z, x.m, long_w, in.bias, &lr, n, 0);
  emit_mat(o, &y);
  emit_vec(o, z, RANK, n);
}

static void long_bwd_x(const int *which, int n, out_rows *o) {
  mat dy = mat_pick(&long_x, which, n), dx = mat_nan(n, NARROW, TLK_F32);
  tlk_lowrank lr = long_lr;
  lr.variant = ints_pick(in.variant, which, n);
  float *g = vec_nan((size_t)n * RANK);
  ops->linear_bwd_x(dx.m, g, dy.m, long_w, &lr, n, 0);
  emit_mat(o, &dx);
  emit_vec(o, g, RANK, n);
}

static const invariant long_sums[] = {{"linear_fwd", long_fwd, 0}, {"linear_bwd_x", long_bwd_x, 0}};

static void long_case(void) {
  int which[MANY], backward = current->run == long_bwd_x;
  for (int i = 0; i < MANY; i++) which[i] = i * 29 % ROWS;
  long_x = mat_random(ROWS, LONG, compute, 1);
  long_w = ops->pack(vec_random((size_t)NARROW * LONG, 0.2), TLK_F32, backward ? LONG : NARROW, backward ? NARROW : LONG, compute);
  long_lr = (tlk_lowrank){RANK, vec_random((size_t)RANK * LONG, 0.1), vec_random((size_t)LONG * RANK, 0.5), in.lr.R, NULL};
  if (!long_w) abort();
  out_rows first = {take(ROWS * 1024), 1024, 0};
  int in_order[ROWS];
  for (int i = 0; i < ROWS; i++) in_order[i] = i;
  ops->set_threads(1);
  current->run(in_order, ROWS, &first);
  for (int threads = 1; threads <= (ops->host ? 3 : 1); threads += 2) {
    int n_kept = n_taken;
    ops->set_threads(threads);
    for (int i = 0; i < 8; i++) compare(&first, which + i, 1, "1 (alone)");
    compare(&first, which + 5, 7, "7");
    compare(&first, which, MOST, "200");
    compare(&first, which, MANY, "520");
    drop_to(n_kept);
  }
  ops->packed_free(long_w);
}

// ---- sums over rows: the bits must not depend on the number of threads
static attn_case packed;  // shared prefixes, two units
static size_t gradient_bytes;

static char *gradients(void) {
  int T = packed.T, C = 67;
  rng_seed(5);
  mat dy = mat_random(T, N, compute, 1), x = mat_random(T, K, compute, 1), q = mat_random(T, H * D, compute, 1);
  mat k = mat_random(T, G * D, compute, 1), v = mat_random(T, G * D, compute, 1), d_o = mat_random(T, H * D, compute, 1);
  mat o = mat_nan(T, H * D, compute), dq = mat_nan(T, H * D, TLK_F32), dk = mat_fill(T, G * D, TLK_F32, 0), dv = mat_copy(&dk);
  float *z = vec_random((size_t)T * RANK, 1), *g = vec_random((size_t)T * RANK, 1), *f = vec_random((size_t)T * C, 1);
  float *stats = vec_nan(3 * (size_t)T), *dlogprob = vec_random((size_t)T, 1), *lse = vec_nan((size_t)T * H);
  int32_t *ids = take(4 * (size_t)T);
  for (int t = 0; t < T; t++) ids[t] = rng_below(N);
  float *gain = vec_random(C, 1), *rstd = vec_random((size_t)T, 1);
  size_t n[] = {N * K, N, C, (size_t)T * C, N * K, (size_t)T * K, N * C};
  enum { DW, DB, DGAIN, DX, DHEAD, DH, DTABLE, PARTS };
  float *out[PARTS];
  for (int i = 0; i < PARTS; i++) out[i] = vec_random(n[i], 0.1);
  double *dR = take(sizeof *dR * RANK * RANK), ss;
  ops->linear_bwd_w(out[DW], dy.m, x.m, T, N, K);
  ops->colsum(out[DB], dy.m, T, N);
  ops->rmsnorm_bwd(out[DX], out[DGAIN], f, f, gain, rstd, T, C);
  ops->lowrank_bwd(dR, g, z, packed.unit_off, packed.n_units, RANK);
  ops->attn_fwd(o.m, lse, q.m, k.m, v.m, &packed.map, 0.16f, T, H, G, D);
  ops->attn_bwd(dq.m, dk.m, dv.m, d_o.m, o.m, lse, q.m, k.m, v.m, &packed.map, packed.unit_off, packed.n_units, 0.16f, T, H, G,
                D);
  ops->head_fwd(stats, stats + T, stats + 2 * T, NULL, x.m, w, ids, 1, T);
  ops->head_bwd(out[DH], out[DHEAD], NULL, x.m, w, ids, stats + T, stats + 2 * T, dlogprob, dlogprob, 1, T);
  ops->embed_bwd(out[DTABLE], f, ids, T, C);
  ss = ops->sumsq(out[DW], N * K);
  mat *mats[] = {&dq, &dk, &dv};
  gradient_bytes = sizeof *dR * RANK * RANK + sizeof ss;
  for (int i = 0; i < PARTS; i++) gradient_bytes += 4 * n[i];
  for (int i = 0; i < 3; i++) gradient_bytes += mat_bytes(mats[i]);
  char *all = take(gradient_bytes), *p = all;
  for (int i = 0; i < 3; i++) p = (char *)memcpy(p, mats[i]->m.p, mat_bytes(mats[i])) + mat_bytes(mats[i]);
  for (int i = 0; i < PARTS; i++) p = (char *)memcpy(p, out[i], 4 * n[i]) + 4 * n[i];
  p = (char *)memcpy(p, dR, sizeof *dR * RANK * RANK) + sizeof *dR * RANK * RANK;
  memcpy(p, &ss, sizeof ss);
  return all;
}

static void gradients_case(void) {
  static const int lengths[] = {23, 17, 5, 31};
  packed = attn_make(MAP_PREFIX, lengths, 4, 0);
  ops->set_threads(1);
  char *one = gradients();
  for (int n = 1; n <= 3; n++) {
    ops->set_threads(n);
    same_bits(n == 1 ? "a second run" : n == 2 ? "2 threads" : "3 threads", one, gradients(), gradient_bytes);
  }
}

// ---- identities
static void no_lowrank_case(void) {
  int T = ROWS;
  memset(row_at(&in.x, 3), 0, row_bytes(&in.x));  // a row whose output is zero: its sign must survive
  float *none_bias[] = {in.bias, NULL};
  for (int b = 0; b < 2; b++)
    for (int dtype = TLK_F32; dtype <= compute; dtype += compute ? compute : 1) {
      mat plain = mat_nan(T, N, dtype), zero = mat_nan(T, N, dtype), off = mat_nan(T, N, dtype), some = mat_nan(T, N, dtype);
      float *z = vec_nan((size_t)T * RANK);
      tlk_lowrank lr = in.lr;
      float *R = vec_copy(in.lr.R, 3 * RANK * RANK);
      memset(R + RANK * RANK, 0, 4 * RANK * RANK);
      int32_t *v = take(4 * (size_t)T);
      ops->linear_fwd(plain.m, NULL, in.x.m, w, none_bias[b], NULL, T, 0);
      for (int t = 0; t < T; t++) v[t] = 1;
      lr.R = R, lr.variant = v;
      ops->linear_fwd(zero.m, z, in.x.m, w, none_bias[b], &lr, T, 0);
      same_bits("R all zero", plain.m.p, zero.m.p, mat_bytes(&plain));
      for (int t = 0; t < T; t++) v[t] = -1;
      ops->linear_fwd(off.m, z, in.x.m, w, none_bias[b], &lr, T, 0);
      same_bits("variant -1", plain.m.p, off.m.p, mat_bytes(&plain));
      for (int t = 0; t < T; t++) v[t] = t % 4 - 1;
      ops->linear_fwd(some.m, z, in.x.m, w, none_bias[b], &lr, T, 0);
      for (int t = 0; t < T; t++) {
        int same = memcmp(row_at(&plain, t), row_at(&some, t), row_bytes(&plain)) == 0, none = v[t] == -1 || v[t] == 1;
        if (t != 3) CHECK(same == none, "row %d with variant %d is %s", t, v[t], same ? "the same" : "another");
      }
      float *A = vec_copy(in.lr.A, RANK * K);
      A[5] = 3e38f;  // z overflows in most rows: a term that is multiplied by zero instead of left out gives NaN
      lr.R = R + RANK * RANK, lr.variant = NULL, lr.A = A;
      ops->linear_fwd(zero.m, z, in.x.m, w, none_bias[b], &lr, T, 0);
      same_bits("R all zero for every row", plain.m.p, zero.m.p, mat_bytes(&plain));
    }
}

static void sampled_logprob_case(void) {
  int32_t *ids = take(4 * ROWS);
  float *logprob = vec_nan(ROWS), *lse = vec_nan(ROWS), *entropy = vec_nan(ROWS), *want = vec_nan(3);
  ops->head_sample(ids, logprob, lse, entropy, in.x.m, w, in.sample, ROWS);
  for (int t = 0; t < ROWS; t++) {
    tlk_mat h = {row_at(&in.x, t), compute, in.x.m.ld};
    float temperature = in.sample[t].temperature;
    CHECK(ids[t] >= 0 && ids[t] < V, "id %d", ids[t]);
    ops->head_fwd(&want[0], &want[1], &want[2], NULL, h, w, &ids[t], temperature > 0 ? 1 / temperature : 1, 1);
    CHECK(memcmp(&want[0], &logprob[t], 4) == 0, "row %d: sampled %.9g, trained %.9g", t, logprob[t], want[0]);
    CHECK(memcmp(&want[1], &lse[t], 4) == 0, "row %d: lse %.9g, %.9g", t, lse[t], want[1]);
    CHECK(memcmp(&want[2], &entropy[t], 4) == 0, "row %d: entropy %.9g, %.9g", t, entropy[t], want[2]);
  }
}

// A relaxed weight gives equal shapes equal bits. On the simulator another number of rows gives other bits, as its library sums in
// another order then: that a row among others differs shows that the library is in use, and that the cases above would notice it.
static void relaxed_case(void) {
  enum { WIDE = 136, LONG = 304 };
  gap = 8;
  tlk_packed *loose = ops->pack(vec_random(WIDE * LONG, 0.2), TLK_F32, WIDE, LONG, compute);
  ops->relax(loose);
  mat x = mat_random(ROWS, LONG, compute, 1), y = mat_nan(ROWS, WIDE, TLK_F32), again = mat_copy(&y), one = mat_nan(1, WIDE, TLK_F32);
  ops->linear_fwd(y.m, NULL, x.m, loose, NULL, NULL, ROWS, 0);
  ops->linear_fwd(again.m, NULL, x.m, loose, NULL, NULL, ROWS, 0);
  same_bits("a second run", y.m.p, again.m.p, mat_bytes(&y));
  ops->linear_fwd(one.m, NULL, x.m, loose, NULL, NULL, 1, 0);
  CHECK(getenv("TL_TEST_DEVICE") || memcmp(one.m.p, y.m.p, row_bytes(&one)), "the simulator's library was not used");
  ops->packed_free(loose);
  gap = 3;
}

static void embedding_is_unpack_case(void) {
  float *x = vec_nan(ROWS * K), *row = vec_nan(K);
  ops->embed_fwd(x, w, in.ids, ROWS);
  for (int t = 0; t < ROWS; t++) {
    ops->unpack(row, w, in.ids[t], in.ids[t] + 1);
    same_bits("a row", row, x + t * K, 4 * K);
  }
}

static void one(const char *what, void (*fn)(void), int rows_of_w) {
  char name[128];
  snprintf(name, sizeof name, "%s %s %s", backend_label(), compute_name(compute), what);
  rng_seed(11);
  make_inputs();
  w = ops->pack(vec_random((size_t)rows_of_w * K, 0.2), TLK_F32, rows_of_w, K, compute);
  whole_heads = ops->pack(vec_random((size_t)192 * K, 0.2), TLK_F32, 192, K, compute);
  if (!w || !whole_heads) abort();
  test_run(name, fn);
  ops->packed_free(w);
  ops->packed_free(whole_heads);
  ops->set_threads(2);
  drop_all();
}

int main(void) {
  for (int b = 0; b < (n_backends() > 3 ? 3 : n_backends()); b++)  // many runs: of the simulator's orders one, without its checks
    for (compute = TLK_F32; compute <= TLK_F16; compute++) {
      ops = backend(b);
      if (b == 2) set_order(RANDOM, 3);
      for (size_t i = 0; i < sizeof invariants / sizeof *invariants; i++) {
        current = &invariants[i];
        char name[64];
        snprintf(name, sizeof name, "%s: a row's bits whatever the batch", current->name);
        one(name, batch_case, current->vocab ? V : N);
      }
      for (size_t i = 0; i < sizeof long_sums / sizeof *long_sums; i++) {
        current = &long_sums[i];
        char name[64];
        snprintf(name, sizeof name, "%s: sums of %d, a row's bits in up to %d", current->name, LONG, MANY);
        one(name, long_case, N);
      }
      one("gradients: the same bits with 1, 2, 3 threads", gradients_case, N);
      one("no low-rank term, R zero, variant -1", no_lowrank_case, N);
      one("head_sample's logprob is head_fwd's", sampled_logprob_case, V);
      one("an embedding row is the unpacked row", embedding_is_unpack_case, V);
      if (ops->relax) one("a relaxed weight", relaxed_case, N);
    }
  return test_done();
}

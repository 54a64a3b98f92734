// ops_cases.h: what a row of test_conformance_ops.c runs: the same operands through the reference (ref) and the backend (ops), and
// what both give, compared within the row's tolerance.
//
// Tolerances are relative to the largest value of the output:
//   EXACT   0      pure data movement, or one rounding of the same number
//   SUM     2e-5   fp32 sums of up to 2000 products against double: about sqrt(2000) 2^-24 is seen, a few times that is allowed
//   STORE   2^-7   the result is stored in bf16: values on two sides of a rounding boundary are one step, 2^-8 of them, apart
//   PROBS   2^-6   bf16 probabilities or score gradients inside a product, and a bf16 result (a backend may hold P in bf16)
//   both are an eighth of that in fp16, which has three bits more
//   EXP     5e-5   fp32 exp and log of scores whose own error is SUM
//   DOUBLE  1e-12  sums in double on both sides
#ifndef OPS_CASES_H
#define OPS_CASES_H
#include "conformance.h"

#define EXACT 0.0
#define SUM 2e-5
#define STORE 0x1p-7
#define PROBS 0x1p-6
#define EXP 5e-5
#define DOUBLE 1e-12

enum { BIAS = 1, LOWRANK = 2, IDENTITY = 4, VARIANTS = 8, ACCUMULATE = 16, OUT_F32 = 32, OUT_ROWS = 64, NO_DX = 128,
       EXTRA = 256, BYTES = 512, ALIGNED = 1024 };  // ALIGNED: rows of a multiple of 16 bytes

typedef struct row row;
struct row {
  int op;
  const char *note;
  void (*run)(const row *r);
  int T, N, K, r, flags;
  map_kind map;
  int window, G;
  double tol[2];  // f32; bf16 and f16
};

static const tlk_ops *ref;
static double tolerance(const row *r) {
  double t = r->tol[compute != TLK_F32];
  return compute == TLK_F16 && (t == STORE || t == PROBS) ? t / 8 : t;
}
static int out_dtype(const row *r) { return r->flags & (OUT_F32 | ACCUMULATE) ? TLK_F32 : compute; }

// The same weights, in the reference's and in the backend's layout.
typedef struct {
  tlk_packed *want, *got;
} weights;

static weights pack_both(const float *w, int N, int K, int as) {
  weights p = {ref->pack(w, TLK_F32, N, K, as), ops->pack(w, TLK_F32, N, K, as)};
  if (!p.want || !p.got) abort();
  return p;
}
static weights weights_random(int N, int K) { return pack_both(vec_random((size_t)N * K, 1 / sqrt(K)), N, K, compute); }
// in int8 where the row says so; its last row is zero
static weights weights_of(const row *r) {
  float *w = vec_random((size_t)r->N * r->K, 1 / sqrt(r->K));
  if (r->flags & BYTES) memset(w + (size_t)(r->N - 1) * r->K, 0, sizeof *w * (size_t)r->K);
  return pack_both(w, r->N, r->K, r->flags & BYTES ? TLK_I8 : compute);
}
static void weights_free(weights p) {
  ref->packed_free(p.want);
  ops->packed_free(p.got);
}

// ---- weights
static uint16_t half_pattern(int i) { return (uint16_t)(i * 0x9e3 % 0x7c00 | (i & 1) << 15); }  // finite halves, subnormals too

static void pack_case(const row *r) {
  int N = r->N, K = r->K, from = r->flags & 3, as = r->flags & BYTES ? TLK_I8 : compute;
  size_t n = (size_t)N * K;
  float *f = vec_random(n, 1), *want = vec_nan(n), *got = vec_nan(n);
  uint16_t *h = take(2 * n);
  // ties and edges of rounding
  const uint32_t special[] = {0x3f808000, 0x3f818000, 0x80000000, 0x00000001, 0x7f7fffff, 0x3f807fff, 0x3f808001};
  for (size_t i = 0; i < 7 && i < n; i++) memcpy(f + i, &special[i], 4);
  for (size_t i = 0; i < n; i++) h[i] = from == TLK_F16 ? half_pattern((int)i) : to_bf16(f[i]);
  const void *w = from == TLK_F32 ? (void *)f : (void *)h;
  weights p = {ref->pack(w, from, N, K, as), ops->pack(w, from, N, K, as)};
  CHECK(p.want && p.got, "out of memory");
  if (!p.want || !p.got) return;
  ref->unpack(want, p.want, 0, N);
  ops->unpack(got, p.got, 0, N);
  same_bits("all rows", want, got, n * 4);
  int n0 = N / 3, n1 = N - 1;
  ops->unpack(got, p.got, n0, n1);
  same_bits("a range of rows", want + (size_t)n0 * K, got, (size_t)(n1 - n0) * K * 4);
  float *again = vec_random(n, 2);
  ref->repack(p.want, again);
  ops->repack(p.got, again);
  ref->unpack(want, p.want, 0, N);
  ops->unpack(got, p.got, 0, N);
  same_bits("after repack", want, got, n * 4);
  int dims[3];
  ops->packed_dims(p.got, &dims[0], &dims[1], &dims[2]);
  CHECK(dims[0] == N && dims[1] == K && dims[2] == as, "dims (%d, %d), compute %d", dims[0], dims[1], dims[2]);
  CHECK(ops->packed_bytes(p.got) >= n * tlk_dtype_size(as), "%zu bytes", ops->packed_bytes(p.got));
  weights_free(p);
}

#include "linear_cases.h"

// ---- rmsnorm
static void rmsnorm_fwd_case(const row *r) {
  int T = r->T, C = r->N;
  float *x = vec_random((size_t)T * C, 3), *gain = vec_random((size_t)C, 1), *s = vec_nan((size_t)T), *s2 = vec_nan((size_t)T);
  mat y = mat_nan(T, C, compute), y2 = mat_copy(&y);
  memset(x, 0, sizeof *x * (size_t)C);  // a row of zeros: eps alone
  ref->rmsnorm_fwd(y.m, s, x, gain, 1e-5f, T, C);
  ops->rmsnorm_fwd(y2.m, s2, x, gain, 1e-5f, T, C);
  close_mat("y", &y, &y2, tolerance(r));
  for (int t = 0; t < T; t++) CHECK(fabs(s[t] - s2[t]) <= 2e-6 * s[t], "rstd[%d] = %.9g, expected %.9g", t, s2[t], s[t]);
}

static void rmsnorm_bwd_case(const row *r) {
  int T = r->T, C = r->N, gain_too = (r->flags & EXTRA) != 0;
  size_t n = (size_t)T * C;
  float *x = vec_random(n, 3), *gain = vec_random((size_t)C, 1), *rstd = vec_nan((size_t)T), *dy = vec_random(n, 1);
  float *dx = vec_random(n, 0.3), *dx2 = vec_copy(dx, n), *dg = vec_random((size_t)C, 1), *dg2 = vec_copy(dg, (size_t)C);
  mat y = mat_nan(T, C, TLK_F32);
  ref->rmsnorm_fwd(y.m, rstd, x, gain, 1e-5f, T, C);
  ref->rmsnorm_bwd(dx, gain_too ? dg : NULL, dy, x, gain, rstd, T, C);
  ops->rmsnorm_bwd(dx2, gain_too ? dg2 : NULL, dy, x, gain, rstd, T, C);
  close_vec("dx", dx, dx2, n, tolerance(r));
  close_vec("dgain", dg, dg2, (size_t)C, tolerance(r));
}

// ---- rope and cast. N heads of size K; OUT_ROWS scatters rows over a larger y; EXTRA: x is in the activation dtype.
static int32_t *rows_random(int T, int n_rows) {
  int32_t *rows = take(sizeof *rows * (size_t)n_rows);
  for (int i = 0; i < n_rows; i++) rows[i] = i;
  for (int i = 0; i < T; i++) {
    int j = i + rng_below(n_rows - i), s = rows[i];
    rows[i] = rows[j], rows[j] = s;
  }
  return rows;
}

// some of the rows go nowhere
static int32_t *rows_or_none(int32_t *rows, int T) {
  for (int t = 1; rows && t < T; t += 3) rows[t] = -1;
  return rows;
}

static float *angles(int n_pos, int D) {
  float *table = take(sizeof *table * (size_t)n_pos * D);
  for (int p = 0; p < n_pos; p++)
    for (int i = 0; i < D / 2; i++) {
      double a = p * pow(10000, -2.0 * i / D);
      table[(size_t)p * D + 2 * i] = (float)cos(a);
      table[(size_t)p * D + 2 * i + 1] = (float)sin(a);
    }
  return table;
}

static int32_t *positions(int T, int n_pos) {
  int32_t *pos = take(sizeof *pos * (size_t)T);
  for (int t = 0; t < T; t++) pos[t] = rng_below(n_pos);
  return pos;
}

static void rope_case(const row *r) {
  int T = r->T, heads = r->N, D = r->K, back = r->op == OP_rope_bwd, n_rows = r->flags & OUT_ROWS ? T + 4 : T;
  float *table = angles(40, D);
  int32_t *pos = positions(T, 40), *out = r->flags & OUT_ROWS ? rows_or_none(rows_random(T, n_rows), T) : NULL;
  mat x = mat_random(T, heads * D, r->flags & EXTRA ? compute : TLK_F32, 1);
  mat y = mat_random(n_rows, heads * D, out_dtype(r), 1), y2 = mat_copy(&y);
  for (int i = 0; i < 2; i++) {
    const tlk_ops *o = i ? ops : ref;
    if (back) o->rope_bwd(i ? y2.m : y.m, x.m, pos, table, T, heads, D);
    else o->rope_fwd(i ? y2.m : y.m, out, x.m, pos, table, T, heads, D);
  }
  close_mat("y", &y, &y2, tolerance(r));
}

static void cast_case(const row *r) {
  int n_rows = r->flags & OUT_ROWS ? r->T + 4 : r->T;
  int32_t *out = r->flags & OUT_ROWS ? rows_or_none(rows_random(r->T, n_rows), r->T) : NULL;
  mat x = mat_random(r->T, r->N, r->flags & EXTRA ? compute : TLK_F32, 1);
  mat y = mat_random(n_rows, r->N, out_dtype(r), 1), y2 = mat_copy(&y);
  ref->cast(y.m, out, x.m, r->T, r->N);
  ops->cast(y2.m, out, x.m, r->T, r->N);
  close_mat("y", &y, &y2, tolerance(r));
}

static void gather_case(const row *r) {
  int32_t *rows = rows_random(r->T, r->T + 4);
  rows[0] = rows[r->T - 1];  // one twice
  mat x = mat_random(r->T + 4, r->N, compute, 1), y = mat_nan(r->T, r->N, compute), y2 = mat_copy(&y);
  ref->gather(y.m, x.m, rows, r->T, r->N);
  ops->gather(y2.m, x.m, rows, r->T, r->N);
  close_mat("y", &y, &y2, tolerance(r));
}

// more matrices than go in one launch, of both dtypes, widths that are and are not a multiple of 16 bytes, with rows on both sides
// of which some are negative
static void move_rows_case(const row *r) {
  enum { MANY = 27 };
  int T = r->T;
  mat y[MANY], want[MANY];
  tlk_move m[MANY], w[MANY];
  int32_t *to = rows_or_none(rows_random(T, T + 4), T), *from = rows_random(T, T + 2);
  if (T > 3) from[3] = -1;
  for (int i = 0; i < MANY; i++) {
    int dtype = i % 2 ? TLK_F32 : compute, cols = i % 5 == 4 ? 1 : r->N + i % 3;
    mat x = mat_random(T + 2, cols, dtype, 1);
    y[i] = mat_random(T + 4, cols, dtype, 1), want[i] = mat_copy(&y[i]);
    m[i] = (tlk_move){y[i].m, x.m, i % 4 == 3 ? NULL : to, i % 3 ? NULL : from, cols};
    w[i] = m[i], w[i].y = want[i].m;
  }
  ref->move_rows(w, MANY, T);
  ops->move_rows(m, MANY, T);
  for (int i = 0; i < MANY; i++) same_bits("y", want[i].m.p, y[i].m.p, mat_bytes(&y[i]));
}

// ---- recordings: what was recorded does what the ops do, with what lies at their places when it is replayed
typedef struct {
  mat x, y;
  weights w;
  float *z;
  tlk_lowrank lr;
  int T;
} recorded_run;
static void run_ops(const recorded_run *q) {
  ops->linear_fwd(q->y.m, q->z, q->x.m, q->w.got, NULL, &q->lr, q->T, 0);
  ops->scale(q->z, 2, (size_t)q->T * (size_t)q->lr.r);
}
static void poison(const recorded_run *q) {
  mat nan = mat_nan(q->T, q->y.cols, q->y.m.dtype);
  memcpy(q->y.m.p, nan.m.p, mat_bytes(&nan));
}
static void record_case(const row *r) {
  if (!ops->records()) {
    CHECK(ops->host, "a device that records nothing");
    return;
  }
  recorded_run q = {mat_random(r->T, r->K, compute, 1), mat_nan(r->T, r->N, TLK_F32), weights_of(r), vec_nan((size_t)r->T * r->r), lowrank_random(r, r->T), r->T};
  run_ops(&q);  // scratch grows
  ops->sync();
  poison(&q);
  ops->record();
  run_ops(&q);
  tlk_recording *a = ops->recorded();
  ops->sync();
  CHECK(a && isnan(get(&q.y, 0, 0)), "ops ran while they were recorded, or nothing was");
  for (int i = 0; a && i < 3; i++) {
    for (int t = 0; t < r->T; t++)
      for (int k = 0; k < r->K; k++) put(&q.x, t, k, (float)rng_normal());
    run_ops(&q);
    ops->sync();
    mat want = mat_copy(&q.y);
    float *z = vec_copy(q.z, (size_t)r->T * r->r);
    poison(&q);
    CHECK(ops->replay(a), "it was not replayed");
    if (i == 2) ops->recording_free(a);  // what was replayed still runs
    ops->sync();
    same_bits("y", want.m.p, q.y.m.p, mat_bytes(&want));
    same_bits("z", z, q.z, 4 * (size_t)r->T * r->r);
  }
  ops->recording_free(NULL);
  weights_free(q.w);
}

// ---- memory: what goes in comes out, in both kinds and between them
static void memory_case(const row *r) {
  size_t n = (size_t)r->N;
  float *host = vec_random(n, 1), *back = vec_nan(n);
  for (int kind = TLK_MEM_OPS; kind <= TLK_MEM_SPARSE; kind++) {
    float *a = ops->alloc(n * 4, kind), *b = ops->alloc(n * 4, TLK_MEM_OPS);
    CHECK(a && b, "out of memory");
    if (!a || !b) return;
    CHECK((uintptr_t)a % 64 == 0 && (uintptr_t)b % 64 == 0, "not aligned");
    if (kind == TLK_MEM_BOTH) memcpy(a, host, n * 4);
    else ops->copy(a, host, n * 4);
    ops->copy(b, a, n * 4);
    ops->zero(b + 1, 8);
    ops->copy(back, b, n * 4);
    CHECK(back[1] == 0 && back[2] == 0 && back[0] == host[0], "zero");
    same_bits("through both", back + 3, host + 3, (n - 3) * 4);
    ops->sync();
    ops->release(a);
    ops->release(b);
  }
  ops->release(NULL);
}

// ---- attention. N query heads, G key heads, K is the head size.
static attn_case attn_of(const row *r) {
  static const int few[] = {7, 1, 19, 4}, many[] = {301, 33};
  return r->flags & EXTRA ? attn_make(r->map, many, 2, r->window) : attn_make(r->map, few, 4, r->window);
}

static void attn_fwd_case(const row *r) {
  attn_case c = attn_of(r);
  int T = c.T, H = r->N, G = r->G, D = r->K;
  mat q = mat_random(T, H * D, compute, 2), k = mat_random(c.n_rows, G * D, compute, 1);
  mat v = mat_random(c.n_rows, G * D, compute, 1);
  mat o = mat_nan(T, H * D, compute), o2 = mat_copy(&o);
  float *lse = vec_nan((size_t)T * H), *lse2 = vec_nan((size_t)T * H), scale = 1 / sqrtf((float)D);
  ref->attn_fwd(o.m, lse, q.m, k.m, v.m, &c.map, scale, T, H, G, D);
  ops->attn_fwd(o2.m, lse2, q.m, k.m, v.m, &c.map, scale, T, H, G, D);
  close_mat("o", &o, &o2, tolerance(r));
  close_vec("lse", lse, lse2, (size_t)T * H, EXP);
}

static void attn_bwd_case(const row *r) {
  attn_case c = attn_of(r);
  int T = c.T, H = r->N, G = r->G, D = r->K;
  mat q = mat_random(T, H * D, compute, 2), k = mat_random(c.n_rows, G * D, compute, 1);
  mat v = mat_random(c.n_rows, G * D, compute, 1);
  mat o = mat_nan(T, H * D, compute), d_o = mat_random(T, H * D, compute, 1);
  mat dq = mat_nan(T, H * D, TLK_F32), dk = mat_random(c.n_rows, G * D, TLK_F32, 0.1);
  mat dv = mat_random(c.n_rows, G * D, TLK_F32, 0.1);
  mat dq2 = mat_copy(&dq), dk2 = mat_copy(&dk), dv2 = mat_copy(&dv);
  float *lse = vec_nan((size_t)T * H), scale = 1 / sqrtf((float)D);
  ref->attn_fwd(o.m, lse, q.m, k.m, v.m, &c.map, scale, T, H, G, D);
  ref->attn_bwd(dq.m, dk.m, dv.m, d_o.m, o.m, lse, q.m, k.m, v.m, &c.map, c.unit_off, c.n_units, scale, T, H, G, D);
  ops->attn_bwd(dq2.m, dk2.m, dv2.m, d_o.m, o.m, lse, q.m, k.m, v.m, &c.map, c.unit_off, c.n_units, scale, T, H, G, D);
  close_mat("dq", &dq, &dq2, tolerance(r));
  close_mat("dk", &dk, &dk2, tolerance(r));
  close_mat("dv", &dv, &dv2, tolerance(r));
}

// ---- swiglu: scale 5 with a few values far out, where sigma saturates
static void swiglu_case(const row *r) {
  int T = r->T, F = r->N;
  mat gate = mat_random(T, F, compute, 5), up = mat_random(T, F, compute, 1), dh = mat_random(T, F, TLK_F32, 1);
  put(&gate, 0, 0, -200), put(&gate, T - 1, F - 1, 200), put(&gate, 0, F / 2, 0);
  mat a = mat_nan(T, F, compute), b = mat_copy(&a), a2 = mat_copy(&a), b2 = mat_copy(&a);
  if (r->op == OP_swiglu_fwd) {
    ref->swiglu_fwd(a.m, gate.m, up.m, T, F);
    ops->swiglu_fwd(a2.m, gate.m, up.m, T, F);
    close_mat("h", &a, &a2, tolerance(r));
  } else {
    ref->swiglu_bwd(a.m, b.m, dh.m, gate.m, up.m, T, F);
    ops->swiglu_bwd(a2.m, b2.m, dh.m, gate.m, up.m, T, F);
    close_mat("dgate", &a, &a2, tolerance(r));
    close_mat("dup", &b, &b2, tolerance(r));
  }
}

// ---- embedding
static int32_t *ids_random(int T, int V) {
  int32_t *ids = take(sizeof *ids * (size_t)T);
  for (int t = 0; t < T; t++) ids[t] = rng_below(V);
  return ids;
}

static void embed_fwd_case(const row *r) {
  weights w = weights_random(r->N, r->K);
  int32_t *ids = ids_random(r->T, r->N);
  ids[0] = r->N - 1;
  size_t n = (size_t)r->T * r->K;
  float *x = vec_nan(n), *x2 = vec_nan(n);
  ref->embed_fwd(x, w.want, ids, r->T);
  ops->embed_fwd(x2, w.got, ids, r->T);
  same_bits("x", x, x2, n * 4);
  weights_free(w);
}

static void embed_bwd_case(const row *r) {
  size_t n = (size_t)r->N * r->K;
  int32_t *ids = ids_random(r->T, r->N);
  float *dx = vec_random((size_t)r->T * r->K, 1), *want = vec_random(n, 1), *got = vec_copy(want, n);
  ref->embed_bwd(want, dx, ids, r->T, r->K);
  ops->embed_bwd(got, dx, ids, r->T, r->K);
  same_bits("dtable", want, got, n * 4);  // the order of t is part of the contract
}

// ---- head. N is the vocabulary, K the width.
static void head_fwd_case(const row *r) {
  size_t T = (size_t)r->T;
  weights w = pack_both(vec_random((size_t)r->N * r->K, 3 / sqrt(r->K)), r->N, r->K, r->flags & BYTES ? TLK_I8 : compute);
  mat h = mat_random(r->T, r->K, compute, 1);
  int32_t *targets = r->flags & EXTRA ? NULL : ids_random(r->T, r->N);
  float *want = vec_nan(3 * T), *got = vec_nan(3 * T), inv_temp = 1 / 0.7f;
  ref->head_fwd(want, want + T, want + 2 * T, NULL, h.m, w.want, targets, inv_temp, r->T);
  ops->head_fwd(got, got + T, got + 2 * T, NULL, h.m, w.got, targets, inv_temp, r->T);
  if (targets) close_vec("logprob", want, got, T, tolerance(r));
  close_vec("lse", want + T, got + T, T, tolerance(r));
  close_vec("entropy", want + 2 * T, got + 2 * T, T, tolerance(r));
  float *alone = vec_nan(2 * T);
  ops->head_fwd(alone, alone + T, NULL, NULL, h.m, w.got, targets, inv_temp, r->T);
  same_bits("without entropy", got, alone, (targets ? 2 : 0) * T * 4);
  weights_free(w);
}

static void head_bwd_case(const row *r) {
  size_t T = (size_t)r->T, n = T * (size_t)r->K, nw = (size_t)r->N * r->K;
  int with_entropy = !(r->flags & NO_DX), with_dw = (r->flags & EXTRA) != 0;
  weights w = pack_both(vec_random(nw, 3 / sqrt(r->K)), r->N, r->K, compute);
  mat h = mat_random(r->T, r->K, compute, 1);
  int32_t *targets = ids_random(r->T, r->N);
  float *stats = vec_nan(3 * T), *dlogprob = vec_random(T, 1), *dentropy = with_entropy ? vec_random(T, 1) : NULL;
  float *dh = vec_nan(n), *dh2 = vec_nan(n), *dw = vec_random(nw, 0.1), *dw2 = vec_copy(dw, nw), inv_temp = 1 / 0.7f;
  dlogprob[0] = 0;  // a masked token
  ref->head_fwd(stats, stats + T, stats + 2 * T, NULL, h.m, w.want, targets, inv_temp, r->T);
  float *entropy = with_entropy ? stats + 2 * T : NULL;
  ref->head_bwd(dh, with_dw ? dw : NULL, NULL, h.m, w.want, targets, stats + T, entropy, dlogprob, dentropy, inv_temp, r->T);
  float *before = vec_copy(dw2, nw);
  ops->head_bwd(dh2, with_dw ? dw2 : NULL, NULL, h.m, w.got, targets, stats + T, entropy, dlogprob, dentropy, inv_temp, r->T);
  close_vec("dh", dh, dh2, n, tolerance(r));
  close_vec("dw", dw, dw2, nw, tolerance(r));
  if (ops->host) {  // the logits that the forward direction left: the same bits
    float *logits = vec_nan(T * (size_t)r->N), *again = vec_nan(n), *seen = vec_nan(3 * T);
    ops->head_fwd(seen, seen + T, seen + 2 * T, logits, h.m, w.got, targets, inv_temp, r->T);
    ops->head_bwd(again, with_dw ? before : NULL, logits, h.m, w.got, targets, stats + T, entropy, dlogprob, dentropy, inv_temp,
                  r->T);
    same_bits("dh from kept logits", dh2, again, n * 4);
    if (with_dw) same_bits("dw from kept logits", dw2, before, nw * 4);
  }
  weights_free(w);
}

// What is drawn is the subject of test_conformance_sample; here greedy ids, logprob and entropy.
static void head_sample_case(const row *r) {
  size_t T = (size_t)r->T;
  weights w = pack_both(vec_random((size_t)r->N * r->K, 3 / sqrt(r->K)), r->N, r->K, r->flags & BYTES ? TLK_I8 : compute);
  mat h = mat_random(r->T, r->K, compute, 1);
  tlk_sample_row *rows = take(sizeof *rows * T);
  for (int t = 0; t < r->T; t++) rows[t] = (tlk_sample_row){.top_p = 1};
  int32_t *ids = take(4 * T), *ids2 = take(4 * T);
  float *want = vec_nan(3 * T), *got = vec_nan(3 * T);
  ref->head_sample(ids, want, want + 2 * T, want + T, h.m, w.want, rows, r->T);
  ops->head_sample(ids2, got, got + 2 * T, got + T, h.m, w.got, rows, r->T);
  for (int t = 0; t < r->T; t++) CHECK(ids[t] == ids2[t], "row %d: greedy id %d, expected %d", t, ids2[t], ids[t]);
  close_vec("logprob", want, got, T, tolerance(r));
  close_vec("entropy", want + T, got + T, T, tolerance(r));
  close_vec("lse", want + 2 * T, got + 2 * T, T, tolerance(r));
  weights_free(w);
}

// ---- vectors of N numbers
static void adamw_case(const row *r) {
  size_t n = (size_t)r->N;
  float *p = vec_random(n, 1), *m = vec_random(n, 0.1), *v = vec_random(n, 0.1), *g = vec_random(n, 1);
  for (size_t i = 0; i < n; i++) v[i] = fabsf(v[i]);
  float *p2 = vec_copy(p, n), *m2 = vec_copy(m, n), *v2 = vec_copy(v, n);
  for (int step = 1; step <= 3; step++) {
    ref->adamw(p, m, v, g, n, 1e-2f, 0.9f, 0.999f, 1e-8f, 0.1f, step);
    ops->adamw(p2, m2, v2, g, n, 1e-2f, 0.9f, 0.999f, 1e-8f, 0.1f, step);
  }
  close_vec("param", p, p2, n, tolerance(r));
  close_vec("m", m, m2, n, tolerance(r));
  close_vec("v", v, v2, n, tolerance(r));
}

static void sumsq_case(const row *r) {
  float *x = vec_random((size_t)r->N, 1);
  double want = ref->sumsq(x, (size_t)r->N), got = ops->sumsq(x, (size_t)r->N);
  CHECK(fabs(want - got) <= tolerance(r) * want, "%.17g, expected %.17g", got, want);
}

static void scale_case(const row *r) {
  size_t n = (size_t)r->N;
  float *x = vec_random(n, 1), *x2 = vec_copy(x, n);
  ref->scale(x, 0.37f, n);
  ops->scale(x2, 0.37f, n);
  same_bits("x", x, x2, n * 4);
}

static void round_to_case(const row *r) {
  size_t n = (size_t)r->N;
  float *x = vec_random(n, 1), *want = vec_nan(n), *got = vec_nan(n);
  const float special[] = {0x1p-24f, 0x1p-25f, 0x1.8p-25f, 65504, 65519.996f, 65520, -0.0f, 1 + 0x1p-11f,
                           1 + 0x1.8p-10f, 0x1.01p0f, 0x1.03p0f};
  memcpy(x, special, sizeof special);
  ref->round_to(want, x, n, r->flags);
  ops->round_to(got, x, n, r->flags);
  same_bits("y", want, got, n * 4);
}

// one rank, whose sum over ranks is what it has; two on one card are refused. Several ranks: tests/test_ranks.sh
static void ranks_case(const row *r) {
  size_t n = (size_t)r->N;
  float *x = vec_random(n, 1), *x2 = vec_copy(x, n);
  char *hellos = calloc(2, TLK_HELLO), why[256] = "";
  ops->ranks_hello(hellos, 0);
  ops->ranks_hello(hellos + TLK_HELLO, 1);
  CHECK(!ops->ranks_join(hellos, 0, 2, why, sizeof why) && *why, "two ranks of one device were connected");
  tlk_ranks *alone = ops->ranks_join(hellos, 0, 1, why, sizeof why);
  if (alone) {
    float *d = ops->alloc(n * 4, TLK_MEM_OPS);
    ops->copy(d, x2, n * 4);
    ops->ranks_sum(alone, d, n);
    ops->copy(x2, d, n * 4);
    ops->release(d);
    same_bits("the sum over one rank", x, x2, n * 4);
  }
  CHECK(alone || strstr(why, "NCCL"), "%s", why);  // a machine may be without it
  ops->ranks_leave(alone);
  free(hellos);
}

static void set_threads_case(const row *r) {
  weights w = weights_random(r->N, r->K);
  mat x = mat_random(r->T, r->K, compute, 1), y[4];
  for (int n = 0; n < 4; n++) {
    y[n] = mat_nan(r->T, r->N, TLK_F32);
    ops->set_threads(n);
    ops->linear_fwd(y[n].m, NULL, x.m, w.got, NULL, NULL, r->T, 0);
    same_bits("y", y[0].m.p, y[n].m.p, mat_bytes(&y[0]));
  }
  ops->set_threads(2);
  weights_free(w);
}

#endif

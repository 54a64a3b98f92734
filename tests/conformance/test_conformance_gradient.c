// test_conformance_gradient.c: every backward op of the reference against finite differences of its forward op.
//
// The loss is a fixed random combination of the outputs, summed in double. Its derivative by each input number is taken with
// the fourth-order stencil (8 (L(+h) - L(-h)) - (L(+2h) - L(-2h))) / 12h. The step is 1/64 and inputs are multiples of 1/1024,
// so x + h is exact in fp32. Outputs are stored in fp32, which puts noise of about 2^-24 sqrt(outputs) 64 = 3e-5 on a
// derivative of order 1; the stencil's own error is of order h^4 = 6e-8. Derivatives must agree to 2e-4 of the largest one.
#include "conformance.h"

#define STEP (1.0 / 64)
#define TOLERANCE 2e-4

enum { T = 5, N = 7, K = 6, R = 2, HEADS = 4, GROUPS = 2, D = 6 };

// Multiples of 1/1024 in (-1, 1)
static float *grid(size_t n) {
  float *v = take(sizeof *v * n);
  for (size_t i = 0; i < n; i++) v[i] = (float)(rng_below(2047) - 1023) / 1024;
  return v;
}
static mat dense(float *p, int rows, int cols) { return (mat){{p, TLK_F32, cols}, rows, cols}; }
static double dot(const float *a, const float *b, size_t n) {
  double s = 0;
  for (size_t i = 0; i < n; i++) s += (double)a[i] * b[i];
  return s;
}

static void check(const char *what, float *x, const float *gradient, size_t n, double (*loss)(void)) {
  double worst = 0, largest = 1e-30;
  for (size_t i = 0; i < n; i++) {
    double l[5];
    float x0 = x[i];
    for (int k = -2; k <= 2; k++) {
      x[i] = x0 + (float)(k * STEP);
      l[k + 2] = k ? loss() : 0;
    }
    x[i] = x0;
    double d = (8 * (l[3] - l[1]) - (l[4] - l[0])) / (12 * STEP), e = fabs(d - gradient[i]);
    if (!(e <= worst)) worst = e;
    if (fabs(d) > largest) largest = fabs(d);
  }
  CHECK(largest > 1e-3, "%s: the loss does not depend on it", what);
  CHECK(worst <= TOLERANCE * largest, "%s: gradient off by %.3g of the largest", what, worst / largest);
}

// ---- linear: x, W, bias, R, and A and B through bwd_w
static struct {
  float *x, *w, *bias, *y, *c, *z, *g;
  tlk_packed *packed;
  tlk_lowrank lr;
} lin;

static double linear_loss(void) {
  ops->repack(lin.packed, lin.w);
  ops->linear_fwd(dense(lin.y, T, N).m, lin.z, dense(lin.x, T, K).m, lin.packed, lin.bias, &lin.lr, T, 0);
  return dot(lin.y, lin.c, T * N);
}

static void linear_make(void) {
  lin.x = grid(T * K), lin.w = grid(N * K), lin.bias = grid(N), lin.c = grid(T * N), lin.y = vec_nan(T * N);
  lin.z = vec_nan(T * R), lin.g = vec_nan(T * R);
  lin.lr = (tlk_lowrank){R, grid(R * K), grid(N * R), grid(2 * R * R), NULL};
  lin.packed = ops->pack(lin.w, TLK_F32, N, K, TLK_F32);
}

// The upstream gradient is c itself.
static void linear_bwd_x(void) {
  linear_make();
  int32_t variant[T] = {1, -1, 0, 1, 0};
  float *dx = vec_nan(T * K);
  for (int i = 0; i < 2; i++) {
    lin.lr.variant = i ? NULL : variant;
    ops->linear_bwd_x(dense(dx, T, K).m, lin.g, dense(lin.c, T, N).m, lin.packed, &lin.lr, T, 0);
    check("x", lin.x, dx, T * K, linear_loss);
  }
  lin.lr.R = NULL;
  ops->linear_bwd_x(dense(dx, T, K).m, lin.g, dense(lin.c, T, N).m, lin.packed, &lin.lr, T, 0);
  check("x with R the identity", lin.x, dx, T * K, linear_loss);
  ops->packed_free(lin.packed);
}

static void linear_bwd_w(void) {
  linear_make();
  float *dw = vec_random(N * K, 0), *dA = vec_random(R * K, 0), *dB = vec_random(N * R, 0);
  lin.lr.R = NULL;
  mat x = dense(lin.x, T, K), c = dense(lin.c, T, N);
  linear_loss();
  ops->linear_bwd_x((tlk_mat){NULL, TLK_F32, K}, lin.g, c.m, lin.packed, &lin.lr, T, 0);
  ops->linear_bwd_w(dw, c.m, x.m, T, N, K);
  check("W", lin.w, dw, N * K, linear_loss);
  ops->linear_bwd_w(dA, dense(lin.g, T, R).m, x.m, T, R, K);
  check("A", (float *)lin.lr.A, dA, R * K, linear_loss);
  linear_loss();
  ops->linear_bwd_w(dB, c.m, dense(lin.z, T, R).m, T, N, R);
  check("B", (float *)lin.lr.B, dB, N * R, linear_loss);
  ops->packed_free(lin.packed);
}

static void colsum(void) {
  linear_make();
  float *db = vec_random(N, 0);
  ops->colsum(db, dense(lin.c, T, N).m, T, N);
  check("bias", lin.bias, db, N, linear_loss);
  ops->packed_free(lin.packed);
}

// two units of one R
static void lowrank_bwd(void) {
  linear_make();
  int32_t unit_off[] = {0, 2, T};
  double dR[R * R] = {0};
  linear_loss();
  ops->linear_bwd_x((tlk_mat){NULL, TLK_F32, K}, lin.g, dense(lin.c, T, N).m, lin.packed, &lin.lr, T, 0);
  ops->lowrank_bwd(dR, lin.g, lin.z, unit_off, 2, R);
  float gradient[R * R];
  for (int i = 0; i < R * R; i++) gradient[i] = (float)dR[i];
  check("R", (float *)lin.lr.R, gradient, R * R, linear_loss);
  ops->packed_free(lin.packed);
}

// ---- rmsnorm
static struct {
  float *x, *gain, *y, *c, *rstd;
} norm;

static double rmsnorm_loss(void) {
  ops->rmsnorm_fwd(dense(norm.y, T, K).m, norm.rstd, norm.x, norm.gain, 1e-2f, T, K);
  return dot(norm.y, norm.c, T * K);
}

static void rmsnorm_bwd(void) {
  norm.x = grid(T * K), norm.gain = grid(K), norm.c = grid(T * K), norm.y = vec_nan(T * K), norm.rstd = vec_nan(T);
  float *dx = vec_random(T * K, 0), *dgain = vec_random(K, 0);
  rmsnorm_loss();
  ops->rmsnorm_bwd(dx, dgain, norm.c, norm.x, norm.gain, norm.rstd, T, K);
  check("x", norm.x, dx, T * K, rmsnorm_loss);
  check("gain", norm.gain, dgain, K, rmsnorm_loss);
}

// ---- rope
static struct {
  float *x, *y, *c, *table;
  int32_t pos[T];
} rot;

static double rope_loss(void) {
  ops->rope_fwd(dense(rot.y, T, HEADS * D).m, NULL, dense(rot.x, T, HEADS * D).m, rot.pos, rot.table, T, HEADS, D);
  return dot(rot.y, rot.c, T * HEADS * D);
}

static void rope_bwd(void) {
  size_t n = T * HEADS * D;
  rot.x = grid(n), rot.c = grid(n), rot.y = vec_nan(n), rot.table = grid(9 * D);
  for (int t = 0; t < T; t++) rot.pos[t] = rng_below(9);
  float *dx = vec_nan(n);
  ops->rope_bwd(dense(dx, T, HEADS * D).m, dense(rot.c, T, HEADS * D).m, rot.pos, rot.table, T, HEADS, D);
  check("x", rot.x, dx, n, rope_loss);
}

// ---- attention over shared prefixes, with and without a window
static struct {
  attn_case a;
  float *q, *k, *v, *o, *c, *lse;
} att;

static double attn_loss(void) {
  int n = att.a.T, rows = att.a.n_rows;
  ops->attn_fwd(dense(att.o, n, HEADS * D).m, att.lse, dense(att.q, n, HEADS * D).m, dense(att.k, rows, GROUPS * D).m,
                dense(att.v, rows, GROUPS * D).m, &att.a.map, 0.7f, n, HEADS, GROUPS, D);
  return dot(att.o, att.c, (size_t)n * HEADS * D);
}

static void attn_bwd(void) {
  static const int lengths[] = {3, 2, 4};
  for (int window = 0; window <= 3; window += 3) {
    att.a = attn_make(MAP_PREFIX, lengths, 3, window);
    int n = att.a.T, rows = att.a.n_rows;
    size_t nq = (size_t)n * HEADS * D, nk = (size_t)rows * GROUPS * D;
    att.q = grid(nq), att.k = grid(nk), att.v = grid(nk), att.c = grid(nq), att.o = vec_nan(nq);
    att.lse = vec_nan((size_t)n * HEADS);
    float *dq = vec_nan(nq), *dk = vec_random(nk, 0), *dv = vec_random(nk, 0);
    attn_loss();
    ops->attn_bwd(dense(dq, n, HEADS * D).m, dense(dk, rows, GROUPS * D).m, dense(dv, rows, GROUPS * D).m,
                  dense(att.c, n, HEADS * D).m, dense(att.o, n, HEADS * D).m, att.lse, dense(att.q, n, HEADS * D).m,
                  dense(att.k, rows, GROUPS * D).m, dense(att.v, rows, GROUPS * D).m, &att.a.map, att.a.unit_off, att.a.n_units,
                  0.7f, n, HEADS, GROUPS, D);
    check("q", att.q, dq, nq, attn_loss);
    check("k", att.k, dk, nk, attn_loss);
    check("v", att.v, dv, nk, attn_loss);
  }
}

// ---- swiglu
static struct {
  float *gate, *up, *h, *c;
} glu;

static double swiglu_loss(void) {
  ops->swiglu_fwd(dense(glu.h, T, N).m, dense(glu.gate, T, N).m, dense(glu.up, T, N).m, T, N);
  return dot(glu.h, glu.c, T * N);
}

static void swiglu_bwd(void) {
  glu.gate = grid(T * N), glu.up = grid(T * N), glu.c = grid(T * N), glu.h = vec_nan(T * N);
  for (int i = 0; i < T * N; i++) glu.gate[i] *= 4;
  float *dgate = vec_nan(T * N), *dup = vec_nan(T * N);
  ops->swiglu_bwd(dense(dgate, T, N).m, dense(dup, T, N).m, dense(glu.c, T, N).m, dense(glu.gate, T, N).m,
                  dense(glu.up, T, N).m, T, N);
  check("gate", glu.gate, dgate, T * N, swiglu_loss);
  check("up", glu.up, dup, T * N, swiglu_loss);
}

// the same before a linear: y = silu(gate) up W^T with the low-rank term
static double swiglu_linear_loss(void) {
  ops->swiglu_fwd(dense(lin.x, T, K).m, dense(glu.gate, T, K).m, dense(glu.up, T, K).m, T, K);
  return linear_loss();
}

static void linear_bwd_swiglu(void) {
  linear_make();
  for (int i = 0; i < N; i++) lin.bias[i] = 0;
  glu.gate = grid(T * K), glu.up = grid(T * K);
  for (int i = 0; i < T * K; i++) glu.gate[i] *= 4;
  float *dgate = vec_nan(T * K), *dup = vec_nan(T * K), *dh = vec_nan(T * K);
  ops->linear_bwd_swiglu(dense(dgate, T, K).m, dense(dup, T, K).m, dense(dh, T, K).m, lin.g, dense(lin.c, T, N).m, lin.packed, &lin.lr,
                         dense(glu.gate, T, K).m, dense(glu.up, T, K).m, T);
  check("gate", glu.gate, dgate, T * K, swiglu_linear_loss);
  check("up", glu.up, dup, T * K, swiglu_linear_loss);
  ops->packed_free(lin.packed);
}

// ---- embedding: ids repeat
static struct {
  float *table, *x, *c;
  tlk_packed *packed;
  int32_t ids[T];
} emb;

static double embed_loss(void) {
  ops->repack(emb.packed, emb.table);
  ops->embed_fwd(emb.x, emb.packed, emb.ids, T);
  return dot(emb.x, emb.c, T * K);
}

static void embed_bwd(void) {
  emb.table = grid(N * K), emb.c = grid(T * K), emb.x = vec_nan(T * K);
  emb.packed = ops->pack(emb.table, TLK_F32, N, K, TLK_F32);
  memcpy(emb.ids, (int32_t[]){3, 0, 3, 6, 3}, sizeof emb.ids);
  float *d = vec_random(N * K, 0);
  ops->embed_bwd(d, emb.c, emb.ids, T, K);
  check("table", emb.table, d, N * K, embed_loss);
  ops->packed_free(emb.packed);
}

// ---- head: the loss takes log-probabilities and entropies
static struct {
  float *h, *w, *logprob, *lse, *entropy, *c, *e;
  tlk_packed *packed;
  int32_t ids[T];
} hd;

enum { VOCAB = 11 };

static double head_loss(void) {
  ops->repack(hd.packed, hd.w);
  ops->head_fwd(hd.logprob, hd.lse, hd.entropy, NULL, dense(hd.h, T, K).m, hd.packed, hd.ids, 1.4f, T);
  return dot(hd.logprob, hd.c, T) + (hd.e ? dot(hd.entropy, hd.e, T) : 0);
}

static void head_bwd(void) {
  hd.h = grid(T * K), hd.w = grid(VOCAB * K), hd.c = grid(T);
  hd.logprob = vec_nan(T), hd.lse = vec_nan(T), hd.entropy = vec_nan(T);
  hd.packed = ops->pack(hd.w, TLK_F32, VOCAB, K, TLK_F32);
  for (int t = 0; t < T; t++) hd.ids[t] = rng_below(VOCAB);
  for (int with_entropy = 0; with_entropy < 2; with_entropy++) {
    hd.e = with_entropy ? grid(T) : NULL;
    float *dh = vec_nan(T * K), *dw = vec_random(VOCAB * K, 0);
    head_loss();
    ops->head_bwd(dh, dw, NULL, dense(hd.h, T, K).m, hd.packed, hd.ids, hd.lse, hd.e ? hd.entropy : NULL, hd.c, hd.e, 1.4f, T);
    check("h", hd.h, dh, T * K, head_loss);
    check("w", hd.w, dw, VOCAB * K, head_loss);
  }
  ops->packed_free(hd.packed);
}

static const struct {
  int op;
  void (*run)(void);
} rows[] = {
  {OP_linear_bwd_x, linear_bwd_x}, {OP_linear_bwd_w, linear_bwd_w}, {OP_colsum, colsum},     {OP_lowrank_bwd, lowrank_bwd},
  {OP_rmsnorm_bwd, rmsnorm_bwd},   {OP_rope_bwd, rope_bwd},         {OP_attn_bwd, attn_bwd}, {OP_swiglu_bwd, swiglu_bwd},
  {OP_linear_bwd_swiglu, linear_bwd_swiglu}, {OP_embed_bwd, embed_bwd},       {OP_head_bwd, head_bwd},
};
enum { N_ROWS = sizeof rows / sizeof *rows };

static void every_backward_op_is_checked(void) {
  for (int i = 0; i < N_OPS; i++) {
    int found = 0;
    for (int k = 0; k < N_ROWS; k++) found += rows[k].op == i;
    CHECK(found == (op_infos[i].kind == 1), "%s has %d gradient checks", op_infos[i].name, found);
  }
}

int main(void) {
  ops = tlk_reference();
  compute = TLK_F32;
  RUN(every_backward_op_is_checked);
  for (int i = 0; i < N_ROWS; i++) {
    char name[64];
    snprintf(name, sizeof name, "gradient of %s", op_infos[rows[i].op].name);
    rng_seed(3 + (uint64_t)i);
    test_run(name, rows[i].run);
    drop_all();
  }
  return test_done();
}

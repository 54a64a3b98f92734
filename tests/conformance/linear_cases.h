// linear_cases.h: the cases of test_conformance_ops.c for products with weights, and what is fused with them. ops_cases.h, whose rows
// and weights they use, includes it.
static tlk_lowrank lowrank_random(const row *r, int T) {
  tlk_lowrank lr = {.r = r->r, .A = vec_random((size_t)r->r * r->K, 1 / sqrt(r->K)), .B = vec_random((size_t)r->N * r->r, 0.5)};
  if (!(r->flags & IDENTITY)) lr.R = vec_random((size_t)3 * r->r * r->r, 0.5);
  if (r->flags & VARIANTS) {
    int32_t *v = take(sizeof *v * (size_t)T);
    for (int t = 0; t < T; t++) v[t] = (r->flags & IDENTITY ? rng_below(2) : rng_below(4)) - 1;
    lr.variant = v;
  }
  return lr;
}

static void linear_fwd_case(const row *r) {
  int T = r->T, N = r->N, K = r->K, acc = (r->flags & ACCUMULATE) != 0;
  weights w = weights_of(r);
  if (r->op == OP_relax) ops->relax(w.got);
  mat x = mat_random(T, K, compute, 1), y = acc ? mat_random(T, N, TLK_F32, 1) : mat_nan(T, N, out_dtype(r)), y2 = mat_copy(&y);
  float *bias = r->flags & BIAS ? vec_random((size_t)N, 1) : NULL;
  tlk_lowrank lr = r->flags & LOWRANK ? lowrank_random(r, T) : (tlk_lowrank){0}, *l = r->flags & LOWRANK ? &lr : NULL;
  float *z = l ? vec_nan((size_t)T * r->r) : NULL, *z2 = l ? vec_nan((size_t)T * r->r) : NULL;
  ref->linear_fwd(y.m, z, x.m, w.want, bias, l, T, acc);
  ops->linear_fwd(y2.m, z2, x.m, w.got, bias, l, T, acc);
  close_mat("y", &y, &y2, tolerance(r));
  if (l) close_vec("z", z, z2, (size_t)T * r->r, SUM);
  weights_free(w);
}

// three linears over one x, of which the first and the last may have a low-rank term: the bits of linear_fwd
static void linear_group_case(const row *r) {
  int T = r->T, K = r->K, widths[3] = {r->N, 3, r->N / 2 + 1};
  mat x = mat_random(T, K, compute, 1), y[3], want[3];
  weights w[3];
  tlk_lowrank lr[3];
  tlk_linear l[3];
  for (int i = 0; i < 3; i++) {
    row one = *r;
    one.N = widths[i];
    w[i] = weights_of(&one);
    y[i] = mat_nan(T, widths[i], i == 1 ? TLK_F32 : compute), want[i] = mat_copy(&y[i]);
    int low = i != 1 && (r->flags & LOWRANK);
    if (low) lr[i] = lowrank_random(&one, T);
    float *z = vec_nan((size_t)T * (r->r + 1)), *z2 = vec_nan((size_t)T * (r->r + 1)), *bias = i ? vec_random((size_t)widths[i], 1) : NULL;
    l[i] = (tlk_linear){y[i].m, low ? z : NULL, w[i].got, bias, low ? &lr[i] : NULL};
    ops->linear_fwd(want[i].m, low ? z2 : NULL, x.m, w[i].got, bias, low ? &lr[i] : NULL, T, 0);
  }
  ops->linear_fwd_group(l, 3, x.m, T);
  for (int i = 0; i < 3; i++) {
    same_bits("y", want[i].m.p, y[i].m.p, mat_bytes(&y[i]));
    weights_free(w[i]);
  }
}

// gate and up of x with silu(gate) up: the bits of linear_fwd_group and swiglu_fwd. EXTRA: both are kept
static void linear_swiglu_case(const row *r) {
  int T = r->T, F = r->N, keep = (r->flags & EXTRA) != 0;
  mat x = mat_random(T, r->K, compute, 1), h = mat_nan(T, F, compute), want = mat_copy(&h), y[2], y2[2];
  weights w[2];
  tlk_lowrank lr[2];
  tlk_linear l[2], l2[2];
  for (int i = 0; i < 2; i++) {
    w[i] = weights_of(r);
    y[i] = mat_nan(T, F, compute), y2[i] = mat_copy(&y[i]);
    int low = (r->flags & LOWRANK) && !(i && r->flags & NO_DX);  // NO_DX: one of the two has none
    if (low) lr[i] = lowrank_random(r, T);
    l[i] = (tlk_linear){y[i].m, low ? vec_nan((size_t)T * r->r) : NULL, w[i].got, r->flags & BIAS ? vec_random((size_t)F, 1) : NULL, low ? &lr[i] : NULL};
    l2[i] = l[i], l2[i].y = y2[i].m, l2[i].z = low ? vec_nan((size_t)T * r->r) : NULL;
  }
  ops->linear_swiglu_fwd(h.m, l, keep, x.m, T);
  ops->linear_fwd_group(l2, 2, x.m, T);
  ops->swiglu_fwd(want.m, y2[0].m, y2[1].m, T, F);
  same_bits("h", want.m.p, h.m.p, mat_bytes(&want));
  for (int i = 0; i < 2; i++) {
    if (keep) same_bits("y", y2[i].m.p, y[i].m.p, mat_bytes(&y[i]));
    if (l[i].z) same_bits("z", l2[i].z, l[i].z, 4 * (size_t)T * r->r);
    weights_free(w[i]);
  }
}

static float *angles(int n_pos, int D);
static int32_t *positions(int T, int n_pos);
static int32_t *rows_random(int T, int n_rows);
static int32_t *rows_or_none(int32_t *rows, int T);

// q (N heads of G), k (half as many, to rows of a larger y, some nowhere) and v (not rotated, to those rows) of x: the bits of
// linear_fwd_group, rope_fwd and cast
static void linear_rope_case(const row *r) {
  int T = r->T, D = r->G, heads[3] = {r->N, (r->N + 1) / 2, 0}, n_rows = T + 4;
  mat x = mat_random(T, r->K, compute, 1), y[3], want[3], wide[3];
  float *table = angles(40, D);
  int32_t *pos = positions(T, 40), *to = rows_or_none(rows_random(T, n_rows), T);
  weights w[3];
  tlk_lowrank lr[3];
  tlk_linear l[3];
  tlk_rotated rotated[3];
  for (int i = 0; i < 3; i++) {
    row one = *r;
    one.N = (i ? heads[1] : heads[0]) * D;
    w[i] = weights_of(&one);
    int low = i != 1 && (r->flags & LOWRANK), out = i ? n_rows : T;
    if (low) lr[i] = lowrank_random(&one, T);
    y[i] = mat_random(out, one.N, compute, 1), want[i] = mat_copy(&y[i]), wide[i] = mat_nan(T, one.N, TLK_F32);
    float *bias = r->flags & BIAS ? vec_random((size_t)one.N, 1) : NULL;
    l[i] = (tlk_linear){wide[i].m, low ? vec_nan((size_t)T * r->r) : NULL, w[i].got, bias, low ? &lr[i] : NULL};
    rotated[i] = (tlk_rotated){l[i], y[i].m, i ? to : NULL, heads[i]};
  }
  ops->linear_rope_fwd(rotated, 3, pos, table, x.m, T, D);
  ops->linear_fwd_group(l, 3, x.m, T);
  for (int i = 0; i < 3; i++) {
    if (heads[i]) ops->rope_fwd(want[i].m, i ? to : NULL, wide[i].m, pos, table, T, heads[i], D);
    else ops->cast(want[i].m, to, wide[i].m, T, wide[i].cols);
    same_bits(i == 0 ? "q" : i == 1 ? "k" : "v", want[i].m.p, y[i].m.p, mat_bytes(&y[i]));
    weights_free(w[i]);
  }
}

static void linear_bwd_x_case(const row *r) {
  int T = r->T, N = r->N, K = r->K, acc = (r->flags & ACCUMULATE) != 0;
  weights w = weights_random(N, K);
  mat dy = mat_random(T, N, compute, 1), dx = acc ? mat_random(T, K, TLK_F32, 1) : mat_nan(T, K, TLK_F32), dx2 = mat_copy(&dx);
  tlk_lowrank lr = r->flags & LOWRANK ? lowrank_random(r, T) : (tlk_lowrank){0}, *l = r->flags & LOWRANK ? &lr : NULL;
  float *g = l ? vec_nan((size_t)T * r->r) : NULL, *g2 = l ? vec_nan((size_t)T * r->r) : NULL;
  tlk_mat none = {NULL, TLK_F32, K};
  ref->linear_bwd_x(r->flags & NO_DX ? none : dx.m, g, dy.m, w.want, l, T, acc);
  ops->linear_bwd_x(r->flags & NO_DX ? none : dx2.m, g2, dy.m, w.got, l, T, acc);
  if (!(r->flags & NO_DX)) close_mat("dx", &dx, &dx2, tolerance(r));
  if (l) close_vec("g", g, g2, (size_t)T * r->r, SUM);
  weights_free(w);
}

// dgate and dup of dy (T, N) through w (N, K): the bits of linear_bwd_x and swiglu_bwd
static void linear_bwd_swiglu_case(const row *r) {
  int T = r->T, N = r->N, F = r->K;
  weights w = weights_random(N, F);
  mat dy = mat_random(T, N, compute, 1), gate = mat_random(T, F, compute, 3), up = mat_random(T, F, compute, 1);
  mat dh = mat_nan(T, F, TLK_F32), d[2] = {mat_nan(T, F, compute), mat_nan(T, F, compute)}, want[2] = {mat_copy(&d[0]), mat_copy(&d[1])};
  tlk_lowrank lr = r->flags & LOWRANK ? lowrank_random(r, T) : (tlk_lowrank){0}, *l = r->flags & LOWRANK ? &lr : NULL;
  float *g = l ? vec_nan((size_t)T * r->r) : NULL, *g2 = l ? vec_nan((size_t)T * r->r) : NULL;
  ops->linear_bwd_swiglu(d[0].m, d[1].m, dh.m, g, dy.m, w.got, l, gate.m, up.m, T);
  ops->linear_bwd_x(dh.m, g2, dy.m, w.got, l, T, 0);
  ops->swiglu_bwd(want[0].m, want[1].m, dh.m, gate.m, up.m, T, F);
  for (int i = 0; i < 2; i++) same_bits(i ? "dup" : "dgate", want[i].m.p, d[i].m.p, mat_bytes(&d[i]));
  if (l) same_bits("g", g2, g, 4 * (size_t)T * r->r);
  weights_free(w);
}

// a and b may each be F32 or the activation dtype
static void linear_bwd_w_case(const row *r) {
  size_t n = (size_t)r->N * r->K;
  mat a = mat_random(r->T, r->N, r->flags & OUT_F32 ? TLK_F32 : compute, 1);
  mat b = mat_random(r->T, r->K, r->flags & EXTRA ? TLK_F32 : compute, 1);
  float *dw = vec_random(n, 1), *dw2 = vec_copy(dw, n);
  ref->linear_bwd_w(dw, a.m, b.m, r->T, r->N, r->K);
  ops->linear_bwd_w(dw2, a.m, b.m, r->T, r->N, r->K);
  close_vec("dw", dw, dw2, n, tolerance(r));
}

static void colsum_case(const row *r) {
  mat dy = mat_random(r->T, r->N, compute, 1);
  float *db = vec_random((size_t)r->N, 1), *db2 = vec_copy(db, (size_t)r->N);
  ref->colsum(db, dy.m, r->T, r->N);
  ops->colsum(db2, dy.m, r->T, r->N);
  close_vec("db", db, db2, (size_t)r->N, tolerance(r));
}

static void lowrank_bwd_case(const row *r) {
  int32_t *unit_off = take_copy((int32_t[]){0, r->T / 3, r->T / 3, r->T}, 16);  // the middle unit is empty
  size_t n = (size_t)r->r * r->r, rows = (size_t)r->T * r->r;
  float *g = vec_random(rows, 1), *z = vec_random(rows, 1);
  double *want = take(8 * n), *got = take(8 * n);
  for (size_t i = 0; i < n; i++) want[i] = got[i] = rng_normal();
  ref->lowrank_bwd(want, g, z, unit_off, 3, r->r);
  ops->lowrank_bwd(got, g, z, unit_off, 3, r->r);
  for (size_t i = 0; i < n; i++)
    CHECK(fabs(want[i] - got[i]) <= tolerance(r) * (1 + fabs(want[i])), "dR[%zu] = %.17g, expected %.17g", i, got[i], want[i]);
}

// profile.c: where the time goes: time, FLOPs and bytes of every op, and the time of the runtime around them.
//
// While a profile runs, tl_ops() gives a table whose functions time those of the backend and count what they must do; otherwise
// it gives the backend's own table, so that a profile that is off costs nothing. A section (TL_SECTION, profile.h) is a call
// into the runtime; its row holds the time spent in it outside of ops. One thread at a time makes calls, as for the ops.
//
// What is counted. FLOPs: 2 a multiply-add of products and attention; nothing for the rest. Bytes: operands as if each were
// read and written once, weights included; what stays inside an op (logits, scores) is not counted. Both are lower bounds, and
// so is the share of the machine's limit that is computed from them.
#include "profile.h"

enum { MOST_ROWS = 96 };

static tl_profile_row rows[MOST_ROWS];
static int n_rows;
static bool on;
static const tlk_ops *real;
static double in_ops; // seconds in ops and in sections that have ended since the start, for the sections around them

// names are literals: the same name is the same pointer within one place that counts
static tl_profile_row *row_of(const char *name, int n, int k, int compute) {
  for (int i = 0; i < n_rows; i++)
    if (!strcmp(rows[i].name, name) && rows[i].n == n && rows[i].k == k && (int)rows[i].compute == compute)
      return &rows[i];
  if (n_rows == MOST_ROWS)
    return row_of("other shapes", 0, 0, 0);
  tl_profile_row *r = &rows[n_rows++];
  *r = (tl_profile_row){.name = name, .n = n, .k = k, .compute = (tl_dtype)compute};
  return r;
}

static tl_profile_row *add(const char *name, int n, int k, int compute, double seconds, double flops, double bytes) {
  tl_profile_row *r = row_of(name, n, k, compute);
  r->calls++;
  r->seconds += seconds;
  r->flops += flops;
  r->bytes += bytes;
  return r;
}

static void count(double t0, const char *name, int n, int k, int compute, double flops, double bytes) {
  real->sync();
  double s = tl_seconds() - t0;
  in_ops += s;
  add(name, n, k, compute, s, flops, bytes)->is_op = true;
}

static double mat_bytes(tlk_mat m, double rows_, int width) {
  return m.p ? rows_ * width * (double)tlk_dtype_size(m.dtype) : 0;
}
static double weight_bytes(const tlk_packed *w) {
  return (double)real->packed_bytes(w);
}
static void dims(const tlk_packed *w, int *N, int *K, int *compute) {
  real->packed_dims(w, N, K, compute);
}

// FLOPs of a low-rank term over T rows
static double lowrank_flops(const tlk_lowrank *lr, int T, int N, int K) {
  return lr ? 2.0 * T * lr->r * (N + K) : 0;
}

static void linear_fwd(tlk_mat y, float *z, tlk_mat x, const tlk_packed *w, const float *bias, const tlk_lowrank *lr, int T,
                       int accumulate) {
  int N, K, c;
  double t0 = tl_seconds();
  real->linear_fwd(y, z, x, w, bias, lr, T, accumulate);
  dims(w, &N, &K, &c);
  count(t0, "linear_fwd", N, K, c, 2.0 * T * N * K + lowrank_flops(lr, T, N, K),
        weight_bytes(w) + mat_bytes(x, T, K) + mat_bytes(y, T, N) * (1 + accumulate));
}

// what linears of one x take, and with them what they go into
static void count_linears(double t0, const char *name, const tlk_linear *l, int n, tlk_mat x, int T, double more_bytes) {
  int N, K = 0, c = 0, all = 0;
  double flops = 0, bytes = more_bytes;
  for (int i = 0; i < n; i++) {
    dims(l[i].w, &N, &K, &c);
    flops += 2.0 * T * N * K + lowrank_flops(l[i].lr, T, N, K);
    bytes += weight_bytes(l[i].w);
    all += N;
  }
  count(t0, name, all, K, c, flops, bytes + mat_bytes(x, T, K));
}

static void linear_fwd_group(const tlk_linear *l, int n, tlk_mat x, int T) {
  int N, K, c;
  double t0 = tl_seconds(), out = 0;
  real->linear_fwd_group(l, n, x, T);
  for (int i = 0; i < n; i++) {
    dims(l[i].w, &N, &K, &c);
    out += mat_bytes(l[i].y, T, N);
  }
  count_linears(t0, "linear_fwd", l, n, x, T, out);
}

static void linear_swiglu_fwd(tlk_mat h, const tlk_linear *gate_up, int keep, tlk_mat x, int T) {
  int F, K, c;
  double t0 = tl_seconds();
  real->linear_swiglu_fwd(h, gate_up, keep, x, T);
  dims(gate_up[0].w, &F, &K, &c);
  count_linears(t0, "linear_fwd + swiglu", gate_up, 2, x, T, mat_bytes(h, T, F) * (keep ? 3 : 1));
}

static void linear_rope_fwd(const tlk_rotated *r, int n, const int32_t *pos, const float *angles, tlk_mat x, int T, int D) {
  tlk_linear l[8];
  double t0 = tl_seconds(), out = 0;
  real->linear_rope_fwd(r, n, pos, angles, x, T, D);
  for (int i = 0; i < n && i < 8; i++) {
    int N, K, c;
    l[i] = r[i].linear;
    dims(l[i].w, &N, &K, &c);
    out += mat_bytes(r[i].y, T, N);
  }
  count_linears(t0, "linear_fwd + rope", l, n < 8 ? n : 8, x, T, out);
}

static void linear_bwd_x(tlk_mat dx, float *g, tlk_mat dy, const tlk_packed *w, const tlk_lowrank *lr, int T, int accumulate) {
  int N, K, c;
  double t0 = tl_seconds();
  real->linear_bwd_x(dx, g, dy, w, lr, T, accumulate);
  dims(w, &N, &K, &c);
  count(t0, "linear_bwd_x", N, K, c, (dx.p ? 2.0 * T * N * K : 0) + lowrank_flops(lr, T, N, K),
        weight_bytes(w) + mat_bytes(dx, T, K) * (1 + accumulate) + mat_bytes(dy, T, N));
}

static void linear_bwd_swiglu(tlk_mat dgate, tlk_mat dup, tlk_mat dh, float *g, tlk_mat dy, const tlk_packed *w, const tlk_lowrank *lr,
                              tlk_mat gate, tlk_mat up, int T) {
  int N, F, c;
  double t0 = tl_seconds();
  real->linear_bwd_swiglu(dgate, dup, dh, g, dy, w, lr, gate, up, T);
  dims(w, &N, &F, &c);
  count(t0, "linear_bwd_x + swiglu", N, F, c, 2.0 * T * N * F + lowrank_flops(lr, T, N, F),
        weight_bytes(w) + mat_bytes(dy, T, N) + 4 * mat_bytes(gate, T, F));
}

static void linear_bwd_w(float *dw, tlk_mat a, tlk_mat b, int T, int N, int K) {
  double t0 = tl_seconds();
  real->linear_bwd_w(dw, a, b, T, N, K);
  count(t0, "linear_bwd_w", N, K, a.dtype, 2.0 * T * N * K, 8.0 * N * K + mat_bytes(a, T, N) + mat_bytes(b, T, K));
}

static void colsum(float *db, tlk_mat dy, int T, int N) {
  double t0 = tl_seconds();
  real->colsum(db, dy, T, N);
  count(t0, "colsum", 0, 0, dy.dtype, 0, mat_bytes(dy, T, N));
}

static void lowrank_bwd(double *dR, const float *g, const float *z, const int32_t *unit_off, int n_units, int r) {
  double t0 = tl_seconds();
  real->lowrank_bwd(dR, g, z, unit_off, n_units, r);
  double T = n_units && real->host ? unit_off[n_units] - unit_off[0] : 0;
  count(t0, "lowrank_bwd", 0, 0, TL_F32, 2.0 * T * r * r, 8.0 * T * r);
}

static void rmsnorm_fwd(tlk_mat y, float *rstd, const float *x, const float *gain, float eps, int T, int C) {
  double t0 = tl_seconds();
  real->rmsnorm_fwd(y, rstd, x, gain, eps, T, C);
  count(t0, "rmsnorm_fwd", 0, 0, y.dtype, 0, 4.0 * T * C + mat_bytes(y, T, C));
}

static void rmsnorm_bwd(float *dx, float *dgain, const float *dy, const float *x, const float *gain, const float *rstd, int T,
                        int C) {
  double t0 = tl_seconds();
  real->rmsnorm_bwd(dx, dgain, dy, x, gain, rstd, T, C);
  count(t0, "rmsnorm_bwd", 0, 0, TL_F32, 0, 16.0 * T * C);
}

static void rope_fwd(tlk_mat y, const int32_t *out_rows, tlk_mat x, const int32_t *pos, const float *table, int T, int heads,
                     int D) {
  double t0 = tl_seconds();
  real->rope_fwd(y, out_rows, x, pos, table, T, heads, D);
  count(t0, "rope_fwd", 0, 0, y.dtype, 0, mat_bytes(x, T, heads * D) + mat_bytes(y, T, heads * D));
}

static void rope_bwd(tlk_mat dx, tlk_mat dy, const int32_t *pos, const float *table, int T, int heads, int D) {
  double t0 = tl_seconds();
  real->rope_bwd(dx, dy, pos, table, T, heads, D);
  count(t0, "rope_bwd", 0, 0, dx.dtype, 0, mat_bytes(dx, T, heads * D) + mat_bytes(dy, T, heads * D));
}

static void cast(tlk_mat y, const int32_t *out_rows, tlk_mat x, int T, int C) {
  double t0 = tl_seconds();
  real->cast(y, out_rows, x, T, C);
  count(t0, "cast", 0, 0, y.dtype, 0, mat_bytes(x, T, C) + mat_bytes(y, T, C));
}

// keys that the T queries see, summed; where the host cannot read the map, as if all saw the longest list
static double key_pairs(const tlk_attn_map *map, int T) {
  double n = 0;
  if (!real->host) return (double)T * map->longest;
  for (int t = 0; t < T; t++)
    n += map->window > 0 && map->kv_len[t] > map->window ? map->window : map->kv_len[t];
  return n;
}

static void attn_fwd(tlk_mat o, float *lse, tlk_mat q, tlk_mat k, tlk_mat v, const tlk_attn_map *map, float scale, int T, int H,
                     int G, int D) {
  double t0 = tl_seconds();
  real->attn_fwd(o, lse, q, k, v, map, scale, T, H, G, D);
  count(t0, "attn_fwd", 0, 0, q.dtype, 4.0 * key_pairs(map, T) * H * D, mat_bytes(q, T, H * D) + mat_bytes(o, T, H * D));
}

static void attn_bwd(tlk_mat dq, tlk_mat dk, tlk_mat dv, tlk_mat d_o, tlk_mat o, const float *lse, tlk_mat q, tlk_mat k,
                     tlk_mat v, const tlk_attn_map *map, const int32_t *unit_off, int n_units, float scale, int T, int H, int G,
                     int D) {
  double t0 = tl_seconds();
  real->attn_bwd(dq, dk, dv, d_o, o, lse, q, k, v, map, unit_off, n_units, scale, T, H, G, D);
  count(t0, "attn_bwd", 0, 0, q.dtype, 10.0 * key_pairs(map, T) * H * D, 3 * mat_bytes(q, T, H * D) + mat_bytes(dq, T, H * D));
}

static void swiglu_fwd(tlk_mat h, tlk_mat gate, tlk_mat up, int T, int F) {
  double t0 = tl_seconds();
  real->swiglu_fwd(h, gate, up, T, F);
  count(t0, "swiglu_fwd", 0, 0, h.dtype, 0, mat_bytes(h, T, F) + mat_bytes(gate, T, F) + mat_bytes(up, T, F));
}

static void swiglu_bwd(tlk_mat dgate, tlk_mat dup, tlk_mat dh, tlk_mat gate, tlk_mat up, int T, int F) {
  double t0 = tl_seconds();
  real->swiglu_bwd(dgate, dup, dh, gate, up, T, F);
  count(t0, "swiglu_bwd", 0, 0, gate.dtype, 0, mat_bytes(dh, T, F) + 4 * mat_bytes(gate, T, F));
}

static void embed_fwd(float *x, const tlk_packed *table, const int32_t *ids, int T) {
  int N, K, c;
  double t0 = tl_seconds();
  real->embed_fwd(x, table, ids, T);
  dims(table, &N, &K, &c);
  count(t0, "embed_fwd", 0, 0, c, 0, (4.0 + (double)tlk_dtype_size(c)) * T * K);
}

static void embed_bwd(float *dtable, const float *dx, const int32_t *ids, int T, int C) {
  double t0 = tl_seconds();
  real->embed_bwd(dtable, dx, ids, T, C);
  count(t0, "embed_bwd", 0, 0, TL_F32, 0, 12.0 * T * C);
}

static void head_fwd(float *logprob, float *lse, float *entropy, float *logits, tlk_mat h, const tlk_packed *w, const int32_t *targets,
                     float inv_temp, int T) {
  int N, K, c;
  double t0 = tl_seconds();
  real->head_fwd(logprob, lse, entropy, logits, h, w, targets, inv_temp, T);
  dims(w, &N, &K, &c);
  count(t0, "head_fwd", N, K, c, 2.0 * T * N * K, weight_bytes(w) + mat_bytes(h, T, K) + (logits ? 4.0 * T * N : 0));
}

static void head_bwd(float *dh, float *dw, const float *logits, tlk_mat h, const tlk_packed *w, const int32_t *targets, const float *lse,
                     const float *entropy, const float *dlogprob, const float *dentropy, float inv_temp, int T) {
  int N, K, c;
  double t0 = tl_seconds();
  real->head_bwd(dh, dw, logits, h, w, targets, lse, entropy, dlogprob, dentropy, inv_temp, T);
  dims(w, &N, &K, &c);
  count(t0, "head_bwd", N, K, c, (2 + 2 * (dw != NULL) + 2 * (logits == NULL)) * (double)T * N * K,
        weight_bytes(w) + mat_bytes(h, T, K) + 4.0 * T * K + (logits ? 4.0 * T * N : 0));
}

static void head_sample(int32_t *ids, float *logprob, float *lse, float *entropy, tlk_mat h, const tlk_packed *w, const tlk_sample_row *r,
                        int T) {
  int N, K, c;
  double t0 = tl_seconds();
  real->head_sample(ids, logprob, lse, entropy, h, w, r, T);
  dims(w, &N, &K, &c);
  count(t0, "head_sample", N, K, c, 2.0 * T * N * K, weight_bytes(w) + mat_bytes(h, T, K));
}

static void adamw(float *param, float *m, float *v, const float *grad, size_t n, float lr, float beta1, float beta2, float eps,
                  float weight_decay, int step) {
  double t0 = tl_seconds();
  real->adamw(param, m, v, grad, n, lr, beta1, beta2, eps, weight_decay, step);
  count(t0, "adamw", 0, 0, TL_F32, 0, 28.0 * (double)n);
}

// ops are looked at one by one
static int no_records(void) {
  return 0;
}

const tlk_ops *tl_profile_ops(void) {
  static tlk_ops table;
  if (!on)
    return NULL;
  if (table.name)
    return &table;
  table = *real;
  table.records = no_records;
  table.linear_fwd = linear_fwd, table.linear_fwd_group = linear_fwd_group, table.linear_bwd_x = linear_bwd_x;
  table.linear_bwd_swiglu = linear_bwd_swiglu;
  table.linear_swiglu_fwd = linear_swiglu_fwd, table.linear_rope_fwd = linear_rope_fwd;
  table.linear_bwd_w = linear_bwd_w, table.colsum = colsum, table.lowrank_bwd = lowrank_bwd;
  table.rmsnorm_fwd = rmsnorm_fwd, table.rmsnorm_bwd = rmsnorm_bwd, table.rope_fwd = rope_fwd, table.rope_bwd = rope_bwd;
  table.cast = cast, table.attn_fwd = attn_fwd, table.attn_bwd = attn_bwd, table.swiglu_fwd = swiglu_fwd;
  table.swiglu_bwd = swiglu_bwd, table.embed_fwd = embed_fwd, table.embed_bwd = embed_bwd, table.head_fwd = head_fwd;
  table.head_bwd = head_bwd, table.head_sample = head_sample, table.adamw = adamw;
  return &table;
}

tl_section tl_section_begin(const char *name) {
  return (tl_section){name, on ? tl_seconds() : -1, in_ops};
}

void tl_section_end(tl_section *s) {
  if (s->start < 0 || !on)
    return;
  double seconds = tl_seconds() - s->start;
  add(s->name, 0, 0, TL_F32, seconds - (in_ops - s->ops), 0, 0);
  in_ops = s->ops + seconds; // to a section around this one it is as an op
}

void tl_profile_start(void) {
  on = false;
  real = tl_ops();
  n_rows = 0;
  in_ops = 0;
  on = true;
}

void tl_profile_stop(void) {
  on = false;
}

bool tl_profile_get(int i, tl_profile_row *out) {
  if (i < 0 || i >= n_rows)
    return false;
  *out = rows[i];
  return true;
}

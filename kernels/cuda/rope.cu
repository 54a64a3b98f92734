// rope.cu: rotary position embedding (Su et al. 2021), half-split, and copies of rows with conversion or by index.
//   fwd  (a, b) at (i, i + D/2) -> (a c - b s, b c + a s);  bwd the inverse. A thread a pair. Bytes: what is read and written once.
#include "cuda.cuh"

enum { THREADS = 256 };

__global__ static void rotate(tlk_mat y, const int32_t *out_rows, tlk_mat x, const int32_t *pos, const float *table, float sign, int heads, int D) {
  int t = (int)blockIdx.y, half = D / 2, i = (int)(blockIdx.x * THREADS + threadIdx.x);
  if (i >= heads * half) return;
  const float *cs = table + (size_t)pos[t] * D + 2 * (i % half);
  int at = i / half * D + i % half, to = out_rows ? out_rows[t] : t;
  float c = cs[0], s = sign * cs[1], a = get(x, t, at), b = get(x, t, at + half);
  put(y, to, at, fmaf(a, c, -(b * s)));
  put(y, to, at + half, fmaf(b, c, a * s));
}

// grid y is limited to 65535: rows go in cuts
template <class F> static void in_cuts(int T, F fn) {
  for (int t = 0; t < T; t += 65535) fn(t, T - t < 65535 ? T - t : 65535);
}
static tlk_mat from_row(tlk_mat m, int t) { return {(char *)m.p + (size_t)t * m.ld * tlk_dtype_size(m.dtype), m.dtype, m.ld}; }

static void rope(tlk_mat y, const int32_t *out_rows, tlk_mat x, const int32_t *pos, const float *table, float sign, int T, int heads, int D) {
  in_cuts(T, [=](int t, int n) {
    launch(rotate, dim3(grid_of((size_t)heads * (D / 2), THREADS), (unsigned)n), THREADS, 0, out_rows ? y : from_row(y, t),
           out_rows ? out_rows + t : nullptr, from_row(x, t), pos + t, table, sign, heads, D);
  });
}

void cuda_rope_fwd(tlk_mat y, const int32_t *out_rows, tlk_mat x, const int32_t *pos, const float *table, int T, int heads, int D) {
  OP("rope_fwd");
  rope(y, out_rows, x, pos, table, 1, T, heads, D);
}

void cuda_rope_bwd(tlk_mat dx, tlk_mat dy, const int32_t *pos, const float *table, int T, int heads, int D) {
  OP("rope_bwd");
  rope(dx, nullptr, dy, pos, table, -1, T, heads, D);
}

__global__ static void move(tlk_mat y, const int32_t *out_rows, tlk_mat x, const int32_t *in_rows, int C) {
  int t = (int)blockIdx.y, c = (int)(blockIdx.x * THREADS + threadIdx.x);
  if (c < C) put(y, out_rows ? out_rows[t] : t, c, get(x, in_rows ? in_rows[t] : t, c));
}

static void moved(tlk_mat y, const int32_t *out_rows, tlk_mat x, const int32_t *in_rows, int T, int C) {
  in_cuts(T, [=](int t, int n) {
    launch(move, dim3(grid_of((size_t)C, THREADS), (unsigned)n), THREADS, 0, out_rows ? y : from_row(y, t),
           out_rows ? out_rows + t : nullptr, in_rows ? x : from_row(x, t), in_rows ? in_rows + t : nullptr, C);
  });
}

void cuda_cast(tlk_mat y, const int32_t *out_rows, tlk_mat x, int T, int C) {
  OP("cast");
  moved(y, out_rows, x, nullptr, T, C);
}

void cuda_gather(tlk_mat y, tlk_mat x, const int32_t *rows, int T, int C) {
  OP("gather");
  moved(y, nullptr, x, rows, T, C);
}

tlk_mat as_act(tlk_mat x, int T, int C, int compute) {
  if (x.dtype == compute) return x;
  if (compute == TLK_I8) {
    tlk_mat q = {scratch(SCRATCH_ACT, (size_t)T * bytes_ld(C)), TLK_I8, bytes_ld(C)};
    to_bytes(q.p, q.ld, x.p, x.dtype, (size_t)x.ld, T, C);
    return q;
  }
  tlk_mat y = {scratch(SCRATCH_ACT, (size_t)T * C * tlk_dtype_size(compute)), compute, C};
  moved(y, nullptr, x, nullptr, T, C);
  return y;
}

// rope.cu: rotary position embedding (Su et al. 2021), half-split, and copies of rows with conversion or by index.
//   fwd  (a, b) at (i, i + D/2) -> (a c - b s, b c + a s);  bwd the inverse.
// A thread takes eight pairs or numbers with loads of 16 bytes where rows allow it (heads of a multiple of 16), else one pair.
// Bytes: what is read and written once.
#include "cuda.cuh"

enum { THREADS = 128, MOST_MOVES = 24 };

template <int N>
__global__ static void rotate(tlk_mat y, const int32_t *out_rows, tlk_mat x, const int32_t *pos, const float *table, float sign, int heads, int D) {
  int t = (int)blockIdx.y, half = D / 2, i = N * (int)(blockIdx.x * THREADS + threadIdx.x);
  int at = i / half * D + i % half, to = out_rows ? out_rows[t] : t;
  if (i >= heads * half || to < 0) return;
  const float *cs = table + (size_t)pos[t] * D + 2 * (i % half);
  float a[8], b[8], angles[16];
  if constexpr (N == 8) {
    tlk_mat row = {(void *)cs, TLK_F32, 0};
    get8(a, x, true, t, at, heads * D);
    get8(b, x, true, t, at + half, heads * D);
    get8(angles, row, true, 0, 0, 16);
    get8(angles + 8, row, true, 0, 8, 16);
  } else {
    a[0] = get(x, t, at), b[0] = get(x, t, at + half), angles[0] = cs[0], angles[1] = cs[1];
  }
#pragma unroll
  for (int k = 0; k < N; k++) {
    float c = angles[2 * k], s = sign * angles[2 * k + 1], u = a[k], v = b[k];
    a[k] = fmaf(u, c, -(v * s));
    b[k] = fmaf(v, c, u * s);
  }
  if constexpr (N == 8) {
    put8(y, true, to, at, heads * D, a);
    put8(y, true, to, at + half, heads * D, b);
  } else {
    put(y, to, at, a[0]);
    put(y, to, at + half, b[0]);
  }
}

// grid y is limited to 65535: rows go in cuts
template <class F> static void in_cuts(int T, F fn) {
  for (int t = 0; t < T; t += 65535) fn(t, T - t < 65535 ? T - t : 65535);
}

static void rope(tlk_mat y, const int32_t *out_rows, tlk_mat x, const int32_t *pos, const float *table, float sign, int T, int heads, int D) {
  bool eights = D % 16 == 0 && in_eights(x) && in_eights(y) && (uintptr_t)table % 16 == 0;
  in_cuts(T, [=](int t, int n) {
    launch(eights ? rotate<8> : rotate<1>, dim3(grid_of((size_t)heads * (D / 2) / (eights ? 8 : 1), THREADS), (unsigned)n), THREADS, 0,
           out_rows ? y : from_row(y, t), out_rows ? out_rows + t : nullptr, from_row(x, t), pos + t, table, sign, heads, D);
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

__global__ static void moved(tlk_mat y, const int32_t *out_rows, tlk_mat x, const int32_t *in_rows, int C, bool eights) {
  int t = (int)blockIdx.y, c = 8 * (int)(blockIdx.x * THREADS + threadIdx.x), to = out_rows ? out_rows[t] : t, from = in_rows ? in_rows[t] : t;
  if (c >= C || to < 0 || from < 0) return;
  float v[8];
  get8(v, x, eights, from, c, C);
  put8(y, eights, to, c, C, v);
}

void move(tlk_mat y, const int32_t *out_rows, tlk_mat x, const int32_t *in_rows, int T, int C) {
  bool eights = in_eights(x) && in_eights(y);
  in_cuts(T, [=](int t, int n) {
    launch(moved, dim3(grid_of(div_up_size((size_t)C, 8), THREADS), (unsigned)n), THREADS, 0, out_rows ? y : from_row(y, t),
           out_rows ? out_rows + t : nullptr, in_rows ? x : from_row(x, t), in_rows ? in_rows + t : nullptr, C, eights);
  });
}

void cuda_cast(tlk_mat y, const int32_t *out_rows, tlk_mat x, int T, int C) {
  OP("cast");
  move(y, out_rows, x, nullptr, T, C);
}

void cuda_gather(tlk_mat y, tlk_mat x, const int32_t *rows, int T, int C) {
  OP("gather");
  move(y, nullptr, x, rows, T, C);
}

struct moves {
  struct {
    char *y;
    const char *x;
    const int32_t *to, *from;
    size_t ldy, ldx;  // bytes
    int bytes, unit;  // of a row's piece; what is copied at a time: 16 bytes or a number
  } m[MOST_MOVES];
};

// matrix blockIdx.z; a thread 16 bytes of a row
__global__ static void move_all(const __grid_constant__ moves a, int t0) {
  const auto &m = a.m[blockIdx.z];
  int t = t0 + (int)blockIdx.y, at = 16 * (int)(blockIdx.x * THREADS + threadIdx.x), to = m.to ? m.to[t] : t, from = m.from ? m.from[t] : t;
  if (at >= m.bytes || to < 0 || from < 0) return;
  const char *x = m.x + (size_t)from * m.ldx;
  char *y = m.y + (size_t)to * m.ldy;
  if (m.unit == 16 && at + 16 <= m.bytes) {
    *(uint4 *)(y + at) = *(const uint4 *)(x + at);
    return;
  }
  for (int i = at; i < at + 16 && i < m.bytes; i += m.unit == 16 ? 2 : m.unit) {
    if (m.unit == 4) *(unsigned *)(y + i) = *(const unsigned *)(x + i);
    else *(unsigned short *)(y + i) = *(const unsigned short *)(x + i);
  }
}

void cuda_move_rows(const tlk_move *m, int n, int T) {
  OP("move_rows");
  for (int first = 0; first < n; first += MOST_MOVES) {
    int count = n - first < MOST_MOVES ? n - first : MOST_MOVES, widest = 1;
    moves a = {};
    for (int i = 0; i < count; i++) {
      const tlk_move &f = m[first + i];
      int size = (int)tlk_dtype_size(f.x.dtype);
      a.m[i] = {(char *)f.y.p, (const char *)f.x.p, f.to, f.from, (size_t)f.y.ld * size, (size_t)f.x.ld * size, f.C * size,
                in_eights(f.x) && in_eights(f.y) ? 16 : size};
      widest = f.C * size > widest ? f.C * size : widest;
    }
    in_cuts(T, [&](int t, int rows) {
      launch(move_all, dim3(grid_of(div_up_size((size_t)widest, 16), THREADS), (unsigned)rows, (unsigned)count), THREADS, 0, a, t);
    });
  }
}

tlk_mat as_act(tlk_mat x, int T, int C, int compute) {
  if (x.dtype == compute) return x;
  if (compute == TLK_I8) {
    tlk_mat q = {scratch(SCRATCH_ACT, (size_t)T * bytes_ld(C)), TLK_I8, bytes_ld(C)};
    to_bytes(q.p, q.ld, x.p, x.dtype, (size_t)x.ld, T, C);
    return q;
  }
  tlk_mat y = {scratch(SCRATCH_ACT, (size_t)T * C * tlk_dtype_size(compute)), compute, C};
  move(y, nullptr, x, nullptr, T, C);
  return y;
}

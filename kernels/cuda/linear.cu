// linear.cu: frozen linear layers and their dX: y = x W^T + bias + B (R (A x)), dx = dy W + ((dy B) R) A.
//
// Two ways to the same bits (gemm.cuh). With enough tiles for the device, a block sums all chunks of the reduction and finishes
// its tile: bias, low-rank term, conversion, storing. With fewer (decoding), a block sums one chunk and writes it to scratch; a
// second kernel adds the chunks in order and finishes. The low-rank term is two narrow products (lowrank.cu) whose result s
// (T, r) the finish multiplies with B's rows; rows without one (variant -1, R all zero) leave it out.
#include "gemm.cuh"
#include <cstdio>
#include <cstdlib>

__device__ static inline void finish(const epilogue &e, int t, int n, float v) {
  if (e.bias) v += e.bias[n];
  if (e.factor && e.active[t]) {
    float sum = 0;
    for (int a = 0; a < e.r; a++) sum = fmaf(e.factor[(size_t)n * e.fn + (size_t)a * e.fa], e.s[(size_t)t * e.r + a], sum);
    v += sum;
  }
  put(e.y, t, n, e.accumulate ? get(e.y, t, n) + v : v);
}

template <class T, int ROWS, bool TRANSPOSED>
__global__ static void __launch_bounds__(WARPS * 32, (gemm_tile<T, ROWS>::resident)) whole(epilogue e, operands<T> p, int T_, int cols) {
  typedef gemm_tile<T, ROWS> G;
  int n0 = (int)blockIdx.x * TILE_COLS, t0 = (int)blockIdx.y * ROWS;
  typename G::sums total;
  gemm_loop<T, ROWS, TRANSPOSED>(total, p, t0, T_, n0, 0, TRANSPOSED ? p.N : p.K);
  const float *c = gemm_rows<T, ROWS>(total);
  for (int i = (int)threadIdx.x; i < ROWS * TILE_COLS; i += WARPS * 32) {
    int t = t0 + i / TILE_COLS, n = n0 + i % TILE_COLS;
    if (t < T_ && n < cols) finish(e, t, n, sum_value(p, t, n, c[i / TILE_COLS * G::ldc + i % TILE_COLS]));
  }
}

// part (chunks, T, cols): chunk blockIdx.z alone; of bytes the int32 sums, so that adding chunks stays exact
template <class T, bool TRANSPOSED>
__global__ static void __launch_bounds__(WARPS * 32, (gemm_tile<T, 16>::resident)) one_chunk(float *part, operands<T> p, int T_, int cols) {
  enum { ROWS = 16 };
  typedef gemm_tile<T, ROWS> G;
  int n0 = (int)blockIdx.x * TILE_COLS, t0 = (int)blockIdx.y * ROWS, r0 = (int)blockIdx.z * CHUNK, R = TRANSPOSED ? p.N : p.K;
  typename G::sums total;
  gemm_loop<T, ROWS, TRANSPOSED>(total, p, t0, T_, n0, r0, r0 + CHUNK < R ? r0 + CHUNK : R);
  const float *c = gemm_rows<T, ROWS>(total);
  for (int i = (int)threadIdx.x; i < ROWS * TILE_COLS; i += WARPS * 32) {
    int t = t0 + i / TILE_COLS, n = n0 + i % TILE_COLS;
    if (t < T_ && n < cols) part[((size_t)blockIdx.z * T_ + t) * cols + n] = c[i / TILE_COLS * G::ldc + i % TILE_COLS];
  }
}

template <class T> __global__ static void add_chunks(epilogue e, const float *part, operands<T> p, int chunks, int T_, int cols) {
  int n = (int)(blockIdx.x * blockDim.x + threadIdx.x), t = (int)blockIdx.y;
  if (n >= cols) return;
  float v = 0;
  int whole = 0;
  for (int i = 0; i < chunks; i++) {
    float c = part[((size_t)i * T_ + t) * cols + n];
    if (sizeof(T) == 1) whole += __float_as_int(c);
    else v += c;
  }
  finish(e, t, n, sizeof(T) == 1 ? sum_value(p, t, n, __int_as_float(whole)) : v);
}

template <class T, int ROWS, bool TRANSPOSED>
static void run(const epilogue &e, const operands<T> &p, int T_, int cols) {
  typedef gemm_tile<T, ROWS> G;
  int R = TRANSPOSED ? p.N : p.K, chunks = div_up(R, CHUNK), across = div_up(cols, TILE_COLS), down = div_up(T_, ROWS);
  if constexpr (ROWS == 16)
    if (chunks > 1 && down * across < 2 * n_multiprocessors()) {
      float *part = (float *)scratch(SCRATCH_B, sizeof(float) * (size_t)chunks * T_ * cols);
      launch(one_chunk<T, TRANSPOSED>, dim3((unsigned)across, (unsigned)down, (unsigned)chunks), WARPS * 32, G::shared_bytes, part, p, T_, cols);
      launch(add_chunks<T>, dim3((unsigned)div_up(cols, 256), (unsigned)T_), 256, 0, e, (const float *)part, p, chunks, T_, cols);
      return;
    }
  launch(whole<T, ROWS, TRANSPOSED>, dim3((unsigned)across, (unsigned)down), WARPS * 32, G::shared_bytes, e, p, T_, cols);
}

template <class T> static void choose(const epilogue &e, tlk_mat x, const tlk_packed *w, int T_, bool transposed) {
  operands<T> p = operands_of<T>(x, w);
  int cols = transposed ? w->K : w->N;
  bool few = T_ <= 32, many = T_ >= 512;
  if constexpr (sizeof(T) == 1) {
    if (few) run<T, 16, false>(e, p, T_, cols);
    else run<T, 64, false>(e, p, T_, cols);
    return;
  } else {
    if constexpr (sizeof(T) == 2)
      if (many) return transposed ? run<T, 128, true>(e, p, T_, cols) : run<T, 128, false>(e, p, T_, cols);
    if (transposed) few ? run<T, 16, true>(e, p, T_, cols) : run<T, 64, true>(e, p, T_, cols);
    else few ? run<T, 16, false>(e, p, T_, cols) : run<T, 64, false>(e, p, T_, cols);
  }
}

void product(epilogue e, tlk_mat x, const tlk_packed *w, int T, bool transposed) {
  if (w->compute == TLK_I8 && transposed) fprintf(stderr, "tlrun: cuda: %s: int8 weights are for sampling: they have no gradients\n", current_op), abort();
  if (w->compute == TLK_I8) choose<int8_t>(e, x, w, T, false);
  else if (w->compute == TLK_BF16) choose<bf16>(e, x, w, T, transposed);
  else choose<float>(e, x, w, T, transposed);
}

// s and active of a low-rank term from z, in SCRATCH_C
static void add_lowrank(epilogue *e, const float *z, const tlk_lowrank *lr, int T, bool transposed) {
  size_t n = align_up(sizeof(float) * (size_t)T * lr->r, 256);
  char *room = (char *)scratch(SCRATCH_C, n + sizeof(int) * (size_t)T);
  e->s = (const float *)room, e->active = (const int *)(room + n), e->r = lr->r;
  turn((float *)room, (int *)(room + n), z, lr, T, transposed);
}

void cuda_linear_fwd(tlk_mat y, float *z, tlk_mat x, const tlk_packed *w, const float *bias, const tlk_lowrank *lr, int T, int accumulate) {
  OP("linear_fwd");
  if (T <= 0) return;
  epilogue e = {};
  e.y = y, e.bias = bias, e.accumulate = accumulate;
  tlk_mat act = as_act(x, T, w->K, w->compute);
  if (lr) {
    rows_dot(z, w->compute == TLK_I8 ? x : act, lr->A, lr->r, T, w->K, false);
    add_lowrank(&e, z, lr, T, false);
    e.factor = lr->B, e.fn = lr->r, e.fa = 1;
  }
  product(e, act, w, T, false);
}

void cuda_linear_fwd_group(const tlk_linear *l, int n, tlk_mat x, int T) {
  for (int i = 0; i < n; i++) cuda_linear_fwd(l[i].y, l[i].z, x, l[i].w, l[i].bias, l[i].lr, T, 0);
}

void cuda_linear_bwd_x(tlk_mat dx, float *g, tlk_mat dy, const tlk_packed *w, const tlk_lowrank *lr, int T, int accumulate) {
  OP("linear_bwd_x");
  if (T <= 0) return;
  epilogue e = {};
  e.y = dx, e.accumulate = accumulate;
  dy = as_act(dy, T, w->N, w->compute);
  if (lr) rows_dot(g, dy, lr->B, lr->r, T, w->N, true);
  if (!dx.p) return;
  if (lr) {
    add_lowrank(&e, g, lr, T, true);
    e.factor = lr->A, e.fn = 1, e.fa = w->K;
  }
  product(e, dy, w, T, true);
}

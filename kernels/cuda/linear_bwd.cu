// linear_bwd.cu: gradients of a linear's weight and bias: dw (N, K) += a (T, N)^T b (T, K), db += the sum over rows of dy.
//
// dw: by cuBLASLt where it is and operands are aligned (matmul.cu). Else a block makes 64 x 128 of dw over all rows, 32 at a time, in
// order: the order is that of T alone. Tensor cores when both operands are bf16, or both fp16; otherwise both go through fp32, as the contract's
// fp32 operands must keep their bits.
// db: a block takes 32 columns, its 8 warps every 8th row in double, then warps in order.
#include "gemm.cuh"

enum { OUT_ROWS = 64, LDA = OUT_ROWS + 8, LDB = TILE_COLS + 8, LDC = TILE_COLS + 4, THREADS = WARPS * 32 };

// rows t0 .. t0 + 32 and columns c0 .. c0 + n of m into shared memory as T
template <class T> __device__ static inline void load(T *s, int ld, const tlk_mat &m, int t0, int T_, int c0, int n, int width) {
  for (int i = (int)threadIdx.x; i < STEP * n; i += THREADS) {
    int row = i / n, c = i % n;
    s[row * ld + c] = from_float<T>(t0 + row < T_ && c0 + c < width ? get(m, t0 + row, c0 + c) : 0);
  }
}

template <class T>
__global__ static void __launch_bounds__(THREADS) outer_tile(float *dw, tlk_mat a, tlk_mat b, int T_, int N, int K) {
  T *sa = (T *)tlk_shared, *sb = sa + STEP * LDA;
  int n0 = (int)blockIdx.y * OUT_ROWS, k0 = (int)blockIdx.x * TILE_COLS, warp = (int)threadIdx.x / 32, down = warp / 4, across = warp % 4;
  tiles<T, 2, 2> sum;
  sum.zero();
  for (int t0 = 0; t0 < T_; t0 += STEP) {
    load(sa, LDA, a, t0, T_, n0, OUT_ROWS, N);
    load(sb, LDB, b, t0, T_, k0, TILE_COLS, K);
    __syncthreads();
    for (int k = 0; k < STEP; k += 16) sum.template mac<true, true>(sa + k * LDA + down * 32, LDA, sb + k * LDB + across * 32, LDB);
    __syncthreads();
  }
  float *c = (float *)tlk_shared;
  sum.store(c + down * 32 * LDC + across * 32, LDC);
  __syncthreads();
  for (int i = (int)threadIdx.x; i < OUT_ROWS * TILE_COLS; i += THREADS) {
    int n = n0 + i / TILE_COLS, k = k0 + i % TILE_COLS;
    if (n < N && k < K) dw[(size_t)n * K + k] += c[i / TILE_COLS * LDC + i % TILE_COLS];
  }
}

template <class T> static void run(float *dw, tlk_mat a, tlk_mat b, int T_, int N, int K) {
  size_t in = sizeof(T) * STEP * (LDA + LDB), out = sizeof(float) * OUT_ROWS * LDC;
  launch(outer_tile<T>, dim3((unsigned)div_up(K, TILE_COLS), (unsigned)div_up(N, OUT_ROWS)), THREADS, in > out ? in : out, dw, a, b, T_, N, K);
}

void outer(float *dw, tlk_mat a, tlk_mat b, int T, int N, int K) {
  if (library_outer(dw, a, b, T, N, K)) return;
  if (a.dtype == TLK_BF16 && b.dtype == TLK_BF16) run<bf16>(dw, a, b, T, N, K);
  else if (a.dtype == TLK_F16 && b.dtype == TLK_F16) run<fp16>(dw, a, b, T, N, K);
  else run<float>(dw, a, b, T, N, K);
}

void cuda_linear_bwd_w(float *dw, tlk_mat a, tlk_mat b, int T, int N, int K) {
  OP("linear_bwd_w");
  if (T > 0) outer(dw, a, b, T, N, K);
}

__global__ static void column_sums(float *db, tlk_mat dy, int T_, int N) {
  double *s = (double *)tlk_shared, sum = 0;  // (8, 32)
  int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32, n = (int)blockIdx.x * 32 + lane;
  for (int t = warp; t < T_ && n < N; t += 8) sum += get(dy, t, n);
  s[warp * 32 + lane] = sum;
  __syncthreads();
  if (warp || n >= N) return;
  for (int w = 1; w < 8; w++) sum += s[w * 32 + lane];
  db[n] += (float)sum;
}

void cuda_colsum(float *db, tlk_mat dy, int T, int N) {
  OP("colsum");
  if (T > 0) launch(column_sums, (unsigned)div_up(N, 32), 256, 256 * sizeof(double), db, dy, T, N);
}

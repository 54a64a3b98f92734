// lowrank.cu: the small products of a low-rank term: A x or dy B per row, R z, and the gradient of R.
// A warp makes one number of z: lanes take every 32nd term, then a butterfly; the order is fixed by the row's length.
#include "cuda.cuh"

enum { THREADS = 256 };

// z (T, r): term k of number a is x[t][k] f[a * fa + k * fk]
__global__ static void dots(float *z, tlk_mat x, const float *f, int fa, int fk, int r, int K) {
  int t = (int)blockIdx.x, lane = (int)threadIdx.x % 32;
  for (int a = (int)threadIdx.x / 32; a < r; a += THREADS / 32) {
    float sum = 0;
    for (int k = lane; k < K; k += 32) sum = fmaf(get(x, t, k), f[(size_t)a * fa + (size_t)k * fk], sum);
    sum = warp_sum(sum);
    if (lane == 0) z[(size_t)t * r + a] = sum;
  }
}

void rows_dot(float *z, tlk_mat x, const float *A, int r, int T, int K, bool columns) {
  launch(dots, (unsigned)T, THREADS, 0, z, x, A, columns ? 1 : K, columns ? r : 1, r, K);
}

// a block a row; s = R z, or z R when transposed; a row whose R is all zero has no term
__global__ static void turned(float *s, int *active, const float *z, const float *R, const int32_t *variant, int r, int transposed) {
  int t = (int)blockIdx.x, v = variant ? variant[t] : 0;
  int *any = (int *)tlk_shared;
  if (threadIdx.x == 0) *any = v >= 0 && !R;
  __syncthreads();
  const float *own = R && v >= 0 ? R + (size_t)v * r * r : nullptr;
  for (int i = (int)threadIdx.x; own && i < r * r; i += (int)blockDim.x)
    if (own[i] != 0) atomicOr((unsigned *)any, 1u);
  __syncthreads();
  if (threadIdx.x == 0) active[t] = *any;
  for (int a = (int)threadIdx.x; a < r; a += (int)blockDim.x) {
    float sum = own ? 0 : z[(size_t)t * r + a];
    for (int b = 0; own && b < r; b++) sum = fmaf(transposed ? own[b * r + a] : own[a * r + b], z[(size_t)t * r + b], sum);
    s[(size_t)t * r + a] = sum;
  }
}

void turn(float *s, int *active, const float *z, const tlk_lowrank *lr, int T, bool transposed) {
  launch(turned, (unsigned)T, lr->r > 32 ? 128 : 32, sizeof(int), s, active, z, lr->R, lr->variant, lr->r, (int)transposed);
}

// a thread an element of dR: units in order, a unit's rows in order, in double
__global__ static void outer_sums(double *dR, const float *g, const float *z, const int32_t *unit_off, int n_units, int r) {
  int i = (int)(blockIdx.x * blockDim.x + threadIdx.x), a = i / r, b = i % r;
  if (i >= r * r) return;
  double total = dR[i];
  for (int u = 0; u < n_units; u++) {
    double sum = 0;
    for (int t = unit_off[u]; t < unit_off[u + 1]; t++) sum += (double)g[(size_t)t * r + a] * z[(size_t)t * r + b];
    total += sum;
  }
  dR[i] = total;
}

void cuda_lowrank_bwd(double *dR, const float *g, const float *z, const int32_t *unit_off, int n_units, int r) {
  OP("lowrank_bwd");
  launch(outer_sums, grid_of((size_t)r * r, 64), 64, 0, dR, g, z, unit_off, n_units, r);
}

// lowrank.cu: the small products of low-rank terms: A x or dy B per row, R z, and the gradient of R. Those of linears that share
// their x go together.
// A warp makes one number of z: a lane takes eight terms in a row of every 256, then a butterfly; the order is fixed by the row's
// length.
#include "cuda.cuh"

enum { MOST_SUMS = 1 << 15 };  // numbers of dR's units at a time: 256 KiB

struct all_narrow {
  struct {
    float *z, *s;
    int *active;
    const float *f, *R;
    const int32_t *variant;
    int r;
  } m[MOST_NARROW];
};
static all_narrow together(const narrow *n, int count) {
  all_narrow a = {};
  for (int i = 0; i < count; i++) a.m[i] = {n[i].z, n[i].s, n[i].active, n[i].f, n[i].lr->R, n[i].lr->variant, n[i].lr->r};
  return a;
}
static int largest_rank(const narrow *n, int count) {
  int r = 1;
  for (int i = 0; i < count; i++) r = n[i].lr->r > r ? n[i].lr->r : r;
  return r;
}

// z (T, r) of member blockIdx.y: term k of number a is x[t][k] f[a][k], or f[k][a] with columns
__global__ static void dots(const __grid_constant__ all_narrow all, tlk_mat x, bool eights, int columns, int K) {
  const auto &m = all.m[blockIdx.y];
  int t = (int)blockIdx.x, lane = (int)threadIdx.x % 32;
  for (int a = (int)threadIdx.x / 32; a < m.r; a += (int)blockDim.x / 32) {
    float sum = 0, v[8];
    for (int k = 8 * lane; k < K; k += 256) {
      get8(v, x, eights, t, k, K);
#pragma unroll
      for (int i = 0; i < 8; i++)
        if (k + i < K) sum = fmaf(v[i], m.f[columns ? (size_t)(k + i) * m.r + a : (size_t)a * K + k + i], sum);
    }
    sum = warp_sum(sum);
    if (lane == 0) m.z[(size_t)t * m.r + a] = sum;
  }
}

void rows_dot(const narrow *n, int count, tlk_mat x, int T, int K, bool columns) {
  int r = largest_rank(n, count);
  launch(dots, dim3((unsigned)T, (unsigned)count), 32 * (r < 8 ? r : 8), 0, together(n, count), x, in_eights(x), (int)columns, K);
}

// a block a row of member blockIdx.y; s = R z, or z R when transposed; a row whose R is all zero has no term
__global__ static void turned(const __grid_constant__ all_narrow all, int transposed) {
  const auto &m = all.m[blockIdx.y];
  int t = (int)blockIdx.x, v = m.variant ? m.variant[t] : 0, r = m.r;
  const float *z = m.z + (size_t)t * r, *own = m.R && v >= 0 ? m.R + (size_t)v * r * r : nullptr;
  float any = v >= 0 && !m.R ? 1 : 0;
  for (int i = (int)threadIdx.x; own && i < r * r; i += (int)blockDim.x)
    if (own[i] != 0) any = 1;
  any = block_max(any, (float *)tlk_shared);
  if (threadIdx.x == 0) m.active[t] = any != 0;
  for (int a = (int)threadIdx.x; a < r; a += (int)blockDim.x) {
    float sum = own ? 0 : z[a];
    for (int b = 0; own && b < r; b++) sum = fmaf(transposed ? own[b * r + a] : own[a * r + b], z[b], sum);
    m.s[(size_t)t * r + a] = sum;
  }
}

void turn(const narrow *n, int count, int T, bool transposed) {
  launch(turned, dim3((unsigned)T, (unsigned)count), largest_rank(n, count) > 32 ? 128 : 32, 128, together(n, count), (int)transposed);
}

// sums (units, r, r): a thread an element of a unit's, its rows in order, in double
__global__ static void unit_sums(double *sums, const float *g, const float *z, const int32_t *unit_off, int r) {
  int i = (int)(blockIdx.x * blockDim.x + threadIdx.x), a = i / r, b = i % r;
  if (i >= r * r) return;
  double sum = 0;
  for (int t = unit_off[blockIdx.y]; t < unit_off[blockIdx.y + 1]; t++) sum += (double)g[(size_t)t * r + a] * z[(size_t)t * r + b];
  sums[(size_t)blockIdx.y * r * r + i] = sum;
}
// a thread an element of dR: units in order
__global__ static void add_units(double *dR, const double *sums, int n_units, int n) {
  int i = (int)(blockIdx.x * blockDim.x + threadIdx.x);
  if (i >= n) return;
  double total = dR[i];
  for (int u = 0; u < n_units; u++) total += sums[(size_t)u * n + i];
  dR[i] = total;
}

void cuda_lowrank_bwd(double *dR, const float *g, const float *z, const int32_t *unit_off, int n_units, int r) {
  OP("lowrank_bwd");
  int most = MOST_SUMS / (r * r) > 1 ? MOST_SUMS / (r * r) : 1;
  for (int u = 0; u < n_units; u += most) {
    int n = n_units - u < most ? n_units - u : most;
    double *sums = (double *)scratch(SCRATCH_A, sizeof(double) * (size_t)n * r * r);
    launch(unit_sums, dim3(grid_of((size_t)r * r, 64), (unsigned)n), 64, 0, sums, g, z, unit_off + u, r);
    launch(add_units, grid_of((size_t)r * r, 64), 64, 0, dR, (const double *)sums, n, r * r);
  }
}

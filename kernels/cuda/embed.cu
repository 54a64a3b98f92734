// embed.cu: rows of the embedding table (a gather with conversion, rope.cu, but for int8), and their gradient:
// dtable[ids[t]] += dx[t], for every id in the order of t.
// Gradient: a block for each t. It goes on only if no earlier row has its id, and then adds all rows with that id in order; so
// one block writes a row of the table, and the sum's order is that of the contract. Cost: T^2 comparisons of ids in all.
#include "cuda.cuh"

enum { THREADS = 256 };

__global__ static void fwd(float *x, const void *data, int ld, int compute, const int32_t *ids, int T, int C) {
  int c = (int)(blockIdx.x * THREADS + threadIdx.x);
  for (int t = (int)blockIdx.y; t < T && c < C; t += (int)gridDim.y) {
    x[(size_t)t * C + c] = weight_at(data, ld, compute, ids[t], c);
  }
}

void cuda_embed_fwd(float *x, const tlk_packed *table, const int32_t *ids, int T) {
  OP("embed_fwd");
  if (T > 0 && table->compute != TLK_I8) return move({x, TLK_F32, table->K}, nullptr, {table->data, table->compute, table->ld}, ids, T, table->K);
  dim3 grid(grid_of((size_t)table->K, THREADS), (unsigned)(T < 65535 ? T : 65535));
  if (T > 0) launch(fwd, grid, THREADS, 0, x, (const void *)table->data, table->ld, table->compute, ids, T, table->K);
}

// s: flags of THREADS candidate rows
__global__ static void bwd(float *dtable, const float *dx, const int32_t *ids, int T, int C) {
  int *same = (int *)tlk_shared, t0 = (int)blockIdx.x, id = ids[t0];
  int *seen = same + THREADS;
  if (threadIdx.x == 0) *seen = 0;
  __syncthreads();
  for (int t = (int)threadIdx.x; t < t0; t += THREADS)
    if (ids[t] == id) atomicOr((unsigned *)seen, 1u);
  __syncthreads();
  if (*seen) return;
  float *row = dtable + (size_t)id * C;
  for (int t = t0; t < T; t += THREADS) {
    same[threadIdx.x] = t + (int)threadIdx.x < T && ids[t + threadIdx.x] == id;
    __syncthreads();
    for (int i = 0; i < THREADS; i++)
      for (int c = (int)threadIdx.x; same[i] && c < C; c += THREADS) row[c] += dx[(size_t)(t + i) * C + c];
    __syncthreads();
  }
}

void cuda_embed_bwd(float *dtable, const float *dx, const int32_t *ids, int T, int C) {
  OP("embed_bwd");
  if (T > 0) launch(bwd, (unsigned)T, THREADS, (THREADS + 1) * sizeof(int), dtable, dx, ids, T, C);
}

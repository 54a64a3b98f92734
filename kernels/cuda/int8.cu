// int8.cu: rows as bytes, for weights packed with compute = I8 and the activations that meet them (kernels/ops.h says how they
// round): q = rint(x 127 / max |x|), the row's scale max |x| / 127. A row takes K bytes, zeros up to a multiple of 16, and
// SCALE_ROOM bytes with the scale. Products of bytes are summed in int32 on tensor cores (gemm.cuh): whole numbers, so that no
// order of sums changes a bit; then y = (scale_x scale_w) sum, as in kernels/cpu/int8.c. A block a row; two passes over it.
#include "cuda.cuh"

enum { THREADS = 256 };

__global__ static void quantize(int8_t *data, int ld, const void *w, int dtype, size_t ldw, int K) {
  int8_t *row = data + (size_t)blockIdx.x * ld;
  size_t from = (size_t)blockIdx.x * ldw;
  float max = 0;
  for (int k = (int)threadIdx.x; k < K; k += THREADS) max = fmaxf(max, fabsf(load_as(w, dtype, from + k)));
  max = block_max(max, (float *)tlk_shared);
  float inverse = max > 0 ? 127.0f / max : 0.0f;
  for (int k = 4 * (int)threadIdx.x; k < ld - SCALE_ROOM; k += 4 * THREADS) {  // four bytes in one store
    unsigned four = 0;
    for (int i = 0; i < 4 && k + i < K; i++) four |= ((unsigned)__float2int_rn(load_as(w, dtype, from + k + i) * inverse) & 0xffu) << 8 * i;
    *(unsigned *)(row + k) = four;
  }
  if (threadIdx.x == 0) *(float *)(row + ld - SCALE_ROOM) = max / 127.0f;
}

void to_bytes(void *data, int ld, const void *w, int dtype, size_t ldw, int rows, int K) {
  launch(quantize, (unsigned)rows, THREADS, 128, (int8_t *)data, ld, w, dtype, ldw, K);
}

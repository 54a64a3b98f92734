// swiglu.cu: h = silu(gate) up (Shazeer 2020), silu(g) = g sigma(g), and its gradients:
//   dup = dh silu(g),   dgate = dh up sigma(g) (1 + g (1 - sigma(g))).   A thread a number, rows in the grid's y.
#include "cuda.cuh"

enum { THREADS = 256 };

__device__ static inline float sigmoid(float g) { return 1.0f / (1.0f + expf(-g)); }

__global__ static void fwd(tlk_mat h, tlk_mat gate, tlk_mat up, int T, int F) {
  int f = (int)(blockIdx.x * THREADS + threadIdx.x);
  for (int t = (int)blockIdx.y; t < T && f < F; t += (int)gridDim.y) {
    float g = get(gate, t, f);
    put(h, t, f, g * sigmoid(g) * get(up, t, f));
  }
}

__global__ static void bwd(tlk_mat dgate, tlk_mat dup, tlk_mat dh, tlk_mat gate, tlk_mat up, int T, int F) {
  int f = (int)(blockIdx.x * THREADS + threadIdx.x);
  for (int t = (int)blockIdx.y; t < T && f < F; t += (int)gridDim.y) {
    float g = get(gate, t, f), u = get(up, t, f), d = get(dh, t, f), s = sigmoid(g);
    put(dgate, t, f, d * u * s * fmaf(g, 1 - s, 1.0f));
    put(dup, t, f, d * g * s);
  }
}

static dim3 grid(int T, int F) { return dim3(grid_of((size_t)F, THREADS), (unsigned)(T < 65535 ? T : 65535)); }

void cuda_swiglu_fwd(tlk_mat h, tlk_mat gate, tlk_mat up, int T, int F) {
  OP("swiglu_fwd");
  if (T > 0) launch(fwd, grid(T, F), THREADS, 0, h, gate, up, T, F);
}

void cuda_swiglu_bwd(tlk_mat dgate, tlk_mat dup, tlk_mat dh, tlk_mat gate, tlk_mat up, int T, int F) {
  OP("swiglu_bwd");
  if (T > 0) launch(bwd, grid(T, F), THREADS, 0, dgate, dup, dh, gate, up, T, F);
}

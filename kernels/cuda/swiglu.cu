// swiglu.cu: h = silu(gate) up (Shazeer 2020), silu(g) = g sigma(g), and its gradients:
//   dup = dh silu(g),   dgate = dh up sigma(g) (1 + g (1 - sigma(g))).   A thread eight numbers, rows in the grid's y.
#include "cuda.cuh"

enum { THREADS = 128 };

__global__ static void fwd(tlk_mat h, tlk_mat gate, tlk_mat up, int T, int F, bool eights) {
  int f = 8 * (int)(blockIdx.x * THREADS + threadIdx.x);
  for (int t = (int)blockIdx.y; t < T && f < F; t += (int)gridDim.y) {
    float g[8], u[8];
    get8(g, gate, eights, t, f, F);
    get8(u, up, eights, t, f, F);
#pragma unroll
    for (int k = 0; k < 8; k++) g[k] = swiglu(g[k], u[k]);
    put8(h, eights, t, f, F, g);
  }
}

__global__ static void bwd(tlk_mat dgate, tlk_mat dup, tlk_mat dh, tlk_mat gate, tlk_mat up, int T, int F, bool eights) {
  int f = 8 * (int)(blockIdx.x * THREADS + threadIdx.x);
  for (int t = (int)blockIdx.y; t < T && f < F; t += (int)gridDim.y) {
    float g[8], u[8], d[8];
    get8(g, gate, eights, t, f, F);
    get8(u, up, eights, t, f, F);
    get8(d, dh, eights, t, f, F);
#pragma unroll
    for (int k = 0; k < 8; k++) {
      float s = sigmoid(g[k]), dg = d[k] * u[k] * s * fmaf(g[k], 1 - s, 1.0f);
      u[k] = d[k] * g[k] * s;
      g[k] = dg;
    }
    put8(dgate, eights, t, f, F, g);
    put8(dup, eights, t, f, F, u);
  }
}

static dim3 grid(int T, int F) { return dim3(grid_of(div_up_size((size_t)F, 8), THREADS), (unsigned)(T < 65535 ? T : 65535)); }

void cuda_swiglu_fwd(tlk_mat h, tlk_mat gate, tlk_mat up, int T, int F) {
  OP("swiglu_fwd");
  if (T > 0) launch(fwd, grid(T, F), THREADS, 0, h, gate, up, T, F, in_eights(h) && in_eights(gate) && in_eights(up));
}

void cuda_swiglu_bwd(tlk_mat dgate, tlk_mat dup, tlk_mat dh, tlk_mat gate, tlk_mat up, int T, int F) {
  OP("swiglu_bwd");
  bool eights = in_eights(dgate) && in_eights(dup) && in_eights(dh) && in_eights(gate) && in_eights(up);
  if (T > 0) launch(bwd, grid(T, F), THREADS, 0, dgate, dup, dh, gate, up, T, F, eights);
}

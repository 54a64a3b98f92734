// swiglu.c: h = silu(gate) up (Shazeer 2020), silu(g) = g sigma(g), and its gradients:
//   dup = dh silu(g),   dgate = dh up sigma(g) (1 + g (1 - sigma(g))).
#include "cpu.h"

INLINE vf sigmoid(vf g) { return v_set(1) / (v_set(1) + v_exp(-g)); }

void OP(swiglu_fwd)(tlk_mat h, tlk_mat gate, tlk_mat up, int T, int F) {
  int hb = h.dtype == TLK_BF16, gb = gate.dtype == TLK_BF16, ub = up.dtype == TLK_BF16;
#pragma omp parallel for num_threads(threads_for((double)T * F * 4)) schedule(static)
  for (int t = 0; t < T; t++) {
    const void *gr = mat_row(gate, t), *ur = mat_row(up, t);
    void *hr = mat_row_out(h, t);
    for (int f = 0; f < F; f += VL) {
      vf g = v_load_as(gr, gb, f, F - f), u = v_load_as(ur, ub, f, F - f);
      v_store_as(hr, hb, f, g * sigmoid(g) * u, F - f);
    }
  }
}

void OP(swiglu_bwd)(tlk_mat dgate, tlk_mat dup, tlk_mat dh, tlk_mat gate, tlk_mat up, int T, int F) {
  int ob = dgate.dtype == TLK_BF16, pb = dup.dtype == TLK_BF16, hb = dh.dtype == TLK_BF16;
  int gb = gate.dtype == TLK_BF16, ub = up.dtype == TLK_BF16;
#pragma omp parallel for num_threads(threads_for((double)T * F * 4)) schedule(static)
  for (int t = 0; t < T; t++) {
    const void *gr = mat_row(gate, t), *ur = mat_row(up, t), *dr = mat_row(dh, t);
    void *dg = mat_row_out(dgate, t), *du = mat_row_out(dup, t);
    for (int f = 0; f < F; f += VL) {
      vf g = v_load_as(gr, gb, f, F - f), u = v_load_as(ur, ub, f, F - f), d = v_load_as(dr, hb, f, F - f);
      vf s = sigmoid(g), slope = s * v_fma(g, v_set(1) - s, v_set(1));
      v_store_as(dg, ob, f, d * u * slope, F - f);
      v_store_as(du, pb, f, d * g * s, F - f);
    }
  }
}

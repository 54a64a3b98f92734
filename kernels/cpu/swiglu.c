// swiglu.c: h = silu(gate) up (Shazeer 2020), silu(g) = g sigma(g), and its gradient:
//   dup = dh silu(g),   dgate = dh up sigma(g) (1 + g (1 - sigma(g)))
#include "cpu.h"

INLINE vf sigma(vf x) { return v_set(1) / (v_set(1) + v_exp(-x)); }

void OP(swiglu_fwd)(tlk_mat h, tlk_mat gate, tlk_mat up, int T, int F) {
  int hb = h.dtype == TLK_BF16, gb = gate.dtype == TLK_BF16, ub = up.dtype == TLK_BF16;
#pragma omp parallel for num_threads(threads_for((double)T * F)) schedule(static)
  for (int t = 0; t < T; t++)
    for (int f = 0; f < F; f += VL) {
      vf g = v_load_as(mat_row(gate, t), gb, f, F - f);
      v_store_as(mat_row_out(h, t), hb, f, g * sigma(g) * v_load_as(mat_row(up, t), ub, f, F - f), F - f);
    }
}

void OP(swiglu_bwd)(tlk_mat dgate, tlk_mat dup, tlk_mat dh, tlk_mat gate, tlk_mat up, int T, int F) {
  int gb = gate.dtype == TLK_BF16, ub = up.dtype == TLK_BF16, db = dh.dtype == TLK_BF16;
  vf one = v_set(1);
#pragma omp parallel for num_threads(threads_for((double)T * F)) schedule(static)
  for (int t = 0; t < T; t++)
    for (int f = 0; f < F; f += VL) {
      vf g = v_load_as(mat_row(gate, t), gb, f, F - f), u = v_load_as(mat_row(up, t), ub, f, F - f);
      vf d = v_load_as(mat_row(dh, t), db, f, F - f), s = sigma(g);
      v_store_as(mat_row_out(dgate, t), dgate.dtype == TLK_BF16, f, d * u * s * v_fma(g, one - s, one), F - f);
      v_store_as(mat_row_out(dup, t), dup.dtype == TLK_BF16, f, d * g * s, F - f);
    }
}

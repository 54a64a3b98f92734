// swiglu.c: h = silu(gate) up (Shazeer 2020), silu(g) = g sigma(g), and its gradients:
//   dup = dh silu(g),   dgate = dh up sigma(g) (1 + g (1 - sigma(g))).
#include "cpu.h"

typedef struct {
  tlk_mat h, dgate, dup, gate, up;  // fwd writes h; bwd reads dh there and writes dgate, dup
  int F;
} job;

static void fwd_row(const void *ctx, int t, int thread) {
  const job *q = ctx;
  int F = q->F, hd = q->h.dtype, gd = q->gate.dtype, ud = q->up.dtype;
  const void *gr = mat_row(q->gate, t), *ur = mat_row(q->up, t);
  void *hr = mat_row_out(q->h, t);
  for (int f = 0; f < F; f += VL) {
    vf g = v_load_as(gr, gd, f, F - f), u = v_load_as(ur, ud, f, F - f);
    v_store_as(hr, hd, f, v_swiglu(g, u), F - f);
  }
}

void OP(swiglu_fwd)(tlk_mat h, tlk_mat gate, tlk_mat up, int T, int F) {
  job q = {.h = h, .gate = gate, .up = up, .F = F};
  tlk_run(T, (double)T * F * 4, fwd_row, &q);
}

static void bwd_row(const void *ctx, int t, int thread) {
  const job *q = ctx;
  int F = q->F, hd = q->h.dtype, gd = q->gate.dtype, ud = q->up.dtype;
  int od = q->dgate.dtype, pd = q->dup.dtype;
  const void *gr = mat_row(q->gate, t), *ur = mat_row(q->up, t), *dr = mat_row(q->h, t);
  void *dg = mat_row_out(q->dgate, t), *du = mat_row_out(q->dup, t);
  for (int f = 0; f < F; f += VL) {
    vf g = v_load_as(gr, gd, f, F - f), u = v_load_as(ur, ud, f, F - f), d = v_load_as(dr, hd, f, F - f);
    vf d_up, d_gate = v_swiglu_back(g, u, d, &d_up);
    v_store_as(dg, od, f, d_gate, F - f);
    v_store_as(du, pd, f, d_up, F - f);
  }
}

void OP(swiglu_bwd)(tlk_mat dgate, tlk_mat dup, tlk_mat dh, tlk_mat gate, tlk_mat up, int T, int F) {
  job q = {dh, dgate, dup, gate, up, F};
  tlk_run(T, (double)T * F * 6, bwd_row, &q);
}

// swiglu.c: the gated activation of the feed-forward block (Shazeer 2020, arXiv:2002.05202) (reference).
//
//   fwd  h = silu(g) u,  silu(g) = g sigma(g)
//   bwd  du = dh silu(g),  dg = dh u sigma(g) (1 + g (1 - sigma(g)))
#include "ref.h"

static double sigma(double x) { return 1 / (1 + exp(-x)); }

void ref_swiglu_fwd(tlk_mat h, tlk_mat gate, tlk_mat up, int T, int F) {
  for (int t = 0; t < T; t++)
    for (int f = 0; f < F; f++) {
      double g = ref_get(gate, t, f);
      ref_put(h, t, f, g * sigma(g) * ref_get(up, t, f));
    }
}

void ref_swiglu_bwd(tlk_mat dgate, tlk_mat dup, tlk_mat dh, tlk_mat gate, tlk_mat up, int T, int F) {
  for (int t = 0; t < T; t++)
    for (int f = 0; f < F; f++) {
      double g = ref_get(gate, t, f), u = ref_get(up, t, f), d = ref_get(dh, t, f), s = sigma(g);
      ref_put(dgate, t, f, d * u * s * (1 + g * (1 - s)));
      ref_put(dup, t, f, d * g * s);
    }
}

// head_bwd.cu: the gradient of log-probability and entropy with respect to the hidden rows and the head's weight.
//   p_j = exp(l_j - lse),  dlogit_j = inv_temp (dlogprob (1[j = target] - p_j) - dentropy p_j (l_j - lse + entropy)),
//   dh = sum_j dlogit_j w_j,  dw_j += sum_t dlogit_tj h_t.
// 1024 rows and 4096 tokens at a time: logits again, dlogits in the compute dtype to scratch (8 or 16 MiB), then two products:
// dh += dlogits W and, when asked for, dw += dlogits^T h. Pieces of the vocabulary are added to dh in order.
#include "gemm.cuh"

enum { ROWS_AT_ONCE = 1024, TOKENS_AT_ONCE = 4096 };

struct upstream {
  const int32_t *targets;
  const float *lse, *entropy, *dlogprob, *dentropy;
  float inv_temp;
};

// dl (T, TOKENS_AT_ONCE): of tokens first .. first + p.N, whose rows of the weight p has
template <class T, int ROWS>
__global__ static void __launch_bounds__(WARPS * 32, (gemm_tile<T, ROWS>::resident)) dlogits(T *dl, operands<T> p, upstream u, int first, int T_) {
  typedef gemm_tile<T, ROWS> G;
  int v0 = (int)blockIdx.x * TILE_COLS, t0 = (int)blockIdx.y * ROWS;
  typename G::sums total;
  gemm_loop<T, ROWS, false>(total, p, t0, T_, v0, 0, p.K);
  const float *c = gemm_rows<T, ROWS>(total);
  for (int i = (int)threadIdx.x; i < ROWS * TILE_COLS; i += WARPS * 32) {
    int t = t0 + i / TILE_COLS, n = v0 + i % TILE_COLS;
    if (t >= T_ || n >= p.N) continue;
    float x = fmaf(c[i / TILE_COLS * G::ldc + i % TILE_COLS], u.inv_temp, -u.lse[t]), e = expf(x);
    float d = u.dlogprob[t] * ((first + n == u.targets[t] ? 1.0f : 0.0f) - e);
    if (u.dentropy) d -= u.dentropy[t] * e * (x + u.entropy[t]);
    dl[(size_t)t * TOKENS_AT_ONCE + n] = from_float<T>(d * u.inv_temp);
  }
}

template <class T> static void run(T *dl, tlk_mat h, const tlk_packed *w, const upstream &u, int first, int T_) {
  operands<T> p = operands_of<T>(h, w);
  unsigned across = (unsigned)div_up(w->N, TILE_COLS);
  if (T_ <= 32) launch(dlogits<T, 16>, dim3(across, (unsigned)div_up(T_, 16)), WARPS * 32, gemm_tile<T, 16>::shared_bytes, dl, p, u, first, T_);
  else launch(dlogits<T, 64>, dim3(across, (unsigned)div_up(T_, 64)), WARPS * 32, gemm_tile<T, 64>::shared_bytes, dl, p, u, first, T_);
}

void cuda_head_bwd(float *dh, float *dw, const float *logits, tlk_mat h, const tlk_packed *w, const int32_t *targets, const float *lse, const float *entropy,
                   const float *dlogprob, const float *dentropy, float inv_temp, int T) {
  OP("head_bwd");
  int C = w->K, most = T < ROWS_AT_ONCE ? T : ROWS_AT_ONCE;
  size_t size = tlk_dtype_size(w->compute);
  if (T <= 0) return;
  h = as_act(h, T, C, w->compute);
  tlk_mat dl = {scratch(SCRATCH_D, size * (size_t)most * TOKENS_AT_ONCE), w->compute, TOKENS_AT_ONCE};
  for (int t = 0; t < T; t += most) {
    int rows = T - t < most ? T - t : most;
    tlk_mat ht = {(char *)h.p + (size_t)t * h.ld * size, h.dtype, h.ld};
    upstream u = {targets + t, lse + t, entropy ? entropy + t : nullptr, dlogprob + t, dentropy && entropy ? dentropy + t : nullptr, inv_temp};
    for (int v = 0; v < w->N; v += TOKENS_AT_ONCE) {
      tlk_packed piece = *w;
      piece.N = w->N - v < TOKENS_AT_ONCE ? w->N - v : TOKENS_AT_ONCE;
      piece.data = (char *)w->data + (size_t)v * w->ld * size;
      if (w->compute == TLK_BF16) run<bf16>((bf16 *)dl.p, ht, &piece, u, v, rows);
      else if (w->compute == TLK_F16) run<fp16>((fp16 *)dl.p, ht, &piece, u, v, rows);
      else run<float>((float *)dl.p, ht, &piece, u, v, rows);
      epilogue e = {};
      e.y = {dh + (size_t)t * C, TLK_F32, C}, e.accumulate = v > 0;
      product(e, dl, &piece, rows, true);
      if (dw) outer(dw + (size_t)v * C, dl, ht, rows, piece.N, C);
    }
  }
}

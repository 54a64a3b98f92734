// attention_bwd.cu: gradients of attention, with the probabilities computed again from lse.
//   p = exp(scale q k - lse),  delta = sum(do o),  dp = do v^T,  ds = p (dp - delta) scale,
//   dq = ds k,  dk += ds^T q,  dv += p^T do.
//
// Two kernels, so that nothing is added by two blocks. dq: a block takes a tile of pairs through its keys, as the forward pass
// does. dk, dv: a block takes one block of positions of one unit and key/value head; the unit's lists that share a prefix name
// the same rows at the same positions, so blocks of other positions touch other rows. It goes through the unit's runs (rows that
// name one list) in order and adds a run's sums to the rows once; the order of sums is that of the unit's rows, whatever else is
// in the batch. Products on tensor cores for bf16 and fp16, with p and ds rounded to that; sums in fp32.
#include "attention.cuh"
#include <cstdio>
#include <cstdlib>

struct grads {
  tlk_mat dq, dk, dv, d_o, o;
  const float *lse, *delta;  // (T, H)
};

// a warp a (token, head)
__global__ static void deltas(float *delta, tlk_mat d_o, tlk_mat o, int T_, int H, int D) {
  int i = (int)(blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32), lane = (int)threadIdx.x % 32;
  if (i >= T_ * H) return;
  float sum = 0;
  for (int d = lane; d < D; d += 32) sum = fmaf(get(d_o, i / H, i % H * D + d), get(o, i / H, i % H * D + d), sum);
  sum = warp_sum(sum);
  if (lane == 0) delta[i] = sum;
}

template <class T, int M, int KB, int DMAX> struct bwd_layout {
  enum {
    ldd = DMAX + in_shared<T>::pad,
    lds = KB + 4,
    ldp = KB + in_shared<T>::pad,
    ldo = DMAX + 4,
    pairs_bytes = M * ldd * sizeof(T),
    keys_bytes = KB * ldd * sizeof(T),
    s_bytes = M * lds * 4,
    p_bytes = M * ldp * sizeof(T),
    dq_bytes = 2 * pairs_bytes + keys_bytes + 2 * s_bytes + p_bytes,
    dq_out = M * ldo * 4,
    dq_shared = dq_bytes > dq_out ? dq_bytes : dq_out,
    work_bytes = 2 * pairs_bytes + 2 * s_bytes + 2 * p_bytes,
    dk_out = KB * ldo * 4,
    dk_shared = 2 * keys_bytes + (work_bytes > dk_out ? work_bytes : dk_out)
  };
};

// p (M, KB) and ds of the scores s and products dp; p NULL: only ds
template <class T, int M, int KB, class L>
__device__ static inline void probabilities(T *p, T *ds, const float *s, const float *dp, const attn &a, const grads &gr, int t0, int t1, int ta, int tb,
                                            int g, int part, int j0) {
  for (int i = (int)threadIdx.x; i < M * KB; i += ATTN_THREADS) {
    int pair = i / KB, j = j0 + i % KB, t = pair_token(a, t0, pair);
    bool valid = pair_there(a, t0, t1, part, pair) && t >= ta && t < tb && j >= first_key(a, t) && j < a.kv_len[t];
    float e = 0, d = 0;
    if (valid) {
      size_t at = (size_t)t * a.H + pair_head(a, g, part, pair);
      e = expf(fmaf(s[pair * L::lds + i % KB], a.scale, -gr.lse[at]));
      d = e * (dp[pair * L::lds + i % KB] - gr.delta[at]) * a.scale;
    }
    if (p) p[pair * L::ldp + i % KB] = from_float<T>(e);
    ds[pair * L::ldp + i % KB] = from_float<T>(d);
  }
}

template <class T, int M, int KB, int DMAX>
__global__ static void __launch_bounds__(ATTN_THREADS, 2) dq_tile(attn a, grads gr, int tokens) {
  typedef bwd_layout<T, M, KB, DMAX> L;
  T *q = (T *)tlk_shared, *d_o = (T *)(tlk_shared + L::pairs_bytes), *kv = (T *)(tlk_shared + 2 * L::pairs_bytes);
  float *s = (float *)(tlk_shared + 2 * L::pairs_bytes + L::keys_bytes), *dp = s + M * L::lds;
  T *ds = (T *)(dp + M * L::lds);
  int t0 = (int)blockIdx.x * tokens, t1 = t0 + tokens < a.T ? t0 + tokens : a.T, g = (int)blockIdx.y / a.parts, part = (int)blockIdx.y % a.parts;
  block_sums<T, M, DMAX> sum;
  sum.zero();
  load_pairs<T, M>(q, L::ldd, a.q, a, t0, t1, g, part);
  load_pairs<T, M>(d_o, L::ldd, gr.d_o, a, t0, t1, g, part);
  for (int ta = t0, tb; ta < t1; ta = tb) {
    int from = first_key(a, ta), to = a.kv_len[ta];
    for (tb = ta + 1; tb < t1 && a.kv_off[tb] == a.kv_off[ta]; tb++) {
      from = min(from, first_key(a, tb));
      to = max(to, a.kv_len[tb]);
    }
    const int32_t *list = a.kv_rows + a.kv_off[ta];
    for (int j0 = from / KB * KB; j0 < to; j0 += KB) {
      block_sums<T, M, KB> scores;
      load_keys<T, KB>(kv, L::ldd, a.v, a, list, j0, to, g);
      __syncthreads();
      scores.zero();
      scores.template mac<false, false>(d_o, L::ldd, kv, L::ldd, a.depth, KB);
      scores.store(dp, L::lds, KB);
      __syncthreads();
      load_keys<T, KB>(kv, L::ldd, a.k, a, list, j0, to, g);
      __syncthreads();
      scores.zero();
      scores.template mac<false, false>(q, L::ldd, kv, L::ldd, a.depth, KB);
      scores.store(s, L::lds, KB);
      __syncthreads();
      probabilities<T, M, KB, L>((T *)nullptr, ds, s, dp, a, gr, t0, t1, ta, tb, g, part, j0);
      __syncthreads();
      sum.template mac<false, true>(ds, L::ldp, kv, L::ldd, KB, a.depth);
      __syncthreads();
    }
  }
  __syncthreads();
  float *out = (float *)tlk_shared;
  sum.store(out, L::ldo, a.depth);
  __syncthreads();
  for (int i = (int)threadIdx.x; i < M * a.D; i += ATTN_THREADS) {
    int pair = i / a.D, d = i % a.D;
    if (pair_there(a, t0, t1, part, pair)) put(gr.dq, pair_token(a, t0, pair), pair_head(a, g, part, pair) * a.D + d, out[pair * L::ldo + d]);
  }
}

// the run's sums added to the rows that its list names
template <class Sums, class L, int KB>
__device__ static inline void flush(const tlk_mat &m, const Sums &sum, float *out, const attn &a, const int32_t *list, int j0, int end, int g) {
  __syncthreads();
  sum.store(out, L::ldo, a.depth);
  __syncthreads();
  for (int i = (int)threadIdx.x; i < KB * a.D; i += ATTN_THREADS) {
    int key = i / a.D, d = i % a.D;
    if (j0 + key >= end) continue;
    float *to = (float *)m.p + (size_t)list[j0 + key] * m.ld + (size_t)g * a.D + d;
    *to += out[key * L::ldo + d];
  }
}

template <class T, int M, int KB, int DMAX>
__global__ static void __launch_bounds__(ATTN_THREADS, 2) dk_block(attn a, grads gr, const int32_t *unit_off) {
  typedef bwd_layout<T, M, KB, DMAX> L;
  T *k = (T *)tlk_shared, *v = (T *)(tlk_shared + L::keys_bytes);
  unsigned char *work = tlk_shared + 2 * L::keys_bytes;
  T *q = (T *)work, *d_o = (T *)(work + L::pairs_bytes);
  float *s = (float *)(work + 2 * L::pairs_bytes), *dp = s + M * L::lds;
  T *p = (T *)(dp + M * L::lds), *ds = p + M * L::ldp;
  int j0 = (int)blockIdx.x * KB, g = (int)blockIdx.z, u1 = unit_off[blockIdx.y + 1], tokens = M / a.heads;
  for (int ta = unit_off[blockIdx.y], tb; ta < u1; ta = tb) {
    int end = a.kv_len[ta];
    for (tb = ta + 1; tb < u1 && a.kv_off[tb] == a.kv_off[ta]; tb++) end = max(end, a.kv_len[tb]);
    if (end <= j0) continue;
    const int32_t *list = a.kv_rows + a.kv_off[ta];
    block_sums<T, KB, DMAX> dk, dv;
    bool any = false;
    for (int t0 = ta; t0 < tb; t0 += tokens) {
      int t1 = min(t0 + tokens, tb), from = first_key(a, t0), to = 0;
      for (int t = t0; t < t1; t++) from = min(from, first_key(a, t)), to = max(to, a.kv_len[t]);
      if (to <= j0 || from >= j0 + KB) continue;
      if (!any) {
        __syncthreads();
        load_keys<T, KB>(k, L::ldd, a.k, a, list, j0, end, g);
        load_keys<T, KB>(v, L::ldd, a.v, a, list, j0, end, g);
        dk.zero();
        dv.zero();
        any = true;
      }
      for (int part = 0; part < a.parts; part++) {
        __syncthreads();
        load_pairs<T, M>(q, L::ldd, a.q, a, t0, t1, g, part);
        load_pairs<T, M>(d_o, L::ldd, gr.d_o, a, t0, t1, g, part);
        __syncthreads();
        block_sums<T, M, KB> scores;
        scores.zero();
        scores.template mac<false, false>(q, L::ldd, k, L::ldd, a.depth, KB);
        scores.store(s, L::lds, KB);
        scores.zero();
        scores.template mac<false, false>(d_o, L::ldd, v, L::ldd, a.depth, KB);
        scores.store(dp, L::lds, KB);
        __syncthreads();
        probabilities<T, M, KB, L>(p, ds, s, dp, a, gr, t0, t1, t0, t1, g, part, j0);
        __syncthreads();
        dv.template mac<true, true>(p, L::ldp, d_o, L::ldd, M, a.depth);
        dk.template mac<true, true>(ds, L::ldp, q, L::ldd, M, a.depth);
      }
    }
    if (!any) continue;
    flush<block_sums<T, KB, DMAX>, L, KB>(gr.dk, dk, (float *)work, a, list, j0, end, g);
    flush<block_sums<T, KB, DMAX>, L, KB>(gr.dv, dv, (float *)work, a, list, j0, end, g);
  }
}

template <class T, int MQ, int KBQ, int MK, int KBK, int DMAX>
static void run(grads gr, tlk_mat q, tlk_mat k, tlk_mat v, const tlk_attn_map *map, const int32_t *unit_off, int n_units, float scale, int T_, int H,
                int G, int D) {
  int longest = longest_list(map, T_);
  float *delta = (float *)scratch(SCRATCH_A, sizeof(float) * (size_t)T_ * H);
  launch(deltas, grid_of((size_t)T_ * H, 8), 256, 0, delta, gr.d_o, gr.o, T_, H, D);
  gr.delta = delta;
  attn a = attn_of<MQ>(q, k, v, map, scale, T_, H, G, D);
  int tokens = MQ / a.heads;
  launch(dq_tile<T, MQ, KBQ, DMAX>, dim3((unsigned)div_up(T_, tokens), (unsigned)(G * a.parts)), ATTN_THREADS, bwd_layout<T, MQ, KBQ, DMAX>::dq_shared, a,
         gr, tokens);
  a = attn_of<MK>(q, k, v, map, scale, T_, H, G, D);
  for (int u = 0; u < n_units; u += 65535)
    launch(dk_block<T, MK, KBK, DMAX>, dim3((unsigned)div_up(longest, KBK), (unsigned)(n_units - u < 65535 ? n_units - u : 65535), (unsigned)G),
           ATTN_THREADS, bwd_layout<T, MK, KBK, DMAX>::dk_shared, a, gr, unit_off + u);
}

template <class T>
static void on_tensor_cores(grads gr, tlk_mat q, tlk_mat k, tlk_mat v, const tlk_attn_map *map, const int32_t *unit_off, int n_units, float scale, int T_,
                            int H, int G, int D) {
  if (D <= 64) run<T, 64, 64, 32, 64, 64>(gr, q, k, v, map, unit_off, n_units, scale, T_, H, G, D);
  else if (D <= 128) run<T, 64, 64, 32, 64, 128>(gr, q, k, v, map, unit_off, n_units, scale, T_, H, G, D);
  else run<T, 32, 64, 32, 32, 256>(gr, q, k, v, map, unit_off, n_units, scale, T_, H, G, D);
}

void cuda_attn_bwd(tlk_mat dq, tlk_mat dk, tlk_mat dv, tlk_mat d_o, tlk_mat o, const float *lse, tlk_mat q, tlk_mat k, tlk_mat v,
                   const tlk_attn_map *map, const int32_t *unit_off, int n_units, float scale, int T, int H, int G, int D) {
  OP("attn_bwd");
  if (T <= 0 || n_units <= 0) return;
  if (D > 256) fprintf(stderr, "tlrun: cuda: attn_bwd: heads of %d; at most 256\n", D), abort();
  grads gr = {dq, dk, dv, d_o, o, lse, nullptr};
  if (q.dtype == TLK_BF16) on_tensor_cores<bf16>(gr, q, k, v, map, unit_off, n_units, scale, T, H, G, D);
  else if (q.dtype == TLK_F16) on_tensor_cores<fp16>(gr, q, k, v, map, unit_off, n_units, scale, T, H, G, D);
  else {
    if (D <= 64) run<float, 32, 64, 32, 32, 64>(gr, q, k, v, map, unit_off, n_units, scale, T, H, G, D);
    else if (D <= 128) run<float, 32, 64, 32, 32, 128>(gr, q, k, v, map, unit_off, n_units, scale, T, H, G, D);
    else run<float, 16, 32, 16, 16, 256>(gr, q, k, v, map, unit_off, n_units, scale, T, H, G, D);
  }
}

// attention.cu: o = softmax(scale Q K^T) V over the keys each query's list names (attention.cuh says how it is cut).
//
// Keys come in chunks of 128 positions. Of a chunk all scores are held, its softmax is the plain one: m = max, p = e^(s - m),
// l = sum p, o = P V, the products on tensor cores for bf16 and fp16, with P as the sum of three such numbers, which holds all of fp32's 24
// bits: with fewer, o would round to another bf16 number than the CPU's often enough to show in logprobs (two more products, as
// much as the attention's arithmetic again). Chunks are merged in order of position:  m' = max(m, mc),  l' = l e^(m - m') + lc e^(mc - m'),  o' likewise; a chunk without a valid key is left out.
//
// Two ways to the same bits: a block takes a tile of pairs through all chunks (prefill, training); or, when there are few rows
// (decoding), a block takes one token's heads through one chunk, so that a long context is shared by many blocks, and a second
// kernel merges, for as many tokens at a time as 8 MiB of chunks' results allow. Sums over a row of 128 scores run as eight interleaved
// sums and a tree, whatever the tile.
#include "attention.cuh"
#include <cstdio>
#include <cstdlib>
#include <vector>

enum { KEYS = 128, KEY_BLOCK = 64, P_PARTS = 3 };
static const size_t PARTS_BYTES = (size_t)8 << 20;  // of chunks' results at a time: 578 chunks of a token with 28 heads of 128, 2300 blocks

int longest_list(const tlk_attn_map *map, int T) {
  if (map->longest > 0) return map->longest;
  std::vector<int32_t> len((size_t)T);
  device_copy(len.data(), map->kv_len, sizeof(int32_t) * (size_t)T);
  int n = 1;
  for (int32_t l : len) n = l > n ? l : n;
  return n;
}

template <class T, int M, int DMAX> struct fwd_layout {
  enum {
    ldd = DMAX + in_shared<T>::pad,
    lds = (DMAX > KEYS ? DMAX : KEYS) + 4,         // scores, later the chunk's o
    ldp = sizeof(T) == 4 ? (int)lds : P_PARTS * KEY_BLOCK + in_shared<T>::pad,
    per_row = ATTN_THREADS / M,                    // threads that share a pair
    q_bytes = M * ldd * sizeof(T),
    kv_bytes = KEY_BLOCK * ldd * sizeof(T),
    s_bytes = M * lds * 4,
    p_bytes = sizeof(T) == 4 ? 0 : M * ldp * sizeof(T),  // of a block of keys, part after part; fp32: the scores' place
    shared_bytes = q_bytes + kv_bytes + s_bytes + p_bytes
  };
};

// of the eight sums of a row the thread has those at part, part + per_row ...: adds them up as the tree 4, 2, 1 does
template <int per_row> __device__ static inline float tree8(const float *v) {
  float a;
  if (per_row == 2) a = (v[0] + v[2]) + (v[1] + v[3]);
  else if (per_row == 4) a = v[0] + v[1];
  else a = v[0];
  for (int m = per_row / 2; m; m /= 2) a += __shfl_xor_sync(0xffffffffu, a, m);
  return a;
}

__device__ static inline void merge_factors(float &m, float &l, float mc, float lc, float *old, float *own) {
  float top = fmaxf(m, mc);
  *old = expf(m - top), *own = expf(mc - top);
  l = fmaf(l, *old, lc * *own);
  m = top;
}

// o, lse: whole rows. part_o (T H, chunks, D), part_ml (T H, chunks, 2): one chunk (SPLIT).
template <class T, int M, int DMAX, bool SPLIT>
__global__ static void __launch_bounds__(ATTN_THREADS, SPLIT && sizeof(T) == 2 && DMAX <= 128 ? 4 : 2) fwd(attn a, tlk_mat o, float *lse, float *part_o, float *part_ml, int tokens) {
  typedef fwd_layout<T, M, DMAX> L;
  T *q = (T *)tlk_shared, *kv = (T *)(tlk_shared + L::q_bytes);
  float *s = (float *)(tlk_shared + L::q_bytes + L::kv_bytes);
  T *p = sizeof(T) == 4 ? (T *)s : (T *)((unsigned char *)s + L::s_bytes);
  int t0 = (int)blockIdx.x * tokens, t1 = t0 + tokens < a.T ? t0 + tokens : a.T, g = (int)blockIdx.y / a.parts, part = (int)blockIdx.y % a.parts;
  int row = (int)threadIdx.x / L::per_row, lane = (int)threadIdx.x % L::per_row, token = pair_token(a, t0, row);
  bool there = pair_there(a, t0, t1, part, row);
  int first = there ? first_key(a, token) : 0, last = there ? a.kv_len[token] : 0;
  float m = -INFINITY, l = 0, total[DMAX / L::per_row];
#pragma unroll
  for (int i = 0; i < DMAX / L::per_row; i++) total[i] = 0;
  load_pairs<T, M>(q, L::ldd, a.q, a, t0, t1, g, part);
  for (int ta = t0, tb; ta < t1; ta = tb) {
    int from = first_key(a, ta), to = a.kv_len[ta];
    for (tb = ta + 1; tb < t1 && a.kv_off[tb] == a.kv_off[ta]; tb++) {
      from = min(from, first_key(a, tb));
      to = max(to, a.kv_len[tb]);
    }
    const int32_t *list = a.kv_rows + a.kv_off[ta];
    bool mine = there && token >= ta && token < tb;
    int c0 = from / KEYS, c1 = (to + KEYS - 1) / KEYS;
    if (SPLIT) c0 = max(c0, (int)blockIdx.z), c1 = min(c1, (int)blockIdx.z + 1);
    for (int c = c0; c < c1; c++) {
      int j0 = c * KEYS;
      for (int b = 0; b < KEYS; b += KEY_BLOCK) {
        load_keys<T, KEY_BLOCK>(kv, L::ldd, a.k, a, list, j0 + b, to, g);
        __syncthreads();
        block_sums<T, M, KEY_BLOCK> scores;
        scores.zero();
        scores.template mac<false, false>(q, L::ldd, kv, L::ldd, a.depth, KEY_BLOCK);
        scores.store(s + b, L::lds, KEY_BLOCK);
        __syncthreads();
      }
      float *sr = s + row * L::lds, mc = -INFINITY, sums[8 / L::per_row];
      for (int j = lane; j < KEYS; j += L::per_row) {
        bool valid = mine && j0 + j >= first && j0 + j < last;
        sr[j] = valid ? sr[j] * a.scale : -INFINITY;
        mc = fmaxf(mc, sr[j]);
      }
      for (int x = L::per_row / 2; x; x /= 2) mc = fmaxf(mc, __shfl_xor_sync(0xffffffffu, mc, x));
#pragma unroll
      for (int i = 0; i < 8 / L::per_row; i++) {
        sums[i] = 0;
        for (int j = lane + i * L::per_row; j < KEYS; j += 8) {
          float e = mc > -INFINITY ? expf(sr[j] - mc) : 0;
          sums[i] += e;
          sr[j] = e;
        }
      }
      float lc = tree8<L::per_row>(sums);
      block_sums<T, M, DMAX> out;
      out.zero();
      for (int b = 0; b < KEYS; b += KEY_BLOCK) {
        load_keys<T, KEY_BLOCK>(kv, L::ldd, a.v, a, list, j0 + b, to, g);
        if (sizeof(T) == 2)
          for (int j = lane; j < KEY_BLOCK; j += L::per_row) {
            float rest = sr[b + j];
#pragma unroll
            for (int i = 0; i < P_PARTS; i++) {
              T high = from_float<T>(rest);
              p[row * L::ldp + i * KEY_BLOCK + j] = high;
              rest -= to_float(high);
            }
          }
        __syncthreads();
        if (sizeof(T) == 4) out.template mac<false, true>(p + b, L::ldp, kv, L::ldd, KEY_BLOCK, a.depth);
        else
          for (int i = 0; i < P_PARTS; i++) out.template mac<false, true>(p + i * KEY_BLOCK, L::ldp, kv, L::ldd, KEY_BLOCK, a.depth);
        __syncthreads();
      }
      out.store(s, L::lds, a.depth);
      __syncthreads();
      if (lc > 0) {
        float old, own;
        merge_factors(m, l, mc, lc, &old, &own);
#pragma unroll
        for (int i = 0; i < DMAX / L::per_row; i++)
          if (lane + i * L::per_row < a.D) total[i] = fmaf(total[i], old, s[row * L::lds + lane + i * L::per_row] * own);
      }
      __syncthreads();
    }
  }
  if (!there) return;
  int h = pair_head(a, g, part, row);
  size_t at = (size_t)token * a.H + h;
  if (SPLIT) {
    size_t cell = at * gridDim.z + blockIdx.z;
    if (lane == 0) part_ml[2 * cell] = m, part_ml[2 * cell + 1] = l;
    for (int i = 0; i < DMAX / L::per_row; i++)
      if (lane + i * L::per_row < a.D) part_o[cell * a.D + lane + i * L::per_row] = total[i];
    return;
  }
  if (lane == 0) lse[at] = l > 0 ? m + logf(l) : -INFINITY;
  for (int i = 0; i < DMAX / L::per_row; i++)
    if (lane + i * L::per_row < a.D) put(o, token, h * a.D + lane + i * L::per_row, l > 0 ? total[i] / l : 0);
}

// a block a (token, head)
__global__ static void merge(tlk_mat o, float *lse, const float *part_o, const float *part_ml, int chunks, int H, int D) {
  size_t at = (size_t)blockIdx.x * H + blockIdx.y;
  for (int d = (int)threadIdx.x; d < D; d += (int)blockDim.x) {
    float m = -INFINITY, l = 0, total = 0, old, own;
    for (int c = 0; c < chunks; c++) {
      const float *ml = part_ml + 2 * (at * chunks + c);
      if (!(ml[1] > 0)) continue;
      merge_factors(m, l, ml[0], ml[1], &old, &own);
      total = fmaf(total, old, part_o[(at * chunks + c) * D + d] * own);
    }
    put(o, (int)blockIdx.x, (int)blockIdx.y * D + d, l > 0 ? total / l : 0);
    if (d == 0) lse[at] = l > 0 ? m + logf(l) : -INFINITY;
  }
}

template <class T, int M, int DMAX>
static void run(tlk_mat o, float *lse, tlk_mat q, tlk_mat k, tlk_mat v, const tlk_attn_map *map, float scale, int T_, int H, int G, int D) {
  int longest = longest_list(map, T_), chunks = div_up(longest, KEYS);
  if (T_ <= 256) {
    size_t row = sizeof(float) * (size_t)H * chunks * (D + 2);
    int most = row * T_ <= PARTS_BYTES ? T_ : row > PARTS_BYTES ? 1 : (int)(PARTS_BYTES / row);
    for (int t = 0; t < T_; t += most) {
      int n = T_ - t < most ? T_ - t : most;
      tlk_attn_map own = *map;
      own.kv_off += t, own.kv_len += t;
      attn a = attn_of<16>(from_row(q, t), k, v, &own, scale, n, H, G, D);
      size_t cells = (size_t)n * H * chunks;
      float *part = (float *)scratch(SCRATCH_A, sizeof(float) * cells * (D + 2)), *to = lse + (size_t)t * H;
      launch(fwd<T, 16, DMAX, true>, dim3((unsigned)n, (unsigned)(G * a.parts), (unsigned)chunks), ATTN_THREADS, fwd_layout<T, 16, DMAX>::shared_bytes,
             a, from_row(o, t), to, part + 2 * cells, part, 1);
      launch(merge, dim3((unsigned)n, (unsigned)H), 64, 0, from_row(o, t), to, (const float *)(part + 2 * cells), (const float *)part, chunks, H, D);
    }
    return;
  }
  attn a = attn_of<M>(q, k, v, map, scale, T_, H, G, D);
  int tokens = M / a.heads;
  launch(fwd<T, M, DMAX, false>, dim3((unsigned)div_up(T_, tokens), (unsigned)(G * a.parts)), ATTN_THREADS, fwd_layout<T, M, DMAX>::shared_bytes, a, o,
         lse, (float *)nullptr, (float *)nullptr, tokens);
}

template <class T>
static void on_tensor_cores(tlk_mat o, float *lse, tlk_mat q, tlk_mat k, tlk_mat v, const tlk_attn_map *map, float scale, int T_, int H, int G, int D) {
  if (D <= 64) run<T, 64, 64>(o, lse, q, k, v, map, scale, T_, H, G, D);
  else if (D <= 128) run<T, 64, 128>(o, lse, q, k, v, map, scale, T_, H, G, D);
  else run<T, 32, 256>(o, lse, q, k, v, map, scale, T_, H, G, D);
}

void cuda_attn_fwd(tlk_mat o, float *lse, tlk_mat q, tlk_mat k, tlk_mat v, const tlk_attn_map *map, float scale, int T, int H, int G, int D) {
  OP("attn_fwd");
  if (T <= 0) return;
  if (D > 256) fprintf(stderr, "tlrun: cuda: attn_fwd: heads of %d; at most 256\n", D), abort();
  if (q.dtype == TLK_BF16) on_tensor_cores<bf16>(o, lse, q, k, v, map, scale, T, H, G, D);
  else if (q.dtype == TLK_F16) on_tensor_cores<fp16>(o, lse, q, k, v, map, scale, T, H, G, D);
  else {
    if (D <= 64) run<float, 32, 64>(o, lse, q, k, v, map, scale, T, H, G, D);
    else if (D <= 128) run<float, 32, 128>(o, lse, q, k, v, map, scale, T, H, G, D);
    else run<float, 16, 256>(o, lse, q, k, v, map, scale, T, H, G, D);
  }
}

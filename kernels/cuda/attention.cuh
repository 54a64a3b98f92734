// attention.cuh: what attention.cu and attention_bwd.cu share: how queries and keys are cut into tiles.
//
// A tile of queries is up to M pairs (token, head): consecutive tokens with the H/G heads that share a key/value head, so that
// grouped-query attention fills the tile. Tokens of a tile that name the same list of keys form a run, and runs take the tile one
// after another; a pair that is not of the run has no valid keys. Keys come in blocks by absolute position in the list, gathered
// row by row from wherever the cache holds them. What lies outside a pair's range enters as an exact zero, so a pair's bits do not
// depend on its tile.
#ifndef TL_CUDA_ATTENTION_CUH
#define TL_CUDA_ATTENTION_CUH
#include "gemm.cuh"

enum { ATTN_WARPS = 4, ATTN_THREADS = ATTN_WARPS * 32 };

struct attn {
  tlk_mat q, k, v;
  const int32_t *kv_off, *kv_len, *kv_rows;
  int window, T, H, G, D;
  int depth;          // D up to a multiple of 16
  int heads, parts;   // of a key/value head's query heads: so many in a tile, in so many parts
  int aligned;        // rows of k and v can be copied 16 bytes at a time
  float scale;
};

template <int M> static inline attn attn_of(tlk_mat q, tlk_mat k, tlk_mat v, const tlk_attn_map *map, float scale, int T, int H, int G, int D) {
  int group = H / G, heads = group < M ? group : M;
  size_t size = tlk_dtype_size(k.dtype);
  bool aligned = (uintptr_t)k.p % 16 == 0 && (uintptr_t)v.p % 16 == 0 && D * size % 16 == 0 && k.ld * size % 16 == 0 && v.ld * size % 16 == 0;
  return {q, k, v, map->kv_off, map->kv_len, map->kv_rows, map->window, T, H, G, D, (D + 15) / 16 * 16, heads, div_up(group, heads), aligned, scale};
}
int longest_list(const tlk_attn_map *map, int T);  // attention.cu

__device__ static inline int first_key(const attn &a, int t) {
  return a.window > 0 && a.kv_len[t] > a.window ? a.kv_len[t] - a.window : 0;
}

// a block's product of ROWS x COLS (at most `cols` of them in use) held by 4 warps in tiles of 16 x 16
template <class T, int ROWS, int COLS> struct block_sums {
  enum { down = ROWS / 16, across = COLS / 16, n = (down * across + ATTN_WARPS - 1) / ATTN_WARPS };
  tiles<T, 1, 1> t[n];
  __device__ void zero() {
#pragma unroll
    for (int i = 0; i < n; i++) t[i].zero();
  }
  // += A B over `depth` (a multiple of 16); layouts as in tiles::mac
  template <bool A_T, bool B_ROWS> __device__ void mac(const T *a, int lda, const T *b, int ldb, int depth, int cols) {
    int warp = (int)threadIdx.x / 32;
#pragma unroll
    for (int i = 0; i < n; i++) {
      int at = warp + i * ATTN_WARPS, r = at / across * 16, c = at % across * 16;
      if (at >= down * across || c >= cols) continue;
      for (int k = 0; k < depth; k += 16)
        t[i].template mac<A_T, B_ROWS>(a + (A_T ? k * lda + r : r * lda + k), lda, b + (B_ROWS ? k * ldb + c : c * ldb + k), ldb);
    }
  }
  __device__ void store(float *s, int ld, int cols) const {
    int warp = (int)threadIdx.x / 32;
#pragma unroll
    for (int i = 0; i < n; i++) {
      int at = warp + i * ATTN_WARPS, r = at / across * 16, c = at % across * 16;
      if (at < down * across && c < cols) t[i].store(s + r * ld + c, ld);
    }
  }
};

// pair i of a tile: its token and query head
__device__ static inline int pair_token(const attn &a, int t0, int i) { return t0 + i / a.heads; }
__device__ static inline int pair_head(const attn &a, int g, int part, int i) { return g * (a.H / a.G) + part * a.heads + i % a.heads; }
__device__ static inline int part_heads(const attn &a, int part) {
  int left = a.H / a.G - part * a.heads;
  return left < a.heads ? left : a.heads;
}
// whether pair i exists in a tile whose tokens end before t1
__device__ static inline bool pair_there(const attn &a, int t0, int t1, int part, int i) {
  return pair_token(a, t0, i) < t1 && i % a.heads < part_heads(a, part);
}

// s (M, ld): the pairs' rows of m (T, H D), zeros where there is none and beyond D
template <class T, int M> __device__ static inline void load_pairs(T *s, int ld, const tlk_mat &m, const attn &a, int t0, int t1, int g, int part) {
  for (int i = (int)threadIdx.x; i < M * a.depth; i += ATTN_THREADS) {
    int pair = i / a.depth, d = i % a.depth;
    bool there = d < a.D && pair_there(a, t0, t1, part, pair);
    s[pair * ld + d] = there ? ((const T *)m.p)[(size_t)pair_token(a, t0, pair) * m.ld + (size_t)pair_head(a, g, part, pair) * a.D + d] : from_float<T>(0);
  }
}

// s (N, ld): head g of the keys at positions j0 .. of the list, zeros from position `end` on and beyond D. Waits for the copies;
// the caller's barrier makes them seen.
template <class T, int N> __device__ static inline void load_keys(T *s, int ld, const tlk_mat &m, const attn &a, const int32_t *list, int j0, int end, int g) {
  enum { per = in_shared<T>::per_copy };
  const T *base = (const T *)m.p + (size_t)g * a.D;
  if (a.aligned) {
    int copies = a.depth / per;
    for (int i = (int)threadIdx.x; i < N * copies; i += ATTN_THREADS) {
      int key = i / copies, d = i % copies * per, valid = j0 + key < end ? a.D - d : 0;
      copy16(s + key * ld + d, base + (valid > 0 ? (size_t)list[j0 + key] * m.ld + d : 0), valid);
    }
    __pipeline_commit();
    __pipeline_wait_prior(0);
    return;
  }
  for (int i = (int)threadIdx.x; i < N * a.depth; i += ATTN_THREADS) {
    int key = i / a.depth, d = i % a.depth;
    s[key * ld + d] = j0 + key < end && d < a.D ? base[(size_t)list[j0 + key] * m.ld + d] : from_float<T>(0);
  }
}

// calls fn(M and DMAX as types) by dtype and head size; a head size beyond 256 ends the program
template <int N> struct constant { enum { value = N }; };
#endif

// linear.cu: frozen linear layers and their dX: y = x W^T + bias + B (R (A x)), dx = dy W + ((dy B) R) A; and the linears of one x
// together with what follows them: gate and up with silu(gate) up; q, k and v with their rotation and the write to the cache.
//
// Two ways to the same bits (gemm.cuh). With enough tiles for the device, a block sums all chunks of the reduction and finishes
// its tile: bias, low-rank term, conversion, storing. With fewer (decoding), a block sums one chunk and writes it to scratch; a
// second kernel adds the chunks in order and finishes. The low-rank term is two narrow products (lowrank.cu) whose result s
// (T, r) the finish multiplies with B's rows; rows without one (variant -1, R all zero) leave it out.
//
// Linears of one x are a group: one launch for the tiles of all. A finish makes items: numbers, pairs to rotate (i, i + D/2 of a
// head; heads of D divide a tile's 128 columns, so both are in it), or gates with their ups (a tile is then 64 columns of both
// weights). What it makes of them is what rope.cu and swiglu.cu make, after the rounding that storing would have done: same bits,
// and of 10 bytes a number that pass through memory (written, read, written) 2 are left.
#include "gemm.cuh"
#include <climits>
#include <cstdio>
#include <cstdlib>

enum { MOST = 3 };

template <class T> struct group {
  epilogue e[MOST];
  operands<T> p[MOST];
  int cols[MOST];                                // of the member's result
  int first_tile[MOST + 1], first_col[MOST + 1]; // in the launch and in scratch; the last: how many there are
  int n, T_;
  const int32_t *pos;                            // rotation of the members with e.D
  const float *table;
  tlk_mat h;                                     // gated: silu(member 0) member 1
  int gated, keep;                               // keep: y of both is stored
};

// element n of a member's row t, of whose product it has the sum
__device__ static inline float value(const epilogue &e, int t, int n, float v) {
  if (e.bias) v += e.bias[n];
  if (e.factor && e.active[t]) {
    float sum = 0;
    for (int a = 0; a < e.r; a++) sum = fmaf(e.factor[(size_t)n * e.fn + (size_t)a * e.fa], e.s[(size_t)t * e.r + a], sum);
    v += sum;
  }
  return v;
}

// item i of member m's row t; sum(m, n): element n of member m's product
template <class T, class Sum> __device__ static inline void finish(const group<T> &g, int m, int t, int i, Sum sum) {
  const epilogue &e = g.e[m];
  if (g.gated) {
    if (i >= g.cols[0]) return;
    float gate = as_stored(e.y.dtype, value(e, t, i, sum(0, i))), up = as_stored(g.e[1].y.dtype, value(g.e[1], t, i, sum(1, i)));
    if (g.keep) put(e.y, t, i, gate), put(g.e[1].y, t, i, up);
    put(g.h, t, i, swiglu(gate, up));
    return;
  }
  int to = e.out_rows ? e.out_rows[t] : t, half = e.D / 2, k = e.D ? i % half : 0, n = e.D ? i / half * e.D + k : i;
  if (n >= g.cols[m] || to < 0) return;
  float v = value(e, t, n, sum(m, n));
  if (e.D) {
    const float *cs = g.table + (size_t)g.pos[t] * e.D + 2 * k;
    float u = value(e, t, n + half, sum(m, n + half)), c = cs[0], s = cs[1];
    put(e.y, to, n, fmaf(v, c, -(u * s)));
    put(e.y, to, n + half, fmaf(u, c, v * s));
  } else {
    put(e.y, to, n, e.accumulate ? get(e.y, to, n) + v : v);
  }
}

// the member that a tile of the launch belongs to; *tile becomes its number there
template <class T> __device__ static inline int member_of(const group<T> &g, int *tile) {
  int m = 0;
  while (m + 1 < g.n && *tile >= g.first_tile[m + 1]) m++;
  *tile -= g.first_tile[m];
  return m;
}
template <class T> __device__ static inline int tile_items(const group<T> &g, int m) { return g.gated || g.e[m].D ? (int)HALF_TILE : (int)TILE_COLS; }

// The tile across and down that a block takes: blocks that run beside each other take eight tiles down of each across, so that what they
// read, of x and of W, is little and stays in L2.
__device__ static inline int near_tiles(int *down) {
  enum { DOWN = 8 };
  unsigned id = blockIdx.y * gridDim.x + blockIdx.x, first = id / (DOWN * gridDim.x) * DOWN, in = id - first * gridDim.x, n = min(gridDim.y - first, (unsigned)DOWN);
  *down = (int)(first + in % n);
  return (int)(in / n);
}

template <class T, int ROWS, bool TRANSPOSED>
__global__ static void __launch_bounds__(WARPS * 32, (gemm_tile<T, ROWS>::resident)) whole(const __grid_constant__ group<T> g) {
  typedef gemm_tile<T, ROWS> G;
  int down, tile = near_tiles(&down), m = member_of(g, &tile), t0 = down * ROWS, n0 = tile * (g.gated ? (int)HALF_TILE : (int)TILE_COLS), items = tile_items(g, m);
  const operands<T> p = g.p[m];
  typename G::sums total;
  gemm_loop<T, ROWS, TRANSPOSED>(total, p, t0, g.T_, n0, 0, TRANSPOSED ? p.N : p.K);
  const float *c = gemm_rows<T, ROWS>(total);
  for (int i = (int)threadIdx.x; i < ROWS * items; i += WARPS * 32) {
    int row = i / items, t = t0 + row;
    if (t < g.T_)
      finish(g, m, t, tile * items + i % items, [&](int of, int n) {
        return sum_value(g.p[of], t, n, c[row * G::ldc + n - n0 + (g.gated ? of * HALF_TILE : 0)]);
      });
  }
}

// part (chunks, T, columns of all members): chunk blockIdx.z alone; of bytes the int32 sums, so that adding chunks stays exact
template <class T, int ROWS, bool TRANSPOSED>
__global__ static void __launch_bounds__(WARPS * 32, (gemm_tile<T, ROWS>::resident)) one_chunk(float *part, const __grid_constant__ group<T> g) {
  typedef gemm_tile<T, ROWS> G;
  int tile = (int)blockIdx.x, m = member_of(g, &tile), t0 = (int)blockIdx.y * ROWS, n0 = tile * (g.gated ? (int)HALF_TILE : (int)TILE_COLS);
  const operands<T> p = g.p[m];
  int r0 = (int)blockIdx.z * CHUNK, R = TRANSPOSED ? p.N : p.K;
  typename G::sums total;
  gemm_loop<T, ROWS, TRANSPOSED, true>(total, p, t0, g.T_, n0, r0, r0 + CHUNK < R ? r0 + CHUNK : R);
  const float *c = gemm_rows<T, ROWS>(total);
  for (int i = (int)threadIdx.x; i < ROWS * TILE_COLS; i += WARPS * 32) {
    int t = t0 + i / TILE_COLS, col = i % TILE_COLS, of = g.gated ? col / HALF_TILE : m, n = n0 + (g.gated ? col % HALF_TILE : col);
    if (t < g.T_ && n < g.cols[of]) part[((size_t)blockIdx.z * g.T_ + t) * g.first_col[g.n] + g.first_col[of] + n] = c[i / TILE_COLS * G::ldc + col];
  }
}

// a thread an item of member blockIdx.z
template <class T> __global__ static void add_chunks(const __grid_constant__ group<T> g, const float *part, int chunks) {
  int m = (int)blockIdx.z, t = (int)blockIdx.y;
  finish(g, m, t, (int)(blockIdx.x * blockDim.x + threadIdx.x), [&](int of, int n) {
    float v = 0;
    int whole = 0;
    for (int i = 0; i < chunks; i++) {
      float c = part[((size_t)i * g.T_ + t) * g.first_col[g.n] + g.first_col[of] + n];
      if (sizeof(T) == 1) whole += __float_as_int(c);
      else v += c;
    }
    return sizeof(T) == 1 ? sum_value(g.p[of], t, n, __int_as_float(whole)) : v;
  });
}

// Of the sums of chunks that have blocks of their own: scratch grows by half, and 80 MiB are planned for it (lua/tl/memory.lua).
static const size_t CHUNKS_BYTES = (size_t)53 << 20;

// Chunks go to blocks of their own when tiles are too few, fewer than fill the device's multiprocessors, twice in tiles of 16 rows, and the
// sums fit.
template <class T, int ROWS, bool TRANSPOSED> static void run(const group<T> &g) {
  typedef gemm_tile<T, ROWS> G;
  int R = TRANSPOSED ? g.p[0].N : g.p[0].K, chunks = div_up(R, CHUNK), across = g.first_tile[g.n], down = div_up(g.T_, ROWS), widest = 0;
  if constexpr (ROWS == 16 || (ROWS == 64 && !TRANSPOSED))
    if (size_t bytes = sizeof(float) * (size_t)chunks * g.T_ * g.first_col[g.n];
        chunks > 1 && down * across < (ROWS == 16 ? 2 : 1) * n_multiprocessors() && bytes <= CHUNKS_BYTES) {
      float *part = (float *)scratch(SCRATCH_B, bytes);
      for (int m = 0; m < g.n; m++) widest = g.cols[m] > widest ? g.cols[m] : widest;
      launch(one_chunk<T, ROWS, TRANSPOSED>, dim3((unsigned)across, (unsigned)down, (unsigned)chunks), WARPS * 32, G::shared_bytes, part, g);
      launch(add_chunks<T>, dim3((unsigned)div_up(widest, 256), (unsigned)g.T_, g.gated ? 1 : (unsigned)g.n), 256, 0, g, (const float *)part, chunks);
      return;
    }
  launch(whole<T, ROWS, TRANSPOSED>, dim3((unsigned)across, (unsigned)down), WARPS * 32, G::shared_bytes, g);
}

template <class T> static void choose(const group<T> &g, bool transposed) {
  bool few = g.T_ <= 32, many = g.T_ >= 512;
  if constexpr (sizeof(T) == 1) {
    if (few) run<T, 16, false>(g);
    else run<T, 64, false>(g);
    return;
  } else {
    if constexpr (sizeof(T) == 2)
      if (many) return transposed ? run<T, 128, true>(g) : run<T, 128, false>(g);
    if (transposed) few ? run<T, 16, true>(g) : run<T, 64, true>(g);
    else few ? run<T, 16, false>(g) : run<T, 64, false>(g);
  }
}

// What a group is made of on the host: weights of one compute dtype and reduction, with an epilogue each.
struct members {
  epilogue e[MOST];
  const tlk_packed *w[MOST];
  int n;
  const int32_t *pos;
  const float *table;
  tlk_mat h;
  bool gated, keep;
};

template <class T> static void start(const members &m, tlk_mat x, int T_, bool transposed) {
  group<T> g = {};
  g.n = m.n, g.T_ = T_, g.pos = m.pos, g.table = m.table, g.h = m.h, g.gated = m.gated, g.keep = m.keep;
  for (int i = 0; i < m.n; i++) {
    g.e[i] = m.e[i];
    g.p[i] = operands_of<T>(x, m.w[i]);
    g.cols[i] = transposed ? m.w[i]->K : m.w[i]->N;
    g.first_tile[i + 1] = g.first_tile[i] + div_up(g.cols[i], TILE_COLS);
    g.first_col[i + 1] = g.first_col[i] + g.cols[i];
  }
  if (m.gated) {
    g.p[0].w2 = g.p[1].w;
    g.first_tile[1] = INT_MAX;  // all are the first member's
    g.first_tile[2] = div_up(g.cols[0], HALF_TILE);
  }
  choose(g, transposed);
}

static void start(const members &m, tlk_mat x, int T, bool transposed) {
  int compute = m.w[0]->compute;
  if (compute == TLK_I8 && transposed) fprintf(stderr, "tlrun: cuda: %s: int8 weights are for sampling: they have no gradients\n", current_op), abort();
  if (compute == TLK_I8) start<int8_t>(m, x, T, false);
  else if (compute == TLK_BF16) start<bf16>(m, x, T, transposed);
  else if (compute == TLK_F16) start<fp16>(m, x, T, transposed);
  else start<float>(m, x, T, transposed);
}

void product(epilogue e, tlk_mat x, const tlk_packed *w, int T, bool transposed) {
  members m = {};
  m.e[0] = e, m.w[0] = w, m.n = 1;
  start(m, x, T, transposed);
}

// z (or g) of the linears that have a low-rank term, and their terms into the epilogues, in SCRATCH_C; s NULL: only z
static void add_lowrank(epilogue *e, const tlk_linear *l, int n, tlk_mat x, int T, int K, bool transposed) {
  narrow terms[MOST];
  int count = 0;
  size_t bytes = 0;
  for (int i = 0; i < n; i++)
    if (l[i].lr) bytes += align_up(sizeof(float) * (size_t)T * l[i].lr->r, 256) + align_up(sizeof(int) * (size_t)T, 256);
  char *room = bytes && e ? (char *)scratch(SCRATCH_C, bytes) : nullptr;
  for (int i = 0; i < n; i++) {
    const tlk_lowrank *lr = l[i].lr;
    if (!lr) continue;
    narrow *t = &terms[count++];
    *t = {l[i].z, nullptr, nullptr, transposed ? lr->B : lr->A, lr};
    if (!e) continue;
    t->s = (float *)room, room += align_up(sizeof(float) * (size_t)T * lr->r, 256);
    t->active = (int *)room, room += align_up(sizeof(int) * (size_t)T, 256);
    e[i].s = t->s, e[i].active = t->active, e[i].r = lr->r;
    e[i].factor = transposed ? lr->A : lr->B;
    e[i].fn = transposed ? 1 : lr->r, e[i].fa = transposed ? K : 1;  // K: of the weight
  }
  if (!count) return;
  rows_dot(terms, count, x, T, transposed ? l[0].w->N : K, transposed);
  if (e) turn(terms, count, T, transposed);
}

// the linears of one x, all of one compute dtype
static void forward(members *m, const tlk_linear *l, int n, tlk_mat x, int T) {
  m->n = n;
  for (int i = 0; i < n; i++) m->w[i] = l[i].w, m->e[i].bias = l[i].bias;
  tlk_mat act = as_act(x, T, l[0].w->K, l[0].w->compute);
  add_lowrank(m->e, l, n, l[0].w->compute == TLK_I8 ? x : act, T, l[0].w->K, false);
  if (n == 1 && l[0].w->relaxed && library_product(m->e[0], act, l[0].w, T)) return;
  start(*m, act, T, false);
}

void cuda_linear_fwd(tlk_mat y, float *z, tlk_mat x, const tlk_packed *w, const float *bias, const tlk_lowrank *lr, int T, int accumulate) {
  OP("linear_fwd");
  if (T <= 0) return;
  tlk_linear l = {y, z, w, bias, lr};
  members m = {};
  m.e[0].y = y, m.e[0].accumulate = accumulate;
  forward(&m, &l, 1, x, T);
}

// how many linears from the first on can be a group; relaxed ones go to the library one by one
static int alike(const tlk_linear *l, int n) {
  int k = 1;
  while (k < n && k < MOST && l[k].w->compute == l[0].w->compute && !l[0].w->relaxed && !l[k].w->relaxed) k++;
  return k;
}

void cuda_linear_fwd_group(const tlk_linear *l, int n, tlk_mat x, int T) {
  OP("linear_fwd_group");
  for (int first = 0, k; first < n && T > 0; first += k) {
    k = alike(l + first, n - first);
    members m = {};
    for (int i = 0; i < k; i++) m.e[i].y = l[first + i].y;
    forward(&m, l + first, k, x, T);
  }
}

void cuda_linear_swiglu_fwd(tlk_mat h, const tlk_linear *gate_up, int keep, tlk_mat x, int T) {
  OP("linear_swiglu_fwd");
  if (T <= 0) return;
  if (alike(gate_up, 2) < 2) {
    cuda_linear_fwd_group(gate_up, 2, x, T);
    cuda_swiglu_fwd(h, gate_up[0].y, gate_up[1].y, T, gate_up[0].w->N);
    return;
  }
  members m = {};
  m.e[0].y = gate_up[0].y, m.e[1].y = gate_up[1].y, m.h = h, m.gated = true, m.keep = keep != 0;
  forward(&m, gate_up, 2, x, T);
}

void cuda_linear_rope_fwd(const tlk_rotated *r, int n, const int32_t *pos, const float *table, tlk_mat x, int T, int D) {
  OP("linear_rope_fwd");
  tlk_linear l[MOST];
  bool fits = n <= MOST;
  for (int i = 0; i < n && fits; i++) l[i] = r[i].linear, fits = !r[i].heads || (D % 2 == 0 && TILE_COLS % D == 0);
  if (fits && T > 0 && alike(l, n) == n) {
    members m = {};
    m.pos = pos, m.table = table;
    for (int i = 0; i < n; i++) m.e[i].y = r[i].y, m.e[i].out_rows = r[i].out_rows, m.e[i].D = r[i].heads ? D : 0;
    forward(&m, l, n, x, T);
    return;
  }
  for (int i = 0; i < n && T > 0; i++) {
    const tlk_linear &q = r[i].linear;
    cuda_linear_fwd(q.y, q.z, x, q.w, q.bias, q.lr, T, 0);
    if (r[i].heads) cuda_rope_fwd(r[i].y, r[i].out_rows, q.y, pos, table, T, r[i].heads, D);
    else cuda_cast(r[i].y, r[i].out_rows, q.y, T, q.w->N);
  }
}

void cuda_linear_bwd_x(tlk_mat dx, float *g, tlk_mat dy, const tlk_packed *w, const tlk_lowrank *lr, int T, int accumulate) {
  OP("linear_bwd_x");
  if (T <= 0) return;
  epilogue e = {};
  e.y = dx, e.accumulate = accumulate;
  dy = as_act(dy, T, w->N, w->compute);
  tlk_linear l = {dx, g, w, nullptr, lr};
  add_lowrank(dx.p ? &e : nullptr, &l, 1, dy, T, w->K, true);
  if (dx.p) product(e, dy, w, T, true);
}

void cuda_linear_bwd_swiglu(tlk_mat dgate, tlk_mat dup, tlk_mat dh, float *g, tlk_mat dy, const tlk_packed *w, const tlk_lowrank *lr,
                            tlk_mat gate, tlk_mat up, int T) {
  OP("linear_bwd_swiglu");
  cuda_linear_bwd_x(dh, g, dy, w, lr, T, 0);
  cuda_swiglu_bwd(dgate, dup, dh, gate, up, T, w->K);
}

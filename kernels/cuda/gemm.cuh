// gemm.cuh: products of tiles, for tensor cores (bf16, fp16) and for plain fp32, and the loop that the linears and the head share.
//
// Why own products instead of a library's: a row's bits must not depend on how many rows there are (the sampler's and the
// trainer's log-probabilities are the same bits). A library picks another kernel and another order of sums for another number
// of rows. Here every element sums over the reduction in one order, whatever the tile it lies in:
//     chunks of 512 along the reduction; within a chunk steps of 16 in rising order into one fp32 accumulator (one wmma
//     instruction a step); the chunks' sums added in order.
// Tile shapes (16, 64 or 128 rows) and whether chunks run one after another in a block or beside each other in several blocks
// (when there are too few tiles to fill the device, as in decoding) are chosen freely: neither changes a bit. That relies on one
// property of the hardware, which the batch test checks on the device it runs on: an element of a 16 x 16 x 16 wmma product
// depends on its row of A, its column of B and its C alone.
//
// Layout. A block has 8 warps and makes ROWS x 128 of y. Operands pass through shared memory in stages of 32 along the
// reduction, copied asynchronously 16 bytes at a time (weights always; x when it is aligned, else element by element); rows in
// shared memory are padded by 16 bytes, so that a fragment's rows fall into different banks.
#ifndef TL_CUDA_GEMM_CUH
#define TL_CUDA_GEMM_CUH
#include "cuda.cuh"
#include <cuda_pipeline.h>
#include <mma.h>

// A fragment from shared memory, ld elements a row. nvcc (13.0) forgets of bf16 pointers that they are to shared memory, and loads number by
// number through generic addresses where fp16 gets ldmatrix; so the instruction is written out (PTX ISA, wmma.load). The same values.
template <class F, class T> __device__ static inline void load_tile(F &f, const T *p, unsigned ld) { nvcuda::wmma::load_matrix_sync(f, p, ld); }
#ifdef __CUDA_ARCH__
#define TLK_LOAD_TILE(use, layout, instruction)                                                                                        \
  __device__ static inline void load_tile(nvcuda::wmma::fragment<nvcuda::wmma::use, 16, 16, 16, bf16, nvcuda::wmma::layout> &f,        \
                                          const bf16 *p, unsigned ld) {                                                                \
    unsigned *r = (unsigned *)&f.x[0];                                                                                                 \
    asm volatile("wmma.load." instruction ".m16n16k16.shared.bf16 {%0, %1, %2, %3}, [%4], %5;"                                         \
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])                                                                      \
                 : "r"((unsigned)__cvta_generic_to_shared(p)), "r"(ld)                                                                 \
                 : "memory");                                                                                                          \
  }
TLK_LOAD_TILE(matrix_a, row_major, "a.sync.aligned.row")
TLK_LOAD_TILE(matrix_a, col_major, "a.sync.aligned.col")
TLK_LOAD_TILE(matrix_b, row_major, "b.sync.aligned.row")
TLK_LOAD_TILE(matrix_b, col_major, "b.sync.aligned.col")
#undef TLK_LOAD_TILE
#endif

// MI x NJ tiles of 16 x 16, one warp's accumulators; T bf16 or fp16, and, below, fp32 and bytes
template <class T, int MI, int NJ> struct tiles {
  nvcuda::wmma::fragment<nvcuda::wmma::accumulator, 16, 16, 16, float> c[MI][NJ];

  __device__ void zero() {
#pragma unroll
    for (int i = 0; i < MI; i++)
#pragma unroll
      for (int j = 0; j < NJ; j++) nvcuda::wmma::fill_fragment(c[i][j], 0.0f);
  }
  __device__ void add(const tiles &b) {
#pragma unroll
    for (int i = 0; i < MI; i++)
#pragma unroll
      for (int j = 0; j < NJ; j++)
#pragma unroll
        for (int e = 0; e < c[i][j].num_elements; e++) c[i][j].x[e] += b.c[i][j].x[e];
  }
  // += A B over 16 of the reduction. A (16 MI, 16): row-major, or stored as its transpose when A_T; B (16, 16 NJ): stored as its
  // transpose (16 NJ rows of 16), or row-major when B_ROWS.
  template <bool A_T, bool B_ROWS> __device__ void mac(const T *a, int lda, const T *b, int ldb) {
    using namespace nvcuda::wmma;
    typedef typename std::conditional<A_T, col_major, row_major>::type a_layout;
    typedef typename std::conditional<B_ROWS, row_major, col_major>::type b_layout;
    fragment<matrix_a, 16, 16, 16, T, a_layout> fa[MI];
#pragma unroll
    for (int i = 0; i < MI; i++) load_tile(fa[i], a + (A_T ? i * 16 : i * 16 * lda), (unsigned)lda);
#pragma unroll
    for (int j = 0; j < NJ; j++) {
      fragment<matrix_b, 16, 16, 16, T, b_layout> fb;
      load_tile(fb, b + (B_ROWS ? j * 16 : j * 16 * ldb), (unsigned)ldb);
#pragma unroll
      for (int i = 0; i < MI; i++) mma_sync(c[i][j], fa[i], fb, c[i][j]);
    }
  }
  __device__ void store(float *s, int ld) const {
#pragma unroll
    for (int i = 0; i < MI; i++)
#pragma unroll
      for (int j = 0; j < NJ; j++) nvcuda::wmma::store_matrix_sync(s + i * 16 * ld + j * 16, c[i][j], (unsigned)ld, nvcuda::wmma::mem_row_major);
  }
};

// the same in fp32: lane l holds row l / 2 and columns (l % 2) 8 .. + 8 of every tile
template <int MI, int NJ> struct tiles<float, MI, NJ> {
  float c[MI][NJ][8];

  __device__ void zero() {
#pragma unroll
    for (int i = 0; i < MI; i++)
#pragma unroll
      for (int j = 0; j < NJ; j++)
#pragma unroll
        for (int e = 0; e < 8; e++) c[i][j][e] = 0;
  }
  __device__ void add(const tiles &b) {
#pragma unroll
    for (int i = 0; i < MI; i++)
#pragma unroll
      for (int j = 0; j < NJ; j++)
#pragma unroll
        for (int e = 0; e < 8; e++) c[i][j][e] += b.c[i][j][e];
  }
  template <bool A_T, bool B_ROWS> __device__ void mac(const float *a, int lda, const float *b, int ldb) {
    int lane = (int)threadIdx.x % 32, row = lane / 2, col = lane % 2 * 8;
    for (int k = 0; k < 16; k++)
#pragma unroll
      for (int i = 0; i < MI; i++) {
        float x = A_T ? a[k * lda + i * 16 + row] : a[(i * 16 + row) * lda + k];
#pragma unroll
        for (int j = 0; j < NJ; j++)
#pragma unroll
          for (int e = 0; e < 8; e++) {
            int n = j * 16 + col + e;
            c[i][j][e] = fmaf(x, B_ROWS ? b[k * ldb + n] : b[n * ldb + k], c[i][j][e]);
          }
      }
  }
  __device__ void store(float *s, int ld) const {
    int lane = (int)threadIdx.x % 32, row = lane / 2, col = lane % 2 * 8;
#pragma unroll
    for (int i = 0; i < MI; i++)
#pragma unroll
      for (int j = 0; j < NJ; j++)
#pragma unroll
        for (int e = 0; e < 8; e++) s[(i * 16 + row) * ld + j * 16 + col + e] = c[i][j][e];
  }
};

// the same of bytes: int32 sums. Operands lie in shared memory in blocks of 16 of the reduction, 16 bytes a row, so that every
// fragment is 256 bytes in a row, aligned as fragments must be.
template <int MI, int NJ> struct tiles<int8_t, MI, NJ> {
  nvcuda::wmma::fragment<nvcuda::wmma::accumulator, 16, 16, 16, int> c[MI][NJ];

  __device__ void zero() {
#pragma unroll
    for (int i = 0; i < MI; i++)
#pragma unroll
      for (int j = 0; j < NJ; j++) nvcuda::wmma::fill_fragment(c[i][j], 0);
  }
  // += A B over 16 of the reduction; a (16 MI, 16), b (16 NJ, 16)
  __device__ void mac(const int8_t *a, const int8_t *b) {
    using namespace nvcuda::wmma;
    fragment<matrix_a, 16, 16, 16, signed char, row_major> fa[MI];
#pragma unroll
    for (int i = 0; i < MI; i++) load_matrix_sync(fa[i], a + i * 256, 16u);
#pragma unroll
    for (int j = 0; j < NJ; j++) {
      fragment<matrix_b, 16, 16, 16, signed char, col_major> fb;
      load_matrix_sync(fb, b + j * 256, 16u);
#pragma unroll
      for (int i = 0; i < MI; i++) mma_sync(c[i][j], fa[i], fb, c[i][j]);
    }
  }
  // the sums' bits
  __device__ void store(float *s, int ld) const {
#pragma unroll
    for (int i = 0; i < MI; i++)
#pragma unroll
      for (int j = 0; j < NJ; j++) nvcuda::wmma::store_matrix_sync((int *)s + i * 16 * ld + j * 16, c[i][j], (unsigned)ld, nvcuda::wmma::mem_row_major);
  }
};

enum { TILE_COLS = 128, STEP = 32, BYTE_STEP = 64, CHUNK = 512, WARPS = 8 };
template <class T> struct in_shared { enum { pad = 16 / sizeof(T), per_copy = 16 / sizeof(T) }; };

// One ROWS x 128 tile of a product. The 8 warps stand 1 x 8 (16 rows) or 2 x 4.
template <class T, int ROWS> struct gemm_tile {
  enum {
    warps_down = ROWS == 16 ? 1 : 2,
    warps_across = WARPS / warps_down,
    MI = ROWS / 16 / warps_down,
    NJ = TILE_COLS / 16 / warps_across,
    lda = STEP + in_shared<T>::pad,
    ldb_rows = TILE_COLS + in_shared<T>::pad,
    stages = sizeof(T) == 4 ? 2 : ROWS == 16 ? 4 : 3,
    a_elements = ROWS * lda,
    b_elements = TILE_COLS * lda > STEP * ldb_rows ? TILE_COLS * lda : STEP * ldb_rows,
    stage_elements = a_elements + b_elements,
    ldc = TILE_COLS + 4,
    resident = ROWS == 128 ? 1 : ROWS == 16 && sizeof(T) == 2 ? 3 : 2,  // blocks a multiprocessor is to hold: what ptxas divides the registers by
    c_bytes = ROWS * ldc * 4,
    shared_bytes = stages * stage_elements * sizeof(T) > (size_t)c_bytes ? stages * stage_elements * sizeof(T) : (size_t)c_bytes
  };
  typedef tiles<T, MI, NJ> sums;
};

template <int ROWS> struct gemm_tile<int8_t, ROWS> {
  enum {
    warps_down = ROWS == 16 ? 1 : 2,
    warps_across = WARPS / warps_down,
    MI = ROWS / 16 / warps_down,
    NJ = TILE_COLS / 16 / warps_across,
    stages = ROWS == 16 ? 4 : 3,
    a_elements = ROWS * BYTE_STEP,
    stage_elements = (ROWS + TILE_COLS) * BYTE_STEP,
    ldc = TILE_COLS + 4,
    resident = 2,
    c_bytes = ROWS * ldc * 4,
    shared_bytes = (int)stages * (int)stage_elements > (int)c_bytes ? (int)stages * (int)stage_elements : (int)c_bytes
  };
  typedef tiles<int8_t, MI, NJ> sums;
};

template <class T> struct operands {
  const T *x;       // (rows, ldx): left operand
  int ldx, aligned; // aligned: 16-byte copies are possible
  const T *w;       // packed weight
  int ldw, N, K;    // of the packed weight: (N, K)
  const T *w2;      // a second one of the same shape, or NULL: a tile is then 64 columns of W and the same 64 of W2
};
enum { HALF_TILE = TILE_COLS / 2 };

// row `row` of a tile's 128 of W (and W2): where it begins; NULL: there is none. n0: of the tile's first
template <class T> __device__ static inline const T *weight_row(const operands<T> &p, int n0, int row) {
  bool second = p.w2 && row >= HALF_TILE;
  int n = n0 + (second ? row - HALF_TILE : row);
  return n < p.N ? (second ? p.w2 : p.w) + (size_t)n * p.ldw : nullptr;
}

// 16 bytes of a row into shared memory: `valid` elements of them, the rest zeros
template <class T> __device__ static inline void copy16(T *to, const T *from, int valid) {
  enum { n = in_shared<T>::per_copy };
  valid = valid < 0 ? 0 : valid > n ? n : valid;
#ifdef __CUDA_ARCH__  // the intrinsic with a number of zeros known at run time becomes a branch for each number
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"((unsigned)__cvta_generic_to_shared(to)), "l"(from), "r"(valid * (int)sizeof(T)) : "memory");
#else
  __pipeline_memcpy_async(to, from, 16, (size_t)(n - valid) * sizeof(T));
#endif
}

// stage `step` of the reduction: rows t0 .. of x, columns n0 .. of the result
// (not unrolled: the addresses of all copies at once are registers that the accumulators want)
template <class T, int ROWS, bool TRANSPOSED>
__device__ static inline void load_stage(T *a, T *b, const operands<T> &p, int t0, int T_, int n0, int r0, int R) {
  typedef gemm_tile<T, ROWS> G;
  enum { per = in_shared<T>::per_copy, threads = WARPS * 32 };
  int tid = (int)threadIdx.x;
  if (p.aligned) {
#pragma unroll 1
    for (int i = tid; i < ROWS * (STEP / per); i += threads) {
      int row = i / (STEP / per), c = i % (STEP / per) * per, t = t0 + row;
      int valid = t < T_ ? R - r0 - c : 0;
      copy16(a + row * G::lda + c, p.x + (valid > 0 ? (size_t)t * p.ldx + r0 + c : 0), valid);
    }
  } else {
#pragma unroll 1
    for (int i = tid; i < ROWS * STEP; i += threads) {
      int row = i / STEP, c = i % STEP, t = t0 + row;
      a[row * G::lda + c] = t < T_ && r0 + c < R ? p.x[(size_t)t * p.ldx + r0 + c] : from_float<T>(0);
    }
  }
  if (TRANSPOSED) {  // reduction over N: 32 rows of W, 128 of its columns
    for (int i = tid; i < STEP * (TILE_COLS / per); i += threads) {
      int row = i / (TILE_COLS / per), c = i % (TILE_COLS / per) * per, n = r0 + row, k = n0 + c;
      int valid = n < p.N ? p.ldw - k : 0;
      copy16(b + row * G::ldb_rows + c, p.w + (valid > 0 ? (size_t)n * p.ldw + k : 0), valid);
    }
  } else {  // reduction over K: 128 rows of W, 32 of its columns (padded with zeros to a multiple of 32)
#pragma unroll 1
    for (int i = tid; i < TILE_COLS * (STEP / per); i += threads) {
      int row = i / (STEP / per), c = i % (STEP / per) * per, k = r0 + c;
      const T *from = weight_row(p, n0, row);
      int valid = from ? p.ldw - k : 0;
      copy16(b + row * G::lda + c, valid > 0 ? from + k : p.w, valid);
    }
  }
  __pipeline_commit();
}

// bytes: 64 of the reduction, of x and of W alike
template <int ROWS> __device__ static inline void load_bytes(int8_t *a, const operands<int8_t> &p, int t0, int T_, int n0, int r0) {
  int8_t *b = a + gemm_tile<int8_t, ROWS>::a_elements;
  for (int i = (int)threadIdx.x; i < (ROWS + TILE_COLS) * (BYTE_STEP / 16); i += WARPS * 32) {
    int c = i % (BYTE_STEP / 16), row = i / (BYTE_STEP / 16), n = row - ROWS, k = r0 + 16 * c;
    bool left = row < ROWS;
    const int8_t *from = !left ? weight_row(p, n0, n) : t0 + row < T_ ? p.x + (size_t)(t0 + row) * p.ldx : nullptr;
    bool there = from && k < p.ldw - SCALE_ROOM;
    copy16(left ? a + (c * ROWS + row) * 16 : b + (c * TILE_COLS + n) * 16, there ? from + k : p.w, there ? 16 : 0);
  }
  __pipeline_commit();
}

template <int ROWS>
__device__ static inline void bytes_loop(typename gemm_tile<int8_t, ROWS>::sums &total, const operands<int8_t> &p, int t0, int T_, int n0, int r_first, int r_last) {
  typedef gemm_tile<int8_t, ROWS> G;
  int8_t *shared = (int8_t *)tlk_shared;
  int steps = (r_last - r_first + BYTE_STEP - 1) / BYTE_STEP, warp = (int)threadIdx.x / 32, down = warp / G::warps_across, across = warp % G::warps_across;
  total.zero();
  for (int s = 0; s < G::stages - 1; s++) {
    if (s < steps) load_bytes<ROWS>(shared + s * G::stage_elements, p, t0, T_, n0, r_first + s * BYTE_STEP);
    else __pipeline_commit();
  }
  for (int s = 0; s < steps; s++) {
    __pipeline_wait_prior(G::stages - 2);
    __syncthreads();  // as in gemm_loop
    int next = s + G::stages - 1;
    if (next < steps) load_bytes<ROWS>(shared + next % G::stages * G::stage_elements, p, t0, T_, n0, r_first + next * BYTE_STEP);
    else __pipeline_commit();
    const int8_t *a = shared + s % G::stages * G::stage_elements, *b = a + G::a_elements;
#pragma unroll
    for (int c = 0; c < BYTE_STEP / 16; c++)
      total.mac(a + (c * ROWS + down * G::MI * 16) * 16, b + (c * TILE_COLS + across * G::NJ * 16) * 16);
  }
  __pipeline_wait_prior(0);
  __syncthreads();
}

// sums of the reduction r_first .. r_last (whole chunks but for the last) for the tile at (t0, n0); ONE_CHUNK: it is one chunk, so its
// steps sum into total itself
template <class T, int ROWS, bool TRANSPOSED, bool ONE_CHUNK = false>
__device__ static inline void gemm_loop(typename gemm_tile<T, ROWS>::sums &total, const operands<T> &p, int t0, int T_, int n0, int r_first, int r_last) {
  if constexpr (sizeof(T) == 1) {
    bytes_loop<ROWS>(total, p, t0, T_, n0, r_first, r_last);
  } else {
    typedef gemm_tile<T, ROWS> G;
    T *shared = (T *)tlk_shared;
    int R = TRANSPOSED ? p.N : p.K, steps = (r_last - r_first + STEP - 1) / STEP;
    int warp = (int)threadIdx.x / 32, down = warp / G::warps_across, across = warp % G::warps_across;
    typename G::sums part, &sums = ONE_CHUNK ? total : part;
    total.zero();
    part.zero();
    for (int s = 0; s < G::stages - 1; s++) {
      T *at = shared + s * G::stage_elements;
      if (s < steps) load_stage<T, ROWS, TRANSPOSED>(at, at + G::a_elements, p, t0, T_, n0, r_first + s * STEP, R);
      else __pipeline_commit();
    }
    for (int s = 0; s < steps; s++) {
      __pipeline_wait_prior(G::stages - 2);
      __syncthreads();  // stage s is there for all, and all have left the stage that is filled next
      int next = s + G::stages - 1;
      T *fill = shared + next % G::stages * G::stage_elements;
      if (next < steps) load_stage<T, ROWS, TRANSPOSED>(fill, fill + G::a_elements, p, t0, T_, n0, r_first + next * STEP, R);
      else __pipeline_commit();
      const T *a = shared + s % G::stages * G::stage_elements + down * G::MI * 16 * G::lda, *b = shared + s % G::stages * G::stage_elements + G::a_elements;
#pragma unroll
      for (int k = 0; k < STEP; k += 16) {
        if (TRANSPOSED) sums.template mac<false, true>(a + k, G::lda, b + k * G::ldb_rows + across * G::NJ * 16, G::ldb_rows);
        else sums.template mac<false, false>(a + k, G::lda, b + across * G::NJ * 16 * G::lda + k, G::lda);
      }
      if (!ONE_CHUNK && ((s + 1) % (CHUNK / STEP) == 0 || s + 1 == steps)) {
        total.add(part);
        part.zero();
      }
    }
    __pipeline_wait_prior(0);
    __syncthreads();  // shared memory is free
  }
}

// the tile's sums as fp32 rows in shared memory, ld gemm_tile::ldc; ends with a barrier
template <class T, int ROWS> __device__ static inline float *gemm_rows(const typename gemm_tile<T, ROWS>::sums &total) {
  typedef gemm_tile<T, ROWS> G;
  float *c = (float *)tlk_shared;
  int warp = (int)threadIdx.x / 32, down = warp / G::warps_across, across = warp % G::warps_across;
  total.store(c + down * G::MI * 16 * G::ldc + across * G::NJ * 16, G::ldc);
  __syncthreads();
  return c;
}

// what a stored sum is worth
template <class T> __device__ static inline float sum_value(const operands<T> &p, int t, int n, float c) {
  if constexpr (sizeof(T) == 1) return (float)__float_as_int(c) * (row_scale(p.x, p.ldx, t) * row_scale(p.w, p.ldw, n));
  else return c;
}

template <class T> static inline operands<T> operands_of(tlk_mat x, const tlk_packed *w) {
  bool aligned = (uintptr_t)x.p % 16 == 0 && (size_t)x.ld * sizeof(T) % 16 == 0;
  return {(const T *)x.p, x.ld, aligned, (const T *)w->data, w->ld, w->N, w->K, nullptr};
}
#endif

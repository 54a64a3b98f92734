// mma.h (cusim): warp matrix fragments, the form kernels/cuda uses: 16 x 16 x 16, bf16 or half operands and fp32
// accumulators, or bytes and int32.
//
// Which element lies in which lane is unspecified in CUDA; here it is scrambled, so that code that assumes a layout fails.
// What CUDA demands is checked: every lane takes part, pointers are aligned to 32 bytes, strides are multiples of 16 bytes.
#ifndef CUSIM_MMA_H
#define CUSIM_MMA_H
#include "cuda_bf16.h"
#include "cuda_fp16.h"

namespace nvcuda {
namespace wmma {
struct row_major {};
struct col_major {};
struct matrix_a {};
struct matrix_b {};
struct accumulator {};
enum layout_t { mem_row_major, mem_col_major };

template <class Use, int m, int n, int k, class T, class Layout = void>
struct fragment {
  static_assert(m == 16 && n == 16 && k == 16, "cusim has the 16 x 16 x 16 form");
  enum { num_elements = 8 };
  T x[8];
};

// element e of lane l holds matrix element (cell / 16, cell % 16)
static inline int cusim_cell(int lane, int e, int salt) { return ((lane * 8 + e) * salt + 29) & 255; }
enum { cusim_salt_a = 37, cusim_salt_b = 91, cusim_salt_c = 149 };
template <class Use> struct cusim_salt;
template <> struct cusim_salt<matrix_a> { enum { value = cusim_salt_a }; };
template <> struct cusim_salt<matrix_b> { enum { value = cusim_salt_b }; };
template <> struct cusim_salt<accumulator> { enum { value = cusim_salt_c }; };

int cusim_lane();
void cusim_check_tile(const void *p, size_t element, unsigned ld);  // alignment and stride; all lanes arrive
void cusim_mma_bytes(int *d, const signed char *a, const signed char *b, const int *c);
void cusim_mma(float *d, const void *a, const void *b, const float *c, int half);  // the warp's product

template <class Use, int m, int n, int k, class T, class L>
void fill_fragment(fragment<Use, m, n, k, T, L> &f, T v) {
  for (int e = 0; e < 8; e++) f.x[e] = v;
}

template <class Use, int m, int n, int k, class T, class L>
void load_matrix_sync(fragment<Use, m, n, k, T, L> &f, const T *p, unsigned ld) {
  cusim_check_tile(p, sizeof(T), ld);
  for (int e = 0, lane = cusim_lane(); e < 8; e++) {
    int cell = cusim_cell(lane, e, cusim_salt<Use>::value), r = cell / 16, c = cell % 16;
    f.x[e] = std::is_same<L, row_major>::value ? p[(size_t)r * ld + c] : p[(size_t)c * ld + r];
  }
}

template <int m, int n, int k, class T>
void load_matrix_sync(fragment<accumulator, m, n, k, T> &f, const T *p, unsigned ld, layout_t layout) {
  cusim_check_tile(p, 4, ld);
  for (int e = 0, lane = cusim_lane(); e < 8; e++) {
    int cell = cusim_cell(lane, e, cusim_salt_c), r = cell / 16, c = cell % 16;
    f.x[e] = layout == mem_row_major ? p[(size_t)r * ld + c] : p[(size_t)c * ld + r];
  }
}

template <int m, int n, int k, class T>
void store_matrix_sync(T *p, const fragment<accumulator, m, n, k, T> &f, unsigned ld, layout_t layout) {
  cusim_check_tile(p, 4, ld);
  for (int e = 0, lane = cusim_lane(); e < 8; e++) {
    int cell = cusim_cell(lane, e, cusim_salt_c), r = cell / 16, c = cell % 16;
    p[layout == mem_row_major ? (size_t)r * ld + c : (size_t)c * ld + r] = f.x[e];
  }
}

template <int m, int n, int k, class T, class LA, class LB>
void mma_sync(fragment<accumulator, m, n, k, float> &d, const fragment<matrix_a, m, n, k, T, LA> &a,
              const fragment<matrix_b, m, n, k, T, LB> &b, const fragment<accumulator, m, n, k, float> &c) {
  static_assert(sizeof(T) == 2, "operands of 2 bytes");
  cusim_mma(d.x, a.x, b.x, c.x, std::is_same<T, __half>::value);
}
template <int m, int n, int k, class LA, class LB>
void mma_sync(fragment<accumulator, m, n, k, int> &d, const fragment<matrix_a, m, n, k, signed char, LA> &a,
              const fragment<matrix_b, m, n, k, signed char, LB> &b, const fragment<accumulator, m, n, k, int> &c) {
  cusim_mma_bytes(d.x, a.x, b.x, c.x);
}
}  // namespace wmma
}  // namespace nvcuda
#endif

// tensor.c: small dense tensors for Lua code: experiments, tests, a look at an adapter's update. The model's own passes do not
// use them; they have their arenas and kernels.
//
// A tensor is a view: dims, strides and an offset into a storage that is reference-counted, so that a slice or a transpose
// copies nothing and stays valid when the tensor it came from is freed. Every loop here walks 4 dims (missing ones are 1, in
// front), computes in double and rounds once to the dtype of the output. matmul alone is BLAS, in fp32.
//
// Memory: one block for the storage, one for each view; nothing else outlives a call.
#include "../base/base.h"
#include <cblas.h>
#include <math.h>

enum { MAX_DIMS = 4 };

typedef struct storage {
  int refs;
  int64_t n;
  uint8_t *data;
} storage;

struct tl_tensor {
  storage *s;
  tl_dtype dtype;
  int n_dims;
  int64_t dims[MAX_DIMS], strides[MAX_DIMS], offset;
};

// ---- elements

static double load(const uint8_t *data, tl_dtype dtype, int64_t i) {
  switch (dtype) {
  case TL_F32: return ((const float *)data)[i];
  case TL_BF16: return tl_bf16_to_f32(((const uint16_t *)data)[i]);
  case TL_F16: return tl_f16_to_f32(((const uint16_t *)data)[i]);
  default: return ((const int32_t *)data)[i];
  }
}

static int32_t to_i32(double v) { return v != v ? 0 : v >= INT32_MAX ? INT32_MAX : v <= INT32_MIN ? INT32_MIN : (int32_t)nearbyint(v); }

static void store(uint8_t *data, tl_dtype dtype, int64_t i, double v) {
  switch (dtype) {
  case TL_F32: ((float *)data)[i] = (float)v; break;
  case TL_BF16: ((uint16_t *)data)[i] = tl_f32_to_bf16((float)v); break;
  case TL_F16: ((uint16_t *)data)[i] = tl_f32_to_f16((float)v); break;
  default: ((int32_t *)data)[i] = to_i32(v); break;
  }
}

// ---- walking: a view's dims and strides, padded in front to 4
typedef struct walk {
  int64_t dims[MAX_DIMS], strides[MAX_DIMS], offset;
  uint8_t *data;
  tl_dtype dtype;
} walk;

static walk walk_of(const tl_tensor *t) {
  walk w = {.dims = {1, 1, 1, 1}, .offset = t->offset, .data = t->s->data, .dtype = t->dtype};
  for (int i = 0; i < t->n_dims; i++) {
    w.dims[MAX_DIMS - t->n_dims + i] = t->dims[i];
    w.strides[MAX_DIMS - t->n_dims + i] = t->strides[i];
  }
  return w;
}

static int64_t at(const walk *w, const int64_t *i) {
  return w->offset + i[0] * w->strides[0] + i[1] * w->strides[1] + i[2] * w->strides[2] + i[3] * w->strides[3];
}

#define EACH(w, i)                                        \
  for (int64_t i[MAX_DIMS] = {0}; i[0] < (w).dims[0]; i[0]++) \
    for (i[1] = 0; i[1] < (w).dims[1]; i[1]++)            \
      for (i[2] = 0; i[2] < (w).dims[2]; i[2]++)          \
        for (i[3] = 0; i[3] < (w).dims[3]; i[3]++)

static int64_t count(const tl_tensor *t) {
  int64_t n = 1;
  for (int i = 0; i < t->n_dims; i++) n *= t->dims[i];
  return n;
}

static void shape_text(const tl_tensor *t, char *out, size_t n) {
  size_t used = (size_t)snprintf(out, n, "(");
  for (int i = 0; i < t->n_dims && used < n; i++)
    used += (size_t)snprintf(out + used, n - used, "%s%lld", i ? ", " : "", (long long)t->dims[i]);
  if (used < n) snprintf(out + used, n - used, ")");
}

static tl_status shapes_differ(const char *what, const tl_tensor *a, const tl_tensor *b) {
  char x[96], y[96];
  shape_text(a, x, sizeof x);
  shape_text(b, y, sizeof y);
  return tl_fail(TL_E_SHAPE, "%s: the shapes %s and %s do not fit", what, x, y);
}

static bool same_dims(const tl_tensor *a, const tl_tensor *b) {
  return a->n_dims == b->n_dims && memcmp(a->dims, b->dims, sizeof a->dims[0] * (size_t)a->n_dims) == 0;
}

// ---- making and freeing

static bool is_contiguous(const tl_tensor *t) {
  int64_t expected = 1;
  for (int i = t->n_dims - 1; i >= 0; i--) {
    if (t->dims[i] != 1 && t->strides[i] != expected) return false;
    expected *= t->dims[i];
  }
  return true;
}

static void set_dims(tl_tensor *t, int n_dims, const int64_t *dims) {
  t->n_dims = n_dims;
  int64_t stride = 1;
  for (int i = n_dims - 1; i >= 0; i--) {
    t->dims[i] = dims[i];
    t->strides[i] = stride;
    stride *= dims[i];
  }
}

static tl_status check_dims(int n_dims, const int64_t *dims, int64_t *n) {
  if (n_dims < 1 || n_dims > MAX_DIMS) return tl_fail(TL_E_ARG, "a tensor has 1 to %d dims, not %d", MAX_DIMS, n_dims);
  *n = 1;
  for (int i = 0; i < n_dims; i++) {
    if (dims[i] < 1) return tl_fail(TL_E_ARG, "dim %d of a tensor is %lld; it must be at least 1", i + 1, (long long)dims[i]);
    if (__builtin_mul_overflow(*n, dims[i], n) || *n > INT64_MAX / 8) return tl_fail(TL_E_ARG, "a tensor of too many elements");
  }
  return TL_OK;
}

tl_status tl_tensor_create(tl_dtype dtype, int n_dims, const int64_t *dims, const char *device, tl_tensor **out) {
  *out = NULL;
  int64_t n;
  TL_TRY(check_dims(n_dims, dims, &n));
  if ((int)dtype < TL_F32 || (int)dtype > TL_I32) return tl_fail(TL_E_ARG, "unknown dtype %d of a tensor", (int)dtype);
  if (device && strcmp(device, "cpu") != 0) return tl_fail(TL_E_UNSUPPORTED, "tensors live on the device 'cpu', not '%s'", device);
  tl_tensor *t = calloc(1, sizeof *t);
  storage *s = calloc(1, sizeof *s);
  size_t bytes = (size_t)n * tlk_dtype_size((int)dtype);
  if (s) s->data = tl_aligned_alloc(bytes);
  if (!t || !s || !s->data) {
    if (s) free(s->data);
    free(s);
    free(t);
    return tl_fail(TL_E_MEMORY, "out of memory: a tensor of %zu bytes", bytes);
  }
  memset(s->data, 0, bytes);
  s->refs = 1;
  s->n = n;
  t->s = s;
  t->dtype = dtype;
  set_dims(t, n_dims, dims);
  *out = t;
  return TL_OK;
}

void tl_tensor_free(tl_tensor *t) {
  if (!t) return;
  if (__atomic_sub_fetch(&t->s->refs, 1, __ATOMIC_ACQ_REL) == 0) {
    free(t->s->data);
    free(t->s);
  }
  free(t);
}

void tl_tensor_get_info(const tl_tensor *t, tl_tensor_info *out) {
  *out = (tl_tensor_info){.dtype = t->dtype, .n_dims = t->n_dims, .offset = t->offset, .device = "cpu", .contiguous = is_contiguous(t)};
  memcpy(out->dims, t->dims, sizeof t->dims);
  memcpy(out->strides, t->strides, sizeof t->strides);
}

void *tl_tensor_data(tl_tensor *t) { return t->s->data + (size_t)t->offset * tlk_dtype_size((int)t->dtype); }

// ---- views

static tl_status view_of(tl_tensor *t, tl_tensor **out) {
  *out = malloc(sizeof **out);
  if (!*out) return tl_fail(TL_E_MEMORY, "out of memory: a view");
  **out = *t;
  __atomic_add_fetch(&t->s->refs, 1, __ATOMIC_RELAXED);
  return TL_OK;
}

static tl_status check_dim(const tl_tensor *t, int dim) {
  return dim >= 0 && dim < t->n_dims ? TL_OK : tl_fail(TL_E_ARG, "dim %d of a tensor with %d dims", dim + 1, t->n_dims);
}

tl_status tl_tensor_slice(tl_tensor *t, int dim, int64_t start, int64_t stop, tl_tensor **out) {
  *out = NULL;
  TL_TRY(check_dim(t, dim));
  if (start < 0 || stop <= start || stop > t->dims[dim])
    return tl_fail(TL_E_ARG, "slice %lld to %lld of dim %d, which has %lld", (long long)start + 1, (long long)stop, dim + 1,
                   (long long)t->dims[dim]);
  TL_TRY(view_of(t, out));
  (*out)->offset += start * t->strides[dim];
  (*out)->dims[dim] = stop - start;
  return TL_OK;
}

tl_status tl_tensor_transpose(tl_tensor *t, int dim_a, int dim_b, tl_tensor **out) {
  *out = NULL;
  TL_TRY(check_dim(t, dim_a));
  TL_TRY(check_dim(t, dim_b));
  TL_TRY(view_of(t, out));
  (*out)->dims[dim_a] = t->dims[dim_b];
  (*out)->dims[dim_b] = t->dims[dim_a];
  (*out)->strides[dim_a] = t->strides[dim_b];
  (*out)->strides[dim_b] = t->strides[dim_a];
  return TL_OK;
}

tl_status tl_tensor_reshape(tl_tensor *t, int n_dims, const int64_t *dims, tl_tensor **out) {
  *out = NULL;
  int64_t n;
  TL_TRY(check_dims(n_dims, dims, &n));
  if (n != count(t)) return tl_fail(TL_E_SHAPE, "reshape: %lld elements into %lld", (long long)count(t), (long long)n);
  if (!is_contiguous(t)) return tl_fail(TL_E_SHAPE, "reshape: the tensor is not contiguous; copy it first");
  TL_TRY(view_of(t, out));
  set_dims(*out, n_dims, dims);
  return TL_OK;
}

// ---- elements and filling

static tl_status locate(const tl_tensor *t, const int64_t *index, int64_t *i) {
  *i = t->offset;
  for (int d = 0; d < t->n_dims; d++) {
    if (index[d] < 0 || index[d] >= t->dims[d])
      return tl_fail(TL_E_ARG, "index %lld of dim %d, which has %lld", (long long)index[d] + 1, d + 1, (long long)t->dims[d]);
    *i += index[d] * t->strides[d];
  }
  return TL_OK;
}

tl_status tl_tensor_get(const tl_tensor *t, const int64_t *index, double *value) {
  int64_t i;
  TL_TRY(locate(t, index, &i));
  *value = load(t->s->data, t->dtype, i);
  return TL_OK;
}

tl_status tl_tensor_set(tl_tensor *t, const int64_t *index, double value) {
  int64_t i;
  TL_TRY(locate(t, index, &i));
  store(t->s->data, t->dtype, i, value);
  return TL_OK;
}

tl_status tl_tensor_fill(tl_tensor *t, double value) {
  walk w = walk_of(t);
  EACH(w, i) store(w.data, w.dtype, at(&w, i), value);
  return TL_OK;
}

tl_status tl_tensor_normal(tl_tensor *t, uint64_t seed, uint64_t stream, double mean, double std) {
  walk w = walk_of(t);
  size_t n = (size_t)count(t), k = 0;
  float *x = malloc(n * sizeof *x);
  if (!x) return tl_fail(TL_E_MEMORY, "out of memory: %zu random numbers", n);
  tl_normal_fill(x, n, seed, stream);
  EACH(w, i) store(w.data, w.dtype, at(&w, i), mean + std * x[k++]);
  free(x);
  return TL_OK;
}

tl_status tl_tensor_uniform(tl_tensor *t, uint64_t seed, uint64_t stream, double low, double high) {
  walk w = walk_of(t);
  uint64_t k = 0;
  EACH(w, i) store(w.data, w.dtype, at(&w, i), low + (high - low) * tl_uniform(seed, stream, k++));
  return TL_OK;
}

// ---- arithmetic

// true: both share a storage and are not the same view, so that writing one may change what is still to be read of the other
static bool overlaps(const tl_tensor *out, const tl_tensor *a) {
  return out->s == a->s && !(same_dims(out, a) && out->offset == a->offset &&
                             memcmp(out->strides, a->strides, sizeof a->strides[0] * (size_t)a->n_dims) == 0);
}

// a, or a copy of it where writing out would disturb reading a; *made says which
static tl_status undisturbed(const tl_tensor *out, const tl_tensor *a, const tl_tensor **use, tl_tensor **made) {
  *use = a;
  *made = NULL;
  if (!overlaps(out, a)) return TL_OK;
  TL_TRY(tl_tensor_create(a->dtype, a->n_dims, a->dims, NULL, made));
  *use = *made;
  return tl_tensor_copy(*made, a);
}

tl_status tl_tensor_copy(tl_tensor *out, const tl_tensor *a) { return tl_tensor_affine(out, a, 1, 0); }

tl_status tl_tensor_affine(tl_tensor *out, const tl_tensor *a, double scale, double shift) {
  if (!same_dims(out, a)) return shapes_differ("copy", out, a);
  tl_tensor *made;
  TL_TRY(undisturbed(out, a, &a, &made));
  walk w = walk_of(out), x = walk_of(a);
  EACH(w, i) store(w.data, w.dtype, at(&w, i), load(x.data, x.dtype, at(&x, i)) * scale + shift);
  tl_tensor_free(made);
  return TL_OK;
}

static bool spreads(const walk *w, walk *x) {  // dims of 1 repeat: stride 0
  for (int d = 0; d < MAX_DIMS; d++) {
    if (x->dims[d] == w->dims[d]) continue;
    if (x->dims[d] != 1) return false;
    x->strides[d] = 0;
  }
  return true;
}

static double apply(tl_binary_op op, double a, double b) {
  switch (op) {
  case TL_ADD: return a + b;
  case TL_SUB: return a - b;
  case TL_MUL: return a * b;
  default: return a / b;
  }
}

tl_status tl_tensor_binary(tl_tensor *out, const tl_tensor *a, const tl_tensor *b, tl_binary_op op) {
  if ((int)op < TL_ADD || (int)op > TL_DIV) return tl_fail(TL_E_ARG, "unknown operation %d", (int)op);
  tl_tensor *made_a = NULL, *made_b = NULL;
  tl_status s = undisturbed(out, a, &a, &made_a);
  if (s == TL_OK) s = undisturbed(out, b, &b, &made_b);
  if (s == TL_OK) {
    walk w = walk_of(out), x = walk_of(a), y = walk_of(b);
    if (!spreads(&w, &x)) s = shapes_differ("arithmetic", out, a);
    else if (!spreads(&w, &y)) s = shapes_differ("arithmetic", out, b);
    else
      EACH(w, i) store(w.data, w.dtype, at(&w, i), apply(op, load(x.data, x.dtype, at(&x, i)), load(y.data, y.dtype, at(&y, i))));
  }
  tl_tensor_free(made_a);
  tl_tensor_free(made_b);
  return s;
}

// ---- reductions

typedef struct total {
  double sum, squares, max, min;
  int64_t n;
} total;

static void take(total *t, double v) {
  t->sum += v;
  t->squares += v * v;
  if (t->n == 0 || v > t->max || v != v) t->max = v;
  if (t->n == 0 || v < t->min || v != v) t->min = v;
  t->n++;
}

static double result(const total *t, tl_reduce_op op) {
  switch (op) {
  case TL_SUM: return t->sum;
  case TL_MEAN: return t->sum / (double)t->n;
  case TL_MAX: return t->max;
  case TL_MIN: return t->min;
  default: return sqrt(t->squares);
  }
}

static tl_status check_reduction(tl_reduce_op op) {
  return (int)op >= TL_SUM && (int)op <= TL_NORM ? TL_OK : tl_fail(TL_E_ARG, "unknown reduction %d", (int)op);
}

tl_status tl_tensor_reduce(const tl_tensor *a, tl_reduce_op op, double *value) {
  TL_TRY(check_reduction(op));
  walk x = walk_of(a);
  total t = {0};
  EACH(x, i) take(&t, load(x.data, x.dtype, at(&x, i)));
  *value = result(&t, op);
  return TL_OK;
}

tl_status tl_tensor_reduce_dim(tl_tensor *out, const tl_tensor *a, tl_reduce_op op, int dim) {
  TL_TRY(check_reduction(op));
  TL_TRY(check_dim(a, dim));
  if (out->s == a->s) return tl_fail(TL_E_ARG, "a reduction cannot be written into what it reads");
  tl_tensor wanted = *a;
  wanted.dims[dim] = 1;
  if (!same_dims(out, &wanted)) return shapes_differ("reduction", out, &wanted);
  walk w = walk_of(out), x = walk_of(a);
  int d = MAX_DIMS - a->n_dims + dim;
  EACH(w, i) {
    total t = {0};
    for (int64_t k = 0; k < x.dims[d]; k++) take(&t, load(x.data, x.dtype, at(&x, i) + k * x.strides[d]));
    store(w.data, w.dtype, at(&w, i), result(&t, op));
  }
  return TL_OK;
}

// ---- matmul

// t as BLAS wants it: fp32 with one unit stride; *made when that needed a copy
static tl_status blas_view(const tl_tensor *t, const tl_tensor **use, tl_tensor **made, CBLAS_TRANSPOSE *trans, int *ld) {
  *made = NULL;
  *use = t;
  bool rows = t->strides[1] == 1 && t->strides[0] >= t->dims[1] && t->strides[0] <= INT32_MAX;
  bool cols = t->strides[0] == 1 && t->strides[1] >= t->dims[0] && t->strides[1] <= INT32_MAX;
  if (t->dtype != TL_F32 || (!rows && !cols)) {
    TL_TRY(tl_tensor_create(TL_F32, 2, t->dims, NULL, made));
    TL_TRY(tl_tensor_copy(*made, t));
    *use = *made;
    rows = true;
  }
  *trans = rows ? CblasNoTrans : CblasTrans;
  *ld = (int)(rows ? (*use)->strides[0] : (*use)->strides[1]);
  return TL_OK;
}

static const float *floats(const tl_tensor *t) { return (const float *)t->s->data + t->offset; }

tl_status tl_tensor_matmul(tl_tensor *out, const tl_tensor *a, const tl_tensor *b) {
  if (a->n_dims != 2 || b->n_dims != 2 || a->dims[1] != b->dims[0]) return shapes_differ("matmul", a, b);
  int64_t n = a->dims[0], k = a->dims[1], m = b->dims[1];
  if (out->n_dims != 2 || out->dims[0] != n || out->dims[1] != m)
    return tl_fail(TL_E_SHAPE, "matmul: the output must be (%lld, %lld)", (long long)n, (long long)m);
  if (n > INT32_MAX || k > INT32_MAX || m > INT32_MAX) return tl_fail(TL_E_ARG, "matmul: a dim over 2^31");
  tl_tensor *made_a = NULL, *made_b = NULL, *c = NULL;
  CBLAS_TRANSPOSE ta = CblasNoTrans, tb = CblasNoTrans;
  int lda = 0, ldb = 0;
  int64_t dims[2] = {n, m};
  tl_status s = blas_view(a, &a, &made_a, &ta, &lda);
  if (s == TL_OK) s = blas_view(b, &b, &made_b, &tb, &ldb);
  if (s == TL_OK) s = tl_tensor_create(TL_F32, 2, dims, NULL, &c);
  if (s == TL_OK) {
    cblas_sgemm(CblasRowMajor, ta, tb, (int)n, (int)m, (int)k, 1, floats(a), lda, floats(b), ldb, 0, tl_tensor_data(c), (int)m);
    s = tl_tensor_copy(out, c);
  }
  tl_tensor_free(made_a);
  tl_tensor_free(made_b);
  tl_tensor_free(c);
  return s;
}

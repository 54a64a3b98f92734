// gguf.h: the GGUF container (versions 2 and 3, little-endian): metadata and tensor descriptions, no model knowledge.
//
//   "GGUF" | u32 version | u64 n_tensors | u64 n_kv | n_kv x (string key, u32 type, value)
//          | n_tensors x (string name, u32 n_dims, u64 dims[n_dims], u32 type, u64 offset) | padding to `alignment` | data
//   a string is u64 length + bytes (no NUL); an array is u32 element type + u64 count + elements.
//
// The file stays mapped while a tl_gguf is open; every pointer below points into the map unless said otherwise, and every
// length and offset was checked against the file's size when it was opened.
#ifndef TL_GGUF_H
#define TL_GGUF_H
#include "base.h"

typedef enum tl_gguf_type {  // types of metadata values
  TL_GGUF_U8, TL_GGUF_I8, TL_GGUF_U16, TL_GGUF_I16, TL_GGUF_U32, TL_GGUF_I32, TL_GGUF_F32, TL_GGUF_BOOL, TL_GGUF_STRING,
  TL_GGUF_ARRAY, TL_GGUF_U64, TL_GGUF_I64, TL_GGUF_F64, TL_GGUF_N_TYPES
} tl_gguf_type;

typedef enum tl_ggml_type {  // types of tensors that can be read (others are described, not read)
  TL_GGML_F32 = 0, TL_GGML_F16 = 1, TL_GGML_Q4_0 = 2, TL_GGML_Q4_1 = 3, TL_GGML_Q5_0 = 6, TL_GGML_Q5_1 = 7, TL_GGML_Q8_0 = 8,
  TL_GGML_Q2_K = 10, TL_GGML_Q3_K = 11, TL_GGML_Q4_K = 12, TL_GGML_Q5_K = 13, TL_GGML_Q6_K = 14, TL_GGML_Q8_K = 15,
  TL_GGML_IQ4_NL = 20, TL_GGML_IQ4_XS = 23, TL_GGML_BF16 = 30, TL_GGML_TQ1_0 = 34, TL_GGML_TQ2_0 = 35, TL_GGML_MXFP4 = 39
} tl_ggml_type;

typedef struct tl_gguf_text {  // not NUL-terminated
  const char *p;
  size_t n;
} tl_gguf_text;

typedef struct tl_gguf_kv {
  tl_gguf_text key;
  int type, item_type;     // tl_gguf_type; item_type: of an array's elements, -1 for a scalar
  uint64_t n;              // elements of an array; 1 for a scalar
  const uint8_t *data;     // the scalar, or the array's first element
  size_t bytes;            // that the scalar, or all the elements, take there
} tl_gguf_kv;

typedef struct tl_gguf_tensor {
  char *name;              // NUL-terminated, owned by the tl_gguf
  int type;                // tl_ggml_type, or a number this program cannot read
  int n_dims;
  int64_t dims[4];         // dims[0] is the contiguous one: a weight W (out, in) has dims {in, out}; unused ones are 1
  int64_t n;               // elements
  const uint8_t *data;
  size_t bytes;            // 0 when the type is unknown
} tl_gguf_tensor;

typedef struct tl_gguf {
  tl_map map;
  int version;
  size_t n_kv, n_tensors;
  tl_gguf_kv *kv;
  tl_gguf_tensor *tensors;
} tl_gguf;

tl_status tl_gguf_open(tl_gguf *g, const char *path);
void tl_gguf_close(tl_gguf *g);
bool tl_gguf_is(const char *path);  // the file begins with GGUF's magic

const tl_gguf_kv *tl_gguf_find(const tl_gguf *g, const char *key);          // NULL: absent
const tl_gguf_tensor *tl_gguf_tensor_find(const tl_gguf *g, const char *name);
// Values by key. false: absent, of another type, or out of the range of the result; *out is then untouched.
bool tl_gguf_int(const tl_gguf *g, const char *key, int64_t *out);          // any integer type
bool tl_gguf_number(const tl_gguf *g, const char *key, double *out);        // any integer or float type
bool tl_gguf_bool(const tl_gguf *g, const char *key, bool *out);
bool tl_gguf_string(const tl_gguf *g, const char *key, tl_gguf_text *out);
// Arrays by key: *out is a new array of *n elements; free(). false as above, or out of memory.
bool tl_gguf_strings(const tl_gguf *g, const char *key, tl_gguf_text **out, size_t *n);
bool tl_gguf_ints(const tl_gguf *g, const char *key, int32_t **out, size_t *n);    // any integer type, values within int32
bool tl_gguf_floats(const tl_gguf *g, const char *key, float **out, size_t *n);    // any integer or float type

const char *tl_ggml_type_name(int type);                                    // "Q4_1"; "type 77" for an unknown one
// elements and bytes of a block; false: unknown type
bool tl_ggml_type_block(int type, int *elements, int *bytes);

// ---- gguf_write.c. A writer begins as {0}; metadata and tensors are announced in any order, then written once.
typedef struct tl_gguf_writer {
  tl_str kv, infos, sizes;
  uint64_t n_kv, n_tensors, offset;  // offset: where the next tensor's data goes
  size_t largest;                    // bytes of the largest tensor
} tl_gguf_writer;
void tl_gguf_put_u32(tl_gguf_writer *w, const char *key, uint32_t v);
void tl_gguf_put_f32(tl_gguf_writer *w, const char *key, float v);
void tl_gguf_put_bool(tl_gguf_writer *w, const char *key, bool v);
void tl_gguf_put_string(tl_gguf_writer *w, const char *key, const char *text);
void tl_gguf_put_array(tl_gguf_writer *w, const char *key, tl_gguf_type item, uint64_t n);  // its n items follow
void tl_gguf_item_text(tl_gguf_writer *w, const char *p, size_t n);                         // an item of strings
void tl_gguf_item_raw(tl_gguf_writer *w, const void *p, size_t n);                          // bytes of numbers
void tl_gguf_put_kv(tl_gguf_writer *w, const tl_gguf_kv *kv);                               // as another file has it
// a matrix (rows, cols), or a vector of rows elements (cols 0); rows hold whole blocks of the type
void tl_gguf_put_tensor(tl_gguf_writer *w, const char *name, int type, int64_t rows, int64_t cols);
// dst = the bytes of tensor i, in the order of tl_gguf_put_tensor
typedef tl_status (*tl_gguf_fill)(void *ctx, size_t i, uint8_t *dst);
// Through tl_out: a failure leaves what was there. Memory: the metadata and the largest tensor.
tl_status tl_gguf_write(tl_gguf_writer *w, const char *path, tl_gguf_fill fill, void *ctx);
void tl_gguf_writer_free(tl_gguf_writer *w);
#endif

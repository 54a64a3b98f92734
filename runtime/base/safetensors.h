// safetensors.h: the safetensors container: named arrays in one file. No model knowledge.
//
//   u64 n (little-endian) | n bytes of JSON | data
//   JSON: {"NAME": {"dtype": "BF16", "shape": [2, 3], "data_offsets": [begin, end]}, ..., "__metadata__": {"k": "v"}}
//   offsets count from the first byte after the JSON.
#ifndef TL_SAFETENSORS_H
#define TL_SAFETENSORS_H
#include "base.h"

enum { TL_ST_MAX_DIMS = 8 };

typedef struct tl_st_tensor {
  const char *name;        // owned by the reader
  const char *dtype;       // as the file says: "F32", "I64", ...
  int type;                // tl_dtype; -1: one that this program does not compute with
  int n_dims;
  int64_t shape[TL_ST_MAX_DIMS];
  int64_t n;               // elements
  const uint8_t *data;     // into the map; not necessarily aligned
  size_t bytes;
} tl_st_tensor;

struct cJSON;
typedef struct tl_safetensors {
  tl_map map;
  struct cJSON *header;
  size_t n;
  tl_st_tensor *tensors;   // (n), ordered by name
} tl_safetensors;

// Maps a file; every offset, size and shape is checked against the file before it returns.
tl_status tl_safetensors_open(tl_safetensors *s, const char *path);
void tl_safetensors_close(tl_safetensors *s);
const tl_st_tensor *tl_safetensors_find(const tl_safetensors *s, const char *name);  // NULL: absent
const char *tl_safetensors_metadata(const tl_safetensors *s, const char *key);       // NULL: absent
// "(2, 3)" into out
void tl_st_shape_text(char *out, size_t n, const int64_t *shape, int n_dims);

typedef struct tl_st_entry {
  const char *name;
  int dtype;               // tl_dtype
  int n_dims;
  int64_t shape[4];
  const void *data;        // NULL: the fill function provides it
} tl_st_entry;
// Writes entries[i] into dst, in the entry's dtype. Called in the order in which the file is written.
typedef tl_status (*tl_st_fill)(void *ctx, size_t i, void *dst);

// Writes a file through tl_out: a failure leaves what was there. Tensors stand ordered by element size (largest first), then
// by name, as the safetensors library orders them. metadata: key, value, ..., NULL; NULL itself means {"format": "pt"}.
// fill: may be NULL when every entry has data. Memory: one buffer as large as the largest filled tensor.
tl_status tl_safetensors_write(const char *path, const tl_st_entry *entries, size_t n, tl_st_fill fill, void *ctx,
                               const char *const *metadata);
#endif

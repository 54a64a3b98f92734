// load.h: private to runtime/model: what config.c, source.c, weights.c, load.c, save.c and inspect.c share.
#ifndef TL_MODEL_LOAD_H
#define TL_MODEL_LOAD_H
#include "model.h"
#include "../base/gguf.h"
#include "../base/safetensors.h"

struct cJSON;

// ---- config.c
tl_status tl_json_read(const char *path, struct cJSON **out);  // an object in a file; cJSON_Delete
// Members of an object; an absent key and null are the same, and give the fallback. Failures name the file and the key.
const struct cJSON *tl_json_get(const struct cJSON *o, const char *key);  // NULL: absent or null
enum { TL_JSON_REQUIRED = INT32_MIN };                                    // a fallback: absence is a failure
tl_status tl_json_int(const char *path, const struct cJSON *o, const char *key, int lo, int hi, int fallback, int *out);
// a positive number; fallback 0: required
tl_status tl_json_float(const char *path, const struct cJSON *o, const char *key, float fallback, float *out);
tl_status tl_json_bool(const char *path, const struct cJSON *o, const char *key, bool fallback, bool *out);
void tl_json_add_float(struct cJSON *o, const char *key, float v);
// config.json; when gen_path (generation_config.json) is there, its special token ids prevail, as in transformers.
// init_std: initializer_range (NULL: not wanted). c is freed by the caller, after a failure too.
tl_status tl_config_read(const char *path, const char *gen_path, tl_config *c, float *init_std);
tl_status tl_config_check(const char *path, const tl_config *c);  // what holds for every source
void tl_config_free(tl_config *c);
tl_status tl_config_own(tl_config *c);  // c, a copy by value, gets arrays of its own
// ---- config_attention.c: what config.json says of rotation and of sliding windows
tl_status tl_config_rope(const char *path, const struct cJSON *j, tl_config *c);
// every step-th layer does not rotate
tl_status tl_config_unrotated(const char *path, tl_config *c, int step);
tl_status tl_config_windows(const char *path, const struct cJSON *j, tl_config *c);
// ---- config_gguf.c
tl_status tl_config_from_gguf(const tl_gguf *g, tl_config *c);

// ---- source.c: a model's files, mapped, and where each part is in them
typedef struct tl_source {
  tl_config cfg;
  bool is_gguf;
  tl_gguf gguf;
  int n_files;
  tl_safetensors *files;     // (n_files)
} tl_source;

typedef struct tl_stored {   // a part as it lies in a file
  const char *file, *name;   // name: the file's own
  int type;                  // tl_ggml_type (safetensors' F32, F16 and BF16 have the same meaning there)
  const char *type_name;
  int n_dims;
  int64_t shape[TL_ST_MAX_DIMS];
  const uint8_t *data;
  size_t bytes;
  int permuted_heads;        // > 0: the rows of so many heads are stored in GGUF's interleaved order
} tl_stored;

tl_status tl_source_open(tl_source *s, const char *path);
void tl_source_close(tl_source *s);
// finds a part and checks its shape and type
tl_status tl_source_find(const tl_source *s, const tl_part *p, tl_stored *out);
// every part is there with its shape and type, and no layer, nor any of a GGUF, has a tensor that is not a part
tl_status tl_source_check(const tl_source *s, const tl_part *parts, int n);
// The rows row .. row + rows - 1 of a part and of these the columns col .. col + cols - 1; of a vector rows alone
typedef struct tl_slice {
  int row, rows, col, cols;
} tl_slice;
// out (slice's rows, cols) = the part's values there, rows in Hugging Face's order
tl_status tl_stored_read(const tl_stored *t, const tl_part *p, const tl_slice *s, float *out);
// calls fn for every tensor in the files
void tl_source_each(const tl_source *s, void (*fn)(void *ctx, const char *name, const char *type, int64_t n), void *ctx);
const char *tl_source_main_type(const tl_source *s);  // dtype of most of the weights
int64_t tl_source_bytes(const tl_source *s);
int64_t tl_source_quantised_bytes(const tl_source *s);  // of all tensors as stored; 0: none is stored in blocks of quantised values

// ---- split.c
tl_slice tl_slice_whole(const tl_part *p);
tl_slice tl_slice_of(const tl_model *m, const tl_part *p);  // what this rank has of a part; rows 0: nothing
// out (slice's rows, cols) = a part of a model with random weights; place: the part's among all parts (tl_parts_list)
void tl_part_draw(const tl_model *m, const tl_part *p, int place, const tl_slice *s, float *out);
// local: the config of one of `shards` equal parts; its arrays are c's. The message names the field that cannot be divided.
tl_status tl_split_config(const char *path, const tl_config *c, int shards, tl_config *local);

// ---- dequant.c: y (n) = the values of n elements (a whole number of blocks) stored as type
bool tl_dequant_known(int type);
const char *tl_dequant_list(void);  // "F32 F16 ...": the known types
void tl_dequant(int type, const uint8_t *x, float *y, size_t n);
// ---- quant.c: the other way, to the bytes that ggml's reference makes of them
void tl_quant(int type, const float *x, uint8_t *y, size_t n);

// ---- save.c: TL_OK when n values of a part have a place in fp16, else a failure that names the part
tl_status tl_within_f16(const tl_part *p, const float *x, size_t n);

// ---- weights.c
tl_status tl_weights_alloc(tl_weights *w, const tl_config *c);
// takes the values of one part: from a file, or from fp32 values
tl_status tl_weights_put(tl_weights *w, const tl_config *c, const tl_part *p, const void *values, int dtype, int compute);
#endif

// safetensors.c: reads and writes the safetensors container (see safetensors.h for its layout). The header is outside bytes:
// cJSON parses it with its length, and every number in it is range-checked before it is used as a size or an offset.
#include "safetensors.h"
#include <cjson/cJSON.h>

enum { MAX_HEADER = 100 << 20 };  // the safetensors library's own limit

static const struct {
  const char *name;
  int bytes, type;
} dtypes[] = {{"F32", 4, TL_F32}, {"BF16", 2, TL_BF16}, {"F16", 2, TL_F16}, {"I32", 4, TL_I32}, {"F64", 8, -1},
              {"I64", 8, -1},     {"U64", 8, -1},       {"U32", 4, -1},     {"I16", 2, -1},     {"U16", 2, -1},
              {"I8", 1, -1},      {"U8", 1, -1},        {"BOOL", 1, -1},    {"F8_E4M3", 1, -1}, {"F8_E5M2", 1, -1}};

void tl_st_shape_text(char *out, size_t n, const int64_t *shape, int n_dims) {
  size_t at = 0;
  if (n) *out = 0;
  for (int i = 0; i < n_dims && at < n; i++)
    at += (size_t)snprintf(out + at, n - at, "%s%lld", i ? ", " : "(", (long long)shape[i]);
  if (at < n) snprintf(out + at, n - at, n_dims ? ")" : "()");
}

// a whole number in 0 .. 2^53, which is what a double holds exactly
static bool whole(const cJSON *j, int64_t *out) {
  if (!cJSON_IsNumber(j) || !(j->valuedouble >= 0) || j->valuedouble > 9007199254740992.0) return false;
  *out = (int64_t)j->valuedouble;
  return (double)*out == j->valuedouble;
}

static tl_status read_shape(const char *path, tl_st_tensor *t, const cJSON *shape) {
  if (!cJSON_IsArray(shape)) return tl_fail(TL_E_FORMAT, "%s: tensor %s has no shape", path, t->name);
  t->n = 1;
  const cJSON *j;
  cJSON_ArrayForEach(j, shape) {
    int64_t d;
    if (t->n_dims == TL_ST_MAX_DIMS)
      return tl_fail(TL_E_FORMAT, "%s: tensor %s has more than %d dimensions", path, t->name, TL_ST_MAX_DIMS);
    if (!whole(j, &d) || __builtin_mul_overflow(t->n, d, &t->n) || t->n > INT64_MAX / 8)
      return tl_fail(TL_E_FORMAT, "%s: tensor %s: dimension %d is not a usable size", path, t->name, t->n_dims);
    t->shape[t->n_dims++] = d;
  }
  return TL_OK;
}

static tl_status read_tensor(const tl_map *m, size_t start, tl_st_tensor *t, const cJSON *j, size_t *end_of_data) {
  const char *path = m->path;
  t->name = j->string;
  const cJSON *dtype = cJSON_GetObjectItemCaseSensitive(j, "dtype");
  const cJSON *offsets = cJSON_GetObjectItemCaseSensitive(j, "data_offsets");
  if (!cJSON_IsString(dtype)) return tl_fail(TL_E_FORMAT, "%s: tensor %s has no dtype", path, t->name);
  t->dtype = dtype->valuestring;
  t->type = -1;
  int size = 0;
  for (size_t i = 0; i < sizeof dtypes / sizeof *dtypes; i++)
    if (strcmp(dtypes[i].name, t->dtype) == 0) size = dtypes[i].bytes, t->type = dtypes[i].type;
  if (!size) return tl_fail(TL_E_UNSUPPORTED, "%s: tensor %s has the unknown dtype %.20s", path, t->name, t->dtype);
  TL_TRY(read_shape(path, t, cJSON_GetObjectItemCaseSensitive(j, "shape")));
  int64_t begin, end;
  if (cJSON_GetArraySize(offsets) != 2 || !whole(cJSON_GetArrayItem(offsets, 0), &begin) ||
      !whole(cJSON_GetArrayItem(offsets, 1), &end) || end < begin)
    return tl_fail(TL_E_FORMAT, "%s: tensor %s: data_offsets are not two ascending whole numbers", path, t->name);
  if (end - begin != t->n * size) {
    char shape[128];
    tl_st_shape_text(shape, sizeof shape, t->shape, t->n_dims);
    return tl_fail(TL_E_FORMAT, "%s: tensor %s: %s %s takes %lld bytes, data_offsets give %lld", path, t->name, t->dtype, shape,
                   (long long)(t->n * size), (long long)(end - begin));
  }
  t->bytes = (size_t)(end - begin);
  t->data = (const uint8_t *)(uintptr_t)begin;  // made absolute once the whole file is known to be there
  if ((size_t)end > *end_of_data) *end_of_data = (size_t)end;
  return TL_OK;
}

static int by_name(const void *a, const void *b) {
  return strcmp(((const tl_st_tensor *)a)->name, ((const tl_st_tensor *)b)->name);
}

static int by_place(const void *a, const void *b) {
  const tl_st_tensor *x = a, *y = b;
  return x->data != y->data ? (x->data > y->data) - (x->data < y->data) : (x->bytes > y->bytes) - (x->bytes < y->bytes);
}

// Each tensor begins where another ends, as the safetensors library wants it: bytes that two share are a damaged header
static tl_status check_places(const tl_safetensors *s) {
  size_t at = 0;
  for (size_t i = 0; i < s->n; i++) {
    const tl_st_tensor *t = &s->tensors[i];
    size_t begin = (size_t)(uintptr_t)t->data;
    if (begin < at)
      return tl_fail(TL_E_FORMAT, "%s: tensor %s begins at byte %zu, inside %s, which ends at %zu", s->map.path, t->name, begin,
                     s->tensors[i - 1].name, at);
    if (begin > at)
      return tl_fail(TL_E_FORMAT, "%s: tensor %s begins at byte %zu, expected %zu, where the one before it ends", s->map.path,
                     t->name, begin, at);
    at += t->bytes;
  }
  return TL_OK;
}

static tl_status read_header(tl_safetensors *s, size_t *start) {
  const tl_map *m = &s->map;
  uint64_t n = 0;
  if (m->size < 8) return tl_fail(TL_E_FORMAT, "%s: truncated safetensors: %zu bytes, expected at least 8", m->path, m->size);
  memcpy(&n, m->data, 8);
  if (n > MAX_HEADER)
    return tl_fail(TL_E_FORMAT, "%s: not a safetensors file (a header of %llu bytes)", m->path, (unsigned long long)n);
  if (n > m->size - 8)
    return tl_fail(TL_E_FORMAT, "%s: truncated safetensors: the header ends at byte %llu, the file has %zu bytes", m->path,
                   (unsigned long long)n + 8, m->size);
  *start = 8 + (size_t)n;
  char name[4200];
  snprintf(name, sizeof name, "%s: the safetensors header", m->path);
  return tl_json_parse(name, (const char *)m->data + 8, (size_t)n, &s->header);
}

static tl_status read_all(tl_safetensors *s) {
  size_t start = 0, end = 0;
  TL_TRY(read_header(s, &start));
  s->tensors = calloc((size_t)cJSON_GetArraySize(s->header) + 1, sizeof *s->tensors);
  if (!s->tensors) return tl_fail(TL_E_MEMORY, "%s: out of memory", s->map.path);
  const cJSON *j;
  cJSON_ArrayForEach(j, s->header) {
    if (strcmp(j->string, "__metadata__") == 0) continue;
    TL_TRY(read_tensor(&s->map, start, &s->tensors[s->n], j, &end));
    s->n++;
  }
  size_t found = s->map.size - start;
  if (found != end)
    return tl_fail(TL_E_FORMAT, "%s: %s safetensors: the header describes %zu bytes of tensors, the file has %zu", s->map.path,
                   found < end ? "truncated" : "overlong", end, found);
  qsort(s->tensors, s->n, sizeof *s->tensors, by_place);
  TL_TRY(check_places(s));
  for (size_t i = 0; i < s->n; i++) s->tensors[i].data = s->map.data + start + (uintptr_t)s->tensors[i].data;
  qsort(s->tensors, s->n, sizeof *s->tensors, by_name);  // no name is there twice: the header has each key once
  return TL_OK;
}

tl_status tl_safetensors_open(tl_safetensors *s, const char *path) {
  *s = (tl_safetensors){0};
  TL_TRY(tl_map_open(&s->map, path));
  tl_status st = read_all(s);
  if (st != TL_OK) tl_safetensors_close(s);
  return st;
}

void tl_safetensors_close(tl_safetensors *s) {
  cJSON_Delete(s->header);
  free(s->tensors);
  tl_map_close(&s->map);
  *s = (tl_safetensors){0};
}

const tl_st_tensor *tl_safetensors_find(const tl_safetensors *s, const char *name) {
  tl_st_tensor key = {.name = name};
  return s->n ? bsearch(&key, s->tensors, s->n, sizeof key, by_name) : NULL;
}

const char *tl_safetensors_metadata(const tl_safetensors *s, const char *key) {
  const cJSON *m = cJSON_GetObjectItemCaseSensitive(s->header, "__metadata__");
  const cJSON *v = cJSON_IsObject(m) ? cJSON_GetObjectItemCaseSensitive(m, key) : NULL;
  return cJSON_IsString(v) ? v->valuestring : NULL;
}

// ---------------------------------------------------------------- writing

typedef struct order {
  const tl_st_entry *e;
  size_t i;
} order;

static int file_order(const void *a, const void *b) {
  const tl_st_entry *x = ((const order *)a)->e, *y = ((const order *)b)->e;
  size_t sx = tlk_dtype_size(x->dtype), sy = tlk_dtype_size(y->dtype);
  return sx != sy ? (sx < sy) - (sx > sy) : strcmp(x->name, y->name);
}

static size_t entry_bytes(const tl_st_entry *e) {
  size_t n = tlk_dtype_size(e->dtype);
  for (int i = 0; i < e->n_dims; i++) n *= (size_t)e->shape[i];
  return n;
}

static bool add_entry(cJSON *h, const tl_st_entry *e, size_t *offset) {
  cJSON *t = cJSON_AddObjectToObject(h, e->name);
  cJSON_AddStringToObject(t, "dtype", tl_dtype_name(e->dtype));
  cJSON *shape = cJSON_AddArrayToObject(t, "shape");
  for (int i = 0; i < e->n_dims; i++) cJSON_AddItemToArray(shape, cJSON_CreateNumber((double)e->shape[i]));
  cJSON *at = cJSON_AddArrayToObject(t, "data_offsets");
  cJSON_AddItemToArray(at, cJSON_CreateNumber((double)*offset));
  *offset += entry_bytes(e);
  return cJSON_AddItemToArray(at, cJSON_CreateNumber((double)*offset));
}

// the header as text, padded with blanks to a multiple of 8; NULL when out of memory
static char *header_text(const order *o, size_t n, const char *const *metadata, uint64_t *bytes) {
  static const char *const pt[] = {"format", "pt", NULL};
  cJSON *h = cJSON_CreateObject();
  cJSON *m = cJSON_AddObjectToObject(h, "__metadata__");
  bool ok = m != NULL;
  for (const char *const *k = metadata ? metadata : pt; ok && k[0]; k += 2) ok = cJSON_AddStringToObject(m, k[0], k[1]) != NULL;
  size_t offset = 0;
  for (size_t i = 0; ok && i < n; i++) ok = add_entry(h, o[i].e, &offset);
  char *text = ok ? cJSON_PrintUnformatted(h) : NULL, *padded = NULL;
  cJSON_Delete(h);
  if (text) {
    size_t len = strlen(text), pad = (len + 7) & ~(size_t)7;
    padded = malloc(pad + 1);
    if (padded) {
      memset(padded, ' ', pad);
      memcpy(padded, text, len);
      *bytes = pad;
    }
    free(text);
  }
  return padded;
}

static tl_status write_tensors(tl_out *f, const order *o, size_t n, tl_st_fill fill, void *ctx, void *buffer) {
  for (size_t i = 0; i < n; i++) {
    const void *data = o[i].e->data;
    if (!data) {
      TL_TRY(fill(ctx, o[i].i, buffer));
      data = buffer;
    }
    TL_TRY(tl_out_write(f, data, entry_bytes(o[i].e)));
  }
  return TL_OK;
}

static tl_status write_all(const char *path, order *o, const tl_st_entry *entries, size_t n, tl_st_fill fill, void *ctx,
                           const char *const *metadata) {
  size_t largest = 0;
  for (size_t i = 0; i < n; i++) {
    o[i] = (order){&entries[i], i};
    if (!entries[i].data && entry_bytes(&entries[i]) > largest) largest = entry_bytes(&entries[i]);
  }
  qsort(o, n, sizeof *o, file_order);
  uint64_t bytes = 0;
  char *header = header_text(o, n, metadata, &bytes);
  void *buffer = tl_aligned_alloc(largest);
  tl_out f;
  tl_status s = header && buffer ? tl_out_open(&f, path) : tl_fail(TL_E_MEMORY, "%s: out of memory", path);
  if (s == TL_OK) {
    s = tl_out_write(&f, &bytes, 8);
    if (s == TL_OK) s = tl_out_write(&f, header, bytes);
    if (s == TL_OK) s = write_tensors(&f, o, n, fill, ctx, buffer);
    if (s == TL_OK)
      s = tl_out_commit(&f);
    else
      tl_out_abort(&f);
  }
  free(header);
  free(buffer);
  return s;
}

tl_status tl_safetensors_write(const char *path, const tl_st_entry *entries, size_t n, tl_st_fill fill, void *ctx,
                               const char *const *metadata) {
  order *o = calloc(n + 1, sizeof *o);
  if (!o) return tl_fail(TL_E_MEMORY, "%s: out of memory", path);
  tl_status s = write_all(path, o, entries, n, fill, ctx, metadata);
  free(o);
  return s;
}

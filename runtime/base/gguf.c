// gguf.c: reads the GGUF container (see gguf.h for its layout). Outside bytes: every read goes through a cursor that knows how
// much of the file is left, so that no length or count in the file is believed before it was compared with that.
#include "gguf.h"
#include <limits.h>

typedef struct cursor {
  const uint8_t *p;
  size_t left;
  const tl_map *map;
} cursor;

static tl_status cut(const cursor *c, const char *what, uint64_t need) {
  size_t at = c->map->size - c->left;
  return tl_fail(TL_E_FORMAT, "%s: truncated GGUF: %s needs %llu bytes at offset %zu, the file has %zu bytes", c->map->path,
                 what, (unsigned long long)need, at, c->map->size);
}

static tl_status take(cursor *c, void *out, size_t n, const char *what) {
  if (n > c->left) return cut(c, what, n);
  memcpy(out, c->p, n);
  c->p += n;
  c->left -= n;
  return TL_OK;
}

static tl_status take_text(cursor *c, tl_gguf_text *t, const char *what) {
  uint64_t n = 0;
  TL_TRY(take(c, &n, 8, what));
  if (n > c->left) return cut(c, what, n);
  *t = (tl_gguf_text){(const char *)c->p, (size_t)n};
  c->p += n;
  c->left -= (size_t)n;
  return TL_OK;
}

static const uint8_t scalar_bytes[TL_GGUF_N_TYPES] = {
    [TL_GGUF_U8] = 1,  [TL_GGUF_I8] = 1,   [TL_GGUF_U16] = 2, [TL_GGUF_I16] = 2, [TL_GGUF_U32] = 4, [TL_GGUF_I32] = 4,
    [TL_GGUF_F32] = 4, [TL_GGUF_BOOL] = 1, [TL_GGUF_U64] = 8, [TL_GGUF_I64] = 8, [TL_GGUF_F64] = 8};

static tl_status skip_items(cursor *c, const char *key, uint32_t type, uint64_t n, int depth) {
  if (type >= TL_GGUF_N_TYPES) return tl_fail(TL_E_FORMAT, "%s: key %s has the unknown type %u", c->map->path, key, type);
  size_t size = scalar_bytes[type];
  if (size) {
    if (n > c->left / size) return cut(c, key, n > UINT64_MAX / size ? UINT64_MAX : n * size);
    c->p += n * size;
    c->left -= (size_t)n * size;
    return TL_OK;
  }
  if (depth > 4) return tl_fail(TL_E_FORMAT, "%s: key %s: arrays nested deeper than 4", c->map->path, key);
  if (n > c->left / 8) return cut(c, key, n > UINT64_MAX / 8 ? UINT64_MAX : n * 8);  // a string or array takes 8 bytes or more
  for (uint64_t i = 0; i < n; i++) {
    if (type == TL_GGUF_STRING) {
      tl_gguf_text t;
      TL_TRY(take_text(c, &t, key));
      continue;
    }
    uint32_t item;
    uint64_t count;
    TL_TRY(take(c, &item, 4, key));
    TL_TRY(take(c, &count, 8, key));
    TL_TRY(skip_items(c, key, item, count, depth + 1));
  }
  return TL_OK;
}

static tl_status read_kv(cursor *c, tl_gguf_kv *kv) {
  char name[80];
  uint32_t type, item;
  TL_TRY(take_text(c, &kv->key, "a metadata key"));
  snprintf(name, sizeof name, "%.*s", kv->key.n < 79 ? (int)kv->key.n : 79, kv->key.p);
  TL_TRY(take(c, &type, 4, name));
  kv->type = (int)type;
  kv->item_type = -1;
  kv->n = 1;
  if (type == TL_GGUF_ARRAY) {
    TL_TRY(take(c, &item, 4, name));
    TL_TRY(take(c, &kv->n, 8, name));
    kv->item_type = (int)item;
    type = item;
  }
  kv->data = c->p;
  TL_TRY(skip_items(c, name, type, kv->n, 0));
  kv->bytes = (size_t)(c->p - kv->data);
  return TL_OK;
}

static tl_status read_tensor(cursor *c, tl_gguf_tensor *t, uint64_t *offset) {
  const char *path = c->map->path;
  tl_gguf_text name;
  uint32_t n_dims, type;
  TL_TRY(take_text(c, &name, "a tensor's name"));
  t->name = strndup(name.p, name.n);
  if (!t->name) return tl_fail(TL_E_MEMORY, "%s: out of memory", path);
  TL_TRY(take(c, &n_dims, 4, t->name));
  if (n_dims < 1 || n_dims > 4)
    return tl_fail(TL_E_FORMAT, "%s: tensor %s has %u dimensions, expected 1 to 4", path, t->name, n_dims);
  t->n_dims = (int)n_dims;
  t->n = 1;
  for (int i = 0; i < 4; i++) {
    uint64_t d = 1;
    if (i < t->n_dims) TL_TRY(take(c, &d, 8, t->name));
    if (d < 1 || d > INT32_MAX || t->n > INT64_MAX / 64 / (int64_t)d)
      return tl_fail(TL_E_FORMAT, "%s: tensor %s: dimension %d is %llu", path, t->name, i, (unsigned long long)d);
    t->dims[i] = (int64_t)d;
    t->n *= (int64_t)d;
  }
  TL_TRY(take(c, &type, 4, t->name));
  if (type > 0xffff) return tl_fail(TL_E_FORMAT, "%s: tensor %s has the unknown type %u", path, t->name, type);
  t->type = (int)type;
  return take(c, offset, 8, t->name);
}

static tl_status place_tensor(const tl_gguf *g, tl_gguf_tensor *t, uint64_t offset, size_t start) {
  const char *path = g->map.path;
  int elements, bytes;
  if (!tl_ggml_type_block(t->type, &elements, &bytes)) return TL_OK;
  if (t->dims[0] % elements)
    return tl_fail(TL_E_FORMAT, "%s: tensor %s (%s): rows of %lld elements, expected a multiple of %d", path, t->name,
                   tl_ggml_type_name(t->type), (long long)t->dims[0], elements);
  uint64_t need = (uint64_t)t->n / (uint64_t)elements;
  need = need > UINT64_MAX / 512 ? UINT64_MAX : need * (uint64_t)bytes;
  if (start > g->map.size || offset > g->map.size - start || need > g->map.size - start - offset)
    return tl_fail(TL_E_FORMAT, "%s: truncated GGUF: tensor %s needs %llu bytes at offset %llu, the file has %zu bytes", path,
                   t->name, (unsigned long long)need, (unsigned long long)(start + offset), g->map.size);
  t->data = g->map.data + start + offset;
  t->bytes = (size_t)need;
  return TL_OK;
}

static tl_status read_header(cursor *c, tl_gguf *g) {
  const char *path = g->map.path;
  char magic[4];
  uint32_t version;
  uint64_t n_tensors, n_kv;
  TL_TRY(take(c, magic, 4, "the magic"));
  if (memcmp(magic, "GGUF", 4) != 0) return tl_fail(TL_E_FORMAT, "%s: not a GGUF file (it does not begin with GGUF)", path);
  TL_TRY(take(c, &version, 4, "the version"));
  if (version > 0xffff) return tl_fail(TL_E_UNSUPPORTED, "%s: a big-endian GGUF; only little-endian ones are read", path);
  if (version < 2 || version > 3)
    return tl_fail(TL_E_UNSUPPORTED, "%s: GGUF version %u; versions 2 and 3 are read", path, version);
  TL_TRY(take(c, &n_tensors, 8, "the tensor count"));
  TL_TRY(take(c, &n_kv, 8, "the metadata count"));
  // a key takes at least 13 bytes, a tensor's description 32: more cannot be in the file
  if (n_kv > c->left / 13 || n_tensors > c->left / 32)
    return tl_fail(TL_E_FORMAT, "%s: truncated GGUF: %llu keys and %llu tensors announced, the file has %zu bytes", path,
                   (unsigned long long)n_kv, (unsigned long long)n_tensors, g->map.size);
  g->version = (int)version;
  g->kv = calloc(n_kv + 1, sizeof *g->kv);
  g->tensors = calloc(n_tensors + 1, sizeof *g->tensors);
  if (!g->kv || !g->tensors) return tl_fail(TL_E_MEMORY, "%s: out of memory", path);
  g->n_kv = n_kv;
  g->n_tensors = n_tensors;
  return TL_OK;
}

static int by_key(const void *a, const void *b) {
  const tl_gguf_text *x = &(*(const tl_gguf_kv *const *)a)->key, *y = &(*(const tl_gguf_kv *const *)b)->key;
  int c = memcmp(x->p, y->p, x->n < y->n ? x->n : y->n);
  return c ? c : (x->n > y->n) - (x->n < y->n);
}

static int by_name(const void *a, const void *b) {
  return strcmp((*(const tl_gguf_tensor *const *)a)->name, (*(const tl_gguf_tensor *const *)b)->name);
}

static int by_place(const void *a, const void *b) {
  const uint8_t *x = (*(const tl_gguf_tensor *const *)a)->data, *y = (*(const tl_gguf_tensor *const *)b)->data;
  return (x > y) - (x < y);
}

static bool same_key(const void *a, const void *b) { return by_key(a, b) == 0; }
static bool same_name(const void *a, const void *b) { return by_name(a, b) == 0; }

static bool overlap(const void *a, const void *b) {  // of two in by_place's order; tensors of unknown types have no data
  const tl_gguf_tensor *x = *(const tl_gguf_tensor *const *)a, *y = *(const tl_gguf_tensor *const *)b;
  return x->data && y->data < x->data + x->bytes;
}

// Orders n pointers to items of a size and looks for a pair of neighbours; NULL: none, or out of memory
static const void *find_pair(const void *items, size_t n, size_t size, int (*order)(const void *, const void *),
                             bool (*pair)(const void *, const void *)) {
  const void **p = malloc((n + 1) * sizeof *p), *found = NULL;
  for (size_t i = 0; p && i < n; i++) p[i] = (const char *)items + i * size;
  if (p) qsort(p, n, sizeof *p, order);
  for (size_t i = 1; p && i < n && !found; i++)
    if (pair(&p[i - 1], &p[i])) found = p[i];
  free(p);
  return found;
}

// llama.cpp refuses the same: of two equal keys or names one would be taken without a word, and shared bytes are damage
static tl_status check_once(const tl_gguf *g) {
  const tl_gguf_kv *k = find_pair(g->kv, g->n_kv, sizeof *g->kv, by_key, same_key);
  if (k)
    return tl_fail(TL_E_FORMAT, "%s: key %.*s is there twice", g->map.path, k->key.n < 79 ? (int)k->key.n : 79, k->key.p);
  const tl_gguf_tensor *t = find_pair(g->tensors, g->n_tensors, sizeof *t, by_name, same_name);
  if (t) return tl_fail(TL_E_FORMAT, "%s: tensor %s is there twice", g->map.path, t->name);
  t = find_pair(g->tensors, g->n_tensors, sizeof *t, by_place, overlap);
  if (t) return tl_fail(TL_E_FORMAT, "%s: tensor %s begins inside another one", g->map.path, t->name);
  return TL_OK;
}

static tl_status read_all(tl_gguf *g, uint64_t **offsets) {
  cursor c = {g->map.data, g->map.size, &g->map};
  TL_TRY(read_header(&c, g));
  for (size_t i = 0; i < g->n_kv; i++) TL_TRY(read_kv(&c, &g->kv[i]));
  int64_t alignment = 32;
  if (tl_gguf_find(g, "general.alignment") && (!tl_gguf_int(g, "general.alignment", &alignment) || alignment < 1 ||
                                               alignment > 1 << 20 || (alignment & (alignment - 1))))
    return tl_fail(TL_E_FORMAT, "%s: general.alignment must be a power of two, found %lld", g->map.path, (long long)alignment);
  *offsets = calloc(g->n_tensors + 1, sizeof **offsets);
  if (!*offsets) return tl_fail(TL_E_MEMORY, "%s: out of memory", g->map.path);
  for (size_t i = 0; i < g->n_tensors; i++) TL_TRY(read_tensor(&c, &g->tensors[i], &(*offsets)[i]));
  size_t at = g->map.size - c.left;
  size_t start = (at + (size_t)alignment - 1) & ~((size_t)alignment - 1);
  for (size_t i = 0; i < g->n_tensors; i++) TL_TRY(place_tensor(g, &g->tensors[i], (*offsets)[i], start));
  return check_once(g);
}

tl_status tl_gguf_open(tl_gguf *g, const char *path) {
  *g = (tl_gguf){0};
  uint64_t *offsets = NULL;
  TL_TRY(tl_map_open(&g->map, path));
  tl_status s = read_all(g, &offsets);
  free(offsets);
  if (s != TL_OK) tl_gguf_close(g);
  return s;
}

void tl_gguf_close(tl_gguf *g) {
  for (size_t i = 0; i < g->n_tensors; i++) free(g->tensors[i].name);
  free(g->tensors);
  free(g->kv);
  tl_map_close(&g->map);
  *g = (tl_gguf){0};
}

bool tl_gguf_is(const char *path) {
  char magic[4] = "";
  FILE *f = tl_file_exists(path) ? fopen(path, "rbe") : NULL;
  if (!f) return false;
  bool yes = fread(magic, 1, 4, f) == 4 && memcmp(magic, "GGUF", 4) == 0;
  fclose(f);
  return yes;
}

const tl_gguf_kv *tl_gguf_find(const tl_gguf *g, const char *key) {
  size_t n = strlen(key);
  for (size_t i = 0; i < g->n_kv; i++)
    if (g->kv[i].key.n == n && memcmp(g->kv[i].key.p, key, n) == 0) return &g->kv[i];
  return NULL;
}

const tl_gguf_tensor *tl_gguf_tensor_find(const tl_gguf *g, const char *name) {
  for (size_t i = 0; i < g->n_tensors; i++)
    if (strcmp(g->tensors[i].name, name) == 0) return &g->tensors[i];
  return NULL;
}

static bool to_int(int type, const uint8_t *p, int64_t *out) {
  uint64_t raw = 0;
  switch (type) {
  case TL_GGUF_U8: *out = *p; return true;
  case TL_GGUF_I8: *out = (int8_t)*p; return true;
  case TL_GGUF_U16:
    memcpy(&raw, p, 2);
    *out = (int64_t)raw;
    return true;
  case TL_GGUF_I16:
    memcpy(&raw, p, 2);
    *out = (int16_t)raw;
    return true;
  case TL_GGUF_U32:
    memcpy(&raw, p, 4);
    *out = (int64_t)raw;
    return true;
  case TL_GGUF_I32:
    memcpy(&raw, p, 4);
    *out = (int32_t)raw;
    return true;
  case TL_GGUF_I64: memcpy(out, p, 8); return true;
  case TL_GGUF_U64:
    memcpy(&raw, p, 8);
    if (raw > INT64_MAX) return false;
    *out = (int64_t)raw;
    return true;
  default: return false;
  }
}

static bool to_number(int type, const uint8_t *p, double *out) {
  int64_t i;
  float f;
  if (type == TL_GGUF_F32) return memcpy(&f, p, 4), *out = (double)f, true;
  if (type == TL_GGUF_F64) return memcpy(out, p, 8), true;
  if (!to_int(type, p, &i)) return false;
  *out = (double)i;
  return true;
}

bool tl_gguf_int(const tl_gguf *g, const char *key, int64_t *out) {
  const tl_gguf_kv *kv = tl_gguf_find(g, key);
  return kv && to_int(kv->type, kv->data, out);
}

bool tl_gguf_number(const tl_gguf *g, const char *key, double *out) {
  const tl_gguf_kv *kv = tl_gguf_find(g, key);
  return kv && to_number(kv->type, kv->data, out);
}

bool tl_gguf_bool(const tl_gguf *g, const char *key, bool *out) {
  const tl_gguf_kv *kv = tl_gguf_find(g, key);
  if (!kv || kv->type != TL_GGUF_BOOL) return false;
  *out = *kv->data != 0;
  return true;
}

static tl_gguf_text text_at(const uint8_t *p) {
  uint64_t n;
  memcpy(&n, p, 8);
  return (tl_gguf_text){(const char *)p + 8, (size_t)n};
}

bool tl_gguf_string(const tl_gguf *g, const char *key, tl_gguf_text *out) {
  const tl_gguf_kv *kv = tl_gguf_find(g, key);
  if (!kv || kv->type != TL_GGUF_STRING) return false;
  *out = text_at(kv->data);
  return true;
}

bool tl_gguf_strings(const tl_gguf *g, const char *key, tl_gguf_text **out, size_t *n) {
  const tl_gguf_kv *kv = tl_gguf_find(g, key);
  if (!kv || kv->item_type != TL_GGUF_STRING) return false;
  tl_gguf_text *a = calloc(kv->n + 1, sizeof *a);
  if (!a) return false;
  const uint8_t *p = kv->data;
  for (size_t i = 0; i < kv->n; i++) {
    a[i] = text_at(p);
    p += 8 + a[i].n;
  }
  *out = a;
  *n = kv->n;
  return true;
}

bool tl_gguf_ints(const tl_gguf *g, const char *key, int32_t **out, size_t *n) {
  const tl_gguf_kv *kv = tl_gguf_find(g, key);
  if (!kv || kv->item_type < 0 || !scalar_bytes[kv->item_type]) return false;
  int32_t *a = calloc(kv->n + 1, sizeof *a);
  for (size_t i = 0; a && i < kv->n; i++) {
    int64_t v;
    if (!to_int(kv->item_type, kv->data + i * scalar_bytes[kv->item_type], &v) || v < INT32_MIN || v > INT32_MAX) {
      free(a);
      return false;
    }
    a[i] = (int32_t)v;
  }
  if (!a) return false;
  *out = a;
  *n = kv->n;
  return true;
}

bool tl_gguf_floats(const tl_gguf *g, const char *key, float **out, size_t *n) {
  const tl_gguf_kv *kv = tl_gguf_find(g, key);
  if (!kv || kv->item_type < 0 || !scalar_bytes[kv->item_type]) return false;
  float *a = calloc(kv->n + 1, sizeof *a);
  for (size_t i = 0; a && i < kv->n; i++) {
    double v;
    if (!to_number(kv->item_type, kv->data + i * scalar_bytes[kv->item_type], &v)) {
      free(a);
      return false;
    }
    a[i] = (float)v;
  }
  if (!a) return false;
  *out = a;
  *n = kv->n;
  return true;
}

// ggml's tensor types: number, name, elements a block, bytes a block
static const struct {
  int type;
  const char *name;
  int elements, bytes;
} types[] = {
    {0, "F32", 1, 4},         {1, "F16", 1, 2},       {2, "Q4_0", 32, 18},    {3, "Q4_1", 32, 20},      {6, "Q5_0", 32, 22},
    {7, "Q5_1", 32, 24},      {8, "Q8_0", 32, 34},    {10, "Q2_K", 256, 84},  {11, "Q3_K", 256, 110},   {12, "Q4_K", 256, 144},
    {13, "Q5_K", 256, 176},   {14, "Q6_K", 256, 210}, {15, "Q8_K", 256, 292}, {16, "IQ2_XXS", 256, 66}, {17, "IQ2_XS", 256, 74},
    {18, "IQ3_XXS", 256, 98}, {19, "IQ1_S", 256, 50}, {20, "IQ4_NL", 32, 18}, {21, "IQ3_S", 256, 110},  {22, "IQ2_S", 256, 82},
    {23, "IQ4_XS", 256, 136}, {24, "I8", 1, 1},       {25, "I16", 1, 2},      {26, "I32", 1, 4},        {27, "I64", 1, 8},
    {28, "F64", 1, 8},        {29, "IQ1_M", 256, 56}, {30, "BF16", 1, 2},     {34, "TQ1_0", 256, 54},   {35, "TQ2_0", 256, 66},
    {39, "MXFP4", 32, 17},
};

bool tl_ggml_type_block(int type, int *elements, int *bytes) {
  for (size_t i = 0; i < sizeof types / sizeof *types; i++)
    if (types[i].type == type) return *elements = types[i].elements, *bytes = types[i].bytes, true;
  return false;
}

const char *tl_ggml_type_name(int type) {
  static _Thread_local char unknown[24];
  for (size_t i = 0; i < sizeof types / sizeof *types; i++)
    if (types[i].type == type) return types[i].name;
  snprintf(unknown, sizeof unknown, "type %d", type);
  return unknown;
}

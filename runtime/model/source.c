// source.c: a model's files as one source of parts, whether they are safetensors (one file, or shards named by an index) or a
// GGUF. Files are mapped; nothing is read until a part is asked for. A part's shape is checked against the config here, so
// that what loads afterwards needs no further doubt.
#include "load.h"
#include <cjson/cJSON.h>

enum { MAX_SHARDS = 1024 };

// ---------------------------------------------------------------- opening

// a tensor that two shards have may be two tensors: which one is meant is not known
static tl_status check_once(const tl_source *s, const char *index) {
  for (int i = 1; i < s->n_files; i++)
    for (int k = 0; k < i; k++)
      for (size_t t = 0; t < s->files[i].n; t++)
        if (tl_safetensors_find(&s->files[k], s->files[i].tensors[t].name))
          return tl_fail(TL_E_FORMAT, "%s: tensor %s is in two of the files: %s and %s", index, s->files[i].tensors[t].name,
                         s->files[k].map.path, s->files[i].map.path);
  return TL_OK;
}

static tl_status open_shards(tl_source *s, const char *dir, const char *index, const cJSON *map) {
  const char *names[MAX_SHARDS];
  int n = 0;
  const cJSON *j;
  cJSON_ArrayForEach(j, map) {
    if (!cJSON_IsString(j) || strchr(j->valuestring, '/'))
      return tl_fail(TL_E_FORMAT, "%s: weight_map gives no file name for %s", index, j->string);
    int i = 0;
    while (i < n && strcmp(names[i], j->valuestring) != 0) i++;
    if (i < n) continue;
    if (n == MAX_SHARDS) return tl_fail(TL_E_UNSUPPORTED, "%s: more than %d files", index, MAX_SHARDS);
    names[n++] = j->valuestring;
  }
  s->files = calloc((size_t)n + 1, sizeof *s->files);
  if (!s->files) return tl_fail(TL_E_MEMORY, "%s: out of memory", index);
  for (int i = 0; i < n; i++, s->n_files++) {
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", dir, names[i]);
    TL_TRY(tl_safetensors_open(&s->files[i], path));
  }
  if (!n) return tl_fail(TL_E_FORMAT, "%s: weight_map is empty", index);
  cJSON_ArrayForEach(j, map) {
    int i = 0;
    while (strcmp(names[i], j->valuestring) != 0) i++;
    if (!tl_safetensors_find(&s->files[i], j->string))
      return tl_fail(TL_E_FORMAT, "%s: weight_map has tensor %s in %s, which lacks it", index, j->string, names[i]);
  }
  return check_once(s, index);
}

static tl_status open_safetensors(tl_source *s, const char *dir) {
  char path[4096];
  snprintf(path, sizeof path, "%s/model.safetensors", dir);
  if (tl_file_exists(path)) {
    s->files = calloc(1, sizeof *s->files);
    if (!s->files) return tl_fail(TL_E_MEMORY, "%s: out of memory", path);
    TL_TRY(tl_safetensors_open(s->files, path));
    s->n_files = 1;
    return TL_OK;
  }
  snprintf(path, sizeof path, "%s/model.safetensors.index.json", dir);
  bool index = tl_file_exists(path);
  snprintf(path, sizeof path, "%s/pytorch_model.bin", dir);
  if (!index && tl_file_exists(path)) return tl_fail(TL_E_UNSUPPORTED, "%s: a pickled checkpoint is not read; save it as safetensors", path);
  if (!index) return tl_fail(TL_E_IO, "%s: neither model.safetensors nor model.safetensors.index.json is there", dir);
  snprintf(path, sizeof path, "%s/model.safetensors.index.json", dir);
  cJSON *j;
  TL_TRY(tl_json_read(path, &j));
  const cJSON *map = cJSON_GetObjectItemCaseSensitive(j, "weight_map");
  tl_status st = cJSON_IsObject(map) ? open_shards(s, dir, path, map) : tl_fail(TL_E_FORMAT, "%s: weight_map is missing", path);
  cJSON_Delete(j);
  return st;
}

// A tensor by Hugging Face's name. Files saved from the model without its head have names without "model.".
static const tl_st_tensor *find_named(const tl_source *s, const char *name, const tl_safetensors **file) {
  for (int i = 0; i < s->n_files; i++) {
    const tl_st_tensor *t = tl_safetensors_find(&s->files[i], name);
    *file = &s->files[i];
    if (t) return t;
  }
  return strncmp(name, "model.", 6) == 0 ? find_named(s, name + 6, file) : NULL;
}

// tie_word_embeddings says that the head is the embedding; a file that stores both with different values prevails, as in
// transformers
static void settle_tie(tl_source *s) {
  const tl_safetensors *file;
  const tl_st_tensor *embed = find_named(s, "model.embed_tokens.weight", &file), *head = find_named(s, "lm_head.weight", &file);
  if (!s->cfg.tied || !embed || !head) return;
  s->cfg.tied = embed->type == head->type && embed->bytes == head->bytes && memcmp(embed->data, head->data, head->bytes) == 0;
  tl_map_release(embed->data, embed->bytes);
  tl_map_release(head->data, head->bytes);
}

static tl_status open_dir(tl_source *s, const char *dir) {
  char config[4096], gen[4096];
  if (strlen(dir) > 3000) return tl_fail(TL_E_ARG, "%s: path too long", dir);
  snprintf(config, sizeof config, "%s/config.json", dir);
  snprintf(gen, sizeof gen, "%s/generation_config.json", dir);
  if (!tl_file_exists(config)) return tl_fail(TL_E_IO, "%s: no config.json there: not a Hugging Face model directory", dir);
  TL_TRY(tl_config_read(config, gen, &s->cfg, NULL));
  TL_TRY(open_safetensors(s, dir));
  settle_tie(s);
  return TL_OK;
}

tl_status tl_source_open(tl_source *s, const char *path) {
  *s = (tl_source){0};
  tl_status st;
  if (tl_is_dir(path))
    st = open_dir(s, path);
  else if (!tl_file_exists(path))
    st = tl_fail(TL_E_IO, "%s: no such file or directory", path);
  else if (!tl_gguf_is(path))
    st = tl_fail(TL_E_FORMAT, "%s: neither a Hugging Face directory nor a GGUF file", path);
  else {
    s->is_gguf = true;
    st = tl_gguf_open(&s->gguf, path);
    if (st == TL_OK) st = tl_config_from_gguf(&s->gguf, &s->cfg);
  }
  if (st != TL_OK) tl_source_close(s);
  return st;
}

void tl_source_close(tl_source *s) {
  for (int i = 0; i < s->n_files; i++) tl_safetensors_close(&s->files[i]);
  free(s->files);
  tl_gguf_close(&s->gguf);
  tl_config_free(&s->cfg);
  *s = (tl_source){0};
}

// ---------------------------------------------------------------- finding a part

void tl_part_gguf_name(char *out, size_t n, const tl_part *p) {
  static const char *const kinds[TL_N_KINDS] = {"attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"};
  switch (p->role) {
  case TL_PART_EMBED: snprintf(out, n, "token_embd.weight"); break;
  case TL_PART_NORM1: snprintf(out, n, "blk.%d.attn_norm.weight", p->layer); break;
  case TL_PART_NORM2: snprintf(out, n, "blk.%d.ffn_norm.weight", p->layer); break;
  case TL_PART_NORM_Q: snprintf(out, n, "blk.%d.attn_q_norm.weight", p->layer); break;
  case TL_PART_NORM_K: snprintf(out, n, "blk.%d.attn_k_norm.weight", p->layer); break;
  case TL_PART_FINAL_NORM: snprintf(out, n, "output_norm.weight"); break;
  case TL_PART_HEAD: snprintf(out, n, "output.weight"); break;
  default: snprintf(out, n, "blk.%d.%s.%s", p->layer, kinds[p->kind], p->role == TL_PART_BIAS ? "bias" : "weight");
  }
}

static tl_status find_gguf(const tl_source *s, const tl_part *p, tl_stored *out) {
  char name[128];
  tl_part_gguf_name(name, sizeof name, p);
  const tl_gguf_tensor *t = tl_gguf_tensor_find(&s->gguf, name);
  if (!t) return tl_fail(TL_E_FORMAT, "%s: tensor %s is missing", s->gguf.map.path, name);
  *out = (tl_stored){.file = s->gguf.map.path,
                     .name = t->name,
                     .type = t->type,
                     .type_name = tl_ggml_type_name(t->type),
                     .n_dims = t->n_dims,
                     .data = t->data,
                     .bytes = t->bytes};
  for (int i = 0; i < t->n_dims; i++) out->shape[i] = t->dims[t->n_dims - 1 - i];
  out->permuted_heads = tl_part_permuted_heads(&s->cfg, p);
  return TL_OK;
}

static tl_status find_safetensors(const tl_source *s, const tl_part *p, tl_stored *out) {
  char name[128];
  tl_part_name(name, sizeof name, p);
  const tl_safetensors *in = NULL;
  const tl_st_tensor *t = find_named(s, name, &in);
  if (!t && p->role == TL_PART_EMBED && s->cfg.tied) t = find_named(s, "lm_head.weight", &in);
  if (!t) {
    const char *file = s->n_files ? s->files[0].map.path : "model.safetensors.index.json";
    const char *more = s->n_files > 1 ? " and the other shards" : "";
    const char *why = p->role == TL_PART_HEAD ? " (and tie_word_embeddings is not true in config.json)" : "";
    return tl_fail(TL_E_FORMAT, "%s%s: tensor %s is missing%s", file, more, name, why);
  }
  int type = t->type == TL_F32 ? TL_GGML_F32 : t->type == TL_F16 ? TL_GGML_F16 : t->type == TL_BF16 ? TL_GGML_BF16 : -1;
  *out = (tl_stored){.file = in->map.path,
                     .name = t->name,
                     .type = type,
                     .type_name = t->dtype,
                     .n_dims = t->n_dims,
                     .data = t->data,
                     .bytes = t->bytes};
  memcpy(out->shape, t->shape, sizeof out->shape);
  return TL_OK;
}

tl_status tl_source_find(const tl_source *s, const tl_part *p, tl_stored *out) {
  TL_TRY((s->is_gguf ? find_gguf : find_safetensors)(s, p, out));
  if (!tl_dequant_known(out->type))
    return tl_fail(TL_E_UNSUPPORTED, "%s: tensor %s is %s, which is not supported; known: %s", out->file, out->name,
                   out->type_name, s->is_gguf ? tl_dequant_list() : "F32 F16 BF16");
  int elements, bytes;
  if (out->permuted_heads && !p->cols && tl_ggml_type_block(out->type, &elements, &bytes) && elements > 1)
    return tl_fail(TL_E_UNSUPPORTED, "%s: tensor %s: a vector of type %s", out->file, out->name, out->type_name);
  int64_t want[2] = {p->rows, p->cols};
  int n_dims = p->cols ? 2 : 1;
  if (out->n_dims == n_dims && memcmp(out->shape, want, (size_t)n_dims * sizeof *want) == 0) return TL_OK;
  char found[128], expected[64];
  tl_st_shape_text(found, sizeof found, out->shape, out->n_dims);
  tl_st_shape_text(expected, sizeof expected, want, n_dims);
  return tl_fail(TL_E_SHAPE, "%s: tensor %s is %s, the config wants %s", out->file, out->name, found, expected);
}

typedef struct leftovers {
  const tl_source *s;
  const tl_part *parts;
  int n;
  char found[128];  // the first tensor of a layer that is no part; "": none
} leftovers;

// the layer that a tensor's name belongs to; -1: none
static int layer_of(const tl_source *s, const char *name) {
  const char *prefix = s->is_gguf ? "blk." : "layers.";
  if (!s->is_gguf && strncmp(name, "model.", 6) == 0) name += 6;
  if (strncmp(name, prefix, strlen(prefix)) != 0) return -1;
  char *end;
  long l = strtol(name + strlen(prefix), &end, 10);
  return *end == '.' && l >= 0 && l < INT32_MAX ? (int)l : -1;
}

// A folder may hold tensors beside the layers that transformers ignores; what a GGUF holds, its architecture computes.
static void note_leftover(void *ctx, const char *name, const char *type, int64_t n) {
  leftovers *q = ctx;
  int layer = layer_of(q->s, name);
  const char *last = strstr(name, q->s->is_gguf ? ".attn_rot_embd." : ".rotary_emb.inv_freq");  // old files' copy of a constant
  if (q->found[0] || (layer < 0 && !q->s->is_gguf) || last || strcmp(name, "rope_freqs.weight") == 0) return;
  for (int i = 0; i < q->n; i++) {
    char part[128];
    if (layer >= 0 && q->parts[i].layer != layer) continue;
    (q->s->is_gguf ? tl_part_gguf_name : tl_part_name)(part, sizeof part, &q->parts[i]);
    if (strcmp(name, part) == 0 || (!q->s->is_gguf && strcmp(name, part + 6) == 0)) return;
  }
  snprintf(q->found, sizeof q->found, "%s", name);
}

tl_status tl_source_check(const tl_source *s, const tl_part *parts, int n) {
  tl_stored t;
  for (int i = 0; i < n; i++) TL_TRY(tl_source_find(s, &parts[i], &t));
  leftovers q = {s, parts, n, ""};
  tl_source_each(s, note_leftover, &q);
  if (!q.found[0]) return TL_OK;
  return tl_fail(TL_E_UNSUPPORTED, "%s: tensor %s is no part of a %s model as configured, with %d layers",
                 s->is_gguf ? s->gguf.map.path : s->files[0].map.path, q.found, s->cfg.family->name, s->cfg.n_layers);
}

int tl_part_permuted_heads(const tl_config *c, const tl_part *p) {
  bool rotated = (p->role == TL_PART_WEIGHT || p->role == TL_PART_BIAS) && p->kind <= TL_K;
  return rotated && c->family->gguf_permuted ? p->kind == TL_Q ? c->n_heads : c->n_kv_heads : 0;
}

size_t tl_permuted_row(int heads, size_t row, size_t rows) {
  if (!heads) return row;
  size_t dim = rows / (size_t)heads, head = row / dim, within = row % dim;
  return head * dim + 2 * (within % (dim / 2)) + within / (dim / 2);
}

// n elements of one stored row of `cols`, from element `col` on; tmp (cols): for parts of blocks
static void read_row(const tl_stored *t, const uint8_t *data, int cols, int col, int n, float *tmp, float *out) {
  int elements, bytes;
  TL_ASSERT(tl_ggml_type_block(t->type, &elements, &bytes));
  if (col % elements == 0 && n % elements == 0) {
    tl_dequant(t->type, data + (size_t)(col / elements) * (size_t)bytes, out, (size_t)n);
    return;
  }
  tl_dequant(t->type, data, tmp, (size_t)cols);
  memcpy(out, tmp + col, sizeof(float) * (size_t)n);
}

tl_status tl_stored_read(const tl_stored *t, const tl_part *p, const tl_slice *s, float *out) {
  tl_slice q = *s;
  int rows = p->rows, cols = p->cols, failed = 0;
  if (!cols && !t->permuted_heads) rows = 1, cols = p->rows, q = (tl_slice){0, 1, s->row, s->rows};  // a vector is one row
  else if (!cols) cols = q.cols = 1;
  size_t row_bytes = t->bytes / (size_t)rows;
#pragma omp parallel num_threads(tl_threads()) reduction(+ : failed) if ((size_t)q.rows * (size_t)cols > 1u << 18)
  {
    float *tmp = q.cols < cols ? malloc(sizeof(float) * (size_t)cols) : NULL;
    failed += q.cols < cols && !tmp;
#pragma omp for schedule(static)
    for (int i = 0; i < q.rows; i++) {
      const uint8_t *data = t->data + tl_permuted_row(t->permuted_heads, (size_t)(q.row + i), (size_t)rows) * row_bytes;
      if (tmp || q.cols == cols) read_row(t, data, cols, q.col, q.cols, tmp, out + (size_t)i * (size_t)q.cols);
    }
    free(tmp);
  }
  return failed ? tl_fail(TL_E_MEMORY, "%s: out of memory for a row of %s", t->file, t->name) : TL_OK;
}

// ---------------------------------------------------------------- what is in the files

void tl_source_each(const tl_source *s, void (*fn)(void *ctx, const char *name, const char *type, int64_t n), void *ctx) {
  for (size_t i = 0; i < s->gguf.n_tensors; i++) {
    const tl_gguf_tensor *t = &s->gguf.tensors[i];
    fn(ctx, t->name, tl_ggml_type_name(t->type), t->n);
  }
  for (int f = 0; f < s->n_files; f++)
    for (size_t i = 0; i < s->files[f].n; i++) {
      const tl_st_tensor *t = &s->files[f].tensors[i];
      fn(ctx, t->name, t->dtype, t->n);
    }
}

typedef struct tally {
  const char *names[64];
  int64_t counts[64];
  int n;
} tally;

static void count_type(void *ctx, const char *name, const char *type, int64_t n) {
  tally *t = ctx;
  int i = 0;
  while (i < t->n && strcmp(t->names[i], type) != 0) i++;
  if (i == 64) return;
  if (i == t->n) t->names[t->n++] = type;
  t->counts[i] += n;
}

const char *tl_source_main_type(const tl_source *s) {
  tally t = {0};
  tl_source_each(s, count_type, &t);
  int best = 0;
  for (int i = 1; i < t.n; i++)
    if (t.counts[i] > t.counts[best]) best = i;
  return t.n ? t.names[best] : "none";
}

int64_t tl_source_quantised_bytes(const tl_source *s) {
  int64_t sum = 0;
  bool blocks = false;
  int elements = 1, bytes;
  for (size_t i = 0; i < s->gguf.n_tensors; i++) {
    const tl_gguf_tensor *t = &s->gguf.tensors[i];
    sum += (int64_t)t->bytes;
    blocks |= tl_ggml_type_block(t->type, &elements, &bytes) && elements > 1;
  }
  return blocks ? sum : 0;
}

int64_t tl_source_bytes(const tl_source *s) {
  int64_t n = (int64_t)s->gguf.map.size;
  for (int f = 0; f < s->n_files; f++) n += (int64_t)s->files[f].map.size;
  return n;
}

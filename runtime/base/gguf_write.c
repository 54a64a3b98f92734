// gguf_write.c: writes the GGUF container (version 3; gguf.h has its layout).
//
// Metadata is collected in memory; the tensors' data comes from a fill function, one tensor at a time, in the order in which
// they were announced, and goes straight to the file. The file appears under its name only when it is complete (tl_out).
#include "gguf.h"

enum { ALIGNMENT = 32 };

static void put_u32(tl_str *s, uint32_t v) {
  tl_str_add(s, (const char *)&v, 4);
}
static void put_u64(tl_str *s, uint64_t v) {
  tl_str_add(s, (const char *)&v, 8);
}
static void put_text(tl_str *s, const char *p, size_t n) {
  put_u64(s, n);
  tl_str_add(s, p, n);
}

static void put_key(tl_gguf_writer *w, const char *key, tl_gguf_type type) {
  put_text(&w->kv, key, strlen(key));
  put_u32(&w->kv, (uint32_t)type);
  w->n_kv++;
}

void tl_gguf_put_u32(tl_gguf_writer *w, const char *key, uint32_t v) {
  put_key(w, key, TL_GGUF_U32);
  put_u32(&w->kv, v);
}

void tl_gguf_put_f32(tl_gguf_writer *w, const char *key, float v) {
  put_key(w, key, TL_GGUF_F32);
  tl_str_add(&w->kv, (const char *)&v, 4);
}

void tl_gguf_put_bool(tl_gguf_writer *w, const char *key, bool v) {
  put_key(w, key, TL_GGUF_BOOL);
  tl_str_add(&w->kv, v ? "\1" : "\0", 1);
}

void tl_gguf_put_string(tl_gguf_writer *w, const char *key, const char *text) {
  put_key(w, key, TL_GGUF_STRING);
  put_text(&w->kv, text, strlen(text));
}

void tl_gguf_put_array(tl_gguf_writer *w, const char *key, tl_gguf_type item, uint64_t n) {
  put_key(w, key, TL_GGUF_ARRAY);
  put_u32(&w->kv, (uint32_t)item);
  put_u64(&w->kv, n);
}

void tl_gguf_item_text(tl_gguf_writer *w, const char *p, size_t n) {
  put_text(&w->kv, p, n);
}
void tl_gguf_item_raw(tl_gguf_writer *w, const void *p, size_t n) {
  tl_str_add(&w->kv, p, n);
}

void tl_gguf_put_kv(tl_gguf_writer *w, const tl_gguf_kv *kv) {
  put_text(&w->kv, kv->key.p, kv->key.n);
  put_u32(&w->kv, (uint32_t)kv->type);
  if (kv->type == TL_GGUF_ARRAY) {
    put_u32(&w->kv, (uint32_t)kv->item_type);
    put_u64(&w->kv, kv->n);
  }
  tl_str_add(&w->kv, (const char *)kv->data, kv->bytes);
  w->n_kv++;
}

static size_t aligned(size_t n) {
  return (n + ALIGNMENT - 1) & ~(size_t)(ALIGNMENT - 1);
}

void tl_gguf_put_tensor(tl_gguf_writer *w, const char *name, int type, int64_t rows, int64_t cols) {
  int elements = 0, bytes = 0;
  int64_t row = cols ? cols : rows;
  TL_ASSERT(tl_ggml_type_block(type, &elements, &bytes) && row % elements == 0);
  size_t n = (size_t)(row / elements) * (size_t)bytes * (cols ? (size_t)rows : 1);
  put_text(&w->infos, name, strlen(name));
  put_u32(&w->infos, cols ? 2 : 1);
  put_u64(&w->infos, (uint64_t)row);
  if (cols)
    put_u64(&w->infos, (uint64_t)rows);
  put_u32(&w->infos, (uint32_t)type);
  put_u64(&w->infos, w->offset);
  tl_str_add(&w->sizes, (const char *)&n, sizeof n);
  w->offset += aligned(n);
  if (n > w->largest)
    w->largest = n;
  w->n_tensors++;
}

static tl_status write_padded(tl_out *o, const void *data, size_t n, size_t at) {
  static const char zeros[ALIGNMENT] = "";
  TL_TRY(tl_out_write(o, data, n));
  return tl_out_write(o, zeros, aligned(at + n) - (at + n));
}

static tl_status write_all(tl_gguf_writer *w, tl_out *o, tl_gguf_fill fill, void *ctx, uint8_t *buffer) {
  tl_str head = {0};
  tl_str_add(&head, "GGUF", 4);
  put_u32(&head, 3);
  put_u64(&head, w->n_tensors);
  put_u64(&head, w->n_kv);
  tl_status st = tl_out_write(o, head.p, head.n);
  if (st == TL_OK && w->kv.n)
    st = tl_out_write(o, w->kv.p, w->kv.n);
  if (st == TL_OK)
    st = write_padded(o, w->infos.n ? w->infos.p : "", w->infos.n, head.n + w->kv.n);
  tl_str_free(&head);
  for (size_t i = 0; i < w->n_tensors && st == TL_OK; i++) {
    size_t n;
    memcpy(&n, w->sizes.p + i * sizeof n, sizeof n);
    st = fill(ctx, i, buffer);
    if (st == TL_OK)
      st = write_padded(o, buffer, n, 0);
  }
  return st;
}

tl_status tl_gguf_write(tl_gguf_writer *w, const char *path, tl_gguf_fill fill, void *ctx) {
  tl_out o;
  uint8_t *buffer = tl_aligned_alloc(w->largest + 1);
  if (!buffer)
    return tl_fail(TL_E_MEMORY, "%s: out of memory: a tensor of %zu bytes", path, w->largest);
  tl_status st = tl_out_open(&o, path);
  if (st == TL_OK) {
    st = write_all(w, &o, fill, ctx, buffer);
    if (st == TL_OK)
      st = tl_out_commit(&o);
    else
      tl_out_abort(&o);
  }
  free(buffer);
  return st;
}

void tl_gguf_writer_free(tl_gguf_writer *w) {
  tl_str_free(&w->kv);
  tl_str_free(&w->infos);
  tl_str_free(&w->sizes);
  *w = (tl_gguf_writer){0};
}

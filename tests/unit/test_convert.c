// test_convert.c: a tokenizer from GGUF to tokenizer.json and back gives the ids of the first. Would catch: a split, normal form
// or flag lost on the way, scores and merges in another order, what cannot be expressed written all the same, a length in a
// damaged file that is trusted.
#include "../../runtime/base/gguf.h"
#include "../../runtime/text/convert.h"
#include "vocab.h"

static const char *at(const char *name) {
  static char path[2][200];
  static int turn;
  turn = !turn;
  snprintf(path[turn], sizeof path[turn], "%s/%s", folder, name);
  return path[turn];
}

static tl_status no_tensor(void *ctx, size_t i, uint8_t *dst) { return TL_E_INTERNAL; }

static tl_tokenizer *load_path(const char *path) {
  tl_tokenizer *t = NULL;
  CHECK_OK(tl_tokenizer_load(path, &t));
  return t;
}

// a.gguf -> tokenizer.json, which is loaded; NULL: refused
static tl_tokenizer *as_json(const char *gguf) {
  char *json, *config;
  if (tl_tokenizer_to_json(gguf, &json, &config) != TL_OK) return NULL;
  write_file("tokenizer.json", json);
  write_file("tokenizer_config.json", config);
  free(json);
  free(config);
  return load_path(folder);
}

// tokenizer.json at path -> back.gguf, whose special ids are what the model's config would say; the status
static tl_status as_gguf(const char *path, const tl_tokenizer *t, int n_rows) {
  tl_gguf_writer w = {0};
  bool with_ids;
  int eos;
  tl_status st = tl_tokenizer_to_gguf(path, n_rows, &w, &with_ids, &eos);
  if (st == TL_OK && t->bos >= 0) tl_gguf_put_u32(&w, "tokenizer.ggml.bos_token_id", (uint32_t)t->bos);
  if (st == TL_OK && t->eos >= 0) tl_gguf_put_u32(&w, "tokenizer.ggml.eos_token_id", (uint32_t)t->eos);
  if (st == TL_OK) st = tl_gguf_write(&w, at("back.gguf"), no_tensor, NULL);
  tl_gguf_writer_free(&w);
  return st;
}

static bool same_ids(tl_tokenizer *a, tl_tokenizer *b, const char *p, size_t n, bool special) {
  static int32_t first[ROOM];
  int m = encode(a, p, n, special, true);
  memcpy(first, ids, (size_t)m * sizeof *first);
  return encode(b, p, n, special, true) == m && !memcmp(first, ids, (size_t)m * sizeof *first);
}

// ids with what stands around a text, and the text that comes back
static void check_same(const char *what, tl_tokenizer *a, tl_tokenizer *b) {
  static char text[1 << 16];
  for (int i = 0; a && b && i < n_texts; i++) {
    CHECK(same_ids(a, b, texts[i].p, texts[i].n, true), "%s: ids of text %d, '%.40s'", what, i, texts[i].p);
    int n = encode(a, texts[i].p, texts[i].n, true, true), m = decode(a, n, true);
    memcpy(text, bytes, (size_t)m);
    CHECK(decode(b, n, true) == m && !memcmp(text, bytes, (size_t)m), "%s: the text of %d, '%.40s'", what, i, texts[i].p);
  }
}

// ---------------------------------------------------------------- byte-level

static void every_pre(void) {
  for (int k = 0; k < text_n_pre; k++) {
    const text_pre *pre = &text_pre_list[k];
    char name[64];
    sscanf(pre->names, " %63s", name);
    tl_tokenizer *first = load_pre(name), *second = as_json(at("bpe.gguf")), *third = NULL;
    CHECK(first && second, "%s: %s", name, tl_last_error());
    check_same(name, first, second);
    if (second) {
      CHECK_OK(as_gguf(at("tokenizer.json"), second, tl_tokenizer_vocab_size(first)));
      third = load_path(at("back.gguf"));
      check_same(name, first, third);
    }
    tl_gguf g;
    tl_gguf_text written = {0};
    CHECK_OK(tl_gguf_open(&g, at("back.gguf")));
    tl_gguf_string(&g, "tokenizer.ggml.pre", &written);
    CHECK(written.n && text_pre_named(written.p, written.n) == pre, "%s came back as %.*s", name, (int)written.n, written.p);
    tl_gguf_close(&g);
    tl_tokenizer_free(first);
    tl_tokenizer_free(second);
    tl_tokenizer_free(third);
  }
}

// ---------------------------------------------------------------- SentencePiece

// spm.gguf with a score of its own for each token
static void write_spm(bool prefix) {
  tl_gguf g;
  tl_gguf_writer w = {0};
  tl_gguf_text *tokens = NULL;
  size_t n = 0;
  CHECK_OK(tl_gguf_open(&g, FIXTURES "spm.gguf"));
  CHECK(tl_gguf_strings(&g, "tokenizer.ggml.tokens", &tokens, &n));
  for (size_t i = 0; i < g.n_kv; i++)
    if (!memcmp(g.kv[i].key.p, "tokenizer.", 10) && !(g.kv[i].key.n == 21 && !memcmp(g.kv[i].key.p, "tokenizer.ggml.scores", 21)))
      tl_gguf_put_kv(&w, &g.kv[i]);
  tl_gguf_put_array(&w, "tokenizer.ggml.scores", TL_GGUF_F32, n);
  for (size_t i = 0; i < n; i++) tl_gguf_item_raw(&w, &(float){-(float)i}, 4);
  tl_gguf_put_bool(&w, "tokenizer.ggml.add_space_prefix", prefix);
  CHECK_OK(tl_gguf_write(&w, at("spm.gguf"), no_tensor, NULL));
  tl_gguf_writer_free(&w);
  tl_gguf_close(&g);
  free(tokens);
}

// runs of few characters, where joins overlap
static void check_runs(tl_tokenizer *a, tl_tokenizer *b) {
  static const char *const parts[] = {" ", "  ", "a", "e", "th", "he", "t", "in", "n", "s", "ss", "00", "<s>", "\n"};
  for (int round = 0; round < 20000; round++) {
    char s[200] = "";
    int size = 1 + (int)(tl_uniform(12, (uint64_t)round, 0) * 30), few = 2 + round % 12;
    for (int i = 0; i < size; i++) strcat(s, parts[(int)(tl_uniform(12, (uint64_t)round, (uint64_t)i + 1) * few)]);
    CHECK(same_ids(a, b, s, strlen(s), false), "'%s'", s);
  }
}

static void spm_there_and_back(void) {
  for (int prefix = 0; prefix < 2; prefix++) {
    write_spm(prefix);
    tl_tokenizer *first = load_path(at("spm.gguf")), *second = as_json(at("spm.gguf")), *third = NULL;
    CHECK(second, "%s", tl_last_error());
    check_same("spm.gguf as tokenizer.json", first, second);
    if (second) {
      CHECK_OK(as_gguf(at("tokenizer.json"), second, tl_tokenizer_vocab_size(first) + 2));
      third = load_path(at("back.gguf"));
      check_same("and back", first, third);
      check_runs(first, second);
      check_runs(first, third);
    }
    CHECK(tl_tokenizer_bos(second) == 1 && tl_tokenizer_eos(second) == 2 && tl_tokenizer_is_special(second, 0));
    tl_tokenizer_free(first);
    tl_tokenizer_free(second);
    tl_tokenizer_free(third);
  }
}

// Scores with ties. spm.gguf and llama2.json hold the same pieces; llama2.json's merges are transformers' way. From either the
// other's ids come out: those of the list, and those of the scores.
static void spm_ties(void) {
  tl_tokenizer *scores = load_path(FIXTURES "spm.gguf"), *merges = load("llama2"), *t = as_json(FIXTURES "spm.gguf");
  check_same("spm.gguf as tokenizer.json", merges, t);
  check_runs(merges, t);
  tl_tokenizer_free(t);
  size_t n;
  char *text = read_text(FIXTURES "llama2.json", &n);
  write_file("tokenizer.json", text);
  free(text);
  CHECK_OK(as_gguf(at("tokenizer.json"), merges, tl_tokenizer_vocab_size(merges)));
  t = load_path(at("back.gguf"));
  check_same("llama2.json as a GGUF", scores, t);
  check_runs(scores, t);
  tl_tokenizer_free(t);
  tl_tokenizer_free(scores);
  tl_tokenizer_free(merges);
}

// FIXTURES's tokenizer.json in other words -> the reason why it is no GGUF
static void no_gguf(const char *name, const char *from, const char *to, const char *why) {
  char path[1024];
  size_t n;
  snprintf(path, sizeof path, FIXTURES "%s.json", name);
  char *text = read_text(path, &n), *found = text ? strstr(text, from) : NULL;
  tl_str changed = {0};
  CHECK(found, "%s has no %s", name, from);
  if (found) {
    tl_str_add(&changed, text, (size_t)(found - text));
    tl_str_printf(&changed, "%s%s", to, found + strlen(from));
    tl_tokenizer *t = load_path(write_bytes("tokenizer.json", changed.p, changed.n));
    tl_status st = t ? as_gguf(at("tokenizer.json"), t, 2000) : TL_OK;
    CHECK(st == TL_E_UNSUPPORTED && strstr(tl_last_error(), why), "%s, not %s", st == TL_OK ? "accepted" : tl_last_error(), why);
    tl_tokenizer_free(t);
  }
  tl_str_free(&changed);
  free(text);
}

static void what_cannot_be_said(void) {
  no_gguf("mistral", "\"split\":false", "\"split\":false", "Metaspace puts a space in front of a text, but not behind special tokens");
  no_gguf("llama2", "\"merges\":[[\"\xE2\x96\x81\",\"a\"],", "\"merges\":[", "make a token, but no merge joins them");
  no_gguf("llama2", "\"Strip\",\"content\":\" \",\"start\":1", "\"Strip\",\"content\":\" \",\"start\":2", "its decoder is not SentencePiece's");
  no_gguf("llama2", "\"<0x41>\"", "\"<0x4x>\"", "has not all of <0x00> to <0xFF>");
  no_gguf("llama2", "\"normalized\":false", "\"normalized\":true", "in normalised text");
  no_gguf("qwen2", "\\\\p{N}", "\\\\p{N}{1,2}", "is no pre-tokenizer with a known name");
}

// ---------------------------------------------------------------- damaged files

// thousands of small files: nothing that makes the system write each to its disk
static void put_file(const char *name, const char *p, size_t n) {
  unlink(at(name));
  FILE *f = fopen(at(name), "wb");
  CHECK(f && fwrite(p, 1, n, f) == n);
  if (f) fclose(f);
}

static void byte_level_keys(tl_gguf_writer *w) {
  static const char *const tokens[] = {"a", "b", "ab", "\"\n<|end|>"}, merge[] = "a b";
  int32_t types[] = {1, 1, 1, 3};
  tl_gguf_put_string(w, "tokenizer.ggml.model", "gpt2");
  tl_gguf_put_string(w, "tokenizer.ggml.pre", "llama-bpe");
  tl_gguf_put_array(w, "tokenizer.ggml.tokens", TL_GGUF_STRING, 4);
  for (int i = 0; i < 4; i++) tl_gguf_item_text(w, tokens[i], strlen(tokens[i]));
  tl_gguf_put_array(w, "tokenizer.ggml.token_type", TL_GGUF_I32, 4);
  tl_gguf_item_raw(w, types, sizeof types);
  tl_gguf_put_array(w, "tokenizer.ggml.merges", TL_GGUF_STRING, 1);
  tl_gguf_item_text(w, merge, 3);
  tl_gguf_put_u32(w, "tokenizer.ggml.bos_token_id", 3);
  tl_gguf_put_u32(w, "tokenizer.ggml.eos_token_id", 3);
  tl_gguf_put_bool(w, "tokenizer.ggml.add_bos_token", true);
  tl_gguf_put_bool(w, "tokenizer.ggml.add_eos_token", true);
  tl_gguf_put_string(w, "tokenizer.chat_template", "{{ \"x\" }}");
}

static void spm_keys(tl_gguf_writer *w) {
  static const char *const tokens[] = {"<unk>", "<s>", "</s>", "<0x0A>", "ab", "\xE2\x96\x81" "a", "\xE2\x96\x81", "a", "b"};
  int32_t types[] = {2, 3, 3, 6, 1, 1, 1, 1, 1};
  float scores[] = {0, 0, 0, 0, -1, -2, -3, -4, -5};
  tl_gguf_put_string(w, "tokenizer.ggml.model", "llama");
  tl_gguf_put_array(w, "tokenizer.ggml.tokens", TL_GGUF_STRING, 9);
  for (int i = 0; i < 9; i++) tl_gguf_item_text(w, tokens[i], strlen(tokens[i]));
  tl_gguf_put_array(w, "tokenizer.ggml.token_type", TL_GGUF_I32, 9);
  tl_gguf_item_raw(w, types, sizeof types);
  tl_gguf_put_array(w, "tokenizer.ggml.scores", TL_GGUF_F32, 9);
  tl_gguf_item_raw(w, scores, sizeof scores);
  tl_gguf_put_string(w, "tokenizer.chat_template", "{{ \"x\" }}");
}

static void swap_bytes(const tl_str *all, size_t i, uint8_t value, int *taken, int *refused_ones) {
  char *json, *config, keep = all->p[i];
  all->p[i] = (char)value;
  put_file("flip.gguf", all->p, all->n);
  all->p[i] = keep;
  tl_status st = tl_tokenizer_to_json(at("flip.gguf"), &json, &config);
  st == TL_OK ? (*taken)++ : (*refused_ones)++;
  cJSON *j = json ? cJSON_Parse(json) : NULL, *c = config ? cJSON_Parse(config) : NULL;
  CHECK(st == TL_OK ? j && c : !json && !config && !strchr(tl_last_error(), '\n'), "byte %zu as %d", i, value);
  cJSON_Delete(j);
  cJSON_Delete(c);
  free(json);
  free(config);
}

// What the writer writes is read; a tokenizer cut at any length is refused, and damaged at any byte gives valid JSON or a refusal.
static void check_damaged(void (*keys)(tl_gguf_writer *)) {
  tl_gguf_writer w = {0};
  tl_str all = {0};
  char *json, *config;
  keys(&w);
  CHECK_OK(tl_gguf_write(&w, at("tok.gguf"), no_tensor, NULL));
  tl_gguf_writer_free(&w);
  CHECK_OK(tl_tokenizer_to_json(at("tok.gguf"), &json, &config));
  free(json);
  free(config);
  CHECK_OK(tl_read_file(at("tok.gguf"), &all.p, &all.n));
  size_t end = all.n;
  while (end > 0 && all.p[end - 1] != '}') end--;  // behind the template, the last key: padding
  for (size_t len = 0; len < end; len++) {
    put_file("cut.gguf", all.p, len);
    CHECK(tl_tokenizer_to_json(at("cut.gguf"), &json, &config) != TL_OK && !json && !config, "length %zu", len);
  }
  static const uint8_t values[] = {0, 1, 0x7f, 0xff};
  int taken = 0, refused_ones = 0;
  for (size_t i = 0; i < end; i++)
    for (int v = 0; v < 4; v++) swap_bytes(&all, i, values[v], &taken, &refused_ones);
  CHECK(taken > 0 && refused_ones > 0, "%d taken, %d refused", taken, refused_ones);
  tl_str_free(&all);
}

static void damaged_byte_level(void) { check_damaged(byte_level_keys); }
static void damaged_spm(void) { check_damaged(spm_keys); }

int main(void) {
  vocab_begin("convert");
  RUN(every_pre);
  RUN(spm_there_and_back);
  RUN(spm_ties);
  RUN(what_cannot_be_said);
  RUN(damaged_byte_level);
  RUN(damaged_spm);
  vocab_end();
  return test_done();
}

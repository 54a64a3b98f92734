// test_tokenizer.c: ids equal the `tokenizers` library's (tests/parity/make_tokenizer_fixtures.py made the expectations), bytes
// come back.
// Would catch: a pre-tokenizer's regex read differently, merges out of order, added tokens matched in the wrong place, Unicode
// tables of another version.
#include "vocab.h"
#include <pthread.h>

// ids one by one give what the first n of them decode to, at every n, and whole characters at every step
static void check_stream(const char *name, tl_tokenizer *t, int i, int n) {
  static char shown[1 << 16];
  tl_decoder *d = NULL;
  size_t used = 0;
  const char *text;
  int more;
  CHECK_OK(tl_decoder_create(t, false, &d));
  for (int k = 0; d && k <= n && k < 30; k++) {
    used = 0;
    for (int j = 0; j < k; j++) {
      CHECK_OK(tl_decoder_push(d, ids[j], &text, &more));
      CHECK(!more || (text[0] & 0xC0) != 0x80, "%s: text %d: a part begins inside a character", name, i);
      memcpy(shown + used, text, (size_t)more);
      used += (size_t)more;
    }
    CHECK_OK(tl_decoder_finish(d, &text, &more));
    memcpy(shown + used, text, (size_t)more);
    used += (size_t)more;
    int whole = decode(t, k, false);
    CHECK((size_t)whole == used && !memcmp(bytes, shown, used), "%s: text %d, the first %d ids: '%.*s' streamed, '%.*s' whole", name, i,
          k, (int)(used < 60 ? used : 60), shown, whole < 60 ? whole : 60, bytes);
  }
  tl_decoder_free(d);
}

enum { PLAIN, SPECIAL, DECODED, HALF, N_KEYS };
static const char *const keys[N_KEYS] = {"plain", "special", "decoded", "half"};

// What is compared of a text, appended to got[key].
static void add_text(tl_tokenizer *t, const text *s, tl_str *got) {
  int n = encode(t, s->p, s->n, true, true);
  tl_str_add(&got[SPECIAL], (char *)ids, (size_t)n * sizeof *ids);
  n = encode(t, s->p, s->n, false, true);
  tl_str_add(&got[PLAIN], (char *)ids, (size_t)n * sizeof *ids);
  tl_str_add(&got[DECODED], bytes, (size_t)decode(t, n, true));
  tl_str_add(&got[HALF], bytes, (size_t)decode(t, n / 2, false));
}

// group: texts that share a hash, a line end behind each; 1: none do
static void check_texts(const char *name, tl_tokenizer *t, const cJSON *e, int group) {
  for (int i = 0; t && e && i < n_texts; i += group) {
    tl_str got[N_KEYS] = {{0}};
    for (int j = i; j < i + group && j < n_texts; j++) {
      add_text(t, &texts[j], got);
      for (int k = 0; k < N_KEYS && group > 1; k++) tl_str_add(&got[k], "\n", 1);
    }
    for (int k = 0; k < N_KEYS; k++) {
      CHECK(same(e, keys[k], i / group, fnv(got[k].p, got[k].n)), "%s: %s of text %d to %d, '%.40s'", name, keys[k], i, i + group - 1,
            texts[i].p);
      tl_str_free(&got[k]);
    }
    if (i % 3 == 0) check_stream(name, t, i, encode(t, texts[i].p, texts[i].n, false, true));
  }
}

static void check_ids(const char *name, tl_tokenizer *t) {
  char file[100];
  snprintf(file, sizeof file, "%s.expected.json", name);
  cJSON *e = read_json(file);
  check_texts(name, t, e, 1);
  cJSON_Delete(e);
}

static size_t put(char *out, uint32_t c) {
  int more = c < 0x80 ? 0 : c < 0x800 ? 1 : c < 0x10000 ? 2 : 3;
  static const uint8_t lead[] = {0, 0xC0, 0xE0, 0xF0};
  out[0] = (char)(lead[more] | c >> 6 * more);
  for (int i = 1; i <= more; i++) out[i] = (char)(0x80 | (c >> 6 * (more - i) & 63));
  return (size_t)more + 1;
}

// FNV-1a over the ids of "a<c>1 <c>'s<c> " for every character c
static void check_every_character(const char *name, tl_tokenizer *t) {
  cJSON *o = read_json("characters.json");
  const char *want = cJSON_GetStringValue(cJSON_GetObjectItem(o, name));
  uint64_t h = 14695981039346656037u;
  for (uint32_t c = 1; want && c < 0x110000; c++) {
    if (c >= 0xD800 && c <= 0xDFFF) continue;
    char s[32], *p = s;
    *p++ = 'a', p += put(p, c), *p++ = '1', *p++ = ' ', p += put(p, c), *p++ = '\'', *p++ = 's', p += put(p, c), *p++ = ' ';
    int n = encode(t, s, (size_t)(p - s), false, true);
    ids[n++] = -1;
    for (int i = 0; i < n; i++) h = (h ^ (uint32_t)ids[i]) * 1099511628211u;
  }
  char got[20];
  snprintf(got, sizeof got, "%016llx", (unsigned long long)h);
  CHECK(want && !strcmp(got, want), "%s: the hash over every character is %s, not %s", name, got, want ? want : "there");
  cJSON_Delete(o);
}

static void check_style(const char *name, bool characters) {
  tl_tokenizer *t = load(name);
  if (!t) return;
  check_ids(name, t);
  if (characters) check_every_character(name, t);
  tl_tokenizer_free(t);
}
static void gpt2_style(void) { check_style("gpt2", true); }
static void qwen2_style(void) { check_style("qwen2", true); }
static void llama3_style(void) { check_style("llama3", true); }
static void smollm_style(void) { check_style("smollm", true); }
static void odd_style(void) { check_style("odd", true); }
static void llama2_style(void) { check_style("llama2", false); }
static void mistral_style(void) { check_style("mistral", false); }

// every part in its settings: the parts of a patch take the place of the base's
static void variants(void) {
  cJSON *list = read_json("variants.json"), *v, *part;
  int k = 0;
  cJSON_ArrayForEach(v, list) {
    char base[100], label[40];
    snprintf(base, sizeof base, "%s.json", cJSON_GetStringValue(cJSON_GetObjectItem(v, "base")));
    snprintf(label, sizeof label, "variant %d of %s", k++, base);
    cJSON *o = read_json(base), *model = cJSON_GetObjectItem(o, "model"), *flag;
    cJSON_ArrayForEach(part, cJSON_GetObjectItem(v, "patch")) {
      if (strcmp(part->string, "model")) cJSON_ReplaceItemInObjectCaseSensitive(o, part->string, cJSON_Duplicate(part, true));
      else cJSON_ArrayForEach(flag, part) cJSON_ReplaceItemInObjectCaseSensitive(model, flag->string, cJSON_Duplicate(flag, true));
    }
    char *out = cJSON_PrintUnformatted(o);
    tl_tokenizer *t = NULL;
    CHECK_OK(tl_tokenizer_load(write_file("variant.json", out), &t));
    check_texts(label, t, cJSON_GetObjectItem(v, "expected"), 8);
    tl_tokenizer_free(t);
    free(out);
    cJSON_Delete(o);
  }
  CHECK(k > 30, "only %d variants", k);
  cJSON_Delete(list);
}

// How many texts have other ids than gguf.json says; TL_SHOW=1 lists them.
static int count_differences(const char *label, tl_tokenizer *t, const cJSON *o, const char *key) {
  int differ = 0;
  for (int i = 0; t && i < n_texts; i++) {
    if (same(o, key, i, 0)) continue;  // not compared
    int n = encode(t, texts[i].p, texts[i].n, false, true);
    if (same(o, key, i, ids_hash(n))) continue;
    differ++;
    if (getenv("TL_SHOW")) printf("# %s %s: text %d '%.60s'\n", label, key, i, texts[i].p);
  }
  return differ;
}

static void spm_gguf(void) {
  cJSON *o = read_json("gguf.json");
  tl_tokenizer *t = NULL;
  CHECK_OK(tl_tokenizer_load(FIXTURES "spm.gguf", &t));
  CHECK(count_differences("spm.gguf", t, o, "spm") == 0);
  CHECK(t && tl_tokenizer_bos(t) == 1 && tl_tokenizer_eos(t) == 2);
  for (int i = 0; t && i < n_texts; i++) {  // whole texts come back, but for the mark itself, which becomes a space
    if (memmem(texts[i].p, texts[i].n, "\xE2\x96\x81", 3)) continue;
    int n = encode(t, texts[i].p, texts[i].n, true, false), m = decode(t, n, true);
    CHECK((size_t)m == texts[i].n && !memcmp(bytes, texts[i].p, texts[i].n), "text %d '%.40s' comes back as '%.*s'", i, texts[i].p, m, bytes);
    if (i % 3 == 0) check_stream("spm.gguf", t, i, n);
  }
  tl_tokenizer_free(t);
  cJSON_Delete(o);
}

static void gguf_pre(void) {
  cJSON *o = read_json("gguf.json"), *by_pre = cJSON_GetObjectItem(o, "bpe"), *v;
  int k = 0;
  cJSON_ArrayForEach(v, by_pre) {
    tl_tokenizer *t = load_pre(v->string);
    CHECK(t, "%s: %s", v->string, tl_last_error());
    int differ = count_differences("bpe.gguf", t, by_pre, v->string);
    if (getenv("TL_SHOW")) printf("# %s: %d differ\n", v->string, differ);
    CHECK(differ == 0, "%s: %d texts differ (TL_SHOW=1 lists them)", v->string, differ);
    tl_tokenizer_free(t);
    k++;
  }
  CHECK(k >= 15, "only %d names", k);
  CHECK(!load_pre("no-such-pre") && strstr(tl_last_error(), "tokenizer.ggml.pre is 'no-such-pre'; supported: gpt-2"), "%s", tl_last_error());
  cJSON_Delete(o);
}

static char real_path[1024];
static void smollm2_gguf(void) {
  tl_tokenizer *t = NULL;
  CHECK_OK(tl_tokenizer_load(real_path, &t));
  if (!t) return;
  check_ids("smollm2", t);
  check_every_character("smollm2", t);
  CHECK(tl_tokenizer_vocab_size(t) == 49152);
  CHECK(tl_tokenizer_eos(t) == tl_tokenizer_id(t, "<|im_end|>"));
  const char *chat = tl_tokenizer_chat_template(t, NULL);
  CHECK(chat && strstr(chat, "<|im_start|>"));
  tl_tokenizer_free(t);
}

// every text comes back where every byte is in the vocabulary and no normal form changes it
static void round_trip(void) {
  static const char *const names[] = {"gpt2", "llama3"};
  for (int k = 0; k < 2; k++) {
    tl_tokenizer *t = load(names[k]);
    for (int i = 0; t && i < n_texts; i++) {
      int n = encode(t, texts[i].p, texts[i].n, false, false), n_bytes;
      CHECK_OK(tl_tokenizer_decode(t, ids, n, false, bytes, sizeof bytes, &n_bytes));
      CHECK((size_t)n_bytes == texts[i].n && !memcmp(bytes, texts[i].p, texts[i].n), "%s: text %d '%.40s'", names[k], i,
            texts[i].p);
    }
    tl_tokenizer_free(t);
  }
}

// random bytes come back as what they are as UTF-8 with replacements, and the ids do not depend on the cache
static void random_bytes(void) {
  static const char *const names[] = {"gpt2", "llama3", "llama2"};
  for (int k = 0; k < 3; k++) {
    tl_tokenizer *t = load(names[k]);
    for (int round = 0; t && round < 4000; round++) {
      char s[48];
      int size = 1 + (int)(tl_uniform(11, (uint64_t)round, 0) * 40);
      bool ascii = round % 3 == 0;
      for (int i = 0; i < size; i++) s[i] = (char)(int)(tl_uniform(11, (uint64_t)round, (uint64_t)i + 1) * (ascii ? 128 : 256));
      int n = encode(t, s, (size_t)size, false, false), m = decode(t, n, false);
      static char first[1024];
      memcpy(first, bytes, (size_t)m);
      tl_str fixed = {0};
      text_utf8_fix(&fixed, s, (size_t)size);
      CHECK((size_t)m == fixed.n && !memcmp(first, fixed.p, fixed.n), "%s: round %d comes back as '%.*s'", names[k], round, m, first);
      check_stream(names[k], t, round, n);
      tl_str_free(&fixed);
    }
    tl_tokenizer_free(t);
  }
}

// special tokens are read as plain text when the caller does not trust the text
static void special_as_text(void) {
  tl_tokenizer *t = load("qwen2");
  int im_end = tl_tokenizer_id(t, "<|im_end|>"), call = tl_tokenizer_id(t, "<tool_call>");
  int n = encode(t, "<|im_end|>", 10, false, true);
  CHECK(n == 1 && ids[0] == im_end && tl_tokenizer_is_special(t, im_end) && !tl_tokenizer_is_special(t, call));
  n = encode(t, "<|im_end|>", 10, false, false);
  CHECK(n > 1);
  for (int i = 0; i < n; i++) CHECK(ids[i] != im_end);
  n = encode(t, "<tool_call>", 11, false, false);
  CHECK(n == 1 && ids[0] == call);
  CHECK(!strcmp(tl_tokenizer_token(t, im_end), "<|im_end|>"));
  CHECK(!tl_tokenizer_token(t, -1) && !tl_tokenizer_token(t, 1 << 30) && tl_tokenizer_id(t, "no such token") == -1);
  int32_t with[] = {im_end, call, -7, 1 << 30};
  int n_bytes;
  CHECK_OK(tl_tokenizer_decode(t, with, 4, true, bytes, sizeof bytes, &n_bytes));
  CHECK(n_bytes == 11 && !memcmp(bytes, "<tool_call>", 11));
  tl_tokenizer_free(t);
}

// bytes that are not UTF-8 are encoded as U+FFFD, one for each maximal ill-formed part
static void ill_formed_utf8(void) {
  static const struct {
    const char *bad, *good;
  } cases[] = {{"a\xff", "a\xef\xbf\xbd"},
               {"\xe6\x97", "\xef\xbf\xbd"},
               {"\xe6\x97z", "\xef\xbf\xbdz"},
               {"\xc0\xaf", "\xef\xbf\xbd\xef\xbf\xbd"},
               {"\xed\xa0\x80", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"},
               {"\xf0\x9f\x98", "\xef\xbf\xbd"},
               {"\xf4\x90\x80\x80", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"},
               {"\x80\xe6\x97\xa5", "\xef\xbf\xbd\xe6\x97\xa5"}};
  tl_tokenizer *t = load("gpt2");
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    int32_t first[64];
    int n = encode(t, cases[i].bad, strlen(cases[i].bad), false, true);
    memcpy(first, ids, (size_t)n * sizeof *ids);
    CHECK(n == encode(t, cases[i].good, strlen(cases[i].good), false, true) && !memcmp(first, ids, (size_t)n * sizeof *ids),
          "case %zu", i);
  }
  tl_tokenizer_free(t);
}

// a short buffer loses nothing: the count says how much room is wanted, the ids there are the first ones
static void capacity(void) {
  tl_tokenizer *t = load("gpt2");
  const char *s = "The quick brown fox, 12345 times.";
  int n = encode(t, s, strlen(s), false, true), m;
  int32_t few[3] = {-1, -1, -1};
  CHECK_OK(tl_tokenizer_encode(t, s, strlen(s), false, true, few, 2, &m));
  CHECK(m == n && few[0] == ids[0] && few[1] == ids[1] && few[2] == -1);
  CHECK_OK(tl_tokenizer_encode(t, s, strlen(s), false, true, NULL, 0, &m));
  CHECK(m == n);
  char some[6] = "......";
  CHECK_OK(tl_tokenizer_decode(t, ids, n, false, some, 5, &m));
  CHECK(m == (int)strlen(s) && !memcmp(some, "The q.", 6));
  tl_tokenizer_free(t);
}

// a megabyte in one piece takes the heap, and gives what short pieces give where merges do not cross
static void long_pieces(void) {
  tl_tokenizer *t = load("gpt2");
  size_t n = 1 << 20;
  char *s = malloc(n);
  int32_t *out = malloc(n * sizeof *out);
  static const char word[] = "abcabd";
  for (size_t i = 0; i < n; i++) s[i] = word[i % 6];
  int m = 0, back = 0;
  CHECK_OK(tl_tokenizer_encode(t, s, n, false, true, out, (int)n, &m));
  CHECK(m > 0 && m <= (int)n);
  char *again = malloc(n);
  CHECK_OK(tl_tokenizer_decode(t, out, m, false, again, (int)n, &back));
  CHECK(back == (int)n && !memcmp(s, again, n));
  free(s);
  free(out);
  free(again);
  tl_tokenizer_free(t);
}

static void *encode_often(void *arg) {
  tl_tokenizer *t = arg;
  static _Thread_local int32_t mine[4096];
  uint64_t sum = 0;
  for (int k = 0; k < 20; k++)
    for (int i = 0; i < n_texts; i++) {
      int n = 0;
      if (tl_tokenizer_encode(t, texts[i].p, texts[i].n, false, true, mine, 4096, &n) != TL_OK) return NULL;
      for (int j = 0; j < n && j < 4096; j++) sum = sum * 31 + (uint32_t)mine[j];
    }
  return (void *)(uintptr_t)sum;
}
static void threads(void) {
  tl_tokenizer *t = load("qwen2");
  void *want = encode_often(t), *got;
  pthread_t id[4];
  for (int i = 0; i < 4; i++) pthread_create(&id[i], NULL, encode_often, t);
  for (int i = 0; i < 4; i++) {
    pthread_join(id[i], &got);
    CHECK(got == want, "thread %d", i);
  }
  tl_tokenizer_free(t);
}

int main(void) {
  vocab_begin("tokenizer");
  RUN(gpt2_style);
  RUN(qwen2_style);
  RUN(llama3_style);
  RUN(smollm_style);
  RUN(odd_style);
  RUN(llama2_style);
  RUN(mistral_style);
  RUN(variants);
  RUN(spm_gguf);
  RUN(gguf_pre);
  const char *home = getenv("TL_HOME"), *user = getenv("HOME");
  snprintf(real_path, sizeof real_path, "%s%s/models/smollm2-135m-instruct/SmolLM2-135M-Instruct.Q4_1.gguf",
           home && *home ? home : user ? user : "", home && *home ? "" : "/.cache/tlrun");
  if (access(real_path, R_OK) == 0) RUN(smollm2_gguf);
  else test_skip("smollm2_gguf", "smollm2-135m-instruct is not in the cache (tlrun fetch smollm2-135m-instruct)");
  RUN(round_trip);
  RUN(random_bytes);
  RUN(special_as_text);
  RUN(ill_formed_utf8);
  RUN(capacity);
  RUN(long_pieces);
  RUN(threads);
  vocab_end();
  return test_done();
}

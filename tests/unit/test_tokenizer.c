// test_tokenizer.c: ids equal the `tokenizers` library's (tests/parity/make_tokenizer_fixtures.py made the expectations), bytes
// come back, files that are not what they should be are refused with a line that says so.
// Would catch: a pre-tokenizer's regex read differently, merges out of order, added tokens matched in the wrong place, Unicode
// tables of another version, a length or id of a file that is trusted.
#include "../../runtime/tl.h"
#include "../test.h"
#include <cjson/cJSON.h>
#include <pthread.h>
#include <unistd.h>

#define FIXTURES TL_SOURCE_DIR "/tests/parity/fixtures/tokenizer/"
enum { ROOM = 1 << 16 };
static int32_t ids[ROOM];
static char bytes[1 << 20];

static char *read_text(const char *path, size_t *n) {
  FILE *f = fopen(path, "rb");
  if (!f) return NULL;
  char *p = malloc(8 << 20);
  *n = fread(p, 1, (8 << 20) - 1, f);
  p[*n] = 0;
  fclose(f);
  return p;
}

static cJSON *read_json(const char *name) {
  char path[1024];
  size_t n;
  snprintf(path, sizeof path, FIXTURES "%s", name);
  char *text = read_text(path, &n);
  cJSON *o = text ? cJSON_Parse(text) : NULL;
  free(text);
  CHECK(o, "%s cannot be read", name);
  return o;
}

typedef struct text {
  char *p;
  size_t n;
} text;
static text *texts;
static int n_texts;

static void read_texts(void) {
  cJSON *list = read_json("strings.json"), *v;
  texts = calloc((size_t)cJSON_GetArraySize(list), sizeof *texts);
  cJSON_ArrayForEach(v, list) {
    text *t = &texts[n_texts++];
    const char *hex = cJSON_GetStringValue(cJSON_GetObjectItem(v, "hex"));
    t->n = hex ? strlen(hex) / 2 : strlen(v->valuestring);
    t->p = malloc(t->n + 1);
    if (!hex) memcpy(t->p, v->valuestring, t->n);
    for (size_t i = 0; hex && i < t->n; i++) {
      unsigned b;
      sscanf(hex + 2 * i, "%2x", &b);
      t->p[i] = (char)b;
    }
    t->p[t->n] = 0;
  }
  cJSON_Delete(list);
}

static int encode(tl_tokenizer *t, const char *s, size_t n, bool add, bool parse) {
  int count = -1;
  CHECK_OK(tl_tokenizer_encode(t, s, n, add, parse, ids, ROOM, &count));
  return count;
}

static bool same(const cJSON *want, int n) {
  const cJSON *v = want ? want->child : NULL;
  for (int i = 0; i < n; i++, v = v->next)
    if (!v || (int32_t)v->valuedouble != ids[i]) return false;
  return !v;
}

static void check_ids(const char *name, tl_tokenizer *t) {
  char file[100];
  snprintf(file, sizeof file, "%s.expected.json", name);
  cJSON *e = read_json(file);
  if (!e) return;
  const cJSON *plain = cJSON_GetObjectItem(e, "plain")->child, *special = cJSON_GetObjectItem(e, "special");
  const cJSON *decoded = cJSON_GetObjectItem(e, "decoded");
  special = special ? special->child : plain;
  for (int i = 0; i < n_texts && plain && special; i++, plain = plain->next, special = special->next) {
    const text *s = &texts[i];
    char index[20];
    snprintf(index, sizeof index, "%d", i);
    CHECK(same(special, encode(t, s->p, s->n, true, true)), "%s: text %d '%.40s' with special tokens", name, i, s->p);
    int n = encode(t, s->p, s->n, false, true), n_bytes = 0;
    CHECK(same(plain, n), "%s: text %d '%.40s'", name, i, s->p);
    const char *want = cJSON_GetStringValue(cJSON_GetObjectItem(decoded, index));
    if (!want) continue;
    CHECK_OK(tl_tokenizer_decode(t, ids, n, true, bytes, sizeof bytes, &n_bytes));
    CHECK((size_t)n_bytes == strlen(want) && !memcmp(bytes, want, (size_t)n_bytes), "%s: text %d decodes to '%.*s'", name, i,
          n_bytes, bytes);
  }
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

static tl_tokenizer *load(const char *name) {
  char path[1024];
  tl_tokenizer *t = NULL;
  snprintf(path, sizeof path, FIXTURES "%s.json", name);
  CHECK_OK(tl_tokenizer_load(path, &t));
  return t;
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
static void odd_style(void) { check_style("odd", false); }

static char real_path[1024];
static void smollm2_gguf(void) {
  tl_tokenizer *t = NULL;
  CHECK_OK(tl_tokenizer_load(real_path, &t));
  if (!t) return;
  check_ids("smollm2", t);
  check_every_character("smollm2", t);
  CHECK(tl_tokenizer_vocab_size(t) == 49152);
  CHECK(tl_tokenizer_eos(t) == tl_tokenizer_id(t, "<|im_end|>"));
  CHECK(tl_tokenizer_chat_template(t) && strstr(tl_tokenizer_chat_template(t), "<|im_start|>"));
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

static char folder[64];
static const char *write_file(const char *name, const char *content) {
  static char path[200];
  snprintf(path, sizeof path, "%s/%s", folder, name);
  CHECK_OK(tl_write_file(path, content, strlen(content)));
  return path;
}

static void refuses(const char *content, const char *words) {
  tl_tokenizer *t = NULL;
  const char *path = write_file("bad.json", content);
  tl_status s = tl_tokenizer_load(path, &t);
  CHECK(s != TL_OK && !t, "accepted: %.60s", content);
  CHECK(strstr(tl_last_error(), words) && strstr(tl_last_error(), "bad.json"), "'%s' lacks '%s'", tl_last_error(), words);
  tl_tokenizer_free(t);
}

#define MODEL(more) "\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":1,\"ab\":2},\"merges\":[\"a b\"]" more "}"
#define BYTES ",\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false}"
#define SPLIT(pattern)                                                                               \
  ",\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Split\",\"behavior\":\"Isolated\"," \
  "\"pattern\":{\"Regex\":\"" pattern "\"}},{\"type\":\"ByteLevel\"}]}"
static void bad_files(void) {
  tl_tokenizer *t = NULL;
  refuses("", "not JSON");
  refuses("{\"model\":", "not JSON");
  refuses("\"\xff\"", "bad UTF-8");
  refuses("{}", "not a tokenizer.json");
  refuses("{\"model\":{\"type\":\"Unigram\",\"vocab\":[]}}", "model.type is Unigram; supported: BPE");
  refuses("{\"model\":{\"type\":\"WordPiece\",\"vocab\":{}}}", "WordPiece");
  refuses("{" MODEL(",\"byte_fallback\":true") BYTES "}", "byte 0 is not in the vocabulary");
  refuses("{" MODEL("") ",\"pre_tokenizer\":{\"type\":\"Metaspace\"}}", "Metaspace: replacement is not one character");
  refuses("{" MODEL("") ",\"pre_tokenizer\":{\"type\":\"UnicodeScripts\"}}", "pre_tokenizer is UnicodeScripts; supported: none,");
  refuses("{" MODEL("") BYTES ",\"normalizer\":{\"type\":\"Precompiled\"}}", "normalizer is Precompiled; supported: none,");
  refuses("{" MODEL("") BYTES ",\"normalizer\":{\"type\":\"Replace\",\"pattern\":{\"Regex\":\"(\"},\"content\":\"\"}}",
          "the normalizer's pattern '(' does not compile");
  refuses("{" MODEL("") BYTES ",\"decoder\":{\"type\":\"CTC\"}}", "decoder is CTC; supported: none,");
  refuses("{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":-1},\"merges\":[]}" BYTES "}", "not an id");
  refuses("{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":99999999},\"merges\":[]}" BYTES "}", "99999999");
  refuses("{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":1,\"b\":1},\"merges\":[]}" BYTES "}", "both 'a' and 'b'");
  refuses("{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[\"a c\"]}" BYTES "}", "its right part is not");
  refuses("{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[[\"a\"]]}" BYTES "}", "not a pair");
  refuses("{\"model\":{\"type\":\"BPE\",\"vocab\":{},\"merges\":[]}" BYTES "}", "empty");
  refuses("{" MODEL("") SPLIT("(a") "}", "does not compile");
  refuses("{" MODEL("") SPLIT("[a&&b]") "}", "intersection");
  refuses("{" MODEL("") SPLIT("[a[bc]]") "}", "set inside a set");
  refuses("{" MODEL("") BYTES ",\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":"
          "{\"id\":\"x\"}}],\"special_tokens\":{\"x\":{\"ids\":[77]}}}}", "77");
  CHECK(tl_tokenizer_load("/nonexistent/tokenizer.json", &t) == TL_E_IO && !t);
  CHECK(tl_tokenizer_load(folder, &t) != TL_OK && strstr(tl_last_error(), "no tokenizer.json"), "%s", tl_last_error());
  CHECK(tl_tokenizer_load(write_file("bad.gguf", "GGUF"), &t) != TL_OK && !t);
}

// what lies beside tokenizer.json: bos, eos, the template, and the file that replaces the template
static void companions(void) {
  tl_tokenizer *t = NULL;
  write_file("tokenizer.json", "{" MODEL("") BYTES ",\"added_tokens\":[{\"id\":3,\"content\":\"</s>\",\"special\":true},"
             "{\"id\":4,\"content\":\"<s>\",\"special\":true}]}");
  write_file("tokenizer_config.json", "{\"bos_token\":{\"content\":\"<s>\"},\"eos_token\":\"</s>\",\"chat_template\":"
             "[{\"name\":\"x\",\"template\":\"no\"},{\"name\":\"default\",\"template\":\"yes\"}]}");
  CHECK_OK(tl_tokenizer_load(folder, &t));
  CHECK(t && tl_tokenizer_bos(t) == 4 && tl_tokenizer_eos(t) == 3 && !strcmp(tl_tokenizer_chat_template(t), "yes"));
  tl_tokenizer_free(t);
  write_file("chat_template.jinja", "from the file");
  CHECK_OK(tl_tokenizer_load(folder, &t));
  CHECK(t && !strcmp(tl_tokenizer_chat_template(t), "from the file"));
  int n = t ? encode(t, "ab</s>ba", 8, false, true) : 0;
  CHECK(n == 4 && ids[0] == 2 && ids[1] == 3 && ids[2] == 1 && ids[3] == 0);
  tl_tokenizer_free(t);
}

int main(void) {
  read_texts();
  snprintf(folder, sizeof folder, "/tmp/tl_tokenizer_%ld", (long)getpid());
  tl_mkdirs(folder);
  RUN(gpt2_style);
  RUN(qwen2_style);
  RUN(llama3_style);
  RUN(smollm_style);
  RUN(odd_style);
  const char *home = getenv("TL_HOME"), *user = getenv("HOME");
  snprintf(real_path, sizeof real_path, "%s%s/models/smollm2-135m-instruct/SmolLM2-135M-Instruct.Q4_1.gguf",
           home && *home ? home : user ? user : "", home && *home ? "" : "/.cache/tlrun");
  if (access(real_path, R_OK) == 0) RUN(smollm2_gguf);
  else test_skip("smollm2_gguf", "smollm2-135m-instruct is not in the cache (tlrun fetch smollm2-135m-instruct)");
  RUN(round_trip);
  RUN(special_as_text);
  RUN(ill_formed_utf8);
  RUN(capacity);
  RUN(long_pieces);
  RUN(threads);
  RUN(bad_files);
  RUN(companions);
  static const char *const files[] = {"bad.json", "bad.gguf", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"};
  for (int i = 0; i < 5; i++) {
    char path[200];
    snprintf(path, sizeof path, "%s/%s", folder, files[i]);
    remove(path);
  }
  rmdir(folder);
  for (int i = 0; i < n_texts; i++) free(texts[i].p);
  free(texts);
  return test_done();
}

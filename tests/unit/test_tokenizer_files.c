// test_tokenizer_files.c: files that are not what they should be are refused with a line that says so, and what lies beside
// tokenizer.json is read. Would catch: a length or id of a file that is trusted, a pattern that runs for minutes.
#include "vocab.h"

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
  refuses("{" MODEL("") BYTES "} {}", "not JSON");
  refuses("{" MODEL("") BYTES ",\"normalizer\":null,\"normalizer\":{\"type\":\"NFC\"}}", "key normalizer is there twice");
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
  refuses("{" MODEL("") SPLIT("[[:alpha:]]+") "}", "a POSIX class");
  refuses("{" MODEL("") SPLIT("a{1,3}+") "}", "a + or ? behind an interval");
  refuses("{" MODEL("") SPLIT("a{3}?") "}", "a + or ? behind an interval");
  refuses("{" MODEL("") SPLIT("\\\\X") "}", "an escape that has no counterpart");
  refuses("{" MODEL("") BYTES ",\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":"
          "{\"id\":\"x\"}}],\"special_tokens\":{\"x\":{\"ids\":[77]}}}}", "77");
  CHECK(tl_tokenizer_load("/nonexistent/tokenizer.json", &t) == TL_E_IO && !t);
  CHECK(tl_tokenizer_load(folder, &t) != TL_OK && strstr(tl_last_error(), "no tokenizer.json"), "%s", tl_last_error());
  CHECK(tl_tokenizer_load(write_file("bad.gguf", "GGUF"), &t) != TL_OK && !t);
}

// a file cut short anywhere is refused with a line that names it; one byte changed is refused or read, nothing else
static void cut_and_changed(void) {
  static const char whole[] =
      "{\"added_tokens\":[{\"id\":6,\"content\":\"<s>\",\"special\":true,\"lstrip\":true}],\"normalizer\":{\"type\":\"Sequence\","
      "\"normalizers\":[{\"type\":\"NFC\"},{\"type\":\"Replace\",\"pattern\":{\"Regex\":\"x+\"},\"content\":\"a\"}]},\"pre_tokenizer\":{"
      "\"type\":\"Metaspace\",\"replacement\":\"_\",\"prepend_scheme\":\"first\",\"split\":true},\"post_processor\":{\"type\":"
      "\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"<s>\",\"type_id\":0}},{\"Sequence\":{\"id\":\"A\"}}],"
      "\"special_tokens\":{\"<s>\":{\"id\":\"<s>\",\"ids\":[6],\"tokens\":[\"<s>\"]}}},\"decoder\":{\"type\":\"Sequence\",\"decoders\":[{"
      "\"type\":\"Replace\",\"pattern\":{\"String\":\"_\"},\"content\":\" \"},{\"type\":\"Fuse\"},{\"type\":\"Strip\",\"content\":\" \","
      "\"start\":1,\"stop\":0}]},\"model\":{\"type\":\"BPE\",\"unk_token\":\"u\",\"vocab\":{\"a\":0,\"b\":1,\"ab\":2,\"_\":3,\"u\":4,"
      "\"_a\":5},\"merges\":[\"a b\",[\"_\",\"a\"]]}}";
  tl_tokenizer *t = NULL;
  for (size_t n = 0; n < sizeof whole - 1; n++) {
    tl_status s = tl_tokenizer_load(write_bytes("bad.json", whole, n), &t);
    CHECK(s != TL_OK && !t && strstr(tl_last_error(), "bad.json"), "%zu bytes: %s", n, tl_last_error());
  }
  char changed[sizeof whole];
  for (size_t n = 0; n < sizeof whole - 1; n++) {
    static const char bytes_in[] = "\"9-}\\\xff";
    memcpy(changed, whole, sizeof whole);
    changed[n] = bytes_in[n % (sizeof bytes_in - 1)];
    if (tl_tokenizer_load(write_bytes("bad.json", changed, sizeof whole - 1), &t) == TL_OK) {
      encode(t, "ab xx b<s>", 10, true, true);
      decode(t, encode(t, "ab q", 4, true, true), false);
    } else CHECK(!t && strstr(tl_last_error(), "bad.json"), "byte %zu: %s", n, tl_last_error());
    tl_tokenizer_free(t);
  }
}

// patterns that take too long, in the pre-tokenizer and the normaliser, end in an error, not in minutes
static void patterns_that_blow_up(void) {
  static const char *const files[] = {"{" MODEL("") SPLIT("(a|a|aa)+$") "}",
                                      "{" MODEL("") BYTES ",\"normalizer\":{\"type\":\"Replace\",\"pattern\":{\"Regex\":\"(a|a|aa)+$\"},"
                                      "\"content\":\"\"}}"};
  for (int i = 0; i < 2; i++) {
    tl_tokenizer *t = NULL;
    char s[2001];
    int n = -1;
    memset(s, 'a', sizeof s);
    s[2000] = 'b';
    CHECK_OK(tl_tokenizer_load(write_file("bad.json", files[i]), &t));
    tl_status status = t ? tl_tokenizer_encode(t, s, sizeof s, false, true, ids, ROOM, &n) : TL_OK;
    CHECK(status == TL_E_UNSUPPORTED && strstr(tl_last_error(), "bad.json") && strstr(tl_last_error(), "gave up"), "%d: %s", i, tl_last_error());
    n = t ? encode(t, "ab", 2, false, true) : 0;  // and the next text is none the worse
    CHECK(n == 1 || n == 2);
    tl_tokenizer_free(t);
  }
  refuses("{" MODEL("") SPLIT("(?:(?:a{1000}){1000}){1000}") "}", "does not compile");
}

// more steps, or deeper sequences, than there is room for
static void deep_and_long(void) {
  char *s = malloc(1 << 16), *p = s;
  p += sprintf(p, "{" MODEL("") BYTES ",\"normalizer\":");
  for (int i = 0; i < 20; i++) p += sprintf(p, "{\"type\":\"Sequence\",\"normalizers\":[");
  p += sprintf(p, "{\"type\":\"NFC\"}");
  for (int i = 0; i < 20; i++) p += sprintf(p, "]}");
  sprintf(p, "}");
  refuses(s, "deep");
  p = s + sprintf(s, "{" MODEL("") BYTES ",\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[");
  for (int i = 0; i < 40; i++) p += sprintf(p, "{\"type\":\"NFC\"},");
  sprintf(p - 1, "]}}");
  refuses(s, "more than 32 steps");
  free(s);
}

// what lies beside tokenizer.json: bos, eos, the template, and the file that replaces the template
static void companions(void) {
  tl_tokenizer *t = NULL;
  write_file("tokenizer.json", "{" MODEL("") BYTES ",\"added_tokens\":[{\"id\":3,\"content\":\"</s>\",\"special\":true},"
             "{\"id\":4,\"content\":\"<s>\",\"special\":true}]}");
  write_file("tokenizer_config.json", "{\"bos_token\":{\"content\":\"<s>\"},\"eos_token\":\"</s>\",\"chat_template\":"
             "[{\"name\":\"x\",\"template\":\"no\"},{\"name\":\"default\",\"template\":\"yes\"}]}");
  CHECK_OK(tl_tokenizer_load(folder, &t));
  CHECK(t && tl_tokenizer_bos(t) == 4 && tl_tokenizer_eos(t) == 3 && !strcmp(tl_tokenizer_chat_template(t, NULL), "yes"));
  CHECK(t && !strcmp(tl_tokenizer_chat_template(t, "x"), "no") && !tl_tokenizer_chat_template(t, "y"));
  tl_tokenizer_free(t);
  write_file("chat_template.jinja", "from the file");
  CHECK_OK(tl_tokenizer_load(folder, &t));
  CHECK(t && !strcmp(tl_tokenizer_chat_template(t, NULL), "from the file"));
  CHECK(t && !tl_tokenizer_chat_template(t, "x"), "files replace what tokenizer_config.json has");
  int n = t ? encode(t, "ab</s>ba", 8, false, true) : 0;
  CHECK(n == 4 && ids[0] == 2 && ids[1] == 3 && ids[2] == 1 && ids[3] == 0);
  tl_tokenizer_free(t);
}

// an added token of spaces that the one before it has eaten is none
static void eaten_spaces(void) {
  tl_tokenizer *t = NULL;
  const char *path = write_file("eaten.json", "{" MODEL("") BYTES ",\"added_tokens\":[{\"id\":3,\"content\":\"x\",\"special\":true,\"rstrip\":true},"
                                "{\"id\":4,\"content\":\"  \",\"special\":true,\"lstrip\":true}]}");
  CHECK_OK(tl_tokenizer_load(path, &t));
  int n = t ? encode(t, "ax  b  a", 8, false, true) : 0;
  CHECK(n == 5 && ids[0] == 0 && ids[1] == 3 && ids[2] == 1 && ids[3] == 4 && ids[4] == 0, "%d ids", n);
  tl_tokenizer_free(t);
}

int main(void) {
  vocab_begin("tokenizer_files");
  RUN(bad_files);
  RUN(cut_and_changed);
  RUN(patterns_that_blow_up);
  RUN(deep_and_long);
  RUN(companions);
  RUN(eaten_spaces);
  vocab_end();
  return test_done();
}

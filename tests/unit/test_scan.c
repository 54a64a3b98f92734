// test_scan.c: the written-out pre-tokenizers split exactly as their regexes do: around every Unicode character, and in random text
// made of what their rules speak of.
// Would catch: a character in another class than the regex has it in, a rule in another order, a run that ends one character off.
#include "../../runtime/text/text.h"
#include "../test.h"

typedef struct pair {
  const char *name, *pattern;
  text_scanner scan;
  pcre2_code *re;
} pair;
static const char digit[] = "[\\p{N}\\x{11de0}-\\x{11de9}\\x{16ff4}-\\x{16ff6}]";
static pair pairs[5];
static pcre2_match_data *match;

static void compile_pairs(void) {
  static char runs[300], singles[300];
  snprintf(singles, sizeof singles, "%s|(?:(?!%s)[\\s\\S])+", digit, digit);
  snprintf(runs, sizeof runs, "%s+|(?:(?!%s)[\\s\\S])+", digit, digit);
  pairs[0] = (pair){"gpt2", TEXT_GPT2_PATTERN, text_scan_gpt2, NULL};
  pairs[1] = (pair){"qwen2", TEXT_QWEN2_PATTERN, text_scan_qwen2, NULL};
  pairs[2] = (pair){"llama3", TEXT_LLAMA3_PATTERN, text_scan_llama3, NULL};
  pairs[3] = (pair){"digits", singles, text_scan_digits, NULL};
  pairs[4] = (pair){"digit runs", runs, text_scan_digit_runs, NULL};
  match = pcre2_match_data_create(8, NULL);
  for (int i = 0; i < 5; i++) CHECK_OK(text_compile("test", "pattern", pairs[i].pattern, TEXT_ONIGURUMA, &pairs[i].re));
}

static void compare(const pair *k, const char *p, size_t n) {
  text_matcher m = text_matches("test", match, k->re, p, n);
  size_t at = 0, start, end;
  for (bool found; at < n;) {
    size_t stop = (size_t)(k->scan(p + at, p + n) - p);
    CHECK_OK(text_next_match(&m, &found, &start, &end));
    if (!found || start != at || end != stop || stop <= at) {
      CHECK(0, "%s: at byte %zu of '%.*s' to %zu, the regex: %zu to %zu", k->name, at, (int)(n < 80 ? n : 80), p, stop, start, end);
      return;
    }
    at = stop;
  }
}

static void every_character(void) {
  for (uint32_t c = 1; c < 0x110000; c++) {
    if ((c >= 0xD800 && c <= 0xDFFF) || (c >= 0x33000 && c % 127 && (c & ~0x1FFu) != 0xE0000)) continue;  // there is nothing there
    char s[64], *p = s;
    static const char *const around[] = {"a", "1 ", " ", "", "!", "\n", "'", "s 12"};
    for (int i = 0; i < 8; i++) {
      size_t n = strlen(around[i]);
      memcpy(p, around[i], n);
      p += n;
      p += text_utf8_put(c, p);
    }
    for (int i = 0; i < 5; i++) compare(&pairs[i], s, (size_t)(p - s));
  }
}

static void random_text(void) {
  static const char *const parts[] = {" ", " ", "  ", "\n", "\r", "\t", "\x0b", "\xc2\xa0", "\xe2\x80\xa8", "\xe3\x80\x80", "a", "B", "\xc3\xa9", "\xe6\x97\xa5",
                                      "\xc5\xbf", "\xe2\x84\xaa", "1", "23", "4567", "\xd9\xa3", "\xc2\xbd", "\xe2\x85\xa7", "'", "'s", "'S", "'re", "'rE",
                                      "'ll", "'lL", "'v", "'ve", "'m", "'d", "'t", "'l", "'r", "!", "...", "_", "/", "\xe2\x80\x99", "\xcc\x81",
                                      "\xf0\x9f\x98\x80", "\xe2\x80\x8d", "\xef\xbf\xbd", "\x01"};
  enum { N = sizeof parts / sizeof *parts };
  for (int round = 0; round < 60000; round++) {
    char s[256];
    size_t n = 0;
    int count = 1 + (int)(tl_uniform(7, (uint64_t)round, 0) * 24);
    for (int i = 1; i <= count; i++) {
      const char *part = parts[(int)(tl_uniform(7, (uint64_t)round, (uint64_t)i) * N)];
      memcpy(s + n, part, strlen(part));
      n += strlen(part);
    }
    for (int i = 0; i < 5; i++) compare(&pairs[i], s, n);
  }
}

// the pre-tokenizer takes the scanner for these patterns, and only where it gives the same
static void which_are_known(void) {
  CHECK(text_known_scanner(TEXT_GPT2_PATTERN) == text_scan_gpt2 && text_known_scanner(TEXT_QWEN2_PATTERN) == text_scan_qwen2);
  CHECK(text_known_scanner(TEXT_LLAMA3_PATTERN) == text_scan_llama3 && !text_known_scanner("\\s+"));
  tl_tokenizer t = {.path = "test"};
  CHECK_OK(text_add_split(&t, TEXT_GPT2_PATTERN, TEXT_ONIGURUMA, TEXT_ISOLATED, false));
  CHECK_OK(text_add_split(&t, TEXT_GPT2_PATTERN, TEXT_ONIGURUMA, TEXT_REMOVED, true));
  CHECK_OK(text_add_split(&t, TEXT_GPT2_PATTERN, TEXT_ONIGURUMA, TEXT_REMOVED, false));
  CHECK_OK(text_add_split(&t, TEXT_GPT2_PATTERN, TEXT_LITERAL, TEXT_ISOLATED, false));
  CHECK(t.n_steps == 4 && t.steps[0].kind == TEXT_SCAN && t.steps[1].kind == TEXT_SCAN && t.steps[2].kind == TEXT_REGEX &&
        t.steps[3].kind == TEXT_REGEX);
  for (int i = 0; i < t.n_steps; i++) pcre2_code_free(t.steps[i].re);
  free(t.steps);
}

int main(void) {
  RUN(compile_pairs);
  RUN(every_character);
  RUN(random_text);
  RUN(which_are_known);
  for (int i = 0; i < 5; i++) pcre2_code_free(pairs[i].re);
  pcre2_match_data_free(match);
  return test_done();
}

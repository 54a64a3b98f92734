// texts.c: tokenizer.json and YAML. See targets.h.
#include "models.h"
#include "targets.h"
#include "../../runtime/base/gguf.h"
#include "../../runtime/text/tokenizer.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// What was written must be readable.
static void read_again(const char *path) {
  tl_tokenizer *t = NULL;
  if (tl_tokenizer_load(path, &t) != TL_OK) {
    fprintf(stderr, "a converted tokenizer is refused: %s\n", tl_last_error());
    abort();
  }
  tl_tokenizer_free(t);
}

static tl_status no_tensor(void *ctx, size_t i, uint8_t *dst) {
  return TL_E_INTERNAL;
}

// A tokenizer in the other format is refused or read again.
static void convert(const char *path, int n_rows) {
  if (tl_gguf_is(path)) {
    char *json, *config;
    tl_status s = tl_tokenizer_to_json(path, &json, &config);
    fuzz_refused(s);
    if (s == TL_OK)
      read_again(fuzz_file("converted.json", json, strlen(json)));
    free(json);
    free(config);
    return;
  }
  tl_gguf_writer w = {0};
  bool with_ids;
  int eos;
  tl_status s = tl_tokenizer_to_gguf(path, n_rows, &w, &with_ids, &eos);
  fuzz_refused(s);
  if (s == TL_OK && tl_gguf_write(&w, fuzz_path("converted.gguf"), no_tensor, NULL) == TL_OK)
    read_again(fuzz_path("converted.gguf"));
  tl_gguf_writer_free(&w);
}

bool fuzz_tokenizer_at(const char *path) {
  static const char text[] = "ab<s>  Hello, w\xc3\xb6rld 123 \xf0\x9f\x98\x80 it's\n\n</s>\xff x";
  tl_tokenizer *t = NULL;
  tl_status s = tl_tokenizer_load(path, &t);
  fuzz_refused(s);
  if (s != TL_OK)
    return false;
  int32_t ids[256];
  char bytes[1024];
  int n = 0, m = 0;
  for (int special = 0; special < 2; special++) {
    s = tl_tokenizer_encode(t, text, sizeof text - 1, special, special, ids, 256, &n);
    fuzz_refused(s);
    if (s == TL_OK && n <= 256)
      fuzz_refused(tl_tokenizer_decode(t, ids, n, special, bytes, sizeof bytes, &m));
  }
  for (int id = -1; id < 8; id++) {
    tl_tokenizer_token(t, id);
    tl_tokenizer_is_special(t, id);
  }
  tl_tokenizer_chat_template(t, NULL);
  int n_rows = tl_tokenizer_vocab_size(t) + 1;
  tl_tokenizer_free(t);
  if (n_rows < 4096) // an id may be millions beyond the rest
    convert(path, n_rows);
  return true;
}

// tokenizer.json and tokenizer_config.json together
static bool run_tokenizer(const uint8_t *data, size_t n) {
  size_t first, rest;
  const uint8_t *second;
  fuzz_split(data, n, &first, &second, &rest);
  fuzz_file("tokenizer_config.json", data + (n >= 2 ? 2 : 0), first);
  return fuzz_tokenizer_at(fuzz_file("tokenizer.json", second, rest));
}

static void put_tokenizer(fuzz_put put, void *ctx, const char *name, const char *json, const char *more) {
  const char *a = fuzz_file("seed_config.json", more, strlen(more)), *b = fuzz_file("seed_tokenizer.json", json, strlen(json));
  fuzz_put_pair(put, ctx, name, a, b);
}

static void seed_tokenizer(fuzz_put put, void *ctx) {
  put_tokenizer(put, ctx, "plain",
                "{\"added_tokens\":[{\"id\":4,\"content\":\"<s>\",\"single_word\":false,\"lstrip\":true,\"rstrip\":false,"
                "\"normalized\":true,"
                "\"special\":true}],\"normalizer\":{\"type\":\"NFC\"},\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_"
                "space\":true,"
                "\"trim_offsets\":true,\"use_regex\":true},\"post_processor\":null,\"decoder\":{\"type\":\"ByteLevel\"},"
                "\"model\":{\"type\":\"BPE\","
                "\"vocab\":{\"a\":0,\"b\":1,\"\\u0120\":2,\"ab\":3},\"merges\":[\"a b\"]}}",
                "{\"bos_token\":\"<s>\",\"eos_token\":{\"content\":\"<s>\"},\"chat_template\":[{\"name\":\"default\","
                "\"template\":\"x\"}]}");
  put_tokenizer(
      put, ctx, "split",
      "{\"added_tokens\":[],\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"NFKC\"}]},\"pre_tokenizer\":{"
      "\"type\":"
      "\"Sequence\",\"pretokenizers\":[{\"type\":\"Split\",\"pattern\":{\"Regex\":\"\\\\p{N}{1,3}|\\\\s+(?!\\\\S)\"},"
      "\"behavior\":\"Isolated\","
      "\"invert\":false},{\"type\":\"Digits\",\"individual_digits\":true},{\"type\":\"ByteLevel\",\"add_prefix_space\":false,"
      "\"use_regex\":false}]},\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"a\","
      "\"type_id\":0}},{\"Sequence\":{\"id\":\"A\",\"type_id\":0}}],\"pair\":[],\"special_tokens\":{\"a\":{\"id\":\"a\","
      "\"ids\":[0],"
      "\"tokens\":[\"a\"]}}},\"model\":{\"type\":\"BPE\",\"ignore_merges\":true,\"vocab\":{\"a\":0,\"b\":1,\"ab\":3},"
      "\"merges\":[[\"a\",\"b\"]]}}",
      "{}");
  tl_str spm = {0}; // SentencePiece: 256 bytes are wanted
  tl_str_printf(&spm, "{\"added_tokens\":[{\"id\":0,\"content\":\"<s>\",\"special\":true}],\"normalizer\":{\"type\":\"Sequence\","
                      "\"normalizers\":[{\"type\":\"Prepend\",\"prepend\":\"\\u2581\"},{\"type\":\"Replace\",\"pattern\":{\"String\":\" "
                      "\"},\"content\":\"\\u2581\"}]},\"decoder\":{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"Replace\",\"pattern\":{"
                      "\"String\":\"\\u2581\"},\"content\":\" \"},{\"type\":\"ByteFallback\"},{\"type\":\"Fuse\"},{\"type\":\"Strip\","
                      "\"content\":\" \",\"start\":1,\"stop\":0}]},\"model\":{\"type\":\"BPE\",\"unk_token\":\"<s>\",\"fuse_unk\":true,"
                      "\"byte_fallback\":true,\"merges\":[\"a b\",\"\\u2581 a\",\"\\u2581a b\",\"\\u2581 ab\"],\"vocab\":{\"<s>\":0,\"a\":1,"
                      "\"b\":2,\"\\u2581\":3,\"ab\":4,\"\\u2581a\":5,\"\\u2581ab\":6");
  for (int b = 0; b < 256; b++)
    tl_str_printf(&spm, ",\"<0x%02X>\":%d", b, 7 + b);
  tl_str_printf(&spm, "}}}");
  put_tokenizer(put, ctx, "sentencepiece", spm.p, "{\"bos_token\":\"<s>\"}");
  tl_str_free(&spm);
}

const fuzz_target fuzz_tokenizer = {"tokenizer", run_tokenizer, seed_tokenizer, 8192};

// ---------------------------------------------------------------- yaml

static bool run_yaml(const uint8_t *data, size_t n) {
  char *json = NULL;
  tl_status s = tl_yaml_to_json(fuzz_file("x.yaml", data, n), &json);
  fuzz_refused(s);
  if (s == TL_OK)
    tl_string_free(json);
  return s == TL_OK;
}

static void seed_yaml(fuzz_put put, void *ctx) {
  static const char text[] =
      "# a run\nmodel: tiny\nlr: 1e-2\nsteps: 0x10\nlist: [1, 'two', \"th\\u0072ee\", ~, yes]\nnested:\n  a: {k: v}\n"
      "  b: v\ntext: |\n  line\n  line\nfolded: >-\n  a\n  b\n? key\n: value\n";
  put(ctx, "config", text, sizeof text - 1);
}

const fuzz_target fuzz_yaml = {"yaml", run_yaml, seed_yaml, 4096};

// convert.h: what turning a tokenizer of one world into the other's needs: tokenizer.json spells everything out, a GGUF names
// it. Private to runtime/text: pre.c has the table; to_gguf.c and to_gguf_spm.c look a name up by the parts, to_json.c the
// parts by a name.
#ifndef TL_TEXT_CONVERT_H
#define TL_TEXT_CONVERT_H
#include "text_json.h"
#include "../base/gguf.h"

// ---- pre.c: the pre-tokenizers of byte-level vocabularies
enum { TEXT_PRE_SPLITS = 5 };
typedef struct text_pre {
  const char *names;                   // of tokenizer.ggml.pre, a space on either side of each; the first is the one written
  const char *splits[TEXT_PRE_SPLITS]; // regexes (Oniguruma's), matches isolated, in this order; or text_pre_digits
  bool nfc, ignore_merges;
  bool bos; // a text begins with BOS unless the file says otherwise
} text_pre;

extern const char text_pre_digits[]; // the Digits pre-tokenizer, each digit by itself
extern const text_pre text_pre_list[];
extern const int text_n_pre;
const text_pre *text_pre_named(const char *name, size_t n); // NULL: none

// ---- tokens
enum text_type { // tokenizer.ggml.token_type
  TEXT_NORMAL = 1,
  TEXT_UNKNOWN = 2,
  TEXT_CONTROL = 3,
  TEXT_USER_DEFINED = 4,
  TEXT_UNUSED = 5,
  TEXT_BYTE = 6
};
typedef struct text_entry { // a token to be written; text NULL: no token has this id
  const char *text;
  int type;
} text_entry;

// ---- SentencePiece's BPE: how tokenizer.json spells what tokenizer.ggml.model = llama stands for; prefix: with
// add_space_prefix
#define TEXT_SPM_MARK "\xE2\x96\x81" // U+2581
#define TEXT_SPM_REPLACE "{\"type\":\"Replace\",\"pattern\":{\"String\":\" \"},\"content\":\"" TEXT_SPM_MARK "\"}"
#define TEXT_SPM_NORMALIZER                                                                                                    \
  "{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"Prepend\",\"prepend\":\"" TEXT_SPM_MARK "\"}," TEXT_SPM_REPLACE "]}"
#define TEXT_SPM_DECODERS                                                                                                      \
  "{\"type\":\"Replace\",\"pattern\":{\"String\":\"" TEXT_SPM_MARK                                                             \
  "\"},\"content\":\" \"},{\"type\":\"ByteFallback\"},{\"type\":\"Fuse\"}"
#define TEXT_SPM_DECODER_PLAIN "{\"type\":\"Sequence\",\"decoders\":[" TEXT_SPM_DECODERS "]}"
#define TEXT_SPM_DECODER                                                                                                       \
  "{\"type\":\"Sequence\",\"decoders\":[" TEXT_SPM_DECODERS ",{\"type\":\"Strip\",\"content\":\" \",\"start\":1,\"stop\":0}]}"

// A token cut into two, as transformers sorts them: by score, then the longer left part, then the longer right part, then id.
typedef struct text_cut {
  float score;          // to_json.c
  uint32_t rank;        // to_gguf_spm.c: where the merge stands
  int32_t id;           // the token
  uint32_t left, right; // characters of the parts
  uint32_t at;          // bytes of the left part
} text_cut;
// The next cut of s behind *at bytes; *at is moved there. Sets left, right and at. false: there is none
bool text_next_cut(const char *s, size_t n, size_t *at, text_cut *c);
int text_compare_cuts(const void *a, const void *b); // of text_cut

// to_gguf_spm.c. text_is_spm: the model falls back to bytes and is of characters. text_spm_form: its normalizer, pre-tokenizer
// and decoder are those above; prefix is set. text_spm_scores: (n) such that joining by score is merging by rank.
// Failing, why says what differs.
bool text_is_spm(const cJSON *tokenizer);
bool text_spm_form(const cJSON *tokenizer, bool *prefix, const char **why);
bool text_spm_scores(const tl_tokenizer *t, const text_entry *list, int n, float *scores, char *why, size_t n_why);
#endif

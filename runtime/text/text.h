// text.h: the inside of a byte-level BPE tokenizer. Private to runtime/text.
//
// The way of a text, the same as in the `tokenizers` library:
//
//   bytes -> valid UTF-8 -> split at added tokens (raw) -> normalise -> split at added tokens (normalised)
//         -> pre-tokenise: a chain of regex splits -> per piece: bytes -> symbols -> merges by rank -> ids -> template (BOS)
//
// A byte-level vocabulary spells every byte as one printable character (byte 0x20 is U+0120). Pieces are kept as plain bytes
// here: the spelling is undone once, when the vocabulary is loaded, and each token carries both texts.
//
//   utf8.c      validity, replacement of bad bytes, normal forms        vocab.c     tokens, merges, added tokens, hash tables
//   regex.c     Oniguruma's patterns for PCRE2; the known patterns      split.c     pre-tokenizer steps
//   bpe.c       merging, the cache of pieces                            encode.c    the pipeline above
//   json.c      tokenizer.json and what lies beside it                  gguf.c      a GGUF's metadata
//   tokenizer.c the public functions, decoding
#ifndef TL_TEXT_H
#define TL_TEXT_H
#define PCRE2_CODE_UNIT_WIDTH 8
#include "tokenizer.h"
#include <pcre2.h>
#include <pthread.h>

enum { TL_TEXT_MAX_ID = 1 << 22 };  // a larger id in a file is refused: tables are indexed by id

typedef struct text_map {  // bytes -> id; open addressing, keys are borrowed
  struct text_slot {
    const char *key;
    size_t n;
    int32_t id;
  } *slots;
  size_t cap, count;
} text_map;

typedef struct text_merge {
  uint64_t pair;  // left id << 32 | right id; UINT64_MAX: empty
  uint32_t rank;
  int32_t id;     // what the two become
} text_merge;

typedef struct text_token {
  const char *text;   // NUL-terminated, owned by the pool; NULL: no such id
  const char *bytes;  // what it decodes to
  uint32_t n_text, n_bytes;
  bool special;
} text_token;

typedef struct text_added {
  char *content;  // as matched: the normal form for `normalized` tokens
  size_t n;
  int32_t id;
  bool single_word, lstrip, rstrip, normalized, special;
} text_added;

typedef struct text_added_set {  // sorted by content, so that a walk down a prefix is a narrowing range
  text_added *items;
  size_t n, cap;
  bool first[256];               // some content begins with this byte
} text_added_set;

typedef enum text_behavior { TEXT_ISOLATED, TEXT_REMOVED, TEXT_CONTIGUOUS, TEXT_WITH_PREVIOUS, TEXT_WITH_NEXT } text_behavior;

typedef struct text_step {  // of the pre-tokenizer; re NULL: put a space before a piece that does not begin with one
  pcre2_code *re;
  text_behavior behavior;
  bool invert;
} text_step;

typedef enum text_form { TEXT_NFC, TEXT_NFD, TEXT_NFKC, TEXT_NFKD } text_form;

typedef struct text_piece {
  const char *p;
  size_t n;
  int32_t id;  // of an added token; -1: text
} text_piece;

typedef struct text_pieces {
  text_piece *items;
  size_t n, cap;
} text_pieces;

typedef struct text_cached {  // a piece and its ids, when both are short
  uint8_t n_bytes, n_ids;     // n_bytes 0: empty
  char bytes[30];
  int32_t ids[8];
} text_cached;
enum { TEXT_CACHE_SLOTS = 8192 };

typedef struct text_chunk {
  struct text_chunk *next;
} text_chunk;

typedef struct text_work {  // one thread's scratch; grows to what the longest text needed
  pcre2_match_data *match;
  text_pieces a, b;
  text_chunk *chunks;  // texts made during one encode (normal forms, added spaces)
  text_cached *cache;  // TEXT_CACHE_SLOTS; NULL: none
  int32_t *sym;        // merging: ids, links, heap
  size_t sym_cap;
  int32_t *ids;        // the result
  size_t n_ids, ids_cap;
  bool no_memory;
} text_work;

struct tl_tokenizer {
  int refs;
  char *path;
  text_chunk *pool;       // token texts
  char *pool_at;
  size_t pool_left;
  text_token *tokens;     // by id
  int n_tokens, tokens_cap;
  text_map by_text;       // model vocabulary by spelling, then added tokens by content
  text_map added_text;
  text_map by_bytes;      // model vocabulary by bytes, for ignore_merges
  int32_t byte_id[256];   // -1: the byte is not in the vocabulary and is dropped
  text_merge *merges;
  size_t merges_cap, n_merges;
  bool ignore_merges, fuse_unk;
  int32_t unk;            // for bytes outside the vocabulary; -1: they are dropped
  text_added_set raw, normal;
  text_form forms[4];
  int n_forms;
  text_step *steps;
  int n_steps;
  int32_t *template;      // ids around the sequence; -1 is the sequence itself
  int n_template;
  int bos, eos;
  char *chat_template;
  pthread_mutex_t lock;   // guards work, and only that
  text_work work;
};

// ---- utf8.c
size_t text_utf8_bad(const char *s, size_t n);            // offset of the first byte that is not UTF-8; n: none
char *text_utf8_fix(const char *s, size_t n, size_t *n_out);
int text_utf8_next(const char *s, size_t n, uint32_t *c); // of valid text: length of the first character
bool text_is_ascii(const char *s, size_t n);
bool text_is_space(uint32_t c);                           // White_Space
bool text_is_word(uint32_t c);                            // what \w means to a regex with Unicode on
// the normal form, a new string; NULL: out of memory
char *text_normal_form(text_form f, const char *s, size_t n, size_t *n_out);
// a byte-level spelling back to bytes (out has room for n); false: it holds a character that spells no byte
bool text_unspell(const char *s, size_t n, char *out, size_t *n_out);
size_t text_spell(uint8_t byte, char out[2]);             // one byte's character in UTF-8; its length

// ---- vocab.c
int32_t text_map_get(const text_map *m, const char *key, size_t n);  // -1: absent
bool text_map_put(text_map *m, const char *key, size_t n, int32_t id);
void text_map_free(text_map *m);
tl_status text_add_token(tl_tokenizer *t, int64_t id, const char *s, size_t n);
tl_status text_add_merge(tl_tokenizer *t, const char *a, size_t na, const char *b, size_t nb);
tl_status text_add_added(tl_tokenizer *t, int64_t id, const char *s, size_t n, text_added flags);
tl_status text_finish(tl_tokenizer *t);
const text_merge *text_find_merge(const tl_tokenizer *t, int32_t left, int32_t right);
void text_vocab_free(tl_tokenizer *t);

// ---- regex.c
extern const char *const text_gpt2_pattern, *const text_qwen2_pattern, *const text_llama3_pattern, *const text_digit_pattern;
tl_status text_add_split(tl_tokenizer *t, const char *pattern, bool literal, text_behavior behavior, bool invert);
tl_status text_add_prefix_space(tl_tokenizer *t);

// ---- split.c, bpe.c, encode.c
bool text_push_piece(text_work *w, text_pieces *list, const char *p, size_t n, int32_t id);
tl_status text_split(const tl_tokenizer *t, text_work *w, const text_step *step, text_piece piece, text_pieces *out);
void text_push_id(text_work *w, int32_t id);
void text_merge_piece(const tl_tokenizer *t, text_work *w, const char *p, size_t n);
char *text_work_alloc(text_work *w, size_t n);
tl_status text_work_init(text_work *w, bool cache);
void text_work_free(text_work *w);
tl_status text_encode(const tl_tokenizer *t, text_work *w, const char *s, size_t n, bool add_special, bool parse_special);

// ---- json.c, gguf.c
tl_status text_load_json(tl_tokenizer *t, const char *path);
tl_status text_load_config(tl_tokenizer *t, const char *dir);
tl_status text_load_gguf(tl_tokenizer *t, const char *path);
#endif

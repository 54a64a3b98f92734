// text.h: the inside of a BPE tokenizer. Private to runtime/text.
//
// The way of a text, the same as in the `tokenizers` library:
//
//   bytes -> valid UTF-8 -> split at added tokens (raw) -> normalise -> split at added tokens (normalised)
//         -> pre-tokenise: a chain of splits -> per piece: symbols -> merges by rank -> ids -> template (BOS)
//
// A piece goes through all of it before the next one starts, so no list of pieces is kept.
//
// Two kinds of vocabulary share the merging. A byte-level one spells every byte as one printable character (byte 0x20 is
// U+0120): pieces are kept as plain bytes, the spelling is undone once, when the vocabulary is loaded, and each token carries
// both texts. The other (SentencePiece's BPE, a space is U+2581) starts from characters; a character outside the vocabulary
// becomes its bytes' tokens <0x00> .. <0xFF>, or the unknown token.
//
//   utf8.c      validity, replacement of bad bytes                      vocab.c     tokens, merges, hash tables
//   unicode.c   character classes, versions of Unicode
//   norm.c      normalisers                                             added.c     added tokens: matching them in a text
//   regex.c     Oniguruma's patterns for PCRE2, finding matches         scan.c      the known patterns, written out
//   split.c     pre-tokenizer steps                                     bpe.c       merging, the cache of pieces
//   encode.c    the pipeline above                                      decode.c    ids to text, whole and as a stream
//   json.c      tokenizer.json: model, added tokens, template           json_parts.c  its normalizer, pre-tokenizer, decoder
//   config.c    what lies beside tokenizer.json                         gguf.c, pre.c, spm.c  a GGUF's metadata
//   to_gguf.c, to_gguf_spm.c, to_json.c   from one of the two to the other   templates.c   chat templates
//   tokenizer.c the public functions
#ifndef TL_TEXT_H
#define TL_TEXT_H
#define PCRE2_CODE_UNIT_WIDTH 8
#include "tokenizer.h"
#include <pcre2.h>
#include <pthread.h>

enum {
  TL_TEXT_MAX_ID = 1 << 22, // a larger id in a file is refused: tables are indexed by id
  TEXT_MAX_STEPS = 32,      // of a normaliser, a pre-tokenizer, a decoder
  TEXT_MAX_DEPTH = 8,       // of sequences inside sequences
};

typedef struct text_map { // bytes -> id; open addressing, keys are borrowed
  struct text_slot {
    const char *key;
    size_t n;
    int32_t id;
  } * slots;
  size_t cap, count;
} text_map;

typedef struct text_merge {
  uint64_t pair; // left id << 32 | right id; UINT64_MAX: empty
  uint32_t rank;
  int32_t id; // what the two become
} text_merge;

typedef struct text_token {
  const char *text;   // NUL-terminated, owned by the pool; NULL: no such id
  const char *source; // what decoding reads: text, or the normal form of a `normalized` added token
  const char *bytes;  // what it adds to a text that has begun
  uint32_t n_text, n_source, n_bytes;
  bool special;
} text_token;

typedef struct text_added {
  char *content; // as matched: the normal form for `normalized` tokens
  size_t n;
  int32_t id;
  bool single_word, lstrip, rstrip, normalized, special;
} text_added;

typedef struct text_added_set { // sorted by content, so that a walk down a prefix is a narrowing range
  text_added *items;
  size_t n, cap;
  bool first[256]; // some content begins with this byte
} text_added_set;

typedef enum text_form { TEXT_NFC, TEXT_NFD, TEXT_NFKC, TEXT_NFKD } text_form;
typedef enum text_norm_kind { TEXT_FORM, TEXT_LOWERCASE, TEXT_REPLACE, TEXT_PREPEND, TEXT_TRIM } text_norm_kind;
typedef struct text_norm { // one normaliser
  text_norm_kind kind;
  text_form form;
  pcre2_code *re; // TEXT_REPLACE
  char *content;  // TEXT_REPLACE, TEXT_PREPEND
  size_t n;
  bool left, right; // TEXT_TRIM
} text_norm;

typedef enum text_behavior { TEXT_ISOLATED, TEXT_REMOVED, TEXT_CONTIGUOUS, TEXT_WITH_PREVIOUS, TEXT_WITH_NEXT } text_behavior;
typedef enum text_scheme { TEXT_ALWAYS, TEXT_FIRST, TEXT_NEVER } text_scheme;
typedef enum text_step_kind {
  TEXT_REGEX,     // split by re
  TEXT_SCAN,      // split by scan, whose pieces cover the text
  TEXT_CHARS,     // split by single characters for which `is` holds
  TEXT_SPACE,     // put a space before a piece that does not begin with one
  TEXT_METASPACE, // spaces become `mark`, which is also put in front by `scheme`; then split before each mark when `split`
  TEXT_SPELL      // bytes to their spelling, for steps that come after ByteLevel
} text_step_kind;
// The end of the piece that begins at p (p < end) of valid UTF-8.
typedef const char *(*text_scanner)(const char *p, const char *end);
typedef struct text_step {
  text_step_kind kind;
  pcre2_code *re; // TEXT_METASPACE: matches the mark
  text_scanner scan;
  bool (*is)(uint32_t c);
  text_behavior behavior;
  bool invert, split;
  bool drop_spaces; // TEXT_SCAN: pieces of spaces vanish
  text_scheme scheme;
  char mark[8];
} text_step;

typedef enum text_decode_kind {
  TEXT_D_JOIN,
  TEXT_D_BYTE_LEVEL,
  TEXT_D_REPLACE,
  TEXT_D_BYTE_FALLBACK,
  TEXT_D_FUSE,
  TEXT_D_STRIP,
  TEXT_D_METASPACE
} text_decode_kind;
typedef struct text_decode_step {
  text_decode_kind kind;
  bool fused;     // a Fuse (or ByteLevel) came before: there is one token, which arrives in parts
  pcre2_code *re; // replace
  char *content;  // replace
  size_t n;
  char mark[8];    // strip: the character; metaspace: the mark
  int start, stop; // strip: at most so many at either end
  bool prefix;     // metaspace: marks of the first token are dropped
} text_decode_step;

typedef struct text_piece {
  const char *p;
  size_t n;
  bool first; // it begins where the text begins
} text_piece;

typedef struct text_cached { // a piece and its ids, when both are short
  uint8_t n_bytes, n_ids;    // n_bytes 0: empty
  char bytes[30];
  int32_t ids[8];
} text_cached;
enum { TEXT_CACHE_SLOTS = 16384 };

typedef struct text_chunk {
  struct text_chunk *next;
} text_chunk;

typedef struct text_work { // one thread's scratch; grows to what the longest text needed
  pcre2_match_data *match;
  text_chunk *chunks; // texts made during one encode (normal forms, added spaces)
  char *chunk_at;
  size_t chunk_left;
  text_cached *cache; // TEXT_CACHE_SLOTS; NULL: none
  int32_t *sym;       // merging: ids, links, heap
  size_t sym_cap;
  int32_t *ids; // the result
  size_t n_ids, ids_cap;
  bool no_memory;
} text_work;

typedef struct text_template {
  char *name, *source;
} text_template;

struct tl_tokenizer {
  int refs;
  char *path;
  text_chunk *pool; // token texts
  char *pool_at;
  size_t pool_left;
  text_token *tokens; // by id
  int n_tokens, tokens_cap;
  text_map by_text; // model vocabulary by spelling, then added tokens by content
  text_map added_text;
  text_map by_piece; // ignore_merges: model vocabulary as pieces have it, bytes or spelling
  bool byte_level;
  bool unspell;          // pieces reach the merging in their spelling (a step comes after ByteLevel)
  int32_t byte_id[256];  // of the byte, or of its token <0xHH>; -1: not in the vocabulary
  int32_t ascii_id[128]; // of the character, when not byte_level; -1: not in the vocabulary
  text_merge *merges;
  size_t merges_cap, n_merges;
  bool ignore_merges, fuse_unk, byte_fallback;
  bool word_merges; // no merge makes a token with U+2581 behind another character: words can be merged singly
  int32_t unk;      // for what is outside the vocabulary; -1: it is dropped
  text_added_set raw, normal;
  text_norm *norms;
  int n_norms;
  text_step *steps;
  int n_steps;
  text_decode_step *decode;
  int n_decode;
  int32_t *template; // ids around the sequence; -1 is the sequence itself
  int n_template;
  int bos, eos;
  text_template *templates; // the chat templates
  int n_templates;
  pthread_mutex_t lock; // guards work, and only that
  text_work work;
};

// ---- utf8.c
size_t text_utf8_bad(const char *s, size_t n); // offset of the first byte that is not UTF-8; n: none
// Length of the valid character at s (n bytes are there); 0: ill-formed, then *skip is the length of the maximal ill-formed
// part.
int text_utf8_valid(const char *s, size_t n, size_t *skip);
void text_utf8_fix(tl_str *out, const char *s, size_t n); // appends, U+FFFD for each maximal ill-formed part
size_t text_utf8_unfinished(const char *s, size_t n);     // bytes at the end that begin a character and lack its rest
int text_utf8_next(const char *s, size_t n, uint32_t *c); // of valid text: length of the first character
size_t text_utf8_put(uint32_t c, char out[4]);
bool text_is_ascii(const char *s, size_t n);
bool text_is_space(uint32_t c);       // White_Space
bool text_is_word(uint32_t c);        // what \w means to a regex with Unicode on
bool text_is_punctuation(uint32_t c); // ASCII punctuation and the categories P*
// a byte-level spelling back to bytes (out has room for n); false: it holds a character that spells no byte
bool text_unspell(const char *s, size_t n, char *out, size_t *n_out);
size_t text_spell(uint8_t byte, char out[2]); // one byte's character in UTF-8; its length
int text_byte_token(const char *s, size_t n); // the byte of "<0xHH>"; -1: it is something else

// ---- unicode.c
bool text_is_word(uint32_t c);        // what \w means to Rust's regex
bool text_is_punctuation(uint32_t c); // ASCII punctuation and the categories P*
bool text_is_later(uint32_t c);       // it is no part of normalisation yet
uint32_t text_lowercase(uint32_t c);
const char *text_newer(const char *property); // more of "L", "Nd", "w" ..., for the inside of a set; NULL: no such property

// ---- vocab.c
int32_t text_map_get(const text_map *m, const char *key, size_t n); // -1: absent
bool text_map_put(text_map *m, const char *key, size_t n, int32_t id);
void text_map_free(text_map *m);
uint64_t text_hash(const char *s, size_t n);
char *text_pool(tl_tokenizer *t, size_t n); // NULL: out of memory
tl_status text_no_memory(const tl_tokenizer *t);
// twice: a token that stands twice is the later one (else it is refused)
tl_status text_add_token(tl_tokenizer *t, int64_t id, const char *s, size_t n, bool twice);
tl_status text_add_merge(tl_tokenizer *t, const char *a, size_t na, const char *b, size_t nb);
tl_status text_put_merge(tl_tokenizer *t, int32_t left, int32_t right, uint32_t rank, int32_t id);
tl_status text_store_token(tl_tokenizer *t, int64_t id, const char *s, size_t n);
tl_status text_finish(tl_tokenizer *t);
const text_merge *text_find_merge(const tl_tokenizer *t, int32_t left, int32_t right);
void text_vocab_free(tl_tokenizer *t);

// ---- added.c
tl_status text_add_added(tl_tokenizer *t, int64_t id, const char *s, size_t n, text_added flags);
tl_status text_finish_added(tl_tokenizer *t);
void text_free_added(tl_tokenizer *t);
typedef struct text_run { // one encode
  const tl_tokenizer *t;
  text_work *w;
  bool parse_special;
} text_run;
// Splits a piece at the added tokens of the set: their ids are pushed, the text between them goes to next.
tl_status text_split_added(const text_run *r, const text_added_set *set, text_piece piece,
                           tl_status (*next)(const text_run *r, text_piece piece));

// ---- norm.c
tl_status text_new_norm(tl_tokenizer *t, text_norm n); // takes over n.re and n.content
tl_status text_normalise(const tl_tokenizer *t, text_work *w, text_piece *piece);

// ---- regex.c
typedef enum text_syntax { TEXT_ONIGURUMA, TEXT_LITERAL, TEXT_PCRE2 } text_syntax;
// what: "the pre-tokenizer's pattern", for the error
tl_status text_compile(const char *path, const char *what, const char *pattern, text_syntax syntax, pcre2_code **out);
typedef struct text_matcher { // matches of re in p (n), left to right; an empty one right after another is not one
  const char *path;
  pcre2_match_data *match;
  const pcre2_code *re;
  const char *p;
  size_t n, from, last_end;
} text_matcher;
text_matcher text_matches(const char *path, pcre2_match_data *match, const pcre2_code *re, const char *p, size_t n);
tl_status text_next_match(text_matcher *m, bool *found, size_t *start, size_t *end);

// ---- scan.c
// The three pre-tokenizers that nearly every byte-level vocabulary was trained with. GPT-2: contractions, one space with the
// word after it. Qwen2: any one character with the word, digits singly, line ends together. Llama 3: digits in threes.
#define TEXT_GPT2_PATTERN "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"
#define TEXT_WORDS_PATTERN(digits)                                                                                             \
  "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|" digits                                                             \
  "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define TEXT_QWEN2_PATTERN TEXT_WORDS_PATTERN("\\p{N}")
#define TEXT_LLAMA3_PATTERN TEXT_WORDS_PATTERN("\\p{N}{1,3}")
const char *text_scan_gpt2(const char *p, const char *end);
const char *text_scan_qwen2(const char *p, const char *end);
const char *text_scan_llama3(const char *p, const char *end);
const char *text_scan_digits(const char *p, const char *end);     // a digit, or all up to the next
const char *text_scan_digit_runs(const char *p, const char *end); // digits, or all up to the next
const char *text_scan_words(const char *p, const char *end);      // \w+ or [^\w\s]+ or \s+
text_scanner text_known_scanner(const char *pattern);             // NULL: none is known

// ---- split.c, bpe.c, encode.c
tl_status text_new_step(tl_tokenizer *t, text_step step); // takes over step.re
tl_status text_add_split(tl_tokenizer *t, const char *pattern, text_syntax syntax, text_behavior behavior, bool invert);
tl_status text_pretokenise(const text_run *r, int step, text_piece piece); // from this step on, to ids
void text_push_id(text_work *w, int32_t id);
void text_merge_piece(const tl_tokenizer *t, text_work *w, const char *p, size_t n);
char *text_work_alloc(text_work *w, size_t n); // until the end of the encode; NULL sets no_memory
tl_status text_work_init(text_work *w, bool cache);
void text_work_free(text_work *w);
tl_status text_encode(const tl_tokenizer *t, text_work *w, const char *s, size_t n, bool add_special, bool parse_special);

// ---- decode.c
tl_status text_new_decode(tl_tokenizer *t, text_decode_step step); // takes over step.re and step.content
tl_status text_finish_decode(tl_tokenizer *t);                     // each token's `bytes`
tl_status text_decode(tl_tokenizer *t, const int32_t *ids, int n, bool skip_special, tl_str *out);

// ---- templates.c
struct tl_gguf;
struct cJSON;
tl_status text_add_template(tl_tokenizer *t, const char *name, size_t n_name, const char *source, size_t n);
tl_status text_template_files(tl_tokenizer *t, const char *dir);
tl_status text_template_config(tl_tokenizer *t, const struct cJSON *v); // tokenizer_config.json's chat_template
tl_status text_template_keys(tl_tokenizer *t, const struct tl_gguf *g);
void text_free_templates(tl_tokenizer *t);

// ---- json.c, config.c, gguf.c, pre.c, spm.c
tl_status text_load_json(tl_tokenizer *t, const char *path);
tl_status text_load_config(tl_tokenizer *t, const char *dir);
tl_status text_load_gguf(tl_tokenizer *t, const char *path);
tl_status text_pre_by_name(tl_tokenizer *t, const char *name, bool *bos); // bos: a text begins with it by default
tl_status text_spm_merges(tl_tokenizer *t, const float *scores, const int32_t *types, size_t n);
tl_status text_spm_steps(tl_tokenizer *t, bool space_prefix);
#endif

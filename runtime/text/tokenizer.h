// tokenizer.h: what the rest of runtime/ needs of a tokenizer beyond tl.h.
#ifndef TL_TOKENIZER_H
#define TL_TOKENIZER_H
#include "../base/base.h"

tl_tokenizer *tl_tokenizer_retain(tl_tokenizer *t);  // one more owner; tl_tokenizer_free gives it back

// The tokenizer of a Hugging Face folder or a GGUF file as tokenizer.* keys of another GGUF (to_gguf.c). n_rows: of the model's
// embedding. with_ids: the special tokens' ids are among the keys (they were copied); otherwise eos is the tokenizer's own.
struct tl_gguf_writer;
tl_status tl_tokenizer_to_gguf(const char *path, int n_rows, struct tl_gguf_writer *w, bool *with_ids, int *eos);
// The texts of tokenizer.json and tokenizer_config.json for a GGUF's tokenizer (to_json.c); free() both
tl_status tl_tokenizer_to_json(const char *path, char **json, char **config);
#endif

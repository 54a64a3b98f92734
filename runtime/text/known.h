// known.h: the pre-tokenizers that both worlds have a form for: tokenizer.json spells the splits out, a GGUF names them
// (tokenizer.ggml.pre). Private to runtime/text: to_gguf.c looks a name up by the splits, to_json.c the splits by a name.
//
//   name        splits                       normal form   ignore_merges   BOS in front unless the file says otherwise
//   gpt-2       GPT-2                        -             no              no
//   smollm      single digits, then GPT-2    -             no              no
//   qwen2       Qwen2                        NFC           no              no
//   stablelm2   Qwen2                        -             no              no
//   llama-bpe   Llama 3                      -             yes             yes
//   smaug-bpe   Llama 3                      -             no              no
// llama.cpp splits all of these in this way (it has no normal forms: a text that is not NFC gives it other ids with qwen2).
#ifndef TL_TEXT_KNOWN_H
#define TL_TEXT_KNOWN_H
#include "text.h"

typedef struct text_known {
  const char *names;        // of tokenizer.ggml.pre, a space on either side of each; the first is the one that is written
  const char *const *split; // the regex, matches isolated
  bool digits, nfc, ignore_merges, bos;
} text_known;

enum { TEXT_N_KNOWN = 6 };
extern const text_known text_known_list[TEXT_N_KNOWN];
const text_known *text_known_named(const char *name, size_t n); // NULL: none
#endif

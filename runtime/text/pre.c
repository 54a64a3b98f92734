// pre.c: what `tokenizer.ggml.pre` stands for. A GGUF names its pre-tokenizer and leaves the splits to the reader; these are
// the splits that the models' own tokenizer.json files have, spelled as there, or, where only llama.cpp knows the name,
// llama.cpp's. The one table serves reading a GGUF, finding the name for a tokenizer.json's splits, and spelling them out again.
//
// Two deliberate differences from llama.cpp: qwen2 has the NFC of Qwen's own tokenizer, and digits of smollm, starcoder and
// the like are those of the Digits pre-tokenizer. An unknown name is refused: wrong splits give wrong ids without a word.
#include "convert.h"

#define CONTRACTIONS "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
#define SPACES "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define UPPER "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]"
#define LOWER "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]"
#define CASED(suffix)                                                                                                          \
  "[^\\r\\n\\p{L}\\p{N}]?" UPPER "*" LOWER "+" suffix "|[^\\r\\n\\p{L}\\p{N}]?" UPPER "+" LOWER "*" suffix "|"
#define SYMBOLS " ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|"

// Letters with case, as DeepSeek LLM's pattern lists them.
#define DEEPSEEK_LETTERS                                                                                                       \
  "A-Za-z\\x{b5}\\x{c0}-\\x{d6}\\x{d8}-\\x{f6}\\x{f8}-\\x{1ba}\\x{1bc}-\\x{1bf}\\x{1c4}-\\x{293}"                              \
  "\\x{295}-\\x{2af}\\x{370}-\\x{373}\\x{376}\\x{377}\\x{37b}-\\x{37d}\\x{37f}\\x{386}\\x{388}-\\x{38a}\\x{38c}"               \
  "\\x{38e}-\\x{3a1}\\x{3a3}-\\x{3f5}\\x{3f7}-\\x{481}\\x{48a}-\\x{52f}\\x{531}-\\x{556}\\x{10a0}-\\x{10c5}"                   \
  "\\x{13a0}-\\x{13f5}\\x{13f8}-\\x{13fd}\\x{1c90}-\\x{1cba}\\x{1cbd}-\\x{1cbf}\\x{1d00}-\\x{1d2b}"                            \
  "\\x{1d6b}-\\x{1d77}\\x{1d79}-\\x{1d9a}\\x{1e00}-\\x{1f15}\\x{1f18}-\\x{1f1d}\\x{1f20}-\\x{1f45}"                            \
  "\\x{1f48}-\\x{1f4d}\\x{1f50}-\\x{1f57}\\x{1f59}\\x{1f5b}\\x{1f5d}\\x{1f5f}-\\x{1f7d}\\x{1f80}-\\x{1fb4}"                    \
  "\\x{1fb6}-\\x{1fbc}\\x{1fbe}\\x{1fc2}-\\x{1fc4}\\x{1fc6}-\\x{1fcc}\\x{1fd0}-\\x{1fd3}\\x{1fd6}-\\x{1fdb}"                   \
  "\\x{1fe0}-\\x{1fec}\\x{1ff2}-\\x{1ff4}\\x{1ff6}-\\x{1ffc}\\x{2102}\\x{2107}\\x{210a}-\\x{2113}\\x{2115}"                    \
  "\\x{2119}-\\x{211d}\\x{2124}\\x{2126}\\x{2128}\\x{212a}-\\x{212d}\\x{212f}-\\x{2134}\\x{2139}"                              \
  "\\x{213c}-\\x{213f}\\x{2145}-\\x{2149}\\x{214e}\\x{2183}\\x{2184}\\x{2c00}-\\x{2c7b}\\x{2c7e}-\\x{2ce4}"                    \
  "\\x{2ceb}-\\x{2cee}\\x{2cf2}\\x{2cf3}\\x{a640}-\\x{a66d}\\x{a680}-\\x{a69b}\\x{a722}-\\x{a76f}"                             \
  "\\x{a771}-\\x{a787}\\x{a78b}-\\x{a78e}\\x{ab70}-\\x{abbf}\\x{fb00}-\\x{fb06}\\x{fb13}-\\x{fb17}"                            \
  "\\x{ff21}-\\x{ff3a}\\x{ff41}-\\x{ff5a}\\x{10400}-\\x{1044f}\\x{104b0}-\\x{104d3}\\x{104d8}-\\x{104fb}"                      \
  "\\x{10c80}-\\x{10cb2}\\x{10cc0}-\\x{10cf2}\\x{118a0}-\\x{118df}\\x{1e900}-\\x{1e943}"
#define DEEPSEEK_CJK "[\\x{4e00}-\\x{9fa5}\\x{800}-\\x{4e00}\\x{ac00}-\\x{d7ff}]+"

#define DIGITS text_pre_digits
const char text_pre_digits[] = "single digits";
const text_pre text_pre_list[] = {
    {.names = " gpt-2 phi-2 mpt olmo jais gigachat modern-bert a.x-4.0 mellum exaone4 trillion granite-docling ",
     .splits = {TEXT_GPT2_PATTERN}},
    {.names = " smollm starcoder refact command-r codeshell exaone minerva-7b ", .splits = {DIGITS, TEXT_GPT2_PATTERN}},
    {.names = " qwen2 deepseek-r1-qwen kormo ", .splits = {TEXT_QWEN2_PATTERN}, .nfc = true},
    {.names = " stablelm2 megrez hunyuan ", .splits = {TEXT_QWEN2_PATTERN}},
    {.names = " llama-bpe llama3 llama-v3 falcon3 falcon-h1 pixtral midm-2.0 lfm2 ",
     .splits = {TEXT_LLAMA3_PATTERN},
     .ignore_merges = true,
     .bos = true},
    {.names = " smaug-bpe dbrx glm4 chatglm-bpe ", .splits = {TEXT_LLAMA3_PATTERN}},
    {.names = " default ", .splits = {"[\\p{P}\\$\\+<=>\\^~\\|]+", TEXT_GPT2_PATTERN, "\\p{N}+", "[0-9][0-9][0-9]"}},
    {.names = " falcon ", .splits = {"[\\p{P}\\$\\+<=>\\^~\\|`]+", TEXT_GPT2_PATTERN, "[0-9][0-9][0-9]"}},
    {.names = " deepseek-llm ",
     .splits = {"[\\r\\n]", "\\s?[" DEEPSEEK_LETTERS "]+",
                "\\s?[!-/:-~\\x{ff01}-\\x{ff0f}\\x{ff1a}-\\x{ff5e}\\x{2018}-\\x{201f}\\x{3000}-\\x{3002}]+", "\\s+$",
                DEEPSEEK_CJK "|\\p{N}+"}},
    {.names = " deepseek-coder ", .splits = {"[\\r\\n]", "\\s?\\p{L}+", "\\s?\\p{P}+", DEEPSEEK_CJK, "\\p{N}"}},
    {.names = " deepseek-v3 hunyuan-dense ",
     .splits = {"\\p{N}{1,3}", "[一-龥\xE3\x81\x80-ゟ゠-ヿ]+",
                "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+|"
                " ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+"}},
    {.names = " tekken ", .splits = {CASED("") "\\p{N}|" SYMBOLS SPACES}, .ignore_merges = true, .bos = true},
    {.names = " gpt-4o llama4 ", .splits = {CASED(CONTRACTIONS "?") "\\p{N}{1,3}|" SYMBOLS SPACES}},
    {.names = " bloom gpt3-finnish poro-chat ", .splits = {" ?[^(\\s|.,!?…。，、।۔،)]+"}},
    {.names = " viking ", .splits = {" ?[^(\\s|.,!?…。，、।۔،)]+", "\\p{N}"}},
};
const int text_n_pre = sizeof text_pre_list / sizeof *text_pre_list;

const text_pre *text_pre_named(const char *name, size_t n) {
  char key[80];
  if (n > 64 || memchr(name, ' ', n))
    return NULL;
  snprintf(key, sizeof key, " %.*s ", (int)n, name);
  for (int i = 0; i < text_n_pre; i++)
    if (strstr(text_pre_list[i].names, key))
      return &text_pre_list[i];
  return NULL;
}

tl_status text_pre_by_name(tl_tokenizer *t, const char *name, bool *bos) {
  const text_pre *p = text_pre_named(name, strlen(name));
  if (!p) {
    tl_str names = {0};
    for (int i = 0; i < text_n_pre; i++)
      tl_str_printf(&names, "%.*s", (int)strlen(text_pre_list[i].names) - 1, text_pre_list[i].names);
    tl_status status = tl_fail(TL_E_UNSUPPORTED, "%s: tokenizer.ggml.pre is '%.60s'; supported:%s", t->path, name, names.p);
    tl_str_free(&names);
    return status;
  }
  *bos = p->bos;
  t->ignore_merges = p->ignore_merges;
  if (p->nfc)
    TL_TRY(text_new_norm(t, (text_norm){.kind = TEXT_FORM, .form = TEXT_NFC}));
  for (int k = 0; k < TEXT_PRE_SPLITS && p->splits[k]; k++)
    TL_TRY(p->splits[k] == text_pre_digits ? text_new_step(t, (text_step){.kind = TEXT_SCAN, .scan = text_scan_digits})
                                           : text_add_split(t, p->splits[k], TEXT_ONIGURUMA, TEXT_ISOLATED, false));
  return TL_OK;
}

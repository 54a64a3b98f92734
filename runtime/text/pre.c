// pre.c: what `tokenizer.ggml.pre` stands for. A GGUF names its pre-tokenizer and leaves the splits to the reader; these are
// the splits that the models' own tokenizer.json files have, or, where only llama.cpp knows the name, llama.cpp's.
//
// Two deliberate differences from llama.cpp: qwen2 has the NFC of Qwen's own tokenizer, and digits of smollm, starcoder and
// the like are those of the Digits pre-tokenizer. An unknown name is refused: wrong splits give wrong ids without a word.
#include "text.h"

#define CONTRACTIONS "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
#define SPACES "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define UPPER "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]"
#define LOWER "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]"
#define CASED(suffix)                                                                                                          \
  "[^\\r\\n\\p{L}\\p{N}]?" UPPER "*" LOWER "+" suffix "|[^\\r\\n\\p{L}\\p{N}]?" UPPER "+" LOWER "*" suffix "|"
#define SYMBOLS " ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|"

// Letters with case, as DeepSeek LLM's pattern lists them.
#define DEEPSEEK_LETTERS                                                                                                                                                                                                              \
  "A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-ώᾀ-ᾴᾶ-"                     \
  "ᾼιῂ-ῄῆ-ῌῐ-ΐ"                                                                                                                                                                                                         \
  "ῖ-Ίῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤΩℨK-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-" \
  "𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃"
#define DEEPSEEK_CJK "[一-龥ࠀ-一가-퟿]+"

enum { GPT2, QWEN2, LLAMA3, DIGITS_GPT2, N_PRE_SCANS };
typedef struct pre {
  const char *names;       // with a space on either side of each
  const char *patterns[5]; // splits, isolated, in this order; none: scan
  int scan;
  bool nfc, ignore_merges, bos;
} pre;
static const pre table[] = {
    {.names = " gpt-2 phi-2 mpt olmo jais jina-es jina-de jina-v2-es jina-v2-de jina-v1-en jina-v2-code roberta-bpe gigachat "
              "modern-bert a.x-4.0 mellum exaone4 trillion granite-docling ",
     .scan = GPT2},
    {.names = " smollm starcoder refact command-r codeshell exaone minerva-7b ", .scan = DIGITS_GPT2},
    {.names = " qwen2 deepseek-r1-qwen kormo ", .scan = QWEN2, .nfc = true},
    {.names = " stablelm2 megrez hunyuan ", .scan = QWEN2},
    {.names = " llama-bpe llama3 llama-v3 falcon3 falcon-h1 pixtral midm-2.0 lfm2 ",
     .scan = LLAMA3,
     .ignore_merges = true,
     .bos = true},
    {.names = " dbrx smaug-bpe glm4 chatglm-bpe ", .scan = LLAMA3},
    {.names = " default ", .patterns = {"[\\p{P}\\$\\+<=>\\^~\\|]+", "gpt-2", "\\p{N}+", "[0-9][0-9][0-9]"}},
    {.names = " falcon ", .patterns = {"[\\p{P}\\$\\+<=>\\^~\\|`]+", "gpt-2", "[0-9][0-9][0-9]"}},
    {.names = " deepseek-llm ",
     .patterns = {"[\\r\\n]", "\\s?[" DEEPSEEK_LETTERS "]+", "\\s?[!-/:-~！-／：-～‘-‟\\x{3000}-。]+", "\\s+$",
                  DEEPSEEK_CJK "|\\p{N}+"}},
    {.names = " deepseek-coder ", .patterns = {"[\\r\\n]", "\\s?\\p{L}+", "\\s?\\p{P}+", DEEPSEEK_CJK, "\\p{N}"}},
    {.names = " deepseek-v3 hunyuan-dense ",
     .patterns = {"\\p{N}{1,3}", "[一-龥\\x{3040}-ゟ゠-ヿ]+",
                  "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+|"
                  " ?[\\p{P}\\p{S}]+[\\r\\n]*|" SPACES}},
    {.names = " tekken ", .patterns = {CASED("") "\\p{N}|" SYMBOLS SPACES}, .ignore_merges = true, .bos = true},
    {.names = " gpt-4o llama4 ", .patterns = {CASED(CONTRACTIONS "?") "\\p{N}{1,3}|" SYMBOLS SPACES}},
    {.names = " bloom gpt3-finnish poro-chat ", .patterns = {" ?[^(\\s|.,!?…。，、।۔،)]+"}},
    {.names = " viking ", .patterns = {" ?[^(\\s|.,!?…。，、।۔،)]+", "\\p{N}"}},
};

static tl_status add_scans(tl_tokenizer *t, int scan) {
  static const text_scanner scanners[N_PRE_SCANS] = {text_scan_gpt2, text_scan_qwen2, text_scan_llama3, text_scan_gpt2};
  if (scan == DIGITS_GPT2)
    TL_TRY(text_new_step(t, (text_step){.kind = TEXT_SCAN, .scan = text_scan_digits}));
  return text_new_step(t, (text_step){.kind = TEXT_SCAN, .scan = scanners[scan]});
}

tl_status text_pre_by_name(tl_tokenizer *t, const char *name, bool *bos) {
  char key[80];
  bool known = strlen(name) < 64 && !strchr(name, ' ');
  snprintf(key, sizeof key, " %.64s ", name);
  for (size_t i = 0; known && i < sizeof table / sizeof *table; i++) {
    const pre *p = &table[i];
    if (!strstr(p->names, key))
      continue;
    *bos = p->bos;
    t->ignore_merges = p->ignore_merges;
    if (p->nfc)
      TL_TRY(text_new_norm(t, (text_norm){.kind = TEXT_FORM, .form = TEXT_NFC}));
    if (!p->patterns[0])
      return add_scans(t, p->scan);
    for (int k = 0; k < 5 && p->patterns[k]; k++) {
      if (!strcmp(p->patterns[k], "gpt-2"))
        TL_TRY(add_scans(t, GPT2));
      else
        TL_TRY(text_add_split(t, p->patterns[k], TEXT_ONIGURUMA, TEXT_ISOLATED, false));
    }
    return TL_OK;
  }
  tl_str names = {0};
  for (size_t i = 0; i < sizeof table / sizeof *table; i++)
    tl_str_printf(&names, "%.*s", (int)strlen(table[i].names) - 1, table[i].names);
  tl_status status = tl_fail(TL_E_UNSUPPORTED, "%s: tokenizer.ggml.pre is '%.60s'; supported:%s", t->path, name, names.p);
  tl_str_free(&names);
  return status;
}

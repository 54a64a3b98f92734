#!/usr/bin/env python3
"""Real vocabularies against the `tokenizers` library and llama.cpp: ids, decoded text and streamed text of the difficult texts
and of GSM8K (every tenth text; all of them with the argument --all); and the way of each vocabulary into a GGUF and back into a
tokenizer.json, read by both. Would catch: what only a large vocabulary shows (merges, added tokens, bytes that no small corpus
has), scores that order the joins of a real SentencePiece model otherwise.

Needs the vocabularies that real_tokenizers.py puts into the cache, and a Python with tokenizers: $TL_PYTHON, else
.venv-fixtures/bin/python. Skips with a word when either is missing."""
import json
import os
import shutil
import subprocess
import sys
import tempfile
import unicodedata

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
sys.path.insert(0, HERE)
import real_tokenizers as real  # noqa: E402
from tokenizer_texts import gsm8k, texts  # noqa: E402

TLRUN = os.path.join(ROOT, os.environ.get("TL_BUILD_DIR", "build"), "tlrun")


def tlrun(path, rows, *more):
    text = "".join(json.dumps(r) + "\n" for r in rows)
    r = subprocess.run([TLRUN, "tokenize", "--tokenizer", path, "--jsonl", *more], input=text.encode(), capture_output=True)
    if r.returncode:
        raise RuntimeError(r.stderr.decode(errors="replace").strip())
    return [json.loads(line) for line in r.stdout.decode().split("\n")[:-1]]


def first_difference(strings, got, want, what):
    for s, a, b in zip(strings, got, want):
        if a != b:
            return "%s of %r: %r, not %r" % (what, s if len(str(s)) < 80 else str(s)[:80], a if len(str(a)) < 200 else str(a)[:200], b if len(str(b)) < 200 else str(b)[:200])
    return None if len(got) == len(want) else "%s: %d rows, not %d" % (what, len(got), len(want))


def with_tokenizers(name, strings, problems):
    from tokenizers import Tokenizer
    t = Tokenizer.from_file(real.path_of(name))
    every = strings + problems
    want = [e.ids for e in t.encode_batch_fast(every, add_special_tokens=False)]
    got = [r["ids"] for r in tlrun(real.path_of(name), [{"text": s} for s in every])]
    special = [e.ids for e in t.encode_batch_fast(strings)]
    got_special = [r["ids"] for r in tlrun(real.path_of(name), [{"text": s} for s in strings], "--add-special")]
    half = [ids[:i] for ids in want[:len(strings)] for i in (len(ids) // 2,)] + [ids[len(ids) // 2:] for ids in want[:len(strings)]]
    lists = want + half
    text = [t.decode(ids, skip_special_tokens=False) for ids in lists]
    rows = [{"ids": ids} for ids in lists]
    whole = [r["text"] for r in tlrun(real.path_of(name), rows, "--decode")]
    stream = [r["text"] for r in tlrun(real.path_of(name), rows, "--decode", "--stream")]
    return (first_difference(every, got, want, "ids") or first_difference(strings, got_special, special, "ids with special tokens")
            or first_difference(lists, whole, text, "text") or first_difference(lists, stream, text, "streamed text"))


def with_llama_cpp(name, strings, problems):
    from llama_cpp import Llama
    m = Llama(real.path_of(name), vocab_only=True, verbose=False)
    every = [s for s in strings + problems if "\x00" not in s]
    want = [m.tokenize(s.encode(), add_bos=False, special=True) if s else [] for s in every]
    got = [r["ids"] for r in tlrun(real.path_of(name), [{"text": s} for s in every])]
    return first_difference(every, got, want, "ids")


def with_export(name, strings, problems):
    """tokenizer.json -> GGUF -> tokenizer.json around a small model: the ids of the first, by ourselves, llama.cpp and tokenizers"""
    from llama_cpp import Llama
    from tokenizers import Tokenizer
    home = tempfile.mkdtemp()
    try:
        first, g, again = home + "/first", home + "/m.gguf", home + "/again"
        os.mkdir(first)
        shutil.copy(real.path_of(name), first + "/tokenizer.json")
        t = Tokenizer.from_file(first + "/tokenizer.json")
        bos = t.encode("").ids
        json.dump({"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1,
                   "num_attention_heads": 1, "num_key_value_heads": 1, "vocab_size": max(t.get_vocab().values()) + 2, "tie_word_embeddings": True,
                   "eos_token_id": 2, "bos_token_id": bos[0] if bos else None}, open(first + "/config.json", "w"))
        json.dump({"bos_token": t.id_to_token(bos[0]) if bos else None, "eos_token": t.id_to_token(2)}, open(first + "/tokenizer_config.json", "w"))
        for command in (["-e", 'tl.model.create(arg[1] .. "/config.json", { seed = 1, dtype = "f32" }):save(arg[1], { dtype = "f32" })', first],
                        ["export", "--model", first, "--format", "gguf", "--dtype", "f16", "-o", g],
                        ["export", "--model", g, "--format", "hf", "--dtype", "f16", "-o", again]):
            r = subprocess.run([TLRUN, *command], capture_output=True)
            if r.returncode:
                raise RuntimeError(r.stderr.decode(errors="replace").strip())
        every, rows = strings + problems, [{"text": s} for s in strings + problems]
        want, plain = [r["ids"] for r in tlrun(first, rows, "--add-special")], [r["ids"] for r in tlrun(first, rows)]
        other, m = Tokenizer.from_file(again + "/tokenizer.json"), Llama(g, vocab_only=True, verbose=False)
        theirs = [m.tokenize(s.encode(), add_bos=False, special=True) if s else [] for s in every]
        why = (first_difference(every, [r["ids"] for r in tlrun(g, rows, "--add-special")], want, "ids of the GGUF")
               or first_difference(every, [e.ids for e in other.encode_batch_fast(every)], want, "tokenizers' ids of the folder again"))
        differ = [s for s, a, b in zip(every, theirs, plain) if a != b and "\x00" not in s]
        if name in LLAMA_CPP_DIFFERS:
            differ = [s for s in differ if not LLAMA_CPP_DIFFERS[name](s)]
        return why or (differ and "llama.cpp's ids of the GGUF differ for %d texts, %r first" % (len(differ), differ[0])) or None
    finally:
        shutil.rmtree(home)


# docs/tokenizers.md: no NFC with qwen2, and an ordinary token that is spelled </s> taken for a control token; a combining mark
# goes with what follows it
REFUSED = {"llama4": "is no pre-tokenizer with a known name", "mistral_new": "its Metaspace puts a space in front of a text"}
LLAMA_CPP_DIFFERS = {"qwen2.5": lambda s: unicodedata.normalize("NFC", s) != s or "</s>" in s,
                     "tekken": lambda s: any(unicodedata.category(c)[0] == "M" for c in s)}


def exported(name, strings, problems):
    try:
        why = with_export(name, strings, problems)
    except RuntimeError as e:
        return None if REFUSED.get(name, "\n") in str(e) else str(e)
    return "written, not refused" if name in REFUSED else why


def llama_cpp_there():
    try:
        import llama_cpp  # noqa: F401
        return True
    except ImportError:
        return False


def say(name, why, n):
    print("not ok real_tokenizers %s: %s" % (name, why) if why else "ok real_tokenizers %s (%d texts)" % (name, n), flush=True)
    return why is not None


def main():
    python = os.environ.get("TL_PYTHON") or os.path.join(ROOT, ".venv-fixtures", "bin", "python")
    if "tokenizers" not in sys.modules and os.environ.get("TL_REAL_TOKENIZERS") != "1":
        if not os.path.exists(python):
            print("skip real_tokenizers: no Python with the tokenizers library (TL_PYTHON, or ./dev fixtures)")
            return 0
        return subprocess.run([python, __file__] + sys.argv[1:], env={**os.environ, "TL_REAL_TOKENIZERS": "1", "TOKENIZERS_PARALLELISM": "false"}).returncode
    try:
        import tokenizers  # noqa: F401
    except ImportError:
        print("skip real_tokenizers: %s has no tokenizers library" % sys.executable)
        return 0
    strings, problems, failed = texts(), gsm8k()[::1 if "--all" in sys.argv else 10], 0
    for name in list(real.BUILDERS) + ["mistral.gguf"]:
        if not os.path.exists(real.path_of(name)):
            print("skip real_tokenizers %s: not in the cache (tests/parity/real_tokenizers.py makes it)" % name)
            continue
        if name.endswith(".gguf") and not llama_cpp_there():
            print("skip real_tokenizers %s: no llama-cpp-python" % name)
            continue
        try:
            why = (with_llama_cpp if name.endswith(".gguf") else with_tokenizers)(name, strings, problems)
        except RuntimeError as e:
            why = str(e)
        failed += say(name, why, len(strings) + len(problems))
        if name in real.BUILDERS and llama_cpp_there():
            failed += say(name + " exported", exported(name, strings, problems), len(strings) + len(problems))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
"""Real vocabularies against the `tokenizers` library and llama.cpp: ids, decoded text and streamed text of the difficult texts
and of GSM8K (every tenth text; all of them with the argument --all). Would catch: what only a large vocabulary shows (merges, added tokens, bytes that no small corpus has).

Needs the vocabularies that real_tokenizers.py puts into the cache, and a Python with tokenizers: $TL_PYTHON, else
.venv-fixtures/bin/python. Skips with a word when either is missing."""
import json
import os
import subprocess
import sys

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
        if name.endswith(".gguf"):
            try:
                import llama_cpp  # noqa: F401
            except ImportError:
                print("skip real_tokenizers %s: no llama-cpp-python" % name)
                continue
        try:
            why = (with_llama_cpp if name.endswith(".gguf") else with_tokenizers)(name, strings, problems)
        except RuntimeError as e:
            why = str(e)
        failed += why is not None
        print("not ok real_tokenizers %s: %s" % (name, why) if why else "ok real_tokenizers %s (%d texts)" % (name, len(strings) + len(problems)))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

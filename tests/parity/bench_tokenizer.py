#!/usr/bin/env python3
"""Encoding speed beside the `tokenizers` library, both on one thread, in turns, in one run: GSM8K's questions and answers, each its
own text, with the vocabularies of real_tokenizers.py. The library is called the fastest way it has (encode_batch_fast: ids
without offsets, one call for all texts). Of each side the fastest of the rounds counts; the ids are compared too.

Run: TL_DATA=... python tests/parity/bench_tokenizer.py [ROUNDS [NAME...]]      (a Python with tokenizers)
"""
import os
import subprocess
import sys
import tempfile
import time

os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["RAYON_NUM_THREADS"] = "1"
HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
import real_tokenizers as real  # noqa: E402
from tokenizer_texts import gsm8k  # noqa: E402


def main():
    import tokenizers
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    names = sys.argv[2:] or ["smollm2", "qwen2.5", "llama3", "tekken", "deepseek", "mistral"]
    texts = gsm8k()
    if not texts:
        sys.exit("no GSM8K: set TL_DATA, or tlrun fetch gsm8k")
    size = sum(len(s.encode()) for s in texts)
    with tempfile.NamedTemporaryFile() as f:
        for s in texts:
            b = s.encode()
            f.write(b"%d\n" % len(b) + b)
        f.flush()
        tlrun = os.path.join(os.path.dirname(os.path.dirname(HERE)), os.environ.get("TL_BUILD_DIR", "build"), "tlrun")
        worker = subprocess.Popen([tlrun, os.path.join(HERE, "bench_tokenizer.lua"), f.name], stdin=subprocess.PIPE,
                                  stdout=subprocess.PIPE, text=True)
        print("%d texts, %.2f MB; tokenizers %s; fastest of %d rounds" % (len(texts), size / 1e6, tokenizers.__version__, rounds))
        print("%-12s %10s %12s %12s %8s   %s" % ("", "ids", "ours MB/s", "theirs MB/s", "ratio", "loading, s: ours, theirs"))
        for name in names:
            path = real.path_of(name)
            ours, theirs, first, began = [], [], 0.0, time.perf_counter()
            t = tokenizers.Tokenizer.from_file(path)
            load = time.perf_counter() - began
            for _ in range(rounds):
                worker.stdin.write("%s 1\n" % path)
                worker.stdin.flush()
                seconds, n, loading = worker.stdout.readline().split()
                ours.append(float(seconds))
                first = first or float(loading)
                began = time.perf_counter()
                encodings = t.encode_batch_fast(texts, add_special_tokens=False)
                theirs.append(time.perf_counter() - began)
            m = sum(len(e.ids) for e in encodings)
            assert m == int(n), "%s: %s ids, the library has %d" % (name, n, m)
            a, b = size / min(ours) / 1e6, size / min(theirs) / 1e6
            print("%-12s %10d %12.1f %12.1f %8.1f   %.2f, %.2f" % (name, m, a, b, a / b, first, load), flush=True)
        worker.stdin.close()
        worker.wait()


if __name__ == "__main__":
    main()

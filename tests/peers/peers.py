"""tlrun beside llama.cpp, TRL and torch + PEFT on this machine: `./dev bench peers [--what sample,train,grpo] [--rounds 5]`.

Each round runs every program once, one after the other, each in a process of its own, so that a drift of the machine's speed meets all of
them; printed are the medians over the rounds and the median of the ratios within a round. The model is SmolLM2-135M-Instruct
(`tlrun fetch smollm2-135m-instruct`); the peers' copies of it (BF16, Q8_0, Q4_0 GGUF and a Hugging Face folder) are made in --work.
Needs a Python with tests/peers/requirements.txt, this one. Results also go to --out as JSON lines, a line a measurement.
"""
import argparse, glob, json, os, statistics, subprocess, sys

p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
p.add_argument("--tlrun", default="build/tlrun")
p.add_argument("--what", default="sample,prefill,train,grpo")
p.add_argument("--batches", default="1,8,64", help="sequences decoded at once, for sample")
p.add_argument("--rounds", type=int, default=5)
p.add_argument("--new-tokens", type=int, default=96, help="for sample")
p.add_argument("--tuned", action="store_true", help="also the peers' best settings: allocator, torch.compile")
p.add_argument("--rollout", default="", help="also tlrun's quantised rollouts: int8")
p.add_argument("--task", default="mawps", help="problems of the grpo step")
p.add_argument("--reward", default="parity", help="rewards of the grpo step: parity (made up: most groups train), answer (is the last number "
               "right?), or both, with a comma; groups whose rewards are all equal cost tlrun no update")
p.add_argument("--threads", type=int, default=2)
p.add_argument("--work", default=os.path.expanduser("~/.cache/tlrun/peers"))
p.add_argument("--out", default="")
a = p.parse_args()
here = os.path.dirname(os.path.abspath(__file__))
MODEL = "smollm2-135m-instruct"
TUNED = {"MALLOC_TOP_PAD_": str(1 << 30), "MALLOC_MMAP_THRESHOLD_": str(1 << 32), "MALLOC_TRIM_THRESHOLD_": str(1 << 34)}
kept = {}  # label -> list of results, one a round


def measure(label, command, env=None):
    r = subprocess.run([str(c) for c in command], env={**os.environ, **(env or {})}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if r.returncode != 0:
        sys.exit(f"{label}: {' '.join(map(str, command))}\n{r.stderr[-2000:]}")
    out = json.loads(r.stdout.strip().splitlines()[-1])
    kept.setdefault(label, []).append(out)
    if a.out:
        with open(a.out, "a") as f:
            f.write(json.dumps({"label": label, **out}) + "\n")
    print(f"  {label}: " + ", ".join(f"{k} {v:.4g}" for k, v in out.items() if isinstance(v, (int, float))), file=sys.stderr, flush=True)
    return out


def tlrun(label, *words, model=MODEL):
    return measure(label, [a.tlrun, "bench", words[0], "--model", model, "--json", *words[1:]])


def python(label, script, *words, env=None):
    return measure(label, [sys.executable, os.path.join(here, script), *words, "--threads", a.threads], env)


def median(label, field):
    return statistics.median(r[field] for r in kept[label])


def row(title, ours, theirs, field, unit, more_is_better=True):
    mine, peer = [r[field] for r in kept[ours]], [r[field] for r in kept[theirs]]
    ratio = statistics.median(m / q if more_is_better else q / m for m, q in zip(mine, peer))
    print(f"| {title} | {statistics.median(mine):.4g} {unit} | {statistics.median(peer):.4g} {unit} | {ratio:.2f} |", flush=True)


def copies():
    os.makedirs(a.work, exist_ok=True)
    subprocess.run([a.tlrun, "fetch", MODEL], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    source = glob.glob(os.path.join(os.environ.get("TL_HOME", os.path.expanduser("~/.cache/tlrun")), "models", MODEL, "*.gguf"))[0]
    files = {t: os.path.join(a.work, f"{MODEL}-{t}.gguf") for t in ("BF16", "Q8_0", "Q4_0")}
    for t, path in files.items():
        if not os.path.exists(path):
            subprocess.run([sys.executable, os.path.join(here, "llamacpp.py"), source, "--make", t, "--out", path + ".part"], check=True)
            os.rename(path + ".part", path)
    folder = os.path.join(a.work, MODEL)
    if not os.path.exists(os.path.join(folder, "tokenizer.json")):
        subprocess.run([sys.executable, os.path.join(here, "hf_copy.py"), source, folder], check=True, stderr=subprocess.DEVNULL)
    return files, folder


def prompts(n):
    """The first n prompts that `tlrun bench grpo` uses, as JSON lines of messages."""
    path = os.path.join(a.work, f"prompts-{a.task}.jsonl")
    code = ('local j = require "tl.json" for i, p in ipairs(tl.data.load("%s", { style = "gsm8k-hash", limit = %d })) do '
            'print(j.encode { messages = p.messages or { { role = "user", content = p.prompt } }, answer = p.answer }) end' % (a.task, n))
    with open(path, "w") as f:
        subprocess.run([a.tlrun, "-e", code], check=True, stdout=f)
    return path


gguf, folder = copies()
what = a.what.split(",")
for i in range(a.rounds):
    print(f"round {i + 1} of {a.rounds}", file=sys.stderr, flush=True)
    if "sample" in what or "prefill" in what:
        for b in a.batches.split(","):
            words = ["--batch", b, "--prompt-tokens", 64, "--new-tokens", a.new_tokens]
            tlrun(f"tlrun bf16 {b}", "sample", *words, "--reps", 1)
            if a.rollout:
                tlrun(f"tlrun {a.rollout} {b}", "sample", *words, "--reps", 1, "--dtype", a.rollout)
            for t, path in gguf.items():
                python(f"llama.cpp {t} {b}", "llamacpp.py", path, *words)
        if "prefill" in what:
            tlrun("tlrun prefill", "sample", "--batch", 1, "--prompt-tokens", 512, "--new-tokens", 2, "--reps", 3)
    if "train" in what:
        tlrun("tlrun train", "train", "--sequences", 16, "--tokens", 256, "--reps", 1)
        python("torch train", "torch_train.py", folder)
        if a.tuned:
            python("torch tuned train", "torch_train.py", folder, "--compile", env=TUNED)
    if "grpo" in what:
        for reward in a.reward.split(","):
            tlrun(f"tlrun grpo {reward}", "grpo", "--task", a.task, "--reps", 1,
                  *(["--verifier", os.path.join(here, "last_number.lua")] if reward == "answer" else []))
            python(f"trl grpo {reward}", "trl_step.py", folder, prompts(16), "--reward", reward)
            if a.tuned:
                python(f"trl tuned grpo {reward}", "trl_step.py", folder, prompts(16), "--reward", reward, env=TUNED)

print(f"\nmedians of {a.rounds} rounds; ratio: median of the ratios within a round, above 1: tlrun is ahead\n")
print("| | tlrun | peer | ratio |\n|---|---|---|---|")
if "sample" in what:
    for b in a.batches.split(","):
        for t in gguf:
            row(f"{b} sequences, sampling included; llama.cpp {t}", f"tlrun bf16 {b}", f"llama.cpp {t} {b}", "tokens_per_s", "tokens/s")
            if a.rollout:
                row(f"{b} sequences, {a.rollout}; llama.cpp {t}", f"tlrun {a.rollout} {b}", f"llama.cpp {t} {b}", "tokens_per_s", "tokens/s")
if "prefill" in what:
    for t in gguf:
        row(f"prefill of 512 tokens; llama.cpp {t}", "tlrun prefill", f"llama.cpp {t} {a.batches.split(',')[0]}", "prefill_tokens_per_s", "tokens/s")
COMPARED = [("forward + backward, 16 x 256 tokens", "tlrun train", ("torch train", "torch tuned train"), "tokens_per_s", "tokens/s", True)]
COMPARED += [(f"GRPO step, 8 x 8 x 128, reward {r}", f"tlrun grpo {r}", (f"trl grpo {r}", f"trl tuned grpo {r}"), "seconds_per_step", "s", False)
             for r in a.reward.split(",")]
for title, ours, peers, field, unit, more in COMPARED:
    for peer in peers:
        if peer in kept:
            row(f"{title}; {peer}", ours, peer, field, unit, more)
            row(f"its peak memory; {peer}", ours, peer, "peak_rss_bytes", "bytes", False)

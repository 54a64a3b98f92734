"""Every recipe, end to end, on the embedded model at a size that takes seconds.

What a run leaves (JSON document on stdout, run folder, adapter), and that it depends on the seed alone: not on the number of
threads, not on the memory budget. A recipe in recipes/ that this test does not know fails it.
"""
import glob
import hashlib
import json
import os
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), os.pardir, "lua"))
from session import ROOT, TLRUN, check as want, done, test  # noqa: E402

TEMP = None


def run(recipe, *options, out):
    """The recipe's JSON document and its run folder."""
    out = os.path.join(TEMP, out)
    command = [TLRUN, "recipes/%s.lua" % recipe, "--json", "--out", out] + [str(o) for o in options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    want(done.returncode == 0, "exit status %d: %s" % (done.returncode, done.stderr.strip().split("\n")[-1]))
    lines = done.stdout.strip().split("\n")
    want(len(lines) == 1, "stdout has %d lines, wanted the JSON document alone" % len(lines))
    return json.loads(lines[0]), out


def number(x):
    return isinstance(x, (int, float)) and not isinstance(x, bool) and x == x and abs(x) != float("inf")


def check_measure(m, where, n):
    want(isinstance(m, dict), "%s is %r" % (where, m))
    want(number(m.get("accuracy")) and 0 <= m["accuracy"] <= 1, "%s.accuracy is %r" % (where, m.get("accuracy")))
    lo_hi = m.get("ci95")
    want(isinstance(lo_hi, list) and len(lo_hi) == 2 and 0 <= lo_hi[0] <= m["accuracy"] <= lo_hi[1] <= 1, "%s.ci95 is %r" % (where, lo_hi))
    want(number(m.get("mean_length")) and m["mean_length"] > 0, "%s.mean_length is %r" % (where, m.get("mean_length")))
    want(m.get("n") == n, "%s.n is %r, wanted %d" % (where, m.get("n"), n))


def check_document(d, out, parameters, n_bytes, n):
    want(d.get("run") == out, "run is %r" % d.get("run"))
    want(d.get("trained_parameters") == parameters, "trained_parameters is %r, wanted %d" % (d.get("trained_parameters"), parameters))
    want(d.get("trained_bytes") == n_bytes, "trained_bytes is %r, wanted %d" % (d.get("trained_bytes"), n_bytes))
    check_measure(d.get("before"), "before", n)
    check_measure(d.get("after"), "after", n)
    want(number(d.get("seconds")) and d["seconds"] >= 0, "seconds is %r" % d.get("seconds"))


GRPO_NAMES = ["step", "loss", "reward", "reward_std", "frac_reward_zero_std", "completions/mean_length", "completions/min_length",
              "completions/max_length", "completions/clipped_ratio", "entropy", "clip_ratio/region_mean", "grad_norm",
              "learning_rate", "num_tokens"]
SFT_NAMES = ["step", "loss", "grad_norm", "learning_rate", "num_tokens"]


def load(path):
    with open(path) as f:
        return json.load(f)


def json_lines(path):
    with open(path) as f:
        return [json.loads(line) for line in f]


def check_folder(out, config, steps, names, completions, adapter=True):
    kept = load(out + "/config.json")
    for key, value in config.items():
        want(kept.get(key) == value, "config.json: %s is %r, wanted %r" % (key, kept.get(key), value))
    versions = load(out + "/versions.json")
    for key in ("tlrun", "build", "backend", "threads", "seed", "command"):
        want(key in versions, "versions.json has no '%s'" % key)
    trained = [m for m in json_lines(out + "/metrics.jsonl") if "loss" in m]
    want(len(trained) == steps, "metrics.jsonl has %d training steps, wanted %d" % (len(trained), steps))
    for name in names:
        want(all(number(m.get(name)) for m in trained), "metrics.jsonl: '%s' is %r" % (name, trained[0].get(name)))
    want([m["step"] for m in trained] == list(range(1, steps + 1)), "metrics.jsonl: the steps are %r" % [m["step"] for m in trained])
    events = glob.glob(out + "/events.out.tfevents.*")
    want(len(events) == 1 and os.path.getsize(events[0]) > 0, "event files: %r" % events)
    if completions:
        lines = json_lines(out + "/completions.jsonl")
        want(lines, "completions.jsonl is empty")
        for key in ("step", "prompt", "completion", "reward", "advantage"):
            want(all(key in c for c in lines), "completions.jsonl has no '%s'" % key)
    if adapter:
        want("peft_type" in load(out + "/adapter/adapter_config.json"), "adapter_config.json has no peft_type")
        want(os.path.getsize(out + "/adapter/adapter_model.safetensors") > 8, "adapter_model.safetensors is empty")


def digest(path):
    with open(path, "rb") as f:
        return hashlib.sha256(f.read()).hexdigest()


def adapter_of(out):
    return digest(out + "/adapter/adapter_model.safetensors")


# ---- the recipes

def quickstart():
    options = ["--total", 2, "--batch", 4, "--group", 4, "--eval", 8]
    document, out = run("quickstart", *options, out="quickstart")
    check_document(document, out, 13, 26, 8)
    check_measure(document.get("sft"), "sft", 8)
    check_folder(out, {"total": 2, "batch": 4, "group": 4, "seed": 1}, 2, GRPO_NAMES, True)


def calculator():
    document, out = run("calculator_13param", "--total", 2, "--batch", 8, "--group", 8, "--eval", 8, out="calculator")
    check_document(document, out, 13, 26, 8)
    check_folder(out, {"total": 2, "tool": True}, 2, GRPO_NAMES, True)
    with open(os.path.join(out, "completions.jsonl")) as f:
        turns = [json.loads(line)["turns"] for line in f]
    want(max(turns) >= 3 and all(n % 2 == 1 for n in turns), "the calculator replied: %r turns" % turns)


SMALL = ["--model", "tiny", "--batch", 4, "--group", 4, "--eval", 4, "--limit", 16, "--new_tokens", 32, "--lr", 0.03]


def gsm8k(name, *more, steps=2):
    document, out = run("gsm8k_13param", *SMALL, "--total", steps, *more, out=name)
    check_document(document, out, 13, 26, 4)
    check_folder(out, {"model": "tiny", "total": steps, "limit": 16}, steps, GRPO_NAMES, True)
    return out


def gsm8k_mismatch(rollouts):
    out = gsm8k(rollouts, "--rollouts", rollouts)
    names = {k for m in json_lines(out + "/metrics.jsonl") for k in m}
    want(any(k.startswith("sampling/") for k in names), "metrics.jsonl says nothing about the mismatch of sampler and trainer: %s" % sorted(names))


def gsm8k_native():
    for m in json_lines(gsm8k("native") + "/metrics.jsonl"):  # the sampler's logprobs are the trainer's, so no ratio is clipped
        want(m.get("clip_ratio/region_mean", 0) == 0, "on the native path clip_ratio/region_mean is %r" % m.get("clip_ratio/region_mean"))


def gsm8k_kl():
    out = gsm8k("kl", "--beta", 0.01, steps=3)
    moved = False  # the adapter is the reference's until the first step that has a gradient
    for m in [m for m in json_lines(out + "/metrics.jsonl") if "loss" in m]:
        want(number(m.get("kl")), "with --beta the metric kl is %r" % m.get("kl"))
        want(m["kl"] > 0 if moved else m["kl"] == 0, "step %d: kl is %r, and the adapter has %smoved" % (m["step"], m["kl"], "" if moved else "not "))
        moved = moved or m["grad_norm"] > 0
    want(moved, "no step had a gradient: nothing was tested")


def sft(kind, parameters):
    document, out = run("sft_baseline", "--model", "tiny", "--adapter", kind, "--total", 2, "--batch", 4, "--limit", 16,
                        "--eval", 4, "--new_tokens", 32, out="sft_" + kind)
    want(number(document["trained_parameters"]) and document["trained_parameters"] > 0, "trained_parameters is %r" % document["trained_parameters"])
    count = parameters or document["trained_parameters"]
    check_document(document, out, count, 2 * count, 4)  # two bytes of bf16 each
    check_folder(out, {"adapter": kind}, 2, SFT_NAMES, False, adapter=kind != "full")
    if kind == "full":
        want(os.path.getsize(out + "/adapter/model.safetensors") >= 2 * count, "full: adapter/model.safetensors is too small")


def greedy_and_sampled(name, *more):
    document, out = run(name, "--model", "tiny", "--task", "wordproblems", "--total", 1, "--batch", 2, "--group", 2, "--eval", 4,
                        "--new_tokens", 16, *more, out=name)
    want(document["trained_parameters"] == 13 and document["trained_bytes"] == 26, "13 numbers and 26 bytes: %r" % document)
    for when in ("before", "after"):
        check_measure(document[when]["greedy"], when + ".greedy", document[when]["greedy"]["n"])
        check_measure(document[when], when, document[when]["n"])
    check_folder(out, {"task": "wordproblems"}, 1, GRPO_NAMES, True)


def pretrain(name, *more):
    save = os.path.join(TEMP, name)
    document, out = run("pretrain_tiny", "--total", 3, "--width", 32, "--layers", 1, "--heads", 2, "--kv_heads", 1, "--ffn", 48,
                        "--batch", 4, "--eval", 4, "--vocab", 300, "--save", save, *more, out="pretrain_" + name)
    return save, document, out


def pretrain_same():  # what models/tiny says of itself: the recipe and the seed give the weights
    (one, _, _), (two, _, _), (other, _, _) = pretrain("one", "--threads", 1), pretrain("two", "--threads", 2), pretrain("other", "--seed", 2)
    digests = [digest(os.path.join(d, "model.safetensors")) for d in (one, two, other)]
    want(digests[0] == digests[1], "two trainings from one seed, with 1 and 2 threads, differ")
    want(digests[0] != digests[2], "another seed gives the same weights: the agreement says nothing")


def pretrain_tiny():
    save, document, out = pretrain("model")
    for name in ("greedy", "sampled", "steps_asked", "direct_asked"):
        check_measure(document.get(name), name, 4)
    check_folder(out, {"width": 32, "layers": 1}, 3, SFT_NAMES, False, adapter=False)
    for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        want(os.path.getsize(os.path.join(save, name)) > 0, "%s is empty" % name)
    done = subprocess.run([TLRUN, "generate", "--json", "--model", save, "--prompt", "3 +", "--max-new-tokens", "2"], cwd=ROOT,
                          capture_output=True, text=True, timeout=60)
    want(done.returncode == 0, "the saved model does not load: " + done.stderr.strip())


def sweep():
    document, out = run("sweep", "--rates", "0.01,0.1", "--seeds", "1,2", "--total", 2, "--batch", 1, "--group", 3, "--eval", 3, "--new_tokens", 12, out="sweep")
    members = document["members"]
    want([(m["lr"], m["seed"]) for m in members] == [(0.01, 1), (0.01, 2), (0.1, 1), (0.1, 2)], "members are %r" % members)
    want(all(number(m["accuracy"]) and 0 < m["mean_length"] <= 12 for m in members), "members are %r" % members)
    want(sum(1 for _ in json_lines(out + "/metrics.jsonl")) == 2, "not one line of metrics a step")
    for k in range(1, 5):
        want(os.path.getsize(os.path.join(out, "member-%02d.tla" % k)) > 0, "member %d was not saved" % k)


# ---- one seed, one adapter

BASE = ["--total", 2, "--batch", 4, "--group", 4, "--eval", 2, "--sft", "false", "--new_tokens", 40]


def same(name, *more):
    global first
    if first is None:
        _, out = run("quickstart", *BASE, "--threads", 2, out="seed_first")
        want(any(m.get("grad_norm", 0) > 0 for m in json_lines(out + "/metrics.jsonl")), "no step had a gradient: equal bytes would say nothing")
        first = adapter_of(out)
    _, out = run("quickstart", *BASE, *more, out="seed_" + name)
    want(adapter_of(out) == first, "adapter_model.safetensors differs from that of the same seed with 2 threads")


def other_seed():
    _, out = run("quickstart", *BASE, "--threads", 2, "--seed", 2, out="seed_other")
    want(adapter_of(out) != first, "another seed gives the same adapter: the two runs' agreement says nothing")


first = None
RECIPES = {
    "quickstart": [("quickstart", quickstart),
                   ("quickstart, a second run from the seed, same bytes", lambda: same("again", "--threads", 2)),
                   ("quickstart, one thread, same bytes", lambda: same("threads", "--threads", 1)),
                   ("quickstart, small memory budget, same bytes", lambda: same("memory", "--threads", 2, "--memory", "90M")),
                   ("quickstart, another seed, other bytes", other_seed)],
    "gsm8k_13param": [("gsm8k_13param", gsm8k_native), ("gsm8k_13param --rollouts merged", lambda: gsm8k_mismatch("merged")),
                      ("gsm8k_13param --rollouts int8", lambda: gsm8k_mismatch("int8")),
                      ("gsm8k_13param --beta 0.01", gsm8k_kl),
                      ("gsm8k_13param --loss_type dapo", lambda: gsm8k("dapo", "--loss_type", "dapo"))],
    "sft_baseline": [("sft_baseline --adapter tinylora", lambda: sft("tinylora", 13))] +
                    [("sft_baseline --adapter " + k, lambda k=k: sft(k, None)) for k in ("loraxs", "lora", "full")],
    "json_13param": [("json_13param", lambda: greedy_and_sampled("json_13param"))],
    "expression_13param": [("expression_13param", lambda: greedy_and_sampled("expression_13param", "--samples", 1))],
    "calculator_13param": [("calculator_13param", calculator)],
    "sweep": [("sweep", sweep)],
    "pretrain_tiny": [("pretrain_tiny", pretrain_tiny), ("pretrain_tiny, one seed, the same weights", pretrain_same)],
}


def all_known():
    there = {os.path.basename(p)[:-4] for p in glob.glob(os.path.join(ROOT, "recipes", "*.lua"))}
    want(there == set(RECIPES), "recipes/ has %s, this test knows %s" % (sorted(there), sorted(RECIPES)))


if not os.path.exists(TLRUN):
    print("not ok recipes: there is no %s (build first, or set TL_BUILD_DIR)" % os.path.relpath(TLRUN, ROOT))
    sys.exit(1)
with tempfile.TemporaryDirectory(prefix="tl-recipes-") as TEMP:
    test("every recipe of recipes/ is run here", all_known)
    for tests in RECIPES.values():
        for name, body in tests:
            test(name, body)
done()

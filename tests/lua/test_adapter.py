"""tlrun adapter, as a user meets it: files on disk, in and out of every format, on the committed tiny models.

Catches: a format whose logprobs are not the adapter's; a damaged or foreign file that is taken, or refused without its reason; an
inspection over ten lines; a signature that verifies after a change; a document without its fields.
"""
import hashlib
import json
import math
import os
import shutil
import struct
import tempfile
import time

from session import ROOT, case, check, done, run

HOME = tempfile.mkdtemp()
FIXTURES = os.path.join(ROOT, "tests", "parity", "fixtures", "model")
LLAMA, QWEN = os.path.join(FIXTURES, "llama"), os.path.join(FIXTURES, "qwen2")
IDS = ",".join(str(3 + (i * 7) % 40) for i in range(20))


def ok(*args):
    code, out, err = run(*args, env={"TL_HOME": HOME})
    check(code == 0, f"{args}: {code} {err}")
    return out


def fails(code, words, *args):
    got, out, err = run(*args, env={"TL_HOME": HOME})
    check(got == code and words in err, f"{args}: {got} {err!r}")
    check(out == "" and err.count("\n") == 1, f"one line on stderr: {out!r} {err!r}")


def path(name):
    return os.path.join(HOME, name)


def make(name, kind, options):
    ok("-e", f"""local m = tl.model.load('{LLAMA}', {{ dtype = 'f32' }})
        local a = tl.adapter.{kind}(m, {{ {options} }})
        local p = a:parameters()
        for i = 1, #p do p[i] = p[i] + 0.3 * math.sin(i * 12.9898) end
        a:set(p):save('{path(name)}', {{ metrics = {{ accuracy = 0.5 }}, provenance = {{ recipe = 'by hand' }} }})""")
    return path(name) + ".tla"


def logprobs(adapter, model=LLAMA):
    return json.loads(ok("logprobs", "--model", model, *(["--adapter", adapter] if adapter else []), "--ids", IDS, "--json"))["logprobs"]


def near(a, b, tolerance, what):
    worst = max(abs(x - y) for x, y in zip(a, b))
    check(len(a) == len(b) and worst <= tolerance, f"{what}: {worst:.1e}")


TINY = make("tiny", "tinylora", "u = 13, dtype = 'bf16'")


@case
def saved_twice():
    """save writes the compact file and the PEFT folder: equal logprobs, 13 numbers under 4 KiB"""
    check(os.path.getsize(TINY) < 4096, os.path.getsize(TINY))
    near(logprobs(TINY), logprobs(path("tiny")), 0, "compact and PEFT")
    check(max(abs(x - y) for x, y in zip(logprobs(TINY), logprobs(None))) > 0.1, "the adapter does nothing")
    with open(TINY, "rb") as a, open(make("again", "tinylora", "u = 13, dtype = 'bf16'"), "rb") as b:
        check(a.read() == b.read(), "the same adapter gives other bytes")


@case
def inspected():
    """inspect: at most ten lines with what matters in them; the same through tlrun inspect; --json"""
    text = ok("adapter", "inspect", TINY)
    check(len(text.splitlines()) <= 10, text)
    for word in ["13 trained numbers in BF16 (26 bytes)", "llama", "U S R V^T", "rank 2, u 13", "0*14", "philox", "by hand", "0.5", "signed   no"]:
        check(word in text, f"no {word} in {text}")
    check(ok("inspect", TINY) == text, "tlrun inspect says something else")
    doc = json.loads(ok("adapter", "inspect", TINY, "--json"))
    check(doc["kind"] == "adapter" and doc["manifest"]["u"] == 13 and len(doc["values"]) == 13 and doc["signature"] is None, doc)
    check("TINYLORA" in ok("adapter", "inspect", path("tiny")), "a PEFT folder")
    run_dir = path("run")
    os.mkdir(run_dir)
    shutil.copy(TINY, os.path.join(run_dir, "adapter.tla"))
    check(ok("adapter", "inspect", run_dir).split("\n")[1:] == text.split("\n")[1:], "a run folder")
    near(logprobs(run_dir), logprobs(TINY), 0, "a run folder")


@case
def exported():
    """every method in every format: the same logprobs"""
    made = {"tiny": TINY, "xs": make("xs", "loraxs", "rank = 3, alpha = 5"), "lora": make("lora", "lora", "rank = 3, alpha = 5"),
            "odd": make("odd", "tinylora", "u = 2, sigma = 'peft', projection = 'torch', tie = function(m) return m.out % 3 end")}
    for name, adapter in made.items():
        want = logprobs(adapter)
        for form in ["compact", "peft-tinylora", "peft-lora"]:
            to = path(f"{name}-{form}" + (".tla" if form == "compact" else ""))
            args = ["adapter", "export", adapter, "--model", LLAMA, "--format", form, "-o", to]
            if name == "lora" and form == "peft-tinylora":
                fails(1, "a LoRA is no TinyLoRA", *args)
                continue
            ok(*args)
            near(logprobs(to), want, 2e-6, f"{name} as {form}")  # B R is rounded to fp32 once
            if form != "compact":
                with open(os.path.join(to, "adapter_config.json")) as f:
                    text = f.read()
                check(text.startswith('{\n  "') and list(json.loads(text)) == sorted(json.loads(text)), "keys sorted, indent 2")
    carried = path("carried.tla")
    ok("adapter", "export", TINY, "--model", LLAMA, "--format", "compact", "--carry", "-o", carried)
    check(os.path.getsize(carried) > 2 * os.path.getsize(TINY), "nothing is carried")
    near(logprobs(carried), logprobs(TINY), 0, "carried")


@case
def imported():
    """PEFT's own adapters into compact files: signs of its singular pairs kept, P drawn again, groups by its ratio"""
    for name in sorted(os.listdir(LLAMA)):
        folder = os.path.join(LLAMA, name)
        if not os.path.isdir(folder):
            continue
        to = path(name + ".tla")
        doc = json.loads(ok("adapter", "import", folder, "--model", LLAMA, "-o", to, "--json"))
        check(doc["bytes"] == os.path.getsize(to), doc)
        if name == "tinylora_full_nosave":
            check(doc["parameters"] == 13 and doc["bytes"] < 4096 and doc["largest_difference"] < 1e-4, doc)
        # PEFT's singular pairs are fp32, 1e-5 to 3e-5 of their size from ours here; the logprobs are of order 10
        near(logprobs(to), logprobs(folder), 2e-4, name)


@case
def import_refuses():
    """an adapter on singular vectors that are not the base's is refused with the reason; carried, it is larger and exact"""
    folder, to = os.path.join(LLAMA, "tinylora_full"), path("foreign.tla")
    fails(1, "singular pair", "adapter", "import", folder, "--model", LLAMA, "-o", to, "--tolerance", "1e-12")
    check(not os.path.exists(to), "written all the same")
    ok("adapter", "import", folder, "--model", LLAMA, "-o", to, "--carry")
    near(logprobs(to), logprobs(folder), 0, "carried")
    fails(1, "q_proj", "adapter", "import", folder, "--model", QWEN, "-o", path("other.tla"))  # other weights, the same shapes


@case
def another_base():
    """a base of another architecture, or of other weights, is refused by every command; --force takes the second"""
    fails(1, "made for", "logprobs", "--model", QWEN, "--adapter", TINY, "--ids", IDS)
    scaled = path("scaled")
    ok("-e", f"local m = tl.model.load('{LLAMA}', {{ dtype = 'f32' }}) local a = tl.adapter.lora(m, {{ rank = 1 }}) local p = a:parameters() "
       f"for i = 1, #p do p[i] = 0.01 end a:set(p) m:save('{scaled}', {{ adapter = a, dtype = 'f32' }})")
    for command in [["logprobs", "--ids", IDS], ["generate", "--ids", IDS], ["eval", "--task", "gsm8k"], ["export", "--format", "hf", "-o", path("forced")]]:
        fails(1, "other weights", command[0], "--model", scaled, "--adapter", TINY, *command[1:])
    ok("logprobs", "--model", scaled, "--adapter", TINY, "--force", "--ids", IDS)
    ok("export", "--model", scaled, "--adapter", TINY, "--force", "--format", "hf", "-o", path("forced"))
    check("--force" in ok("eval", "--help"), "eval has no --force")


@case
def merged():
    """merge writes a model with the adapter's logprobs"""
    to = path("merged")
    ok("adapter", "merge", TINY, "--model", LLAMA, "--dtype", "f32", "-o", to)
    near(logprobs(None, to), logprobs(TINY), 1e-4, "merged")


@case
def signed():
    """keygen, sign, verify: who and what; another key, a change and an unsigned file are refused"""
    key, other, file = path("key"), path("other-key"), path("signed.tla")
    shutil.copy(TINY, file)
    fails(1, "not signed", "adapter", "verify", file)
    ok("adapter", "keygen", key)
    ok("adapter", "keygen", other)
    check(os.stat(key).st_mode & 0o777 == 0o600, "the private key can be read by others")
    fails(1, "key", "adapter", "keygen", key)
    ok("adapter", "sign", file, "--key", key, "--name", "Grace Hopper")
    text = ok("adapter", "verify", file, "--key", key + ".pub")
    check("Grace Hopper" in text and "13 trained numbers" in text and "llama" in text, text)
    doc = json.loads(ok("adapter", "verify", file, "--json"))
    check(doc["signer"] == "Grace Hopper" and doc["trusted"] is False and len(doc["key"]) == 64, doc)
    check("Grace Hopper" in ok("inspect", file), "inspect does not show the signer")
    fails(1, "another key", "adapter", "verify", file, "--key", other + ".pub")
    fails(1, "not an Ed25519", "adapter", "sign", file, "--key", key + ".pub")
    near(logprobs(file), logprobs(TINY), 0, "signed")
    data = bytearray(open(file, "rb").read())
    data[len(data) - 100] ^= 1
    open(file, "wb").write(data)
    fails(1, "signature", "adapter", "verify", file)
    fails(1, "signature", "logprobs", "--model", LLAMA, "--adapter", file, "--ids", IDS)
    data[700] ^= 1
    open(file, "wb").write(data)
    fails(1, "damaged", "adapter", "inspect", file)


@case
def compared():
    """diff: an adapter and itself, and its negative; per module and over all"""
    negative = path("negative")
    ok("-e", f"local m = tl.model.load('{LLAMA}', {{ dtype = 'f32' }}) local a = tl.adapter.load(m, '{TINY}') local p = a:parameters() "
       f"for i = 1, #p do p[i] = -p[i] end a:set(p):save('{negative}.tla')")
    same = json.loads(ok("adapter", "diff", TINY, path("tiny"), "--model", LLAMA, "--json"))
    check(same["all"]["distance"] < 1e-6 and same["all"]["cosine"] > 1 - 1e-9 and same["largest_difference"] == 0 and len(same["modules"]) == 14, same["all"])
    far = json.loads(ok("adapter", "diff", TINY, negative + ".tla", "--model", LLAMA, "--json"))
    check(math.isclose(far["all"]["distance"], 2, rel_tol=1e-6) and math.isclose(far["all"]["cosine"], -1, rel_tol=1e-6), far["all"])
    check(len(ok("adapter", "diff", TINY, negative + ".tla", "--model", LLAMA).splitlines()) == 11, "one line, and the ten that differ most")


def rewritten(change):
    """TINY with another manifest and a digest that fits"""
    data = open(TINY, "rb").read()
    m, n = struct.unpack_from("<IQ", data, 8)
    manifest = json.loads(data[20:20 + m])
    change(manifest)
    text = json.dumps(manifest).encode()
    body = data[:8] + struct.pack("<IQ", len(text), n) + text + data[20 + m:20 + m + n]
    with open(path("rewritten.tla"), "wb") as f:
        f.write(body + hashlib.sha256(body).digest())
    return path("rewritten.tla")


@case
def strange_manifests():
    """a manifest without a field is refused by name; text that would move the terminal's cursor does not reach it"""
    for field in ["method", "parameters", "dtype", "targets", "base", "provenance"]:
        fails(1, field, "adapter", "inspect", rewritten(lambda m: m.pop(field)))
    for field in ["tying", "projection", "basis", "sigma", "u", "rank", "version"]:
        file = rewritten(lambda m: m.pop(field))
        check(len(ok("adapter", "inspect", file).splitlines()) <= 10, field)
        fails(1, {"projection": "generator", "basis": "from"}.get(field, field), "logprobs", "--model", LLAMA, "--adapter", file, "--ids", IDS)
    text = ok("adapter", "inspect", rewritten(lambda m: m["base"].update(name="a\x1b[2Jb\nc")))
    check("\x1b" not in text and "a?[2Jb?c" in text and len(text.splitlines()) <= 10, repr(text))


@case
def traps():
    """a pattern in a PEFT config that backtracks without end costs no time"""
    folder = path("trap")
    shutil.copytree(os.path.join(LLAMA, "tinylora_regex_nosave"), folder)
    config = json.load(open(os.path.join(folder, "adapter_config.json")))
    config["target_modules"] = r"(\w+\.?)+X"
    json.dump(config, open(os.path.join(folder, "adapter_config.json"), "w"))
    began = time.monotonic()
    fails(1, "does not select", "logprobs", "--model", LLAMA, "--adapter", folder, "--ids", IDS)
    check(time.monotonic() - began < 20, "it took its time")


@case
def usage():
    """--help of every sub-command; wrong words are usage errors"""
    text = ok("adapter", "--help")
    for name in ["inspect", "merge", "export", "import", "diff", "keygen", "sign", "verify"]:
        check(name in text and ok("adapter", name, "--help").startswith(f"usage: tlrun adapter {name}"), name)
    fails(2, "usage", "adapter", "inspect")
    fails(2, "--key", "adapter", "sign", TINY)
    fails(2, "export", "adapter", "exprot", TINY)
    fails(1, "no such file", "adapter", "inspect", path("nothing"))
    fails(1, "not a tlrun adapter", "adapter", "inspect", os.path.join(LLAMA, "config.json"))


shutil.rmtree(HOME)
done()

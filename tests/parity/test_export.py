"""Exported models and adapters, read back by ourselves and by the programs they are for.

Catches: q and k left in the wrong order of rows, a bias or norm under another name, a tokenizer that splits differently on the other
side, a rope scaling lost on the way, an adapter merged twice rounded, a file cut short by a full disk.

Our own way back needs nothing. transformers and llama.cpp are asked through TL_PYTHON (or .venv-fixtures/bin/python) by
check_export.py. SmolLM2 is used when it is in the cache, GSM8K's test set when TL_DATA has it: 60 texts and 2 answers, or with
TL_EXPORT_ALL=1 all texts and all answers of up to 64 tokens (TL_EXPORT_ANSWERS=N: the first N; TL_EXPORT_NEW=N: of up to N tokens).
"""
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "lua"))
sys.path.insert(0, HERE)
from real_tokenizers import spm_merges  # noqa: E402
from session import ROOT, case, check, done, run  # noqa: E402

HOME = tempfile.mkdtemp()
FIXTURES = os.path.join(HERE, "fixtures")
ALL = os.environ.get("TL_EXPORT_ALL") == "1"
TEXTS = ["Hello world, 12345 apples!\n\n  def f(x):\n\treturn x", "I'll say \u00e9t\u00e9, \u65e5\u672c and \u00bd; DON'T", "<|im_start|>user\nHi", "  \n x"]

# name: (config beside the common keys, tokenizer fixture, its special tokens: bos, eos)
COMMON = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
          "vocab_size": 912, "rms_norm_eps": 1e-5, "max_position_embeddings": 256, "hidden_act": "silu", "initializer_range": 0.15}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
MODELS = {
    "llama": (dict(model_type="llama", architectures=["LlamaForCausalLM"], tie_word_embeddings=True, rope_theta=500000.0, rope_scaling=LLAMA3),
              "llama3", "<|begin_of_text|>", "<|eot_id|>"),
    "yarn": (dict(model_type="llama", architectures=["LlamaForCausalLM"], tie_word_embeddings=False, rope_theta=10000.0, rope_scaling=YARN),
             "smollm", None, "<|im_end|>"),
    "qwen2": (dict(model_type="qwen2", architectures=["Qwen2ForCausalLM"], tie_word_embeddings=False, rope_theta=1000000.0),
              "qwen2", None, "<|im_end|>"),
    "qwen3": (dict(model_type="qwen3", architectures=["Qwen3ForCausalLM"], tie_word_embeddings=True, rope_theta=1000000.0),
              "qwen2", None, "<|im_end|>"),
    "smollm3": (dict(model_type="smollm3", architectures=["SmolLM3ForCausalLM"], num_hidden_layers=5, tie_word_embeddings=True, rope_theta=5000.0),
                "llama3", "<|begin_of_text|>", "<|eot_id|>"),
    "gpt2": (dict(model_type="llama", architectures=["LlamaForCausalLM"], tie_word_embeddings=True, rope_theta=10000.0), "gpt2", None,
             "<|endoftext|>"),
    # SentencePiece: with a space in front of a text, as Llama 2 and Mistral 7B have it, and without
    "spm": (dict(model_type="llama", architectures=["LlamaForCausalLM"], tie_word_embeddings=False, rope_theta=10000.0), "llama2", "<s>", "</s>"),
    "spm_plain": (dict(model_type="llama", architectures=["LlamaForCausalLM"], tie_word_embeddings=False, rope_theta=10000.0), "llama2", "<s>", "</s>"),
}
SPM = ("spm", "spm_plain")
# for SentencePiece, whose conversion makes the merges or the scores anew
MANY = TEXTS + [s for s in json.load(open(os.path.join(FIXTURES, "tokenizer", "strings.json"), encoding="utf-8")) if isinstance(s, str)]
CHAT = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}\n{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"


def out(*args, timeout=600, **kw):
    code, text, err = run(*args, timeout=timeout, **kw)
    check(code == 0, f"{args}: {code} {err}")
    return text


def fails(words, *args, **kw):
    code, text, err = run(*args, **kw)
    check(code == 1 and words in err and text == "", f"{args}: {code} {err!r}, wanted {words!r}")


def make(name):
    """a random model with a tokenizer of the fixtures; its folder"""
    path = os.path.join(HOME, name)
    if os.path.isdir(path):
        return path
    os.mkdir(path)
    config, tokenizer, bos, eos = MODELS[name]
    t = json.load(open(os.path.join(FIXTURES, "tokenizer", tokenizer + ".json"), encoding="utf-8"))
    if name in SPM:
        vocab = t["model"]["vocab"]  # a score for each piece; those of spm.gguf have ties, which tests/unit/test_convert.c looks at
        t["model"]["merges"] = spm_merges(vocab, {p: -i for p, i in vocab.items() if i > 258})
    if name == "spm_plain":
        t["normalizer"], t["decoder"]["decoders"] = t["normalizer"]["normalizers"][1], t["decoder"]["decoders"][:3]
    json.dump(t, open(os.path.join(path, "tokenizer.json"), "w"))
    added = t["added_tokens"]
    ids = {a["content"]: a["id"] for a in added}
    eos = eos if eos in ids else added[-1]["content"]
    config = {**COMMON, **config, "eos_token_id": ids[eos], "bos_token_id": ids.get(bos)}
    json.dump(config, open(os.path.join(path, "config.json"), "w"))
    json.dump({"bos_token": bos, "eos_token": eos, "pad_token": eos, "chat_template": CHAT, "tokenizer_class": "PreTrainedTokenizerFast"},
              open(os.path.join(path, "tokenizer_config.json"), "w"))
    out("-e", 'local d = arg[1]; tl.model.create(d .. "/config.json", { seed = 3, dtype = "f32" }):save(d, { dtype = "f32" })', path)
    return path


def export(model, target, fmt, *more):
    """the path of an export"""
    path = os.path.join(HOME, target)
    out("export", "--model", model, "--format", fmt, "-o", path, *more)
    return path


def tokenize(model, texts, *more):
    lines = "".join(json.dumps({"text": t}) + "\n" for t in texts)
    return [json.loads(x)["ids"] for x in out("tokenize", "--model", model, "--jsonl", *more, stdin=lines).splitlines()]


def texts_of(name):
    return MANY if name in SPM else TEXTS


def greedy(model, ids, n, *more, compute="f32"):
    r = out("generate", "--model", model, "--ids", ",".join(map(str, ids)), "--temperature", "0", "--max-new-tokens", str(n), "--compute", compute,
            "--ignore-eos", "--json", *more)
    return json.loads(r)["completions"][0]["ids"]


def logprobs(model, ids, *more):
    return json.loads(out("logprobs", "--model", model, "--ids", ",".join(map(str, ids)), "--compute", "fp32", "--json", *more))["logprobs"]


def adapter(model, kind, target):
    """a PEFT folder with an adapter that changes the model"""
    path = os.path.join(HOME, target)
    if not os.path.isdir(path):
        out("-e", r"""
            local m = tl.model.load(arg[1], { dtype = "f32" })
            local a = tl.adapter.create(m, arg[2], { rank = 2, init = 0.4, cache = false })
            local p = a:parameters()
            for i = 1, #p do p[i] = (i * 7919 % 1000 / 1000 - 0.5) * 0.6 end
            a:set(p)
            a:save(arg[3])""", model, kind, path)
    return path


def python():
    for p in (os.environ.get("TL_PYTHON"), os.path.join(ROOT, ".venv-fixtures/bin/python")):
        if p and os.access(p, os.X_OK):
            return p
    return None


def ask(jobs):
    """the answers to several jobs of check_export.py: the libraries are loaded once"""
    p = subprocess.run([python(), os.path.join(HERE, "check_export.py")], input=json.dumps(jobs), capture_output=True, text=True, timeout=600)
    check(p.returncode == 0, p.stderr.strip().splitlines()[-1:] or "no answer")
    return json.loads(p.stdout)


def furthest(a, b):
    check(len(a) == len(b), "lengths differ")
    return max(abs(x - y) for x, y in zip(a, b))


PROMPT = [5, 300, 17, 42, 211, 9, 80, 33]


# ---------------------------------------------------------------- our own way back

@case
def there_and_back():
    """folder -> GGUF -> folder in fp32: the weights' bytes, the tokenizer's ids, the template and the special tokens are the first ones"""
    for name in MODELS:
        first = make(name)
        g = export(first, name + ".gguf", "gguf", "--dtype", "f32")
        again = export(g, name + "-again", "hf", "--dtype", "f32")
        with open(first + "/model.safetensors", "rb") as a, open(again + "/model.safetensors", "rb") as b:
            check(a.read() == b.read(), name + ": the weights differ")
        for path in (g, again):
            texts = texts_of(name)
            check(tokenize(path, texts, "--add-special") == tokenize(first, texts, "--add-special"), f"{path}: other ids")
            check(furthest(logprobs(path, PROMPT), logprobs(first, PROMPT)) < 1e-5, path)  # llama3's divisors are divided once more
            messages = json.dumps([{"role": "user", "content": "Hi"}])
            check(out("chat-template", "--model", path, stdin=messages) == out("chat-template", "--model", first, stdin=messages), path)
        a, b = (json.load(open(d + "/config.json")) for d in (first, again))
        for key in ("eos_token_id", "bos_token_id", "model_type", "rope_theta", "tie_word_embeddings", "vocab_size"):
            check(a[key] == b[key], f"{name}: {key} {a[key]} {b[key]}")


@case
def dtypes():
    """every type that is written is read back near the first; a GGUF's tokenizer goes along to another GGUF"""
    first = make("qwen2")
    want = logprobs(first, PROMPT)
    sizes = []
    for dtype, bound in (("f32", 0), ("f16", 0.02), ("bf16", 0.1), ("q8_0", 0.1), ("q5_1", 1), ("q5_0", 1), ("q4_1", 2), ("q4_0", 2)):
        g = export(first, f"q.{dtype}.gguf", "gguf", "--dtype", dtype)
        far = furthest(logprobs(g, PROMPT), want)
        check(far <= bound and (far > 0 or bound == 0), f"{dtype}: {far}")
        sizes.append(os.path.getsize(g))
    check(sizes[0] > sizes[1] == sizes[2] > sizes[3] > sizes[4] > sizes[5] > sizes[7], sizes)
    second = export(g, "second.gguf", "gguf", "--dtype", "f16")
    check(tokenize(second, TEXTS) == tokenize(first, TEXTS), "ids")


@case
def merged():
    """an adapter merged on the way: what the base with the adapter gives"""
    base = make("llama")
    for kind in ("tinylora", "lora"):
        a = adapter(base, kind, "merged-" + kind)
        want = logprobs(base, PROMPT, "--adapter", a)
        check(furthest(want, logprobs(base, PROMPT)) > 0.05, kind + " changes nothing")
        for fmt in ("hf", "gguf"):
            m = export(base, f"merged-{kind}.{fmt}", fmt, "--dtype", "f32", "--adapter", a)
            check(furthest(logprobs(m, PROMPT), want) < 1e-4, f"{kind} {fmt}")  # W + dW rounded once in fp32


@case
def refusals():
    """what a GGUF cannot express is refused with its reason, and --no-tokenizer writes the model without one"""
    odd = os.path.join(HOME, "odd")
    shutil.copytree(make("qwen2"), odd)
    path = odd + "/tokenizer.json"
    t = json.load(open(path))
    regex = t["pre_tokenizer"]["pretokenizers"][0]["pattern"]
    regex["Regex"] = regex["Regex"].replace("\\p{N}", "\\p{N}{1,2}", 1)
    json.dump(t, open(path, "w"))
    target = os.path.join(HOME, "odd.gguf")
    fails("is no pre-tokenizer with a known name", "export", "--model", odd, "--format", "gguf", "-o", target)
    check(not os.path.exists(target), "a file was written")
    out("export", "--model", odd, "--format", "gguf", "--no-tokenizer", "--dtype", "f32", "-o", target)
    check(logprobs(target, PROMPT) == logprobs(odd, PROMPT), "without a tokenizer")
    fails("tokenizer", "tokenize", "--model", target, stdin="x")
    unlike = os.path.join(HOME, "unlike")
    shutil.copytree(make("smollm3"), unlike)
    config = json.load(open(unlike + "/config.json"))
    json.dump({**config, "no_rope_layers": [1, 0, 1, 1, 1]}, open(unlike + "/config.json", "w"))
    fails("a GGUF of smollm3 has no rotation in every 4th layer; this model's layer 1 differs", "export", "--model", unlike, "--format", "gguf", "-o", target + "y")
    fails("not written as a Hugging Face folder", "export", "--model", odd, "--format", "hf", "--dtype", "q8_0", "-o", target + "x")
    code, _, err = run("export", "--model", odd, "--format", "lora-gguf", "-o", target)
    check(code == 2 and "--adapter" in err, err)


@case
def full_disk():
    """a disk that fills leaves the earlier file whole, and nothing beside it"""
    model, target = make("llama"), os.path.join(HOME, "full.gguf")
    export(model, "full.gguf", "gguf", "--dtype", "q8_0")
    before, names = open(target, "rb").read(), sorted(os.listdir(HOME))
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100000, 100000))  # noqa: E731
    p = subprocess.run([os.path.join(ROOT, os.environ.get("TL_BUILD_DIR", "build"), "tlrun"), "export", "--model", model, "--format", "gguf", "--dtype", "f32",
                        "-o", target], capture_output=True, text=True, preexec_fn=limit,
                       restore_signals=False)  # SIGXFSZ stays ignored, as Python has it: writing fails instead
    check(p.returncode == 1 and "cannot write" in p.stderr and "untouched" in p.stderr, (p.returncode, p.stderr))
    check(open(target, "rb").read() == before and sorted(os.listdir(HOME)) == names, "the earlier file changed")


TOOLS = [{"type": "function", "function": {"name": "add", "description": "adds", "parameters": {"type": "object", "properties": {}}}}]
NAMED = {"tool_use": "tools: {{ tools | length }}, {{ messages[0].content }}", "default": "default: {{ messages[0].content }}", "rag": "rag: {{ messages[0].content }}"}
CHATS = [{"messages": [{"role": "user", "content": "Hi"}], **more} for more in
         ({}, {"tools": TOOLS}, {"tools": []}, {"tools": None}, {"chat_template": "rag"}, {"chat_template": "rag", "tools": TOOLS}, {"chat_template": "new {{ 1 }}"})]


def with_templates(target, how):
    """a copy of qwen2 with named templates: in tokenizer_config.json, in files, in files without a default"""
    path = os.path.join(HOME, target)
    shutil.copytree(make("qwen2"), path)
    if how == "config":
        config = json.load(open(path + "/tokenizer_config.json"))
        config["chat_template"] = [{"name": n, "template": t} for n, t in NAMED.items()]
        json.dump(config, open(path + "/tokenizer_config.json", "w"))
        return path
    os.mkdir(path + "/additional_chat_templates")
    for n, t in NAMED.items():
        if n != "default":
            open(f"{path}/additional_chat_templates/{n}.jinja", "w").write(t)
        elif how == "files":
            open(path + "/chat_template.jinja", "w").write(t)
    return path


def rendered(path, chat):
    code, text, err = run("chat-template", "--model", path, stdin=json.dumps(chat))
    return text if code == 0 else err


@case
def named_templates():
    """of several chat templates the one that is named, with tools tool_use, else default; they go over to a GGUF and back"""
    want = ["default: Hi", "tools: 1, Hi", "tools: 0, Hi", "default: Hi", "rag: Hi", "rag: Hi", "new 1"]
    for how in ("config", "files"):
        first = with_templates("named-" + how, how)
        g = export(first, f"named-{how}.gguf", "gguf", "--dtype", "f32")
        for path in (first, g, export(g, f"named-{how}-again", "hf", "--dtype", "f32"), export(first, f"named-{how}-copy", "hf", "--dtype", "f32")):
            got = [rendered(path, c) for c in CHATS]
            check(got == want, f"{path}: {got}")
    without = with_templates("named-none", "none")
    check(rendered(without, CHATS[1]) == want[1], "tool_use alone")
    check("several chat templates and no default: give one of them as chat_template: rag, tool_use" in rendered(without, CHATS[0]), rendered(without, CHATS[0]))


# ---------------------------------------------------------------- the other programs

def with_packages(fn):
    if python() is None:
        print(f"skip {fn.__name__}: no Python with the reference packages (TL_PYTHON, or ./dev fixtures)")
        return
    case(fn)


@with_packages
def transformers_agrees():
    """transformers loads the folder made from a GGUF made from a folder: its logprobs, ids and template are ours"""
    folders = [export(export(make(name), name + ".t.gguf", "gguf", "--dtype", "f32"), name + ".t", "hf", "--dtype", "f32") for name in MODELS]
    answers = ask([{"do": "hf", "path": folder, "ids": PROMPT, "texts": texts_of(name)} for name, folder in zip(MODELS, folders)])
    most = 0
    for name, folder, theirs in zip(MODELS, folders, answers):
        far = furthest(theirs["logprobs"], logprobs(folder, PROMPT))
        most = max(most, far)
        check(far < 1e-4, f"{folder}: logprobs differ by {far}")  # two orders of summation in fp32
        check(theirs["ids"] == tokenize(folder, texts_of(name)), f"{folder}: other ids")
        check(theirs["chat"] == "<|user|>Hello\n<|assistant|>", theirs["chat"])
    print(f"# largest difference of a logprob: {most:.1e}")


@with_packages
def transformers_chooses():
    """transformers chooses the same of several chat templates"""
    folders = [os.path.join(HOME, n) for n in ("named-config", "named-files", "named-config-again", "named-files-copy", "named-none")]
    for folder, theirs in zip(folders, ask([{"do": "chats", "path": f, "chats": CHATS} for f in folders])):
        ours = [rendered(folder, c) for c in CHATS]
        ours = ["ValueError: This model has multiple chat templates w" if "several chat templates" in t else t for t in ours]
        check(ours == theirs["texts"], f"{folder}: {theirs['texts']}")


@with_packages
def llama_cpp_agrees():
    """llama.cpp loads the GGUF: its greedy tokens and its ids are ours"""
    files = [export(make(name), name + ".l.gguf", "gguf", "--dtype", "f32") for name in MODELS]
    answers = ask([{"do": "llama", "path": g, "ids": PROMPT, "n": 16, "texts": texts_of(name)} for name, g in zip(MODELS, files)])
    for name, theirs in zip(MODELS, answers):
        check(theirs["new"] == greedy(make(name), PROMPT, 16), f"{name}: {theirs['new']}")
        check(theirs["ids"] == tokenize(make(name), texts_of(name)), f"{name}: other ids")


@with_packages
def llama_cpp_lora():
    """llama.cpp with the LoRA file: the tokens of the base with the adapter, which are not the base's"""
    jobs, wanted = [], []
    for name in ("llama", "qwen2"):
        base = make(name)
        g = export(base, name + ".l.gguf", "gguf", "--dtype", "f32")
        for kind in ("tinylora", "loraxs", "lora"):
            a = adapter(base, kind, f"{name}-{kind}")
            wanted.append(greedy(base, PROMPT, 16, "--adapter", a))
            check(wanted[-1] != greedy(base, PROMPT, 16), f"{name} {kind}: the adapter changes nothing")
            jobs.append({"do": "llama", "path": g, "lora": export(base, f"{name}-{kind}.gguf", "lora-gguf", "--adapter", a), "ids": PROMPT, "n": 16})
    for job, want, theirs in zip(jobs, wanted, ask(jobs)):
        check(theirs["new"] == want, f"{job['lora']}: {theirs['new']} {want}")


# ---------------------------------------------------------------- the real model

code, text, _ = run("-e", 'print(tl.model.resolve("smollm2-135m-instruct"))')
SMOLLM2 = text.strip() if code == 0 else None
GSM8K = os.path.join(os.environ.get("TL_DATA", ""), "gsm8k", "test.jsonl")


def with_smollm2(fn, also=None):
    if SMOLLM2 is None:
        print(f"skip {fn.__name__}: SmolLM2 is not in the cache (tlrun fetch smollm2-135m-instruct)")
    else:
        (also or case)(fn)


def prompt_of(question):
    return json.loads(out("-e", """
        local t = tl.tokenizer.load(arg[1])
        print(tl.json.encode(tl.json.array(t:encode(t:chat({ { role = "user", content = arg[2] } }, { add_generation_prompt = true }), { parse_special = true }))))""",
                          SMOLLM2, question))


def smollm2_folder():
    path = os.path.join(HOME, "smollm2")
    return path if os.path.isdir(path) else export(SMOLLM2, "smollm2", "hf", "--dtype", "bf16")


def answers(model, questions, n_new):
    """the ids of a model's greedy answers, 64 at a time; each question goes through the model's own chat template and tokenizer"""
    return json.loads(out("-e", r"""
        local m = tl.model.load(arg[1], { dtype = "bf16" })
        local t, prompts = m:tokenizer(), {}
        for i, q in ipairs(tl.json.decode(io.read "*a")) do
          prompts[i] = t:encode(t:chat({ { role = "user", content = q } }, { add_generation_prompt = true }), { parse_special = true })
        end
        local out = tl.sample.generate(m, prompts, { temperature = 0, max_new_tokens = tonumber(arg[2]), max_sequences = 64 })
        for i, list in ipairs(out) do out[i] = tl.json.array(list[1].ids) end
        print(tl.json.encode(tl.json.array(out)))""", model, str(n_new), stdin=json.dumps(questions), timeout=7200, env={"OMP_NUM_THREADS": "1"}))


def smollm2_on_gsm8k():
    """the GGUF and the bf16 folder made of it: the same ids of GSM8K's texts and, computed in bf16, the same greedy answers"""
    folder = smollm2_folder()
    rows = [json.loads(line) for line in open(GSM8K, encoding="utf-8")]
    texts = [r["question"] + "\n" + r["answer"] for r in rows]
    texts = texts if ALL else texts[::len(texts) // 60]
    check(tokenize(SMOLLM2, texts) == tokenize(folder, texts), "ids")
    n, n_new = (int(os.environ.get("TL_EXPORT_ANSWERS", len(rows))), int(os.environ.get("TL_EXPORT_NEW", 64))) if ALL else (2, 40)
    questions = [r["question"] for r in rows[:n]]
    with ThreadPoolExecutor(2) as pool:  # both at once, a core each
        ours, theirs = pool.map(lambda m: answers(m, questions, n_new), (SMOLLM2, folder))
    check(len(ours) == n and all(ours), "no answers")
    for q, a, b in zip(questions, ours, theirs):
        check(a == b, q)
    print(f"# {n} answers of at most {n_new} tokens, {sum(map(len, ours))} tokens in all, {sum(len(a) < n_new for a in ours)} ended by themselves")


def smollm2_elsewhere():
    """transformers' logprobs of the folder, llama.cpp's greedy tokens of the GGUF and both's ids are ours"""
    folder, ids = smollm2_folder(), prompt_of("Tom has 3 apples and buys 4 more. How many does he have?")
    g = export(folder, "smollm2.gguf", "gguf", "--dtype", "f32")
    theirs, llama = ask([{"do": "hf", "path": folder, "ids": ids, "texts": TEXTS}, {"do": "llama", "path": g, "ids": ids, "n": 24, "texts": TEXTS}])
    far = furthest(theirs["logprobs"], logprobs(folder, ids))
    check(far < 1e-3, f"logprobs differ by {far}")
    check(llama["new"] == greedy(folder, ids, 24), llama["new"])
    check(theirs["ids"] == llama["ids"] == tokenize(SMOLLM2, TEXTS), theirs["ids"])


if os.path.exists(GSM8K):
    with_smollm2(smollm2_on_gsm8k)
else:
    print("skip smollm2_on_gsm8k: TL_DATA has no gsm8k/test.jsonl")
with_smollm2(smollm2_elsewhere, with_packages)
shutil.rmtree(HOME)
done()

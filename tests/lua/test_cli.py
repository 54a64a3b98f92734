"""The command line: exit codes, refusals, JSON documents, on a small random model made here.

Catches: a command that exits 0 after a failure, a document that changes shape, more than one line for bad input, a result on
stderr or progress on stdout, logprobs of the sampler that are not those of `tlrun logprobs`.
"""
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile

from session import ROOT, TLRUN, case, check, done, run

HOME = tempfile.mkdtemp()
MODEL = os.path.join(HOME, "model")
ENV = {"TL_HOME": HOME}

MAKE_MODEL = r"""
local dir = arg[1]
tl.fs.mkdirs(dir)
local config = { model_type = "llama", architectures = { "LlamaForCausalLM" }, hidden_size = 32, intermediate_size = 48, num_hidden_layers = 2,
  num_attention_heads = 4, num_key_value_heads = 2, head_dim = 8, vocab_size = 300, rms_norm_eps = 1e-5, rope_theta = 10000,
  max_position_embeddings = 256, tie_word_embeddings = true, hidden_act = "silu", eos_token_id = 0, bos_token_id = 0 }
tl.json.save(dir .. "/config.json", config)
local bpe = require "tl.bpe_train"
local text = "the cat sat on the mat and the dog sat on the log while the rain ran down the drain and the train came in again "
local t = bpe.train({ text }, { vocab = 270, special = { "<|end|>", "<|user|>" } })
tl.fs.write(dir .. "/tokenizer.json", bpe.tokenizer_json(t))
tl.fs.write(dir .. "/tokenizer_config.json", bpe.config_json { eos = "<|end|>", pad = "<|end|>", max_length = 256,
  chat_template = "{% for m in messages %}<|user|>{{ m.content }}{% endfor %}{% if add_generation_prompt %}:{% endif %}" })
local m = tl.model.create(dir .. "/config.json", { seed = 1, dtype = "f32" })
m:save(dir, { dtype = "f32" })
"""


def ok(*args, **kw):
    """stdout of a command that must succeed"""
    code, out, err = run(*args, env=ENV, **kw)
    check(code == 0, f"{args}: {code} {err}")
    return out


def fails(code, words, *args, **kw):
    got, out, err = run(*args, env=ENV, **kw)
    check(got == code and words in err, f"{args}: {got} {err!r}")
    check(out == "" and err.count("\n") == 1 and err.startswith("tlrun: "), f"one line on stderr: {out!r} {err!r}")


ok("-e", MAKE_MODEL, MODEL)


@case
def help_texts():
    """--help of the program and of every command; only what there is is listed"""
    listed = [line.split()[0] for line in ok("--help").split("commands:\n")[1].split("\n\n")[0].splitlines()]
    files = sorted(f[:-4].replace("_", "-") for f in os.listdir(os.path.join(ROOT, "lua/tl/cli")) if f != "init.lua")
    check(listed == files, (listed, files))
    for name in listed:
        check(ok(name, "--help").startswith(f"usage: tlrun {name}"), name)
    with open(os.path.join(ROOT, "CHANGELOG.md")) as f:
        version = re.search(r"^## ([\d.]+)", f.read(), re.M).group(1)
    check(ok("--version").startswith(f"tlrun {version} (") and ok("--version").count("tlrun") == 1, ok("--version"))


@case
def usage_errors():
    """wrong usage ends with exit code 2 and one line that names what is right"""
    fails(2, "unknown command 'generat'; did you mean generate?", "generat")
    fails(2, "unknown option --nonsense", "--nonsense")
    fails(2, MODEL + " is a folder; tlrun inspect " + MODEL, MODEL)
    fails(2, "did you mean --temperature?", "generate", "--temprature", "1")
    fails(2, "--temperature wants a number from 0; got 'warm'", "generate", "--temperature", "warm")
    fails(2, "did you mean --lr?", os.path.join(ROOT, "recipes/quickstart.lua"), "--learning-rate", "1")
    fails(2, "did you mean --group?", os.path.join(ROOT, "recipes/quickstart.lua"), "--num_generations", "4")
    fails(2, "-n wants a whole number", "generate", "-n", "1.5")
    fails(2, "wants --prompt TEXT or --ids IDS", "generate", "--model", MODEL)
    fails(2, "--ids is required", "logprobs", "--model", MODEL)
    fails(2, "'x' is not a token id", "logprobs", "--model", MODEL, "--ids", "1,x")
    fails(2, "unexpected argument", "logprobs", "more")
    fails(2, "-e wants", "-e")
    fails(2, "--task wants NAME,...; got ','", "eval", "--model", MODEL, "--task", ",")
    fails(2, "--compute wants one of", "logprobs", "--compute", "int8")


@case
def failures():
    """what fails ends with exit code 1 and one line"""
    fails(1, "no model 'qwenty'", "logprobs", "--model", "qwenty", "--ids", "1,2")
    fails(1, "the vocabulary has 300", "logprobs", "--model", MODEL, "--ids", "1,300")
    fails(1, "No such file", "logprobs", "--model", MODEL, "--ids", "@/none")
    fails(1, "stdin, line 2", "tokenize", "--model", MODEL, "--jsonl", stdin="\n{")
    fails(1, "did you mean math?", "verify", "--verifier", "mth", stdin="{}")
    fails(1, "neither a model", "inspect", HOME)
    fails(1, "(-e):1: no", "-e", "error('no')")
    fails(1, "/none.lua", "/none.lua")
    truncated = os.path.join(HOME, "cut")
    shutil.copytree(MODEL, truncated)
    with open(os.path.join(truncated, "model.safetensors"), "r+b") as f:
        f.truncate(1000)
    fails(1, "model.safetensors", "logprobs", "--model", truncated, "--ids", "1,2")


@case
def logprobs():
    """logprobs: one number for every id but the first; ids from a file and from stdin"""
    doc = json.loads(ok("logprobs", "--model", MODEL, "--ids", "5,7,9", "--json"))
    check(len(doc["logprobs"]) == 2 and all(x < 0 for x in doc["logprobs"]), doc)
    path = os.path.join(HOME, "ids")
    with open(path, "w") as f:
        f.write("[5, 7, 9]\n")
    check(json.loads(ok("logprobs", "--model", MODEL, "--ids", "@" + path, "--json")) == doc)
    check(json.loads(ok("logprobs", "--model", MODEL, "--ids", "-", "--json", stdin="5 7\n9")) == doc)
    bf16 = json.loads(ok("logprobs", "--model", MODEL, "--ids", "5,7,9", "--compute", "bf16", "--json"))["logprobs"]
    # bf16 keeps 8 bits; logprobs of this flat model are near log(300) = 5.7
    check(all(abs(a - b) < 0.05 for a, b in zip(bf16, doc["logprobs"])), bf16)


@case
def generate():
    """generate: completions with text, ids, logprobs and finish_reason, a function of the seed; logprobs are those of logprobs"""
    args = ("generate", "--model", MODEL, "--prompt", "the cat", "-n", "3", "--max-new-tokens", "6", "--compute", "fp32", "--json")
    out = ok(*args, "--seed", "4")
    doc = json.loads(out)["completions"]
    check(len(doc) == 3)
    for c in doc:
        check(set(c) >= {"text", "ids", "logprobs", "finish_reason"} and len(c["ids"]) == len(c["logprobs"]) <= 6, c)
        check(c["finish_reason"] in ("stop", "length"))
    check(ok(*args, "--seed", "4") == out and ok(*args, "--seed", "5") != out, "the seed decides")
    prompt = json.loads(ok("tokenize", "--model", MODEL, "--jsonl", stdin='{"text":"the cat"}\n'))["ids"]
    ids = ",".join(map(str, prompt + doc[0]["ids"]))
    again = json.loads(ok("logprobs", "--model", MODEL, "--ids", ids, "--json"))["logprobs"][len(prompt) - 1:]
    # the same sums in the same order: 9 written digits are what may differ
    check(all(abs(a - b) < 1e-6 for a, b in zip(again, doc[0]["logprobs"])), (again, doc[0]["logprobs"]))
    greedy = [json.loads(ok("generate", "--model", MODEL, "--ids", "5,6", "--temperature", "0", "--max-new-tokens", "4", "--json",
                            "--seed", s))["completions"][0]["ids"] for s in ("1", "2")]
    check(greedy[0] == greedy[1], "temperature 0 is greedy")
    fails(2, "--system goes with --chat", "generate", "--model", MODEL, "--prompt", "x", "--system", "y")
    check(ok("generate", "--model", MODEL, "--prompt", "the", "--chat", "--max-new-tokens", "2").endswith("\n"))


@case
def stream():
    """generate: shown while it is made, the text is the same, in whole characters; on a terminal without being asked"""
    args = ("generate", "--model", MODEL, "--prompt", "the cat", "--max-new-tokens", "40", "--temperature", "3", "--seed", "4", "--ignore-eos")
    whole = ok(*args, "--stream=false")
    check(ok(*args, "--stream") == whole and ok(*args) == whole, whole)
    code, text, err = run("-e", """
        local m, parts = tl.model.load(arg[1]), {}
        local ids = m:tokenizer():encode "the cat"
        local c = tl.sample.stream(m, ids, function(t) parts[#parts + 1] = t end, { max_new_tokens = 40, temperature = 3, seed = 4, ignore_eos = true })
        local bytes = m:tokenizer():decode(c.ids, { skip_special = true })
        assert(table.concat(parts) == c.text and c.text == bytes and #c.ids == 40 and #parts > 10)
        for _, p in ipairs(parts) do assert(not p:match "^[\\128-\\191]" and not p:match "[\\194-\\244]$", "half a character") end""", MODEL)
    check(code == 0, err)
    fails(2, "--stream shows one completion as text", *args, "--stream", "-n", "2")
    fails(2, "--stream shows one completion as text", *args, "--stream", "--json")
    try:
        import pty
    except ImportError:
        return
    parent, child = pty.openpty()
    p = subprocess.Popen([TLRUN, *args], stdout=child, stderr=subprocess.DEVNULL)
    os.close(child)
    shown = b""
    try:
        while part := os.read(parent, 4096):
            shown += part
    except OSError:  # the other end is closed
        pass
    check(p.wait() == 0 and shown.decode().replace("\r\n", "\n") == whole, shown)


@case
def without_tokenizer():
    """generate without a tokenizer: ids with --json, else one line that says so"""
    for name, path in (("beside it", os.path.join(HOME, "bare")), ("in this file", os.path.join(HOME, "bare.gguf"))):
        ok("export", "--model", MODEL, "--format", "gguf" if path.endswith("gguf") else "hf", "--no-tokenizer", "-o", path)
        fails(1, "no tokenizer " + name, "generate", "--model", path, "--ids", "5,6", "--max-new-tokens", "4")
        fails(1, "no tokenizer " + name, "generate", "--model", path, "--prompt", "x", "--max-new-tokens", "4", "--json")
        c = json.loads(ok("generate", "--model", path, "--ids", "5,6", "--max-new-tokens", "4", "--json", "--temperature", "0", "--ignore-eos"))["completions"][0]
        check(c["text"] is None and len(c["ids"]) == 4, c)


@case
def tokenize():
    """tokenize: text to ids and back, lines of JSON, special tokens"""
    ids = ok("tokenize", "--model", MODEL, stdin="the cat<|end|>").split()
    check(ids[-1] == "0", ids)
    check(ok("tokenize", "--model", MODEL, "--decode", stdin=" ".join(ids)) == "the cat<|end|>\n")
    check(ok("tokenize", "--model", MODEL, "--decode", "--no-special", stdin=" ".join(ids)) == "the cat\n")
    lines = [{"text": "the \u00e4\u4e2d\U0001f600"}, {"text": ""}, {"text": 'a "quote"\n'}]
    out = ok("tokenize", "--tokenizer", os.path.join(MODEL, "tokenizer.json"), "--jsonl", stdin="".join(json.dumps(x) + "\n" for x in lines))
    check([list(json.loads(x)) for x in out.splitlines()] == [["ids"]] * 3, out)
    back = ok("tokenize", "--tokenizer", MODEL, "--jsonl", "--decode", stdin=out)
    check([json.loads(x) for x in back.splitlines()] == lines, back)


@case
def chat_template():
    """chat-template: a list, an object, a line each"""
    message = {"role": "user", "content": "hi"}
    check(ok("chat-template", "--model", MODEL, stdin=json.dumps([message])) == "<|user|>hi:")
    out = ok("chat-template", "--model", MODEL, "--jsonl", stdin=json.dumps({"messages": [message], "add_generation_prompt": False}) + "\n")
    check(json.loads(out) == {"text": "<|user|>hi"}, out)
    fails(1, "'messages' is missing", "chat-template", "--model", MODEL, stdin="{}")


@case
def verify():
    """verify: a line in, a line out, in order; an error is an outcome, not a 0"""
    lines = [{"gold": "7", "response": f"it is\n#### {i}"} for i in range(600)]
    out = [json.loads(x) for x in ok("verify", "--verifier", "math", stdin="".join(json.dumps(x) + "\n" for x in lines)).splitlines()]
    check([x["reward"] for x in out] == [1 if i == 7 else 0 for i in range(600)] and all(x["outcome"] == "ok" for x in out))
    path = os.path.join(HOME, "bad_verifier.lua")
    with open(path, "w") as f:
        f.write("return function(problem, completion) if completion.text == 'loop' then while true do end end error('broken') end\n")
    out = [json.loads(x) for x in ok("verify", "--verifier", path, "--timeout-ms", "200",
                                     stdin='{"gold":"1","response":"loop"}\n{"gold":"1","response":"x"}\n').splitlines()]
    check([(x["reward"], x["outcome"]) for x in out] == [(None, "timeout"), (None, "error")] and "broken" in out[1]["message"], out)
    with open(path, "w") as f:
        f.write("print('at load') return function(problem, completion) print('hello') io.write('there\\n') return 1 end\n")
    lines = ['{"gold":"1","response":"1"}'] * 3
    for more, words in [([], None), (['{"gold":"1"}'], "stdin, line 4: has no 'response'"), (['{"response":"1"}'], "stdin, line 4: has no 'gold'"),
                        (['{"gold":"1","response":7}'], "line 4: 'response' is 7, wanted text"), (['{"gold"'], "stdin, line 4: ")]:
        code, text, err = run("verify", "--verifier", path, stdin="\n".join(lines + more) + "\n")
        check(text == '{"reward":1,"outcome":"ok"}\n' * 3, f"stdout has {text!r}")
        check((code, words or "hello") == (1 if more else 0, words or "hello") and (words or "hello") in err, (code, err))
    with open(path, "w") as f:
        f.write("return function(problem, completion\n")
    fails(1, f"tlrun: verifier {path}: {path}:2: ')' expected", "verify", "--verifier", path, stdin=lines[0])
    fails(1, "tlrun: verifier nofile.lua: there is no such file", "verify", "--verifier", "nofile.lua", stdin=lines[0])
    fails(1, "tlrun: there is no verifier module 'nofile'\n", "verify", "--verifier", "nofile", stdin=lines[0])
    fails(1, "stdin: no problems", "verify", "--attack", stdin="")


@case
def eval_with_replies():
    """tlrun eval --reply FILE --stop TEXT: a tool that answers; a file of items is of one tool"""
    tool, items = os.path.join(HOME, "counts.lua"), os.path.join(HOME, "replies.jsonl")
    with open(tool, "w") as f:
        f.write('return function(_, c) if #c.turns < 5 then return " " .. #c.turns end end')
    args = ("eval", "--model", "tiny-xs", "--task", "wordproblems", "--limit", "2", "--max-new-tokens", "40", "--items", items)
    ok(*args, "--reply", tool, "--stop", "#")
    with open(items) as f:
        lines = [json.loads(line) for line in f]
    check(lines[0]["eval"]["reply"] == tool and lines[0]["eval"]["stop"] == ["#"], str(lines[0]))
    for item in lines[1:]:
        check([t["role"] for t in item["turns"]] == ["assistant", "reply", "assistant", "reply", "assistant"], str(item))
    fails(1, "holds items of another evaluation: ", *args)
    fails(1, "there is no module 'no_tool' to reply with", *args[:-2], "--reply", "no_tool")


@case
def inspect():
    """inspect: a model, a safetensors file, an adapter"""
    doc = json.loads(ok("inspect", MODEL, "--json"))
    check(doc["kind"] == "model" and doc["architecture"] == "llama", doc)
    doc = json.loads(ok("inspect", os.path.join(MODEL, "model.safetensors"), "--json"))
    check(doc["kind"] == "safetensors" and doc["n_tensors"] > 10, doc)
    adapter = os.path.join(HOME, "adapter")
    ok("-e", f"local m = tl.model.load('{MODEL}') local a = tl.adapter.tinylora(m, {{ u = 13, dtype = 'bf16', init = 0.1 }}) a:save('{adapter}')")
    doc = json.loads(ok("inspect", adapter, "--json"))
    check(doc["kind"] == "adapter" and doc["peft_type"] == "TINYLORA" and doc["u"] == 13, doc)
    with_it = json.loads(ok("logprobs", "--model", MODEL, "--adapter", adapter, "--ids", "5,7,9", "--json"))
    check(with_it != json.loads(ok("logprobs", "--model", MODEL, "--ids", "5,7,9", "--json")), "an adapter changes logprobs")


@case
def scripts():
    """a script gets its arguments; what it returns is its JSON document; a number is its exit code"""
    path = os.path.join(HOME, "script.lua")
    with open(path, "w") as f:
        f.write('local tl = require "tl"\nlocal p = tl.recipe { n = { 1, "a number" } }\nreturn { n = p.n, list = tl.json.array {} }\n')
    check(json.loads(ok(path, "--n", "3", "--json")) == {"n": 3, "list": []})
    check(ok(path, "--n", "3") == "")
    with open(path, "w") as f:
        f.write("return tonumber(arg[1])\n")
    check(run(path, "7")[0] == 7)
    check(ok("-", stdin="print(1 + 1)") == "2\n")
    check(ok("-e", "print(arg[1], ...)", "x", "y") == "x\tx\ty\n")


@case
def standard_files():
    """output that cannot be written is an error; a closed stderr is not the first file that is opened"""
    with open("/dev/full", "w") as full:
        p = subprocess.run([TLRUN, "generate", "--model", MODEL, "--ids", "5,6", "--json"], stdout=full, stderr=subprocess.PIPE, text=True, env={**os.environ, **ENV})
    check(p.returncode == 1 and "standard output could not be written" in p.stderr, f"{p.returncode} {p.stderr!r}")
    path = os.path.join(HOME, "written")
    code = f"local f = io.open('{path}', 'w') io.stderr:write('to stderr\\n') io.stderr:flush() f:write('mine') f:close()"
    subprocess.run(f'exec "{TLRUN}" -e "{code}" 2>&-', shell=True, check=True, env={**os.environ, **ENV})
    with open(path) as f:
        text = f.read()
    check(text == "mine", f"the file has {text!r}")


@case
def child_signals():
    """started by a program that ignores SIGCHLD: how a child ended is told all the same"""
    code = "local r = require('tl.process').run { argv = { 'false' } } print(r.exit)"
    p = subprocess.run([TLRUN, "-e", code], stdout=subprocess.PIPE, text=True, env={**os.environ, **ENV},
                       preexec_fn=lambda: signal.signal(signal.SIGCHLD, signal.SIG_IGN))
    check(p.stdout == "1\n", f"exit code {p.stdout!r} of false")


@case
def bound_threads():
    """TL_PIN=1 binds a worker thread to a processor; the caller, and with it what it starts, stays free"""
    cpus = sorted(os.sched_getaffinity(0))
    if len(cpus) < 2:
        return
    code = (f"local m, ids = tl.model.load('{MODEL}'), {{}} for i = 1, 200 do ids[i] = i % 60 + 3 end m:logprobs(ids) "
            "local p = io.popen('cat /proc/$PPID/task/*/status; echo own; cat /proc/self/status') print(p:read('*a'))")
    for pin in "0", "1":
        code_, out, err = run("-e", code, env={**ENV, "TL_PIN": pin})
        lists = [set(s.split(":")[1].strip().split()) for s in out.splitlines() if s.startswith("Cpus_allowed_list")]
        check(code_ == 0 and len(lists) >= 3, (code_, out, err))
        bound = [s for s in lists if s == {str(cpus[1])}]
        check(len(bound) == int(pin), f"TL_PIN={pin}: {lists}")
        check(lists[-1] not in bound and lists[0] not in bound, f"the caller or its child is bound: {lists}")


@case
def interrupted():
    """tl_interrupt stops a C call under way, which says so"""
    code = (f"local F = require 'tl.ffi' local m = tl.model.load('{MODEL}') F.C.tl_interrupt() "
            "local ok, why = pcall(function() local r = tl.sample.generate(m, { { 5, 6 } }, { max_new_tokens = 200 }) return r end) "
            "F.C.tl_interrupt_clear() print(ok, why)")
    out = ok("-e", code)
    check(out.startswith("false") and "interrupted" in out, out)


shutil.rmtree(HOME, ignore_errors=True)
done()

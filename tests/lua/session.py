"""session.py: what the Python-driven tests share: cases that print "ok NAME", "not ok NAME: why" or "skip NAME: why"."""
import os
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
TLRUN = os.path.join(os.path.join(ROOT, os.environ.get("TL_BUILD_DIR", "build")), "tlrun")
failures = 0


class Skip(Exception):
    """Raised by a case that cannot be run here, with the reason."""


def test(name, function):
    """Runs the function at once."""
    global failures
    try:
        function()
        print("ok", name, flush=True)
    except Skip as why:
        print(f"skip {name}: {why}", flush=True)
    except Exception as e:  # noqa: BLE001: whatever it is, the case failed
        failures += 1
        print(f"not ok {name}: {type(e).__name__}: {str(e)!r}", flush=True)


def test_in_folder(name, function):
    """The same for a function of an empty folder."""
    with tempfile.TemporaryDirectory(prefix="tl-test-") as folder:
        test(name, lambda: function(folder))


def case(function):
    """The same as a decorator: the docstring's first line is the case's name."""
    test(function.__doc__.strip().splitlines()[0], function)
    return function


def check(condition, why=""):
    if not condition:
        raise AssertionError(why)


def run(*args, stdin="", env=None, timeout=60, cwd=None):
    """Exit code, stdout and stderr of tlrun."""
    done = subprocess.run([TLRUN, *args], input=stdin, capture_output=True, text=True, errors="replace", timeout=timeout, cwd=cwd,
                          env={**os.environ, **(env or {})})
    return done.returncode, done.stdout, done.stderr


def done():
    sys.exit(1 if failures else 0)

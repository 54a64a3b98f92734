#!/usr/bin/env python3
"""compare_math.py: verifiers/math beside the math-verify package, case by case, on the cases that the package's own tests publish.

  python3 -m venv /tmp/mv && /tmp/mv/bin/pip install math-verify==0.9.0 antlr4-python3-runtime==4.13.2 pytest
  /tmp/mv/bin/python tests/agreement/compare_math.py [build/tlrun]

The cases come from the package's source distribution (fetched from PyPI with pip) and are not kept. Its tests run under pytest with
parse and verify recorded: gold text, response text, options, the label that the test states, what the package said and how long it
took (both parses and the comparison, one thread). compare_math.lua then judges the same texts in one thread, and 10,000 mutated ones.
"""
import contextlib, io, json, os, subprocess, sys, tarfile, tempfile, time

VERSION = "0.9.0"


def fetch(folder):
    subprocess.run([sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", ":all:", f"math-verify=={VERSION}", "-d", folder], check=True)
    with tarfile.open(os.path.join(folder, f"math_verify-{VERSION}.tar.gz")) as t:
        t.extractall(folder)
    root = os.path.join(folder, f"math_verify-{VERSION}")
    open(os.path.join(root, "tests", "__init__.py"), "a").close()
    return root


class Parsed(list):
    """What parse returned, with what it was asked and how long it took."""


class Recorder:
    def __init__(self):
        self.cases, self.item = [], None

    def pytest_runtest_setup(self, item):
        self.item = item

    def pytest_runtest_logreport(self, report):
        if report.when == "call":
            for c in self.cases:
                if c["test"] == report.nodeid:
                    c["passed"] = report.passed

    def install(self):
        import math_verify
        parse, verify = math_verify.parse, math_verify.verify

        def recorded_parse(pred, *args, **kw):
            began = time.process_time()
            out = Parsed(parse(pred, *args, **kw))
            out.seconds, out.source, out.config = time.process_time() - began, pred, repr(args[0] if args else kw.get("extraction_config"))
            return out

        def recorded_verify(gold, target, *args, **kw):
            began = time.process_time()
            said = verify(list(gold) if isinstance(gold, list) else gold, list(target) if isinstance(target, list) else target, *args, **kw)
            seconds = time.process_time() - began
            if isinstance(gold, Parsed) and isinstance(target, Parsed):
                expected = getattr(getattr(self.item, "callspec", None), "params", {}).get("expected")
                self.cases.append({"test": self.item.nodeid, "gold": gold.source, "response": target.source, "gold_config": gold.config,
                                   "package": bool(said), "label": None if expected is None else bool(expected), "options": kw,
                                   "seconds": seconds + gold.seconds + target.seconds})
            return said

        math_verify.parse, math_verify.verify = recorded_parse, recorded_verify


def main():
    tlrun = sys.argv[1] if len(sys.argv) > 1 else "build/tlrun"
    here = os.path.dirname(os.path.abspath(__file__))
    with tempfile.TemporaryDirectory() as folder:
        root = fetch(folder)
        sys.path.insert(0, root)
        import pytest
        r = Recorder()
        r.install()
        with contextlib.redirect_stdout(io.StringIO()):
            pytest.main(["-q", os.path.join(root, "tests")], plugins=[r])  # once to warm the package up
            r.cases.clear()
            for name in [n for n in sys.modules if n.startswith("tests")]:
                del sys.modules[name]
            pytest.main(["-q", os.path.join(root, "tests")], plugins=[r])
        for c in r.cases:  # a test without a label asserts what it asserts: passed means that the package said the right thing
            if c["label"] is None:
                c["label"] = c["package"] == c.get("passed", True)
        path = os.path.join(folder, "cases.json")
        with open(path, "w") as f:
            json.dump(r.cases, f)
        return subprocess.run([tlrun, os.path.join(here, "compare_math.lua"), path]).returncode


sys.exit(main())

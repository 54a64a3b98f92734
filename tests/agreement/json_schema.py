#!/usr/bin/env python3
"""json_schema.py: verifiers/structured on the official JSON-Schema-Test-Suite, draft 2020-12.

  python3 tests/agreement/json_schema.py [build/tlrun]

The suite comes with the source distribution of the PyPI package jsonschema (fetched with pip, not kept). The required tests are all
files of tests/draft2020-12; `optional` is left out. json_schema.lua counts, and lists what fails.
"""
import json, os, subprocess, sys, tarfile, tempfile

VERSION = "4.26.0"


def main():
    tlrun = sys.argv[1] if len(sys.argv) > 1 else "build/tlrun"
    here = os.path.dirname(os.path.abspath(__file__))
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", "jsonschema", f"jsonschema=={VERSION}", "-d", folder], check=True)
        with tarfile.open(os.path.join(folder, f"jsonschema-{VERSION}.tar.gz")) as t:
            t.extractall(folder)
        root = os.path.join(folder, f"jsonschema-{VERSION}", "json")
        remotes = {}
        for at, _, names in os.walk(os.path.join(root, "remotes")):
            for n in names:
                path = os.path.join(at, n)
                remotes["http://localhost:1234/" + os.path.relpath(path, os.path.join(root, "remotes"))] = json.load(open(path))
        suite = []
        tests = os.path.join(root, "tests", "draft2020-12")
        for n in sorted(os.listdir(tests)):
            if n.endswith(".json"):
                suite.append({"file": n, "groups": json.load(open(os.path.join(tests, n)))})
        path = os.path.join(folder, "suite.json")
        json.dump({"remotes": remotes, "suite": suite}, open(path, "w"))
        return subprocess.run([tlrun, os.path.join(here, "json_schema.lua"), path]).returncode


sys.exit(main())

#!/usr/bin/env python3
"""Checks that transformers loads the models tlrun saves, and computes what it computed from the originals.

    python tests/parity/check_saved_models.py [build/tlrun]        (torch, transformers)

Every model of fixtures/models is loaded by tlrun from its config in the keys of transformers 4, saved in fp32, and saved again with
each of its adapters merged in; transformers must give the fixture's logits and logprobs to 1e-4 of the largest. Prints one line a
case, exits 1 on a difference.
"""
import json
import os
import shutil
import subprocess
import sys
import tempfile

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
MODELS = os.path.join(ROOT, "tests", "parity", "fixtures", "models")
CODE = """
local tl = require "tl"
local model = tl.model.load(%s, { dtype = "f32" })
model:save(%s, { dtype = "f32" })
for from, to in pairs { %s } do model:save(to, { adapter = tl.adapter.load(model, from), dtype = "f32" }) end
"""


def largest(have, want):
    return ((have - want).abs().max() / want.abs().max()).item()


def logits_of(folder, ids):
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32).eval()
    with torch.no_grad():
        return model(input_ids=ids[None].long()).logits[0]


def check(case, spec, tlrun, work):
    source, saved = os.path.join(work, case), os.path.join(work, case + "-saved")
    os.makedirs(source)
    shutil.copy(os.path.join(MODELS, case, "config_v4.json"), os.path.join(source, "config.json"))
    shutil.copy(os.path.join(MODELS, "weights", spec["weights"] + ".safetensors"), os.path.join(source, "model.safetensors"))
    merged = {name: f"{saved}-{name}" for name in spec["adapters"]}
    pairs = ", ".join(f"[{json.dumps(os.path.join(MODELS, case, name))}] = {json.dumps(to)}" for name, to in merged.items())
    subprocess.run([tlrun, "-e", CODE % (json.dumps(source), json.dumps(saved), pairs)], check=True)
    base = load_file(os.path.join(MODELS, case, "reference.safetensors"))
    ids = base["ids.0"]
    worst = largest(logits_of(saved, ids), base["logits.0"])
    for name, folder in merged.items():
        want = load_file(os.path.join(MODELS, case, name, "reference.safetensors"))["logprobs.0"]
        have = torch.log_softmax(logits_of(folder, ids)[:-1], -1).gather(1, ids[1:, None].long())[:, 0]
        worst = max(worst, largest(have, want))
    return worst


def main():
    tlrun = os.path.abspath(sys.argv[1] if len(sys.argv) > 1 else os.path.join(ROOT, "build", "tlrun"))
    failed = 0
    with open(os.path.join(MODELS, "cases.json")) as f, tempfile.TemporaryDirectory() as work:
        for case, spec in json.load(f).items():
            worst = check(case, spec, tlrun, work)
            failed |= not worst <= 1e-4
            print(f"{'ok' if worst <= 1e-4 else 'not ok'} {case}: largest difference {worst:.1e}, {1 + len(spec['adapters'])} models")
    return failed


if __name__ == "__main__":
    sys.exit(main())

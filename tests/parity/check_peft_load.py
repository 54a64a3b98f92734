#!/usr/bin/env python3
"""Checks that PEFT loads the adapters tlrun writes, to equal logprobs.

    python tests/parity/check_peft_load.py [build/tlrun]        (torch, transformers, peft)

tlrun makes adapters of every kind and tying on the tiny model of fixtures/model/llama, with random numbers in them, saves them
and prints the logprobs it computes; PeftModel.from_pretrained must give the same to 1e-4. Prints one line a case, exits 1 on a
difference.
"""
import json
import os
import subprocess
import sys
import tempfile
import warnings

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
MODEL = os.path.join(ROOT, "tests", "parity", "fixtures", "model", "llama")
IDS = [3 + (i * 7) % 40 for i in range(30)]
CASES = {
    "tinylora_full": "tl.adapter.tinylora(model, { u = 13, tie = tl.tie.full, dtype = 'bf16', cache = false })",
    "tinylora_none": "tl.adapter.tinylora(model, { u = 2, tie = tl.tie.none, cache = false })",
    "tinylora_structured": "tl.adapter.tinylora(model, { u = 4, tie = tl.tie.structured, cache = false })",
    "tinylora_tiled": "tl.adapter.tinylora(model, { u = 4, tie = tl.tie.tiled(7), sigma = 'peft', cache = false })",
    "tinylora_own_tying": "tl.adapter.tinylora(model, { u = 3, tie = function(m) return m.out % 3 end, cache = false })",
    "tinylora_some": "tl.adapter.tinylora(model, { u = 3, targets = function(m) return m.index % 5 == 2 end, cache = false })",
    "lora": "tl.adapter.lora(model, { rank = 3, alpha = 5 })",
    "loraxs": "tl.adapter.loraxs(model, { rank = 3, alpha = 5, cache = false })",
}
CODE = """
local tl = require "tl"
local model = tl.model.load(%s, { dtype = "f32" })
local a = %s
local p = a:parameters()
for i = 1, #p do p[i] = p[i] + 0.3 * math.sin(i * 12.9898) end
a:set(p)
a:save(%s)
local out = {}
for _, x in ipairs(model:logprobs({ %s }, a)) do out[#out + 1] = string.format("%%.9g", x) end
print("[" .. table.concat(out, ",") .. "]")
"""


def ours(tlrun, make, folder):
    code = CODE % (json.dumps(MODEL), make, json.dumps(folder), ", ".join(map(str, IDS)))
    done = subprocess.run([tlrun, "-e", code], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"tlrun: {done.stderr.strip()}")
    return torch.tensor(json.loads(done.stdout.strip().splitlines()[-1]))


def theirs(folder):
    ids = torch.tensor([IDS])
    base = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", category=FutureWarning)
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        model = PeftModel.from_pretrained(base, folder).eval()
    with torch.no_grad():
        return torch.log_softmax(model(input_ids=ids).logits[0, :-1].float(), -1).gather(1, ids[0, 1:, None])[:, 0]


def main():
    tlrun = sys.argv[1] if len(sys.argv) > 1 else os.path.join(ROOT, "build", "tlrun")
    failed = False
    for name, make in CASES.items():
        with tempfile.TemporaryDirectory() as folder:
            have, want = ours(tlrun, make, folder), theirs(folder)
        worst = (have - want).abs().max().item()
        failed |= not worst < 1e-4
        print(f"{'ok' if worst < 1e-4 else 'not ok'} {name}: largest difference {worst:.1e}")
    sys.exit(failed)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()

#!/usr/bin/env python3
"""The way back: PEFT loads the adapters tlrun writes, to equal logits.

tlrun makes adapters of every kind and tying on the tiny model of fixtures/model/llama, with random numbers in them, and writes each
in every form that it has: as it is saved, as TINYLORA, as LORA, and through a compact file. PeftModel.from_pretrained must give
tlrun's logits to 1e-4 without a warning. PEFT's own files are in test_parity.c.

Needs torch, transformers and peft (requirements.txt): the interpreter is TL_PYTHON, else .venv-fixtures/bin/python (./dev fixtures
makes it); without one the cases skip.
"""
import json
import os
import shutil
import subprocess
import sys
import tempfile
import warnings

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
MODEL = os.path.join(ROOT, "tests", "parity", "fixtures", "model", "llama")
IDS = [3 + (i * 7) % 40 for i in range(30)]
CASES = {
    "tinylora_full": "tinylora(model, { u = 13, tie = tl.tie.full, dtype = 'bf16' })",
    "tinylora_none": "tinylora(model, { u = 2, tie = tl.tie.none })",
    "tinylora_structured": "tinylora(model, { u = 4, tie = tl.tie.structured })",
    "tinylora_tiled": "tinylora(model, { u = 4, tie = tl.tie.tiled(7), sigma = 'peft' })",
    "tinylora_ratio": "tinylora(model, { u = 4, tie = tl.tie.ratio(0.6), sigma = 'peft', projection = 'torch' })",
    "tinylora_own_tying": "tinylora(model, { u = 3, tie = function(m) return m.out % 3 end })",
    "tinylora_some": "tinylora(model, { u = 3, targets = function(m) return m.index % 5 == 2 end })",
    "lora": "lora(model, { rank = 3, alpha = 5 })",
    "loraxs": "loraxs(model, { rank = 3, alpha = 5 })",
}
FORMS = ["peft", "peft-lora", "peft-tinylora"]
CODE = """
local tl = require "tl"
local folder = arg[2]
local model = tl.model.load(arg[1], { dtype = "f32" })
local a = tl.adapter.%s
local p = a:parameters()
for i = 1, #p do p[i] = p[i] + 0.3 * math.sin(i * 12.9898) end
a:set(p)
a:save(folder .. "/compact.tla")
for _, form in ipairs { "peft", "peft-lora", "peft-tinylora" } do
  if not (a.kind == "lora" and form == "peft-tinylora") then
    a:save(folder .. "/" .. form, { format = form })
    tl.adapter.load(model, folder .. "/compact.tla"):save(folder .. "/compact-" .. form, { format = form })
  end
end
tl.json.save(folder .. "/logits.json", model:logits({ %s }, a):totable())
"""


def interpreter():
    for python in (os.environ.get("TL_PYTHON"), os.path.join(ROOT, ".venv-fixtures", "bin", "python")):
        if python and os.path.exists(python) and subprocess.run([python, "-c", "import peft, torch, transformers"], capture_output=True).returncode == 0:
            return python
    return None


def ours(tlrun, make, folder):
    done = subprocess.run([tlrun, "-e", CODE % (make, ", ".join(map(str, IDS))), MODEL, folder], capture_output=True, text=True,
                          env={**os.environ, "TL_HOME": folder})
    if done.returncode:
        raise SystemExit(f"not ok tlrun: {done.stderr.strip()}")
    with open(os.path.join(folder, "logits.json")) as f:
        return json.load(f)


def theirs(folder):
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", category=FutureWarning)
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        model = PeftModel.from_pretrained(base, folder).eval()
    with torch.no_grad():
        return model(input_ids=torch.tensor([IDS])).logits[0].float()


def one(tlrun, name, make):
    """-> whether every form gives tlrun's logits"""
    import torch

    folder, good = tempfile.mkdtemp(), True
    want = torch.tensor(ours(tlrun, make, folder))
    for form in sorted(os.listdir(folder)):
        if not os.path.exists(os.path.join(folder, form, "adapter_config.json")):
            continue
        try:
            worst = (theirs(os.path.join(folder, form)) - want).abs().max().item()
            why, seen = "" if worst < 1e-4 else f": the logits differ by {worst:.1e}", f" (largest difference {worst:.1e})"
        except Warning as e:
            why, seen = f": PEFT warns: {e}", ""
        good = good and not why
        print(f"{'not ok' if why else 'ok'} {name} as {form}{why or seen}", flush=True)
    shutil.rmtree(folder)
    return good


def main():
    if "--inside" not in sys.argv:
        python = interpreter()
        if not python:
            print("skip PEFT loads our adapters: no Python with torch, transformers and peft (TL_PYTHON, or ./dev fixtures)")
            return 0
        return subprocess.run([python, os.path.abspath(__file__), "--inside"]).returncode
    import torch

    torch.set_num_threads(1)
    tlrun = os.path.join(ROOT, os.environ.get("TL_BUILD_DIR", "build"), "tlrun")
    return 0 if all([one(tlrun, name, make) for name, make in CASES.items()]) else 1


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
"""Makes tests/parity/fixtures/generate.json: greedy completions by transformers with and without min_new_tokens.

    python tests/parity/make_generate_fixtures.py     (./dev fixtures runs it)

The model is the case llama_plain of fixtures/models in fp32. The end-of-sequence tokens are two that its greedy completion of the prompt has
among its first ones, so that without a minimum it ends early and with one it takes another way.
    [{"prompt": [ids], "eos": [ids], "min_new_tokens": N, "max_new_tokens": N, "ids": [those of the completion, the end included]}, ...]
"""
import json
import os
import shutil
import tempfile

import torch
from transformers import AutoModelForCausalLM, GenerationConfig

HERE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "fixtures")
PROMPTS = [[5, 20, 13, 21, 7], [17, 4, 9], [30, 3, 11, 29, 8, 41, 2]]
NEW = 24


def load():
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(os.path.join(HERE, "models/llama_plain/config.json"), folder)
        shutil.copy(os.path.join(HERE, "models/weights/llama_plain.safetensors"), os.path.join(folder, "model.safetensors"))
        return AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32).eval()


def greedy(model, prompt, eos, least):
    config = GenerationConfig(do_sample=False, max_new_tokens=NEW, min_new_tokens=least or None, eos_token_id=eos or None, pad_token_id=0, bos_token_id=None)
    with torch.no_grad():
        out = model.generate(torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt), dtype=torch.long), generation_config=config)
    return out[0, len(prompt):].tolist()


def main():
    model, cases = load(), []
    model.generation_config = GenerationConfig()  # what the file says of end tokens must not count
    for prompt in PROMPTS:
        free = greedy(model, prompt, [], 0)
        eos = sorted({free[2], free[5]})
        for least in (0, 4, 10, NEW):
            cases.append({"prompt": prompt, "eos": eos, "min_new_tokens": least, "max_new_tokens": NEW, "ids": greedy(model, prompt, eos, least)})
    assert all(len(c["ids"]) <= 6 for c in cases if c["min_new_tokens"] == 0)
    assert all(c["eos"][0] not in c["ids"][:10] for c in cases if c["min_new_tokens"] == 10)
    with open(os.path.join(HERE, "generate.json"), "w") as f:
        f.write("[\n" + ",\n".join(json.dumps(c) for c in cases) + "\n]\n")


main()

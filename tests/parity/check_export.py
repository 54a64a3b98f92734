"""What transformers and llama.cpp make of exported files. A JSON list of jobs on stdin, the list of their answers on
stdout; test_export.py calls it.

    {"do": "hf", "path": DIR, "ids": [..], "texts": [..]}      -> {"logprobs": [..], "ids": [[..], ..], "chat": TEXT}
    {"do": "chats", "path": DIR, "chats": [{"messages": .., "tools": .., "chat_template": ..}]} -> {"texts": [..]}
    {"do": "llama", "path": FILE, "lora": FILE or null, "ids": [..], "n": N, "texts": [..]}  -> {"new": [..], "ids": [[..], ..]}
    {"do": "versions"}                                         -> {"transformers": .., "llama_cpp": .., ...}

hf: the logprob of every id given those before it, in fp32, and the texts' ids. llama: n ids chosen greedily after ids, computed in
fp32 as far as llama.cpp does (the cache too), and the texts' ids without anything added.
"""
import json
import os
import sys


def hf(job):
    import torch
    import transformers
    transformers.logging.set_verbosity_error()
    out = {}
    if job.get("ids"):
        model = transformers.AutoModelForCausalLM.from_pretrained(job["path"], dtype=torch.float32)
        ids = torch.tensor([job["ids"]])
        with torch.no_grad():
            lp = torch.log_softmax(model(ids).logits[0].double(), -1)
        out["logprobs"] = [float(lp[i, t]) for i, t in enumerate(job["ids"][1:])]
    if job.get("texts"):
        tok = transformers.AutoTokenizer.from_pretrained(job["path"])
        out["ids"] = [tok(t, add_special_tokens=False)["input_ids"] for t in job["texts"]]
        if tok.chat_template:
            out["chat"] = tok.apply_chat_template([{"role": "user", "content": "Hello"}], tokenize=False, add_generation_prompt=True)
    return out


def chats(job):
    import transformers
    tok = transformers.AutoTokenizer.from_pretrained(job["path"])
    texts = []
    for c in job["chats"]:
        try:
            texts.append(tok.apply_chat_template(c["messages"], tools=c.get("tools"), chat_template=c.get("chat_template"), tokenize=False))
        except ValueError as e:
            texts.append("ValueError: " + str(e)[:40])
    return {"texts": texts}


def llama(job):
    import llama_cpp
    out = {}
    m = llama_cpp.Llama(job["path"], lora_path=job.get("lora"), n_ctx=256, n_threads=2, verbose=False,
                        type_k=llama_cpp.GGML_TYPE_F32, type_v=llama_cpp.GGML_TYPE_F32, flash_attn=False)
    if job.get("texts"):
        out["ids"] = [m.tokenize(t.encode(), add_bos=False, special=True) for t in job["texts"]]
    if job.get("n"):
        new = []
        for t in m.generate(job["ids"], temp=0.0, top_k=1):
            new.append(int(t))
            if len(new) == job["n"]:
                break
        out["new"] = new
    return out


def versions(job):
    from importlib.metadata import version
    return {p: version(p) for p in ("transformers", "torch", "tokenizers", "llama_cpp_python", "gguf")}


jobs = json.load(sys.stdin)
quiet = os.dup(1)  # the libraries may print: stdout is for the answer
os.dup2(2, 1)
answers = [{"hf": hf, "chats": chats, "llama": llama, "versions": versions}[job["do"]](job) for job in jobs]
os.write(quiet, json.dumps(answers).encode())

#!/usr/bin/env python3
"""Makes tests/parity/fixtures/templates.json: what the families' own chat templates render, as checksums.

Needs: transformers==5.23.0, jinja2==3.1.6, trl==1.16.0, whose package carries the templates of Qwen, Llama, Gemma, Phi,
DeepSeek, Cohere, GLM, GPT-OSS and others. Nothing of them is written here: the fixture names each file with its SHA-256, and
the SHA-256 of what transformers renders with it; tests/lua/test_templates.lua takes the files from the same package.

  {"trl", "chats": [messages, ...], "options": [{...}, ...], "files": {name: {"sha256", "rendered": [one a chat and option, the
   options of a chat one after another: 16 digits of the SHA-256, or "error"]}}}

Templates that ask for today's date get 2 January 2025, here and in the test.

Run:   python tests/parity/make_template_fixtures.py
"""
import datetime
import hashlib
import json
import os

import trl
from transformers.utils import chat_template_utils as ctu

from make_chat_fixtures import CALL, CHATS, TOOL_LIST

HERE = os.path.dirname(os.path.abspath(__file__))
FOLDER = os.path.join(os.path.dirname(trl.__file__), "chat_templates")

MORE = {
    "steps": [{"role": "system", "content": "s"}, {"role": "user", "content": "q1"},
              {"role": "assistant", "content": "<think>\nr1\n</think>\n\na1"}, {"role": "user", "content": "q2"},
              {"role": "assistant", "content": "", "reasoning_content": "need a tool", "tool_calls": CALL},
              {"role": "tool", "content": "{\"t\": 1.50}", "tool_call_id": "abc123def", "name": "get_weather"},
              {"role": "assistant", "content": "<think>\n\n</think>\n\ndone"}],
    "null fields": [{"role": "user", "content": "q", "tool_calls": None}, {"role": "assistant", "content": "a", "tool_calls": None, "name": None}],
    "numbers": [{"role": "user", "content": "n"}, {"role": "assistant", "content": "", "tool_calls": [
        {"type": "function", "id": "123456789", "function": {"name": "f", "arguments": {"a": 2.0, "b": 1e20, "c": -0.5, "d": 12345678901234567890, "e": "<&>"}}}]}],
    "arguments as text": [{"role": "user", "content": "n"}, {"role": "assistant", "content": "", "tool_calls": [
        {"type": "function", "id": "123456789", "function": {"name": "f", "arguments": "{\"a\": 1}"}}]}, {"role": "tool", "content": [{"type": "text", "text": "r"}]}],
    "developer": [{"role": "developer", "content": "d"}, {"role": "user", "content": "u"}],
    "parts of all": [{"role": "system", "content": [{"type": "text", "text": "s"}]}, {"role": "user", "content": [{"type": "text", "text": "u"}]},
                     {"role": "assistant", "content": [{"type": "text", "text": "a"}]}],
}
OPTIONS = [
    {}, {"add_generation_prompt": True}, {"tools": TOOL_LIST, "add_generation_prompt": True},
    {"enable_thinking": False, "add_generation_prompt": True}, {"enable_thinking": True, "tools": TOOL_LIST},
    {"documents": [{"title": "T", "text": "body"}], "add_generation_prompt": True}, {"date_string": "02 Jan 2025", "custom_tools": TOOL_LIST[:1]},
]


class Clock(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return cls(2025, 1, 2, 12, 0, 0, tzinfo=tz)


ctu.datetime = Clock


def render(source, messages, options):
    """apply_chat_template: keys that are None go, and no messages are an error."""
    if not messages:
        raise ValueError("no messages")
    messages = [{k: v for k, v in m.items() if v is not None} for m in messages]
    out, _ = ctu.render_jinja_template([messages], chat_template=source, **{"bos_token": "<s>", "eos_token": "</s>", **options})
    return out[0]


def main():
    chats = {**CHATS, **MORE}
    files, n = {}, 0
    for name in sorted(os.listdir(FOLDER)):
        if not name.endswith(".jinja"):
            continue
        with open(os.path.join(FOLDER, name), encoding="utf-8", newline="") as f:
            source = f.read()
        sums = []
        for messages in chats.values():
            for options in OPTIONS:
                try:
                    text = render(source, json.loads(json.dumps(messages)), json.loads(json.dumps(options)))
                    sums.append(hashlib.sha256(text.encode()).hexdigest()[:16])
                except Exception:
                    sums.append("error")
        files[name] = {"sha256": hashlib.sha256(source.encode()).hexdigest(), "rendered": sums}
        n += len(sums)
    with open(os.path.join(HERE, "fixtures", "templates.json"), "w", encoding="utf-8") as f:
        json.dump({"trl": trl.__version__, "chats": list(chats.values()), "options": OPTIONS}, f, ensure_ascii=False)
        f.seek(f.tell() - 1)
        f.write(',\n"files": {\n' + ",\n".join('"%s": %s' % (k, json.dumps(v)) for k, v in files.items()) + "\n}}\n")
    print(len(files), "templates,", n, "renderings")


if __name__ == "__main__":
    main()

"""The REPL, driven through a pseudo-terminal as a person would, and through a pipe.

Catches: a Ctrl-C that kills or that loses the session, a value that is not printed, a local that is gone, Tab or history that
do nothing, a prompt that hangs on an unfinished chunk, help that finds no comment.
"""
import os
import re
import select
import shutil
import subprocess
import sys
import tempfile
import time

from session import TLRUN, case, check, done, run

try:
    import pty
except ImportError:
    print("skip test_repl: this Python has no pty module")
    sys.exit(0)

HOME = tempfile.mkdtemp()


class Terminal:
    """tlrun in a pseudo-terminal."""

    def __init__(self, *args):
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.environ.update(TERM="xterm", TL_HOME=HOME)
            os.execv(TLRUN, [TLRUN, *args])
        self.text = ""

    def expect(self, wanted, timeout=20):
        """Reads until the text is there; returns what came before it and drops both."""
        end = time.time() + timeout
        while wanted not in self.text:
            ready, _, _ = select.select([self.fd], [], [], max(0, end - time.time()))
            try:
                data = os.read(self.fd, 65536) if ready else b""
            except OSError:
                data = b""
            if not data:
                raise AssertionError(f"waited for {wanted!r}, got {self.text!r}")
            self.text += data.decode(errors="replace")
        before, self.text = self.text.split(wanted, 1)
        return before

    def send(self, text):
        os.write(self.fd, text.encode())

    def line(self, text, wanted):
        self.send(text + "\r")
        self.expect("\r\n")  # the echo's end
        before = self.expect(wanted)
        self.expect("> ")
        return before

    def close(self):
        """Ctrl-D; returns the exit code."""
        self.send("\x04")
        end = time.time() + 5
        while time.time() < end:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                os.close(self.fd)
                return os.waitstatus_to_exitcode(status)
            if select.select([self.fd], [], [], 0.05)[0]:
                try:
                    os.read(self.fd, 65536)
                except OSError:
                    pass
        raise AssertionError("it did not end")


def terminal():
    t = Terminal()
    t.expect("Ctrl-D leaves")
    t.expect("> ")
    return t


@case
def values():
    """values are printed without print, tensors with shape and dtype, strings quoted"""
    t = terminal()
    t.line("1 + 1", "2\r\n")
    t.line("'a\\nb', { 1, 2, k = 'v' }", '"a\\nb"\r\n{ 1, 2, k = "v" }\r\n')
    t.line("tl.tensor.zeros(2, 3)", " 0  0  0\r\n 0  0  0\r\ntensor (2, 3) f32 on cpu\r\n")
    t.line("print('x')", "x\r\n")
    t.line("_.shape[2]", "3\r\n")
    check(t.close() == 0, "exit code")


@case
def locals_stay():
    """a local at the prompt is there on the next line"""
    t = terminal()
    t.send("local x, y = 41, 'local z'\r")
    t.expect("\n> ")
    t.line("x + 1, y", '42\r\n"local z"\r\n')
    t.send("local function f(a) local b = a * 2 return b end\r")
    t.expect("\n> ")
    t.line("f(4), b", "8\r\nnil\r\n")
    t.close()


@case
def unfinished_chunk():
    """an unfinished chunk goes on over lines; Ctrl-C gives it up"""
    t = terminal()
    t.send("for i = 1, 2 do\r")
    t.expect(">> ")
    t.line("print('row', i) end", "row\t1\r\nrow\t2\r\n")
    t.send("for i = 1, 2 do\r")
    t.expect(">> ")
    t.send("abc\x03")
    t.expect("^C")
    t.expect("> ")
    t.line("7", "7\r\n")
    t.close()


@case
def interrupt():
    """Ctrl-C stops a Lua loop and keeps the state"""
    t = terminal()
    t.send("n = 0\r")
    t.expect("\n> ")
    t.send("while true do n = n + 1 end\r")
    t.expect("\r\n")
    time.sleep(0.3)
    t.send("\x03")
    t.expect("interrupted")
    t.expect("> ")
    t.line("n > 0", "true\r\n")
    t.send("for i = 1, 1e12 do tl.json.encode { i } end\r")  # loops that call compiled library code
    t.expect("\r\n")
    time.sleep(0.3)
    t.send("\x03")
    t.expect("interrupted")
    t.expect("> ")
    t.line("n > 0", "true\r\n")
    check(t.close() == 0, "exit code")


@case
def interrupt_in_c():
    """Ctrl-C stops a C call at its next safe point and keeps the state"""
    config = os.path.join(HOME, "config.json")
    with open(config, "w") as f:
        f.write('{"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 256, "intermediate_size": 512, '
                '"num_hidden_layers": 6, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 4096, "rms_norm_eps": 1e-5, '
                '"rope_theta": 10000, "max_position_embeddings": 8192, "hidden_act": "silu", "tie_word_embeddings": true}')
    t = terminal()
    t.line(f"tl.model.create('{config}')", "llama model")
    t.send("m = _\r")
    t.expect("\n> ")
    t.send("tl.sample.generate(m, { { 5 } }, { n = 64, max_new_tokens = 8000, ignore_eos = true })\r")  # many seconds
    t.expect("\r\n")
    time.sleep(0.5)
    t.send("\x03")
    t.expect("interrupted", 60)
    t.expect("> ")
    t.line("m.n_layers, #m:logprobs { 1, 2, 3 }", "6\r\n2\r\n")
    check(t.close() == 0, "exit code")


@case
def completion():
    """Tab completes globals, parts of tl, fields and methods"""
    t = terminal()
    t.send("x = tl.tens\t")
    t.expect("or")
    t.send(".zer\t")
    t.expect("os")
    t.send("(2, 2)\r")
    t.expect("\n> ")
    t.send("x:tota\t")
    t.expect("ble")
    t.send("()\r")
    t.expect("{...")
    t.expect("> ")
    t.send("tl.tensor.f\t")
    before = t.expect("full")
    check("from" in before + t.text, "both candidates are listed")
    t.send("\x15")
    t.close()


@case
def history():
    """history is kept from one session to the next"""
    t = terminal()
    t.line("'remember me'", '"remember me"\r\n')
    t.close()
    t = terminal()
    t.send("\x1b[A")
    t.expect("'remember me'")
    t.send("\r")
    t.expect('"remember me"\r\n')
    t.expect("> ")
    t.close()


@case
def help_prints_comments():
    """? name prints the comment above a function, and what is in a part"""
    t = terminal()
    t.line("? tl.names.distance", "Edit distance with transpositions")
    t.line("? tl.yaml", "yaml.load(path)")
    t.line("? nothing_of_that_name", "is nil")
    t.line("?", "Ctrl-C")
    t.close()


@case
def help_and_leaving_by_words():
    """help prints what ? does; exit and quit leave; names of the session come first; a part's functions have whole sentences"""
    piped = lambda text: subprocess.run([TLRUN], input=text, capture_output=True, text=True, timeout=60)
    for word in ["exit", "quit", "exit()", "quit ()"]:
        r = piped(f"print(1)\n{word}\nprint(2)\n")
        check((r.returncode, r.stdout) == (0, "1\n"), (word, r.stdout))
    check(piped("help\n").stdout == piped("?\n").stdout and "leave" in piped("help()\n").stdout)
    check(piped("help tl.grpo.trainer\n").stdout == piped("? tl.grpo.trainer\n").stdout)
    check(piped("exit = 3\nexit\n").stdout == "3\n")
    for part in ["fisher", "landscape"]:
        listed = re.split(r"\n  (?=[A-Za-z.:]+\()", piped(f"? tl.{part}\n").stdout.rsplit("\n(", 1)[0])[1:]
        check(listed and all(x.endswith(".") or ":" in x for x in listed), listed)


@case
def time_is_shown():
    """a slow command says how long it took"""
    t = terminal()
    t.send("t0 = os.clock() while os.clock() - t0 < 0.1 do end\r")
    shown = t.expect("]\r\n")
    check(re.search(r"\[[\d.]+ m?s$", shown), shown)  # a second or more on a busy machine
    t.expect("> ")
    t.close()


@case
def errors_return_to_the_prompt():
    """an error is one line and the session goes on"""
    t = terminal()
    t.line("error('no')", "error: no\r\n")
    t.line("x = = 1", "unexpected symbol near '='\r\n")
    t.line("tl.json.decode '{'", "error: not JSON at line 1, column 2\r\n")
    t.line("tl.adaptor", "did you mean tl.adapter?\r\n")
    t.line("'\u00e4\u00f6'", '"\u00e4\u00f6"\r\n')
    t.line("'not closed", "unfinished string")
    check(t.close() == 0, "exit code")


@case
def piped():
    """from a pipe: no banner, no prompt, values printed, exit code 1 when a chunk failed"""
    code, out, err = run(stdin="local x = 2\nx * 21\nfor i = 1, 2 do\n  print(i)\nend\n")
    check((code, out, err) == (0, "42\n1\n2\n", ""), (code, out, err))
    code, out, err = run(stdin="error('no')\n3\n")
    check((code, out) == (1, "3\n") and err == "error: no\n", (code, out, err))
    code, out, err = run(stdin="x = 'not closed\n3\n'a\\\nb'\n")
    check((code, out, err.count("\n")) == (1, '3\n"a\\nb"\n', 1) and "unfinished string" in err, (code, out, err))
    long = "\u20ac" * 800
    check(run(stdin=f"'{long}', {{ '{long}' }}\n")[1] == '"' + 666 * "\u20ac" + '..."\n{ "' + 19 * "\u20ac" + '..." }\n')
    code, out, err = run(stdin="for i = 1, 2 do\n")
    check(code == 1 and "'end' expected" in err, (code, out, err))


@case
def interrupted_script():
    """Ctrl-C ends a script with one line; a second one ends it even inside compiled code"""
    script = os.path.join(HOME, "loop.lua")
    for body, presses in (("print 'go' while true do os.clock() end", 1), ("print 'go' while true do end", 2)):
        with open(script, "w") as f:
            f.write(body)
        t = Terminal(script)
        t.expect("go")
        for _ in range(presses):
            time.sleep(0.3)
            t.send("\x03")
        if presses == 1:
            t.expect("interrupted")
        status = os.waitpid(t.pid, 0)[1]
        os.close(t.fd)
        code = os.waitstatus_to_exitcode(status)
        check(code in ((130,) if presses == 1 else (-2, 130)), f"exit code {code}")


shutil.rmtree(HOME, ignore_errors=True)
done()

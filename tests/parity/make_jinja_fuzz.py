#!/usr/bin/env python3
"""Makes tests/parity/fixtures/jinja_fuzz.json: random templates and what jinja2 renders, set as transformers sets it.

Needs: transformers==5.23.0, jinja2==3.1.6.
Run:   python tests/parity/make_jinja_fuzz.py                          the committed cases (seed 1)
       python tests/parity/make_jinja_fuzz.py --cases 20000 --seed 7 -o FILE, then TL_JINJA_CASES=FILE build/tlrun tests/lua/test_jinja.lua

A template is an expression over the context below, of a wanted type so that most of them render, or a few statements around
such expressions, with the white space marks at random. Where jinja2 fails the case is {"error": true}: the interpreter has to
fail too. Left out: what prints an address, and integers beyond 2^53, which are doubles here.

  {"context": {...}, "cases": [{"name", "template", "expected"} or {"name", "template", "error": true}]}
"""
import argparse
import json
import os
import random
import re

from transformers.utils import chat_template_utils as ctu

OUT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "fixtures", "jinja_fuzz.json")

CONTEXT = {
    "s": "Hello World", "t": "  two\twords \n", "u": "Ünï-çö 日本 😀ß", "v": "a,b,,c", "w": "it's \"q\" <b>\\\n", "e": "", "z": "42",
    "i": 7, "j": -3, "k": 0, "f": 2.5, "g": -0.125, "h": 3.0, "yes": True, "no": False, "nil": None,
    "l": [3, 1, 2, 3], "m": ["pear", "Apple", "fig", "apple"], "x": [], "mix": [1, "a", None, 2.5, True, [1], {"q": 0}],
    "d": {"b": 1, "A": [1, 2], "c": None}, "n": {}, "o": {"k": {"x": "y", "n": [1, {"z": 2.0}]}, "items": 5},
    "r": [{"name": "bo", "age": 31, "on": True}, {"name": "Al", "age": 25, "on": False, "tag": "q"}, {"name": "cy", "age": 31, "on": True}],
    "messages": [{"role": "system", "content": "be"}, {"role": "user", "content": " hi "}, {"role": "assistant", "content": "yo"}],
}
NAMES = {
    "str": ["s", "t", "u", "v", "w", "e", "z", "messages[1].content", "r[0].name", "o.k.x", "m[0]", "u[3]"],
    "int": ["i", "j", "k", "l[0]", "r[1]['age']", "l|length", "o['items']", "s.find('o')"],
    "float": ["f", "g", "h", "o.k.n[1].z", "i / 2"],
    "bool": ["yes", "no", "r[0].on"],
    "list": ["l", "m", "x", "mix", "r", "messages", "d.A", "messages[1:]", "d|list"],
    "dict": ["d", "n", "o", "r[0]", "messages[-1]", "o.k"],
    "other": ["nil", "missing", "missing", "messages[0].nope", "none"],
}
WORDS = ["'a'", "'o'", "'l'", "' '", "','", "''", "'apple'", "'Hello'", "'World'", "'x-y'", "'\\n'", "'日'", "'ß'", "'%s'", "'{}'", "'<b>'", "\"q'\"", "'1'", "'-2.5'"]
INTS = ["0", "1", "2", "3", "5", "-1", "-2", "10"]


class Maker:
    """Writes expressions of a wanted type, at most so deep."""

    def __init__(self, seed):
        self.r = random.Random(seed)

    def any_type(self):
        return self.r.choice(["str", "str", "int", "float", "bool", "list", "list", "dict", "other"])

    def atom(self, kind):
        r = self.r
        if kind == "str" and r.random() < 0.5:
            return r.choice(WORDS)
        if kind == "int" and r.random() < 0.6:
            return r.choice(INTS)
        if kind == "float" and r.random() < 0.4:
            return r.choice(["0.5", "1.0", "-2.75", "1e3", "0.1", "1e-7", "2e20"])
        if kind == "bool" and r.random() < 0.3:
            return r.choice(["true", "false", "True"])
        if kind == "list" and r.random() < 0.4:
            return r.choice(["[1, 2, 3]", "['b', 'a']", "[]", "(1, 2)", "['x',]", "[[1, 2], [3, 4]]", "[('a', 1), ('b', 2)]", "range(4)", "range(5, 0, -2)"])
        if kind == "dict" and r.random() < 0.3:
            return r.choice(["{'p': 1, 'q': 'z'}", "{}", "{'k': [1.0, none]}", "dict(a=1)"])
        return r.choice(NAMES[kind])

    def make(self, kind=None, depth=3):
        """An expression; in parentheses where it is more than a name or a call."""
        kind = kind or self.any_type()
        if self.r.random() < 0.04:
            kind = self.any_type()  # a value of the wrong type: errors have to agree too
        if depth <= 0 or self.r.random() < 0.2:
            return self.atom(kind)
        made = getattr(self, "make_" + kind)(depth - 1)
        return "(" + made + ")" if self.r.random() < 0.85 else made

    def common(self, kind, d):
        r, m = self.r, self.make
        return r.choice([
            lambda: "%s if %s else %s" % (m(kind, d), m("bool", d), m(kind, d)),
            lambda: "%s or %s" % (m(kind, d), m(kind, d)),
            lambda: "%s and %s" % (m(None, d), m(kind, d)),
            lambda: "%s|default(%s%s)" % (m(r.choice([kind, "other"]), d), m(kind, 0), r.choice(["", ", true", ", boolean=true"])),
            lambda: "%s|%s" % (m("list", d), r.choice(["first", "last", "max", "min"])),
            lambda: "%s[%s]" % (m(r.choice(["list", "dict", "str"]), d), m(r.choice(["int", "str"]), 0)),
            lambda: "%s.get(%s%s)" % (m("dict", d), m("str", 0), r.choice(["", ", 5", ", none"])),
            lambda: "%s.%s" % (m("dict", d), r.choice(["name", "k", "b", "A", "role", "nope", "items"])),
        ])()

    def make_other(self, d):
        return self.common("other", d)

    def make_str(self, d):
        r, m = self.r, self.make
        s = lambda: m("str", d)
        w = lambda: m("str", 0)
        n = lambda: m("int", 0)
        return r.choice([
            lambda: self.common("str", d),
            lambda: "%s + %s" % (s(), s()),
            lambda: "%s ~ %s" % (m(None, d), m(None, d)),
            lambda: "%s * %s" % (s(), r.choice(INTS)),
            lambda: "%s[%s:%s%s]" % (s(), r.choice(["", n()]), r.choice(["", n()]), r.choice(["", "", ":" + r.choice(["1", "2", "-1", "-2", ""])])),
            lambda: "%s|%s" % (s(), r.choice(["upper", "lower", "title", "capitalize", "trim", "string", "reverse", "e", "safe", "indent", "escape"])),
            lambda: "%s.%s()" % (s(), r.choice(["upper", "lower", "title", "capitalize", "strip", "lstrip", "rstrip", "swapcase"])),
            lambda: "%s.%s(%s)" % (s(), r.choice(["strip", "lstrip", "rstrip", "removeprefix", "removesuffix"]), w()),
            lambda: "%s|trim(%s)" % (s(), w()),
            lambda: "%s.replace(%s, %s%s)" % (s(), w(), w(), r.choice(["", ", 1", ", 2", ", -1"])),
            lambda: "%s|replace(%s, %s%s)" % (s(), w(), w(), r.choice(["", ", 1", ", count=2"])),
            lambda: "%s|%s" % (m(None, d), r.choice(["string", "tojson", "tojson(indent=2)", "tojson(ensure_ascii=true)", "tojson(sort_keys=true)", "tojson(separators=(',', ':'))", "tojson(indent=4, sort_keys=true)", "upper", "trim", "indent(2, true)"])),
            lambda: "%s|join%s" % (m("list", d), r.choice(["", "(', ')", "('')", "(attribute='name')", "('|', 'role')", "(d='-')"])),
            lambda: "%s.join(%s)" % (w(), r.choice(["m", "s", "%s|map('string')" % m("list", d), m("list", d), "v.split(',')"])),
            lambda: "%s.split(%s)[%s]" % (s(), r.choice(["", w()]), n()),
            lambda: "%s %% %s" % (r.choice(["'%s'", "'<%s|%5s>'", "'%d'", "'%.2f'", "'%05.1f|'", "'%-4d|'", "'%x'", "'%r'", "'%+d'", "'%%%s'", "'%(b)s'", "'%e'", "'%g'"]), r.choice([m(None, d), "(%s, %s)" % (m(None, d), m(None, d)), m("int", d), m("float", d)])),
            lambda: "%s|format(%s)" % (r.choice(["'%s'", "'%s-%s'", "'%d'", "'%.1f'", "'%(a)s'"]), r.choice([m(None, d), "%s, %s" % (m(None, d), m("int", d)), "a=%s" % m(None, d)])),
            lambda: "%s.format(%s)" % (r.choice(["'{}'", "'{} {}'", "'{0}{1}{0}'", "'{:>6}|'", "'{:<6}|'", "'{:^7}|'", "'{:.2f}'", "'{:05d}'", "'{:,}'", "'{!r}'", "'{:x}'", "'{a}'", "'{:.3}'", "'{:e}'", "'{:+}'", "'{:%}'", "'{:*^9}'", "'{:b}'", "'{{{}}}'", "'{:g}'", "'{:s}'", "'{:d}'"]),
                                      r.choice([m(None, d), "%s, %s" % (m(None, d), m(None, d)), m("int", d), m("float", d), "a=%s" % m(None, d)])),
            lambda: "%s|%s" % (s(), r.choice(["center(12)", "truncate(8)", "truncate(8, true, '..')", "truncate(5, true, '', 0)", "wordcount|string", "indent(3)", "indent(width='> ', first=true)", "indent(2, blank=true)", "urlencode", "striptags"])),
            lambda: "%s.%s(%s%s)" % (s(), r.choice(["ljust", "rjust", "center"]), r.choice(["3", "12", "15"]), r.choice(["", ", '*'"])),
            lambda: "%s.zfill(%s)" % (s(), r.choice(["2", "9"])),
            lambda: "%s.%s(%s)|string" % (s(), r.choice(["partition", "rpartition"]), w()),
        ])()

    def make_int(self, d):
        r, m = self.r, self.make
        i = lambda: m("int", d)
        return r.choice([
            lambda: self.common("int", d),
            lambda: "%s %s %s" % (i(), r.choice(["+", "-", "*", "//", "%"]), i()),
            lambda: "%s ** %s" % (r.choice(["2", "-3", "i"]), r.choice(["0", "1", "2", "-1"])),
            lambda: "%s%s" % (r.choice(["-", "+", "--"]), i()),
            lambda: "%s|%s" % (m(r.choice(["list", "str", "dict"]), d), r.choice(["length", "count"])),
            lambda: "%s|int%s" % (m(r.choice(["str", "float", "int", "bool", "other"]), d), r.choice(["", "(9)", "(default=-1)", "(0, 16)"])),
            lambda: "%s|abs" % i(),
            lambda: "%s|round" % i(),
            lambda: "%s|sum" % r.choice(["l", "[1, 2]", m("list", d), "r|map(attribute='age')"]),
            lambda: "r|sum(attribute='age'%s)" % r.choice(["", ", start=5"]),
            lambda: "%s.%s(%s%s)" % (m("str", d), r.choice(["find", "rfind", "count", "index", "rindex"]), m("str", 0), r.choice(["", "", ", 1", ", 2, 5", ", -3"])),
            lambda: "%s.%s(%s)" % (m("list", d), r.choice(["index", "count"]), m(None, 0)),
        ])()

    def make_float(self, d):
        r, m = self.r, self.make
        x = lambda: m(r.choice(["float", "float", "int"]), d)
        return r.choice([
            lambda: self.common("float", d),
            lambda: "%s %s %s" % (x(), r.choice(["+", "-", "*", "/", "//", "%"]), x()),
            lambda: "%s|round(%s%s)" % (x(), r.choice(["0", "1", "2", "3", "-1"]), r.choice(["", ", 'ceil'", ", 'floor'", ", method='common'"])),
            lambda: "%s|round" % x(),
            lambda: "%s|float%s" % (m(r.choice(["str", "int", "float", "other"]), d), r.choice(["", "(1.5)", "(default=none)"])),
            lambda: "%s|abs" % x(),
            lambda: "-%s" % x(),
        ])()

    def test(self):
        r, m = self.r, self.make
        return r.choice([
            lambda: r.choice(["defined", "undefined", "none", "string", "number", "integer", "float", "boolean", "mapping", "sequence", "iterable", "callable", "true", "false", "odd", "even", "lower", "upper", "escaped"]),
            lambda: "%s %s" % (r.choice(["divisibleby", "eq", "ne", "gt", "lt", "ge", "le", "equalto", "sameas", "lessthan", "greaterthan"]), m("int", 0) if r.random() < 0.6 else m(None, 0)),
            lambda: "%s(%s)" % (r.choice(["divisibleby", "eq", "in", "equalto", "=="]), m(None, 1)) if r.random() < 0.9 else "in %s" % m("list", 0),
        ])().replace("==(", "eq(")

    def make_bool(self, d):
        r, m = self.r, self.make
        return r.choice([
            lambda: self.common("bool", d),
            lambda: "%s %s %s" % (m("int", d), r.choice(["==", "!=", "<", "<=", ">", ">="]), m(r.choice(["int", "float"]), d)),
            lambda: "%s %s %s" % (m("str", d), r.choice(["==", "!=", "<", ">="]), m("str", d)),
            lambda: "%s %s %s" % (m(None, d), r.choice(["==", "!="]), m(None, d)),
            lambda: "%s < %s <= %s" % (m("int", d), m("int", d), m("float", d)),
            lambda: "%s %s %s" % (m("str", d), r.choice(["in", "not in"]), m(r.choice(["str", "list", "dict"]), d)),
            lambda: "%s %s %s" % (m(None, d), r.choice(["in", "not in"]), m("list", d)),
            lambda: "not %s" % m(None, d),
            lambda: "%s %s %s" % (m("bool", d), r.choice(["and", "or"]), m("bool", d)),
            lambda: "%s is %s%s" % (m(None, d), r.choice(["", "not "]), self.test()),
            lambda: "%s.%s(%s)" % (m("str", d), r.choice(["startswith", "endswith"]), r.choice([m("str", 0), "('a', 'H')", "'o', 1"])),
            lambda: "%s.%s()" % (m("str", d), r.choice(["isdigit", "isalpha", "isalnum", "isspace", "isupper", "islower", "isnumeric", "isdecimal", "istitle"])),
        ])()

    def make_list(self, d):
        r, m = self.r, self.make
        x = lambda: m("list", d)
        lazy = lambda: r.choice(["|list", "|list", "|list", "|join(';')", "|first", ""])
        return r.choice([
            lambda: self.common("list", d),
            lambda: "%s + %s" % (x(), x()),
            lambda: "%s * %s" % (x(), r.choice(INTS[:5])),
            lambda: "[%s]" % ", ".join(m(None, d) for _ in range(r.randrange(4))),
            lambda: "(%s, %s)" % (m(None, d), m(None, d)),
            lambda: "%s[%s:%s%s]" % (x(), r.choice(["", m("int", 0)]), r.choice(["", m("int", 0)]), r.choice(["", ":", ":2", ":-1", ":-2", ":1"])),
            lambda: "%s|list" % m(r.choice(["list", "str", "dict"]), d),
            lambda: "%s|sort%s" % (r.choice([x(), "l", "m", "r"]), r.choice(["", "(reverse=true)", "(true)", "(case_sensitive=true)", "(attribute='age')", "(attribute='age,name')", "(false, true, 'name')"])),
            lambda: "%s|unique%s%s" % (x(), r.choice(["", "(case_sensitive=true)", "(attribute='age')"]), lazy()),
            lambda: "%s|reverse%s" % (x(), lazy()),
            lambda: "%s|map(%s)%s" % (x(), r.choice(["'upper'", "'string'", "'length'", "attribute='name'", "attribute='age', default=0", "'default', 'q'", "'replace', 'a', 'b'", "'tojson'", "'int'", "attribute='name.0'", "'trim'", "'first'", "'round', 1"]), lazy()),
            lambda: "%s|%s(%s)%s" % (x(), r.choice(["select", "reject"]), r.choice(["", "'string'", "'odd'", "'defined'", "'gt', 1", "'in', [1, 2]", "'equalto', 'fig'", "'none'", "'mapping'"]), lazy()),
            lambda: "%s|%s(%s)%s" % (r.choice([x(), "r", "messages"]), r.choice(["selectattr", "rejectattr"]), r.choice(["'on'", "'role', 'equalto', 'user'", "'role', '==', 'user'", "'age', 'gt', 26", "'tag', 'defined'", "'name', 'in', ['bo']", "'nope'", "'role', 'ne', 'system'"]), lazy()),
            lambda: "%s|batch(%s)%s" % (x(), r.choice(["2", "3, 'z'", "2, fill_with=0"]), lazy()),
            lambda: "%s|slice(%s)%s" % (x(), r.choice(["2", "3, 'z'"]), lazy()),
            lambda: "%s|groupby(%s)%s" % (r.choice(["r", "r", "messages", x()]), r.choice(["'age'", "'role'", "'tag', default='-'", "attribute='name'"]), r.choice(["", "|list", "|map('first')|list", "|map(attribute='grouper')|list"])),
            lambda: "%s|dictsort%s" % (m("dict", d), r.choice(["", "(true)", "(reverse=true)", "(by='value')"])),
            lambda: "%s.%s%s" % (m("dict", d), r.choice(["items()", "keys()", "values()"]), r.choice(["|list", "|list", "|sort", "|length", "|first", ""])),
            lambda: "%s|items%s" % (m("dict", d), lazy()),
            lambda: "%s.%s" % (m("str", d), r.choice(["split()", "split(',')", "split(' ', 1)", "split('o', maxsplit=1)", "rsplit(' ', 1)", "rsplit(none, 1)", "rsplit(',')", "splitlines()", "splitlines(true)", "split('\\n')", "partition(' ')", "split(none, 1)", "split('')"])),
            lambda: "%s.%s" % (x(), r.choice(["copy()", "append(1)", "pop()", "extend([1])", "insert(0, 1)", "reverse()", "sort()", "clear()"])),
            lambda: "range(%s)|list" % r.choice(["i", "3", "1, 5", "0, 10, 3", "4, 0, -1", "j", "f"]),
        ])()

    def make_dict(self, d):
        r, m = self.r, self.make
        return r.choice([
            lambda: self.common("dict", d),
            lambda: "{%s}" % ", ".join("%s: %s" % (r.choice(["'a'", "'b'", "'k'", "1", "none", "'a' ~ i"]), m(None, d)) for _ in range(r.randrange(4))),
            lambda: "dict(%s)" % r.choice(["", "a=%s" % m(None, d), "d", "d, z=%s" % m(None, d), "[('p', %s)]" % m(None, d)]),
            lambda: "%s.copy()" % m("dict", d),
            lambda: "%s|%s" % (m("list", d), r.choice(["first", "last"])),
        ])()

    # ---- statements

    def tag(self, inside):
        r = self.r
        return "{%%%s %s %s%%}" % (r.choice(["", "", "-", "+"]) if r.random() < 0.5 else "", inside, r.choice(["", "-", "+"]) if r.random() < 0.4 else "")

    def space(self):
        return self.r.choice(["", "", " ", "\n", "\n  ", "  \n", "\n\n", "\t", " a\n", "b ", "\n   c"])

    def put(self, e):
        r = self.r
        return "{{%s %s %s}}" % (r.choice(["", "", "-"]), e, r.choice(["", "", "-"]))

    def target(self):
        return self.r.choice(["p", "q", "s", "i", "ns.a", "ns.b", "p, q"])

    def statement(self, d, looping=False):
        r, m = self.r, self.make
        body = lambda loop=looping: self.body(d - 1, loop)
        g = self.tag
        options = [
            lambda: self.put(m(None, 2)),
            lambda: self.put(m(None, 2)),
            lambda: g("if " + m("bool", 2)) + body() + (g("elif " + m(None, 1)) + body() if r.random() < 0.3 else "") + (g("else") + body() if r.random() < 0.5 else "") + g("endif"),
            lambda: g("for %s in %s%s" % (r.choice(["p", "q", "i"]), m(r.choice(["list", "list", "dict", "str"]), 1), r.choice(["", "", " if p", " if loop", " if %s" % m("bool", 1)]))) + body(True) + (g("else") + body() if r.random() < 0.3 else "") + g("endfor"),
            lambda: g("for p, q in %s" % r.choice(["d.items()", "n.items()", "o|dictsort", "[(1, 2), (3, 4)]", "r|items", "[[1, 'a']]"])) + body(True) + g("endfor"),
            lambda: g("for p in [1, [2, [3]], []] recursive") + "{{ loop.depth }}" + g("if p is iterable") + "({{ loop(p) }})" + g("else") + self.put("p") + g("endif") + g("endfor"),
            lambda: g("set %s = %s" % (self.target(), m(None, 2))),
            lambda: g("set p, q = %s, %s" % (m(None, 1), m(None, 1))),
            lambda: g("set %s%s" % (r.choice(["p", "q", "ns.a"]), r.choice(["", " | upper", " | trim | length"]))) + body() + g("endset"),
            lambda: g("macro f(a, b=%s)" % m(None, 1)) + self.put(r.choice(["a", "b", "a ~ b", "varargs", "kwargs", "p", "caller is defined", "caller() if caller else a"])) + body(False) + g("endmacro") + self.put("f(%s)" % r.choice(["", "1", "1, 2", "b=3", "1, 2, 3", "a=%s" % m(None, 1), "1, zz=2", "*l", "**d"])),
            lambda: g("call%s f2(%s)" % (r.choice(["", "(p)", "(p, q=2)"]), m(None, 1))) + body(False) + g("endcall"),
            lambda: g("filter " + r.choice(["upper", "trim", "replace('a', 'b')", "indent(2)", "length", "trim | title"])) + body() + g("endfilter"),
            lambda: g("with %s" % r.choice(["p = 1", "p = i, q = p", "p, q = 1, 2"])) + body() + g("endwith"),
            lambda: "{#%s comment %s#}" % (r.choice(["", "-", "+"]), r.choice(["", "-"])),
            lambda: g("raw") + r.choice([" {{ a }} ", "\n{% x %}\n", "", "{# #}"]) + g("endraw"),
            lambda: g("generation") + body() + g("endgeneration"),
        ]
        if looping:
            options += [
                lambda: self.put("loop." + r.choice(["index", "index0", "first", "last", "length", "revindex", "revindex0", "previtem", "nextitem", "depth", "depth0", "cycle('a', 'b', 3)", "changed(p)", "nope"])),
                lambda: g("if " + r.choice(["loop.first", "loop.last", "loop.index > 2", "p", "loop.nextitem is defined and loop.nextitem", "loop.previtem is undefined"])) + g(r.choice(["break", "continue"])) + g("endif"),
            ]
        return r.choice(options)()

    def body(self, d, looping=False):
        if d <= 0:
            return self.space() + self.put(self.make(None, 1)) + self.space()
        return self.space() + "".join(self.statement(d, looping) + self.space() for _ in range(self.r.randrange(1, 3)))

    def template(self):
        if self.r.random() < 0.62:
            return "{{ " + self.make(None, self.r.choice([1, 2, 2, 3])) + " }}"
        head = "{% set ns = namespace(a=0, b='') %}{% macro f2(a) %}<{{ a }}|{{ caller(a) if caller else '' }}>{% endmacro %}"
        return head + self.body(self.r.choice([1, 2, 2, 3]))


PRINTS_ADDRESS = re.compile(r"<(built-in |bound |generator|function|method|.* object at |.*Macro|.*class|.*LoopContext|.*TemplateReference|.*Namespace|.*jinja2)|0x[0-9a-f]{6}|Cycler|Joiner|Markup|range\(", re.I)
BIG = re.compile(r"\d{16}")


def cases(n, seed):
    maker, out, seen = Maker(seed), [], set()
    while len(out) < n:
        t = maker.template()
        if t in seen or len(t) > 600:
            continue
        seen.add(t)
        name = "random %d.%d" % (seed, len(out) + 1)
        try:
            text = ctu._compile_jinja_template(t).render(**json.loads(json.dumps(CONTEXT)))
        except Exception:
            if len(t) < 160 and maker.r.random() < 0.4:
                out.append({"name": name, "template": t, "error": True})
            continue
        if PRINTS_ADDRESS.search(text) or BIG.search(text) or len(text) > 3000:
            continue
        out.append({"name": name, "template": t, "expected": text})
    return out


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--cases", type=int, default=1500)
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("-o", default=OUT)
    o = p.parse_args()
    with open(o.o, "w", encoding="utf-8") as f:
        json.dump({"context": CONTEXT, "cases": cases(o.cases, o.seed)}, f, ensure_ascii=False, indent=0)
        f.write("\n")


if __name__ == "__main__":
    main()

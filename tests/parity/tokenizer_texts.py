"""The difficult texts that tokenizers are compared on: every script, combining marks, kinds of spaces and line ends, contractions,
digits of all classes, emoji, added tokens inside other text, code, LaTeX, long words; and combinations drawn with a fixed seed."""
import json
import os
import random

SENTENCES = """
Tom has 3 apples and buys 4 more. How many apples does he have now? Let's think step by step: 3 + 4 = 7. #### 7
The train leaves at 10:45 and arrives 1,250 km later; it's the fastest one we've ever seen, they'll say, and I'm sure he'd agree.
def f(x):\n    if x > 0:\n\t\treturn [i ** 2 for i in range(x)]  # squares\n    return None
Die Straße über den Fluß führt nach Köln; naïve café, piñata, Ærøskøbing, żółć, Đorđe, İstanbul, ǅ, ﬁne.
Съешь же ещё этих мягких французских булок, да выпей чаю. Ελληνικά: η γρήγορη αλεπού. עברית: שלום עולם. العربية: مرحبا ١٢٣.
日本語の文章です。数字は１２３と漢数字一二三。中文：你好，世界！한국어: 안녕하세요 여러분. ไทย: สวัสดีครับ. हिन्दी: नमस्ते दुनिया १२३.
The answer is \\boxed{42}. $\\frac{1}{2} + \\sqrt{3} \\le \\pi$, so 12345678901234567890 is big and 3.14159 is small.
""".strip().split("\n")

SCRIPTS = """
አማርኛ ቋንቋ ነው። / ქართული ენა / Հայերեն լեզու / বাংলা ভাষা ১২৩৪ / ગુજરાતી ૧૨૩ / ਪੰਜਾਬੀ ਭਾਸ਼ਾ / தமிழ் மொழி ௧௨௩
తెలుగు భాష / ಕನ್ನಡ ಭಾಷೆ ೧೨೩ / മലയാളം ഭാഷ / සිංහල භාෂාව / ພາສາລາວ ໑໒໓ / မြန်မာဘာသာ ၁၂၃ / ភាសាខ្មែរ ១២៣ / བོད་སྐད། ༡༢༣
ᠮᠣᠩᠭᠣᠯ ᠬᠡᠯᠡ / ᓀᐦᐃᔭᐍᐏᐣ / ᏣᎳᎩ / ߒߞߏ ߁߂߃ / ⵜⴰⵎⴰⵣⵉⵖⵜ / ꦧꦱꦗꦮ / ᮘᮞ ᮞᮥᮔ᮪ᮓ / ދިވެހި / ܣܘܪܝܝܐ / 𐤐𐤄𐤋 / 𒀭𒂗𒆤 / 𓂀𓃰 / 𐌰𐌱𐌲
Tiếng Việt: Trường đại học bách khoa; Türkçe: İstanbul'da ığdır; Čeština: příliš žluťoučký kůň; Íslenska: þórður; Polski: źdźbło
فارسی: می‌خواهم ۱۲۳۴ / اردو: یہ اُردُو ہے / עִבְרִית עם נִקּוּד / العَرَبِيَّة مُشَكَّلة / ქართ. ᲥᲐᲠᲗ / 𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𝕄𝕒𝕥𝕙 𝟙𝟚𝟛 / ⅷ ⅓ ㊗ ㍿ ㎏ №
ｶﾀｶﾅ ﾊﾟﾋﾟ / がぎぐ が / 한글 한글 / Ǆ ǅ ǆ Ǉ / ﬀ ﬁ ﬂ ﬃ / ẛ̣ ſt / K Å Ω / i̇ İ / a͏b / 👩🏽‍🚀👨‍👩‍👧‍👦🏳️‍🌈🇩🇪🇫🇷 ☝🏿 ❤️‍🔥 1️⃣ ©️ / ‮RTL‬ / a­b / ﷽ / Z͑ͫa̴l̸g̵o̶
""".strip().split("\n")
CODE = [
    "#include <stdio.h>\nint main(void) {\n\tprintf(\"%d\\n\", 0xFF & ~1u);\n\treturn 0;\n}\n", "for(i=0;i<10;++i){a[i]+=b[i]*c;}// done",
    "SELECT * FROM t WHERE id IN (1,22,333) AND name LIKE '%x''s%';", "<a href=\"https://example.org/a?b=1&c=2#d\">x</a>\n", "$HOME/.config/foo-bar_baz.toml",
    "def f(self, *args, **kwargs) -> None:\n    \"\"\"Doc.\"\"\"\n    raise ValueError(f\"{x!r}: {y:>10.3f}\")\n\n\n", "{\"a\": [1, 2.5, null, true], \"b\": \"\\u00e9\\n\"}",
    "git commit -m 'fix: it''s 3.5x' && ./run --n=10 | grep -E '^[a-z]+$' > out.txt 2>&1", "\t\tif (!x)\r\n\t\t\treturn;\r\n\r\n", "    \n        \n  x\n", "a==b!=c<=d>=e&&f||!g", "λx.x→y∀z∃w",
    "user@example.com, +1 (555) 010-9999, 192.168.0.1:8080", "CamelCaseHTTPServer2Go snake_case_3 kebab-case-4 SCREAMING_CASE", "std::vector<std::pair<int,char>>&& v", "#!/bin/sh\n\nset -eu\n"]
LATEX = [
    r"\frac{a+b}{c} \cdot \sqrt[3]{x^2+1} \leq \int_0^\infty e^{-x^2}\,dx", r"$$\begin{pmatrix}1&2\\3&4\end{pmatrix}$$", r"The answer is $\boxed{\dfrac{17}{25}}$.",
    r"\text{Let } f\colon \mathbb{R}\to\mathbb{R},\ f(x)=2x-7.", r"\left\{x\in\mathbb{Z}\mid |x|<10^{12}\right\}", r"\[ \sum_{n=1}^{1000} \frac{1}{n^2} \approx 1.6439 \]", r"$5$ and \$5.00, 50\%"]


def texts():
    """The difficult texts: fixed ones, then combinations drawn with a fixed seed."""
    out = ["", " ", "  ", "   ", "\n", "\n\n", "\r\n", "\t", " \n", "\n ", "  \n  x", "a\n\n\nb", "a \n \n b", "a\r\nb\r\n\r\nc",
           "\u00a0", "\u2003x", "\u3000全角", "a\u00a0b", "x\u200bx", "\u180ea b", "a \u180e b", "\u0085x", "\u2028x\u2029y",
           "\x1c\x1d\x1e\x1fx", "\x0b\x0cx", "\x00", "a\x00b", "\x01\x02\x7f", "\ufeffBOM", "\ufffd", "\ufffe", "\U0010ffff"]
    out += SENTENCES
    for c in ["'s", "'t", "'re", "'ve", "'m", "'ll", "'d"]:  # contractions, their capitals, other apostrophes, the long s
        out += ["we" + c, "WE" + c.upper(), "We" + c.title(), "x " + c + " y", c + c.upper(), "we\u2019" + c[1:], c + "x"]
    out += ["it'\u017f", "IT'\u017f x", "'\u017ft", "\u212aelvin'\u212a", "don't can't WON'T", "o'clock 'tis rock'n'roll", "''s"]
    out += ["1", "12", "123", "1234", "12345", "1234567", "a1b22c333", "1 2 3", "3.14", "1,000,000", "-5", "+5%", "x2y",
            "\u00bd cup", "x\u00b2+y\u00b3", "10\u2075\u2076", "\u2163 \u2164\u2165\u2166", "\u2460\u2461\u2462", "\u0661\u0662\u0663",
            "\u0967\u0968\u0969", "\uff11\uff12\uff13\uff14", "\u4e00\u4e8c\u4e09", "\U0001d7d8\U0001d7d9", "\u3007", "\u2189",
            "12\u00bd34", "v1.2.3-rc4", "0x1F", "1e-5", "2024-01-31T23:59:59Z"]
    out += ["e\u0301", "\u00e9", "A\u030a\u0325", "q\u0323\u0307", "\u212b", "\u1e9b\u0323", "\uac00\u11a8", "\u1100\u1161\u11a8",
            "\u0344", "\u0958", "\u2126", "ﬁ ﬂ ﬆ", "\u0308x", " \u0301", "a\u0301\u0302\u0303\u0304", "क्षि", "ก็", "ı İ ß ẞ ǆ",
            "\U0002f800", "\u1100\u1161", "\u09c7\u09be", "Ａｂｃ", "①②", "½", "ℌ", "x\u0327\u0301", "\U0001d15e"]
    out += ["\U0001f600", "\U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466", "\U0001f44d\U0001f3fd", "\U0001f1e9\U0001f1ea",
            "\u2764\ufe0f", "#\ufe0f\u20e3", "a\U0001f600b", "\U0001f600 \U0001f600", "\U0001f3f4\U000e0067\U000e0062\U000e007f"]
    out += ["你好", "你好world", "こんにちは世界", "カタカナ ひらがな", "안녕 하세요", "、。「」", "Привет, мир!", "שלום", "مرحبا بالعالم", "สวัสดี",
            "नमस्ते", "γειά σου", "Ångström", "naïve", "STRASSE straße", "Ꮳꮃꭹ", "\U00010400\U00010428", "\U00020000\U0002a6d6",
            "\U00031350", "\U000323af", "\u1c89\u1c8a", "\U00010d40", "\U0001e4f0", "\u0c5d"]
    out += ["!!!", "...", "?!?!", " !", " ...", "a.b", "a. b", "$5", " $5", "(x)", "[[[", "{{ x }}", "<div>", "a_b", "__init__",
            "snake_case camelCase", "foo(bar)[0]", "x=1;y=2", "//comment", "/* c */", "a---b", "–—―", "“quoted”", "•·…", "€£¥", "±×÷",
            "~`^|\\", "!\n\n", "x!\n y", "\n\n\n\tx", "{\n  \"a\": 1\n}\n", "a\n b\n  c\n   d", "trailing   ", "   leading",
            "in   between", "tab\ttab\t\ttab", " \t \t x", "\n\t\n\t", "x \u00a0 y", "end. \n", "end.\n\n\nNext"]
    out += ["<|endoftext|>", "<|im_start|>user\nhi<|im_end|>\n", "a<|im_end|>b", " <|im_end|> ", "<|im_end|><|im_end|>",
            "<|im_end", "|im_end|>", "<|im_start|>assistant\n", "<tool_call>\n{}\n</tool_call>", "<|im_e<|im_end|>nd|>",
            "x<|endoftext|>\n\ny", "<|IM_END|>", "<<|im_end|>>", "<|begin_of_text|>Hi", "<|eot_id|>\n", "<tool_call", "<tool_call><tool_call>",
            "[MASK]", " [MASK] ", "a  [MASK]  b", "a[MASK]b", "\u3000[MASK]\u3000x", "[MASK][MASK]", "word", "sword", "words word", " word ",
            "word.", "_word", "w\u00f3word", "\u24b6word", "word\u200dx", "Cafe\u0301 bar", "Caf\u00e9 bar", "xCaf\u00e9", "ﬁx", "fix", "<|rs|>  \n x",
            "<|rs|>", "a <|rs|> b", "  <|rs|>\t", "[MASK] <|rs|> [MASK]", "<|rs|> [MASK]"]
    out += ["a" * 50, "ab" * 100, "x" * 300, " " * 100, "\n" * 70, "1" * 100, "the " * 60, "abc" * 700, "é" * 90, "\U0001f600" * 40,
            "aaa" * 33 + " " + "aa" * 41, "=" * 80, "- " * 45, "'s" * 30, "\t" * 65 + "x"]
    out += SCRIPTS + CODE + LATEX
    tails = ["s", "t", "re", "ve", "m", "ll", "d", "x", "\u017f", "Re", "lL", "LL", "vE", "st", "rex", "l", "r", "v"]
    out += ["it'%s y" % c for c in tails] + ["'%s" % c.upper() for c in tails] + [" '%s'%s" % (c, c) for c in tails]
    out += ["%s%s%s" % (a, b, c) for a in ("7", "x", " ") for b in ("\u0664\u0665\u0666", "\u2155", "\u2460\u2461", "\u2178", "\u3007\u3021", "\u00b2", "\U0001d7db", "\uff15")
            for c in ("", "89", "y")]
    for line_end in ("\n", "\r", "\r\n", "\n\r", "\x0b", "\x0c", "\x85", "\u2028", "\u2029"):
        out += ["a%sb" % line_end, "a %s b" % line_end, "a%s%sb" % (line_end, line_end), " %s " % line_end, "!%s%s x" % (line_end, line_end), line_end * 5]
    for gap in (" ", "\t", "\u00a0", "\u2009", "\u3000", " \u00a0"):
        out += ["a" + gap * n + "b" for n in (2, 3, 17)] + [gap * n for n in (1, 4)] + ["x" + gap * 3, gap * 3 + "x", gap * 2 + "1", gap * 2 + "!"]
    for tag in ("<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<s>", "</s>", "<unk>", "<|python_tag|>", "</tool_call>"):
        out += ["a%sb" % tag, " %s x" % tag, "%s%s" % (tag, tag), "x%s\n" % tag, tag[:-1], "'%ss" % tag, "\u00e9%s\u0301" % tag, tag + " " + tag]
    out += ["a" * 1000, "ab\u00e9" * 300, "\u4f60\u597d" * 250, "Donaudampfschifffahrtsgesellschaft" * 8, "=" * 300, "\u2581a \u2581 b\u2581c", "<0x41><0x0A>",
            "\u2581", "\u2581\u2581", " \u2581 ", "<0xE6>\u97a5", "\U00100000", "\u0378", "\ue000", "\U000e0001"]
    rng = random.Random(20240607)
    parts = [" ", "  ", "\n", "\t", "a", "The", "the", "'s", "'LL", "1", "23", "4567", "é", "e\u0301", "日本", "\U0001f600", "!", "...", "_", "$",
             "²", "Ⅷ", "\u200d", "\u00a0", "ſ", "<|im_end|>", "[MASK]", "word", "ß", "ก็", "٣", "x=", "\r\n", "\u0000", "Ω", "Å", "한", "\u1100\u1161"]
    out += ["".join(rng.choice(parts) for _ in range(rng.randint(2, 14))) for _ in range(220)]
    seen, unique = set(), []
    for s in out:
        if s not in seen:
            seen.add(s)
            unique.append(s)
    return unique


def gsm8k():
    """Questions and answers of GSM8K's training set; [] when it is not there (TL_DATA, or fetched into TL_HOME)."""
    home = os.environ.get("TL_HOME") or os.path.expanduser("~/.cache/tlrun")
    for path in (os.path.join(os.environ.get("TL_DATA", ""), "gsm8k", "train.jsonl"), os.path.join(home, "data", "gsm8k", "train.jsonl")):
        if os.path.isfile(path):
            with open(path, encoding="utf-8") as f:
                return [o[k] for o in map(json.loads, f) for k in ("question", "answer")]
    return []

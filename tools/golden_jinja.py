#!/usr/bin/env python3
"""Small templates of our own, and what transformers makes of them: crates/mlx-native-lm/src/chat/golden/snippets.jsonl

    pip install transformers==5.24.0 jinja2==3.1.6
    python tools/golden_jinja.py crates/mlx-native-lm/src/chat/golden/snippets.jsonl

Each is one line of JSON: `template`, what it sees beside one user's "Hi" (`messages`, `variables`), and `text`, or `raises`
where Python refuses. The tokens are <s> and </s>, the clock is at 2025-10-09 08:53:20. What Python shows with an address,
as bytes or as a complex number, or draws by chance, is left out; of all pairs of operands one in five is taken.
"""

import datetime
import json
import os
import re
import sys

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
from transformers.utils import chat_template_utils as utils

NOW = 1_760_000_000
TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}
USER = [{"role": "user", "content": "Hi"}]
DATA = {
    "n": 7, "f": 2.5, "big": 123456789012345678901234567890, "t": "naïve <b> text\n", "empty": "", "l": [3, 1, 2], "d": {"b": 1, "A": 2, "c": None},
    "users": [{"name": "Bo", "age": 30, "tags": ["x"]}, {"name": "al", "age": 25, "tags": []}, {"name": "Cy", "age": 30}],
    "tree": [{"v": 1, "kids": [{"v": 2, "kids": [{"v": 3}]}, {"v": 4}]}, {"v": 5}], "yes": True, "null": None,
}  # fmt: skip


class Clock(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return datetime.datetime(1970, 1, 1) + datetime.timedelta(seconds=NOW)


utils.datetime = Clock


def expressions():
    """Texts of expressions; each becomes `{{ … }}`."""
    values = ["1", "0", "-3", "2.5", "true", "none", "'a'", "''", "'7'", "[1, 2]", "[]", "(1,)", "()", "{'a': 1}", "{}", "nothing", "range(3)", "'<b>'|safe", "big"]
    pairs = 0
    for op in ["+", "-", "*", "/", "//", "%", "**", "~", "==", "!=", "<", "<=", ">", ">=", "in", "not in", "and", "or"]:
        for a in values:
            for b in values:
                pairs += 1
                # Python would count for hours, or fill the memory.
                if pairs % 5 == 0 and (b != "big" or op not in ("**", "*")):
                    yield f"{a} {op} {b}"
    names = [
        "abs", "batch(2)|list", "batch(2, 'x')|list", "capitalize", "center(9)", "count", "default('x')", "default('x', true)", "dictsort", "escape", "filesizeformat",
        "first", "float", "float(9)", "forceescape", "groupby('a')", "indent", "indent(2, true, true)", "int", "int(9)", "int(0, 16)", "items|list", "join", "join(', ')", "last", "length", "list",
        "lower", "map('upper')|list", "map(attribute='a')|list", "max", "min", "pprint", "reject('odd')|list", "select|list", "replace('a', 'b')", "reverse", "reverse|list", "round", "round(1, 'ceil')",
        "safe", "slice(2)|list", "sort", "sort(reverse=true)", "string", "striptags", "sum", "title", "tojson", "tojson(indent=2)", "tojson(true)", "trim", "truncate(5)", "unique|list",
        "upper", "urlencode", "urlize", "wordcount", "wordwrap(5)", "xmlattr", "attr('a')", "format(1)", "selectattr('a')|list", "rejectattr('a')|list",
    ]  # fmt: skip
    for name in names:
        for v in values + ["'a b\\nc d'", "users", "d", "l", "t"]:
            yield f"{v}|{name}"
    for test in ["boolean", "callable", "defined", "divisibleby 2", "escaped", "even", "false", "filter", "float", "in [1, 'a']", "integer", "iterable", "lower", "mapping", "none", "number", "odd",
                 "sameas none", "sequence", "string", "test", "true", "undefined", "upper", "eq 1", "ne 1", "lt 2", "ge 1", "not none"]:  # fmt: skip
        for v in values:
            yield f"{v} is {test}"
    methods = [
        "upper()", "lower()", "title()", "capitalize()", "swapcase()", "casefold()", "strip()", "strip('a')", "lstrip()", "rstrip('c')", "split()", "split('b')", "split(None, 1)", "split('b', 1)", "rsplit('b', 1)",
        "rsplit(None, 1)", "splitlines()", "splitlines(true)", "partition('b')", "rpartition('b')", "find('b')", "find('b', 2)", "rfind('b')", "index('b')", "rindex('z')", "count('b')", "count('', 1)", "replace('b', 'X')",
        "replace('b', 'X', 1)", "startswith('a')", "startswith(('x', 'a'))", "startswith('b', 1)", "endswith('c')", "endswith('b', 0, 2)", "removeprefix('a')", "removesuffix('c')", "join(['x', 'y'])", "join('xy')", "join([1])", "center(12)",
        "center(12, '*')", "ljust(12, '-')", "rjust(12)", "zfill(12)", "expandtabs(4)", "isalnum()", "isalpha()", "isascii()", "isdecimal()", "isdigit()", "isidentifier()", "islower()", "isnumeric()", "isprintable()", "isspace()",
        "istitle()", "isupper()", "format(1)", "encode", "append(1)", "foo", "foo()", "items()", "__class__", "get('a')",
    ]  # fmt: skip
    for m in methods:
        for v in ["'abc'", "'  a b\\tc \\n'", "'ABC abc'", "''", "'-42'", "'é日'", "'aXbXc'|safe"]:
            yield f"{v}.{m}"
    yield from [
        "d.b", "d['b']", "d.zzz", "d.items()", "d.keys()", "d.values()", "d.items()|list", "d.get('zzz')", "d.get('zzz', 5)", "d.copy()", "d.pop('b')", "d.update({})", "d.c", "d.c.x", "l[0]", "l[-1]", "l[9]", "l['a']", "l.0", "l.index(1)", "l.count(3)", "l.append(4)",
        "l.index(9)", "(1, 2).index(2)", "l[1:]", "l[::-1]", "l[:2]", "l[-2:]", "l[5:]", "l[::2]", "t[0]", "t[2]", "t[-1]", "t[1:4]", "t[::-1]", "t['a']", "null[1:]", "none['x']", "none.x", "nothing.x", "nothing['x']", "nothing()", "nothing[1:]", "7['x']", "7.real", "true.real",
        "range(10)[2:5]", "range(10)[::3]|list", "range(1, 10, 3)|list", "range(5, 0, -2)|list", "range(5)[1]", "range(5)[-1]", "range(5).start", "range(100001)", "range(1.0)|list", "range('3')", "range(0)", "1 < 2 < 3", "1 < 2 > 5", "1 == 1.0", "true == 1", "'1' == 1", "[1, 2] == [1, 2]", "(1,) == [1]",
        "{'a': 1} == {'a': 1}", "[1, 2] < [1, 3]", "'a' < 'b'", "not 1", "not not ''", "1 if yes", "1 if null", "(1 if null) is defined", "1 if null else 2", "'a' 'b'", "'a\\'b'", "'\\x41\\u00e9\\U0001F600\\101\\q'", "'\\N{EM DASH}'", "0x1F", "0b101", "0o17", "1_000", "1e3", "1.5e-7", "1E5", "12345678901234567890123",
        "-5 % 3", "5 % -3", "-5 // 3", "5.5 % 2", "-5.5 // 2", "2 ** -1", "2 ** 0.5", "7 / 2", "6 / 2", "1 / 0", "1 // 0", "1.0 % 0", "0.1 + 0.2", "1e16", "1e15", "123456789.123456789", "1e-5", "0.0001", "-0.0", "100000000000000000000.0", "1e22", "1e308 * 10",
        "[1, 'a', none, true, 1.0]", "{'a': [1, {'b': ()}], 2: 'x'}", "('a',)", "[\"it's\"]", "['\"']", "['it\\'s \"x\"']", "['\\n\\t\\\\\\x07\\x7f']", "['é\\u200d\\u00a0\\u2028']", "[nothing]", "{'a': nothing}", "['a'|safe]",
        "'%s' % 1", "'%s %s' % ('a', 2)", "'%d' % 3.9", "'%d' % 'x'", "'%5d|%-5d|%05d|%+d' % (1, 2, 3, 4)", "'%.2f' % 3.14159", "'%e' % 12345.678", "'%g' % 0.00001", "'%x %X %o %#x' % (255, 255, 8, 255)", "'%c%c' % (65, 'B')", "'%%'  % ()", "'%(a)s' % {'a': 1}", "'%(b)s' % {'a': 1}", "'%s' % (1, 2)", "'%s'  % ()",
        "'%10s|%-10s|%.2s' % ('abc', 'abc', 'abc')", "'%r' % 'é'", "'%a' % 'é'", "'%i' % true", "'%s' % [1]", "'%s' % nothing", "'a' % [1]", "'%*d' % (5, 3)", "'<%s>'|safe % '<'", "'%q' % 1", "'%'  % 1", "'%s'|format('a')", "'%s %s'|format('a', 'b')", "'%(x)s'|format(x=1)",
        "'{}'.format(1)", "'{} {}'.format(1, 'a')", "'{1} {0}'.format(1, 2)", "'{a}'.format(a=1)", "'{:5}|{:<5}|{:>5}|{:^5}'.format('a', 'b', 'c', 'd')", "'{:05d} {:+} {:,}'.format(42, 3, 1234567)", "'{:.2f} {:e} {:g} {:%}'.format(3.14159, 1234.5, 0.1, 0.25)", "'{:x} {:#x} {:b} {:o}'.format(255, 255, 5, 8)", "'{0.b} {0[b]}'.format(d)",
        "'{0[0]}'.format(l)", "'{!r} {!s}'.format('a', 'b')", "'{{}}'.format()", "'{'.format(1)", "'}'.format(1)", "'{}'.format()", "'{:d}'.format('a')", "'{:*^9}'.format('mid')", "'{:{}}'.format('a', 5)", "'{:>{w}}'.format('a', w=4)", "'{:.3}'.format('abcdef')", "'{:.3}'.format(3.14159)", "'{:n}'.format(5)", "'{:c}'.format(65)", "'{.__class__}'.format(1)", "'{:_}'.format(1234567)",
        "users|map(attribute='name')|join(', ')", "users|map(attribute='age')|sum", "users|sum(attribute='age')", "users|selectattr('age', 'eq', 30)|map(attribute='name')|list", "users|selectattr('tags')|list|length", "users|rejectattr('tags', 'defined')|list|length", "users|groupby('age')", "users|groupby('age')|map('first')|list", "(users|groupby('age'))[0].grouper", "(users|groupby('age'))[0].list|length",
        "users|sort(attribute='name')|map(attribute='name')|list", "users|sort(attribute='age,name')|map(attribute='name')|list", "users|sort(attribute='name', case_sensitive=true)|map(attribute='name')|list", "users|unique(attribute='age')|list|length", "users|max(attribute='age')", "users|min(attribute='name')", "users|map(attribute='tags.0', default='-')|list", "users|map(attribute='zzz')|list", "users|map('length')|list",
        "['a', 'B', 'c']|sort", "['b', 'A']|sort(case_sensitive=true)", "['a', 'A', 'b']|unique|list", "[1, 'a']|sort", "[3, 1, 2]|sort|first", "[]|first", "[]|last", "[]|max", "'abc'|first", "'abc'|last", "{'a': 1}|first", "l|reverse", "l|reverse|list", "'abc'|reverse", "(l|reverse)|length", "l|map('string')|join", "[1, 2, 3]|select('odd')|list", "[1, 2, 3]|select('gt', 1)|list", "[1, 2]|map('zzz')|list", "[1]|select('zzz')|list",
        "[[1, 2], [3]]|sum(start=[])", "['a']|sum", "d|dictsort", "d|dictsort(by='value')", "{'b': 1, 'a': 2}|dictsort(false, 'value')", "d|dictsort(reverse=true)", "d|dictsort(true)", "d|items|list", "none|items|list", "nothing|items|list", "d|list", "d|length", "d|tojson", "d|tojson(sort_keys=true)", "d|tojson(separators=(',', ':'))", "d|tojson(indent=4)", "[]|tojson(indent=2)", "{}|tojson(indent=2)", "{'a': []}|tojson(indent='--')", "{1: 2, none: 3, true: 4, 1.5: 5}|tojson",
        "{(1, 2): 3}|tojson", "'é<>&\\'\\u2028\\x7f'|tojson", "'é\\U0001F600\\x7f'|tojson(ensure_ascii=true)", "1e20|tojson", "nothing|tojson", "range|tojson", "(1, 2)|tojson", "d.items()|tojson", "('x'|safe)|tojson", "[1.0, 2e-9]|tojson", "d|tojson(nothing=1)", "'x'|tojson(indent=2)", "[1, [2, {'a': 3}]]|tojson(indent=2)", "big|tojson", "[big]", "big", "big + 1", "big == big", "big is integer",
        "'a,b'|replace(',', ';')", "'aaa'|replace('a', 'b', 2)", "123|replace(2, 'x')", "''|replace('', 'x')", "'ab'|replace('', '-')", "'text'|truncate(3, true)", "'a b c d e f g h'|truncate(9, false, '…')", "'abcdef'|truncate(3, true, '')", "'abc'|truncate(2)", "'a bb ccc dddd'|wordwrap(5)", "'abcdefghij'|wordwrap(4)", "'abcdefghij'|wordwrap(4, false)", "'well-known thing'|wordwrap(8)", "'a  b   c'|wordwrap(3)", "'a\\n\\nb'|wordwrap(9)",
        "'hello world'|title", "\"it's a-b (c) [d] {e} <f>\"|title", "\"it's a-b\".title()", "'ǆ'|title", "'ß'|upper", "'İ'|lower", "'ΑΣ'|lower", "'a b  c'|wordcount", "'x_y z-w'|wordcount", "'  x '|trim", "'xxaxx'|trim('x')", "'abc'|center(10)|length", "'abc'|indent(2, true)", "'a\\n\\nb'|indent", "'a\\n\\nb'|indent(blank=true)", "'a'|indent('> ', true)", "'<p>a <b>b</b></p>'|striptags", "'a &amp; b'|striptags", "'<!-- x -->y'|striptags",
        "'a b/c?d=é&e'|urlencode", "{'a b': 'c/d', 'e': 1}|urlencode", "[('a', 1)]|urlencode", "'http://a.com/x?y (see www.b.org), c@d.de.'|urlize", "'https://example.com/a_(b)'|urlize(10)", "'x.com'|urlize(nofollow=true, target='_blank')", "{'a': 1, 'b': none, 'c': '<'}|xmlattr", "{'a b': 1}|xmlattr", "{}|xmlattr", "1000|filesizeformat", "999|filesizeformat", "1|filesizeformat", "1234567|filesizeformat", "1048576|filesizeformat(true)", "1e30|filesizeformat",
        "42.55|round", "42.55|round(1)", "2.5|round", "3.5|round", "-2.5|round", "1234|round(-2)", "2.675|round(2)", "42.55|round(1, 'floor')", "42.4|round(0, 'ceil')", "5|round", "5|round(1)", "'5'|round", "1.5|round(method='x')", "' 42 '|int", "'42.9'|int", "'0x1F'|int(base=16)", "'1F'|int(0, 16)", "'0b11'|int(base=2)", "'z'|int(5)", "'1_0'|int", "'_1'|int", "'٣'|int", "none|int", "[]|int(3)", "'inf'|int", "'inf'|float", "'nan'|float", "' 1e3 '|float", "'1.5.2'|float", "true|int", "3.99|int", "-3.99|int",
        "dict(a=1, b=2)", "dict({'a': 1}, b=2)", "dict([('a', 1)])", "dict([['a']])", "dict(1)", "dict()", "dict.fromkeys(['a', 'b'])", "dict.fromkeys('ab', 0)", "dict(**d)", "namespace(a=1)", "namespace(a=1).a", "namespace({'a': 2}).a", "namespace().a", "namespace(_a=1)", "namespace(a=1)['a']", "cycler('a', 'b').next()", "joiner(',')()", "cycler()", "raise_exception('no')", "raise_exception()", "strftime_now('%Y-%m-%d')", "strftime_now()", "loop", "self", "caller", "messages[0].role", "messages[0]['content']",
        "messages|length", "messages[0]|length", "messages[0].items()|list", "bos_token + eos_token", "tools", "documents", "add_generation_prompt", "unk_token is defined", "tools is none", "tools is defined", "tools|length", "tools is iterable", "tools or 'x'", "'x' in tools", "'a' is in 'abc'", "1 is in [1]", "'role' in messages[0]", "'Hi' in messages[0].content", "messages[0].content[0]", "messages[0].content.upper()", "1, 2", "(1, 2)[0]", "+1", "-(-1)", "- -1", "not true", "true and false or 1",
        "'a' ~ 1 ~ none ~ nothing", "1 ~ 2", "'a' + 'b' * 2", "2 * [1]", "[1] + [2]", "[1] + (2,)", "(1,) + (2,)", "'a' + 1", "'a' * -1", "1 + none", "none + 1", "nothing + 1", "-nothing", "-'a'", "+'a'", "~1", "1 is 1", "x is y", "'a'|upper|lower", "'a'|upper()|lower()", "('a'|upper).lower()", "'a'.upper()|lower", "l|join('-')|upper", "-1|abs", "-5 + 3|abs", "2 ** 3 ** 2", "2 * 3 % 4", "1 - 2 - 3", "2 ** 3", "not 1 == 2", "1 in [1] == true", "'a' if 1 else 'b' if 0 else 'c'",
        "''.join(['a', 'b'])", "', '.join(d)", "'-'.join('abc')", "'x'.join(l)", "'a b'.split(' ')[1]", "'a-b'.split('-')|last", "'abc'.find('c')", "'%s'.__class__", "''.__class__.__mro__", "d.__len__", "(1).bit_length()", "2.5.is_integer()", "(2.0).is_integer()", "'a'.upper", "d.items", "'abc' is callable", "range is callable", "nothing is callable", "d.get is callable", "'e' in 'é'", "'日本語'|length", "'👩‍👩'|length", "'a\\x00b'|length",
        "'x'|default", "nothing|default", "nothing|default('d')", "''|default('d')", "''|default('d', true)", "none|default('d')", "none|default('d', boolean=true)", "nothing.x|default('d')", "d.zzz|default('d')", "d.zzz.y|default('d')", "l|batch(2)|map('list')|list", "l|slice(2)|map('length')|list", "l|first + 1", "'abc'|list", "'a'|attr('upper')", "d|attr('b')", "'a'|attr('zzz') is defined", "1|string + 'a'", "'<'|e", "'<'|e|e", "('<'|e) ~ '<'", "('<'|e) + '<'", "'<' + ('<'|e)", "'<'|forceescape|forceescape", "('<'|safe)|upper", "('a<'|safe).replace('a', '<')", "['<', '>'|safe]|join('&'|safe)",
        "l|pprint", "d|pprint", "users|pprint", "'word '*30|string", "('word ' * 30)|pprint", "[('word ' * 10), 'x' * 90]|pprint", "range(40)|list|pprint", "1|list", "'a'|map('upper')|list", "[1, 2, 3]|map('float')|list", "[1.5]|map('int')|list", "['1', 'x']|map('int', 9)|list", "['a']|map('replace', 'a', 'b')|list", "[' a ']|map('trim')|join", "l|map(attribute=0)|list", "[[1, 2]]|map(attribute=1)|list", "[[1, 2]]|map('first')|list",
        "{'items': 5}.items", "{'items': 5}['items']", "{'x': 1}.x", "{1: 'a'}[1]", "{1: 'a'}[1.0]", "{true: 'a'}[1]", "{'a': 1, 'a': 2}", "{[1]: 2}", "{'a': 1}['b'] is defined", "'a' in {'a': 1}", "1 in {1: 2}", "[1] in {1: 2}", "[1, 2, 3][true]", "'ab'[false]", "loop is defined", "varargs", "l is sameas l", "none is sameas none", "1.0 is sameas 1.0", "'x' is eq 'x'", "2 is divisibleby(2)", "2 is divisibleby 0", "'upper' is filter", "'zzz' is filter", "'odd' is test", "4.0 is even", "'a' is even", "1.5 is odd", "none is not none", "none is not defined", "1 is not number",
    ]  # fmt: skip


def statements():
    yield from [
        "{% for x in l %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ x }};{% endfor %}",
        "{% for x in l %}{{ loop.previtem }}{{ loop.nextitem }}{{ loop.previtem is defined }};{% endfor %}", "{% for x in [] %}a{% else %}none{% endfor %}", "{% for x in l if x > 1 %}{{ loop.index }}{{ x }}{% else %}e{% endfor %}", "{% for x in l if x > 9 %}{{ x }}{% else %}e{% endfor %}",
        "{% for x in l %}{% if x == 1 %}{% continue %}{% endif %}{{ x }}{% endfor %}", "{% for x in l %}{% if x == 1 %}{% break %}{% endif %}{{ x }}{% else %}e{% endfor %}", "{% for x in l %}{% continue %}{% else %}e{% endfor %}", "{% for x in l %}{% break %}{% else %}e{% endfor %}",
        "{% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %}", "{% for k, v in d|dictsort %}{{ k }}={{ v }};{% endfor %}", "{% for k in d %}{{ k }}{% endfor %}", "{% for a, b in [[1, 2], [3, 4]] %}{{ a }}{{ b }}{% endfor %}", "{% for a, b in [[1, 2, 3]] %}{{ a }}{% endfor %}", "{% for a, b in [[1]] %}{{ a }}{% endfor %}", "{% for a, b in [1] %}{% endfor %}",
        "{% for a, (b, c) in [[1, [2, 3]]] %}{{ a }}{{ b }}{{ c }}{% endfor %}", "{% for (a, b) in [[1, 2]] %}{{ a }}{% endfor %}", "{% for c in 'ab' %}{{ c }}{{ loop.last }}{% endfor %}", "{% for x in none %}{% endfor %}", "{% for x in nothing %}a{% else %}b{% endfor %}", "{% for x in 5 %}{% endfor %}", "{% for x in range(3) %}{{ x }}{% endfor %}",
        "{% for x in tree recursive %}{{ x.v }}({{ loop.depth }}{{ loop.depth0 }}{% if x.kids %}{{ loop(x.kids) }}{% endif %}){% endfor %}", "{% for x in l %}{{ loop(l) }}{% endfor %}", "{% for x in l %}{{ loop.cycle('a', 'b') }}{% endfor %}", "{% for x in [1, 1, 2] %}{{ loop.changed(x) }}{% endfor %}", "{% for x in l %}{% for y in l %}{{ loop.index }}{% endfor %}{{ loop.index }};{% endfor %}",
        "{% for x in l %}{% set outer = loop %}{% for y in [1] %}{{ outer.index }}{{ loop.index }}{% endfor %}{% endfor %}", "{% for x in l recursive %}{{ loop }}{% endfor %}", "{% for x in l|reverse %}{{ loop.length }}{{ loop.last }}{{ x }}{% endfor %}", "{% for x in l|map('string') %}{{ loop.revindex }}{{ x }}{% endfor %}", "{% for x in l %}{{ x }}{% endfor %}{{ x is defined }}",
        "{% set x = 1 %}{% for i in l %}{% set x = i %}{% endfor %}{{ x }}", "{% set x = 1 %}{% for i in l %}{{ x }}{% set x = i %}{{ x }};{% endfor %}", "{% set ns = namespace(x=0) %}{% for i in l %}{% set ns.x = ns.x + i %}{% endfor %}{{ ns.x }}", "{% set ns = namespace() %}{% set ns.a = [1] %}{% set ns.a = ns.a + [2] %}{{ ns.a }}{{ ns }}", "{% set d.x = 1 %}", "{% set nothing.x = 1 %}", "{% set ns = namespace(a=1) %}{% set ns._b = 2 %}",
        "{% if 1 %}{% set x = 2 %}{% endif %}{{ x }}", "{% if 0 %}{% set x = 2 %}{% endif %}{{ x is defined }}", "{% set a, b = 1, 2 %}{{ a }}{{ b }}", "{% set a, b = [1] %}", "{% set (a, b) = (1, 2) %}{{ b }}", "{% set a = 1, 2 %}{{ a }}", "{% set x %}a{{ n }}b{% endset %}{{ x }}{{ x|length }}", "{% set x | upper | trim %} ab {% endset %}[{{ x }}]", "{% set x %}{% set y = 1 %}{% endset %}{{ y is defined }}", "{% set true = 1 %}", "{% set 1 = 2 %}", "{% set messages = [] %}{{ messages|length }}",
        "{% if n == 7 %}a{% elif n == 8 %}b{% else %}c{% endif %}", "{% if not n %}a{% elif n == 7 %}b{% else %}c{% endif %}", "{% if nothing %}a{% endif %}b", "{% if nothing.x %}a{% endif %}", "{% if 1, %}a{% endif %}", "{% if n: %}a{% endif %}", "{% with %}a{% endwith %}", "{% with x = 1 %}{{ x }}{% endwith %}{{ x is defined }}", "{% with x = 1, y = x %}{{ y }}{% endwith %}", "{% set x = 5 %}{% with x = x + 1 %}{{ x }}{% endwith %}{{ x }}", "{% with a, b = 1, 2 %}{{ a }}{% endwith %}",
        "{% macro m() %}x{% endmacro %}{{ m() }}{{ m()|length }}", "{% macro m(a, b=2, c=b) %}{{ a }}{{ b }}{{ c }}{% endmacro %}{{ m(1) }}{{ m(1, 3) }}{{ m(b=5, a=4) }}", "{% macro m(a) %}{{ a is defined }}{{ a }}{% endmacro %}{{ m() }}", "{% macro m(a) %}{{ a.x }}{% endmacro %}{{ m() }}", "{% macro m(a) %}{{ a }}{% endmacro %}{{ m(1, 2) }}", "{% macro m(a) %}{{ a }}{% endmacro %}{{ m(b=1) }}", "{% macro m(a) %}{{ a }}{% endmacro %}{{ m(1, a=1) }}", "{% macro m() %}{{ varargs }}{{ kwargs }}{% endmacro %}{{ m(1, 2, x=3) }}",
        "{% macro m(a, b) %}{% endmacro %}{{ m.name }}{{ m.arguments }}{{ m.catch_kwargs }}{{ m.catch_varargs }}{{ m.caller }}", "{{ m() }}{% macro m() %}x{% endmacro %}", "{% set x = 1 %}{% macro m() %}{{ x }}{% endmacro %}{% set x = 2 %}{{ m() }}", "{% macro m() %}{% set y = 1 %}{% endmacro %}{{ m() }}{{ y is defined }}", "{% macro f(n) %}{{ n }}{% if n > 0 %}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(3) }}", "{% macro m() %}{{ caller() }}{% endmacro %}{% call m() %}body{% endcall %}", "{% macro m() %}{{ caller(1, 2) }}{% endmacro %}{% call(a, b=5) m() %}{{ a }}{{ b }}{% endcall %}",
        "{% macro m() %}{{ caller is defined }}{% endmacro %}{{ m() }}", "{% macro m() %}x{% endmacro %}{% call m() %}body{% endcall %}", "{% call m %}{% endcall %}", "{% macro m(caller) %}{{ caller() }}{% endmacro %}{% call m() %}b{% endcall %}", "{% for i in l %}{% macro m() %}{{ i }}{% endmacro %}{{ m() }}{% endfor %}", "{% macro m() %}a{% endmacro %}{{ m }}", "{% macro m(a, a) %}{% endmacro %}", "{% macro m(a=1, b) %}{% endmacro %}",
        "{% filter upper %}a{{ t }}{% endfilter %}", "{% filter replace('a', 'b')|upper %}aa{% endfilter %}", "{% raw %}{{ x }}{% endraw %}", "{% raw %}\n a {% b %}\n{% endraw %}\nc", "a {%- raw -%} x {%- endraw -%} b", "{# c #}a{# {{ x }} #}b", "a\n  {# c #}\nb", "a\n  {#- c -#}\nb", "a  {{- 1 -}}  b", "a\n{% if 1 %}\nb\n{% endif %}\nc", "  {% if 1 %}\n  b\n  {% endif %}\n", "a {% if 1 %} b {% endif %} c", "a\n  {%+ if 1 %}b{% endif %}", "{% if 1 +%}\nb{% endif %}", "a\n\n{%- if 1 -%}\n\nb{% endif %}",
        "{{ '{{' }}{{ '}}' }}", "{{ \"%}\" }}", "{% set x = '%}' %}{{ x }}", "a{{ 1 }}\n", "a{{ 1 }}\n\n", "\n\na", "{{ 1 }}\r\n{{ 2 }}\r{{ 3 }}", "{%- set x = 1 -%}\n\n{{ x }}", "{{+ 1 }}", "{{ {'a': {'b': 1}}.a.b }}", "{{ {'a': {'b': {}}} }}", "{% print 1, 2 %}", "{% print %}", "{% block a %}x{% endblock %}", "{% block a %}x{% endblock a %}{{ self.a() }}", "{% set x = 1 %}{% block a %}{{ x }}{% endblock %}", "{% for i in l %}{% block a scoped %}{{ i }}{% endblock %}{% endfor %}", "{% for i in l %}{% block a %}{{ i }}{% endblock %}{% endfor %}", "{% block a %}{% endblock %}{% block a %}{% endblock %}", "{% block a required %} {% endblock %}",
        "{% autoescape true %}{{ '<' }}{{ '<'|safe }}{% set x %}<{{ '<' }}{% endset %}{{ x }}{% endautoescape %}", "{% autoescape false %}{{ '<' }}{% endautoescape %}", "{% generation %}a{{ n }}{% endgeneration %}", "{% for m in messages %}{%- generation -%} {{ m.content }} {%- endgeneration -%}{% endfor %}", "{% generation %}{% set x = 1 %}{% endgeneration %}{{ x is defined }}", "{% for i in l %}{% generation %}{% break %}{% endgeneration %}{% endfor %}", "{% include 'x' %}", "{% extends 'x' %}", "{% import 'x' as y %}", "{% from 'x' import y %}", "{% if 0 %}{% include 'x' %}{% endif %}a",
        "{% do 1 %}", "{% debug %}", "{% trans %}a{% endtrans %}", "{% zzz %}", "{% if 1 %}", "{% endif %}", "{% for %}{% endfor %}", "{% for x %}{% endfor %}", "{{ }}", "{{ 1 + }}", "{{ (1 }}", "{{ 'a }}", "{{ 1", "{% if 1 %}{% else %}{% else %}{% endif %}", "{{ a.b.c }}", "{{ 1|zzz }}", "{% if 0 %}{{ 1|zzz }}{% endif %}a", "{% if 0 %}{% for i in l %}{{ 1|zzz }}{% endfor %}{% endif %}a", "{{ 1 if 1 else 1|zzz }}", "{{ 1|zzz if 0 else 2 }}", "{% macro m() %}{{ 1|zzz }}{% endmacro %}a", "{{ 1 is zzz }}", "{% if 0 %}{{ 1 is zzz }}{% endif %}a", "{% break %}", "{% for i in l %}{% macro m() %}{% break %}{% endmacro %}{% endfor %}",
        "{% set c = cycler('a', 'b') %}{{ c.next() }}{{ c.next() }}{{ c.next() }}{{ c.current }}{{ c.reset() }}{{ c.next() }}", "{% set j = joiner() %}{{ j() }}a{{ j() }}b{{ j() }}c", "{% set g = l|map('string') %}{{ g|first }}{{ g|join }}{{ g|list }}", "{% set g = l|select %}{{ 'y' if g else 'n' }}{{ 1 in g }}{{ g|list }}", "{{ (l|map('string')) is iterable }}{{ (l|map('string')) is sequence }}", "{{ l|map('string')|length }}", "{{ (l|map('string'))[0] is defined }}", "{% set x = 'a' %}{% set x = x ~ 'b' %}{{ x }}", "{% for m in messages %}{{ m.role }}: {{ m['content'] }}{{ m.zzz }}{{ m.get('name', '-') }}{% endfor %}",
        "{% for x in l if loop.index > 1 %}{{ x }}{% endfor %}", "{% for x in l %}{% set x = x * 2 %}{{ x }}{% endfor %}", "{% for x in l if x is odd recursive %}{{ x }}{% endfor %}", "{% set loop = 5 %}{{ loop }}", "{{ messages[0].content is string and messages[0].content|length > 1 }}", "{{ dict(messages[0], x=1).x }}", "{% set kw = {'b': 2} %}{% macro m(a, b) %}{{ a }}{{ b }}{% endmacro %}{{ m(*[1], **kw) }}", "{{ range(*[1, 4])|list }}", "{{ '%s-%s'|format(*['a', 'b']) }}", "{{ m(**{1: 2}) }}{% macro m() %}{% endmacro %}",
        "{% set a = {'x': 1} %}{% set b = dict(a, y=2) %}{{ a }}{{ b }}", "{% for k, v in {'a': 1}.items()|list %}{{ loop.last }}{% endfor %}", "{% for k, v in d.items() if v is not none %}{{ k }}{{ loop.last }}{% endfor %}", "{% for x in d.values()|list %}{{ x }}{% endfor %}", "{% if d.items() %}y{% endif %}{% if {}.items() %}n{% endif %}", "{% if range(0) %}n{% endif %}{% if range(1) %}y{% endif %}", "{{ d.keys()|list }}{{ d.keys()|join }}{{ 'b' in d.keys() }}{{ 1 in d.values() }}{{ ('b', 1) in d.items() }}", "{{ (d.keys() | list)[0] }}{{ d.keys()|first }}",
    ]  # fmt: skip
    for code in "aAbBcCdDeFgGhHIjklmMnpPrRsStTuUVwWxXyYzZ%fEOQqLNvJiKo+":
        yield "{{ strftime_now('%" + code + "') }}"
    yield from ["{{ strftime_now('" + f + "') }}" for f in ["%-d %-m %-I", "%_d|%_m|%_H", "%05d|%010Y|%3H", "%^a %^B", "%#p %#a", "%0e|%-e", "%10a|", "%Ey %Od", "a%", "%", "%%d", "%d %B %Y, %H:%M", "é%Y日"]]


def chats():
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": {"a": 1.0, "b": [None, True, "é"]}}}
    show = "{% for m in messages %}{{ m.role }}|{{ m.content }}|{{ m.content is defined }}|{{ m|tojson }}\n{% endfor %}"
    for messages in [
        [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image"}]}], [{"role": "user"}], [{"role": "user", "content": None}], [{"role": "tool", "content": {"a": [1, None]}}], [{"role": "user", "content": 7}], [{"content": "x"}],
        [{"role": "assistant", "content": "x", "tool_calls": [call]}], [{"role": "assistant", "content": "x", "tool_calls": None, "name": "n"}], [{"role": "assistant", "content": "x", "reasoning_content": "r"}], [{"role": "assistant", "content": "x", "thinking": "r"}], [{"role": "assistant", "content": "x", "reasoning": "r"}],
        [{"role": "assistant", "content": "x", "reasoning": "r", "thinking": None, "reasoning_content": ""}], [{"role": "assistant", "thinking": "t", "reasoning_content": "r"}], [],
    ]:  # fmt: skip
        yield show, messages


def render(template, messages, variables):
    variables = dict(variables)
    try:
        if not messages:
            raise ValueError("Cannot apply chat template to an empty conversation.")
        text, _ = utils.render_jinja_template(
            conversations=[utils._normalize_chat_messages(messages)], chat_template=template, tools=variables.pop("tools", None), documents=None, **TOKENS, **variables
        )
        return {"text": text[0]}
    except Exception as error:
        return {"raises": f"{type(error).__name__}: {error}".splitlines()[0][:120]}


def main():
    cases = [("{{ " + e + " }}", None) for e in expressions()] + [(s, None) for s in statements()] + list(chats())
    lines, seen = [], set()
    for template, messages in cases:
        if (template, str(messages)) in seen:
            continue
        seen.add((template, str(messages)))
        uses = {k: v for k, v in DATA.items() if re.search(rf"\b{k}\b", template)}
        case = {"template": template, **({} if messages is None else {"messages": messages}), **({"variables": uses} if uses else {})}
        found = render(template, USER if messages is None else messages, uses)
        text = found.get("text", "")
        if re.search(r"0x[0-9a-f]{8,}|\dj\)", text) or len(text) > 3000:
            continue
        lines.append(json.dumps({**case, **found}, ensure_ascii=False))
    with open(sys.argv[1], "w") as out:
        out.write("\n".join(lines) + "\n")
    print(len(lines), "cases")


if __name__ == "__main__":
    main()

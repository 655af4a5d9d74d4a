#!/usr/bin/env python3
"""Writes crates/mlx-native-lm/src/chat/golden/cases.json: what Python's jinja2, set up as transformers sets it up, makes of
the templates beside that file. Needs jinja2 3.1.6: python3 -m venv ... && pip install jinja2==3.1.6
"""

import json
from datetime import datetime, timezone
from pathlib import Path

import jinja2
from jinja2.ext import Extension
from jinja2.sandbox import ImmutableSandboxedEnvironment

FOLDER = Path(__file__).resolve().parent.parent / "crates/mlx-native-lm/src/chat/golden"
NOW = 1_709_164_745  # 2024-02-28 23:59:05
TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}


class Generation(Extension):
    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_show"), [], [], body).set_lineno(line)

    def _show(self, caller):
        return caller()


def raise_exception(message):
    raise jinja2.exceptions.TemplateError(message)


def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def render(case):
    env = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
    )
    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = lambda f: datetime.fromtimestamp(case["now"], timezone.utc).replace(tzinfo=None).strftime(f)
    template = env.from_string((FOLDER / case["template"]).read_text())
    variables = {"tools": None, "documents": None, **TOKENS, **case["variables"]}
    return template.render(
        messages=case["messages"], add_generation_prompt=case["add_generation_prompt"], **variables
    )


def say(role, content, **other):
    return {"role": role, "content": content, **other}


TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather <here> & \"now\"",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer", "default": 1}}},
    },
}
CALL = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Zürich", "days": 2}}}
SHORT = [say("user", "Hi there")]
LONG = [
    say("system", " Be brief.\n"),
    say("user", "What is <b>Rust</b>?\n"),
    say("assistant", "<think>\nThey ask.\n</think>\n\n  A language. "),
    say("user", "And 日本語 🦀?"),
]
TOOLS = [
    say("user", "Weather?"),
    say("assistant", "", reasoning_content="\nLook it up.\n", tool_calls=[CALL]),
    say("tool", "sunny"),
    say("tool", "then rain"),
    say("assistant", "<think>x</think>Sunny.", tool_calls=[CALL, {"name": "plain", "arguments": "{}"}]),
]
ODD = {
    "z": 1, "a": [], "m": {}, "f": [0.1, 1e16, 1e-5, 1.5e300, -0.0, 100.0], "t": "q\"\\\n\t\u0001\u007fé🦀</script>'",
    "n": None, "b": [True, {"x": {"y": []}}], "big": 2**63, "neg": -(2**63),
}


def cases():
    for template in ["chatml", "llama3", "mistral", "qwen3"]:
        for messages in [SHORT, LONG, LONG[:3], LONG[1:]]:
            for prompt in [False, True]:
                yield template, messages, prompt, {}
    yield "llama3", TOOLS[:2], True, {"date_string": "1 April 2024"}
    yield "llama3", [say("user", "x"), say("assistant", "", tool_calls=[CALL, CALL])], True, {}
    yield "mistral", [say("user", "a"), say("user", "b")], False, {}
    yield "mistral", [say("user", "a"), say("tool", "b")], False, {}
    for thinking in [False, True]:
        yield "qwen3", LONG, True, {"enable_thinking": thinking}
        yield "qwen3", TOOLS, thinking, {"enable_thinking": thinking}
    yield "qwen3", TOOLS, True, {"tools": [TOOL, TOOL]}
    yield "qwen3", LONG + TOOLS, True, {"tools": [TOOL]}
    parts = ["one", "skip", "two", "stop", "three"]
    yield "features", [say("system", "s")] + [say("user", p) for p in parts], True, {"variables": ODD}


def main():
    out = []
    for template, messages, prompt, variables in cases():
        case = {
            "template": template + ".jinja",
            "now": NOW,
            "messages": messages,
            "add_generation_prompt": prompt,
            "variables": variables,
        }
        try:
            case["text"] = render(case)
        except jinja2.exceptions.TemplateError as e:
            case["raises"] = str(e)
        out.append(case)
    (FOLDER / "cases.json").write_text(json.dumps(out, ensure_ascii=False, indent=1) + "\n")
    print(f"{len(out)} cases, {sum('raises' in c for c in out)} of them refusals")


main()

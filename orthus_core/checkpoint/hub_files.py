"""Files by which Hugging Face's own classes open a model folder, added to it when it is saved.

    orthus_kit.py        what `trust_remote_code` runs: imports our package, or says to install it
    chat_template.jinja  chats as the model reads them, see `data.encode`
    generation_config.json   how transformers' `generate` writes text
    config.json, processor_config.json   name our classes and that module

No code of ours is copied into the folder.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers import GenerationConfig

from orthus_core.checkpoint.headers import CONFIG
from orthus_core.checkpoint.layout import read_json
from orthus_core.model.config import OrthusConfig
from orthus_core.model.hugging_face import text_generation

MODULE = "orthus_kit"
PROCESSOR_CONFIG = "processor_config.json"
GENERATION_CONFIG = "generation_config.json"
CHAT_TEMPLATE = "chat_template.jinja"

_MODEL = f"{MODULE}.OrthusForConditionalGeneration"
AUTO_MAP = {
    "AutoConfig": f"{MODULE}.OrthusConfig",
    "AutoModel": _MODEL,
    "AutoModelForImageTextToText": _MODEL,
    "AutoModelForMultimodalLM": _MODEL,
}
PROCESSOR_MAP = {"AutoProcessor": f"{MODULE}.OrthusProcessor"}
PROCESSOR_CLASS = "OrthusProcessor"

STUB = '''"""Opens this model with the code of the package orthus-kit."""

try:
    from orthus_core import (  # noqa: F401
        OrthusConfig,
        OrthusForConditionalGeneration,
        OrthusProcessor,
    )
except ImportError as error:
    raise ImportError(
        "this model is opened by the package orthus-kit, which is not installed here or is too "
        "old: pip install -U orthus-kit"
    ) from error
'''

# A turn of the user ends with SEP, and one of the model with </s> (`data.encode`). A system's words
# are the beginning of the user's. `generation` marks what the model says, for masks of labels.
TEMPLATE = """\
{%- macro parts(content) -%}
{%- if content is string -%}{{ content }}
{%- else -%}
{%- for part in content -%}
{%- if part.type == "image" -%}<image>
{%- elif part.type == "text" -%}
{%- if loop.index0 and content[loop.index0 - 1].type == "text" %} {% endif -%}{{ part.text }}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
{%- endmacro -%}
{{- bos_token -}}
{%- for message in messages -%}
{%- if message.role == "assistant" -%}
{%- generation -%}{{ parts(message.content) }}{{ eos_token }}{%- endgeneration -%}
{%- elif message.role == "system" -%}{{ parts(message.content) }}{{ " " }}
{%- else -%}{{ parts(message.content) }}{{ sep_token }}
{%- endif -%}
{%- endfor -%}
"""


def add_hub_files(folder: Path) -> None:
    """Add to a folder with a `config.json` of an Orthus what its tokenizer and picture processor
    make possible; another folder stays as it is.
    """
    config = _table(folder / CONFIG)
    if not config or config.get("model_type") != "orthus":
        return
    if not (folder / GENERATION_CONFIG).exists():
        GenerationConfig(**text_generation(OrthusConfig(**config))).save_pretrained(folder)
    _write(folder / CONFIG, config | {"auto_map": AUTO_MAP})
    (folder / f"{MODULE}.py").write_text(STUB, encoding="utf-8")
    add_processor_files(folder)


def add_processor_files(folder: Path) -> None:
    """Add what belongs to the processor alone, where the folder has one."""
    together = _table(folder / PROCESSOR_CONFIG)
    if together is None or not (folder / "tokenizer_config.json").is_file():
        return
    named = {"processor_class": PROCESSOR_CLASS, "auto_map": PROCESSOR_MAP}
    _write(folder / PROCESSOR_CONFIG, together | named)
    (folder / f"{MODULE}.py").write_text(STUB, encoding="utf-8")
    template = folder / CHAT_TEMPLATE
    if not template.exists():
        template.write_text(TEMPLATE, encoding="utf-8")


def _table(path: Path) -> dict[str, Any] | None:
    return read_json(path) if path.is_file() else None


def _write(path: Path, table: dict[str, Any]) -> None:
    path.write_text(json.dumps(table, indent=2, sort_keys=True) + "\n", encoding="utf-8")

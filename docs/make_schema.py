"""Writes ``docs/bundle.schema.json``, the JSON Schema of ``bundle.json``, from the code that reads it.

Keys and types are those of the structs in ``adaptrt.runtime.bundle.schema``, descriptions their docstrings'.

Run it after a change to the bundle's schema, from the repository's folder: ``python docs/make_schema.py``.
"""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path
from typing import Any

import msgspec

from adaptrt.runtime.bundle.schema import FORMAT_VERSION, Bundle

SCHEMA = Path(__file__).parent / "bundle.schema.json"


def make_schema() -> str:
    """The schema as it is in the file: what types and keys there are; values have further limits (bundle_format.md)."""
    schema: dict[str, Any] = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"bundle.json of adaptrt, format {FORMAT_VERSION}",
        **msgspec.json.schema(Bundle),
    }
    definitions = schema["$defs"]
    for name, definition in definitions.items():
        text, _, attributes = inspect.cleandoc(definition.pop("description", "")).partition("\nAttributes:\n")
        definition["description"] = _plain(text)
        for key, said in _attributes(attributes).items():
            definitions[name]["properties"][key]["description"] = said
    definitions["Bundle"]["properties"]["format_version"] = {"const": FORMAT_VERSION}
    # Infinity is null, of exit thresholds alone: which knob it is no schema can say.
    for key in ("minimum", "maximum", "default"):
        definitions["Knob"]["properties"][key] = {"type": ["number", "null"]}
    number = {"type": ["number", "null"]}
    values = {"anyOf": [number, {"type": "array", "items": number}]}
    for name in ("CurvePoint", "BudgetPoint", "BudgetRow"):
        definitions[name]["properties"]["knobs"]["additionalProperties"] = values
    return json.dumps(schema, indent=2) + "\n"


def _attributes(text: str) -> dict[str, str]:
    """What a docstring says of each attribute."""
    parts = re.split(r"^ {4}(\w+): ", text, flags=re.MULTILINE)[1:]
    return {name: _plain(said) for name, said in zip(parts[::2], parts[1::2], strict=True)}


def _plain(text: str) -> str:
    return " ".join(text.replace("``", "`").split())


if __name__ == "__main__":
    SCHEMA.write_text(make_schema())
    print(f"wrote {SCHEMA.name}")

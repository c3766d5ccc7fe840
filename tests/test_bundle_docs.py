"""The specification of ``bundle.json`` says every key, and its schema is the code's."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from adaptrt.runtime.bundle import preprocessing_schema, schema

DOCS = Path(__file__).parents[1] / "docs"
FIXTURES = Path(__file__).parent / "runtime" / "fixtures"
STRUCTS = [
    value
    for module in (schema, preprocessing_schema)
    for value in vars(module).values()
    if isinstance(value, type) and issubclass(value, msgspec.Struct) and value.__module__ == module.__name__
]


@pytest.fixture(scope="module")
def schema() -> Any:
    return json.loads((DOCS / "bundle.schema.json").read_text())


def test_the_schema_is_what_its_script_makes() -> None:
    spec = importlib.util.spec_from_file_location("make_schema", DOCS / "make_schema.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert (DOCS / "bundle.schema.json").read_text() == module.make_schema(), "run python docs/make_schema.py"


def test_every_key_is_described(schema: Any) -> None:
    text = (DOCS / "bundle_format.md").read_text()
    for struct in STRUCTS:
        for field in msgspec.structs.fields(struct):
            assert f"`{field.encode_name}`" in text, f"{struct.__name__}.{field.name} is not in bundle_format.md"
    assert {struct.__name__ for struct in STRUCTS} == set(schema["$defs"])


@pytest.mark.parametrize("name", ["tiny", "exits", "tokens", "texts", "exported"])
def test_bundles_are_of_the_schema(schema: Any, name: str) -> None:
    jsonschema = pytest.importorskip("jsonschema", reason="jsonschema is not installed")
    content = json.loads((FIXTURES / name / "bundle.json").read_text())
    jsonschema.validate(content, schema)
    del content["stages"]
    with pytest.raises(jsonschema.ValidationError, match="stages"):
        jsonschema.validate(content, schema)

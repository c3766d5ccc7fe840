"""The table that the C++ library is built from, and what an op needs to be everywhere: one record."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from adaptrt.ops import FORMS, INT8_RECORDS, RECORDS, Field, OpRecord
from adaptrt.ops.activations import RELU, Activation
from adaptrt.ops.conditional_glu import conditional_glu
from adaptrt.ops.conditional_mlp import conditional_mlp
from adaptrt.plugins_trt.errors import KernelError
from adaptrt.plugins_trt.kernel_records import KERNEL_RECORDS, kernel_records
from adaptrt.plugins_trt.op_table import TABLE_FILE, op_table, table_text
from adaptrt.plugins_trt.part_plugins import PART_PLUGINS
from tests.ops import test_learner_ops
from tests.ops.implementations import assert_close, run_body_in_onnxruntime
from tests.plugins_trt import test_csrc
from tests.plugins_trt.plugin_host import CSRC

ROOT = Path(__file__).resolve().parents[2]

SQUARED_RELU = Activation(
    name="relu",  # a constant that the kernels have
    mlp="ConditionalMLPDummy",
    glu="ConditionalDummyGLU",
    formula="max({z}, 0)^2",
    reference=lambda z: np.maximum(z, 0) ** 2,
    body="  positive{n} = Relu ({z})\n  {y} = Mul (positive{n}, positive{n})",
    torch=lambda library, z: library.relu(z) ** 2,
)


def test_the_file_is_the_one_of_the_records() -> None:
    assert TABLE_FILE.read_text() == table_text(RECORDS), "run python -m adaptrt.plugins_trt.op_table"


def test_the_comparison_of_the_file_can_fail() -> None:
    fewer = {name: record for name, record in RECORDS.items() if name != "ConditionalSwiGLU"}
    assert TABLE_FILE.read_text() != table_text(fewer)


def test_plugins_are_ops_with_kernels_and_their_parts() -> None:
    names = [plugin["name"] for plugin in op_table(RECORDS)]
    assert len(names) == len(set(names))
    ops = {record.name for record in RECORDS.values() if record.parts}
    assert set(names) == ops | set(INT8_RECORDS) | set(KERNEL_RECORDS) | set(PART_PLUGINS)
    assert len(INT8_RECORDS) == len(FORMS) * len([op for op in ops if op != "SelectTokens"])
    (gated,) = [plugin for plugin in op_table(RECORDS) if plugin["name"] == "ConditionalSwiGLU"]
    assert gated["kernels"] == ["ConditionalMLPOrder", "ConditionalSwiGLUUp", "ConditionalMLPDown"]
    assert [tensor["name"] for tensor in gated["inputs"]] == ["x", "k", "w1", "b1", "v1", "c1", "w2", "b2"]
    assert [tensor["name"] for tensor in gated["scratch"]] == ["order", "running", "hidden"]


@pytest.mark.parametrize("name", [name for name, plugin in PART_PLUGINS.items() if plugin.form])
def test_forms_take_what_their_kernels_take(name: str) -> None:
    """Two descriptions, of the node and of the launch, that have to name the same tensors in the same order."""
    plugin = PART_PLUGINS[name]
    (described,) = [entry for entry in op_table(RECORDS) if entry["name"] == name]
    tensors = [(tensor["name"], tensor["axes"]) for tensor in (*described["inputs"], *described["outputs"])]
    assert tensors == [(one.name, list(one.axes)) for one in plugin.arguments if one.kind != "size"]
    dtypes = {tensor["name"]: tensor["dtype"] for tensor in (*described["inputs"], *described["outputs"])}
    kinds = dict(zip(("values", "weights", "activations"), plugin.dtypes("real"), strict=True))
    assert dtypes == {one.name: kinds.get(str(one.dtype), one.dtype) for one in plugin.arguments if one.kind != "size"}
    assert described["kernels"] == [plugin.kernel.op]


@pytest.mark.parametrize("make", [conditional_mlp, conditional_glu])
def test_a_new_row_of_activations_is_an_op_everywhere(make: object) -> None:
    dummy: OpRecord = make(SQUARED_RELU)  # type: ignore[operator]
    records = {**RECORDS, dummy.name: dummy}
    # The body computes the reference.
    inputs = dummy.make_inputs(dummy.cases[0], np.random.default_rng(0), "float32")
    assert_close(dummy, run_body_in_onnxruntime(dummy, inputs, {}), dummy.expected(inputs), "float32")
    assert dummy.body(learners=2).name == dummy.name
    # What the tests run over.
    assert dummy in test_learner_ops.learner_ops(records)
    runs = {name.__name__ for record, name in test_learner_ops.implementations(records) if record is dummy}
    assert len(runs) == 4 and "run_reference" in runs
    assert dummy in test_csrc.learner_ops(records)
    # Kernels, and the C++ library's table.
    up = kernel_records(records)[f"{dummy.name}Up"]
    assert up.constants == {"ACTIVATION": "relu"}
    assert up.entry == ("conditional_glu_up" if "v1" in inputs else "conditional_mlp_up")
    new = [plugin["name"] for plugin in op_table(records)]
    added = [name for name in new if name not in {plugin["name"] for plugin in op_table(RECORDS)}]
    assert added == [f"{dummy.name}{part}{form}" for part in ("", "Up") for form in ("", "W8A16", "W8A8")]
    assert f'"name": "{dummy.name}"' in table_text(records)


def cpp_of(folder: Path, records: dict[str, OpRecord]) -> str:
    """What ``embed_kernels.py`` makes of a table, in a process without any package."""
    (folder / "embed_kernels.py").write_text((CSRC / "embed_kernels.py").read_text())
    (folder / "ops.json").write_text(table_text(records))
    code = "import sys; sys.path.insert(0, sys.argv[1]); import embed_kernels as e; "
    code += "print('\\n'.join(e.contracts_text(e.read_ops()))); print(sorted(e.versions()))"
    words = [sys.executable, "-S", "-I", "-c", code, folder]
    return subprocess.run(words, capture_output=True, text=True, check=True, timeout=60).stdout


def test_a_new_op_is_in_the_generated_source(tmp_path: Path) -> None:
    dummy = conditional_mlp(SQUARED_RELU)
    text = cpp_of(tmp_path, {**RECORDS, dummy.name: dummy})
    assert (
        'OpContract{"ConditionalMLPDummy", 1, {TensorRule{"x", TypeRule::kReal, {AxisRule{"T"}, AxisRule{"D"}}}' in text
    )
    assert '{"ConditionalMLPOrder", "ConditionalMLPDummyUp", "ConditionalMLPDown"}' in text
    assert "'ConditionalMLPDummyUp'" in text and "'ConditionalMLPDummy'," not in text
    assert "ConditionalMLPDummy" not in cpp_of(tmp_path, RECORDS)


def test_a_missing_table_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "embed_kernels.py").write_text((CSRC / "embed_kernels.py").read_text())
    (tmp_path / "manifest.json").write_text(
        json.dumps({"format_version": 1, "source_sha256": "0" * 64, "kernels": [{}]})
    )
    words = [sys.executable, "-S", "-I", tmp_path / "embed_kernels.py", tmp_path]
    words += ["--source", tmp_path / "kernels.cpp", "--images", tmp_path / "kernels.bin"]
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    manifest["kernels"] = [{"op": "X", "entry": "x", "variant": "any", "version": 1}]
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert "ops.json" in done.stderr and "copy all of csrc" in done.stderr


def test_parts_that_disagree_are_refused() -> None:
    record = RECORDS["ConditionalMLPRelu"]
    order = replace(record.parts[0], sizes=("T",))
    other = replace(record, name="Other", parts=(order, *record.parts[1:]))
    with pytest.raises(KernelError, match="got two different parts ConditionalMLPOrder"):
        kernel_records({**RECORDS, "Other": other})
    unknown = replace(record, parts=(replace(record.parts[0], name="Odd", kernel="no_such_kernel"),))
    with pytest.raises(KernelError, match="got kernel no_such_kernel of Odd, expected one of conditional_mlp_order"):
        op_table({"Other": unknown})


def test_every_kernel_file_is_of_an_op_and_has_its_arguments() -> None:
    pytest.importorskip("triton", reason="triton is not installed: install adaptrt[kernels]")
    for record in KERNEL_RECORDS.values():
        names = [argument.name for argument in record.arguments]
        taken = record.function().arg_names
        assert list(taken) == [*names, *record.blocks, *record.constants]


def test_fields_of_one_dtype_are_no_numbers_of_the_op() -> None:
    (order,) = [plugin for plugin in op_table(RECORDS) if plugin["name"] == "ConditionalMLPOrder"]
    assert {tensor["dtype"] for tensor in (*order["inputs"], *order["outputs"])} == {"int32"}
    assert Field("x", ("float32", "float16"), ("T",)) != Field("x", ("float32",), ("T",))


def test_the_readme_lists_every_op_and_its_kernels() -> None:
    text = (ROOT / "plugins_trt" / "README.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| (.+?) \| (.+?) \|$", text, re.MULTILINE)
    listed = {name: (summary, files) for name, summary, files in rows}
    wanted = {
        record.name: (
            f"`{record.summary}`",
            ", ".join(f"`{part.kernel}`" for part in record.parts) or "none: its portable body",
        )
        for record in RECORDS.values()
    }
    assert listed == wanted
    assert len(RELU.formula) > 0

"""The whole of ``make gpu-check`` at tiny sizes, with kernels where they run here and clocks made up."""

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("triton", reason="triton is not installed: install adaptrt[kernels]")
from triton.runtime.errors import OutOfResources

from adaptrt.bench import gpu_check
from adaptrt.bench.gpu import engine as gpu_engine
from adaptrt.bench.gpu import reference as gpu_reference
from adaptrt.bench.gpu import time as gpu_time
from adaptrt.bench.gpu import tune as gpu_tune
from adaptrt.bench.gpu.reference import TINY_CASES, Check, Sizes
from adaptrt.bench.gpu.time import Call, Milliseconds, MLPShape, Rates
from adaptrt.ops import RECORDS
from adaptrt.plugins_trt import launch
from adaptrt.plugins_trt.kernel_records import KERNEL_RECORDS, LAYOUTS, KernelRecord
from tests.ops.kernels import DEVICE

SHAPE = MLPShape(width=32, learners=4, hidden=16)
ROOT = Path(__file__).parents[2]


def timer(calls: Mapping[str, Call]) -> dict[str, list[float]]:
    """Runs every call once and gives it a time: its share for an adaptive one, 1 for others."""
    for call in calls.values():
        call()
    shares = {name: float(name.removeprefix("share ")) for name in calls if name.startswith("share ")}
    return {name: [0.1 + 0.9 * shares[name]] * 2 if name in shares else [1.0, 1.5] for name in calls}


def plan(cases: tuple[Sizes, ...] = TINY_CASES) -> gpu_check.Plan:
    return gpu_check.Plan(DEVICE, timer, cases, SHAPE, (20, 150), (1.0, 0.5, 0.1), rate_size=32)


_BYTES = ("int8", "int8int8")  # weights, weights and activations


@pytest.fixture(scope="module")
def result() -> gpu_check.Result:
    return gpu_check.run(plan(), {"name": "made up"}, launch.choose_configuration, lambda _line: None)


def test_every_kernel_dtype_and_kind_of_weights_is_checked(result: gpu_check.Result) -> None:
    assert all(check.passed for check in result.checks)
    assert {check.weights for check in result.checks if check.activations} == {"int8"}
    kinds = {(check.kernel, check.dtype, check.weights + check.activations) for check in result.checks}
    dtypes = ("float32", "float16", "bfloat16")
    assert kinds == {
        ("ConditionalMLPOrder", "int32", "int32"),
        *((op, dtype, kind) for op in ("ConditionalMLP", "ConditionalGeGLU") for dtype in dtypes for kind in _BYTES),
        *((op.name, dtype, dtype) for op in gpu_reference.LEARNER_OPS for dtype in dtypes),
        *(("SelectTokens", dtype, dtype) for dtype in dtypes),
    }


def test_the_table_and_the_json_hold_what_was_measured(result: gpu_check.Result) -> None:
    assert [row.tokens for row in result.rows] == [20] * 3 + [150] * 3
    full = result.rows[3]
    assert full.share == 1 and full.dense.median == 1.25 and full.adaptive.median == 1
    assert full.efficiency == pytest.approx(1.25)
    content = json.loads(gpu_check.encode(result))
    assert content["rows"][3]["efficiency"] == pytest.approx(1.25)
    assert content["device"] == {"name": "made up"} and "command" in content["source"]
    assert "overwritten" in content["method"]
    printed = gpu_check.table(result)
    assert "100.0%" in printed and "1.25" in printed and "R^2" in printed and "made up" in printed


def test_a_wrong_kernel_is_named_and_nothing_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    right = gpu_reference.mlp_reference
    monkeypatch.setattr(gpu_reference, "mlp_reference", lambda inputs: right(inputs) + 0.5)
    said: list[str] = []
    result = gpu_check.run(plan(TINY_CASES[2:3]), {}, launch.choose_configuration, said.append)
    assert not result.rows and not all(check.passed for check in result.checks)
    assert said[0].startswith("WRONG ConditionalMLP float32 float32: Sizes(T=37")
    assert json.loads(gpu_check.encode(result))["rows"] == []


@pytest.mark.parametrize(("kernel", "place"), [("select_tokens", 1), ("select_tokens", 2), ("launch", None)])
def test_exact_comparisons_can_fail(kernel: str, place: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    choose = launch.choose_configuration
    if place is None:
        monkeypatch.setattr(launch, "launch", lambda *_args, **_options: None)  # memory stays poisoned
        assert not gpu_reference.check_order(TINY_CASES[2], DEVICE, choose).passed
        return
    right = getattr(launch, kernel)

    def wrong(*arguments: object, **options: object) -> list[torch.Tensor]:
        outputs = list(right(*arguments, **options))
        outputs[place] = outputs[place] + 1
        return outputs

    monkeypatch.setattr(launch, kernel, wrong)
    assert not gpu_reference.check_selection((2, 9, 4), (0, 9), "float32", DEVICE, choose).passed


def test_what_is_no_number_is_no_small_distance() -> None:
    assert not Check("", "", "", "", float("nan")).passed
    distance = gpu_reference._distance(torch.tensor([torch.nan, 1.0]), torch.ones(2), 1e-2)
    assert distance == float("inf")


def test_the_floor_counts_the_work_that_is_done() -> None:
    shape = MLPShape(width=10, learners=2, hidden=5)
    slow_memory, slow_products = Rates(1e3, 1e30), Rates(1e30, 1e3)
    # x 3 rows, w1 once, hidden 3 rows; hidden, w2, y 4 rows; k and order of 4 tokens.
    numbers = (3 * 10 + 50 + 15) + (15 + 50 + 40)
    assert gpu_time.floor_ms(shape, [3, 0], 4, slow_memory) == pytest.approx(2 * numbers + 32)
    assert gpu_time.floor_ms(shape, [3, 1], 4, slow_products) == pytest.approx(2 * 2 * 4 * 50)
    assert gpu_time.floor_ms(shape, [0, 0], 0, slow_memory) == 0


def test_linearity_is_one_on_a_line_only() -> None:
    def rows(times: Sequence[float]) -> list[gpu_time.Row]:
        one = Milliseconds(1, 1, 1)
        return [
            gpu_time.Row(1, share, one, Milliseconds(time, time, time), 0, 1)
            for share, time in zip((1, 0.5, 0.25), times, strict=True)
        ]

    assert gpu_time.determination(rows([1.1, 0.6, 0.35])) == pytest.approx(1)
    assert gpu_time.determination(rows([1.1, 1.0, 0.35])) < 0.9


def test_dense_and_adaptive_compute_the_same() -> None:
    weights = gpu_time.draw_weights(SHAPE, torch.float32, DEVICE)
    x = torch.randn(30, SHAPE.width, device=DEVICE)
    adaptive = launch.conditional_mlp(x, gpu_time.draw_decisions(SHAPE, 30, 1.0, DEVICE), **weights)
    for call in gpu_time.dense_calls(x, weights).values():
        torch.testing.assert_close(call(), adaptive, rtol=1e-4, atol=1e-4)


def test_every_kernel_file_with_candidates_is_tuned() -> None:
    with_candidates = {name for name, layout in LAYOUTS.items() if layout.configurations.candidates}
    tuned = [record.entry for _, records in gpu_tune.tuned_kernels().values() for record in records]
    assert sorted(tuned) == sorted(with_candidates)
    assert "conditional_glu_up" in tuned


def test_candidates_are_timed_and_sorted(monkeypatch: pytest.MonkeyPatch) -> None:
    kernels = [record for _, records in gpu_tune.tuned_kernels().values() for record in records]
    few = {record.op: record.layout.configurations.candidates[-2:] for record in kernels}
    launched: list[tuple[str, set[str]]] = []
    right = launch.launch

    def noted(record: KernelRecord, tensors: Mapping[str, torch.Tensor], **options: Any) -> None:
        launched.append((record.op, set(tensors)))
        right(record, tensors, **options)

    def slowest_first(calls: Mapping[str, Call]) -> dict[str, list[float]]:
        return {name: [float(len(calls) - place)] for place, name in enumerate(calls)}

    monkeypatch.setattr(launch, "launch", noted)
    found = list(gpu_tune.tune(SHAPE, (20,), (0.5,), slowest_first, DEVICE, few))
    assert [entry["op"] for entry in found] == ["ConditionalMLPUp", "ConditionalMLPDown", "ConditionalGeGLUUp"]
    for entry in found:
        first, second = few[entry["op"]]
        assert entry["ms"] == {second.name: 1, first.name: 2} and next(iter(entry["ms"])) == second.name
        assert [op for op, _ in launched].count(entry["op"]) == 2
    (gated,) = {frozenset(tensors) for op, tensors in launched if op == "ConditionalGeGLUUp"}
    assert gated == {"x", "order", "running", "w1", "b1", "v1", "c1", "hidden"}


def test_weights_are_drawn_for_each_op_by_its_record() -> None:
    """Those that a gated op has beside the others' come in the op's order; the first ones stay what they were."""
    plain, gated = (
        gpu_time.draw_weights(SHAPE, torch.float32, DEVICE, RECORDS[name])
        for name in ("ConditionalMLP", "ConditionalSwiGLU")
    )
    assert list(plain) == ["w1", "b1", "w2", "b2"] and list(gated) == ["w1", "b1", "v1", "c1", "w2", "b2"]
    for weights in (plain, gated):
        learners, width, hidden = weights["w1"].shape
        assert (learners, width, hidden) == (4, 32, 16) and weights["w2"].shape == (4, 16, 32)
        for matrix, summed in ((weights["w1"], width), (weights["w2"], learners * hidden)):
            assert float(matrix.std()) == pytest.approx(summed**-0.5, rel=0.1)
    torch.testing.assert_close(plain["w1"], gated["w1"], rtol=0, atol=0)
    assert gated["v1"].shape == gated["w1"].shape and not torch.equal(gated["v1"], gated["w1"])


def test_candidates_that_do_not_fit_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    few = {record.op: record.layout.configurations.candidates[-2:] for record in KERNEL_RECORDS.values()}
    right = launch.launch

    def small_memory(record: KernelRecord, tensors: Mapping[str, torch.Tensor], **options: Any) -> None:
        choose = options.get("choose")
        if choose is not None and choose() == few[record.op][0]:
            raise OutOfResources(2, 1, "shared memory")
        right(record, tensors, **options)

    monkeypatch.setattr(launch, "launch", small_memory)
    found = list(gpu_tune.tune(SHAPE, (20,), (0.5,), timer, DEVICE, few))
    assert [list(entry["ms"]) for entry in found] == [[few[entry["op"]][1].name] for entry in found]


@pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx_bindings") is None and importlib.util.find_spec("tensorrt_rtx") is None,
    reason="TensorRT-RTX is not installed",
)
def test_tensorrt_rtx_parses_the_portable_body() -> None:
    module, reason = gpu_engine.import_engine()
    assert module is not None, reason
    logger = module.Logger(module.Logger.ERROR)
    builder = module.Builder(logger)
    network = builder.create_network(0)  # the parser does not keep it alive
    parser = module.OnnxParser(network, logger)
    model = gpu_engine.body_model(SHAPE, gpu_time.draw_weights(SHAPE, torch.float16, "cpu"))
    assert parser.parse(model), [parser.get_error(number).desc() for number in range(parser.num_errors)]


def test_a_machine_without_tensorrt_rtx_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_engine, "_MODULES", ("no_such_engine",))
    assert gpu_engine.build_here(SHAPE, 8) == (
        None,
        None,
        "TensorRT-RTX was not tried: No module named 'no_such_engine'",
    )


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_gpu_it_ends_in_one_line_and_exit_code_2() -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(
        [sys.executable, "-m", "adaptrt.bench.gpu_check"], capture_output=True, text=True, cwd=ROOT, env=environment
    )
    assert done.returncode == 2 and not done.stdout
    assert done.stderr.startswith("error: got no CUDA device") and len(done.stderr.splitlines()) == 1


def test_it_imports_nothing_but_torch_and_triton() -> None:
    code = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] in {'onnx', 'onnxruntime', 'rich', 'click', 'msgspec', 'PIL', 'matplotlib'}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Refuse())
from adaptrt.bench import gpu_check
from adaptrt.bench.gpu import engine as gpu_engine
from adaptrt.bench.gpu import reference as gpu_reference
from adaptrt.bench.gpu import time as gpu_time
from adaptrt.bench.gpu import tune as gpu_tune
print(gpu_check.missing())
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr

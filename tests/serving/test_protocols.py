"""Both protocols, with Triton's clients: answers are those of ``model.run``, bit for bit."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
from tritonclient.utils import InferenceServerException

from adaptrt.runtime import AdaptiveModel, Budget, load
from adaptrt.runtime.control.budget_text import parse_budget
from tests.conformance import check
from tests.conformance.kit import KIT, ArrayReader, read_json
from tests.runtime.staged_reference import eighths
from tests.serving.server_process import FIXTURES, ServerProcess, tiny

pytestmark = pytest.mark.slow("starts servers")

BOTH = pytest.mark.parametrize("triton", [tritonclient.http, tritonclient.grpc], ids=["http", "grpc"])
DTYPES = {"float32": "FP32", "int64": "INT64", "int32": "INT32", "bool": "BOOL"}


def client(triton: ModuleType, server: ServerProcess) -> Any:
    if triton is tritonclient.http:
        return triton.InferenceServerClient(server.http, connection_timeout=120, network_timeout=120)
    return triton.InferenceServerClient(server.grpc)


def tensors(triton: ModuleType, arrays: dict[str, Any], binary: bool = True) -> list[Any]:
    given = []
    for name, array in arrays.items():
        one = triton.InferInput(name, list(array.shape), DTYPES[str(array.dtype)])
        if triton is tritonclient.http:
            one.set_data_from_numpy(array, binary_data=binary)
        else:
            one.set_data_from_numpy(array)
        given.append(one)
    return given


def parameters(answer: Any) -> dict[str, Any]:
    response = answer.get_response()
    if isinstance(response, dict):
        return dict(response["parameters"])
    return {name: getattr(one, one.WhichOneof("parameter_choice")) for name, one in response.parameters.items()}


@BOTH
def test_health_and_metadata(triton: ModuleType, server: ServerProcess) -> None:
    asking = client(triton, server)
    assert asking.is_server_live() and asking.is_server_ready() and asking.is_model_ready("exits")
    told: Any = asking.get_model_metadata("exits")
    if triton is tritonclient.grpc:
        told = {"inputs": [{"name": one.name, "shape": list(one.shape)} for one in told.inputs]}
    shapes = {one["name"]: one["shape"] for one in told["inputs"]}
    assert shapes == {"x": [-1, 6], "hint": [-1, 2], "scale": [1]}
    with pytest.raises(InferenceServerException, match="nobody"):
        asking.get_model_metadata("nobody")


def test_the_server_says_what_it_is(server: ServerProcess) -> None:
    assert server.get("/v2").json()["name"] == "adaptrt"
    assert "tiny" in server.get("/v2/models").json()["models"]
    outputs = {one["name"]: one for one in server.get("/v2/models/exits").json()["outputs"]}
    assert outputs["exit"] == {"name": "exit", "datatype": "INT64", "shape": [-1]}


@BOTH
@pytest.mark.parametrize("budget", ["full", "45%", "20%", "30000ms"])
def test_answers_are_those_of_the_model(triton: ModuleType, budget: str, server: ServerProcess) -> None:
    model, x = load(FIXTURES / "tiny", threads=1), eighths(3, 7, 4)
    answer = client(triton, server).infer("tiny", tensors(triton, {"x": x}), parameters={"budget": budget})
    asked = Budget.full() if budget.endswith("ms") else parse_budget(budget)  # so much time is enough for everything
    result = model.run({"x": x}, budget=asked)
    assert np.array_equal(answer.as_numpy("logits"), result.outputs["logits"])
    assert np.array_equal(answer.as_numpy("macs_fraction"), result.macs_fraction)
    told = parameters(answer)
    assert told["budget"] == budget and told["reachable"] is True and told["batch"] == 7
    assert json.loads(told["knobs"]) == result.knobs
    assert float(told["macs_fraction"]) == pytest.approx(float(result.macs_fraction.mean()))


@BOTH
def test_exits_and_deadlines(triton: ModuleType, server: ServerProcess) -> None:
    model = load(FIXTURES / "exits", threads=1)
    arrays = {"x": eighths(41, 5, 6), "hint": eighths(42, 5, 2), "scale": np.ones(1, np.float32)}
    answer = client(triton, server).infer("exits", tensors(triton, arrays), parameters={"budget": "60%"})
    result = model.run(arrays, budget=Budget.fraction(0.6))
    assert result.exit is not None and np.array_equal(answer.as_numpy("exit"), result.exit)
    assert parameters(answer)["exit"] == ",".join(map(str, result.exit.tolist()))
    answer = client(triton, server).infer("exits", tensors(triton, arrays), parameters={"deadline_ms": "0.0001"})
    assert answer.as_numpy("exit").tolist() == [0] * 5 and parameters(answer)["deadline_met"] is False


@BOTH
@pytest.mark.parametrize("budget", ["nan%", "80", "-3ms", "soon"])
def test_budgets_that_are_none(triton: ModuleType, budget: str, server: ServerProcess) -> None:
    with pytest.raises(InferenceServerException, match="got .*expected"):
        client(triton, server).infer("tiny", tensors(triton, {"x": eighths(3, 1, 4)}), parameters={"budget": budget})
    assert server.post("tiny", tiny("45%")).status_code == 200


@BOTH
@pytest.mark.parametrize(
    ("name", "shape", "dtype", "what"),
    [
        ("y", (1, 4), "float32", "got 'y', expected exactly 'x'"),
        ("x", (1, 5), "float32", r"got float32 \[1, 5\], expected float32 \[batch, 4\]"),
        ("x", (4,), "float32", r"got float32 \[4\], expected"),
        ("x", (1, 4), "int64", r"got int64 \[1, 4\], expected float32"),
    ],
)
def test_arrays_that_the_model_does_not_take(
    triton: ModuleType, name: str, shape: tuple[int, ...], dtype: str, what: str, server: ServerProcess
) -> None:
    with pytest.raises(InferenceServerException, match=what) as caught:
        client(triton, server).infer("tiny", tensors(triton, {name: np.zeros(shape, dtype)}))
    assert "Traceback" not in str(caught.value) and "/" not in str(caught.value)


@BOTH
def test_values_that_are_not_finite_are_refused(triton: ModuleType, server: ServerProcess) -> None:
    with pytest.raises(InferenceServerException, match=r"got nan at \[0, 0\], expected finite numbers"):
        client(triton, server).infer("tiny", tensors(triton, {"x": np.full((1, 4), np.nan, np.float32)}))


@BOTH
def test_what_is_not_there(triton: ModuleType, server: ServerProcess) -> None:
    given = tensors(triton, {"x": eighths(3, 1, 4)})
    with pytest.raises(InferenceServerException, match="got model 'nobody', expected tiny"):
        client(triton, server).infer("nobody", given)
    wanted = [triton.InferRequestedOutput("classes")]
    with pytest.raises(InferenceServerException, match="got output 'classes', expected some of logits"):
        client(triton, server).infer("tiny", given, outputs=wanted)
    only = client(triton, server).infer("tiny", given, outputs=[triton.InferRequestedOutput("logits")])
    assert only.as_numpy("logits").shape == (1, 3) and only.as_numpy("macs_fraction") is None


@BOTH
def test_a_fraction_over_grpc_has_to_be_a_text(triton: ModuleType, server: ServerProcess) -> None:
    arrays = {"x": eighths(41, 1, 6), "hint": eighths(42, 1, 2), "scale": np.ones(1, np.float32)}
    ask = lambda: client(triton, server).infer("exits", tensors(triton, arrays), parameters={"deadline_ms": 900.5})  # noqa: E731
    if triton is tritonclient.http:
        assert "deadline_met" in parameters(ask())
    else:
        with pytest.raises(InferenceServerException, match="expected a text over gRPC"):
            ask()


def test_typed_contents_over_grpc(server: ServerProcess) -> None:
    import grpc
    from tritonclient.grpc import service_pb2, service_pb2_grpc

    with grpc.insecure_channel(server.grpc) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        request = service_pb2.ModelInferRequest(model_name="tiny", id="7")
        one = request.inputs.add(name="x", datatype="FP32", shape=[1, 4])
        one.contents.fp32_contents.extend([0.5, 1.0, -1.0, 2.0])
        response = stub.ModelInfer(request)
        assert response.id == "7" and len(response.outputs[0].contents.fp32_contents) == 3
        one.contents.fp32_contents.append(1.0)
        for change in (lambda: None, lambda: request.raw_input_contents.extend([b"1", b"2"])):
            change()
            with pytest.raises(grpc.RpcError) as caught:
                stub.ModelInfer(request)
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT and "expected" in caught.value.details()
        for name in ("RepositoryModelUnload", "RepositoryModelLoad"):
            with pytest.raises(grpc.RpcError) as caught:
                getattr(stub, name)(getattr(service_pb2, f"{name}Request")(model_name="tiny"))
            assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_nobody_can_unload_a_model(server: ServerProcess) -> None:
    import httpx

    for path in ("/v2/repository/models/tiny/unload", "/v1/models/tiny:predict", "/docs", "/openapi.json"):
        assert httpx.post(f"http://{server.http}{path}", content=b"{}").status_code in (404, 405)


@BOTH
def test_64_clients(triton: ModuleType, server: ServerProcess) -> None:
    model = load(FIXTURES / "tiny", threads=1)

    def ask(number: int) -> bool:
        budget = ("full", "45%", "20%", "20000ms")[number % 4]
        x = eighths(number, 1 + number % 3, 4)
        with client(triton, server) as own:
            for _ in range(3):
                answer = own.infer("tiny", tensors(triton, {"x": x}), parameters={"budget": budget})
                knobs = json.loads(parameters(answer)["knobs"])
                if not np.array_equal(answer.as_numpy("logits"), model.run({"x": x}, knobs=knobs).outputs["logits"]):
                    return False
        return True

    with ThreadPoolExecutor(64) as pool:
        assert all(pool.map(ask, range(64)))


@BOTH
@pytest.mark.parametrize("name", [entry["name"] for entry in read_json(KIT / "index.json")["cases"]])
def test_the_conformance_kit(triton: ModuleType, name: str, server: ServerProcess) -> None:
    content = read_json(KIT / "cases" / f"{name}.json")
    arrays = ArrayReader((KIT / "cases" / content["arrays"]).read_bytes())
    inputs, compared = arrays.get_all(content["inputs"]), 0
    bundle = load(KIT / content["bundle"], threads=1)
    with client(triton, server) as own:
        for run in content["runs"]:
            if "budget" not in run:
                continue
            kind, value = run["budget"]["kind"], run["budget"].get("value")
            text = {"fraction": f"{value!r}", "macs": f"{value!r}MACs", "full": "full"}[kind]
            named = {"budget": text, **({"hard": True} if run["budget"].get("hard") else {})}
            for rows in (slice(None), slice(2, 3), slice(0, 0), slice(1, 6)):
                fewer = {key: a[rows] if key in content["batch"] else a for key, a in inputs.items()}
                answer = own.infer(bundle.bundle.name, tensors(triton, fewer), parameters=named)
                _check(bundle, answer, run["expected"], arrays, rows)
                compared += 1
    assert compared


def _check(model: AdaptiveModel, answer: Any, expected: Any, arrays: ArrayReader, rows: slice) -> None:
    told = parameters(answer)
    assert told["reachable"] is expected["reachable"]
    for name, wanted in arrays.get_all(expected["outputs"]).items():
        limit = check.FLOATS if wanted.dtype.kind == "f" else 0
        got = answer.as_numpy(name)
        assert got.shape == wanted[rows].shape and np.allclose(got, wanted[rows], rtol=limit, atol=limit)
    work = arrays.get(expected["macs_fraction"])[rows]
    assert np.allclose(answer.as_numpy("macs_fraction"), work, rtol=0, atol=check.WORK)
    if expected["exit"] is not None:
        assert answer.as_numpy("exit").tolist() == expected["exit"][rows]
    assert model.bundle.name

"""ConditionalMLP's portable body as a TensorRT-RTX engine, where its wheels and onnx are there.

TensorRT-RTX takes no plugins, so what it builds is the body: the time that the kernels are to beat there.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from typing import Any

import torch

from adaptrt.bench.gpu.time import Call, MLPShape, draw_weights

_MODULES = ("tensorrt_rtx", "tensorrt_rtx_bindings")


def import_engine() -> tuple[Any, str]:
    """TensorRT-RTX's module, or None and why there is none."""
    name = next((name for name in _MODULES if importlib.util.find_spec(name) is not None), _MODULES[0])
    try:
        return importlib.import_module(name), ""
    except (ImportError, OSError) as error:
        return None, f"TensorRT-RTX was not tried: {str(error).splitlines()[0]}"


def body_model(shape: MLPShape, weights: Mapping[str, torch.Tensor]) -> bytes:
    """The ONNX model of one ConditionalMLP, its body inlined, float16, tokens dynamic.

    Raises:
        ImportError: onnx is missing.
    """
    from onnx import TensorProto, helper, inliner, numpy_helper

    from adaptrt.ops import CONDITIONAL_MLP, DOMAIN, OPSET_VERSION
    from adaptrt.ops.record import IR_VERSION, ONNX_OPSET

    names = [field.name for field in CONDITIONAL_MLP.inputs]
    rows: list[str | int | None] = ["tokens", shape.width]
    graph = helper.make_graph(
        [helper.make_node("ConditionalMLP", names, ["y"], domain=DOMAIN)],
        "conditional_mlp",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT16, rows),
            helper.make_tensor_value_info("k", TensorProto.INT32, ["tokens"]),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT16, rows)],
        [numpy_helper.from_array(weight.cpu().numpy(), name) for name, weight in weights.items()],
    )
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", ONNX_OPSET), helper.make_opsetid(DOMAIN, OPSET_VERSION)],
        functions=[CONDITIONAL_MLP.body(shape.learners)],
        ir_version=IR_VERSION,
    )
    inlined: bytes = inliner.inline_local_functions(model).SerializeToString()
    return inlined


def build_engine(engine: Any, model: bytes, shape: MLPShape, most_tokens: int) -> Any:
    """Build an engine for 1 to ``most_tokens`` tokens; the serialised engine, or an error with its reasons.

    Raises:
        RuntimeError: TensorRT-RTX refuses the model.
    """
    logger = engine.Logger(engine.Logger.ERROR)
    builder = engine.Builder(logger)
    network = builder.create_network(0)
    parser = engine.OnnxParser(network, logger)
    if not parser.parse(model):
        reasons = [parser.get_error(number).desc() for number in range(parser.num_errors)]
        raise RuntimeError("; ".join(reasons) or "the parser gives no reason")
    config, profile = builder.create_builder_config(), builder.create_optimization_profile()
    profile.set_shape("x", (1, shape.width), (most_tokens, shape.width), (most_tokens, shape.width))
    profile.set_shape("k", (1,), (most_tokens,), (most_tokens,))
    config.add_optimization_profile(profile)
    built = builder.build_serialized_network(network, config)
    if built is None:
        raise RuntimeError("the builder gives no engine")
    return built


def engine_call(engine: Any, built: Any, x: torch.Tensor, k: torch.Tensor) -> tuple[Call, torch.Tensor]:
    """The call that runs a built engine on the current stream, and the tensor that it writes."""
    loaded = engine.Runtime(engine.Logger(engine.Logger.ERROR)).deserialize_cuda_engine(built)
    context = loaded.create_execution_context()
    y = torch.full_like(x, float("nan"))
    context.set_input_shape("x", tuple(x.shape))
    context.set_input_shape("k", tuple(k.shape))
    for name, tensor in (("x", x), ("k", k), ("y", y)):
        context.set_tensor_address(name, tensor.data_ptr())

    def run(_alive: Any = loaded) -> None:
        if not context.execute_async_v3(torch.cuda.current_stream().cuda_stream):
            raise RuntimeError("the engine does not run")

    return run, y


def build_here(shape: MLPShape, most_tokens: int) -> tuple[Any, Any, str]:
    """The module, a built engine and what is to be said about them; no engine, and why, where there is none."""
    module, reason = import_engine()
    if module is None:
        return None, None, reason
    try:
        model = body_model(shape, draw_weights(shape, torch.float16, "cpu"))
        built = build_engine(module, model, shape, most_tokens)
    except (ImportError, RuntimeError, TypeError, AttributeError) as error:
        return None, None, f"TensorRT-RTX was not run: {' '.join(str(error).split())[:300]}"
    return module, built, f"TensorRT-RTX {module.__version__} built the portable body"

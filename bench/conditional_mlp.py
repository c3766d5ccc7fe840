"""How closely the time of one ConditionalMLP follows its work, against the dense FFN it replaces.

``python -m adaptrt.bench.conditional_mlp``: Network-B's FFN (768 -> 3072 -> 768) with four learners in ONNX
Runtime; ``--op`` names one with another activation or gates. Efficiency is the share of the work done over
the share of the dense time taken: 1 is proportional, above 1 is better than that.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from rich.table import Table

from adaptrt.bench.reports.console import json_option, run_command, show, show_progress
from adaptrt.bench.timing.interleave import Case, Spread, interleave, runs_per_turn
from adaptrt.bench.timing.machine import describe_machine, describe_source
from adaptrt.bench.timing.session_process import Array, SessionProcess
from adaptrt.ops import ACTIVATIONS, CONDITIONAL_MLP, DOMAIN, OPSET_VERSION, RECORDS, OpRecord
from adaptrt.ops import Case as OpCase
from adaptrt.ops.activations import Activation
from adaptrt.ops.body import parse_body
from adaptrt.ops.learner_cases import draw_weights as draw_op_weights
from adaptrt.ops.record import IR_VERSION, ONNX_OPSET

ACTIVATION_OF: dict[str, Activation] = {
    name: row for row in ACTIVATIONS.values() for name in (row.mlp, row.glu) if name
}
"""The ops that can be measured, with their activations."""

DENSE = "dense"
SHARES = (1.0, 0.75, 0.5, 0.25)
_DRAWS = 3  # decisions drawn for each binomial case: how they fall on the tokens matters a little
_TURN_SECONDS = 0.06


@dataclass(frozen=True)
class FFNShape:
    """Sizes of the FFN: ``width -> hidden -> width``, ``hidden`` divided among the learners."""

    width: int = 768
    hidden: int = 3072
    learners: int = 4


@dataclass(frozen=True)
class Row:
    """One case.

    Attributes:
        tokens: Tokens of the batch.
        threads: Threads of ONNX Runtime.
        k: How decisions were made: "dense", "binomial 0.5", "constant 2".
        share: Learners run over all of them, as drawn.
        milliseconds: Time of one run.
        ratio: Time over the dense FFN's.
        efficiency: ``share / ratio``.
    """

    tokens: int
    threads: int
    k: str
    share: float
    milliseconds: Spread
    ratio: Spread
    efficiency: Spread


@dataclass(frozen=True)
class Result:
    """All that one run of the benchmark measured."""

    benchmark: str
    op: str
    shape: FFNShape
    rounds: int
    rows: tuple[Row, ...]
    machine: dict[str, Any]
    source: dict[str, Any]


def draw_weights(shape: FFNShape, generator: np.random.Generator, op: OpRecord = CONDITIONAL_MLP) -> dict[str, Array]:
    """Random weights of the op's learners, by name."""
    hidden = shape.hidden // shape.learners
    case = OpCase("drawn", {"N": shape.learners, "D": shape.width, "h": hidden, "E": shape.width})
    return draw_op_weights(case, generator, "float32", op.inputs[2:])


def dense_graph(weights: dict[str, Array], op: OpRecord = CONDITIONAL_MLP) -> onnx.ModelProto:
    """The FFN with all learners side by side, in the nodes that torch exports: Gemm, activation, Gemm."""
    width, hidden = weights["w1"].shape[1], weights["b1"].size
    row, gated = ACTIVATION_OF[op.name], "v1" in weights

    def joined(weight: str, bias: str, name: str) -> dict[str, Array]:
        side_by_side = weights[weight].transpose(0, 2, 1).reshape(hidden, width)
        return {name: side_by_side, f"{name}_bias": weights[bias].reshape(hidden)}

    dense = {
        **joined("w1", "b1", "up"),
        **(joined("v1", "c1", "gated") if gated else {}),
        "down": weights["w2"].reshape(hidden, -1).T.copy(),
        "down_bias": weights["b2"],
    }
    lines = [row.constants, "  raised = Gemm <transB = 1> (x, up, up_bias)"]
    lines.append(row.body.format(z="raised", y="gate" if gated else "active", n=""))
    if gated:
        lines += ["  passed_on = Gemm <transB = 1> (x, gated, gated_bias)", "  active = Mul (gate, passed_on)"]
    lines.append("  y = Gemm <transB = 1> (active, down, down_bias)\n")
    parsed = parse_body("Dense", ", ".join(["x", *dense]), "y", "\n".join(lines), "The dense FFN.")
    return _model("dense_ffn", parsed.node, dense, [_tokens("x", width)], width)


def adaptive_graph(weights: dict[str, Array], op: OpRecord = CONDITIONAL_MLP) -> onnx.ModelProto:
    """The same weights in one node of the op with its body; ``k`` is an input."""
    learners, width, _ = weights["w1"].shape
    node = helper.make_node(op.name, [spec.name for spec in op.inputs], ["y"], domain=DOMAIN)
    inputs = [_tokens("x", width), helper.make_tensor_value_info("k", TensorProto.INT32, ["tokens"])]
    model = _model("conditional_mlp", [node], weights, inputs, width)
    model.opset_import.append(helper.make_opsetid(DOMAIN, OPSET_VERSION))
    model.functions.append(op.body(learners))
    return model


def _tokens(name: str, width: int) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["tokens", width])


def _model(
    name: str,
    nodes: Sequence[onnx.NodeProto],
    weights: dict[str, Array],
    inputs: Sequence[onnx.ValueInfoProto],
    width: int,
) -> onnx.ModelProto:
    initializers = [numpy_helper.from_array(array, key) for key, array in weights.items()]
    graph = helper.make_graph(nodes, name, inputs, [_tokens("y", width)], initializers)
    model: onnx.ModelProto = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", ONNX_OPSET)], ir_version=IR_VERSION
    )
    return model


def draw_decisions(shape: FFNShape, tokens: int, generator: np.random.Generator) -> dict[str, list[Array]]:
    """Decisions ``k[tokens]`` (int32) of every adaptive case, by the case's name."""
    n = shape.learners
    drawn = {
        f"binomial {share:g}": [
            generator.binomial(n, share, tokens).astype(np.int32) for _ in range(1 if share == 1 else _DRAWS)
        ]
        for share in SHARES
    }
    return {**drawn, **{f"constant {k}": [np.full(tokens, k, np.int32)] for k in range(n, 0, -1)}}


def measure(
    tokens: int,
    shape: FFNShape,
    dense: tuple[SessionProcess, int],
    adaptive: SessionProcess,
    rounds: int,
    on_turn: Callable[[], None] | None = None,
) -> list[Row]:
    """Measure every case at one number of tokens.

    Args:
        tokens: Tokens of the batch.
        shape: Sizes of the FFN.
        dense: The dense graph's process and its threads.
        adaptive: The adaptive graph's process.
        rounds: Rounds of the interleaving.
        on_turn: Called after every turn, ``rounds * turns(shape)`` times.
    """
    generator = np.random.default_rng(tokens)
    process, threads = dense
    x = generator.standard_normal((tokens, shape.width)).astype(np.float32)
    decisions = draw_decisions(shape, tokens, generator)
    process.load({"x": x})
    adaptive.load({"x": x})
    cases, shares = [Case(DENSE, process, [{"x": "x"}])], {DENSE: 1.0}
    for name, drawn in decisions.items():
        arrays = {f"{name} {index}": k for index, k in enumerate(drawn)}
        adaptive.load(arrays)
        cases.append(Case(name, adaptive, [{"x": "x", "k": array} for array in arrays]))
        shares[name] = float(np.mean(drawn)) / shape.learners
    runs = runs_per_turn(cases[0], _TURN_SECONDS)
    timings = interleave(cases, baseline=DENSE, rounds=rounds, runs=runs, on_turn=on_turn)
    return [
        Row(
            tokens,
            threads,
            name,
            shares[name],
            timing.seconds.scaled(1e3),
            timing.ratio,
            timing.ratio.into(shares[name]),
        )
        for name, timing in timings.items()
    ]


def turns(shape: FFNShape) -> int:
    """Cases of one number of tokens: the dense one, the binomial and the constant ones."""
    return 1 + len(SHARES) + shape.learners


def tabulate(result: Result) -> Table:
    """The result for a terminal."""
    s = result.shape
    table = Table(title=f"{result.op} {s.width}->{s.hidden}->{s.width}, N={s.learners}, ONNX Runtime")
    for heading in (
        "tokens",
        "threads",
        "k",
        "work",
        "ms",
        "time / dense",
        "quartiles",
        "efficiency",
        "quartiles",
    ):
        table.add_column(heading, justify="left" if heading == "k" else "right", no_wrap=True)
    for row in result.rows:
        if row.k == DENSE:
            table.add_section()
        table.add_row(
            str(row.tokens),
            str(row.threads),
            row.k,
            f"{row.share:.3f}",
            f"{row.milliseconds.median:.3f}",
            f"{row.ratio.median:.3f}",
            f"{row.ratio.low:.3f}-{row.ratio.high:.3f}",
            f"{row.efficiency.median:.3f}",
            f"{row.efficiency.low:.3f}-{row.efficiency.high:.3f}",
        )
    return table


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--tokens", type=click.IntRange(1), multiple=True, default=(64, 197, 1576), show_default=True)
@click.option("--threads", type=click.IntRange(1), multiple=True, default=(1, 2), show_default=True)
@click.option("--rounds", type=click.IntRange(1), default=40, show_default=True, help="Rounds of the interleaving.")
@click.option("--op", "name", type=click.Choice(list(ACTIVATION_OF)), default=CONDITIONAL_MLP.name, show_default=True)
@click.option("--quick", is_flag=True, help="Small sizes, few rounds: shows that it runs, measures nothing.")
@json_option
def main(
    tokens: tuple[int, ...], threads: tuple[int, ...], rounds: int, name: str, quick: bool, json_file: Path | None
) -> None:
    """Measure how closely the time of one ConditionalMLP follows its work.

    Network-B's FFN with four learners, of any activation or gated, against the dense FFN, in ONNX Runtime: decisions
    binomial(4, share) and constant. Efficiency = share of the work / share of the dense time.

    \b
    Examples:
      python -m adaptrt.bench.conditional_mlp
      python -m adaptrt.bench.conditional_mlp --tokens 197 --threads 1 --json ffn.json
      python -m adaptrt.bench.conditional_mlp --op ConditionalSwiGLU
    """  # noqa: D301 - click takes the character, not its escape, for "do not rewrap"
    shape = FFNShape(64, 256) if quick else FFNShape()
    tokens, rounds = (tokens[:2], 3) if quick else (tokens, rounds)
    machine, rows = describe_machine(), []
    op = RECORDS[name]
    weights = draw_weights(shape, np.random.default_rng(0), op)
    with tempfile.TemporaryDirectory(prefix="adaptrt-bench-") as folder, show_progress() as progress:
        dense_file, adaptive_file = Path(folder) / "dense_ffn.onnx", Path(folder) / "conditional_mlp.onnx"
        onnx.save(dense_graph(weights, op), str(dense_file))
        onnx.save(adaptive_graph(weights, op), str(adaptive_file))
        task = progress.add_task("starting", total=len(tokens) * len(threads) * rounds * turns(shape))
        for count in threads:
            with ExitStack() as stack:
                dense = stack.enter_context(SessionProcess(dense_file, threads=count))
                adaptive = stack.enter_context(SessionProcess(adaptive_file, threads=count))
                for size in tokens:
                    progress.update(task, description=f"{size} tokens, {count} threads")
                    rows += measure(size, shape, (dense, count), adaptive, rounds, lambda: progress.advance(task))
    result = Result("conditional_mlp", op.name, shape, rounds, tuple(rows), machine, describe_source())
    show(tabulate(result), result, json_file)


if __name__ == "__main__":
    run_command(main)

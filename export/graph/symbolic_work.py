"""Work counted from an exported program's symbolic shapes: a polynomial in the sizes of the named axes.

What counts is what ``export.parity.graph_macs`` counts in the ONNX graph, which is written independently: products
only; of ``adaptrt`` nodes the learners that run, each token's own ``k`` times what one learner costs; SelectTokens and
SegmentReduce nothing. A product counts if one of the outputs needs it and if it depends on the sample.

Samples are independent, so the work is so many times that of one sample, and the batch divides out. Where it does
not, something is computed over the batch, which is refused.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod

import sympy
import torch
from torch import fx

from adaptrt.export.errors import ExportError
from adaptrt.export.graph.user_code import where
from adaptrt.export.graph.work_products import UncountedProductError, product_macs, sizes
from adaptrt.ops import DOMAIN, RECORDS

BATCH = sympy.Symbol("batch")


@dataclass(frozen=True)
class SymbolicWork:
    """Multiply-accumulates of one sample.

    Attributes:
        products: Of the products, in symbols named after the axes.
        per_run: Of one learner for one token, by the number of the call; how many run is data.
    """

    products: sympy.Expr
    per_run: dict[int, int]

    @property
    def axes(self) -> set[str]:
        """Names of the axes whose sizes it depends on."""
        return {symbol.name for symbol in self.products.free_symbols}


def count_work(
    graph: fx.Graph,
    inputs: Collection[str],
    names: Mapping[sympy.Symbol, str],
    outputs: Sequence[fx.Node],
    learners: Sequence[fx.Node],
) -> SymbolicWork:
    """Count what a program computes for one sample.

    Args:
        graph: Of a ``torch.export`` program, decomposed but for ``work_products.UNSPLIT``.
        inputs: Names of the placeholders that differ between samples.
        names: The axis that each symbol is the size of, ``"batch"`` among them.
        outputs: What is needed of it.
        learners: For each call of learners its ``k``.

    Raises:
        ExportError: An operator cannot be counted, or something is computed over the batch; names the user's line.
    """
    renamed = {symbol: sympy.Symbol(name) for symbol, name in names.items()}
    live, varying = needed(outputs), _varying(graph, inputs)
    total, per_run = sympy.Integer(0), dict[int, int]()
    for node in graph.nodes:
        if node.op != "call_function" or node not in live:
            continue
        if _domain_op(node) is not None:
            number, macs = _learners(node, learners)
            if macs:
                per_run[number] = per_run.get(number, 0) + macs
            continue
        macs_of_node = _macs(node)
        if macs_of_node is not None and node in varying:
            work = sympy.expand(sympy.sympify(macs_of_node).xreplace(renamed) / BATCH)
            if BATCH in work.free_symbols:
                raise ExportError(
                    f"got {operator(node)} at {where(node)} whose work is not that of one sample times their number, "
                    "expected samples that are computed each by itself; let no rule look at the batch"
                )
            total += work
    return SymbolicWork(sympy.expand(total), per_run)


def needed(outputs: Iterable[fx.Node]) -> set[fx.Node]:
    """All nodes that outputs depend on, themselves among them."""
    ancestors: set[fx.Node] = set()
    waiting = list(outputs)
    while waiting:
        node = waiting.pop()
        if node not in ancestors:
            ancestors.add(node)
            waiting += node.all_input_nodes
    return ancestors


def operator(node: fx.Node) -> str:
    """A node's operator as users know it."""
    target = node.target
    return target._schema.name.replace("::", ".") if isinstance(target, torch._ops.OpOverload) else str(target)


def _varying(graph: fx.Graph, inputs: Collection[str]) -> set[fx.Node]:
    """Nodes that differ between samples; sizes alone do not."""
    varying: set[fx.Node] = set()
    for node in graph.nodes:
        if node.op == "placeholder" and node.name in inputs:
            varying.add(node)
        elif node.op == "call_function" and not varying.isdisjoint(node.all_input_nodes):
            value = node.meta.get("val")
            if not isinstance(value, int | float | bool | torch.SymInt | torch.SymFloat | torch.SymBool):
                varying.add(node)
    return varying


def _macs(node: fx.Node) -> sympy.Expr | None:
    try:
        return product_macs(node)
    except UncountedProductError as error:
        raise ExportError(
            f"got {operator(node)} at {where(node)}, whose work cannot be counted, expected {error}"
        ) from None


def _domain_op(node: fx.Node) -> str | None:
    """Name of the op of the domain ``adaptrt`` that a node stands for."""
    target = node.target
    if not isinstance(target, torch._ops.OpOverload) or target.namespace != "onnx_symbolic":
        return None
    name = str(node.args[1])
    domain, _, op = name.rpartition("::")
    domain = domain or str(node.kwargs.get("domain", DOMAIN))
    if domain not in (DOMAIN, "") or op not in RECORDS:
        raise ExportError(
            f"got {name} at {where(node)}, whose work cannot be counted, expected operators of torch; write it "
            "with those"
        )
    return op


def _learners(node: fx.Node, calls: Sequence[fx.Node]) -> tuple[int, int]:
    """Number of the call of learners that a node is, and what one of its learners costs; 0 for other ops.

    Raises:
        ExportError: The learners are of no call that was noted.
    """
    fields = [field.name for field in RECORDS[str(_domain_op(node))].inputs]
    if "k" not in fields:
        return 0, 0
    given = node.args[0]
    assert isinstance(given, list | tuple)
    named = dict(zip(fields, given, strict=False))
    k, weights = named["k"], [named[name] for name in fields if name in named and _is_weight(named[name])]
    if k not in calls:
        raise ExportError(f"got learners at {where(node)} that no module of adaptrt ran, expected ConditionalMLP")
    return list(calls).index(k), int(sum(prod(sizes(weight)[1:]) for weight in weights))


def _is_weight(node: object) -> bool:
    """Whether an input of learners is a matrix for each of them."""
    return isinstance(node, fx.Node) and len(sizes(node)) == 3

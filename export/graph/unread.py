"""What a graph needs of its nodes and constants, what subgraphs read from outside counted."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import onnx


def names_read(node: onnx.NodeProto) -> Iterator[str]:
    """Values that a node reads, those that its subgraphs read from outside among them."""
    yield from (name for name in node.input if name)
    for attribute in node.attribute:
        for graph in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
            for inner in graph.node:
                yield from names_read(inner)


def needed_nodes(nodes: Sequence[onnx.NodeProto], outputs: Iterable[str]) -> tuple[list[onnx.NodeProto], set[str]]:
    """The nodes that something reads, in order, and all names that are read.

    Args:
        nodes: Of a graph, in order.
        outputs: Of the graph.
    """
    wanted, kept = set(outputs), []
    for node in reversed(nodes):
        if not wanted.isdisjoint(node.output):
            wanted.update(names_read(node))
            kept.append(node)
    return kept[::-1], wanted


def keep_needed(graph: onnx.GraphProto, nodes: Sequence[onnx.NodeProto]) -> set[str]:
    """Make some nodes those of a graph, without what nothing reads of them and of the constants; all names read.

    Args:
        graph: Changed in place.
        nodes: In order; some may be the graph's own.
    """
    kept, read = needed_nodes(nodes, {output.name for output in graph.output})
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in kept]
    del graph.node[:]
    graph.node.extend(copies)
    for constant in [each for each in graph.initializer if each.name not in read]:
        graph.initializer.remove(constant)
    return read

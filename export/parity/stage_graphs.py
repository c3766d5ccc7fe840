"""The graphs of all stages on ONNX Runtime, run one after the other, free or with forced decisions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime

from adaptrt.export.errors import ParityError
from adaptrt.export.parity.reference import FOLLOWED, Reference, StageValues, follow, spread
from adaptrt.export.parity.teacher_forcing import force_decisions
from adaptrt.runtime.bundle.schema import Carry, DecisionSpec

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class StageFile:
    """One stage: its graph with bodies attached, what it takes from the stage before, its decisions."""

    graph: onnx.ModelProto
    carry: list[Carry]
    decisions: list[DecisionSpec]

    @property
    def followed(self) -> list[DecisionSpec]:
        """Decisions about the tokens of our own networks, which can be forced and compared one by one."""
        return [decision for decision in self.decisions if decision.of == FOLLOWED]

    @property
    def disclosed(self) -> list[str]:
        """The outputs that tell the decisions."""
        return [name for decision in self.decisions for name in decision.outputs.values()]

    def taken(self, before: Mapping[str, Array], inputs: Mapping[str, Array]) -> dict[str, Array]:
        """What is carried into it: outputs of the stage before, or inputs of the network."""
        given = {**before, **inputs}
        return {carry.name: given[carry.source] for carry in self.carry}


@dataclass(frozen=True)
class GraphRun:
    """What the graphs gave, decisions over the positions tokens had at first (see ``Reference``)."""

    stages: list[StageValues]
    k: npt.NDArray[np.int32]
    kept: npt.NDArray[np.bool_]


class StageGraphs:
    """Sessions over the graphs of all stages, each once as it is and once with decisions as inputs.

    Args:
        stages: With bodies attached.
        defaults: Value of every knob that a call leaves out, of the knob's shape and dtype.
        forcible: Whether decisions can be forced, which needs adaptive ops as nodes; the graphs are else run
            as they are only.
        open_session: Gives what runs a graph, with the methods of ONNX Runtime's session that are used here.
    """

    def __init__(
        self,
        stages: Sequence[StageFile],
        defaults: Mapping[str, Array],
        *,
        forcible: bool = True,
        open_session: Callable[[onnx.ModelProto], Any] | None = None,
    ) -> None:
        opened = open_session or _session
        self.stages, self._defaults = list(stages), dict(defaults)
        kinds = [decision.kind for stage in stages for decision in stage.followed]
        self.gates, self.selections = kinds.count("learners"), kinds.count("selection")
        self._free = [opened(stage.graph) for stage in stages]
        self._forced = [opened(force_decisions(stage.graph, stage.followed)) for stage in stages] if forcible else []

    def run(self, reference: Reference, *, forced: bool) -> GraphRun:
        """Run all stages on all of a reference's samples, at its knobs; if ``forced``, under its decisions.

        Raises:
            ParityError: A graph does not run on these inputs.
        """
        trail = _Trail(reference, forced)
        given: dict[str, Array] = {}
        values = []
        for number, stage in enumerate(self.stages):
            session = (self._forced if forced else self._free)[number]
            carried = stage.taken(given, reference.inputs)
            available = {**self._defaults, **reference.knobs, **reference.inputs, **carried}
            known = {node.name for node in session.get_inputs()}
            feeds = {name: value for name, value in available.items() if name in known}
            if forced:
                feeds |= trail.forced_feeds(stage.followed, known)
            given = _run(session, feeds)
            trail.read(stage.followed, given)
            outputs = {name: given[name] for name in reference.outputs}
            values.append(StageValues(outputs, given["macs_fraction"], given.get("confidence")))
        k, kept = trail.decisions(self.gates, self.selections)
        return GraphRun(values, k, kept)


class _Trail:
    """Follows tokens from their first positions through the selections, and collects decisions on the way."""

    def __init__(self, reference: Reference, forced: bool) -> None:
        self._reference, self._own = reference, ("chosen_" if forced else "")
        self._tokens = reference.k.shape[2]
        self._position = np.tile(np.arange(self._tokens), (reference.samples, 1))
        self._fed = self._position  # where tokens stand for the feeds, which run ahead of what is read
        self._k: list[Array] = []
        self._kept: list[Array] = []

    def forced_feeds(self, decisions: Sequence[DecisionSpec], known: set[str]) -> dict[str, Array]:
        """What forces the decisions of one stage."""
        feeds: dict[str, Array] = {}
        for decision in decisions:
            position = self._fed
            if decision.kind == "learners":
                chosen = np.take_along_axis(self._reference.k[decision.number], np.maximum(position, 0), 1)
                name = f"forced_{decision.outputs['runs']}"
                feeds[name] = np.where(position >= 0, chosen, 0).astype(np.int32).reshape(-1)
            else:
                kept = np.take_along_axis(self._reference.kept[decision.number], np.maximum(position, 0), 1)
                kept &= position >= 0
                feeds[f"forced_score_{decision.number}"] = kept.astype(np.float32)
                counts = kept.sum(1)
                index = np.argsort(~kept, axis=1, kind="stable")[:, : counts.max(initial=0)]
                self._fed = follow(position, index, counts) if decision.nested else position
        return {name: value for name, value in feeds.items() if name in known}

    def read(self, decisions: Sequence[DecisionSpec], given: Mapping[str, Array]) -> None:
        """Collect what a stage decided: its own choice, and go on along what was forced, if anything was."""
        for decision in decisions:
            names = decision.outputs
            if decision.kind == "learners":
                chosen = given[f"{self._own}{names['runs']}"].reshape(self._position.shape)
                self._k.append(spread(chosen, self._position, self._tokens, -1))
            else:
                index, count = given[f"{self._own}{names['index']}"], given[f"{self._own}{names['count']}"]
                kept = follow(self._position, index, count)
                self._kept.append(spread(np.ones(kept.shape, bool), kept, self._tokens, False))
                if decision.nested:
                    self._position = follow(self._position, given[names["index"]], given[names["count"]])

    def decisions(self, gates: int, selections: int) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.bool_]]:
        """Everything collected."""
        shape = (self._reference.samples, self._tokens)
        return (
            np.stack(self._k).astype(np.int32) if gates else np.zeros((0, *shape), np.int32),
            np.stack(self._kept) if selections else np.zeros((0, *shape), bool),
        )


def _run(session: Any, feeds: dict[str, Array]) -> dict[str, Array]:
    names = [node.name for node in session.get_outputs()]
    try:
        return dict(zip(names, (np.asarray(value) for value in session.run(names, feeds)), strict=True))
    except Exception as error:  # pybind's exceptions share no base class
        cause = " ".join(str(error).split())
        raise ParityError(
            f"the graph does not run on the reference's inputs: {cause}; export the bundle again"
        ) from error


def _session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what it would print comes as an exception too
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # many sessions live side by side
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])

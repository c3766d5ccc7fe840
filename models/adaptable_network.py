"""What adapting asks of a network beside its stages: blocks in a row, families that stand in them, early heads."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from adaptrt.models.families.exit_head import ExitConfig
from adaptrt.models.families.gate import ArgmaxGate, Decision, PriceGate
from adaptrt.models.macs import Layer
from adaptrt.models.network_output import NetworkOutput
from adaptrt.models.staged_network import StagedNetwork
from adaptrt.models.tokens import Selection, Tokens

if TYPE_CHECKING:
    from adaptrt.models.families.family import Family


class AdaptableNetwork(StagedNetwork):
    """Blocks one after the other, with heads after some of them and at the end.

    Attributes:
        config: Its shape and what in it is adaptive: at least ``exits``, ``families`` and ``adaptive``.
        blocks: In order.
        head: What stands at the end.
        exit_heads: Early heads, in order.
    """

    config: Any
    blocks: nn.ModuleList
    head: Any
    exit_heads: nn.ModuleList

    @property
    def families(self) -> tuple[Family, ...]:
        """What is adaptive, in the order in which prices are shared out."""
        families: tuple[Family, ...] = self.config.families
        return families

    @property
    def adaptive(self) -> bool:
        """Whether any module's work depends on its input or on a knob."""
        return bool(self.config.adaptive)

    @property
    def exits(self) -> ExitConfig | None:
        """Where early heads stand."""
        exits: ExitConfig | None = self.config.exits
        return exits

    @property
    def tokens(self) -> int | None:
        """Tokens per sample, where these differ the most; None: samples have no tokens."""
        return None

    @abc.abstractmethod
    def with_families(self, families: Sequence[Family]) -> AdaptableNetwork:
        """A network of the same shape with these families; weights of the same name and size are these, others new.

        Raises:
            ValueError: The families do not fit.
        """

    def check_family(self, kind: type[Family]) -> None:
        """Check that a network of this kind can have a family at all.

        Raises:
            ValueError: It cannot, and why.
        """

    def start_exits(self, dense: AdaptableNetwork) -> None:
        """Give early heads what they can take of the dense network's last one; here nothing."""

    def first_maps(self) -> list[nn.Linear]:
        """Linear maps of early heads whose best start is the least squares of the dense network's answer."""
        return []

    def fixed_parts(self) -> list[nn.Module | nn.Parameter]:
        """What training leaves as it is."""
        return []

    @abc.abstractmethod
    def block_tokens(self, result: Any) -> Tokens:
        """What a block gave, as tokens; places of a picture are tokens, too."""

    def usual_exits(self) -> tuple[int, ...]:
        """After which blocks heads stand where nobody says: at a third and two thirds; empty: it is too short."""
        depth = len(self.blocks)
        return tuple(sorted({depth // 3, 2 * depth // 3} - {0, depth}))

    def stage_blocks(self, stage: int) -> range:
        """Numbers of a stage's blocks."""
        ends = [0, *(() if self.exits is None else self.exits.after), len(self.blocks)]
        return range(ends[stage], ends[stage + 1])

    def gates(self) -> list[PriceGate | ArgmaxGate]:
        """Every gate, in the order of the decisions in ``NetworkOutput``."""
        return []

    @property
    def prunes_by_price(self) -> bool:
        """Whether token selections compare with a price."""
        return False

    @abc.abstractmethod
    def layers(self, tokens: int | None = None) -> list[Layer]:
        """Multiply-accumulates of every layer for one sample, early heads left out; see ``adaptrt.models.macs``.

        Args:
            tokens: Of a sample; None: those of the sample that work is relative to.
        """

    def dense_macs(self) -> int:
        """Multiply-accumulates of the dense model for the sample that work is relative to."""
        return sum(layer.dense for layer in self.layers())

    def run(self, inputs: dict[str, Tensor], knobs: dict[str, Tensor]) -> NetworkOutput:
        """Run all stages on all samples, nobody leaving."""
        stages = self.run_stages(inputs, knobs)
        made = [decision for stage in stages for decision in stage.decisions]
        return NetworkOutput(
            stages[-1].outputs,
            stages[-1].macs_fraction,
            [decision for decision in made if isinstance(decision, Decision)],
            [decision for decision in made if isinstance(decision, Selection)],
            stages,
        )

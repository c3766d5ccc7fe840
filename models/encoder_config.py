"""The shape of a transformer encoder and what in it is adaptive, as ``config.json`` has it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from adaptrt.models.families.acm import ACMConfig
from adaptrt.models.families.exit_head import ExitConfig
from adaptrt.models.families.family import Family
from adaptrt.models.families.hard_budgets import HardBudgets
from adaptrt.models.families.routed_ffn import RoutedFFNConfig
from adaptrt.models.families.token_pruning import PruningConfig
from adaptrt.models.tasks import TASKS
from adaptrt.ops.activations import activation_named

NORMS = ("layer", "rms")
"""LayerNorm, and RMSNorm (arXiv 1910.07467)."""
POSITIONS = ("added", "rotary", "relative", "table", "pair")
"""How a block knows where tokens are: the embedding said so; rotary (arXiv 2104.09864); a bias per distance; rotary by
cosines and sines given for each position; a bias given for each pair of positions."""

FAMILIES: dict[str, type[Any]] = {
    family.name: family for family in (ACMConfig, PruningConfig, ExitConfig, RoutedFFNConfig, HardBudgets)
}
"""Every family, by its name in ``config.json``; each is a frozen dataclass."""

Config = TypeVar("Config", bound="EncoderConfig")


@dataclass(frozen=True)
class EncoderConfig:
    """Shape of a transformer encoder and what in it is adaptive; all of that None is the dense model.

    Attributes:
        width: D, of the tokens.
        depth: Number of blocks.
        heads: Of the attention.
        ffn_width: Hidden width of a feed-forward network; of a gated one, that of each of its two branches.
        classes: Of the task, where it has classes; of embeddings it is not read.
        class_token: Whether the first token stands for the sample; otherwise heads read the tokens' mean.
        post_norm: Normalise after each half of a block, as BERT does, not before it.
        acm: How ACMs replace layers.
        pruning: Where tokens are selected.
        exits: Where heads stand before the last.
        hard_budgets: Whether gates and selections can also be told exact numbers.
        norm: One of ``NORMS``.
        epsilon: Of the normalisations.
        activation: Of the feed-forward networks, a name of ``ops/activations.py``.
        gated: Whether feed-forward networks are gated (arXiv 2002.05202).
        attention_bias: Whether the attention's linear maps have biases.
        ffn_bias: Whether those of the feed-forward networks have.
        head_size: Width of one head; None: ``width / heads``.
        key_heads: Heads of keys and values, each shared by as many of the queries' (arXiv 2305.13245); None: ``heads``.
        layer_scale: Whether each half of a block is scaled channel by channel before it is added (arXiv 2103.17239).
        positions: One of ``POSITIONS``.
        rotary_base: Base of the rotary angles.
        relative_reach: Largest distance with a bias of its own, where positions are relative.
        position_rows: Positions that tables have rows for, where positions are "table" or "pair".
        windows: Sizes of the attention's windows, block after block and over again: a token sees those at most half
            of it away; 0 sees all. Empty: all see all.
        causal: Whether a token sees only itself and those before it.
        first_norm: Whether the first block normalises what its attention reads; False where the embedding did.
        final_norm: Whether heads read normalised tokens; False where the last block normalised them.
        task: Name of the task.
        others: Configurations of further families of ``FAMILIES``, by name, as ``config.json`` has them.
    """

    width: int = 192
    depth: int = 6
    heads: int = 3
    ffn_width: int = 768
    classes: int = 10
    class_token: bool = False
    post_norm: bool = False
    acm: ACMConfig | None = field(default=None)
    pruning: PruningConfig | None = field(default=None)
    exits: ExitConfig | None = field(default=None)
    hard_budgets: bool = False
    norm: str = "layer"
    epsilon: float = 1e-6
    activation: str = "gelu"
    gated: bool = False
    attention_bias: bool = True
    ffn_bias: bool = True
    head_size: int | None = None
    key_heads: int | None = None
    layer_scale: bool = False
    positions: str = "added"
    rotary_base: float = 10_000.0
    relative_reach: int = 32
    position_rows: int = 0
    windows: tuple[int, ...] = ()
    causal: bool = False
    first_norm: bool = True
    final_norm: bool = True
    task: str = "classification"
    others: dict[str, dict[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if min(self.width, self.depth, self.heads, self.ffn_width, self.classes) < 1:
            raise ValueError(f"got {self}, expected sizes of at least 1")
        if self.head_size is None and self.width % self.heads:
            raise ValueError(f"got width {self.width}, expected a multiple of {self.heads} heads")
        for name, value, known in (
            ("norm", self.norm, NORMS),
            ("positions", self.positions, POSITIONS),
            ("task", self.task, tuple(TASKS)),
        ):
            if value not in known:
                raise ValueError(f"got {name} {value!r}, expected one of {', '.join(known)}")
        activation_named(self.activation, gated=self.gated)
        if not self.epsilon > 0 or not self.rotary_base > 1:
            raise ValueError(
                f"got epsilon {self.epsilon} and rotary base {self.rotary_base}, expected them above 0 and above 1"
            )
        if self.head_size is not None and self.head_size < 1:
            raise ValueError(f"got head size {self.head_size}, expected at least 1")
        if self.key_heads is not None and (self.key_heads < 1 or self.heads % self.key_heads):
            raise ValueError(f"got {self.key_heads} heads of keys, expected a divisor of {self.heads} heads")
        if self.positions in ("rotary", "table") and self.head_width % 2:
            raise ValueError(f"got rotary positions with heads of width {self.head_width}, expected an even width")
        if (self.positions in ("table", "pair")) != (self.position_rows > 0):
            raise ValueError(
                f"got {self.position_rows} rows for positions {self.positions!r}, expected rows for 'table' and 'pair' "
                "and 0 for others"
            )
        if self.relative_reach < 1 or not isinstance(self.windows, tuple) or min(self.windows, default=0) < 0:
            raise ValueError(
                f"got relative reach {self.relative_reach} and windows {self.windows!r}, expected at least 1 and a "
                "tuple of sizes of at least 0"
            )
        for family in self.families:
            family.check(self)

    @property
    def head_width(self) -> int:
        """Of one head of the attention."""
        return self.head_size or self.width // self.heads

    @property
    def attention_width(self) -> int:
        """Of all heads of the queries."""
        return self.heads * self.head_width

    @property
    def key_width(self) -> int:
        """Of all heads of the keys, and of the values."""
        return (self.key_heads or self.heads) * self.head_width

    @property
    def ffn_macs(self) -> int:
        """Multiply-accumulates of a feed-forward network for one token."""
        return (3 if self.gated else 2) * self.width * self.ffn_width

    @property
    def projection_macs(self) -> int:
        """Multiply-accumulates of the attention's four projections for one token."""
        return self.width * (2 * self.attention_width + 2 * self.key_width)

    @property
    def class_names(self) -> tuple[str, ...]:
        """What the classes are called; empty: nobody says."""
        return ()

    @property
    def averages_tokens(self) -> bool:
        """Whether heads read the tokens' mean."""
        return not self.class_token and not TASKS[self.task].per_token

    @property
    def families(self) -> tuple[Family, ...]:
        """What is adaptive, in the order in which prices are shared out."""
        for name in self.others:
            if name not in FAMILIES:
                raise ValueError(f"got family {name!r}, expected one of {', '.join(FAMILIES)}")
            known = [option.name for option in dataclasses.fields(FAMILIES[name])]
            if unknown := sorted(set(self.others[name]) - set(known)):
                raise ValueError(f"got {unknown[0]!r} for {name!r}, expected some of {', '.join(known) or 'none'}")
        others = [FAMILIES[name](**options) for name, options in self.others.items()]
        hard = HardBudgets() if self.hard_budgets else None
        return tuple(family for family in (self.acm, self.pruning, self.exits, *others, hard) if family is not None)

    @property
    def adaptive(self) -> bool:
        """Whether any module's work depends on its input or on a knob."""
        return any(not isinstance(family, HardBudgets) for family in self.families)


def with_families(config: Config, families: Sequence[Family]) -> Config:
    """The same shape with these families and no others.

    Raises:
        ValueError: They do not fit the shape or each other, or two are of one kind.
    """
    fields: dict[str, Any] = {"acm": None, "pruning": None, "exits": None, "hard_budgets": False}
    others: dict[str, dict[str, Any]] = {}
    for family in families:
        if fields.get(family.name) or family.name in others:
            raise ValueError(f"got two families {family.name!r}, expected each at most once")
        if family.name in fields:
            fields[family.name] = True if isinstance(family, HardBudgets) else family
        elif type(family) is not FAMILIES.get(family.name):
            raise ValueError(f"got family {family.name!r}, expected one of {', '.join(FAMILIES)}; add it to FAMILIES")
        else:
            others[family.name] = dataclasses.asdict(family)  # type: ignore[call-overload]
    fields["others"] = others
    return dataclasses.replace(config, **fields)

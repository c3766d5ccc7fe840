"""One process of a team that adapts a small network of texts: ``python team_member.py FOLDER [dies]``.

The first one writes the weights to ``weights.pt`` in the folder. One that ``dies`` does so after three steps.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import torch

from adaptrt.models.adapters.text_encoder import TextEncoderConfig
from adaptrt.models.data.samples import Samples
from adaptrt.models.families.acm import ACMConfig
from adaptrt.models.families.exit_head import ExitConfig
from adaptrt.models.families.token_pruning import PruningConfig
from adaptrt.models.network import Network
from adaptrt.models.training.adapting import AdaptSettings, adapt_network
from adaptrt.models.training.team import Team, joined

SHAPE = TextEncoderConfig(width=32, depth=2, heads=2, ffn_width=64, vocabulary=50, length=12, task="embedding")
SETTINGS = AdaptSettings(
    acm=ACMConfig(learners=2),
    exits=ExitConfig((1,), "certainty"),
    pruning=PruningConfig((1,)),
    joint_steps=8,
    distil_steps=3,
    gate_steps=3,
    tokens=200,
    layer_batch=64,
    batch=8,
)


def adapted(folder: Path, team: Team, *, dies: bool = False) -> Network:
    """What a process of the team makes, which keeps its files in a folder of its own."""
    torch.manual_seed(0)
    dense = Network.from_config(SHAPE).eval()
    arrays = {name: tensor.numpy() for name, tensor in dense.example_inputs(40).items()}

    def report(progress: Any) -> None:
        if dies and progress.phase == "joint" and progress.step == 3:
            os._exit(1)

    return adapt_network(dense, Samples.of(dense, arrays), SETTINGS, folder / f"process{team.rank}", report, team=team)


def main(folder: Path, *, dies: bool) -> None:
    """Take part."""
    with joined() as team:
        network = adapted(folder, team, dies=dies and not team.leads)
        if team.leads:
            torch.save(network.state_dict(), folder / "weights.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]), dies="dies" in sys.argv)

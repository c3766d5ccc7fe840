"""Four networks as strangers would write them: what ``own_networks`` exports and times."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from adaptrt.models import Adaptive, Knob, Leave, take

Named = dict[str, Tensor]


class ExitCNN(Adaptive):
    """A plain convolutional network with a classifier after each of three stages."""

    axes = {"pixels": ("batch", 3, 64, 64)}  # noqa: RUF012
    stages = 3

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 32, 64, 128)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                *(nn.Conv2d(before, after, 3, 2, 1), nn.ReLU()),
                *(nn.Conv2d(after, after, 3, 1, 1), nn.ReLU(), nn.Conv2d(after, after, 3, 1, 1), nn.ReLU()),
            )
            for before, after in itertools.pairwise(widths)
        )
        self.heads = nn.ModuleList(nn.Linear(width, 10) for width in widths[1:])

    def example(self, batch: int) -> Named:
        """Noise with structure, so that samples differ in what the heads say."""
        return {"pixels": torch.randn(batch, 3, 64, 64) * torch.rand(batch, 1, 1, 1) * 3}

    def stage(self, number: int, state: Named, knobs: Named) -> Named:
        """Three convolutions, the first of which halves the resolution."""
        del knobs
        return {"x": self.blocks[number](state["pixels" if number == 0 else "x"])}

    def leave(self, number: int, state: Named) -> Leave:
        """The classifier over the mean of all places."""
        logits = self.heads[number](state["x"].mean((2, 3)))
        return Leave({"logits": logits}, logits.softmax(1).amax(1))


class DepthMap(Adaptive):
    """A map per pixel at every exit: convolutions of one resolution, heads of one convolution."""

    axes = {"pixels": ("batch", 3, 48, 64)}  # noqa: RUF012
    stages = 3

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, width, 3, 1, 1)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.ReLU(), nn.Conv2d(width, width, 3, 1, 1), nn.ReLU(), nn.Conv2d(width, width, 3, 1, 1))
            for _ in range(3)
        )
        self.heads = nn.ModuleList(nn.Conv2d(width, 1, 3, 1, 1) for _ in range(3))

    def example(self, batch: int) -> Named:
        """Noise of different strength."""
        return {"pixels": torch.randn(batch, 3, 48, 64) * torch.rand(batch, 1, 1, 1) * 3}

    def stage(self, number: int, state: Named, knobs: Named) -> Named:
        """Two convolutions beside what came in."""
        del knobs
        x = self.first(state["pixels"]) if number == 0 else state["x"]
        return {"x": x + self.blocks[number](x)}

    def leave(self, number: int, state: Named) -> Leave:
        """One convolution to the map; its strength is the measure."""
        depth = self.heads[number](state["x"])[:, 0]
        return Leave({"depth": depth}, depth.abs().mean((1, 2)))

    def judge(self, outputs: Any, targets: Any) -> Any:
        """Nearness to the map of the dense network."""
        error = np.abs(outputs["depth"] - targets["labels"]).mean((1, 2))
        return 1 / (1 + error), error


class MixtureOfDepths(Adaptive):
    """Tokens that skip blocks (arXiv 2404.02258)."""

    axes = {"x": ("batch", "n", 192)}  # noqa: RUF012
    knobs = (Knob("routed", full=0.0, least=1.0, size=4),)

    def __init__(self, width: int = 192, heads: int = 3) -> None:
        super().__init__()
        self.width, self.heads = width, heads
        self.routers = nn.ModuleList(nn.Linear(width, 1) for _ in range(4))
        self.qkv = nn.ModuleList(nn.Linear(width, 3 * width) for _ in range(4))
        self.out = nn.ModuleList(nn.Linear(width, width) for _ in range(4))
        self.ffn = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
            for _ in range(4)
        )
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)

    def example(self, batch: int) -> Named:
        """128 tokens each."""
        return {"x": torch.randn(batch, 128, self.width)}

    def stage(self, number: int, state: Named, knobs: Named) -> Named:
        """Four blocks, each over the tokens that its router picks."""
        del number
        x = state["x"]
        for block in range(4):
            score = torch.sigmoid(self.routers[block](x))[:, :, 0]
            some = take(x, score, above=knobs["routed"][block])
            qkv = self.qkv[block](self.norm(some.rows)).unflatten(2, (3, self.heads, self.width // self.heads))
            q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
            mask = torch.where(some.valid[:, None, None, :], 0.0, -1e9)
            mixed = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)
            h = some.rows + self.out[block](mixed)
            h = h + self.ffn[block](h)
            x = some.back(x, score.gather(1, some.index)[:, :, None] * (h - some.rows))
        return {"x": x}

    def leave(self, number: int, state: Named) -> Leave:
        """A classifier over the mean token."""
        del number
        return Leave({"logits": self.head(state["x"].mean(1))})


class Matcher(Adaptive):
    """Two sets of points, self- and cross-attention, exits and pruning between layers (arXiv 2306.13643)."""

    axes = {  # noqa: RUF012
        **{f"desc{side}": ("batch", axis, 64) for side, axis in enumerate("mn")},
        **{f"valid{side}": ("batch", axis) for side, axis in enumerate("mn")},
    }
    padding = {"m": "valid0", "n": "valid1"}  # noqa: RUF012
    stages = 4
    knobs = (Knob("prune", full=0.0, least=0.6),)

    def __init__(self, width: int = 96) -> None:
        super().__init__()
        self.width = width
        self.project = nn.Linear(64, width)
        self.qkv = nn.ModuleList(nn.Linear(width, 3 * width) for _ in range(4))
        self.cross = nn.ModuleList(nn.Linear(width, 2 * width) for _ in range(4))
        self.mix = nn.ModuleList(
            nn.Sequential(nn.Linear(2 * width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)) for _ in range(8)
        )
        self.score = nn.ModuleList(nn.Linear(width, 1) for _ in range(4))
        self.final = nn.ModuleList(nn.Linear(width, width) for _ in range(4))

    def example(self, batch: int) -> Named:
        """Up to 192 points a side."""
        given: Named = {}
        for side in "01":
            given[f"desc{side}"] = torch.randn(batch, 192, 64) * (0.3 + 2 * torch.rand(batch, 1, 1))
            given[f"valid{side}"] = torch.arange(192)[None] < torch.randint(150, 193, (batch, 1))
        return {name: given[name] for name in self.axes}

    def stage(self, number: int, state: Named, knobs: Named) -> Named:
        """One layer, over the points that the one before calls worth it."""
        x, real, place = [], [], []
        for which in "01":
            if number == 0:
                valid = state[f"valid{which}"]
                x.append(self.project(state[f"desc{which}"]))
                real.append(valid)
                place.append(torch.arange(valid.shape[1]).expand(valid.shape))
                continue
            rows = state[f"x{which}"]
            first = torch.arange(rows.shape[1])[None] < 1
            score = torch.sigmoid(self.score[number - 1](rows))[:, :, 0]
            kept = take(rows, score, above=knobs["prune"], always=first, valid=state[f"real{which}"])
            x.append(kept.rows)
            real.append(kept.valid)
            place.append(state[f"place{which}"].gather(1, kept.index))
        for side in (0, 1):
            q, k, v = self.qkv[number](x[side]).chunk(3, -1)
            x[side] = x[side] + self.mix[2 * number](torch.cat([x[side], _attend(q, k, v, real[side])], -1))
        k, v = zip(*(self.cross[number](each).chunk(2, -1) for each in x), strict=True)
        attended = [_attend(k[side], k[1 - side], v[1 - side], real[1 - side]) for side in (0, 1)]
        after = {name: state[name] for name in ("valid0", "valid1")}
        for side in (0, 1):
            rows = x[side] + self.mix[2 * number + 1](torch.cat([x[side], attended[side]], -1))
            after |= {f"x{side}": rows, f"real{side}": real[side], f"place{side}": place[side]}
        return after

    def leave(self, number: int, state: Named) -> Leave:
        """The best partner of each point of the first set, by a product of both sets."""
        one, other = (self.final[number](state[f"x{side}"]) for side in "01")
        similar = one @ other.transpose(1, 2) / self.width**0.5
        similar = torch.where(state["real1"][:, None, :], similar, -1e4)
        best = state["place1"].gather(1, similar.argmax(2))
        size = state["valid0"].shape[1]
        where = torch.where(state["real0"], state["place0"], size)
        matches = torch.full((best.shape[0], size + 1), -1, dtype=torch.int64).scatter(1, where, best)[:, :-1]
        weight = state["real0"].to(torch.float32)
        return Leave({"matches": matches}, (similar.softmax(2).amax(2) * weight).sum(1) / weight.sum(1).clamp(min=1.0))

    def judge(self, outputs: Any, targets: Any) -> Any:
        """Share of the dense network's matches."""
        same = (outputs["matches"] == targets["labels"]).mean(1)
        return same, 1 - same


def _attend(q: Tensor, k: Tensor, v: Tensor, real: Tensor) -> Tensor:
    similar = q @ k.transpose(1, 2) / q.shape[2] ** 0.5
    return torch.where(real[:, None, :], similar, -1e4).softmax(-1) @ v


NETWORKS: dict[str, type[Adaptive]] = {
    "exit CNN": ExitCNN,
    "map per pixel": DepthMap,
    "mixture of depths": MixtureOfDepths,
    "two-set matcher": Matcher,
}

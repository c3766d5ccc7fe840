"""Four strangers' networks, as their users would write them: three methods each."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from adaptrt.models import Adaptive, Knob, Leave, take

Named = dict[str, Tensor]


class ExitCNN(Adaptive):
    """Convolutions with a classifier after each of three stages (BranchyNet, arXiv 1709.01686)."""

    axes = {"pixels": ("batch", 1, 12, 12)}
    stages = 3

    def __init__(self, width: int = 6, classes: int = 5) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Conv2d(1 if not n else width, width, 3, padding=1) for n in range(3))
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for _ in range(3))
        self.heads = nn.ModuleList(nn.Linear(width, classes) for _ in range(3))

    def example(self, batch: int) -> Named:
        return {"pixels": torch.rand(batch, 1, 12, 12)}

    def stage(self, number: int, state: Named, knobs: Named) -> Named:
        x = state["pixels"] if number == 0 else state["x"]
        return {"x": functional.relu(self.norms[number](self.blocks[number](x)))}

    def leave(self, number: int, state: Named) -> Leave:
        logits = self.heads[number](state["x"].mean((2, 3)))
        return Leave({"logits": logits}, logits.softmax(1).amax(1))


class DepthMap(Adaptive):
    """An encoder with skip connections: a map per pixel at every exit, of the size of the input."""

    axes = {"pixels": ("batch", 3, 16, 24)}
    stages = 2

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.down = nn.ModuleList([nn.Conv2d(3, width, 3, 2, 1), nn.Conv2d(width, 2 * width, 3, 2, 1)])
        self.up = nn.ModuleList([nn.ConvTranspose2d(width, 2, 2, 2), nn.ConvTranspose2d(2 * width, 2, 4, 4)])

    def example(self, batch: int) -> Named:
        return {"pixels": torch.rand(batch, 3, 16, 24)}

    def stage(self, number: int, state: Named, knobs: Named) -> Named:
        x = state["pixels"] if number == 0 else state["x"]
        return {"x": functional.relu(self.down[number](x)), "pixels": state["pixels"]}

    def leave(self, number: int, state: Named) -> Leave:
        depth, spread = self.up[number](state["x"]).unbind(1)
        depth = depth + state["pixels"].mean(1)
        return Leave({"depth": depth}, -spread.abs().mean((1, 2)))

    def judge(self, outputs: Any, targets: Any) -> Any:
        error = np.abs(outputs["depth"] - targets["labels"]).mean((1, 2))
        return 1 - error, error


class MixtureOfDepths(Adaptive):
    """Tokens that skip blocks: a router picks those that go through, the rest stays as it is (arXiv 2404.02258)."""

    axes = {"tokens": ("batch", "n"), "real": ("batch", "n")}
    padding = {"n": "real"}

    def __init__(self, width: int = 16, depth: int = 3, words: int = 50, classes: int = 4) -> None:
        super().__init__()
        self.table = nn.Embedding(words, width)
        self.routers = nn.ModuleList(nn.Linear(width, 1) for _ in range(depth))
        self.q = nn.ModuleList(nn.Linear(width, 3 * width) for _ in range(depth))
        self.out = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.inner = nn.ModuleList(nn.Linear(width, 4 * width) for _ in range(depth))
        self.outer = nn.ModuleList(nn.Linear(4 * width, width) for _ in range(depth))
        self.head = nn.Linear(width, classes)
        self.knobs = [Knob("routed", full=0.0, least=1.0, size=depth)]
        self.words = words

    def example(self, batch: int) -> Named:
        real = torch.arange(20)[None] < torch.randint(8, 21, (batch, 1))
        return {"tokens": torch.randint(0, self.words, (batch, 20)), "real": real}

    def stage(self, number: int, state: Named, knobs: Named) -> Named:
        x, real = self.table(state["tokens"]), state["real"]
        for block in range(len(self.routers)):
            score = torch.sigmoid(self.routers[block](x))[:, :, 0]
            some = take(x, score, above=knobs["routed"][block], valid=real)
            weight = torch.gather(score, 1, some.index)[:, :, None]
            q, k, v = self.q[block](some.rows)[:, None].chunk(3, -1)  # one head
            mask = torch.where(some.valid[:, None, None, :], 0.0, -1e9)
            attended = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)[:, 0]
            h = some.rows + self.out[block](attended)
            h = h + self.outer[block](functional.gelu(self.inner[block](h)))
            x = some.back(x, weight * (h - some.rows))
        return {"x": x, "real": real}

    def leave(self, number: int, state: Named) -> Leave:
        weight = state["real"].to(torch.float32)[:, :, None]
        mean = (state["x"] * weight).sum(1) / weight.sum(1).clamp(min=1.0)
        return Leave({"logits": self.head(mean)})


class Matcher(Adaptive):
    """Two sets of points, matched: layers of self- and cross-attention, after each an exit and pruning.

    Shaped like LightGlue (arXiv 2306.13643): a sample leaves where the share of points whose confidence is above the
    layer's own threshold is above 0.95, and points that are confident and unlikely to match do not go on.
    """

    axes = {
        "points0": ("batch", "m", 2),
        "points1": ("batch", "n", 2),
        "desc0": ("batch", "m", 12),
        "desc1": ("batch", "n", 12),
        "valid0": ("batch", "m"),
        "valid1": ("batch", "n"),
    }
    padding = {"m": "valid0", "n": "valid1"}
    stages = 3
    rule = (0.95, 0.95)
    knobs = (Knob("prune", full=0.0, least=0.6),)

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.width = width
        self.position = nn.Linear(2, width)
        self.project = nn.Linear(12, width)
        layers = range(self.stages)
        self.self_qkv = nn.ModuleList(nn.Linear(width, 3 * width) for _ in layers)
        self.self_out = nn.ModuleList(nn.Linear(2 * width, width) for _ in layers)
        self.cross_qk = nn.ModuleList(nn.Linear(width, width) for _ in layers)
        self.cross_v = nn.ModuleList(nn.Linear(width, width) for _ in layers)
        self.cross_out = nn.ModuleList(nn.Linear(2 * width, width) for _ in layers)
        self.confident = nn.ModuleList(nn.Linear(width, 1) for _ in layers)
        self.matchable = nn.ModuleList(nn.Linear(width, 1) for _ in layers)
        self.final = nn.ModuleList(nn.Linear(width, width) for _ in layers)

    def example(self, batch: int) -> Named:
        given: Named = {}
        for side, size in (("0", 24), ("1", 20)):
            given[f"points{side}"] = torch.rand(batch, size, 2)
            given[f"desc{side}"] = torch.randn(batch, size, 12)
            given[f"valid{side}"] = torch.arange(size)[None] < torch.randint(8, size + 1, (batch, 1))
        return {name: given[name] for name in self.axes}

    def stage(self, number: int, state: Named, knobs: Named) -> Named:
        if number == 0:
            x = [self.project(state[f"desc{s}"]) + self.position(state[f"points{s}"]) for s in "01"]
            real = [state["valid0"], state["valid1"]]
            index = [torch.arange(v.shape[1]).expand(v.shape) for v in real]
        else:
            x, real = [state["x0"], state["x1"]], [state["real0"], state["real1"]]
            index = [state["index0"], state["index1"]]
            for side in (0, 1):
                # Points go on that may match, and those that the layer before is not sure of.
                likely = torch.sigmoid(self.matchable[number - 1](x[side]))[:, :, 0]
                unsure = torch.sigmoid(self.confident[number - 1](x[side]))[:, :, 0] <= 0.5
                first = torch.arange(x[side].shape[1])[None] < 1
                kept = take(x[side], likely, above=knobs["prune"], always=unsure | first, valid=real[side])
                x[side], real[side] = kept.rows, kept.valid
                index[side] = index[side].gather(1, kept.index)
        for side in (0, 1):
            q, k, v = self.self_qkv[number](x[side]).chunk(3, -1)
            x[side] = x[side] + self.self_out[number](torch.cat([x[side], attend(q, k, v, real[side])], -1))
        qk = [self.cross_qk[number](each) for each in x]
        v = [self.cross_v[number](each) for each in x]
        found = [attend(qk[0], qk[1], v[1], real[1]), attend(qk[1], qk[0], v[0], real[0])]
        for side in (0, 1):
            x[side] = x[side] + self.cross_out[number](torch.cat([x[side], found[side]], -1))
        after = {"valid0": state["valid0"], "valid1": state["valid1"]}
        for side in (0, 1):
            after |= {f"x{side}": x[side], f"real{side}": real[side], f"index{side}": index[side]}
        return after

    def leave(self, number: int, state: Named) -> Leave:
        x, real = [state["x0"], state["x1"]], [state["real0"], state["real1"]]
        d = [self.final[number](each) / self.width**0.25 for each in x]
        similar = d[0] @ d[1].transpose(1, 2)
        similar = torch.where(real[0][:, :, None] & real[1][:, None, :], similar, -1e4)
        likely = [functional.logsigmoid(self.matchable[number](each))[:, :, 0] for each in x]
        scores = similar.log_softmax(2) + similar.log_softmax(1) + likely[0][:, :, None] + likely[1][:, None, :]
        scores = torch.where(real[0][:, :, None] & real[1][:, None, :], scores.exp(), 0.0)
        m, n = state["valid0"].shape[1], state["valid1"].shape[1]
        whole = scattered(scores, state["index0"], real[0], m).transpose(1, 2)
        whole = scattered(whole, state["index1"], real[1], n).transpose(1, 2)
        best = torch.where(whole.amax(2) > 0.01, whole.argmax(2), -1)
        sure = [torch.sigmoid(self.confident[number](each))[:, :, 0] for each in x]
        confident = sum(((s > 0.55) & r).sum(1) for s, r in zip(sure, real, strict=True))
        points = state["valid0"].sum(1) + state["valid1"].sum(1)
        gone = points - real[0].sum(1) - real[1].sum(1)
        share = (confident + gone) / points
        return Leave({"scores": whole, "matches0": best, "matchability": share}, share)

    def judge(self, outputs: Any, targets: Any) -> Any:
        right = (outputs["matches0"] == targets["labels"]).mean(1)
        return right, 1 - right


def attend(q: Tensor, k: Tensor, v: Tensor, real: Tensor) -> Tensor:
    similar = q @ k.transpose(1, 2) / q.shape[2] ** 0.5
    return torch.where(real[:, None, :], similar, -1e4).softmax(-1) @ v


def scattered(rows: Tensor, index: Tensor, real: Tensor, size: int) -> Tensor:
    """Rows put to where their points were in the input, zeros elsewhere."""
    base = rows.new_zeros(rows.shape[0], size + 1, rows.shape[2])
    place = torch.where(real, index, size)[:, :, None].expand(rows.shape)
    return base.scatter(1, place, rows)[:, :-1]


def built(kind: type[Adaptive], seed: int = 0) -> Adaptive:
    """A network with weights that decide something."""
    torch.manual_seed(seed)
    network = kind()
    for name, parameter in network.named_parameters():
        if parameter.ndim > 1 and any(part in name for part in ("router", "confident", "matchable", "heads")):
            nn.init.normal_(parameter, std=0.7)
    return network.eval()


NETWORKS: dict[str, type[Adaptive]] = {
    "exit CNN": ExitCNN,
    "depth map": DepthMap,
    "mixture of depths": MixtureOfDepths,
    "matcher": Matcher,
}

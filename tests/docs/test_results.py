"""The tables of measured results say what the kept files say: ``bench/results``."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest

from tests.docs.code_blocks import ROOT, page_text

Rows = list[list[str]]
NETWORKS = ("combined", "acm", "tokens", "exits", "fixed", "merge", "narrow128", "narrow96")
NONE = "–"


def kept(name: str) -> Any:
    return json.loads((ROOT / "bench" / "results" / f"{name}.json").read_text())


def result_pages() -> str:
    return "".join(page_text(f"docs/{name}.md") for name in ("results", "results_pretrained", "serving"))


def tables(text: str, heading: str) -> list[Rows]:
    """The tables under a heading, without their first two lines."""
    section = re.split(r"^#{1,6} ", text.split(f"# {heading}\n", 1)[1], maxsplit=1, flags=re.MULTILINE)[0]
    blocks = re.findall(r"(?:^\|.*\n)+", section, re.MULTILINE)
    return [[[cell.strip() for cell in line.split("|")[1:-1]] for line in block.splitlines()[2:]] for block in blocks]


def percent(share: float | None, digits: int = 2) -> str:
    return NONE if share is None else f"{share:.{digits}%}"


def digits() -> Rows:
    result = kept("digits")

    def ratio(row: Any, batch: str) -> str:
        return f"{row['ratio'][batch]['median']:.2f}"

    rows = [
        [percent(row["macs_fraction"], 1), percent(row["quality"]), ratio(row, "1"), ratio(row, "64")]
        for row in result["rows"]
    ]
    times = [f"1 ({result['dense'][batch]['median']:.3g} ms)" for batch in ("1", "64")]
    return [*rows, ["dense model", percent(result["dense_quality"]), *times]]


def family_budgets() -> Rows:
    return [
        [percent(row["fraction"], 0), *(percent(row["accuracy"][name]) for name in NETWORKS)]
        for row in kept("families")["budgets"]
    ]


def early_exits() -> Rows:
    return [
        [
            percent(row["expected_cost"], 1),
            " / ".join(percent(share, 0) for share in row["exits"]),
            f"{row['over_dense']['median']:.3f}",
            f"{row['over_expected']['median']:.2f}",
        ]
        for row in kept("early_exit")["exit_rows"]
        if row["families"] == "exits" and row["expected_cost"] > 0.35
    ]


def deadlines() -> Rows:
    return [[f"{row['deadline_ms']:.2f} ms", percent(row["missed"])] for row in kept("deadlines")["rows"]]


def control() -> Rows:
    rows: dict[str, dict[str, Any]] = {}
    for row in kept("control")["rows"]:
        rows.setdefault(row["trace"], {})[row["rival"]] = row
    made = []
    for trace, rivals in rows.items():
        ours = rivals["controller"]
        settled = NONE if ours["settled_after"] is None else f"{ours['settled_after']:.0f} calls"
        missed = [percent(rivals[name]["missed"], 1) for name in rivals]
        made.append([trace, *missed, settled, f"{ours['below_oracle']:.2f}"])
    return made


def on_machine() -> Rows:
    made: dict[str, list[str]] = {}
    for phase in kept("control")["on_machine"]["phases"]:
        cell = f"{phase['p95_over_target']:.2f} ({percent(phase['macs_fraction'], 0)})"
        made.setdefault(phase["rival"], []).append(cell)
    return [[rival, *cells] for rival, cells in made.items()]


def one_ffn() -> Rows:
    rows = kept("conditional_mlp")["rows"]
    made: dict[tuple[int, int], list[str]] = {}
    for row in rows:
        if row["k"].startswith("binomial") and row["share"] > 0.1:
            made.setdefault((row["tokens"], row["threads"]), []).append(f"{row['efficiency']['median']:.2f}")
    ordered = sorted(made, key=lambda key: (key[1], key[0]))
    return [[str(tokens), str(threads), *made[tokens, threads]] for tokens, threads in ordered]


def whole_transformers() -> Rows:
    names = {"vit-s": "ViT-S", "vit-b": "ViT-B", "ffn": "FFN", "ffn+projections": "FFN + projections"}
    made: dict[tuple[str, int, str], list[str]] = {}
    for row in kept("end_to_end")["rows"]:
        if row["adapted"] != "dense":
            made.setdefault((row["model"], row["batch"], row["adapted"]), []).append(
                f"{row['efficiency']['median']:.2f}"
            )
    return [[names[model], str(batch), names.get(part, part), *cells] for (model, batch, part), cells in made.items()]


def whole_transformers_in_int8() -> Rows:
    names = {"vit-s": "ViT-S", "vit-b": "ViT-B"}
    made: dict[tuple[str, int], list[str]] = {}
    for row in kept("end_to_end_int8")["rows"]:
        cells = made.setdefault((row["model"], row["batch"]), [])
        cells.append(
            f"{row['milliseconds']['median']:.0f} ms" if row["adapted"] == "dense" else f"{row['ratio']['median']:.2f}"
        )
    return [[names[model], str(batch), *cells] for (model, batch), cells in made.items()]


def all_families() -> Rows:
    return [
        [
            row["model"],
            row["form"],
            percent(row["work"], 0),
            " / ".join(percent(share, 0) for share in row["exits"]) or NONE,
            f"{row['milliseconds']['median']:.2f}",
            *(f"{ratio:.2f}" for ratio in (row["over_float32"]["median"], row["over_int8"], row["over_best"])),
        ]
        for name in ("all_families", "all_families_vit_b")
        for row in kept(name)["rows"]
    ]


def study() -> Rows:
    result = kept("study")

    def quality(measured: Any) -> str:
        if measured is None:
            return NONE
        spread = "" if measured["deviation"] is None else f" ± {100 * measured['deviation']:.1f}"
        return f"{100 * measured['mean']:.2f}{spread}"

    return [
        [
            f"{row['milliseconds']:.2f}",
            f"{row['over_dense']:.2f}",
            *(quality(row["quality"].get(method)) for method in result["methods"]),
            NONE if row["ahead"] is None else f"{100 * row['ahead']['mean']:+.2f}",
        ]
        for row in result["rows"]
    ]


def study_of_everything() -> Rows:
    return [
        [what, f"{measured['mean']:.2f}", " / ".join(f"{value:.2f}" for value in measured["seeds"])]
        for what, measured in kept("study")["everything"].items()
    ]


def adapting_memory() -> Rows:
    return [
        [row["shape"], f"{row['samples']:,}", f"{row['peak_gib']:.1f} GiB", f"{row['limit']:g} GiB"]
        for row in kept("adapt_memory")["rows"]
    ]


def two_nodes() -> Rows:
    result = kept("layer_nodes")
    one, two = (f"{result['seconds'][nodes]['median']:.1f} s" for nodes in "12")
    return [[str(result["layers"]), str(result["steps"]), one, two, f"{result['ratio']['median']:.2f}"]]


def estimates() -> Rows:
    return [
        [
            percent(row["share"], 0),
            str(row["batch"]),
            f"{row['estimated']:.2f}",
            NONE if row["measured"] is None else f"{row['measured']:.2f}",
            NONE if row["off"] is None else f"{row['off']:+.0%}",
        ]
        for row in kept("estimate_check")["rows"]
    ]


def overhead() -> Rows:
    return [
        [row["what"], row["unit"], *(f"{row[part]['median']:.1f}" for part in ("plain", "ours", "extra"))]
        for row in kept("runtime_overhead")["rows"]
    ]


def fidelity() -> Rows:
    result = kept("minilm_fidelity")
    rows = [
        [
            "everything" if row["budget"] is None else percent(row["budget"], 0),
            percent(row["macs_fraction"], 1),
            f"{row['likeness']:.3f}",
            percent(row["neighbours"], 1),
        ]
        for row in result["rows"]
    ]
    return [*rows, ["dense model", "100.0%", "1.000", percent(result["dense_neighbours"], 1)]]


def minilm_latency() -> Rows:
    rows = kept("minilm_latency")["rows"]
    everything = rows[-1]["timed_macs_fraction"]
    return [
        [
            cell
            for batch in ("1", "16")
            for cell in (
                percent(row["timed_macs_fraction"][batch] / everything[batch], 0),
                f"{row['ratio'][batch]['median']:.2f}",
            )
        ]
        for row in rows
    ]


def minilm_rivals() -> Rows:
    entries = kept("minilm_rivals")["entries"]
    static = [entry for entry in entries if not entry["adaptive"]]
    static.sort(key=lambda entry: float(entry["latency_ms"]["1"]["median"]))
    return [
        [
            entry["name"],
            percent(entry["work"], 0),
            f"{entry['quality']:.3f}",
            *(
                cell
                for batch in ("1", "16")
                for cell in (
                    f"{entry['latency_ms'][batch]['median']:.2f}",
                    f"{entry['over_dense'][batch]['median']:.2f}",
                )
            ),
        ]
        for entry in [*(each for each in entries if each["adaptive"]), *static]
    ]


def own_networks() -> Rows:
    return [
        [
            row["network"],
            percent(row["work"], 1),
            f"{row['time']['median']:.2f}",
            f"{row['over_work']['median']:.2f}",
            NONE if row["parts"] is None else f"{row['parts']['median']:.2f}",
        ]
        for row in kept("own_networks")["rows"]
    ]


def serving_one_by_one() -> Rows:
    return [
        [
            row["protocol"],
            f"{row['plain']['median']:.2f}",
            f"{row['request']['median']:.2f}",
            f"{row['extra']['median']:.2f} ({row['extra']['low']:.2f}–{row['extra']['high']:.2f})",
        ]
        for row in kept("serving")["overhead"]
    ]


def serving_under_load() -> Rows:
    return [
        [
            load["budget"],
            str(load["requests"]),
            str(load["lost"]),
            f"{load['p95_ms']:.0f} ms",
            percent(load["windows_in_time"], 0),
            f"{load['work']:.2f}",
        ]
        for load in kept("serving")["loads"]
    ]


@pytest.mark.parametrize(
    ("heading", "number", "expected"),
    [
        ("Digits: the default model", 0, digits),
        ("Families on Fashion-MNIST", 0, family_budgets),
        ("Early exit", 0, early_exits),
        ("Deadlines", 0, deadlines),
        ("Holding a target in milliseconds", 0, control),
        ("Holding a target in milliseconds", 1, on_machine),
        ("One FFN", 0, one_ffn),
        ("Whole vision transformers", 0, whole_transformers),
        ("Vision transformers in int8", 0, whole_transformers_in_int8),
        ("All three families in int8", 0, all_families),
        ("Adaptive against everything else on Fashion-MNIST, at equal time", 0, study),
        ("Adaptive against everything else on Fashion-MNIST, at equal time", 1, study_of_everything),
        ("What estimates are worth", 0, estimates),
        ("Memory and machines of an adaptation", 0, adapting_memory),
        ("Memory and machines of an adaptation", 1, two_nodes),
        ("The runtime itself", 0, overhead),
        ("all-MiniLM-L6-v2, adapted", 0, fidelity),
        ("all-MiniLM-L6-v2, adapted", 1, minilm_latency),
        ("all-MiniLM-L6-v2 beside static models", 0, minilm_rivals),
        ("Networks of the user's own", 0, own_networks),
        ("What it costs", 0, serving_one_by_one),
        ("What it costs", 1, serving_under_load),
    ],
)
def test_a_table_is_the_kept_result(heading: str, number: int, expected: Callable[[], Rows]) -> None:
    shown = tables(result_pages(), heading)[number]
    assert shown == expected() and shown


def test_the_memory_of_the_server_is_the_kept_result() -> None:
    memory = kept("serving")["memory"]
    first, last = memory["mib"][0], memory["mib"][-1]
    assert f"{memory['requests']:,} requests and after all of them: {first:.0f} MiB, {last:.0f} MiB." in result_pages()


def test_the_table_of_the_readme_is_a_part_of_that_of_rivals() -> None:
    (shown,) = tables(page_text("README.md"), "adaptrt")
    assert len(shown) == 6
    # Without the columns of times over the dense model's.
    assert all(row in [[*full[:4], full[5]] for full in minilm_rivals()] for row in shown)
    best = [row for row in minilm_rivals() if row[0].startswith("dense int8")]
    assert any(row[0] == best[0][0] for row in shown), "the rival that wins is not among them"


def test_times_at_half_of_the_work_are_measured_ones() -> None:
    shares, one, many = tables(result_pages(), "Families on Fashion-MNIST")[1]
    networks = {network["name"]: network["points"] for network in kept("families")["networks"]}
    for column, name in enumerate(NETWORKS, 1):
        points = {
            (
                percent(point["macs_fraction"], 1),
                f"{point['ratio']['1']['median']:.2f}",
                f"{point['ratio']['64']['median']:.2f}",
            )
            for point in networks[name]
        }
        assert (shares[column], one[column], many[column]) in points, name


def test_a_wrong_number_is_noticed() -> None:
    text = page_text("docs/results.md")
    heading = "Digits: the default model"
    assert tables(text.replace("82.50%", "82.51%"), heading)[0] != digits() == tables(text, heading)[0]

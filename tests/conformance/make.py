"""Makes the kit anew: ``python -m tests.conformance.make``, from the repository's folder. Needs onnx.

The answers are those of the Python runtime on ONNX Runtime; see README.md beside this file.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from tests import own_outputs_bundle
from tests.conformance import cases, criteria, refusals, traces
from tests.conformance.kit import INDEX, KIT, ArrayWriter, write_json

LARGEST = 3_000_000


def make(kit: Path) -> int:
    """Write the kit; its size in bytes."""
    for name in ("bundles", "cases", "damaged", "traces"):
        shutil.rmtree(kit / name, ignore_errors=True)
    bundles = kit / "bundles"
    criteria.write_entropy(bundles / "exits_entropy")
    criteria.write_patience(bundles / "exits_patience")
    criteria.write_adapted(bundles / "adapted")
    own_outputs_bundle.write_maps(bundles / "map")
    own_outputs_bundle.write_tags(bundles / "tags")
    own_outputs_bundle.write_pooled(bundles / "pooled")
    listed = []
    (kit / "cases").mkdir()
    for case in cases.CASES:
        content, arrays = cases.record(case, kit)
        cases.check_varied(content)
        write_json(kit / "cases" / f"{case.name}.json", content)
        (kit / "cases" / content["arrays"]).write_bytes(arrays)
        listed.append({"name": case.name, "file": f"cases/{case.name}.json"})
    writer = ArrayWriter()
    folders = {case.name: case.bundle for case in cases.CASES}
    refused = {
        "arrays": "refused.bin",
        "inputs": refusals.wrong_inputs(writer),
        "requests": refusals.wrong_requests(),
        "bundles": refusals.damaged(kit, folders),
    }
    write_json(kit / "refused.json", refused)
    (kit / "refused.bin").write_bytes(writer.content())
    (kit / "traces").mkdir()
    for seed, story in enumerate(traces.STORIES):
        lines = [json.dumps(line) for line in traces.record(story, seed)]
        (kit / "traces" / f"{story.kind}.jsonl").write_text("\n".join(lines) + "\n")
    write_json(
        kit / INDEX,
        {
            "conformance": 1,
            "cases": listed,
            "refused": "refused.json",
            "traces": [f"traces/{story.kind}.jsonl" for story in traces.STORIES],
        },
    )
    return sum(path.stat().st_size for path in kit.rglob("*") if path.is_file())


if __name__ == "__main__":
    size = make(KIT)
    print(f"wrote {KIT.relative_to(Path.cwd())}, {size:,} bytes")
    if size > LARGEST:
        raise SystemExit(f"got {size} bytes, expected at most {LARGEST}; record fewer")

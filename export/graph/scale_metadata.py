"""The price scales of a network in the metadata of its graphs, where a comparison finds them exactly as fitted.

In the graph itself they are constants that the exporter's optimiser folds and shares between families.
"""

from __future__ import annotations

import msgspec
import onnx

from adaptrt.export.errors import ExportError
from adaptrt.models.families.price_scale import PriceScale
from adaptrt.models.staged_network import StagedNetwork

SCALES_METADATA = "adaptrt.price_scales"


class _Knots(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    prices: list[float]
    values: list[float]


def scale_metadata(model: StagedNetwork) -> dict[str, str]:
    """The entry that says how a network's prices are mapped, by family; none where it maps none."""
    knots = {name: _Knots(list(s.prices), list(s.values)) for name, s in model.fitted_scales().items()}
    return {SCALES_METADATA: msgspec.json.encode(knots).decode()} if knots else {}


def read_price_scales(graph: onnx.ModelProto) -> dict[str, PriceScale]:
    """The scales by family that an exported stage maps its prices by; none where it maps none.

    Raises:
        ExportError: The entry cannot be read.
    """
    for entry in graph.metadata_props:
        if entry.key == SCALES_METADATA:
            try:
                scales = msgspec.json.decode(entry.value, type=dict[str, _Knots])
                return {family: PriceScale(knots.prices, knots.values) for family, knots in scales.items()}
            except (msgspec.MsgspecError, ValueError) as error:
                raise ExportError(
                    f"got a graph whose metadata {SCALES_METADATA} cannot be read ({error}), expected price scales; "
                    "export the model again"
                ) from None
    return {}

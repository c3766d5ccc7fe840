"""Networks share a graph only where they are the same, and nobody changes another's."""

import pytest
import torch

from adaptrt.models.families.price_scale import PriceScale
from tests.export import shared_traces
from tests.export.conftest import tiny_model
from tests.export.shared_traces import SharedTraces, identity


def test_networks_of_another_shape_weight_or_scale_are_others() -> None:
    assert identity(tiny_model()) == identity(tiny_model())
    others = [tiny_model(learners=2), tiny_model(), tiny_model()]
    with torch.no_grad():
        others[1].norm.weight[0] += 1e-6
    others[2].set_price_scales({"acm": PriceScale([0, 1], [0, 1])})
    assert len({identity(model) for model in [tiny_model(), *others]}) == 4


def test_a_graph_is_traced_once_and_given_as_a_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def trace(_model, *, debug, **_settings):
        calls.append(debug)
        return [{"debug": debug}], {}

    monkeypatch.setattr(shared_traces, "trace_stages", trace)
    traces = SharedTraces()
    first, _ = traces.stages(tiny_model(), debug=False, progress=print)
    first[0]["debug"] = "changed"
    assert traces.stages(tiny_model(), debug=False, progress=print) == ([{"debug": False}], {})
    assert traces.stages(tiny_model(), debug=True, progress=print) == ([{"debug": True}], {})
    assert calls == [False, True]

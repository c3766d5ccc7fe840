"""What both protocols share: the models, the queue, the metrics, and whether the server takes requests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from adaptrt import __version__
from adaptrt.runtime.errors import shown
from adaptrt.runtime.serving.errors import Outcome, ServingError, UnknownModel
from adaptrt.runtime.serving.executor import Executor, Pending
from adaptrt.runtime.serving.metrics import ServingMetrics
from adaptrt.runtime.serving.requests import Asked
from adaptrt.runtime.serving.served_model import ServedModel
from adaptrt.runtime.serving.tensors import metadata


class Frontend:
    """The served models behind the protocols.

    Args:
        models: to serve.
        max_queue: requests that may wait.
        max_batch: samples that requests together have in one call.
        batch_wait_ms: that a batch which is not full waits for more.

    Attributes:
        metrics: of all requests.
        ready: False once it stops.
        data_plane: KServe's, which tells health and metadata.

    Raises:
        ServingError: two models have one name.
    """

    def __init__(self, models: Sequence[ServedModel], *, max_queue: int, max_batch: int, batch_wait_ms: float) -> None:
        self._models = {model.name: model for model in models}
        if len(self._models) < len(models):
            names = ", ".join(shown(model.name) for model in models)
            raise ServingError(f"got bundles named {names}, expected a name for each; serve those of one name apart")
        self.metrics = ServingMetrics(lambda: len(self.executor))
        self.executor = Executor(max_queue, max_batch, batch_wait_ms, self.metrics)
        self.clock = self.executor.clock
        self.ready = True
        self.data_plane = _data_plane(self)

    @property
    def takes_requests(self) -> bool:
        """Whether those who balance loads may send some."""
        return self.ready and self.executor.alive

    @property
    def models(self) -> Mapping[str, ServedModel]:
        """Those served, by name."""
        return self._models

    def model(self, name: str) -> ServedModel:
        """The served model of that name.

        Raises:
            UnknownModel: there is none.
        """
        model = self._models.get(name)
        if model is None:
            raise UnknownModel(f"got model {shown(name)}, expected {', '.join(self._models)}; ask for one of these")
        return model

    def submit(self, model: ServedModel, asked: Asked, arrived: float) -> Pending:
        """Take a request; as ``Executor.submit``."""
        return self.executor.submit(model, asked, arrived)

    def leave(self, pending: Pending) -> None:
        """Who asked has gone."""
        self.executor.leave(pending)

    def sent(self, pending: Pending) -> None:
        """An answer has been sent."""
        self.executor.sent(pending)

    def ended(self, name: str, protocol: str, outcome: Outcome, arrived: float) -> None:
        """A request ended."""
        known = name if name in self._models else ""
        self.metrics.ended(known, protocol, outcome.name, self.clock() - arrived)

    def stop(self) -> None:
        """Take no more requests; those that wait are answered."""
        self.ready = False
        self.executor.stop()


def _data_plane(frontend: Frontend) -> Any:
    """KServe's data plane over the models, for health and metadata."""
    from kserve import ModelRepository
    from kserve.model import BaseKServeModel, InferenceModel
    from kserve.protocol.dataplane import DataPlane

    class Described(InferenceModel):
        """A model as KServe's endpoints know it: its metadata. Requests go to the queue."""

        def __init__(self, model: ServedModel) -> None:
            BaseKServeModel.__init__(self, model.name)
            self.served, self.ready = model, True

        async def __call__(self, *_arguments: object, **_named: object) -> Any:
            raise NotImplementedError

        async def healthy(self) -> bool:
            return frontend.takes_requests

        def get_input_types(self) -> list[dict[str, Any]]:
            return metadata(self.served.inputs)

        def get_output_types(self) -> list[dict[str, Any]]:
            return metadata(self.served.outputs)

    class Plane(DataPlane):
        """KServe's, under our name, that is ready until the server stops."""

        def metadata(self) -> dict[str, Any]:
            return {"name": "adaptrt", "version": __version__, "extensions": ["binary_tensor_data"]}

        async def ready(self) -> bool:
            return frontend.takes_requests

    repository = ModelRepository()
    for model in frontend.models.values():
        repository.update(Described(model))
    return Plane(model_registry=repository)

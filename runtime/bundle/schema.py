"""The keys of ``bundle.json``. Their values' limits are in ``validation``."""

from __future__ import annotations

from typing import Any

import msgspec

from adaptrt.runtime.bundle.preprocessing_schema import AudioPreprocessing, ImagePreprocessing, TextPreprocessing

FORMAT_VERSION = 2
BUNDLE_FILE = "bundle.json"
MACS_OUTPUT = "macs_fraction"
CONFIDENCE_OUTPUT = "confidence"
DECISION_ROLES = {"learners": ("runs",), "selection": ("index", "count")}
"""The outputs that tell a decision, by its kind."""
PRICE_KNOB = "price"
TOKEN_PRICE_KNOB = "token_price"
THRESHOLDS_KNOB = "exit_thresholds"
"""The one knob that no graph has: the host compares the confidences with it. It alone may be infinite."""
CRITERIA = ("max_softmax", "entropy", "certainty", "patience", "own")
SNAPPING_SETTING = "sample"
"""How the setting of a point begins that is run as it was measured, never interpolated."""
STAGE_METADATA = "adaptrt.stage"
"""Key in the ``metadata_props`` of a stage's ONNX file; its value is ``"<i>/<n>"``, counted from 0."""

KnobValue = float | list[float]
"""A number fills the knob's shape; a list has one number for each of its elements, in row-major order."""


class Axis(msgspec.Struct, frozen=True):
    """How long a named axis of the inputs may be.

    Attributes:
        shortest: the smallest size that the graph takes.
        longest: the largest; None for no limit, which only the batch axis may be without.
    """

    shortest: int = 1
    longest: int | None = None


class TensorSpec(msgspec.Struct, frozen=True):
    """A graph input or output.

    Attributes:
        name: of the tensor.
        dtype: as numpy calls it.
        shape: a number is a fixed size, a text names a dynamic axis.
        preprocessing: how an image becomes this input; None where it is none.
        minimum: the smallest value of an input of whole numbers, which always has both limits; None elsewhere.
            Inputs of fractions take every finite number.
        maximum: the largest.
    """

    name: str
    dtype: str
    shape: list[int | str]
    preprocessing: ImagePreprocessing | None = None
    minimum: int | None = None
    maximum: int | None = None


class DataFile(msgspec.Struct, frozen=True):
    """A file of weights beside a stage; ``file`` is relative to the bundle's folder."""

    file: str
    sha256: str


class PreprocessingFile(msgspec.Struct, frozen=True):
    """A file that makes inputs of what a user has, such as a tokenizer's.

    Attributes:
        file: name of the file, which lies directly in the bundle's folder.
        sha256: of the file, 64 lowercase hexadecimal digits.
        role: what it is for, such as ``tokenizer``; one file for each role.
    """

    file: str
    sha256: str
    role: str


class Carry(msgspec.Struct, frozen=True):
    """A tensor that a stage takes from the stage before it, or of the bundle's inputs; its first axis is the batch.

    Where a stage carries the mask of a set of tokens (``TokenSet.valid``), every tensor that it carries with the
    mask's second axis is cut behind the last token that is valid for some sample of the batch.

    Attributes:
        name: of the graph input that it is fed to.
        source: of the output, in the stage before, that it is; or the name of an input of the bundle, which then
            is fed for the samples that are still there.
        dtype: of both.
        shape: of both; a number is a fixed size, a text names a dynamic axis.
    """

    name: str
    source: str
    dtype: str
    shape: list[int | str]


class TokenSet(msgspec.Struct, frozen=True):
    """A set of tokens that each sample has, such as the patches of an image.

    Attributes:
        size: how many a sample has before any selection: a number, or the name of an axis of the inputs. None where
            the first decision about the set is of learners in the first stage, which tells.
        valid: name of the carried tensor, bool [batch, tokens], that says which of them are real and which padding;
            None where no stage carries one.
    """

    size: int | str | None = None
    valid: str | None = None


class DecisionSpec(msgspec.Struct, frozen=True):
    """The outputs of a stage's graph that tell one decision, for each sample and token.

    Attributes:
        kind: ``learners``: how many learners a gate ran for each token. ``selection``: which tokens were selected.
        number: of this kind, counted through all stages from 0.
        outputs: names of outputs by role. Of learners ``runs``: int32 [batch * tokens], or [batch, tokens] where not
            ``flat``. Of a selection ``index``: int32 [batch, selected], the positions of those selected, among the
            tokens before it, in order, padded with 0; and ``count``: int32 [batch], how many of them are real.
        of: name of the set of tokens.
        flat: whether ``runs`` has one axis, sample after sample; of learners only.
        nested: whether the tokens selected replace the set for what follows, as in pruning; if not, as in routing,
            the others only skip some work, and the set stays as it is. Of selections only.
    """

    kind: str
    number: int
    outputs: dict[str, str]
    of: str = "tokens"
    flat: bool = True
    nested: bool = True


class Stage(msgspec.Struct, frozen=True):
    """One ONNX file of the network.

    A file takes those inputs and knobs of the bundle that it needs, and everything in ``carry``. It has
    all outputs of the bundle, the sources of the next stage's ``carry``, its ``decisions``, and where
    there are several stages ``confidence``: float32 [batch], higher is surer.

    Attributes:
        file: path relative to the bundle's folder.
        sha256: of the file, 64 lowercase hexadecimal digits.
        exit: name of the exit head at its end, where the network has exits.
        external_data: every file that the ONNX file's weights lie in; a reference to another is refused.
        carry: what it takes from the stage before; empty for the first stage and for no other.
        decisions: which outputs tell what was decided, in the order in which it happens; fetched only when asked
            for.
    """

    file: str
    sha256: str
    exit: str | None = None
    external_data: list[DataFile] = []
    carry: list[Carry] = []
    decisions: list[DecisionSpec] = []


class Knob(msgspec.Struct, frozen=True):
    """What changes how much is computed: a graph input, or ``exit_thresholds``; at its default everything runs.

    ``exit_thresholds`` (float32 [stages - 1]) is there where there are several stages, and in no graph:
    a sample leaves at stage i if its confidence is strictly above the i-th. Its default and maximum are
    infinity, which lets none leave, whatever the range of the confidences; JSON has no infinity and says
    null. A threshold belongs to its own exit: they need not descend.
    """

    name: str
    dtype: str
    shape: list[int]
    minimum: float
    maximum: float
    default: float


class Dense(msgspec.Struct, frozen=True):
    """The dense model that all shares are relative to.

    Attributes:
        macs: multiply-accumulates of one sample at the calibration shape.
        parameters: number of weights.
        quality: measured on the held-out split.
        file: the dense model's own ONNX file, for comparison; running the bundle does not need it.
        sha256: of that file.
        external_data: as in ``Stage``.
        unsplit: whether this file also gives what the stages give where everything runs and nobody leaves: a runtime
            then runs it there, and spares the early exits. Where the file was left out, the stages run.
        answers_full: whether the stages were adapted from this model, so that none of their answers is nearer to its
            own than where this file gives them: a runtime runs it where everything would run. It then has the output
            ``macs_fraction``. Where the file was left out, the stages run, and their answers differ a little.
    """

    macs: int
    parameters: int
    quality: float | None = None
    file: str | None = None
    sha256: str | None = None
    external_data: list[DataFile] = []
    unsplit: bool = False
    answers_full: bool = False

    @property
    def runs_everything(self) -> bool:
        """Whether a runtime runs this file where everything runs."""
        return self.unsplit or self.answers_full


class CurvePoint(msgspec.Struct, frozen=True):
    """One calibrated operating point. Quality: higher is better.

    Attributes:
        knobs: values fed; a knob that is not named stood at its default. An exit threshold of infinity is
            null in JSON.
        macs_fraction: mean share of the dense MACs on the held-out split (reported).
        quality: on the held-out split (reported).
        frontier: whether no other point of the curve beats this one on the calibration split; by the
            held-out numbers that are reported another may.
        calibration_quality: on the calibration split.
        calibration_error: standard error of the difference between that and the quality of the dearest point
            there, sample by sample; None where it is not known.
        calibration_macs_fraction: on the calibration split; what budgets are solved with.
        setting: points with the same are a chain, written from the cheapest knobs to the dearest, along
            which all knobs move together; one that begins with ``sample`` is run as measured. Those
            without a name form a chain with the points that differ from them in the price only.
        hard: whether every input takes this same share of work, not only their mean.
    """

    knobs: dict[str, KnobValue]
    macs_fraction: float
    quality: float | None
    frontier: bool
    calibration_quality: float | None = None
    calibration_macs_fraction: float | None = None
    setting: str = ""
    hard: bool = False
    calibration_error: float | None = None


class BudgetPoint(msgspec.Struct, frozen=True):
    """What to run, and what to expect of it.

    Attributes:
        work: mean share of the dense MACs.
        quality: on the held-out split; None where it was not measured.
        knobs: values of all knobs.
    """

    work: float
    quality: float | None
    knobs: dict[str, KnobValue]


class BudgetRow(msgspec.Struct, frozen=True):
    """What to run under budgets from one share of work up to the next row's.

    Attributes:
        fraction: the smallest such share; 0 in the first row.
        work: mean share of the dense MACs at the near end.
        quality: there.
        knobs: values of all knobs there.
        to: the far end of the line on which the knobs lie; None where they stand as they are.
    """

    fraction: float
    work: float
    quality: float | None
    knobs: dict[str, KnobValue]
    to: BudgetPoint | None = None


class BudgetTable(msgspec.Struct, frozen=True):
    """The curve, solved: what to run under every budget.

    Attributes:
        soft: for budgets that hold on average, by rising share; empty where the curve has no such points.
        hard: for budgets that hold for each sample; likewise.
        full: everything running.
    """

    soft: list[BudgetRow]
    hard: list[BudgetRow]
    full: BudgetPoint


class Bundle(msgspec.Struct, frozen=True):
    """``bundle.json``: what an exported folder holds and what was measured of it.

    Attributes:
        format_version: ``FORMAT_VERSION`` of the adaptrt that wrote it; another is refused.
        name: of the model.
        producer: name and version of the program that wrote it.
        inputs: graph inputs, knobs not among them.
        outputs: graph outputs; float32 ``macs_fraction`` [batch] is always one.
        stages: ONNX files in the order in which they run.
        knobs: what changes how much is computed.
        dense: the dense model that all shares are relative to.
        curve: calibrated operating points; empty before calibration.
        quality_metric: what ``quality`` is, such as ``accuracy``; None before calibration.
        data: name and sizes of the data that the curve was measured on.
        ops: the ``adaptrt`` ops in the graphs, each with the number of learners that its body has in
            these files (one op name has one body per file).
        exit_criterion: what ``confidence`` is, one of ``CRITERIA``; None where there is one stage.
            ``max_softmax``: the largest probability; ``entropy``: 1 - entropy / ln(classes);
            ``certainty``: of a learned head; ``patience``: how many heads before this one, in a row up
            to it, agree with it; ``own``: the measure of a network of the user's own.
        tokens: the sets of tokens that decisions are about, or that have a carried mask, by name.
        axes: how long each named axis of the inputs may be, all of them listed.
        task: what the outputs are for, such as ``classification``; None where nothing is known of them. A name, by
            which nothing here is done otherwise.
        files: files that make the inputs; running the graphs does not need them.
        text: how texts become inputs; None where nobody says.
        audio: how recordings become inputs; None where nobody says.
        class_names: what the classes are called, in the order of ``logits``; empty where nobody says.
        budget_table: the curve, solved for every budget; None where there is no curve, or nobody solved it.
    """

    format_version: int
    name: str
    producer: str
    inputs: list[TensorSpec]
    outputs: list[TensorSpec]
    stages: list[Stage]
    knobs: list[Knob]
    dense: Dense
    curve: list[CurvePoint] = []
    quality_metric: str | None = None
    data: dict[str, Any] = {}
    ops: dict[str, int] = {}
    exit_criterion: str | None = None
    tokens: dict[str, TokenSet] = {}
    axes: dict[str, Axis] = {}
    task: str | None = None
    files: list[PreprocessingFile] = []
    budget_table: BudgetTable | None = None
    text: TextPreprocessing | None = None
    audio: AudioPreprocessing | None = None
    class_names: list[str] = []

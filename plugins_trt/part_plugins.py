"""The plugins of one kernel each: the parts of ops, and these in their int8 forms.

What the Python plugins are made from, and half of the C++ library's table. A form is a plugin of its own, whose node
has int8 weights and scales; the kernel behind it is the part's, in the variants of the form.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from adaptrt.ops import FORMS, Int8Form, Part
from adaptrt.ops.int8_forms import int8_part
from adaptrt.plugins_trt.kernel_records import KERNEL_RECORDS, QUANTISED, Argument, KernelRecord


@dataclass(frozen=True)
class PartPlugin:
    """A plugin of one kernel: a part of an op, or the same part in an int8 form.

    Attributes:
        part: Its node's inputs, outputs and attributes.
        kernel: What computes it, in the variants of the form.
        form: None: real weights.
    """

    part: Part
    kernel: KernelRecord
    form: Int8Form | None = None

    @property
    def arguments(self) -> tuple[Argument, ...]:
        """What the form's kernels take, in order."""
        if self.form is None:
            return self.kernel.arguments_of()
        return self.kernel.arguments_of(QUANTISED, QUANTISED if self.form.activations else "")

    def dtypes(self, dtype: str) -> tuple[str, str, str]:
        """Of numbers, weights and activations, as the manifest has them, where numbers are of ``dtype``."""
        weights = QUANTISED if self.form is not None else dtype
        return dtype, weights, QUANTISED if self.form is not None and self.form.activations else dtype


def part_plugins(kernels: Mapping[str, KernelRecord]) -> dict[str, PartPlugin]:
    """Give the plugins of one kernel each, by name: every part, and its int8 forms where its weights may be int8."""
    plugins = {name: PartPlugin(kernel.part, kernel) for name, kernel in kernels.items()}
    for kernel in (kernel for kernel in kernels.values() if kernel.has_weights):
        for form in FORMS:
            part = int8_part(kernel.part, form)
            plugins[part.name] = PartPlugin(part, kernel, form)
    return plugins


PART_PLUGINS: dict[str, PartPlugin] = part_plugins(KERNEL_RECORDS)
"""Every plugin of one kernel, by the name of its node."""

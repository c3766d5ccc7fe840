"""adaptrt: export models whose work depends on their input, and run them under a compute budget.

The rooms are sub-packages (``adaptrt.runtime``, ``adaptrt.export``, …); importing this package
imports none of them, so that ``adaptrt.runtime`` stays free of torch and onnx.
"""

__version__ = "0.1.0"


class AdaptrtError(Exception):
    """A mistake that the caller can mend.

    The message is one line that says what was got, what was expected and what to do. Every room
    derives its errors from this class, so that the command line can tell them from defects.
    """

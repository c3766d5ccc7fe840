"""What makes a bundle's inputs of texts, pictures and recordings: no engine, and nothing is read before it is used."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from adaptrt.runtime.bundle.schema import Bundle, TensorSpec
from adaptrt.runtime.errors import InputError
from adaptrt.runtime.preprocessing.audio import AudioSource, preprocess_audio
from adaptrt.runtime.preprocessing.image import Colour, PictureSource, preprocess_images
from adaptrt.runtime.preprocessing.preprocessed import PreprocessedInputs
from adaptrt.runtime.preprocessing.text import TextPreprocessor, load_text_preprocessor


class Preprocessor:
    """Makes inputs by what a bundle declares. Any number of threads may use one.

    Args:
        bundle: what declares it.
        root: the bundle's folder, where a tokenizer is read from when the first text comes; None where the bundle
            lies in no folder, and takes no texts.
    """

    def __init__(self, bundle: Bundle, root: Path | None) -> None:
        self._bundle, self._root = bundle, root

    def text(self, texts: Sequence[str]) -> PreprocessedInputs:
        """Inputs for a batch of texts, [len(texts), tokens] each.

        Args:
            texts: the texts; may be none.

        Returns:
            Arrays by the names of the inputs. ``cut`` says how many texts were longer than the model takes.

        Raises:
            InputError: the bundle takes no texts, something is none, or adaptrt[text] is not installed.
            BundleError: the tokenizer was changed since the export, or is that of another model.
        """
        return self._texts(texts)

    def images(
        self, pictures: Sequence[PictureSource], *, background: Colour | None = None, name: str | None = None
    ) -> PreprocessedInputs:
        """An input for a batch of pictures, [len(pictures), C, H, W].

        Args:
            pictures: image files; arrays ``uint8`` [H, W] or [H, W, C] of 1, 3 (RGB) or 4 (RGBA) channels; or pictures
                of Pillow's.
            background: red, green and blue that pictures are laid over which are not opaque; None: as declared.
            name: of the input, where a bundle takes pictures for several.

        Returns:
            The array by the input's name. ``laid_over`` says how many pictures were not opaque.

        Raises:
            InputError: the bundle takes no pictures, one is missing or damaged, or adaptrt[image] is not installed.
        """
        return preprocess_images(pictures, self._image_input(name), background)

    def audio(self, recordings: Sequence[AudioSource]) -> PreprocessedInputs:
        """Inputs for a batch of recordings.

        Args:
            recordings: WAV files, or float arrays [samples] of one channel at the declared rate, from -1 to 1.

        Returns:
            Arrays by the names of the inputs. ``cut`` says how many recordings were longer than the model takes.

        Raises:
            InputError: the bundle takes no recordings, one is missing, damaged or of another rate, or they do not
                make a batch.
        """
        recipe = self._bundle.audio
        if recipe is None:
            raise self._unknown("recordings")
        return preprocess_audio(
            recordings, recipe, {spec.name: spec for spec in self._bundle.inputs}, self._bundle.axes
        )

    @cached_property
    def _texts(self) -> TextPreprocessor:
        recipe = self._bundle.text
        if recipe is None:
            raise self._unknown("texts")
        if self._root is None:
            raise InputError("got texts for a model that lies in no folder, expected a loaded bundle; use load")
        return load_text_preprocessor(self._root, self._bundle, recipe)

    def _image_input(self, name: str | None) -> TensorSpec:
        images = [spec for spec in self._bundle.inputs if spec.preprocessing is not None and name in {None, spec.name}]
        if len(images) > 1:
            names = ", ".join(repr(spec.name) for spec in images)
            raise InputError(f"got pictures for one of the inputs {names}, expected its name; pass name=")
        if not images:
            raise self._unknown("pictures" if name is None else f"pictures for {name!r}")
        return images[0]

    def _unknown(self, what: str) -> InputError:
        names = ", ".join(repr(spec.name) for spec in self._bundle.inputs[:10])
        return InputError(
            f"got {what}, expected arrays: this bundle's inputs are {names} and it does not say how to make them of "
            f"{what}; feed arrays"
        )

"""Classification of images into one of several labels (ViT, Dosovitskiy et al. 2020, arXiv 2010.11929)."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from jaxft.data.batches import Batch
from jaxft.data.pixels import cropped, erased, flipped, prepared
from jaxft.data.sources import Row, SourceConfig, required_column
from jaxft.data.sources.config import Column
from jaxft.data.store import TOKENS, Fields, Record
from jaxft.errors import InvalidField, RecipeError
from jaxft.kernels.cross_entropy import cross_entropy, is_first
from jaxft.kernels.shapes import Array
from jaxft.models.heads import HeadConfig
from jaxft.models.transformer import Images
from jaxft.objectives.config import LabelConfig, Normalization
from jaxft.objectives.label_loss import (
    DEFAULT_LABEL_METRICS,
    LABEL_METRICS,
    LOWER_IS_BETTER,
    as_label,
    check_labels,
    number_of,
    sorted_labels,
)
from jaxft.objectives.mixup import draw_mixing
from jaxft.objectives.objective import Apply, FoundInData, Objective, ObjectiveContext, Ratio, StreamLoss
from jaxft.objectives.sequence_classification import label_and_probabilities
from jaxft.objectives.shown import ShownRow
from jaxft.objectives.text_task import check_shares

_PIXELS = "pixels"


@dataclasses.dataclass(frozen=True)
class ImageClassificationConfig(FoundInData, LabelConfig):
    """Image classification in a recipe.

    Attributes:
      image: column with the image: its path, or an array.
      label: column with the label: text or a whole number.
      labels: all labels in the order of their ids; found in the training data where None.
      mean: of each channel, in shares of the brightest, which is taken off; that of the pretrained model's
        preprocessor_config.json, else 0.5, where None.
      deviation: by which each channel is then divided, likewise.
      flip: whether left and right may be exchanged while training.
      crop: smallest share of the area that a random part has while training; 1 for the whole image.
      erase: chance that a random rectangle is filled with the mean while training.
      mixup: parameter of the Beta distribution by which two images and their labels are mixed while training, 0.2 for
        instance (Zhang et al. 2017, arXiv 1710.09412); 0 for none.
      label_smoothing: share of the target that is spread over all labels while training.
      dropout: rate before the last projection.
    """

    problem_type = "single_label_classification"

    kind: Literal["image_classification"] = "image_classification"
    image: str = "image"
    label: str = "label"
    labels: tuple[str, ...] | None = None
    mean: tuple[float, ...] | None = None
    deviation: tuple[float, ...] | None = None
    flip: bool = False
    crop: float = 1.0
    erase: float = 0.0
    mixup: float = 0.0
    label_smoothing: float = 0.0
    dropout: float = 0.0

    def __post_init__(self) -> None:
        check_labels(self.labels)
        check_shares(self, "dropout", "label_smoothing")
        if not 0 < self.crop <= 1:
            raise InvalidField("crop", f"must lie between 0 and 1, found {self.crop}")
        if not 0 <= self.erase <= 1:
            raise InvalidField("erase", f"must be a chance from 0 to 1, found {self.erase}")
        if self.mixup < 0:
            raise InvalidField("mixup", f"must not be negative, found {self.mixup}")
        if (self.mean is None) != (self.deviation is None):
            raise InvalidField("mean", "give both mean and deviation, or neither")
        mean = self.mean or ()
        if self.deviation is not None and (len(self.deviation) != len(mean) or min(self.deviation) <= 0):
            raise InvalidField("deviation", f"must be one positive number for each channel, found {self.deviation}")

    @property
    def is_complete(self) -> bool:
        """Whether the labels are known."""
        return self.labels is not None

    def target_of(self, row: Row) -> str:
        """The label of a row."""
        return as_label(required_column(row, self.label), row, self.label)

    def completed(self, targets: Iterable[str], where: str) -> ImageClassificationConfig:
        """With all labels."""
        return dataclasses.replace(self, labels=sorted_labels(targets, self.label, where))

    def normalization(self) -> Normalization:
        """Mean and deviation."""
        return Normalization(self.mean, self.deviation)

    def with_normalization(self, mean: tuple[float, ...], deviation: tuple[float, ...]) -> ImageClassificationConfig:
        """With a pretrained model's mean and deviation where it has none of its own."""
        return self if self.mean is not None else dataclasses.replace(self, mean=mean, deviation=deviation)

    def specimen(self, text: str, number: int) -> dict[str, Any]:
        """A black image and a label."""
        labels = self.specimen_labels()
        return {self.image: np.zeros((8, 8), np.uint8), self.label: labels[number % len(labels)]}

    def write_specimens(self, path: pathlib.Path, length: int) -> SourceConfig:
        """As NumPy's arrays."""
        target, rows = path.with_suffix(".npz"), self.specimens(length)
        np.savez(target, images=[row[self.image] for row in rows], labels=[row[self.label] for row in rows])
        return SourceConfig(arrays=(str(target),), columns={Column(self.image): "image", Column(self.label): "label"})


class ImageClassification(Objective):
    """Predicts one label for each image."""

    families = frozenset({"vision"})
    overhead = 0
    pack = False
    truncate = True
    predicts = True
    metrics = LABEL_METRICS
    default_metrics = DEFAULT_LABEL_METRICS
    lower_is_better = LOWER_IS_BETTER

    def __init__(self, config: ImageClassificationConfig, context: ObjectiveContext):
        labels = config.label_names()
        head = HeadConfig("sequence_classification", len(labels), None, dropout=config.dropout)
        super().__init__(config.kind, context, None, {context.stream: head})
        model, self.length = context.model, 1
        self._config, self._context, self.labels = config, context, labels
        self._ids = {label: number for number, label in enumerate(self.labels)}
        self._shape = (model.channels, model.image_size, model.image_size)
        self._mean, self._deviation = (
            np.array(given or [0.5] * model.channels, np.float32) for given in (config.mean, config.deviation)
        )
        if len(self._mean) != model.channels:
            problem = f"mean and deviation are for {len(self._mean)} channels, the model has {model.channels}"
            raise RecipeError(f"objective {config.kind}: {problem}")
        self._patches = model.class_tokens + (model.image_size // model.patch_size) ** 2

    def fields(self, row: Row) -> Fields:
        """The pixels, in the model's size, and the number of the label."""
        label = number_of(self._config.target_of(row), self._ids, row)
        return dataclasses.replace(fields := self.unlabelled_fields(row), values={**fields.values, "label": label})

    def unlabelled_fields(self, row: Row) -> Fields:
        """The pixels of an image that is to be predicted."""
        image = required_column(row, self._config.image)
        pixels = prepared(image, self._shape[1], self._shape[0], row.location)
        # The place of the image stands where other records have a text.
        return Fields({TOKENS: row.location}, {_PIXELS: pixels.ravel(), "label": 0})

    def record_options(self) -> str:
        """The columns, the labels and the shape of the pixels."""
        config = self._config
        return f"image={config.image} label={config.label} labels={self.labels} shape={self._shape}"

    def for_evaluation(self) -> ImageClassification:
        """Whole images and the plain cross entropy."""
        plain = dataclasses.replace(self._config, flip=False, crop=1.0, erase=0.0, mixup=0.0, label_smoothing=0.0)
        return ImageClassification(plain, self._context)

    def make_row(self, records: list[Record], keys: list[np.random.Generator]) -> Batch:
        """One image: `pixels` uint8 `(channels, height, width)` and `label` int32 `()`."""
        (record,), (key,), config = records, keys, self._config
        pixels = record[_PIXELS].astype(np.uint8).reshape(self._shape)
        if config.crop < 1:
            pixels = cropped(pixels, config.crop, key)
        if config.flip:
            pixels = flipped(pixels, key)
        if config.erase:
            pixels = erased(pixels, config.erase, np.rint(self._mean * 255).astype(np.uint8), key)
        return {"pixels": pixels, "label": np.int32(record["label"])}

    def shown(self, row: Batch) -> ShownRow:
        """The label's name alone: pixels are nothing to print."""
        return ShownRow({}, self.labels[int(row["label"])])

    def loss(self, apply: Apply, batch: Mapping[str, jax.Array]) -> StreamLoss:
        """Cross entropy of the labels, one weight for each image."""
        config, label, weights = self._config, batch["label"], batch["row_weight"]
        pixels = self._normalized(batch)
        if config.mixup and apply.key is not None:
            mixing = draw_mixing(apply.key, config.mixup, len(label))
            logits = self._logits(apply, mixing(pixels))
            own, other = (
                cross_entropy(logits, one, label_smoothing=config.label_smoothing)
                for one in (label, label[mixing.partner])
            )
            losses = mixing(own, other)
        else:
            logits = self._logits(apply, pixels)
            losses = cross_entropy(logits, label, label_smoothing=config.label_smoothing)
        accuracy = Ratio((is_first(logits, label) * weights).sum(), weights.sum())
        tokens = jnp.float32(len(label) * self._patches)
        return StreamLoss((losses * weights).sum(), weights.sum(), tokens, {"accuracy": accuracy})

    def outputs(self, apply: Apply, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """`logits` float32 `(batch, labels)` and `label` int32 `(batch,)`."""
        return {"logits": self._logits(apply, self._normalized(batch)), "label": batch["label"]}

    def predictions(self, records: Sequence[Record], outputs: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
        """`label`, and the `probabilities` of all labels."""
        return [label_and_probabilities(logits, self.labels) for logits in outputs["logits"]]

    def _normalized(self, batch: Mapping[str, jax.Array]) -> Float[Array, "batch channels height width"]:
        """float32 `(batch, channels, height, width)`."""
        mean, deviation = (jnp.asarray(one)[:, None, None] for one in (self._mean, self._deviation))
        return (batch["pixels"].astype(jnp.float32) / 255 - mean) / deviation

    def _logits(
        self, apply: Apply, pixels: Float[Array, "batch channels height width"]
    ) -> Float[Array, "batch classes"]:
        return apply(Images(pixels), head=self.head_name).logits

"""The schema of a recipe: how the configs of all rooms are put together."""

from __future__ import annotations

import dataclasses
import typing
from typing import Any

from jaxft.checkpoint.checkpoints import CheckpointConfig
from jaxft.data.augmentation import AugmentationConfig
from jaxft.data.mixing import MixingConfig
from jaxft.data.preparing import BadRowsConfig
from jaxft.data.sources import SourceConfig
from jaxft.data.tokenizers import ByteBPEConfig, SentencePieceConfig, TrainingConfig, WordPieceConfig
from jaxft.errors import InvalidField
from jaxft.finetuning.config import FinetuningConfig
from jaxft.generation.config import GenerationConfig
from jaxft.models.config import ComputeConfig, ModelConfig
from jaxft.objectives.config import ObjectiveConfig
from jaxft.objectives.registry import kinds
from jaxft.parallel.mesh import MeshConfig
from jaxft.recipe.comparison import CompareConfig
from jaxft.recipe.presets import PRESETS
from jaxft.training.balance import BalanceConfig, ClipConfig
from jaxft.training.early_stopping import EarlyStoppingConfig
from jaxft.training.optimizer import OptimizerConfig
from jaxft.training.schedule import ScheduleConfig
from jaxft.training.stream_weights import WeightScheduleConfig


def _optional_model_fields() -> list[tuple]:
    hints = typing.get_type_hints(ModelConfig)
    return [(field.name, hints[field.name] | None, None) for field in dataclasses.fields(ModelConfig)]


_ORIGINS = ("preset", "pretrained", "adapter")
# Any, as no type checker reads fields that are made of others.
_ModelFields: Any = dataclasses.make_dataclass(
    "_ModelFields", [(name, str | None, None) for name in _ORIGINS] + _optional_model_fields(), frozen=True
)


@dataclasses.dataclass(frozen=True)
class ModelSection(_ModelFields):
    """A model by preset or pretrained weights, and any field of ModelConfig over it.

    Attributes:
      preset: the name of a shape that comes with jaxft.
      pretrained: weights to start from: a directory in Hugging Face layout, the id of one on the hub, or a run.
      adapter: a low-rank update in PEFT's format that is merged into them.
    """

    preset: str | None = None
    pretrained: str | None = None
    adapter: str | None = None

    def __post_init__(self) -> None:
        if self.preset is not None and self.preset not in PRESETS:
            raise InvalidField("preset", f"{self.preset!r} is not one of {', '.join(PRESETS)}")
        if self.preset is not None and self.pretrained is not None:
            problem = "give either preset or pretrained: a pretrained model brings its shape with it"
            raise InvalidField("preset", problem)
        if self.adapter is not None and self.pretrained is None:
            raise InvalidField("adapter", "is merged into a pretrained model: name that too, by pretrained")


@dataclasses.dataclass(frozen=True)
class TokenizerSection:
    """Where the tokenizer comes from; a pretrained model brings its own.

    Attributes:
      path: a directory in Hugging Face layout, or one that `jaxft tokenizer train` wrote.
      train: trains a SentencePiece vocabulary on the texts of the recipe's streams when the run first starts.
      wordpiece: trains BERT's kind of vocabulary on them.
      byte_bpe: trains GPT-2's kind of vocabulary on them.
    """

    path: str | None = None
    train: SentencePieceConfig | None = None
    wordpiece: WordPieceConfig | None = None
    byte_bpe: ByteBPEConfig | None = None

    def __post_init__(self) -> None:
        if sum(given is not None for given in (self.path, self.train, self.wordpiece, self.byte_bpe)) != 1:
            raise InvalidField("path", "give one of path, train, wordpiece and byte_bpe")

    @property
    def training(self) -> TrainingConfig | None:
        """How a vocabulary is trained, or None."""
        return self.train or self.wordpiece or self.byte_bpe


@dataclasses.dataclass(frozen=True)
class StreamSection:
    """A stream: a source, an objective, a share of the batch.

    Attributes:
      source: one or more sources, read one after the other as one, or mixed.
      objective: what is learned from it.
      batch_size: rows in every step in which the stream takes part.
      share: in place of a batch size, the stream's share of all tokens of the run, beside the first stream; fewer than
        a row in every step become a row in every second, third ... step.
      every: the stream takes part in every so many steps.
      weight: of its mean loss; with 0 it is not trained.
      schedule: how the weight changes.
      mixing: shares of the sources, which then are mixed.
      augmentation: changes of the training examples of a task.
    """

    source: tuple[SourceConfig, ...]
    objective: ObjectiveConfig = dataclasses.field(metadata={"kinds": kinds})
    batch_size: int | None = None
    share: float | None = None
    every: int = 1
    weight: float = 1.0
    schedule: WeightScheduleConfig | None = None
    mixing: MixingConfig | None = None
    augmentation: AugmentationConfig | None = None

    def __post_init__(self) -> None:
        if (self.batch_size is None) == (self.share is None):
            raise InvalidField("batch_size", "give either batch_size or share")
        if self.share is not None and not 0 < self.share < 1:
            raise InvalidField("share", f"must lie between 0 and 1, found {self.share}")
        if self.share is not None and self.every != 1:
            raise InvalidField("every", "comes from the share where that is given")
        for field in ("batch_size", "every"):
            if (value := getattr(self, field)) is not None and value < 1:
                raise InvalidField(field, f"must be at least 1, found {value}")
        if self.weight < 0:
            raise InvalidField("weight", f"must not be negative, found {self.weight}")
        if not self.source:
            raise InvalidField("source", "needs at least one source")
        if self.mixing is not None:
            stages = {f"stages.{i}.weights": stage.weights for i, stage in enumerate(self.mixing.stages)}
            for field, weights in {"weights": self.mixing.weights, **stages}.items():
                if weights is not None and len(weights) != len(self.source):
                    found = f"must be one for each of {len(self.source)} sources, found {len(weights)}"
                    raise InvalidField(f"mixing.{field}", found)


@dataclasses.dataclass(frozen=True)
class EvaluationSection:
    """An evaluation on held-out data, with a stream's objective or one that is only evaluated.

    Attributes:
      source: held-out data.
      stream: whose objective and head, or
      objective: one that no stream trains, as pretraining's in one-way fine-tuning: its head keeps the weights that it
        started with.
      metrics: names; the usual ones of the objective where None.
      batch_size: rows at a time; the stream's where None.
      generation: how answers are written, where metrics compare them (`exact_match`, `rougeL`, `bleu` ...).
    """

    source: tuple[SourceConfig, ...]
    stream: str | None = None
    objective: ObjectiveConfig | None = dataclasses.field(default=None, metadata={"kinds": kinds})
    metrics: tuple[str, ...] | None = None
    batch_size: int | None = None
    generation: GenerationConfig | None = None

    def __post_init__(self) -> None:
        if (self.stream is None) == (self.objective is None):
            raise InvalidField("stream", "give either stream or objective")
        if self.batch_size is not None and self.batch_size < 1:
            raise InvalidField("batch_size", f"must be at least 1, found {self.batch_size}")


@dataclasses.dataclass(frozen=True)
class TrainingSection(ComputeConfig):
    """How long and how a run trains; the fields of ComputeConfig too.

    Attributes:
      steps: number of updates, or
      epochs: passes over the data of the first stream.
      seed: of initialization, shuffling, masks and dropout.
      micro_batches: parts in which a batch is computed to save memory.
      gradient_clip: clipping by norm.
      balance: how the first stream, the task, is protected from the others.
      skips_allowed: steps in a row without a finite gradient before the run counts as diverged.
      log_every: steps between reports.
      evaluate_every: steps between evaluations; None: ten times in a run.
      early_stopping: when to end before the last step.
    """

    steps: int | None = None
    epochs: float | None = None
    seed: int = 0
    micro_batches: int = 1
    gradient_clip: ClipConfig = ClipConfig()
    balance: BalanceConfig = BalanceConfig()
    skips_allowed: int = 5
    log_every: int = 10
    evaluate_every: int | None = None
    early_stopping: EarlyStoppingConfig | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.steps is None) == (self.epochs is None):
            raise InvalidField("steps", "give either steps or epochs")
        if self.epochs is not None and self.epochs <= 0:
            raise InvalidField("epochs", f"must be positive, found {self.epochs}")
        for name in ("steps", "micro_batches", "log_every", "evaluate_every"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise InvalidField(name, f"must be at least 1, found {value}")
        if self.skips_allowed < 0:
            raise InvalidField("skips_allowed", f"must not be negative, found {self.skips_allowed}")
        if not 0 <= self.seed < 2**31:
            raise InvalidField("seed", f"must be in [0, 2**31), found {self.seed}")


@dataclasses.dataclass(frozen=True)
class DataSection:
    """Where data lies.

    Attributes:
      directory: relative paths of sources start here; the recipe's own directory where None.
      cache: token stores are kept here; `$JAXFT_CACHE` or `~/.cache/jaxft` where None.
      bad_rows: what happens to rows that cannot be used.
      workers: processes that make batches; 0: a thread of this process.
    """

    directory: str | None = None
    cache: str | None = None
    bad_rows: BadRowsConfig = BadRowsConfig()
    workers: int = 0

    def __post_init__(self) -> None:
        if self.workers < 0:
            raise InvalidField("workers", f"must not be negative, found {self.workers}")


@dataclasses.dataclass(frozen=True)
class ReportingSection:
    """Where metrics go besides `metrics.jsonl`.

    Attributes:
      tensorboard: write event files into the run directory (extra `tensorboard`).
      wandb_project: a Weights & Biases project (extra `wandb`), or None.
    """

    tensorboard: bool = False
    wandb_project: str | None = None


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Everything about a run.

    Attributes:
      plugins: files of Python (whose relative paths start from the recipe's own directory) and modules whose
        objectives, sources, metrics, optimizers and architectures it uses (`jaxft.plugins`).
    """

    name: str
    model: ModelSection
    streams: dict[str, StreamSection]
    training: TrainingSection
    tokenizer: TokenizerSection | None = None
    evaluation: dict[str, EvaluationSection] = dataclasses.field(default_factory=dict)
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    finetuning: FinetuningConfig = FinetuningConfig()
    compare: CompareConfig | None = None
    checkpoint: CheckpointConfig = CheckpointConfig()
    mesh: MeshConfig = MeshConfig()
    data: DataSection = DataSection()
    reporting: ReportingSection = ReportingSection()
    plugins: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if not self.name.strip() or any(character in self.name for character in "/\\\0") or self.name in (".", ".."):
            raise InvalidField("name", f"must be usable as the name of a directory, found {self.name!r}")
        if not self.streams:
            raise InvalidField("streams", "needs at least one stream")
        if self.model.pretrained is None and self.tokenizer is None and self.model_family != "vision":
            problem = "a model that is not pretrained needs one: `tokenizer: {path: DIRECTORY}` or `{train: {}}`"
            raise InvalidField("tokenizer", problem)
        first = next(iter(self.streams))
        if self.streams[first].batch_size is None or not self.streams[first].weight:
            raise InvalidField(f"streams.{first}", "the first stream is the task: it has a batch_size and a weight")
        for name, evaluation in self.evaluation.items():
            if evaluation.stream is not None and evaluation.stream not in self.streams:
                known = ", ".join(self.streams)
                raise InvalidField(
                    f"evaluation.{name}.stream", f"{evaluation.stream!r} is not one of the streams: {known}"
                )
            if evaluation.stream is None and name in self.streams:
                raise InvalidField(
                    f"evaluation.{name}", "has an objective of its own, so it cannot bear a stream's name"
                )
        for name, stream in self.streams.items():
            if stream.batch_size is not None and stream.batch_size % self.training.micro_batches:
                raise InvalidField(
                    "training.micro_batches",
                    f"{self.training.micro_batches} does not divide streams.{name}.batch_size {stream.batch_size}",
                )

    def objective_of(self, evaluation: str) -> str:
        """The name under which the objective of an evaluation stands: its stream's, or the evaluation's own."""
        return self.evaluation[evaluation].stream or evaluation

    @property
    def model_family(self) -> str | None:
        """Family of the model by the recipe's own words; None where a pretrained model decides."""
        return self.model.family or PRESETS.get(self.model.preset or "", {}).get("family")

    def model_config(self, inherited: ModelConfig | None, vocab_size: int) -> ModelConfig:
        """The model's shape: preset or inherited fields, the recipe's own over them, and a vocabulary for the
        tokenizer.

        Raises:
          InvalidField: an impossible value.
        """
        names = [field.name for field in dataclasses.fields(ModelConfig)]
        base = dict(PRESETS.get(self.model.preset or "", {}))
        if inherited is not None:
            base = {name: getattr(inherited, name) for name in names}
        fields = {name: getattr(self.model, name) for name in names}
        own = {name: value for name, value in fields.items() if value is not None}
        # Rows of the embedding in multiples of 64 lie well on every accelerator and divide over a mesh.
        rows = 1 if self.model_family == "vision" else -(-vocab_size // 64) * 64
        return ModelConfig(**{"vocab_size": rows, **base, **own})

"""What a recipe says under `finetuning`."""

from __future__ import annotations

import dataclasses

from jaxft.errors import InvalidField
from jaxft.finetuning.adapters import AdapterConfig
from jaxft.finetuning.anchors import EwcConfig, RecAdamConfig
from jaxft.finetuning.averaging import AveragingConfig
from jaxft.finetuning.lora import LoraConfig
from jaxft.finetuning.policy import PolicyConfig


@dataclasses.dataclass(frozen=True)
class FinetuningConfig(PolicyConfig):
    """Tactics of fine-tuning; the fields of `PolicyConfig` too. They can be combined.

    Attributes:
      lora: low-rank adaptation; the rest of the model is frozen, heads aside.
      adapters: bottleneck adapters, likewise.
      reinitialize_layers: so many layers from the top begin anew (Zhang et al. 2021, arXiv 2006.05987).
      l2_sp: strength of the pull to the start, which takes the place of weight decay.
      ewc: a pull to the start, stronger for what matters to pretraining.
      recadam: a pull to the start that gives way to the task.
      start_divergence: by stream, weight of the divergence of its predictions from those at the start.
      mixout: rate at which parameters are replaced by those at the start while training.
      averaging: an average over steps.
    """

    lora: LoraConfig | None = None
    adapters: AdapterConfig | None = None
    reinitialize_layers: int = 0
    l2_sp: float = 0.0
    ewc: EwcConfig | None = None
    recadam: RecAdamConfig | None = None
    start_divergence: dict[str, float] = dataclasses.field(default_factory=dict)
    mixout: float = 0.0
    averaging: AveragingConfig | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.lora is not None and self.adapters is not None:
            raise InvalidField("adapters", "give either lora or adapters")
        if self.reinitialize_layers < 0:
            raise InvalidField("reinitialize_layers", f"must not be negative, found {self.reinitialize_layers}")
        if self.reinitialize_layers and self.lora is not None:
            raise InvalidField("reinitialize_layers", "cannot be combined with lora, which freezes the layers")
        low_rank = "lora" if self.lora is not None else "adapters" if self.adapters is not None else None
        for field in ("l2_sp", "ewc", "recadam", "mixout"):
            if low_rank is not None and getattr(self, field):
                raise InvalidField(field, f"holds parameters to where they began, and {low_rank} freezes them there")
        if self.l2_sp < 0:
            raise InvalidField("l2_sp", f"must not be negative, found {self.l2_sp}")
        if not 0 <= self.mixout < 1:
            raise InvalidField("mixout", f"must be in [0, 1), found {self.mixout}")
        for stream, weight in self.start_divergence.items():
            if weight <= 0:
                raise InvalidField("start_divergence", f"{stream}: must be positive, found {weight}")

    @property
    def needs_start(self) -> str | None:
        """The first field that makes sense only with weights to start from, or None."""
        fields = ("reinitialize_layers", "l2_sp", "ewc", "recadam", "start_divergence", "mixout")
        quantizes = "lora.quantize" if self.lora is not None and self.lora.quantize != "none" else None
        return next((field for field in fields if getattr(self, field)), quantizes)

    @property
    def keeps_origin(self) -> bool:
        """Whether parameters are compared with those at the start in every step."""
        return any((self.l2_sp, self.ewc, self.recadam, self.start_divergence, self.mixout))

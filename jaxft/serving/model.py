"""The model that a server has, and what it can do."""

from __future__ import annotations

import dataclasses

from jaxft.data.chat import ChatFormat
from jaxft.generation.generator import Generator
from jaxft.generation.reader import Reader
from jaxft.parallel.trees import Parameters


@dataclasses.dataclass(frozen=True)
class ServedModel:
    """A model behind the endpoints.

    Attributes:
      name: that clients call it by.
      generator: what writes, or None.
      parameters: that it writes with.
      form: how it is talked to, or None.
      reader: what reads texts whole, or None.
      reasons: why it can't do what it can't, by the name of what that is.
    """

    name: str
    generator: Generator | None = None
    parameters: Parameters | None = None
    form: ChatFormat | None = None
    reader: Reader | None = None
    reasons: dict[str, str] = dataclasses.field(default_factory=dict)

    def need_generator(self) -> Generator:
        """What writes, of a model that can."""
        assert self.generator is not None
        return self.generator

    def need_reader(self) -> Reader:
        """What reads, of a model that can."""
        assert self.reader is not None
        return self.reader

    @property
    def abilities(self) -> list[str]:
        """What it can do: `completions`, `chat`, `embeddings`, `classify`, `fill-mask`."""
        reader = self.reader
        can = {
            "completions": self.generator is not None,
            "chat": self.generator is not None and self.form is not None,
            "embeddings": reader is not None and reader.pooling is not None,
            "classify": reader is not None and reader.classifier is not None,
            "fill-mask": reader is not None and reader.masked_lm is not None and reader.tokenizer.mask_id is not None,
        }
        return [name for name, able in can.items() if able]

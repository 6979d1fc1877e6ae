"""What is compiled before a server answers, so that the first requests do not wait longer than they may."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator

import numpy as np

from jaxft.generation.config import GenerationConfig
from jaxft.generation.prompts import context_of
from jaxft.generation.talking import ends_of_answers
from jaxft.serving.limits import Limits
from jaxft.serving.model import ServedModel

# Lengths of prompts and texts: sizes of `jaxft.generation.prompts`, but for the first, as questions are short. And that
# of a completion where nothing is said of it.
_PROMPTS, _COMPLETION = (8, 24, 32, 48, 64, 96, 128), 16
# No further program is begun after so long.
_SECONDS = 60.0


@dataclasses.dataclass(frozen=True)
class Warmed:
    """What was compiled.

    Attributes:
      shapes: how many.
      of: how many there were to be.
      seconds: it took.
    """

    shapes: int
    of: int
    seconds: float

    def __str__(self) -> str:
        return f"{self.shapes} of {self.of} common shapes compiled in {self.seconds:.0f} s"


def warm_up(model: ServedModel, limits: Limits) -> Warmed:
    """Has a model write or read once in each of its common shapes; what does not fit into its context is left out."""
    began, done = time.monotonic(), 0
    shapes = list(_shapes(model, limits))
    for length, config in shapes:
        if time.monotonic() - began > _SECONDS:
            break
        _once(model, length, config)
        done += 1
    return Warmed(done, len(shapes), time.monotonic() - began)


def _shapes(model: ServedModel, limits: Limits) -> Iterator[tuple[int, GenerationConfig | None]]:
    """Lengths of prompts with what is written after them; None for texts that are read. The shortest come first."""
    if model.generator is None:
        if model.reader is not None:
            longest = min(limits.max_prompt_tokens, model.reader.layout.longest)
            yield from ((length, None) for length in _PROMPTS if length <= longest)
        return
    context = context_of(model.generator.decoder.model.config) or limits.max_prompt_tokens + 1
    # What ends a conversation's answers may be a shape of its own.
    ends = {} if model.form is None else ends_of_answers(model.form, model.generator)
    for length in _PROMPTS:
        if length < context and length <= limits.max_prompt_tokens:
            # As requests are by themselves: drawn at the temperature 1, a conversation's as long as there are any.
            for answer, more in ((min(_COMPLETION, limits.max_tokens), {}), (limits.max_tokens, ends)):
                yield length, GenerationConfig(max_new_tokens=answer, temperature=1.0, **more)


def _once(model: ServedModel, length: int, config: GenerationConfig | None) -> None:
    if config is not None:
        generator = model.need_generator()
        assert model.parameters is not None  # of a model that writes
        pad = generator.special.pad
        # The first piece is enough, as the rest is written by the same program.
        next(generator.stream(model.parameters, [np.full(length, pad, np.int32)], config, 1), None)
        return
    reader = model.need_reader()
    pad = reader.tokenizer.pad_id
    row = np.full(length, pad, np.int32)
    reads = {"classify": reader.classified, "embeddings": reader.embedded, "fill-mask": reader.filled}
    for ability in model.abilities:
        if ability == "fill-mask":
            row[0] = reader.need_mask()
        reads[ability]([(row, np.zeros(length, np.int32))])

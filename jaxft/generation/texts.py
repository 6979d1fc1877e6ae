"""Texts that a model writes: whole, piece by piece, and while they grow."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from jaxft.generation.config import PromptOptions
from jaxft.generation.loop import Decoding
from jaxft.generation.transcript import Ending, Transcript
from jaxft.parallel.sharding import host_copies


@dataclasses.dataclass(frozen=True)
class Generated:
    """A text that was written.

    Attributes:
      prompt: number of its prompt, from 0.
      token_ids: int32 `(tokens,)`, with the id that ended it where there is one, without the prompt.
      text: them decoded, without special tokens and up to a stop text; empty where there is no tokenizer.
      log_probability: of the tokens by the model, natural logarithm. Of beam search, where rules have ruled out tokens,
        a forced token counts as certain, and penalties for what other groups of beams wrote are in it.
      finished_by: what ended it: an `end` token, a `stop` text, the `length` asked for or the model's `context`.
    """

    prompt: int
    token_ids: np.ndarray
    text: str
    log_probability: float
    finished_by: Ending


@dataclasses.dataclass(frozen=True)
class TextDelta:
    """What one row has written since the last piece of it.

    Attributes:
      prompt: number of its prompt, from 0.
      copy: which of the texts of that prompt, from 0.
      token_ids: int32 `(tokens,)`, new ones.
      text: new characters; those that are not complete yet, or may be the beginning of a stop text, come later.
      log_probabilities: float32 `(tokens,)`: of these tokens by the model.
      finished_by: as in `Generated`, or None where there is more to come.
      likeliest: the likeliest tokens at each place, int32 `(tokens, count)`, and their log-probabilities, float32
        `(tokens, count)`; None where nobody asked.
    """

    prompt: int
    copy: int
    token_ids: np.ndarray
    text: str
    log_probabilities: np.ndarray
    finished_by: Ending | None
    likeliest: tuple[np.ndarray, np.ndarray] | None = None


def generated(prompt: int, transcript: Transcript, log_probability: float) -> Generated:
    """A text at its end."""
    assert transcript.finished_by is not None
    return Generated(prompt, transcript.token_ids, transcript.text, log_probability, transcript.finished_by)


@dataclasses.dataclass
class GrowingText:
    """What is being written in one row of a batch.

    Attributes:
      transcript: its tokens and its text so far.
      prompt: number of its prompt, from 0.
      copy: which of the texts of that prompt, from 0.
      options: of its prompt.
      log_probability: of the tokens by the model, natural logarithm.
      piece: what the last look at the device found new, or None.
    """

    transcript: Transcript
    prompt: int
    copy: int
    options: PromptOptions
    log_probability: float = 0.0
    piece: TextDelta | None = None

    @property
    def is_done(self) -> bool:
        """Whether nothing more is to be written."""
        return self.transcript.finished_by is not None or self.options.is_withdrawn()

    def read(
        self,
        token_ids: np.ndarray,
        log_probabilities: np.ndarray,
        is_finished: bool,
        likeliest: Sequence[np.ndarray] | None = None,
    ) -> None:
        """Takes all that the row has written."""
        if self.is_done:
            self.piece = None
            return
        new, text = self.transcript.read(token_ids, is_finished)
        # Tokens after a stop text are not the row's.
        count = len(self.transcript.token_ids)
        self.log_probability = float(log_probabilities[:count].sum(dtype=np.float64))
        news = slice(count - len(new), count)
        likely = None if likeliest is None else (likeliest[0][news], likeliest[1][news])
        ending = self.transcript.finished_by
        self.piece = TextDelta(self.prompt, self.copy, new, text, log_probabilities[news], ending, likely)

    def generated(self) -> Generated:
        """What it wrote."""
        return generated(self.prompt, self.transcript, self.log_probability)


def read_rows(rows: Sequence[GrowingText], state: Decoding) -> None:
    """Brings rows up to the state of the device."""
    written = state.written
    token_ids, starts, lengths, finished, logs = host_copies(
        (written.token_ids, written.prompt_lengths, written.lengths, state.finished, state.log_probabilities)
    )
    likely = state.likeliest
    kept = None if likely is None else host_copies((likely.token_ids, likely.log_probabilities))
    for i, row in enumerate(rows):
        text = slice(starts[i], lengths[i])
        likeliest = None if kept is None else [part[i, text] for part in kept]
        row.read(token_ids[i, text], logs[i, text], bool(finished[i]), likeliest)

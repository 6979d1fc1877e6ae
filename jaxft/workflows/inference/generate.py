"""Writing with a model or a run: from prompts to texts."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Sequence
from typing import Any, TextIO

import numpy as np

from jaxft.errors import DataError, InvalidField, RecipeError
from jaxft.generation.choice import AllowedTokens
from jaxft.generation.config import GenerationConfig
from jaxft.generation.generator import Generated, Generator
from jaxft.generation.scoring import Score
from jaxft.parallel.mesh import MeshConfig, make_mesh
from jaxft.workflows.weights.opened_model import ModelSource, open_model

_logger = logging.getLogger("jaxft")


@dataclasses.dataclass(frozen=True)
class TextGenerator:
    """A generator with the parameters that it writes with.

    Attributes:
      generator: of the model.
      parameters: nested dict of arrays.
    """

    generator: Generator
    parameters: Any

    def texts(
        self, prompts: Sequence[str], config: GenerationConfig, allowed_tokens: AllowedTokens | None = None
    ) -> list[Generated]:
        """What `Generator.generate` gives for prompts of text."""
        return self.generator.generate(self.parameters, self.encode(prompts), config, allowed_tokens)

    def token_ids(self, tokens: Sequence[str]) -> tuple[int, ...]:
        """Ids of entries of the vocabulary, for `stop_token_ids`.

        Raises:
          RecipeError: one is not in the vocabulary.
        """
        if not tokens:
            return ()
        tokenizer = self.generator.need_tokenizer()
        ids = {token: i for i, token in enumerate(tokenizer.tokens(range(tokenizer.vocab_size))) if token in tokens}
        if unknown := [token for token in tokens if token not in ids]:
            raise RecipeError(f"stop token {unknown[0]!r} is not in the vocabulary; --stop takes any text")
        return tuple(ids[token] for token in tokens)

    def unprompted(self, number: int) -> list[np.ndarray]:
        """So many prompts without text; see `beginning`.

        Raises:
          RecipeError: the model reads a text before it writes, or has no such token.
        """
        if self.generator.decoder.has_encoder:
            raise RecipeError("an encoder-decoder writes nothing unprompted: it reads a text first")
        if not len(ids := self.beginning()):
            raise RecipeError("this model has no token that begins or ends texts, so it cannot write unprompted")
        return [ids] * number

    def beginning(self) -> np.ndarray:
        """What a text begins with, int32 `(tokens,)`.

        That is what prompts begin with; else the tokenizer's start token, which they may do without; else a token that
        ends texts, as the next begins after it; empty where there is none of these.
        """
        special, tokenizer = self.generator.special, self.generator.tokenizer
        named = () if tokenizer is None or tokenizer.start_id is None else (tokenizer.start_id,)
        return np.asarray(special.start or (*named, *special.end)[:1], np.int32)

    def score(self, prompts: Sequence[str], continuations: Sequence[str]) -> list[Score]:
        """What `Generator.score` gives for texts; see `split`."""
        pairs = [self.split(*pair) for pair in zip(prompts, continuations, strict=True)]
        return self.generator.score(self.parameters, [one for one, _ in pairs], [two for _, two in pairs])

    def split(self, prompt: str, continuation: str) -> tuple[np.ndarray, np.ndarray]:
        """Ids of a prompt and of what follows it, which are encoded as one text where one decoder reads both.

        Space at the end of a prompt belongs to what follows, as tokens begin with the space before a word. For an empty
        prompt see `beginning`.
        """
        generator = self.generator
        tokenizer = generator.need_tokenizer()
        if generator.decoder.has_encoder:
            (ids,) = tokenizer.encode([continuation])
            return generator.encode([prompt])[0], ids
        kept = prompt.rstrip()
        if not kept:
            (ids,) = tokenizer.encode([prompt + continuation])
            return self.beginning(), ids
        before, whole = generator.encode([kept, prompt + continuation])
        return whole[: len(before)], whole[len(before) :]

    def encode(self, prompts: Sequence[str]) -> list[np.ndarray]:
        """Their ids.

        Raises:
          DataError: a prompt is empty.
        """
        for number, prompt in enumerate(prompts, 1):
            if not prompt:
                raise DataError(f"prompt {number} is empty; give it some text")
        return self.generator.encode(prompts)


def open_text_generator(
    source: ModelSource,
    dtype: str = "float32",
    mesh: MeshConfig | None = None,
    batch_size: int = 16,
    draft: ModelSource | None = None,
) -> TextGenerator:
    """A model that can write.

    Args:
      source: a directory in Hugging Face layout, the id of one on the hub, a run or an imported model; or one that
        `load_pretrained` gave.
      dtype: `float32` or `bfloat16`, of parameters and computation.
      mesh: devices to spread parameters and prompts over; all local ones, by `data` alone, where None.
      batch_size: most texts that are written at once.
      draft: a smaller model with the same vocabulary that writes ahead (speculative decoding), or None.

    Raises:
      CheckpointError: nothing there can be loaded.
      RecipeError: the model can't write, or the draft model not for it.
    """
    devices = make_mesh(mesh or MeshConfig())
    opened = open_model(source, dtype, devices)
    loaded, helper = opened.loaded, None
    if draft is not None:
        small = open_model(draft, dtype, devices).loaded
        helper = small.model, small.params
    generator = Generator(loaded.model, opened.special_tokens, loaded.tokenizer, devices, batch_size, helper)
    return TextGenerator(generator, loaded.params)


def generate(
    source: ModelSource | TextGenerator,
    prompts: str | Sequence[str],
    allowed_tokens: AllowedTokens | None = None,
    **options: Any,
) -> list[Generated]:
    """Writes on from prompts, or from the sources of an encoder-decoder.

    Args:
      source: a directory in Hugging Face layout, the id of one on the hub, a run, or what `load_pretrained` gave.
      prompts: texts.
      allowed_tokens: a function of a prompt's number and the ids written so far that gives those that may come next.
      **options: fields of `jaxft.generation.config.GenerationConfig`, such as `max_new_tokens=50, temperature=0.8`.

    Returns:
      For each prompt, in order, `num_return_sequences` of `jaxft.generation.generator.Generated`: `.text`,
      `.token_ids`, `.log_probability`, `.finished_by`.

    Raises:
      RecipeError: an impossible option, or a model that can't write.
      DataError: a prompt that the model can't read.
    """
    config = make_config(options)
    text_generator = source if isinstance(source, TextGenerator) else open_text_generator(source)
    return text_generator.texts([prompts] if isinstance(prompts, str) else prompts, config, allowed_tokens)


def make_config(options: dict[str, Any]) -> GenerationConfig:
    """The configuration of options by name.

    Raises:
      RecipeError: an option is unknown or has an impossible value.
    """
    known = [field.name for field in dataclasses.fields(GenerationConfig)]
    if unknown := [name for name in options if name not in known]:
        raise RecipeError(f"generation has no option {unknown[0]!r}; it has {', '.join(known)}")
    stop = options.get("stop", ())
    given = options | {"stop": (stop,) if isinstance(stop, str) else tuple(stop)}
    try:
        return GenerationConfig(**given)
    except InvalidField as error:
        raise RecipeError(f"{error.field}: {error.problem}") from None


def biased_token(text: str) -> tuple[int, float]:
    """An entry of `logit_bias` as it is written, `ID:BIAS`.

    Raises:
      ValueError: these are no numbers.
    """
    token_id, _, bias = text.partition(":")
    return int(token_id), float(bias)


def write_texts(
    text_generator: TextGenerator,
    prompts: Sequence[str],
    config: GenerationConfig,
    file: TextIO,
    stream: TextIO | None = None,
) -> int:
    """Writes a JSON line for each text: `prompt`, `text`, `tokens`, `finished_by` and `log_probability`.

    Args:
      text_generator: what writes.
      prompts: texts.
      config: how to write.
      file: for the JSON lines.
      stream: where the characters of the one prompt go as they are written, instead; None for none.

    Returns:
      Number of texts.

    Raises:
      RecipeError: several prompts are to be streamed.
    """
    if stream is not None:
        if len(prompts) != 1 or config.num_return_sequences != 1:
            raise RecipeError(f"--stream writes one text as it comes, found {len(prompts)} prompts")
        for pieces in text_generator.generator.stream(
            text_generator.parameters, text_generator.encode(prompts), config
        ):
            stream.write("".join(piece.text for piece in pieces))
            stream.flush()
        stream.write("\n")
        return 1
    found = text_generator.texts(prompts, config)
    for one in found:
        file.write(_line({"prompt": prompts[one.prompt]}, one))
    return len(found)


def write_unprompted(text_generator: TextGenerator, number: int, config: GenerationConfig, file: TextIO) -> int:
    """Writes JSON lines of texts that the model begins by itself, like rows of its own pretraining data: replay.

    Draws that ended before any text are left out, and their number is told.

    Args:
      text_generator: what writes.
      number: of texts that are drawn.
      config: how to write.
      file: for the JSON lines: `text`, `tokens`, `finished_by` and `log_probability`.

    Returns:
      Number of texts that were written.

    Raises:
      RecipeError: the model cannot, or would write the same text every time.
    """
    if not config.temperature:
        raise RecipeError("--unprompted writes one text again and again unless it draws; give --temperature 1")
    found = text_generator.generator.generate(text_generator.parameters, text_generator.unprompted(number), config)
    written = [one for one in found if one.text.strip()]
    for one in written:
        file.write(_line({}, one))
    if len(written) < len(found):
        _logger.warning(
            "%d of %d texts ended before they began and were left out", len(found) - len(written), len(found)
        )
    return len(written)


def _line(given: dict[str, str], one: Generated) -> str:
    written = {"text": one.text, "tokens": one.token_ids.tolist()}
    written |= {"finished_by": one.finished_by, "log_probability": one.log_probability}
    return json.dumps(given | written, ensure_ascii=False) + "\n"

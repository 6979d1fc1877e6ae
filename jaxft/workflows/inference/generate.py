"""Writing with a model or a run: from prompts to texts."""

from __future__ import annotations

import dataclasses
import json
import logging
import pathlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TextIO

import numpy as np

from jaxft.data.chat import chat_format, end_of_turn
from jaxft.data.tokenizers import Tokenizer
from jaxft.errors import DataError, InvalidField, JaxftError, RecipeError
from jaxft.generation.choice import AllowedTokens
from jaxft.generation.config import GenerationConfig, SpecialTokens
from jaxft.generation.generator import Generated, Generator
from jaxft.generation.scoring import Score
from jaxft.huggingface.loaded import LoadedModel
from jaxft.models.config import ModelConfig
from jaxft.objectives.denoising import decoder_start_id
from jaxft.parallel.mesh import MeshConfig, make_mesh
from jaxft.workflows.runs.run_directory import RunDirectory
from jaxft.workflows.weights.pretrained import load_pretrained, resolve

_logger = logging.getLogger("jaxft")

# Keys of generation_config.json, and of config.json in older models.
_KEYS = (
    "eos_token_id", "pad_token_id", "bos_token_id", "decoder_start_token_id", "forced_bos_token_id",
    "forced_eos_token_id", "bad_words_ids", "suppress_tokens",
)  # fmt: skip


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
    source: str | pathlib.Path | LoadedModel,
    dtype: str = "float32",
    mesh: MeshConfig | None = None,
    batch_size: int = 16,
    draft: str | pathlib.Path | LoadedModel | None = None,
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
    if isinstance(source, LoadedModel):
        loaded, values, own = source, {}, None
    else:
        loaded = load_pretrained(source, dtype, devices)
        values, own = settings_of(resolve(source))
    special = special_tokens(loaded.config, loaded.tokenizer, values, own)
    helper = None
    if draft is not None:
        small = draft if isinstance(draft, LoadedModel) else load_pretrained(draft, dtype, devices)
        helper = small.model, small.params
    return TextGenerator(Generator(loaded.model, special, loaded.tokenizer, devices, batch_size, helper), loaded.params)


def generate(
    source: str | pathlib.Path | LoadedModel | TextGenerator,
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
    writer = source if isinstance(source, TextGenerator) else open_text_generator(source)
    return writer.texts([prompts] if isinstance(prompts, str) else prompts, config, allowed_tokens)


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


def settings_of(directory: pathlib.Path) -> tuple[dict[str, Any], pathlib.Path | None]:
    """What files beside a model say of its special tokens, and where its tokenizer's own file is.

    Raises:
      RecipeError: one is no JSON.
    """
    values: dict[str, Any] = {}
    if (directory / "config.json").is_file():
        files, tokenizer = [directory / "config.json", directory / "generation_config.json"], directory
    else:
        run = RunDirectory(directory.parent.parent if directory.parent.name == "checkpoints" else directory)
        origin = run.huggingface()
        values = {} if origin is None else dict(origin.values)
        # A run's rows are laid out by its objectives, whatever its tokenizer would put around a text.
        files, tokenizer = [run.settings / "generation_config.json"], None
    for path in files:
        if path.is_file():
            try:
                found = json.loads(path.read_text(encoding="utf-8"))
            except ValueError as error:
                raise RecipeError(f"{path} is not JSON: {error}") from error
            values |= {key: found[key] for key in _KEYS if found.get(key) is not None}
    return values, tokenizer


def special_tokens(
    model: ModelConfig, tokenizer: Tokenizer | None, values: dict[str, Any], directory: pathlib.Path | None
) -> SpecialTokens:
    """Ids with a meaning of their own.

    Args:
      model: that writes.
      tokenizer: of the model, or None.
      values: of `generation_config.json` and `config.json`.
      directory: of a model of Hugging Face whose `tokenizer.json` says what is put around a text; None for a model made
        here, which begins where its tokenizer has a start token, whose sources end with its separator, and whose texts
        may also end with what ends a turn of its chat template.
    """
    end = values.get("eos_token_id")
    ends = list(end) if isinstance(end, list) else [] if end is None else [end]
    if not ends and tokenizer is not None:
        ends = [tokenizer.separator_id]
    if directory is None and tokenizer is not None:
        ends += [end for end in _ends_of_turns(tokenizer) if end not in ends]
    own = () if tokenizer is None or tokenizer.start_id is None else (tokenizer.start_id,)
    before, after = own, () if tokenizer is None else (tokenizer.separator_id,)
    if model.family == "encoder_decoder":
        before = ()
    if directory is not None and (directory / "tokenizer.json").is_file():
        before, after = _around_text(directory / "tokenizer.json")
    pad = values.get("pad_token_id")
    if pad is None:
        pad = tokenizer.pad_id if tokenizer is not None else next(iter(ends), 0)
    words = values.get("bad_words_ids") or []
    suppressed = {*(word[0] for word in words if len(word) == 1), *(values.get("suppress_tokens") or [])}
    shared = {"end": tuple(ends), "pad": max(pad, 0), "suppressed": tuple(sorted(suppressed))}
    if model.family != "encoder_decoder":
        return SpecialTokens(start=before, **shared)
    start = values.get("decoder_start_token_id", values.get("bos_token_id"))
    if start is None and tokenizer is not None:
        start = decoder_start_id(tokenizer, model)
    return SpecialTokens(
        start=() if start is None else (start,),
        source_start=before,
        source_end=after,
        forced_first=values.get("forced_bos_token_id"),
        forced_last=values.get("forced_eos_token_id"),
        **shared,
    )


def _ends_of_turns(tokenizer: Tokenizer) -> list[int]:
    """The special id that ends an answer in the tokenizer's own chat template, where there is one."""
    if tokenizer.chat_template is None:
        return []
    try:
        ids = end_of_turn(chat_format("own", tokenizer), tokenizer)
    except JaxftError:  # a template for other conversations
        return []
    return [first for first in ids[:1].tolist() if first in tokenizer.special_ids]


def _around_text(path: pathlib.Path) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Ids that a tokenizer puts before and after a text."""
    import tokenizers

    tokenizer = tokenizers.Tokenizer.from_file(str(path))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    encoded = tokenizer.encode("a", add_special_tokens=True)
    is_text = [i for i, special in enumerate(encoded.special_tokens_mask) if not special]
    if not is_text:
        return (), ()
    return tuple(encoded.ids[: is_text[0]]), tuple(encoded.ids[is_text[-1] + 1 :])


def read_prompts(file: Iterable[str], name: str, column: str | None) -> Iterator[str]:
    """Texts of a file: each line is one, or is a JSON object with a column for it where that is named.

    Raises:
      DataError: a line is no such object.
    """
    for number, line in enumerate(file, 1):
        if column is None:
            yield line.rstrip("\n")
            continue
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise DataError(f"{name}, line {number}: not JSON: {error}") from error
        if not isinstance(row, dict) or not isinstance(row.get(column), str):
            raise DataError(
                f'{name}, line {number}: must be an object with a text "{column}", like {{"{column}": "Once"}}'
            )
        yield row[column]


def write_texts(
    writer: TextGenerator, prompts: Sequence[str], config: GenerationConfig, file: TextIO, stream: TextIO | None = None
) -> int:
    """Writes a JSON line for each text: `prompt`, `text`, `tokens`, `finished_by` and `log_probability`.

    Args:
      writer: what writes.
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
        for pieces in writer.generator.stream(writer.parameters, writer.encode(prompts), config):
            stream.write("".join(piece.text for piece in pieces))
            stream.flush()
        stream.write("\n")
        return 1
    found = writer.texts(prompts, config)
    for one in found:
        file.write(_line({"prompt": prompts[one.prompt]}, one))
    return len(found)


def write_unprompted(writer: TextGenerator, number: int, config: GenerationConfig, file: TextIO) -> int:
    """Writes JSON lines of texts that the model begins by itself, like rows of its own pretraining data: replay.

    Draws that ended before any text are left out, and their number is told.

    Args:
      writer: what writes.
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
    found = writer.generator.generate(writer.parameters, writer.unprompted(number), config)
    written = [one for one in found if one.text.strip()]
    for one in written:
        file.write(_line({}, one))
    if len(written) < len(found):
        _logger.warning(
            "%d of %d texts ended before they began and were left out", len(found) - len(written), len(found)
        )
    return len(written)


def _line(given: dict[str, str], one: Generated) -> str:
    said = {"text": one.text, "tokens": one.token_ids.tolist()}
    said |= {"finished_by": one.finished_by, "log_probability": one.log_probability}
    return json.dumps(given | said, ensure_ascii=False) + "\n"

"""Text out of a model: one object that knows the model, its tokenizer and its mesh."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxft.data.tokenizers import Tokenizer
from jaxft.errors import RecipeError
from jaxft.generation.automaton import Automaton
from jaxft.generation.beam import BeamRules, beam_search
from jaxft.generation.choice import AllowedTokens, callable_by_number
from jaxft.generation.config import GenerationConfig, PromptOptions, SpecialTokens
from jaxft.generation.constraints.tokens import check_length, compile_constraint
from jaxft.generation.controls import Controls, make_controls
from jaxft.generation.decoder import decoder_of
from jaxft.generation.layout import LaidOutParameters, Layout
from jaxft.generation.prompts import PromptBatch, batches_of, check_prompts, check_room
from jaxft.generation.scoring import Score, score_pairs
from jaxft.generation.speculative import check_drafting
from jaxft.generation.texts import Generated, GrowingText, TextDelta, generated, read_rows
from jaxft.generation.transcript import Transcript
from jaxft.generation.writing_loop import begin_loop, decoding_of, random_keys, with_finished
from jaxft.models.model import AnyModel, Model
from jaxft.parallel.sharding import host_copies
from jaxft.parallel.trees import Parameters

_AUTOMATA = 8
# Steps between two looks at the texts, where their characters decide when they end.
_STEPS_BETWEEN_LOOKS = 8


class Generator:
    """Writes with one model.

        generator = Generator(model, special, tokenizer)
        generator.generate(parameters, generator.encode(["Once upon"]), GenerationConfig(max_new_tokens=20))[0].text

    Compiled programs are kept by shapes: prompts and texts are padded to few lengths, and numbers such as the
    temperature are arguments. Rows do not depend on what else is in their batch.

    Args:
      model: a decoder or an encoder-decoder with a vocabulary head of kind `causal_lm`.
      special: ids of the model.
      tokenizer: for texts; only ids go in and out where None.
      mesh: devices on which the parameters lie; those of JAX's default where None.
      batch_size: most rows that are written at once.
      smallest_batch: rows that a batch is filled up to, a power of two: with more of them fewer programs are compiled.
      draft: a smaller model with the same vocabulary and its parameters, which writes ahead (speculative decoding):
        what comes out is distributed as without it. Rules that look at what was written can't be used with it.

    Raises:
      RecipeError: the model can't write.
    """

    def __init__(
        self,
        model: AnyModel,
        special: SpecialTokens,
        tokenizer: Tokenizer | None = None,
        mesh: jax.sharding.Mesh | None = None,
        batch_size: int = 16,
        draft: tuple[Model, Parameters] | None = None,
        smallest_batch: int = 1,
    ):
        self.decoder, self._layout = decoder_of(model), Layout(model)
        self.special, self.tokenizer, self.batch_size = special, tokenizer, batch_size
        self._smallest = smallest_batch
        self._automata: dict[tuple[str | None, str | None], Automaton] = {}
        if tokenizer is not None:
            # Rows of the vocabulary that stand for nothing: there to make it divide.
            nothing = range(tokenizer.vocab_size, model.config.vocab_size)
            self.special = dataclasses.replace(special, suppressed=(*special.suppressed, *nothing))
        self._draft = None if draft is None else (decoder_of(draft[0]), Layout(draft[0])(draft[1]))
        if draft is not None and draft[0].config.vocab_size != model.config.vocab_size:
            raise RecipeError(
                f"the draft model's vocabulary of {draft[0].config.vocab_size} is not the model's of "
                f"{model.config.vocab_size}; they must be the same"
            )
        self._mesh = None if mesh is None or mesh.size == 1 else mesh
        if self._mesh is not None and self._mesh.shape["context"] > 1:
            raise RecipeError(f"mesh.context is {self._mesh.shape['context']}; a model writes with 1, token by token")

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Prompts of texts: their ids with what the model expects around them."""
        special = self.special
        before, after = (special.source_start, special.source_end) if self.decoder.has_encoder else (special.start, ())
        return [np.asarray([*before, *ids, *after], np.int32) for ids in self.need_tokenizer().encode(texts)]

    def generate(
        self,
        parameters: Parameters,
        prompts: Sequence[np.ndarray],
        config: GenerationConfig | None = None,
        allowed_tokens: AllowedTokens | None = None,
        automaton: Automaton | None = None,
    ) -> list[Generated]:
        """Texts for prompts.

        Args:
          parameters: of the model.
          prompts: int `(length,)` each, as `encode` gives them: used as they are.
          config: how to write; greedily where None.
          allowed_tokens: a function that says before each token which may come, after all other rules but `prefix`.
          automaton: of the configuration's constraint, where it is there already.

        Returns:
          `num_return_sequences` texts for each prompt, in the prompts' order; of beam search the best first.

        Raises:
          DataError: a prompt that the model can't read.
          RecipeError: a configuration that this model can't follow.
        """
        config = config or GenerationConfig()
        result: list[Generated] = []
        every = _STEPS_BETWEEN_LOOKS if config.stop else config.max_new_tokens
        with callable_by_number(allowed_tokens) as chosen_by:
            controls = self._controls(prompts, config, chosen_by, automaton)
            prompt_options = [PromptOptions.of(config, number) for number in range(len(prompts))]
            laid_out = self._layout(parameters)
            for batch in self._batches(prompts, config, prompt_options):
                if config.beams > 1:
                    result += self._searched(laid_out, batch, controls, config)
                    continue
                for rows in self._written(laid_out, batch, controls, config, prompt_options, every):
                    done = rows
                result += [row.generated() for row in done]
        return sorted(result, key=lambda one: one.prompt)

    def stream(
        self,
        parameters: Parameters,
        prompts: Sequence[np.ndarray],
        config: GenerationConfig | None = None,
        every: int = 4,
        prompt_options: Sequence[PromptOptions] | None = None,
        automaton: Automaton | None = None,
    ) -> Iterator[list[TextDelta]]:
        """Writes as `generate` does, and tells what is new after every few steps.

        Args:
          parameters: of the model.
          prompts: as for `generate`; they are written together where they fit into a batch.
          config: how to write.
          every: so many tokens at a time.
          prompt_options: what each prompt has of its own, in place of what the configuration says of all.
          automaton: as for `generate`.

        Yields:
          A piece for each row that has written something; the last of a row says what ended it.

        Raises:
          RecipeError: beam search and other ways that know the text only at their end were asked for.
        """
        config = config or GenerationConfig()
        if config.beams > 1:
            raise RecipeError("beam search knows its text only at its end; stream with beams = 1")
        controls = self._controls(prompts, config, None, automaton)
        prompt_options = prompt_options or [PromptOptions.of(config, number) for number in range(len(prompts))]
        laid_out = self._layout(parameters)
        for batch in self._batches(prompts, config, prompt_options):
            for rows in self._written(laid_out, batch, controls, config, prompt_options, every):
                if pieces := [row.piece for row in rows if row.piece is not None]:
                    yield pieces

    def score(
        self,
        parameters: Parameters,
        contexts: Sequence[np.ndarray],
        continuations: Sequence[np.ndarray],
        top: int = 0,
    ) -> list[Score]:
        """How likely each continuation is after its context.

        Args:
          parameters: of the model.
          contexts: int `(length,)` each: the text before, or the source of an encoder-decoder.
          continuations: int `(tokens,)` each.
          top: how many of the likeliest tokens are told at each place.

        Raises:
          DataError: an empty one, one that is too long, or an id outside of the vocabulary.
        """
        with self._on_mesh():
            return score_pairs(
                self.decoder, parameters, contexts, continuations, self.special, self.batch_size, self._mesh, top
            )

    def _written(
        self,
        parameters: LaidOutParameters,
        batch: PromptBatch,
        controls: Controls,
        config: GenerationConfig,
        prompt_options: Sequence[PromptOptions],
        every: int,
    ) -> Iterator[list[GrowingText]]:
        """The rows of a batch after every so many steps, until all have ended."""
        copies = config.num_return_sequences
        rows = [
            GrowingText(
                self._transcript(batch, row, config, prompt_options[number]), number, copy, prompt_options[number]
            )
            for row, number in enumerate(batch.numbers)
            for copy in range(copies)
        ]
        count = batch.prompts.lengths.shape[0] * copies
        more = [0] * (count - len(rows))
        # By the number of the text, so that it does not matter what else is in the batch.
        numbers = [row.options.number * copies + row.copy for row in rows] + more
        seeds = [row.options.seed for row in rows] + more
        with self._on_mesh():
            keys = random_keys(np.asarray(seeds, np.uint32), np.asarray(numbers, np.uint32))
            state, go_on = begin_loop(self.decoder, parameters, self._draft, batch, controls, config, keys)
        until = every
        while True:
            with self._on_mesh():
                state = go_on(state, jnp.int32(until))
            read_rows(rows, decoding_of(state))
            yield rows
            is_finished = np.asarray([row.is_done for row in rows])
            if is_finished.all():
                return
            state = with_finished(state, np.concatenate([is_finished, np.ones(count - len(rows), bool)]))
            until += every

    def _searched(
        self, parameters: LaidOutParameters, batch: PromptBatch, controls: Controls, config: GenerationConfig
    ) -> list[Generated]:
        """The best sequences of beam search."""
        with self._on_mesh():
            found = beam_search(
                self.decoder, parameters, batch.prompts, controls, batch.limits, BeamRules.of(config), slots=batch.slots
            )
        token_ids, lengths, sums = host_copies((found.token_ids, found.lengths, found.sums))
        result, starts = [], host_copies(batch.prompts.lengths)
        for row, number in enumerate(batch.numbers):
            for copy in range(config.num_return_sequences):
                transcript = self._transcript(batch, row, config, PromptOptions.of(config, number))
                transcript.read(token_ids[row, copy, starts[row] : lengths[row, copy]], True)
                result.append(generated(number, transcript, float(sums[row, copy])))
        return result

    def _transcript(self, batch: PromptBatch, row: int, config: GenerationConfig, options: PromptOptions) -> Transcript:
        is_cut = int(batch.limits[row] - batch.prompts.lengths[row]) < options.max_new_tokens
        return Transcript(self.tokenizer, [*self.special.end, *config.stop_token_ids], options.stop, is_cut)

    def check(
        self, prompts: Sequence[np.ndarray], config: GenerationConfig, automaton: Automaton | None = None
    ) -> None:
        """Raises what `generate` would raise of these prompts and this configuration, and computes nothing else."""
        self._controls(prompts, config, None, automaton)

    def _controls(
        self,
        prompts: Sequence[np.ndarray],
        config: GenerationConfig,
        chosen_by: int | None,
        automaton: Automaton | None,
    ) -> Controls:
        """How tokens are chosen, after a look at what was asked for."""
        vocab = self.decoder.model.config.vocab_size
        check_prompts(prompts, self.decoder.model.config, self.special)
        if self._draft is not None:
            check_prompts(prompts, self._draft[0].model.config, self.special)
            check_drafting(config, self.special, chosen_by)
        if config.stop:
            self.need_tokenizer()
        biased = [token_id for token_id, _ in config.logit_bias]
        for name, token_ids in (("stop_token_ids", config.stop_token_ids), ("logit_bias", biased)):
            if wrong := [token_id for token_id in token_ids if not 0 <= token_id < vocab]:
                raise RecipeError(f"{name}: {wrong[0]} is outside of the vocabulary of {vocab}")
        if config.is_constrained:
            if not self.special.end:
                raise RecipeError("a constraint needs a model with an end token")
            automaton = automaton or self._automaton(config)
            check_length(config, automaton)
            check_room(prompts, self.decoder.model.config, self.special, int(automaton.remaining[0]))
        return make_controls(config, self.special, vocab, automaton, self._forced(config), chosen_by)

    def _automaton(self, config: GenerationConfig) -> Automaton:
        """That of the configuration's constraint; the last few are kept, as they take long to make."""
        key = config.regex, config.json_schema
        automaton = self._automata.get(key)
        if automaton is None:
            automaton = compile_constraint(config, self.need_tokenizer(), self.decoder.model.config.vocab_size)
            for old in list(self._automata)[: max(0, len(self._automata) - _AUTOMATA + 1)]:
                self._automata.pop(old, None)
            self._automata[key] = automaton
        return automaton

    def _forced(self, config: GenerationConfig) -> list[int]:
        """Ids that each text begins with."""
        first = [] if self.special.forced_first is None else [self.special.forced_first]
        if not config.prefix:
            return first
        (ids,) = self.need_tokenizer().encode([config.prefix])
        forced = [*first, *ids.tolist()]
        if len(forced) > config.max_new_tokens:
            raise RecipeError(f"prefix: has {len(forced)} tokens, max_new_tokens is {config.max_new_tokens}")
        return forced

    def _batches(
        self, prompts: Sequence[np.ndarray], config: GenerationConfig, prompt_options: Sequence[PromptOptions]
    ) -> Iterator[PromptBatch]:
        rows = max(1, self.batch_size // max(config.beams, config.num_return_sequences))
        room = [options.max_new_tokens for options in prompt_options]
        return batches_of(prompts, self.decoder.model.config, self.special, room, rows, self._mesh, self._smallest)

    def need_tokenizer(self) -> Tokenizer:
        """The tokenizer, or a RecipeError where there is none."""
        if self.tokenizer is None:
            raise RecipeError("the model has no tokenizer; give token ids, and no stop texts or constraints")
        return self.tokenizer

    def _on_mesh(self) -> contextlib.AbstractContextManager[Any]:
        return contextlib.nullcontext() if self._mesh is None else jax.set_mesh(self._mesh)

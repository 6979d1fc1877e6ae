"""The endpoints: what each reads of a request, has done on the device, and answers."""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import functools
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import numpy as np
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from jaxft.errors import JaxftError
from jaxft.generation.config import GenerationConfig, common_options
from jaxft.generation.prompts import context_of
from jaxft.generation.talking import chat_prompt, ends_of_answers
from jaxft.serving import parsing
from jaxft.serving.arrival import body_of
from jaxft.serving.constraints import Constraints
from jaxft.serving.delivery import EventStream, late, told
from jaxft.serving.engine import Engine, GenerationRequest, Job, Runner, reads, scores, searches, writes
from jaxft.serving.errors import ApiError, of_user
from jaxft.serving.limits import Limits
from jaxft.serving.logprobs import NO_TOKENS, Logged, TokenWords, logged
from jaxft.serving.metrics import Metrics
from jaxft.serving.model import ServedModel
from jaxft.serving.written import Answer, Echo, as_event

# Seconds beyond a request's time for what comes before its work, which can't be interrupted in the middle.
_GRACE = 1.0

# From a request, what it holds, and the time of `time.monotonic` at which it must be answered.
Endpoint = Callable[[Request, dict[str, Any], float], Awaitable[Response]]


class Service:
    """Answers requests about one model.

    Attributes:
      engine: does what needs the device.
    """

    def __init__(self, model: ServedModel, limits: Limits):
        self._model, self._limits, self._metrics = model, limits, Metrics()
        self.engine = Engine(limits, self._metrics)
        self._created = int(time.time())
        # Tokenizers are not made to be used by several threads.
        self._encoder = ThreadPoolExecutor(1, "jaxft-tokenizer")
        self._constraints = None if model.generator is None else Constraints(model.generator)
        tokenizer = None if model.generator is None else model.generator.tokenizer
        self._words = None if tokenizer is None else TokenWords(tokenizer)
        self._runners: dict[str, Runner] = {}
        if model.generator is not None:
            assert model.parameters is not None
            self._runners["write"] = writes(model.generator, model.parameters)
            self._runners["search"] = searches(model.generator, model.parameters)
        if model.reader is not None:
            self._runners["classify"] = reads(model.reader.classified)
            self._runners["embed"] = reads(model.reader.embedded)

    def endpoint(self, name: str, answer: Endpoint, keys: tuple[str, ...]) -> Callable[[Request], Awaitable[Response]]:
        """What answers the requests to one address: reads them within the limits, and counts them."""

        async def respond(request: Request) -> Response:
            arrived, status = time.monotonic(), 500
            try:
                body = parsing.parse_body(await body_of(request, self._limits))
                parsing.check_keys(body, keys)
                self._check_model(body.get("model"))
                deadline = arrived + self._limits.time_limit
                # Writing and constraints look at the time themselves, and a stream tells of it as an event.
                async with asyncio.timeout(deadline - time.monotonic() + _GRACE):
                    response = await answer(request, body, deadline)
                status = response.status_code
                return response
            except ApiError as error:
                status = error.status
                raise
            except TimeoutError:
                status = 408
                raise late(self._limits) from None
            except JaxftError as error:
                refused = of_user(error)
                status = refused.status
                raise refused from None
            except ClientDisconnect:
                status = 499
                self._metrics.cancelled.inc()
                return Response(status_code=499)
            finally:
                self._metrics.requests.labels(name, str(status)).inc()
                self._metrics.seconds.labels(name).observe(time.monotonic() - arrived)

        return respond

    def end_within(self, seconds: float) -> None:
        """Takes nothing new; what is not done after so many seconds is told that the server ends."""
        self.engine.drain()
        asyncio.get_running_loop().call_later(seconds, self.engine.abandon)

    def close(self) -> None:
        """Ends what works for it."""
        self.engine.close()
        if self._constraints is not None:
            self._constraints.close()

    async def completions(self, request: Request, body: dict[str, Any], deadline: float) -> Response:
        """`/v1/completions`"""
        self._need("completions")
        wanted = parsing.wanted(body, False, self._limits.max_tokens)
        given = parsing.prompts_of(body)
        if any(isinstance(one, str) and not one for one in given):
            raise ApiError(400, "prompt: must not be empty; give it some text", "prompt")
        self._check_count(len(given), wanted)
        prompts: Any = given
        generator, own = self._model.need_generator(), 0
        if isinstance(given[0], str):
            prompts = await self._encoded(generator.encode, given)
            # What the model reads before the text is no part of it.
            own = len(generator.special.start)
        if not wanted.echoes:
            return await self._write(request, wanted, prompts, False, deadline)
        if generator.decoder.has_encoder:
            raise ApiError(400, "echo: an encoder-decoder's prompt is the source, not the text's beginning", "echo")
        echoes = await self._echoes(request, wanted, given, prompts, own, deadline)
        return await self._write(request, wanted, prompts, False, deadline, echoes)

    async def chat(self, request: Request, body: dict[str, Any], deadline: float) -> Response:
        """`/v1/chat/completions`"""
        self._need("chat")
        generator, form = self._model.need_generator(), self._model.form
        assert form is not None  # of a model that can chat
        messages = parsing.messages_of(body)
        prompt = await self._encoded(chat_prompt, form, generator.need_tokenizer(), messages)
        wanted = parsing.wanted(body, True, self._limits.max_tokens)
        more: dict[str, Any] = {
            name: (*getattr(wanted.config, name), *ends) for name, ends in ends_of_answers(form, generator).items()
        }
        wanted = dataclasses.replace(wanted, config=dataclasses.replace(wanted.config, **more))
        self._check_count(1, wanted)
        return await self._write(request, wanted, [prompt], True, deadline)

    async def embeddings(self, request: Request, body: dict[str, Any], deadline: float) -> Response:
        """`/v1/embeddings`"""
        self._need("embeddings")
        form = body.get("encoding_format") or "float"
        if form not in ("float", "base64"):
            raise ApiError(400, f"encoding_format: must be float or base64, found {form!r}", "encoding_format")
        reader = self._model.need_reader()
        size = reader.model.config.embed_dim
        if body.get("dimensions") not in (None, size):
            raise ApiError(400, f"dimensions: the model's vectors have {size}; they can't be cut", "dimensions")
        texts = parsing.texts_of(body)
        rows = await self._rows(texts, functools.partial(reader.rows, texts, parsing.truncates(body)))
        found = await self._read(request, "embed", self._runners["embed"], rows, deadline)

        def shown(vector: np.ndarray) -> Any:
            return vector.tolist() if form == "float" else base64.b64encode(vector.astype("<f4").tobytes()).decode()

        return self._list([{"object": "embedding", "embedding": shown(one.vector)} for one in found], found)

    async def classify(self, request: Request, body: dict[str, Any], deadline: float) -> Response:
        """`/v1/classify`"""
        self._need("classify")
        reader, texts = self._model.need_reader(), parsing.texts_of(body, pairs=True)
        rows = await self._rows(texts, functools.partial(reader.rows, texts, parsing.truncates(body)))
        found = await self._read(request, "classify", self._runners["classify"], rows, deadline)
        problem = reader.need_classifier().problem
        return self._list(
            [
                {"object": "classification", "problem": problem, "label": one.label, "scores": one.scores}
                for one in found
            ],
            found,
        )

    async def fill_mask(self, request: Request, body: dict[str, Any], deadline: float) -> Response:
        """`/v1/fill-mask`"""
        self._need("fill-mask")
        reader, texts = self._model.need_reader(), cast(list[str], parsing.texts_of(body))  # no pairs
        top = parsing.whole_number(body, "top_k", 5)
        rows = await self._rows(texts, functools.partial(reader.masked_rows, texts, top, parsing.truncates(body)))
        runner = reads(functools.partial(reader.filled, top=top))
        found = await self._read(request, ("fill", top), runner, rows, deadline)
        return self._list(
            [
                {"object": "filled", "text": one.text, "masks": [list(map(dataclasses.asdict, of)) for of in one.masks]}
                for one in found
            ],
            found,
        )

    async def models(self, request: Request) -> Response:
        """`/v1/models`"""
        return JSONResponse({"object": "list", "data": [self._described()]})

    async def one_model(self, request: Request) -> Response:
        """`/v1/models/NAME`"""
        self._check_model(request.path_params["name"])
        return JSONResponse(self._described())

    async def health(self, request: Request) -> Response:
        """`/health`"""
        alive = self.engine.is_alive
        return JSONResponse({"status": "ok" if alive else "the device's thread has ended"}, 200 if alive else 503)

    async def numbers(self, request: Request) -> Response:
        """`/metrics`"""
        return Response(self._metrics.text(), media_type="text/plain; version=0.0.4")

    def _described(self) -> dict[str, Any]:
        model = self._model
        described: dict[str, Any] = {
            "id": model.name,
            "object": "model",
            "created": self._created,
            "owned_by": "jaxft",
            "abilities": model.abilities,
            "limits": dataclasses.asdict(self._limits),
        }
        if model.generator is not None:
            described["context"] = context_of(model.generator.decoder.model.config)
        elif model.reader is not None:
            described["context"] = model.reader.layout.longest
        if "fill-mask" in model.abilities:
            reader = model.need_reader()
            (described["mask"],) = reader.tokenizer.tokens([reader.need_mask()])
        return described

    def _check_model(self, name: Any) -> None:
        if name is not None and name != self._model.name:
            raise ApiError(
                404, f"there is no model {name!r} here; there is {self._model.name}", "model", "model_not_found"
            )

    def _need(self, ability: str) -> None:
        if ability not in self._model.abilities:
            why = self._model.reasons.get(ability, "")
            raise ApiError(
                400,
                f"{self._model.name} can't do {ability}{f': {why}' if why else ''}; it can do "
                f"{', '.join(self._model.abilities) or 'nothing'}",
                code="not_supported",
            )

    def _check_count(self, prompts: int, wanted: parsing.Wanted) -> None:
        config = wanted.config
        texts, most = prompts * max(config.num_return_sequences, config.beams), self._limits.max_texts
        if texts > most:
            raise ApiError(400, f"{texts} texts (prompts times n or beams) are more than the {most} of a request", "n")

    async def _write(
        self,
        request: Request,
        wanted: parsing.Wanted,
        prompts: Sequence[np.ndarray],
        is_chat: bool,
        deadline: float,
        echoes: Sequence[Echo] = (),
    ) -> Response:
        generator, config = self._model.need_generator(), wanted.config
        self._check_lengths(prompts)
        assert self._constraints is not None  # of a model that writes
        automaton = await self._constraints.automaton(config, deadline)
        await asyncio.to_thread(generator.check, prompts, config, automaton)
        texts = len(prompts) * max(config.num_return_sequences, config.beams)
        kind, key = ("search", object()) if config.beams > 1 else ("write", common_options(config))
        job = Job((kind, key), texts, self._runners[kind], GenerationRequest(prompts, config, automaton), deadline)
        lengths = [len(one) for one in prompts]
        answer = Answer(self._model.name, is_chat, wanted, lengths, self._words, echoes)
        if not wanted.writes:
            return self._nothing_more(wanted, answer)
        self.engine.submit(job)
        self._metrics.read.inc(sum(map(len, prompts)))
        if wanted.is_stream:
            return EventStream(self._events(request, job, answer))
        async for piece in told(request, job, self.engine, self._limits):
            answer.take(piece)
        self._metrics.written.inc(answer.written_tokens)
        return JSONResponse(answer.whole())

    def _check_lengths(self, prompts: Sequence[np.ndarray]) -> None:
        most = self._limits.max_prompt_tokens
        for number, prompt in enumerate(prompts, 1):
            if len(prompt) > most:
                raise ApiError(
                    400,
                    f"prompt {number} has {len(prompt)} tokens, at most {most} are read here",
                    code="context_length_exceeded",
                )

    async def _echoes(
        self,
        request: Request,
        wanted: parsing.Wanted,
        given: Sequence[Any],
        prompts: Sequence[np.ndarray],
        own: int,
        deadline: float,
    ) -> list[Echo]:
        """Prompts as they stand before what is written; `own` of their first tokens are the model's own."""
        generator = self._model.need_generator()
        texts = (
            given if own or isinstance(given[0], str) else [generator.need_tokenizer().decode(one) for one in prompts]
        )
        if not wanted.tells_logs:
            return [Echo(text, NO_TOKENS) for text in texts]
        assert self._model.parameters is not None  # of a model that writes
        self._check_lengths(prompts)
        await asyncio.to_thread(generator.check, prompts, GenerationConfig())
        top = wanted.config.top_logprobs
        runner = scores(generator, self._model.parameters, top)
        job = Job(("score", top), len(prompts), runner, GenerationRequest(prompts, wanted.config), deadline)
        self.engine.submit(job)
        echoes: list[Echo] = []
        async for found in told(request, job, self.engine, self._limits):
            for text, prompt, score in zip(texts, prompts, found, strict=True):
                logs = Logged([int(prompt[0])], [None], [None])
                if score is not None:
                    logs = logs.then(logged(prompt[1:], score.log_probabilities, score.likeliest))
                echoes.append(Echo(text, Logged(logs.token_ids[own:], logs.logs[own:], logs.likeliest[own:])))
        return echoes

    def _nothing_more(self, wanted: parsing.Wanted, answer: Answer) -> Response:
        """An answer of prompts alone."""
        if not wanted.is_stream:
            return JSONResponse(answer.whole())

        async def events() -> AsyncGenerator[bytes]:
            for event in [*answer.first_events(), *answer.last_events()]:
                yield event

        return EventStream(events())

    async def _events(self, request: Request, job: Job, answer: Answer) -> AsyncGenerator[bytes]:
        """The answer as a stream; what goes wrong on the way is told as an event, as the status was sent already."""
        try:
            for event in answer.first_events():
                yield event
            async for piece in told(request, job, self.engine, self._limits):
                yield answer.event(piece)
            for event in answer.last_events():
                yield event
        except ApiError as error:
            yield as_event(error.body())
        except ClientDisconnect:
            self._metrics.cancelled.inc()
        finally:
            self.engine.withdraw(job)
            self._metrics.written.inc(answer.written_tokens)

    async def _encoded(self, make: Callable[..., Any], *arguments: Any) -> Any:
        """What is made with the tokenizer, while the loop goes on."""
        return await asyncio.get_running_loop().run_in_executor(self._encoder, make, *arguments)

    async def _rows(self, texts: Sequence[Any], make: Callable[[], list]) -> list:
        """Texts as the model reads them."""
        if len(texts) > self._limits.max_texts:
            raise ApiError(400, f"{len(texts)} texts are more than the {self._limits.max_texts} of a request", "input")
        rows = await self._encoded(make)
        longest = max(len(ids) for ids, _ in rows)
        if longest > self._limits.max_prompt_tokens:
            raise ApiError(400, f"a text has {longest} tokens, at most {self._limits.max_prompt_tokens} are read here")
        return rows

    async def _read(self, request: Request, key: Any, runner: Runner, rows: list, deadline: float) -> list:
        job = Job(key, len(rows), runner, rows, deadline)
        self.engine.submit(job)
        self._metrics.read.inc(sum(len(ids) for ids, _ in rows))
        async for found in told(request, job, self.engine, self._limits):
            return found
        raise ApiError(500, "nothing was said of the texts")

    def _list(self, data: list[dict[str, Any]], found: Sequence[Any]) -> Response:
        tokens = sum(one.tokens for one in found)
        numbered = [{"index": number, **one} for number, one in enumerate(data)]
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        return JSONResponse({"object": "list", "model": self._model.name, "data": numbered, "usage": usage})

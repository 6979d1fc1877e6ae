"""The chat template that a tokenizer brings with it, in Jinja, rendered in the sandbox of transformers."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from jaxft.data.chat.bounded import TooMuch, bounded
from jaxft.data.chat.messages import CLOSE, OPEN, Message
from jaxft.data.chat.templates import Turns
from jaxft.data.tokenizers import Part
from jaxft.errors import DataError, RecipeError

_GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")
# Characters of a template: the longest in use have 20,000.
_LONGEST = 200_000
# That one rendering may take; one takes milliseconds and little more than its text.
_SECONDS, _MEMORY = 5.0, 512 << 20
# What Jinja says its code is from.
_CODE = "<template>"
# Characters of what a template says in an error.
_SHOWN = 500
_PROBE = (Message("user", "Why?"), Message("assistant", "So."))


@dataclasses.dataclass(frozen=True)
class _Rendered:
    """What a template makes of messages.

    Attributes:
      text: with OPEN and CLOSE around what each message says.
      learned: ranges of characters of the text between `{% generation %}` and its end.
    """

    text: str
    learned: tuple[tuple[int, int], ...]


class OwnTemplate:
    """A template in Jinja; see `jaxft.data.chat.ChatFormat`.

    What the model learns stands between `{% generation %}` and `{% endgeneration %}`. For a template without these, an
    answer is what the rendering of a conversation up to it adds to the prompt for it, without whitespace at its end.

    Args:
      jinja: the template.
      names: special tokens by the names that it knows them by.

    Raises:
      RecipeError: the template doesn't work, or does not say what is the assistant's.
    """

    def __init__(self, jinja: str, names: Mapping[str, str]):
        if len(jinja) > _LONGEST:
            problem = f"has {len(jinja)} characters, at most {_LONGEST} are read"
            raise RecipeError(f"chat_template: the tokenizer's own template {problem}")
        self.jinja = jinja
        self._names: dict[str, Any] = dict(names)
        self._marks = _GENERATION.search(jinja) is not None
        try:
            learned = any(part.learned and not part.template for part in self.conversation(_PROBE, "every"))
            self.prompt(_PROBE[:1])
        except DataError as error:
            raise RecipeError(f"chat_template: the tokenizer's own template can't be used: {error}") from None
        if not learned:
            problem = "never marks what the assistant says: {% generation %} is there, but not around an answer"
            raise RecipeError(f"chat_template: the tokenizer's own template {problem}")

    def conversation(self, messages: Sequence[Message], turns: Turns) -> tuple[Part, ...]:
        """A whole conversation.

        Raises:
          DataError: the template refuses it (``template_refused``), or writes something else than its words
            (``template_changes_text``), or begins it otherwise than its first messages alone (``template_no_prefix``).
        """
        whole = self._rendered(messages, prompt=False)
        last = len(messages) - 1
        if self._marks:
            # An answer may be marked in several pieces: those of the last one follow the last user's words.
            spoken = [found.start() for found in re.finditer(CLOSE, whole.text)]
            after = 0 if turns == "every" or len(spoken) < 2 else spoken[-2]
            learned = [(start, end) for start, end in whole.learned if start >= after]
        else:
            answers = [i for i, message in enumerate(messages) if message.role == "assistant"]
            learned = [self._answer(whole.text, messages, i) for i in answers if turns == "every" or i == last]
        return _parts(whole.text, learned)

    def prompt(self, messages: Sequence[Message]) -> tuple[Part, ...]:
        """A conversation that the model is to answer.

        Raises:
          DataError: as `conversation`.
        """
        return _parts(self._rendered(messages, prompt=True).text, ())

    def _answer(self, whole: str, messages: Sequence[Message], number: int) -> tuple[int, int]:
        """Where an answer and its end stand in the rendering of all messages."""
        prompt = self._rendered(messages[:number], prompt=True).text
        with_answer = self._rendered(messages[: number + 1], prompt=False).text
        if not (with_answer.startswith(prompt) and whole.startswith(with_answer)):
            _fail(
                f"the chat template writes the first {number + 1} messages otherwise when others follow, so that it is "
                "not known what the model would be asked for; learn the last answer alone (`turns: last`), or use a "
                "template that marks answers with {% generation %}",
                "template_no_prefix",
            )
        said = with_answer.rfind(CLOSE) + 1
        if said <= len(prompt):
            _fail("the chat template leaves out what the assistant says", "template_changes_text")
        rest = with_answer[said:]
        return len(prompt), said + len(rest.rstrip() or rest)

    def _rendered(self, messages: Sequence[Message], prompt: bool) -> _Rendered:
        plain = self._render([message.content for message in messages], messages, prompt)
        # Whitespace at the edges stays outside, as templates may strip it.
        marked = self._render([_marked(message.content) for message in messages], messages, prompt)
        if _unmarked(marked.text) != plain.text:
            _fail("the chat template changes what a message says, depending on its words", "template_changes_text")
        return marked

    def _render(self, contents: Sequence[str], messages: Sequence[Message], prompt: bool) -> _Rendered:
        import jinja2
        from transformers.utils.chat_template_utils import render_jinja_template

        said = [{"role": message.role, "content": text} for message, text in zip(messages, contents, strict=True)]
        try:
            with bounded(_SECONDS, _MEMORY, _CODE):
                # A pair, whatever its annotation says.
                rendered: Any = render_jinja_template(
                    conversations=[said],
                    chat_template=self.jinja,
                    add_generation_prompt=prompt,
                    return_assistant_tokens_mask=self._marks,
                    **self._names,
                )
        # A template computes with what it is given, and may fail as any program.
        except (
            jinja2.TemplateError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RecursionError,
            MemoryError, TooMuch,
        ) as error:  # fmt: skip
            _fail(f"the chat template refuses this conversation: {str(error)[:_SHOWN]}", "template_refused")
        (text,), learned = rendered
        return _Rendered(text, tuple((first, last) for first, last in learned[0]) if self._marks else ())


def _fail(problem: str, reason: str) -> NoReturn:
    raise DataError(problem, reason)


def _marked(content: str) -> str:
    core = content.strip()
    start = content.index(core)
    return f"{content[:start]}{OPEN}{core}{CLOSE}{content[start + len(core) :]}"


def _unmarked(text: str) -> str:
    return text.replace(OPEN, "").replace(CLOSE, "")


def _parts(text: str, learned: Sequence[tuple[int, int]]) -> tuple[Part, ...]:
    """The parts of a marked text, cut where a message or what is learned begins or ends."""
    parts, inside, start = [], False, 0
    marks = {found.start() for found in re.finditer(f"[{OPEN}{CLOSE}]", text)}
    edges = sorted({edge for one in learned for edge in one} | marks | {len(text)})
    for edge in edges:
        if start < edge:
            taught = any(first <= start < last for first, last in learned)
            parts.append(Part(text[start:edge], template=not inside, learned=taught))
        start = edge
        if edge in marks:
            inside, start = text[edge] == OPEN, edge + 1
    return tuple(parts)

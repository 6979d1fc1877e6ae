"""Chat templates by name: what is written around the messages of a conversation, and the same in Jinja."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from jaxft.data.chat.messages import Message
from jaxft.data.tokenizers import Part, Tokenizer

Turns = Literal["every", "last"]
TemplateName = Literal["chatml", "llama3", "llama2", "mistral", "gemma", "plain"]


@dataclass(frozen=True)
class Turn:
    """What is written around a message, whose own edges lose their whitespace.

    Attributes:
      before: says whose turn it is; before an answer it is what the model is prompted with.
      lead: begins what is said.
      end: ends what is said.
      after: stands between this turn and the next.
    """

    before: str = ""
    lead: str = ""
    end: str = ""
    after: str = ""


@dataclass(frozen=True)
class ChatTemplate:
    """A form of conversations; `{bos}` and `{eos}` in its texts are the tokenizer's start and separator tokens.

    Attributes:
      user: turn of the user.
      assistant: turn of the assistant, from whose `lead` to whose `end` the model learns.
      system: what stands around the system message.
      system_inside: whether the system message stands in the first turn of the user, before what the user says.
      start: before everything.
    """

    user: Turn
    assistant: Turn
    system: Turn
    system_inside: bool = False
    start: str = ""

    def conversation(self, messages: Sequence[Message], turns: Turns) -> tuple[Part, ...]:
        """A whole conversation; the model learns the answers and their ends, all of them or the last."""
        learned_from = 0 if turns == "every" else len(messages) - 1
        return tuple(self._parts(messages, learned_from))

    def prompt(self, messages: Sequence[Message]) -> tuple[Part, ...]:
        """A conversation that the model is to answer."""
        return (*self._parts(messages, len(messages)), Part(self.assistant.before, template=True))

    def _parts(self, messages: Sequence[Message], learned_from: int) -> Iterator[Part]:
        yield Part(self.start, template=True)
        inside: tuple[Part, ...] = ()
        for number, message in enumerate(messages):
            turn: Turn = getattr(self, message.role)
            learned = message.role == "assistant" and number >= learned_from
            own = (
                Part(turn.lead, template=True, learned=learned),
                Part(message.content.strip(), learned=learned),
                Part(turn.end, template=True, learned=learned),
            )
            if message.role == "system" and self.system_inside:
                inside = own
                continue
            yield from (Part(turn.before, template=True), *inside, *own, Part(turn.after, template=True))
            inside = ()

    @property
    def jinja(self) -> str:
        """The same as a template of transformers, with `{% generation %}` around what the model learns."""
        said = "(message['content'] | trim)"
        system, user, assistant = self.system, self.user, self.assistant
        system_turn = f"{{{{- {_joined(system.before, system.lead, said, system.end, system.after)} }}}}"
        if self.system_inside:
            system_turn = f"{{%- set inside.text = {_joined(system.lead, said, system.end)} %}}"
        return "\n".join(
            [
                f"{{{{- {_literal(self.start)} }}}}",
                "{%- set inside = namespace(text='') %}",
                "{%- for message in messages %}",
                "{%- if message['role'] == 'system' %}",
                system_turn,
                "{%- elif message['role'] == 'user' %}",
                f"{{{{- {_literal(user.before)} ~ inside.text ~ {_joined(user.lead, said, user.end, user.after)} }}}}",
                "{%- set inside.text = '' %}",
                "{%- elif message['role'] == 'assistant' %}",
                f"{{{{- {_literal(assistant.before)} }}}}",
                "{%- generation %}",
                f"{{{{- {_joined(assistant.lead, said, assistant.end)} }}}}",
                "{%- endgeneration %}",
                f"{{{{- {_literal(assistant.after)} }}}}",
                "{%- else %}",
                "{{- raise_exception('roles are system, user and assistant; found ' ~ message['role']) }}",
                "{%- endif %}",
                "{%- endfor %}",
                "{%- if add_generation_prompt %}",
                f"{{{{- {_literal(assistant.before)} }}}}",
                "{%- endif %}",
            ]
        )


def _joined(*texts: str) -> str:
    """A Jinja expression that joins constant texts and the message."""
    return " ~ ".join(text if text.startswith("(message") else _literal(text) for text in texts if text)


def _literal(text: str) -> str:
    """A text as Jinja writes it."""
    return json.dumps(text, ensure_ascii=False)


def _alike(before: str, end: str, after: str = "", assistant: str = "assistant") -> dict[str, Any]:
    """Turns that differ in the name of the role alone."""
    names = {"system": "system", "user": "user", "assistant": assistant}
    return {role: Turn(before.replace("ROLE", name), end=end, after=after) for role, name in names.items()}


_GEMMA = _alike("<start_of_turn>ROLE\n", "<end_of_turn>", "\n", assistant="model")
_SYSTEM_OF_LLAMA2 = Turn(lead="<<SYS>>\n", end="\n<</SYS>>\n\n")

TEMPLATES: dict[TemplateName, ChatTemplate] = {
    # OpenAI's markup, used by Qwen, SmolLM and many others.
    "chatml": ChatTemplate(**_alike("<|im_start|>ROLE\n", "<|im_end|>", "\n")),
    # Grattafiori et al. 2024, arXiv 2407.21783.
    "llama3": ChatTemplate(
        **_alike("<|start_header_id|>ROLE<|end_header_id|>\n\n", "<|eot_id|>"), start="{bos}"
    ),
    # Touvron et al. 2023, arXiv 2307.09288.
    "llama2": ChatTemplate(
        Turn("{bos}[INST] ", end=" [/INST]"), Turn(lead=" ", end=" {eos}"), _SYSTEM_OF_LLAMA2, system_inside=True
    ),
    # Jiang et al. 2023, arXiv 2310.06825, in the form of their tokenizers since version 3.
    "mistral": ChatTemplate(
        Turn("[INST] ", end="[/INST]"), Turn(lead=" ", end="{eos}"), Turn(end="\n\n"), system_inside=True, start="{bos}"
    ),
    # Gemma Team 2024, arXiv 2403.08295; the system message as in Gemma 3.
    "gemma": ChatTemplate(
        _GEMMA["user"], _GEMMA["assistant"], Turn(end="\n\n"), system_inside=True, start="{bos}"
    ),
    "plain": ChatTemplate(
        Turn("User: ", after="\n"), Turn("Assistant:", lead=" ", end="{eos}", after="\n"), Turn(after="\n\n"),
        start="{bos}",
    ),
}  # fmt: skip


def template_for(name: TemplateName, tokenizer: Tokenizer) -> ChatTemplate:
    """A template by its name, with the start and separator tokens of a tokenizer; a start that it lacks is left out."""
    start = "" if tokenizer.start_id is None else tokenizer.tokens([tokenizer.start_id])[0]
    (separator,) = tokenizer.tokens([tokenizer.separator_id])

    def filled(text: str) -> str:
        return text.replace("{bos}", start).replace("{eos}", separator)

    def turn(one: Turn) -> Turn:
        return Turn(filled(one.before), filled(one.lead), filled(one.end), filled(one.after))

    template = TEMPLATES[name]
    return replace(
        template,
        user=turn(template.user),
        assistant=turn(template.assistant),
        system=turn(template.system),
        start=filled(template.start),
    )

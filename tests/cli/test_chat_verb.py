"""Talking to a model from the command line: commands, a pipe, and Ctrl-C in a terminal."""

from __future__ import annotations

import io
import json
import os
import pty
import select
import signal
import subprocess
import sys
import time

import pytest
from support import tiny_models

from jaxft.cli.main import run
from jaxft.data.chat import Message
from jaxft.generation.config import GenerationConfig
from jaxft.generation.talking import chat_prompt, form_for_chat
from jaxft.workflows.inference.chat import open_chat
from jaxft.workflows.inference.generate import open_text_generator


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("models")
    return {
        "talks": str(tiny_models.llama(root / "talks", context=256)),
        "base": str(tiny_models.llama(root / "base", talks=False)),
    }


def talk(monkeypatch, capsys, lines: str, *words: str) -> tuple[int, str, str]:
    """Status, answers and the rest of a conversation through a pipe."""
    monkeypatch.setattr(sys, "stdin", io.StringIO(lines))
    status = run(["chat", *words])
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    return status, out, err


def test_answers_follow_from_the_whole_conversation(models, monkeypatch, capsys, tmp_path):
    file = tmp_path / "said.json"
    lines = "is it?\n/system be brief\nyes,\\\nno\n/undo\n/retry\n/set temperature 0.5\n/set temperature\n"
    lines += f"/save {file}\n/exit\nnever\n"
    options = ("--max-new-tokens", "6", "--temperature", "0", "--system", "be kind")
    status, out, err = talk(monkeypatch, capsys, lines, models["talks"], *options)
    assert status == 0 and "taken back: yes,\nno" in err and "temperature 0.5" in err
    writer = open_text_generator(models["talks"])
    form = form_for_chat(None, writer.generator.tokenizer)

    def answered(*said: str, system: str) -> str:
        roles = ["user", "assistant"] * 2
        messages = [Message("system", system), *(Message(role, text) for role, text in zip(roles, said, strict=False))]
        prompt = chat_prompt(form, writer.generator.tokenizer, messages)
        return writer.generator.generate(writer.parameters, [prompt], GenerationConfig(max_new_tokens=6))[0].text

    first = answered("is it?", system="be kind")
    second = answered("is it?", first.replace("\0", ""), "yes,\nno", system="be brief")
    again = answered("is it?", system="be brief")
    assert out == f"{first}\n{second}\n{again}\n"
    saved = json.loads(file.read_text())["messages"]
    assert saved == [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "is it?"},
        {"role": "assistant", "content": again.replace("\0", "")},
    ]


@pytest.mark.parametrize(
    ("model", "lines", "options", "status", "words"),
    [
        ("base", "hi\n", (), 2, "no chat template"),
        ("base", "hi\n", ("--chat-template", "chatmel"), 2, "there is no chat template 'chatmel'"),
        ("talks", "cat " * 400, (), 3, "the model's context is 256, which leaves no room for an answer"),
        ("talks", "/nonsense\n", (), 2, "no command /nonsense"),
        ("talks", "/undo\n", (), 3, "nothing was asked yet"),
        ("talks", "/set warmth 3\n", (), 2, "no option 'warmth'"),
        ("talks", "/set temperature warm\n", (), 2, "'warm' is no number"),
        ("talks", "/set temperature -1\n", (), 2, "must not be negative"),
        ("talks", "", ("--temperature", "-1"), 2, "must not be negative"),
        ("talks", "/save /no/such/place\n", (), 3, "cannot be written"),
    ],
)
def test_what_is_wrong_is_said(model, lines, options, status, words, models, monkeypatch, capsys):
    found, out, err = talk(monkeypatch, capsys, lines, models[model], *options)
    assert found == status and words in err and out == ""


def _comes(terminal: int, wanted: str, seconds: float) -> tuple[bool, str]:
    """Whether the terminal shows something in time, and what it shows until then."""
    shown, end = "", time.monotonic() + seconds
    while wanted not in shown:
        ready, _, _ = select.select([terminal], [], [], max(0.0, end - time.monotonic()))
        if not ready:
            return False, shown
        shown += os.read(terminal, 4096).decode(errors="replace")
    return True, shown


def _until(terminal: int, wanted: str) -> None:
    came, shown = _comes(terminal, wanted, 120)
    assert came, f"{wanted!r} did not come; so far: {shown!r}"


@pytest.mark.slow
def test_ctrl_c_stops_the_answer_and_not_the_program(models):
    ours, theirs = pty.openpty()
    # Programs that a shell started in the background ignore this signal, and so would theirs.
    heeding = (
        "import runpy, signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "runpy.run_module('jaxft', run_name='__main__')"
    )
    words = [sys.executable, "-c", heeding, "chat", models["talks"]]
    process = subprocess.Popen(words, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True)
    os.close(theirs)
    try:
        _until(ours, "/help lists commands")
        # Nothing is being answered. A signal may come before the terminal is read, where it waits for the next key.
        for _ in range(10):
            process.send_signal(signal.SIGINT)
            came, shown = _comes(ours, "/exit or the end of the input", 5)
            if came:
                break
        assert came, shown
        os.write(ours, b"is it?\n")
        time.sleep(0.5)  # much less than it takes to compile the first answer's programs
        process.send_signal(signal.SIGINT)
        _until(ours, "(stopped)")
        os.write(ours, b"/set max_new_tokens 5\n")
        os.write(ours, b"is it?\n")
        _until(ours, "cut off after 5 tokens")
        os.write(ours, b"/exit\n")
        assert process.wait(60) == 0
    finally:
        process.kill()
        os.close(ours)


def test_stopping_keeps_what_was_written(models):
    """What Ctrl-C calls."""
    session = open_chat(models["talks"], options={"max_new_tokens": 80, "seed": 3})
    pieces = session.ask("is it?")
    written = next(pieces)
    session.stop()
    written += "".join(pieces)
    assert session.note == "(stopped)"
    assert session.messages()[-1] == Message("assistant", written.replace("\0", ""))
    assert 0 < len(session._text_generator.generator.tokenizer.encode([written])[0]) < 40

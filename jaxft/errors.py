"""The mistakes that a user can be told about, each with the exit status that the command line answers.

Whatever is raised here reaches the user as one message without a traceback, so a message names the
file, the line or key, what was found and what would be right. Anything else that is raised is a defect of jaxft.
"""

from __future__ import annotations


class JaxftError(Exception):
    """Base of every error that is the user's to solve; exit status 1 unless a subclass says otherwise."""

    exit_status = 1


class RecipeError(JaxftError):
    """The user's words are wrong: an unknown key, an impossible value, a missing file. Exit status 2."""

    exit_status = 2


class DataError(JaxftError):
    """The data is wrong: a malformed row, a missing column, an unseen label. Exit status 3.

    Attributes:
      reason: kind of defect, by which bad rows are counted where a recipe lets them be skipped.
    """

    exit_status = 3

    def __init__(self, message: str, reason: str = "other"):
        super().__init__(message)
        self.reason = reason


class CheckpointError(JaxftError):
    """A checkpoint or weights are wrong: missing, damaged, or of another shape. Exit status 4."""

    exit_status = 4


class DivergenceError(JaxftError):
    """Training diverged: the loss or its gradient stopped being finite. Exit status 5."""

    exit_status = 5


class Interrupted(JaxftError):
    """The user or the machine's scheduler stopped a run, whose state was saved first. Exit status 1."""


class InvalidField(ValueError):
    """An impossible value of one field of a config, raised by the config itself.

    The recipe reader adds the file, the line and the path of the key.

    Attributes:
      field: name of the field of the config that raised, with dots where it lies deeper.
      problem: what is wrong with it and what would be right.
    """

    def __init__(self, field: str, problem: str):
        super().__init__(f"{field}: {problem}")
        self.field = field
        self.problem = problem

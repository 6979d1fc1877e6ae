"""What a server takes on."""

from __future__ import annotations

import dataclasses

from jaxft.errors import InvalidField


@dataclasses.dataclass(frozen=True)
class Limits:
    """What a request may ask for, and how much is worked on at once.

    Attributes:
      max_tokens: most tokens that are written for each text.
      max_prompt_tokens: most tokens of a prompt or of a text that is read.
      max_texts: most texts of a request: prompts times answers of each, or texts that are read.
      max_body: most bytes of a request.
      queue: most texts that wait; requests beyond are turned away.
      time_limit: seconds for a request, from its arrival to its last word.
      body_seconds: seconds for a request to arrive.
      header_seconds: seconds for a connection to say what it wants.
      drain_seconds: seconds for requests to end when the server is told to.
      connections: most that are open.
      connections_per_address: most of one address; as many as texts may wait, and few enough to leave others room.
      batch_size: most texts that are worked on together.
      batches: most groups of texts with different options that are written side by side.
    """

    max_tokens: int = 1024
    max_prompt_tokens: int = 8192
    max_texts: int = 64
    max_body: int = 1 << 20
    queue: int = 256
    time_limit: float = 300.0
    body_seconds: float = 30.0
    header_seconds: float = 10.0
    drain_seconds: float = 10.0
    connections: int = 768
    connections_per_address: int = 256
    batch_size: int = 16
    batches: int = 4

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if not getattr(self, field.name) > 0:
                raise InvalidField(field.name, f"must be above 0, found {getattr(self, field.name)}")

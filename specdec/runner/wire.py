"""What a worker process and its parent say to each other: one JSON object a line, over two pipes.

To the worker: ``open`` (load, check, open the strategies), then ``cell`` after ``cell``; end of file means: end.

From the worker, while it opens: ``say`` and ``warn`` (a line for the user), ``arms``, ``opening`` (an arm's index),
``failed`` (that arm cannot be opened), ``facts``, and ``ready`` or ``refused`` (a user's error, in two parts).
For each cell: ``opening`` while it gets ready, ``turn`` where a generation begins, ``sample`` after each, ``done``.
"""

from __future__ import annotations

from typing import IO, Any

import orjson

Message = dict[str, Any]


def send(file: IO[bytes], message: Message) -> None:
    """Write one message; raises ``OSError`` where the other side has gone."""
    file.write(orjson.dumps(message, option=orjson.OPT_SERIALIZE_NUMPY) + b"\n")
    file.flush()


def receive(file: IO[bytes]) -> Message | None:
    """The next message; None where the other side has gone (a torn last line is dropped)."""
    line = file.readline()
    return orjson.loads(line) if line.endswith(b"\n") else None

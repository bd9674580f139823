"""Run a command on a terminal of its own."""

from __future__ import annotations

import os
import pty
import subprocess


def on_terminal(command: list[str], **environment: str) -> str:
    """What a command writes on a terminal, stdout and stderr together; COLUMNS says how wide it is."""
    environment = {k: v for k, v in (os.environ | environment).items() if v}
    main, side = pty.openpty()
    with subprocess.Popen(command, stdout=side, stderr=side, stdin=side, env=environment) as process:
        os.close(side)
        out = b""
        while True:
            try:
                chunk = os.read(main, 65536)
            except OSError:  # the terminal closes with its last writer
                break
            if not chunk:
                break
            out += chunk
        process.wait()
    os.close(main)
    return out.decode("utf-8", "replace")

"""Where the fault of a strategy lies, in a line."""

from __future__ import annotations

import sysconfig
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from specdec.errors import SpecdecError, one_line

_OURS = (str(Path(__file__).parent), *(sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")), "<")
"""specdec's own files, those of Python and of installed packages."""


def in_one_line(error: BaseException) -> str:
    """``IndexError: index 9 is out of bounds (mine.py:4)``; without a place where no file of the user's took part."""
    what = one_line(f"{type(error).__name__}: {error}") if str(error) else type(error).__name__
    place = place_of(error)
    return f"{what} ({place})" if place else what


def place_of(error: BaseException) -> str:
    """``mine.py:4``: the innermost line of the user's own files that the error went through; empty where none is."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if not f.filename.startswith(_OURS)]
    return f"{Path(own[-1].filename).name}:{own[-1].lineno}" if own else ""


@contextmanager
def own_faults_told() -> Iterator[None]:
    """Within it, what a file of the user's raises becomes one line; specdec's own faults stay what they are."""
    try:
        yield
    except SpecdecError:
        raise
    except (Exception, SystemExit) as error:
        if not place_of(error):
            raise
        raise SpecdecError(f"the strategy failed: {in_one_line(error)}.", "Try it: specdec strategies check") from error

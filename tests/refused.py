"""What a call is refused with."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from specdec.errors import SpecdecError


def refusal(function: Callable[[], object]) -> str:
    """The message of the ``SpecdecError``, one line, that the call must raise."""
    with pytest.raises(SpecdecError) as caught:
        function()
    assert "\n" not in str(caught.value)
    return str(caught.value)

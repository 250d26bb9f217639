"""What several tests of audio need."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable

import pytest


@pytest.fixture
def peak_bytes() -> Callable[[Callable[[], object]], int]:
    """Measures the most memory that a call allocates through Python and numpy."""

    def measure(call: Callable[[], object]) -> int:
        call()  # what is kept for ever is not counted
        tracemalloc.start()
        try:
            call()
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    return measure

"""Room for requests that take long."""

from __future__ import annotations

from contextlib import ExitStack
from uuid import UUID

import pytest

from api.places import Places
from shared.errors import RateLimitedError

ONE, OTHER = UUID(int=1), UUID(int=2)


def test_one_tenant_cannot_have_all_places() -> None:
    places = Places(8)
    with ExitStack() as stack:
        for _ in range(6):
            stack.enter_context(places.take(ONE))
        with pytest.raises(RateLimitedError), places.take(ONE):
            pass
        for _ in range(2):
            stack.enter_context(places.take(OTHER))
        with pytest.raises(RateLimitedError), places.take(OTHER):
            pass
    with places.take(ONE), places.take(OTHER):
        pass


def test_there_is_room_for_one_however_few_threads_there_are() -> None:
    with Places(1).take(ONE):
        pass

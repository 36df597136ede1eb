"""How a call is refused, for tests."""

from typing import Any

import pytest

from fallow.control.refusals import Refused


async def refused(call: Any, status: int, code: str) -> str:
    """Check how a call is refused and return all that was said."""
    with pytest.raises(Refused) as caught:
        await call
    problem = caught.value.problem
    assert (problem.status, problem.type) == (status, f"urn:fallow:{code}"), problem
    return f"{problem.title} {problem.detail} {problem.hint}"

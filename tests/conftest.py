"""Marks everything below tests/system as slow, so that a plain `pytest` leaves it out.

Must never hold fixtures of one part of the house: those live beside the tests that use them.
"""

from pathlib import Path

import pytest
from hypothesis import settings

# No deadline: how long an example takes is a matter of the machine. The same examples at every run, so that a change
# is judged by what it changed; `pytest --hypothesis-profile explore` looks for new ones, and a failure prints the blob
# that repeats it, to be kept as an example of the test.
settings.register_profile("house", deadline=None, derandomize=True)
settings.register_profile("explore", deadline=None, print_blob=True, max_examples=2_000)
settings.load_profile("house")

SYSTEM = Path(__file__).parent / "system"


@pytest.hookimpl(tryfirst=True)  # before pytest itself deselects by marker
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if SYSTEM in item.path.parents:
            item.add_marker(pytest.mark.system)

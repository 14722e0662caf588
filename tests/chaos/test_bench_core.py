"""The benchmark of the core measures what it says: every entry it times is accepted, and no stage is left out."""

from __future__ import annotations

import pytest

from chaos.bench import core


@pytest.fixture(autouse=True)
def briefly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core, "ROUNDS", 1)


@pytest.mark.parametrize(
    "case",
    [
        lambda: core.claims(4),
        lambda: core.completions(3, 20),
        lambda: core.beats(3),
        lambda: core.refusals(3),
        lambda: core.many_projects(3, 5),
    ],
)
def test_every_entry_of_a_case_is_applied(case: object) -> None:
    assert callable(case)
    made = case()
    assert len(made.entries) >= 3
    apply_us, hash_us = core.whole(made)
    assert apply_us > 0 and hash_us > 0


def test_stages_cover_the_way_of_a_proposal() -> None:
    assert list(core.stages(core.completions(3, 20))) == [
        "decode entry",
        "decode proposal",
        "normal form",
        "reduce",
        "rows",
    ]

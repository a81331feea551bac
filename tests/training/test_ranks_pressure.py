"""A pressure on ranks: the same on all of them as in one process, or refused."""

import pytest

from tests.training.rank_worker import forker, values_of
from tests.training.test_ranks_grower import assert_close

CASES = "rank_worker_pressure"


def grown(size, policy, how):
    answers = forker().run(f"{CASES}:grow", size, policy=policy, how=how)
    assert not any(answer and answer["hung"] for answer in answers), answers
    return answers


@pytest.mark.parametrize(
    ("policy", "how"),
    [pytest.param("gates", "ddp", marks=pytest.mark.long), ("gates", "fsdp2"), ("units", "ddp")],
)
def test_two_ranks_press_as_one(policy, how):
    first, second = values_of(grown(2, policy, how))
    (alone,) = values_of(grown(1, policy, how))
    assert first == second
    assert [outcome for outcome, _ in first["decisions"]].count("grew") == (
        2 if policy == "gates" else 1
    )
    assert first["topology"] == alone["topology"]
    assert_close(first["weights"], alone["weights"])
    assert_close(first["moments"], alone["moments"])


def test_sharded_units_are_refused_on_all_ranks():
    for answer in grown(2, "units", "fsdp2"):
        assert "a pressure on units needs whole parameters, which fsdp2 cuts" in answer["message"]

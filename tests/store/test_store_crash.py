"""SIGKILL at random times: nothing torn, nothing acknowledged lost, and the run goes on."""

from pathlib import Path

import pytest
from store_campaign import ORDER, campaign, look, state_of
from store_networks import MODEL, grown, traced_network

from tests.store.conftest import Worker
from topograph.store import Run


def check(worker: Worker, folder: Path, kills: int, seed: int) -> set[str]:
    """Kill so many times; return what was being written then."""
    struck = campaign(worker, folder, kills, seed)
    assert len(struck) == kills
    assert [found for found in struck if found.torn or found.lost] == []
    return {found.during for found in struck}


def test_ten_kills(worker: Worker, tmp_path: Path) -> None:
    assert len(check(worker, tmp_path, kills=10, seed=1)) > 1


@pytest.mark.long
@pytest.mark.parametrize("seed", range(10))
def test_a_thousand_kills(worker: Worker, tmp_path: Path, seed: int) -> None:
    assert check(worker, tmp_path, kills=100, seed=100 + seed) >= set(ORDER)


def test_the_look_sees_what_is_lost_and_what_is_wrong(path: Path) -> None:
    traced = traced_network()
    with Run.create(path, traced, model=MODEL) as run:
        run.save(state_of(3), step=3, metrics={"loss": 0.0})
        run.commit(grown(traced))
    _, lost = look(path, entry=2, step=4, measured=9)
    assert lost == [
        "entry 2: the run ends at 1",
        "state 4: the run has that of 3",
        "the curve at 9: it ends at 3",
    ]
    with pytest.raises(AssertionError, match=r"state 4 was never begun after 2"):
        look(path, entry=2, step=2, measured=0)
    with Run.open(path) as run:
        run.save(state_of(8), step=5)
    with pytest.raises(AssertionError, match=r"the state at 5 is another one"):
        look(path, entry=2, step=5, measured=0)

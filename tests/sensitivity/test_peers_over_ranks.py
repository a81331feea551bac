"""The peers' rules over ranks: every rank has the same bits; one rank alone has them nearly."""

import pytest

from tests.often import often
from tests.training.rank_worker import forker, values_of

PEERS = "rank_worker_peers"
ALIKE = ["gradient_norm", "gradmax", "tiny", "random", "first", "last"]
DRAWN = ["features", "wasserstein"]
CASES = [(scorer, split) for scorer in [*ALIKE, *DRAWN] for split in (True, False)]
FEW = [(scorer, split) for scorer, split in CASES if split or scorer in ["gradient_norm", *DRAWN]]


def values(scores):
    return {name: float.fromhex(value) for name, value, _ in scores}


@pytest.mark.parametrize("net", ["mlp", pytest.param("cnn", marks=pytest.mark.long)])
@pytest.mark.parametrize("case", often(CASES, FEW))
def test_two_ranks_agree_and_score_as_one(case, net):
    scorer, split = case
    first, second = values_of(forker().run(f"{PEERS}:score", scorer=scorer, net=net, split=split))
    assert first == second  # every bit
    (alone,) = values_of(forker().run(f"{PEERS}:score", 1, scorer=scorer, net=net, split=split))
    assert values(first).keys() == values(alone).keys()
    if scorer not in DRAWN:  # their draws depend on who has which batch
        for name, value in values(first).items():
            assert value == pytest.approx(values(alone)[name], rel=1e-9, abs=1e-15)


@pytest.mark.parametrize("split", [True, False])
@pytest.mark.parametrize("scorer", ["topological_derivative", "wasserstein"])
def test_two_ranks_agree_on_all_kinds(scorer, split):
    first, second = values_of(forker().run(f"{PEERS}:kinds", scorer=scorer, split=split))
    assert len(first) == 5
    assert first == second  # every bit, of the directions too
    (alone,) = values_of(forker().run(f"{PEERS}:kinds", 1, scorer=scorer, split=split))
    if scorer != "wasserstein":
        assert values(first) == pytest.approx(values(alone), rel=1e-9)


def test_ranks_of_different_seeds_share_their_mean():
    first, second = values_of(forker().run(f"{PEERS}:seeds"))
    assert first == second
    (alone,) = values_of(forker().run(f"{PEERS}:seeds", 1))
    assert first != alone

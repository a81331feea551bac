"""What every scorer keeps: the network, its own word, and its independence of other candidates."""

import pytest
import torch
from torch.nn import functional as F

import topograph as tg
from tests.nets import data, frozen_copy, make, same
from topograph.sensitivity.scorers import SCORERS
from topograph.spec.scorers import KINDS

WANTED = [tg.InsertLayer(where=tg.all(), block=tg.ConvBottleneck(units=2))]
INSERTS = [name for name, kinds in KINDS.items() if "insert_layer" in kinds]


def test_every_name_has_a_scorer():
    assert SCORERS.keys() == KINDS.keys()


@pytest.mark.parametrize("scorer", INSERTS)
def test_scores_are_the_same_again_and_alone_and_the_network_stays(scorer):
    if scorer == "betti_stall":
        reason = "gudhi is not installed; pip install 'topograph[embedding]'"
        pytest.importorskip("gudhi", reason=reason)
    traced, batches = make("cnn"), data("cnn", 4)
    before = frozen_copy(traced.module.train())
    state = torch.random.get_rng_state()

    def scores_of(wanted, given=batches):
        found = tg.score(traced, given, F.cross_entropy, wanted, scorer=scorer)
        return {score.mutation: (score.value, score.error) for score in found}

    first = scores_of(WANTED)
    assert len(first) > 1
    once = iter(batches)  # to be gone through once
    assert list(first.items()) == list(scores_of(WANTED, once).items())
    assert same(before, frozen_copy(traced.module))
    assert torch.equal(torch.random.get_rng_state(), state)
    for mutation, found in first.items():
        assert scores_of([mutation]) == {mutation: found}

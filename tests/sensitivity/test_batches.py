"""What callers give for batches and losses by mistake: one line, whose number is the caller's."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import topograph as tg
from tests.nets import data, make, places_of
from topograph.sensitivity import mean_loss
from topograph.sensitivity.batches import pairs

X, Y = data("mlp")[0]
WRONG = [
    (5, "batches is a int; give pairs"),
    (torch.tensor(1.0), "batches is a Tensor; give pairs"),
    ((X, Y), "probe batch 0 is a Tensor; give pairs"),
    (X[:2], "batches is a Tensor; give pairs"),
    ([X[:2]], "probe batch 0 is a Tensor; give pairs"),
    ([7], "probe batch 0 is a int; give pairs"),
    ([(X, Y), (X, Y, Y)], "probe batch 1 is a tuple of 3; give pairs"),
    ([(X, Y), [X]], "probe batch 1 is a list of 1; give pairs"),
    ([{"inputs": X, "labels": Y}], "probe batch 0 is a dict; give pairs"),
]


def wanted(traced):
    return places_of(traced, tg.Bottleneck(units=2))[:1]


def scored(batches, loss=F.cross_entropy, **more):
    traced = make("mlp")
    return tg.score(traced, batches, loss, wanted(traced), **more)


@pytest.mark.parametrize(("batches", "message"), WRONG)
def test_what_is_no_pair_is_an_error(batches, message):
    readers = [
        scored,
        lambda given: mean_loss(make("mlp"), given, F.cross_entropy),
        lambda given: tg.edge_transport(make("residual"), given),
    ]
    for read in readers:
        with pytest.raises(tg.ShapeError, match=f"^{message} \\(inputs, target\\)$"):
            read(batches)


@pytest.mark.parametrize("scorer", ["natural", "features", "wasserstein", "gradient_norm", "tiny"])
def test_every_way_of_reading_batches_says_so(scorer):
    for batches, message in WRONG:
        with pytest.raises(tg.ShapeError, match=f"^{message}"):
            scored(batches, scorer=scorer)


def test_pairs_are_read_one_at_a_time():
    read = []

    def stream():
        for index in range(3):
            read.append(index)
            yield [index, -index]

    found = pairs(stream(), first=4)
    assert not read
    assert next(found) == (0, 0)
    assert read == [0]
    assert list(found) == [(1, -1), (2, -2)]
    with pytest.raises(tg.ShapeError, match="probe batch 4 is a int"):
        next(pairs([3], first=4))


@pytest.mark.parametrize("scorer", ["natural", "features", "topological_derivative"])
@pytest.mark.parametrize("bad", [0, 1, 2, 4])
def test_errors_give_the_number_of_the_callers_batch(scorer, bad):
    batches = data("mlp", 5)
    batches[bad] = (batches[bad][0] * torch.nan, batches[bad][1])
    with pytest.raises(tg.NonFiniteError, match=f"the loss of batch {bad} is nan"):
        scored(batches, scorer=scorer)
    batches[bad] = (batches[bad][0][:, :1], batches[bad][1])
    with pytest.raises(tg.ShapeError, match=f"probe batch {bad} does not go through"):
        scored(batches, scorer=scorer)


@pytest.mark.parametrize(
    ("loss", "error", "message"),
    [
        ("cross_entropy", tg.SpecError, "loss is a str; give a function of output and"),
        (
            None,
            tg.SpecError,
            "loss is a NoneType; give a function of .* torch.nn.functional.cross_entro",
        ),
        (lambda y, _: y.mean().item(), tg.ShapeError, r"a float; return a tensor .* \.item\(\)$"),
        (lambda y, _: y, tg.ShapeError, r"must be one number, got \[\d+, 3\]; take the mean$"),
    ],
)
def test_a_loss_that_is_none(loss, error, message):
    for read in (scored, lambda batches, loss: mean_loss(make("mlp"), batches, loss)):
        with pytest.raises(error, match=message) as caught:
            read(data("mlp"), loss)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("directions", ["3", 2.5, None, 0, -1])
def test_directions_are_a_whole_number(directions):
    message = f"^directions = {directions!r} with topological_derivative: give 1, or .* whole numb"
    with pytest.raises(tg.SpecError, match=message):
        scored(data("mlp"), directions=directions)


def test_candidates_that_the_model_has_already():
    traced = make("mlp")
    change = wanted(traced)
    after = tg.apply(traced, tg.plan(traced, change)).after
    with pytest.raises(tg.RefusedError, match="scored: the model has all of them already; give"):
        tg.score(after, data("mlp"), F.cross_entropy, change)


def test_errors_about_values_are_one_line():
    traced = make("residual")
    x, y = data("residual")[0]
    with pytest.raises(tg.NonFiniteError) as caught:
        tg.edge_transport(traced, [(x, y), (x * torch.nan, y)])
    found = "the value of stem is not finite in batch 1; look at the inputs and the weights"
    assert str(caught.value) == found
    net = tg.trace(nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)), (torch.zeros(2, 3),))
    nan = torch.full((9, 3), torch.nan)
    for call, ending in [
        (lambda: tg.align(net, net, inputs=nan), "; look at the inputs and the weights"),
        (
            lambda: tg.curvature(net, nan, k=3),
            "the value of input_1 is not finite; look at the inputs",
        ),
    ]:
        with pytest.raises(tg.NonFiniteError) as caught:
            call()
        assert str(caught.value).endswith(ending)
        assert "\n" not in str(caught.value)

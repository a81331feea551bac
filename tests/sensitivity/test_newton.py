"""Newton steps, the noise that gives curvature, and patches, against dense oracles."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

import topograph as tg
from topograph.sensitivity.fisher import FEWEST, MANY, ROWS, Covariance, noise_like
from topograph.sensitivity.leading import leading_triples
from topograph.sensitivity.newton import RIDGE, Factors, crossed_step, newton_step
from topograph.sensitivity.patches import Rows, patches, vectors, with_one
from topograph.sensitivity.products import Product


def random_factors(out, inner, seed):
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    states, noise = draw(3 * inner, inner), draw(3 * out, out)
    return Factors(draw(out, inner), states.T @ states / len(states), noise.T @ noise)


def value_of(step, factors):
    whole = step.left @ step.right
    bent = torch.trace(whole @ factors.states @ whole.T @ factors.noise)
    return ((whole * factors.correlation).sum() - bent / 2).item()


def ridged(matrix):
    return matrix + RIDGE * matrix.diagonal().mean() * torch.eye(len(matrix)).double()


@given(st.integers(1, 7), st.integers(2, 8), st.integers(1, 9), st.integers(0, 50))
@settings(max_examples=60, deadline=None)
def test_newton_step_is_the_best_of_its_rank(out, inner, rank, seed):
    factors = random_factors(out, inner, seed)
    damped = Factors(factors.correlation, ridged(factors.states), ridged(factors.noise))
    rank = min(rank, out, inner)
    step = newton_step(factors, rank)
    values, vectors_ = torch.linalg.eigh(damped.states)
    left, right = torch.linalg.eigh(damped.noise)
    inner_root = vectors_ @ torch.diag(values**-0.5) @ vectors_.T
    outer_root = right @ torch.diag(left**-0.5) @ right.T
    spectrum = torch.linalg.svdvals(outer_root @ factors.correlation @ inner_root)
    best = spectrum[:rank].square().sum().item() / 2
    assert value_of(step, damped) == pytest.approx(best, rel=1e-9)
    variances = ((step.right @ factors.states) * step.right).sum(1)
    assert torch.allclose(variances, torch.ones(rank).double())


@pytest.mark.parametrize("rank", [2, 5])
def test_a_crossed_step_is_that_of_the_mean_and_what_halves_say_across(rank):
    one, two = random_factors(5, 7, 0), random_factors(5, 7, 1)
    first, second = one.correlation, two.correlation
    found = crossed_step((first, second), one.states, one.noise, rank)
    whole = newton_step(one._replace(correlation=(first + second) / 2), rank)
    assert torch.allclose(found.step.left @ found.step.right, whole.left @ whole.right)
    damped = Factors((first + second) / 2, ridged(one.states), ridged(one.noise))
    assert found.curvature == pytest.approx(2 * value_of(whole, damped), rel=1e-9)
    across = []
    for fitted, other in ((first, second), (second, first)):
        step = newton_step(one._replace(correlation=fitted), rank)
        across.append(((step.left @ step.right) * other).sum().item())
    assert found.slope == pytest.approx(sum(across) / 2, rel=1e-9)


@pytest.mark.parametrize("shape", [(60, 70), (70, 60), (200, 90)])
def test_leading_triples_are_those_of_a_full_decomposition(shape):
    left = torch.linalg.qr(torch.randn(shape[0], 50).double()).Q
    right = torch.linalg.qr(torch.randn(shape[1], 50).double()).Q
    matrix = left @ torch.diag(0.8 ** torch.arange(50).double()) @ right.T
    state = torch.random.get_rng_state()
    found = leading_triples(Product((matrix,)), 5)
    assert torch.equal(torch.random.get_rng_state(), state)
    u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    assert torch.allclose(found.values, s[:5], rtol=1e-6)
    whole = found.left @ torch.diag(found.values) @ found.right
    assert torch.allclose(whole, u[:, :5] @ torch.diag(s[:5]) @ vh[:5], atol=1e-5)


LOSSES = {
    "classes": (F.cross_entropy, torch.tensor([0, 2, 1])),
    "ignored": (F.cross_entropy, torch.tensor([0, -100, 1])),
    "squares": (F.mse_loss, torch.randn(3, 4, generator=torch.Generator().manual_seed(1))),
    "bits": (F.binary_cross_entropy_with_logits, torch.rand(3, 4)),
    "absolute": (F.l1_loss, torch.zeros(3, 4)),
}


@pytest.mark.parametrize("name", LOSSES)
def test_noise_has_the_covariance_of_the_hessian(name):
    loss, target = LOSSES[name]
    output = torch.randn(3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    target = target.double() if target.is_floating_point() else target
    output.requires_grad_()
    hessian = torch.autograd.functional.hessian(lambda o: loss(o, target), output).reshape(12, 12)
    noise = noise_like(torch.Generator().manual_seed(0))
    draws = []
    for _ in range(6000):
        made, gradient = noise(loss, output, target)
        assert made is output
        draws.append(gradient.flatten())
    found = torch.stack(draws)
    # the mean of 6,000 products strays by about their size over the root of 6,000
    assert torch.allclose(found.T @ found / len(found), hessian, atol=6e-3)
    assert found.mean(0).abs().max() < 0.02


def test_sequences_have_classes_in_the_second_axis_or_the_last():
    noise = noise_like(torch.Generator().manual_seed(0))
    scores = torch.randn(2, 5, 3, requires_grad=True)

    def by_last(output, target):
        return F.cross_entropy(output.flatten(0, 1), target.flatten())

    for loss, target in (
        (F.cross_entropy, torch.zeros(2, 3).long()),
        (by_last, torch.zeros(2, 5).long()),
    ):
        _, gradient = noise(loss, scores, target)
        axis = 1 if loss is F.cross_entropy else 2
        assert torch.allclose(gradient.sum(axis), torch.zeros(()), atol=1e-6)
        assert gradient.abs().amax(axis).min() > 0
    with pytest.raises(
        tg.ShapeError, match=r"whole-numbered targets \[2\] for an output \[2, 5, 3\]"
    ):
        noise(F.cross_entropy, scores, torch.zeros(2).long())


@pytest.mark.parametrize(("space", "kernel"), [(1, 3), (2, 1), (2, 3), (2, 5), (3, 3)])
def test_patches_are_what_a_convolution_reads_and_where_it_writes(space, kernel):
    torch.manual_seed(0)
    value = torch.randn(2, 3, *range(4, 4 + space)).double()
    other = torch.randn(2, 2, *value.shape[2:]).double()
    rows = patches(value, kernel)
    every = rows.pick(torch.arange(rows.positions))
    weight = torch.randn(5, 3, *[kernel] * space).double()
    convolve = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}[space]
    expected = convolve(value, weight, padding=kernel // 2).movedim(1, -1).flatten(0, -2)
    assert torch.allclose(every @ weight.flatten(1).T, expected)
    assert every.shape == (rows.positions, rows.columns)
    # the transposed convolution of `other` reads the flipped patches
    back = torch.randn(2, 4, *[kernel] * space).double()  # from 4 channels to the two of `other`
    spread = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}[space]
    flipped = patches(other, kernel, flipped=True)
    found = flipped.pick(torch.arange(flipped.positions)) @ back.movedim(1, -1).flatten(0, -2)
    wanted = spread(other, back, padding=kernel // 2).movedim(1, -1).flatten(0, -2)
    assert torch.allclose(found, wanted)


def test_a_covariance_takes_all_rows_or_an_unbiased_part():
    torch.manual_seed(0)
    few, many = torch.randn(2, 4, 5), torch.randn(400, 20, 5) * torch.arange(1, 6)
    exact = Covariance()
    exact.add(with_one(vectors(few)))
    ones = torch.cat([few.flatten(0, 1), torch.ones(8, 1)], 1)
    assert torch.allclose(exact.total, ones.T @ ones)
    for columns in (128, 129, 300):  # in blocks
        broad = torch.randn(40, columns, dtype=torch.float64)
        blocks = Covariance()
        blocks.add(vectors(broad))
        assert torch.allclose(blocks.total, broad.T @ broad, rtol=1e-12)
    part = Covariance()
    for _ in range(400):
        part.add(vectors(many))
    flat = many.flatten(0, 1)
    assert torch.allclose(part.total / 400, flat.T @ flat, rtol=0.05, atol=3000)
    picked = []
    wide = torch.randn(8000, 300)
    for columns in (5, 300):
        rows = Rows(8000, columns, lambda at, n=columns: picked.append(len(at)) or wide[at, :n])
        Covariance().add(rows)
    assert picked == [FEWEST, ROWS * 300]
    picked.clear()
    shared = Covariance(batches=4)
    for _ in range(4):
        shared.add(Rows(8000, 5, lambda at: picked.append(at) or wide[at, :5]))
    assert [len(at) for at in picked] == [MANY // 4] * 4
    for at in picked:  # one of each equal run of positions, not always the same
        assert ((at + 0.5) / (8000 / len(at)) - torch.arange(len(at)) - 0.5).abs().max() < 0.6
        assert not torch.equal(at, picked[0]) or at is picked[0]

"""Leading singular triples against the full decomposition."""

from itertools import pairwise

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given

from topograph.sensitivity.leading import SMALL, leading_triple
from topograph.sensitivity.products import Product

SLACK = 5e-3  # of a flat spectrum of 256 values, where a subspace turns slowest


def random(rows, columns, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, columns, generator=generator, dtype=torch.float64).to(dtype)


def with_values(rows, columns, values, seed=0):
    """Return a matrix with these singular values."""
    left = torch.linalg.qr(random(rows, len(values), seed))[0]
    right = torch.linalg.qr(random(columns, len(values), seed + 1))[0]
    return left @ torch.diag(torch.tensor(values, dtype=torch.float64)) @ right.T


def check(matrix, slack):
    triple = leading_triple(Product((matrix,)))
    top = torch.linalg.svdvals(matrix)[0].item()
    noise = 100 * torch.finfo(matrix.dtype).eps
    assert triple.left.shape == matrix.shape[:1]
    assert triple.right.shape == matrix.shape[1:]
    if top:
        assert triple.left.norm().item() == pytest.approx(1, abs=noise)
        assert triple.right.norm().item() == pytest.approx(1, abs=noise)
    reached = (triple.left @ matrix @ triple.right).item()
    assert triple.value == pytest.approx(reached, rel=noise, abs=noise * top)
    assert (1 - slack - noise) * top <= triple.value <= (1 + noise) * top
    return triple


@given(st.integers(1, 60), st.integers(1, 60), st.integers(0, 2**31))
def test_random_matrices(rows, columns, seed):
    check(random(rows, columns, seed), 0 if min(rows, columns) <= SMALL else SLACK)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(3, 300), (300, 3), (60, 300), (300, 60), (256, 257)])
def test_tall_and_wide(shape, dtype):
    check(random(*shape, dtype=dtype), 0 if min(shape) <= SMALL else SLACK)


@pytest.mark.parametrize("size", [10, 80])
@pytest.mark.parametrize(
    "values", [[2.0], [2.0, 2.0, 2.0], [2.0, 2.0, 1.0], [5.0, 0.01], [1e-8, 1e-9], [1e8, 1e-8]]
)
def test_known_spectra(values, size):
    triple = check(with_values(size, size + 1, values), 1e-9)
    assert triple.value == pytest.approx(values[0], rel=1e-9)


@pytest.mark.parametrize("size", [10, 80])
def test_all_singular_values_equal(size):
    check(torch.linalg.qr(random(size, size))[0], 1e-9)


@pytest.mark.parametrize("shape", [(1, 1), (4, 5), (80, 81), (90, 60)])
def test_a_zero_matrix(shape):
    triple = check(torch.zeros(shape, dtype=torch.float64), 0)
    assert triple.value == 0


@pytest.mark.parametrize("sizes", [(6, 2, 9), (90, 3, 70, 80), (200, 60, 200), (60, 200, 60)])
def test_a_product_is_the_matrix_it_stands_for(sizes):
    factors = [random(a, b, i) for i, (a, b) in enumerate(pairwise(sizes))]
    product = Product(tuple(factors))
    dense = torch.linalg.multi_dot(factors) if len(factors) > 1 else factors[0]
    assert product.shape == dense.shape
    torch.testing.assert_close(product.dense(), dense)
    found = leading_triple(product)
    top = torch.linalg.svdvals(dense)[0].item()
    assert (1 - SLACK) * top <= found.value <= (1 + 1e-12) * top
    assert found.value == pytest.approx((found.left @ dense @ found.right).item(), rel=1e-10)
    torch.testing.assert_close(product.scaled(0.5).dense(), dense / 2)
    rows = torch.arange(sizes[0]).double()
    torch.testing.assert_close(product.scaled(rows).dense(), rows[:, None] * dense)


def test_nothing_is_drawn_and_the_answer_stays():
    matrix = Product((random(80, 90),))
    before = torch.random.get_rng_state()
    first = leading_triple(matrix)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(5)
    second = leading_triple(matrix)
    assert torch.equal(first.left, second.left)
    assert torch.equal(first.right, second.right)
    assert first.value == second.value

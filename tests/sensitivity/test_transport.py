"""The optimal-transport view, with POT as oracle.

A block is a measure of units w = (v, u) in R^{2d+1}, unit atoms each, and no block is as many
atoms at 0. The objective is the integral of h(w) = s_1 u^T M [v; 1], half the Hessian's form.
"""

import warnings

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import topograph as tg
from tests.nets import data, make, measured
from topograph.sensitivity.closed_forms import outcome
from topograph.sensitivity.products import Product

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import ot


def units_of(layers):
    """Return the units [v; b; u] of a new layer, one a row."""
    inner = torch.cat([layers["reduce"].weight, layers["reduce"].bias[:, None]], 1)
    outer = layers["expand"].weight
    return torch.cat([inner, outer.T], 1).detach().numpy()


def distance(units, base):
    """Return W_2 between two clouds with atoms of mass one."""
    mass = np.full(len(units), 1 / len(units))
    squared = ot.emd2(mass, mass, ot.dist(units, base, metric="sqeuclidean")) * len(units)
    return float(np.sqrt(squared))


def value(units, mean, slope):
    split = mean.shape[1]
    return slope * np.einsum("no,oi,ni->", units[:, split:], mean, units[:, :split])


@pytest.mark.parametrize("step", [0.01, 0.1, 1.0])
@pytest.mark.parametrize("activation", ["tanh", "gelu"])
def test_the_step_is_the_distance_the_block_moves(step, activation):
    traced, batches = make("residual"), data("residual", 2)
    block = tg.Bottleneck(units=1, activation=activation)
    wanted = [tg.InsertLayer(where=tg.all(), block=block)]
    for score in tg.score(traced, batches, F.cross_entropy, wanted):
        plan = tg.plan(traced, [score.mutation])
        after = tg.apply(traced, plan, directions=[score], step=step).after
        units = units_of(after.module.get_submodule(plan.changes[0].name))
        assert distance(units, np.zeros_like(units)) == pytest.approx(step, rel=1e-12)
        reads = score.direction["reduce.weight"].shape[1] + 1
        sizes = [np.linalg.norm(units[:, :reads]), np.linalg.norm(units[:, reads:])]
        assert sizes == pytest.approx([step / 2**0.5] * 2)  # reads and writes weigh the same


@pytest.mark.parametrize("atoms", [1, 2, 5])
@pytest.mark.parametrize("activation", ["tanh", "silu"])
def test_no_cloud_of_that_distance_does_better(atoms, activation):
    r"""sup of the integral of h over W_2(mu, delta_0) = eps is eps^2 s_1 sigma_1 / 2."""
    generator = torch.Generator().manual_seed(atoms)
    mean = torch.randn(4, 6, generator=generator, dtype=torch.float64)
    block = tg.Bottleneck(units=atoms, activation=activation)
    best = outcome(tg.InsertLayer(where=tg.all(), block=block), Product((mean,))).derivative
    slope = {"tanh": 1.0, "silu": 0.5}[activation]
    sigma = np.linalg.svd(mean.numpy(), compute_uv=False)[0]
    step = 0.3
    bound = step**2 * slope * sigma / 2
    assert step**2 * best.value == pytest.approx(bound, rel=1e-12)
    random = np.random.default_rng(atoms)
    for _ in range(200):
        units = random.normal(size=(atoms, 10))
        units *= step / distance(units, np.zeros_like(units))
        assert value(units, mean.numpy(), slope) <= bound * (1 + 1e-12)
    # climbing along the sphere of that distance ends at the bound and not above it
    units = random.normal(size=(atoms, 10))
    for _ in range(600):
        rise = np.concatenate([units[:, 6:] @ mean.numpy(), units[:, :6] @ mean.numpy().T], 1)
        units = units + 0.1 * rise
        units *= step / distance(units, np.zeros_like(units))
    reached = value(units, mean.numpy(), slope)
    assert reached <= bound * (1 + 1e-12)
    assert reached == pytest.approx(bound, rel=1e-4)


@pytest.mark.parametrize("copies", [2, 3])
def test_splitting_the_unit_gains_nothing(copies):
    """For p = 2 the best cloud is not unique: the same moment on several atoms does the same."""
    generator = torch.Generator().manual_seed(0)
    mean = torch.randn(3, 4, generator=generator, dtype=torch.float64)
    block = tg.Bottleneck(units=copies, activation="tanh")
    best = outcome(tg.InsertLayer(where=tg.all(), block=block), Product((mean,))).derivative
    parts = [best.direction[p] for p in ("reduce.weight", "reduce.bias", "expand.weight")]
    unit = torch.cat([parts[0][0], parts[1], parts[2][:, 0]]).numpy()
    cloud = np.tile(unit / copies**0.5, (copies, 1))
    assert distance(cloud, np.zeros_like(cloud)) == pytest.approx(1)
    assert value(cloud, mean.numpy(), 1.0) == pytest.approx(best.value)


def test_the_network_itself_gains_no_more_from_other_clouds():
    traced, batches = make("mlp"), data("mlp", 2)
    change = tg.InsertLayer(
        where=tg.named("tanh_1"), block=tg.Bottleneck(units=2, activation="tanh")
    )
    (best,) = tg.score(traced, batches, F.cross_entropy, [change])
    random = np.random.default_rng(0)
    gains = []
    for _ in range(20):
        units = random.normal(size=(2, 13))
        units /= distance(units, np.zeros_like(units))
        cloud = torch.from_numpy(units)
        direction = {
            "reduce.weight": cloud[:, :6],
            "reduce.bias": cloud[:, 6],
            "expand.weight": cloud[:, 7:].T,
        }
        other = tg.Score(best.mutation, best.value, 2, direction, best.cost)
        gains.append(measured(traced, other, batches, 1e-3))
    assert max(gains) < best.value
    assert measured(traced, best, batches, 1e-3) == pytest.approx(best.value, rel=1e-5)

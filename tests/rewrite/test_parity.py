"""Every mutation at sampled places of the zoo: what goes through keeps all laws, the rest says why.

Inserted blocks, branches, adapters and untied copies change no output at all, in eval and in train;
other widths and frozen parameters at most by 8 units in the last place of the largest output, or by
8 times the model's own rounding error. `benchmarks/parity.py` does the same on public models.
"""

import re

import pytest

from benchmarks.parity import OTHERS, WIDTHS, Row, count, examine
from benchmarks.zoo.models import Specimen, missing, quiet
from tests.often import often
from tests.public import public
from tests.random_mutations import KINDS
from tests.zoo import ZOO, Example
from topograph.tracing.inputs import batch_size, with_batch

LARGER = ("test_resnet", "test_convnext", "test_vit", "LlamaForCausalLM")
SEVERAL = often(
    ZOO, "residual resnet attention encoder densenet grouped tied odds recurrent".split()
)
ROWS: dict[str, Row] = {}


def specimen(example: Example) -> Specimen:
    """Return a model of the tests' zoo as one of the benchmarks'."""
    given = (example.inputs, example.kwargs)

    def inputs(batch=2):
        return with_batch(given, batch_size(given), batch)

    return Specimen(example.name, "small", "", example.model, inputs)


def row(one: Specimen) -> Row:
    if one.name not in ROWS:
        ROWS[one.name] = examine(one, most=3, places=2)
    return ROWS[one.name]


def assert_parity(one: Specimen) -> None:
    found = row(one)
    assert found["wrong"] == []
    assert {what: problems for what, problems in found["broken"].items() if problems} == {}
    assert all(reason for _, reason, _ in found["reasons"])


@pytest.mark.parametrize("example", SEVERAL)
def test_every_mutation_on_a_small_model(example):
    assert_parity(specimen(example))


def test_every_kind_goes_through_somewhere():
    rows = [row(specimen(parameter.values[0])) for parameter in SEVERAL if not parameter.marks]
    kinds = (*WIDTHS, *OTHERS)
    assert {re.sub(" .*", "", what) for what in kinds} >= {"widen", "narrow"}
    assert len(OTHERS) == len(KINDS) - 2
    assert [what for what in kinds if not count(rows, what, "through") and what != "unfreeze"] == []
    assert [what for what in kinds if not any(what in found["broken"] for found in rows)] == []


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", often(LARGER, []))
def test_every_mutation_on_a_public_model(name):
    if (line := missing()) is not None:
        pytest.skip(line)
    with quiet():
        assert_parity(public(name))

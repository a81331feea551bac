"""All laws over random sequences of random mutations on random models."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, Phase, given, note, settings
from hypothesis import strategies as st

import topograph as tg
from tests.random_models import Description, build
from tests.random_mutations import plan_of, random_requests, request
from tests.rewrite.mutation_laws import Call, against, laws
from tests.strategies import random_models

SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large]
QUICK = (Phase.explicit, Phase.generate)  # shrinking a model takes minutes


def calls_of(description: Description) -> list[Call]:
    """Return what a model is called with at two batch sizes."""
    sizes = (description.batch, 5)
    return [tuple(build(replace(description, batch=size))[1]) for size in sizes]


def law(description: Description, requests: list, in_run: bool) -> Counter[str]:
    """Carry out a sequence; after every step all laws hold, and at the end its replay is equal."""
    model, inputs = build(description)
    traced = tg.trace(model, *inputs)
    calls, counts = calls_of(description), Counter()
    with TemporaryDirectory() as folder:
        place = Path(folder) / "run"
        journal = tg.Run.create(place, traced, model="pkg.mod:make") if in_run else None
        for kind, seed in requests:
            wanted = request(traced, kind, Random(seed))
            if wanted is None:
                continue
            plan = plan_of(traced, wanted)
            counts[kind, type(plan) is tg.Plan] += 1
            if isinstance(plan, tg.RefusedError):
                assert all(r.node and r.reason and r.fix for r in plan.refusals)
                continue
            if not plan:
                continue
            note(f"{wanted!r}")
            found = laws(traced, plan, calls)
            assert found.problems == [], wanted
            if journal is not None:
                journal.commit(found.revision)
            traced = found.revision.after
        if journal is not None:
            journal.close()
            again = tg.replay(place, build(description)[0], *inputs)
            assert against(again, traced) == []
    return counts


@given(random_models(), random_requests(), st.booleans())
@settings(max_examples=5, deadline=None, phases=QUICK, suppress_health_check=SLOW)
def test_random_sequences(description, requests, in_run):
    law(description, requests, in_run)


@pytest.mark.long
@given(random_models(), random_requests(), st.booleans())
@settings(
    max_examples=10_000, deadline=None, phases=QUICK, suppress_health_check=SLOW, derandomize=False
)
def test_many_random_sequences(description, requests, in_run):
    law(description, requests, in_run)

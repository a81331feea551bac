"""Triggers against an oracle that looks at the whole past at once."""

import hypothesis.strategies as st
import pytest
from hypothesis import given

import topograph as tg
from topograph.growth.triggers import Watch, advance, after_growth, check_metrics

values = st.lists(st.sampled_from([0.0, 0.05, 0.1, 0.5, 0.95, 1.0, -1.0, 2.0]), max_size=40)


def run(trigger, metrics):
    """Return the steps, from 1, at which a trigger is due when every time the network grows."""
    watch, due = Watch(), []
    for metric in metrics:
        watch, reason = advance(trigger, watch, metric)
        if reason is not None:
            due.append(watch.steps)
            watch = after_growth(trigger, watch)
    return due


def plateau_oracle(trigger, series):
    """Cut the series at every growth; in each part look for the first step without a better one."""
    due, start, sign = [], 0, 1 if trigger.mode == "min" else -1
    while True:
        part = [sign * value for value in series[start:]]
        found = None
        for length in range(1, len(part) + 1):
            best, last_better = part[0], 0
            for index in range(1, length):
                if best - part[index] > trigger.min_delta:
                    best, last_better = part[index], index
            if length - 1 - last_better >= trigger.patience:
                found = length
                break
        if found is None:
            return due
        due.append(start + found)
        start += found + trigger.cooldown


@given(
    values,
    st.integers(1, 4),
    st.sampled_from([0.0, 0.06, 0.4]),
    st.sampled_from(["min", "max"]),
    st.integers(0, 3),
)
def test_plateau(series, patience, min_delta, mode, cooldown):
    trigger = tg.Plateau(
        metric="m", patience=patience, min_delta=min_delta, mode=mode, cooldown=cooldown
    )
    assert run(trigger, [{"m": value} for value in series]) == plateau_oracle(trigger, series)


@given(st.integers(1, 7), st.integers(0, 40))
def test_every(steps, total):
    due = run(tg.Every(steps=steps), [{}] * total)
    assert due == [n for n in range(1, total + 1) if n % steps == 0]


def test_due_again_while_nothing_grows():
    trigger, watch, due = tg.Plateau(metric="m", patience=2, min_delta=0.0), Watch(), []
    for value in (1.0, 1.0, 1.0, 1.0, 0.5, 0.5, 0.5):
        watch, reason = advance(trigger, watch, {"m": value})
        due.append(reason is not None)
    assert due == [False, False, True, True, False, False, True]


def test_the_reason_says_what_was_seen():
    trigger, watch = tg.Plateau(metric="val/loss", patience=1, min_delta=0.01), Watch()
    watch, _ = advance(trigger, watch, {"val/loss": 0.25})
    assert advance(trigger, watch, {"val/loss": 0.249})[1] == (
        "val/loss has not improved on 0.25 by 0.01 for 1 steps"
    )
    assert advance(tg.Every(steps=1), Watch(), {})[1] == "step 1 of every 1"


def test_a_missing_metric():
    with pytest.raises(tg.SpecError, match="watches 'val_loss', but step was given acc, lr"):
        advance(tg.Plateau(), Watch(), {"acc": 1.0, "lr": 0.1})
    with pytest.raises(tg.SpecError, match="watches 'val_loss', but step was given none"):
        advance(tg.Plateau(), Watch(), {})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_metric_that_is_not_finite(value):
    with pytest.raises(tg.NonFiniteError, match=f"the metric 'val_loss' is {value}"):
        advance(tg.Plateau(), Watch(), {"val_loss": value})


@pytest.mark.parametrize(("value", "name"), [(True, "bool"), ("0.5", "str"), ([0.5], "list")])
def test_a_metric_that_is_no_number(value, name):
    with pytest.raises(tg.SpecError, match=f"the metric 'acc' is a {name}; give a float"):
        check_metrics({"val_loss": 0.5, "acc": value})

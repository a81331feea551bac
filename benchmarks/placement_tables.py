"""The tables of `placement`: what scorers say of a net's places against what training on brought.

With few continuations the best edge of the truth is the best partly by luck, and nothing that is
known beforehand has a regret of 0. How much of the truth is the place's is told by an analysis of
variance without the part that all edges of a continuation share.
"""

import itertools
import statistics
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from reporting import table
from scipy.stats import spearmanr

DRAWS = 200_000
RELIABLE = 0.8  # of the variance: hardly chance
APART = (
    "The spread is the worst edge's test loss above the best one's, of their mean. Reliable is the "
    "share of the variance between the edges' mean losses that is not the noise of so many "
    "continuations, all nets of a kind together. The least regret is that of one who knows every "
    "edge's expected test loss, for what is best of the truth is so partly by luck (normal "
    "distributions are assumed)."
)
RANKS = ("rank train", "rank test")
REGRETS = ("regret train", "regret test")


@dataclass
class Truth:
    """What came of every candidate edge of one net from one start, and what was said of it.

    Attributes:
        edges: Where they are.
        train: Final training losses, by continuation and edge.
        test: Final test losses.
        said: Values of the edges by scorer.
        known: By name, how many continuations are looked at to choose; the others judge.
        cost: Of each scorer, in training steps.
        time: Of each scorer, over that of a training step.
    """

    edges: list[str]
    train: np.ndarray
    test: np.ndarray
    said: dict[str, list[float]] = field(default_factory=dict)
    known: dict[str, int] = field(default_factory=dict)
    cost: dict[str, float] = field(default_factory=dict)
    time: dict[str, float] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        """Everything that chooses an edge."""
        return [*self.said, *self.known]


Truths = Mapping[str, Sequence[Truth]]  # by start


def views(found: Truth, name: str) -> Iterator[tuple[np.ndarray, list[int]]]:
    """Yield what is said of the edges, and the continuations that judge it."""
    every = range(len(found.test))
    if name in found.said:
        yield np.array(found.said[name]), list(every)
        return
    for seen in itertools.combinations(every, found.known[name]):
        yield -found.test[list(seen)].mean(0), [one for one in every if one not in seen]


def regret(losses: np.ndarray, said: np.ndarray) -> float:
    """Return how far the edge that is said to be best is from the best: 1 for the mean edge."""
    room = losses.mean() - losses.min()
    return float((losses[said.argmax()] - losses.min()) / room) if room else 0.0


def rank(losses: np.ndarray, said: np.ndarray) -> float:
    """Return the rank correlation of what is said with the losses, 1 where the best has least."""
    flat = (said == said[0]).all() or (losses == losses[0]).all()
    return 0.0 if flat else float(-spearmanr(said, losses).statistic)


def told(found: Truth, name: str) -> dict[str, float]:
    """Return ranks and regrets of one scorer, in the mean over its judges."""
    each = defaultdict(list)
    for said, judges in views(found, name):
        for measure, columns in ((rank, RANKS), (regret, REGRETS)):
            for column, losses in zip(columns, (found.train, found.test), strict=True):
                each[column].append(measure(losses[judges].mean(0), said))
    return {column: statistics.mean(values) for column, values in each.items()}


def shown(values: Sequence[float], form: str = ".2f") -> str:
    """Return mean and standard error."""
    error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0
    return f"{statistics.mean(values):{form}} ± {error:{form.lstrip('+')}}"


def judged(truths: Truths, horizon: int) -> str:
    """Return the table of every scorer's rank correlations, regrets and cost."""
    header, rows = ["scorer", "nets"], []
    header += [f"{start}: {what}" for start in truths for what in (*RANKS, *REGRETS)]
    every = [found for each in truths.values() for found in each]
    for scorer in dict.fromkeys(name for found in every for name in found.names):
        knowing = [[one for one in each if scorer in one.names] for each in truths.values()]
        row: list[object] = [scorer, len(knowing[0])]
        for each in knowing:
            values = [told(found, scorer) for found in each]
            row += [f"{statistics.mean(v[what] for v in values):.2f}" for what in RANKS]
            row.append(f"{statistics.mean(v['regret train'] for v in values):.2f}")
            row.append(shown([v["regret test"] for v in values]))
        spent = statistics.median(found.cost.get(scorer, 0.0) for found in knowing[0])
        timed = statistics.median(found.time.get(scorer, 0.0) for found in knowing[0])
        rows.append([*row, f"{spent:,.0f}", f"{spent / horizon:.0%}", f"{timed:,.0f}"])
    return table([*header, "cost, steps", "of the run", "time, steps"], rows)


def reliability(losses: Sequence[np.ndarray]) -> float:
    """Return which share of the variance of the edges' mean losses would be there again.

    The rest is the noise of a mean over the continuations that there are, at most all of it.
    """
    noise = seen = 0.0
    for each in losses:
        part = each / each.mean()
        rest = part - part.mean(0) - part.mean(1, keepdims=True) + part.mean()
        turns, edges = part.shape
        noise += (rest**2).sum() / ((turns - 1) * (edges - 1)) / turns
        seen += part.mean(0).var(ddof=1)
    return float(max(1 - noise / seen, 0.0))


def unavoidable(share: float, edges: int) -> float:
    """Return the regret of one who knows every edge's expected loss, with normal distributions."""
    draw = np.random.default_rng(0)
    true = draw.normal(size=(DRAWS, edges)) * share**0.5
    seen = true + draw.normal(size=(DRAWS, edges)) * (1 - share) ** 0.5
    chosen = np.take_along_axis(seen, true.argmin(1, keepdims=True), 1)[:, 0]
    return float(1 - ((seen.mean(1) - chosen) / (seen.mean(1) - seen.min(1))).mean())


def figures(each: Sequence[Truth]) -> list[float]:
    """Return how far apart the edges of one kind of net are, and how much of that is not chance."""
    means = [found.test.mean(0) for found in each]
    share = reliability([found.test for found in each])
    return [
        100 * statistics.mean((mean.max() - mean.min()) / mean.mean() for mean in means),
        reliability([found.train for found in each]),
        share,
        unavoidable(share, len(each[0].edges)),
    ]


def apart(parts: Mapping[str, Truths]) -> str:
    """Return the table of `figures` of all kinds of nets, and their means."""
    starts = next(iter(parts.values()))
    header = ["kind of net", "edges"]
    for start in starts:
        header += [f"{start}: spread, %", "reliable train", "reliable test", "least regret test"]
    rows, every = [], []
    for name, truths in parts.items():
        every.append([value for each in truths.values() for value in figures(each)])
        edges = next(iter(truths.values()))[0].edges
        rows.append([name, len(edges), *(f"{value:.2f}" for value in every[-1])])
    means = [f"{statistics.mean(column):.2f}" for column in zip(*every, strict=True)]
    return table(header, [*rows, ["mean", "", *means]])


def where_reliable(parts: Sequence[Truths], start: str) -> list[Truth]:
    """Return the nets of the kinds whose truth, of test losses, is hardly chance."""
    kinds = [part[start] for part in parts]
    sure = [kind for kind in kinds if reliability([net.test for net in kind]) >= RELIABLE]
    return [net for kind in sure for net in kind]


def truth_table(truths: Truths) -> str:
    """Return what came of every edge: percent above the mean of a net's edges, over nets."""
    kinds = [(start, what) for start in truths for what in ("train", "test")]
    columns = []
    for start, what in kinds:
        means = [getattr(found, what).mean(0) for found in truths[start]]
        nets = np.array([100 * (mean / mean.mean() - 1) for mean in means])
        columns.append([shown(edge.tolist(), "+.1f") for edge in nets.T])
    edges = next(iter(truths.values()))[0].edges
    header = ["behind", *(f"{start}: {what} loss, %" for start, what in kinds)]
    return table(header, list(zip(edges, *columns, strict=True)))


def report_of(parts: Mapping[str, Truths], horizon: int) -> str:
    """Return the table of all nets, what of the truth is chance, and the tables of each kind."""
    starts = next(iter(parts.values()))
    every = {start: [net for part in parts.values() for net in part[start]] for start in starts}
    body = judged(every, horizon)
    if all(len(net.test) > 1 for nets in every.values() for net in nets):
        body += f"\n\n## How much of the truth is the place's\n\n{APART}\n\n{apart(parts)}"
        for start in starts:
            sure = where_reliable(list(parts.values()), start)
            body += f"\n\n## Where at least {RELIABLE:.0%} is reliable, {start}\n\n"
            body += judged({start: sure}, horizon)
    for name, truths in parts.items():
        body += f"\n\n## {name}\n\n{truth_table(truths)}\n\n{judged(truths, horizon)}"
    return body

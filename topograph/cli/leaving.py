"""What a table of scores says of the places that it leaves out."""

from collections.abc import Iterable, Iterator

from topograph.spec import Refusal

REASONS = 5  # that are told in full


def left_out(places: Iterable[object]) -> Iterator[str]:
    """Yield a line for each reason why places are left out, the most frequent first."""
    groups: dict[tuple[str, str], list[str]] = {}
    for item in places:
        if isinstance(item, Refusal):
            groups.setdefault((item.reason, item.fix), []).append(item.node)
    ordered = sorted(groups.items(), key=lambda group: -len(group[1]))
    for (reason, fix), nodes in ordered[:REASONS]:
        named = nodes[0] if len(nodes) == 1 else f"such as {nodes[0]}"
        yield f"{len(nodes)} left out, {named}: {reason}; {fix}"
    more = [nodes for _, nodes in ordered[REASONS:]]
    if more:
        yield f"{sum(map(len, more))} left out for {len(more)} more reasons"

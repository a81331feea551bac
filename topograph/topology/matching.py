"""Which node of one topology is which node of another: by name, then by structure.

A name that is only an operation and a number (``relu_2``) says where the tracer met it, not what it
is: one more call above shifts all numbers below. So such weak names are asked later. In turn:

1. strong names (paths of modules, arguments) with the same operation; weak names of modules that
   are equal in all else;
2. places: all that a node reads, or all that reads it, is matched, and so is what it is;
3. weak names with the same operation; then places of nodes of other sizes;
4. structure: hashes of neighbourhoods (Weisfeiler-Leman) that occur once on either side;
5. neighbours: the same operation reads a matched value, or feeds a matched reader, at one slot;
6. another operation under the same name, or at the same place.

Each step is linear in nodes and edges (the fourth up to sorting), deterministic, and what it finds
anchors the next. Compare GumTree (Falleri et al., ASE 2014), which matches trees top down, then
bottom up, and Shervashidze et al., JMLR 12 (2011) for the hashes.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from functools import partial

from topograph.topology.hashes import neighbourhoods
from topograph.topology.model import Node, Topology
from topograph.topology.pairs import CALLS, Pairs, Side, compatible, is_weak

RADII = (3, 2, 1)  # how far a hash sees, in edges
MOST_ROUNDS = 4  # each finds what the one before made findable


def match(before: Topology, after: Topology) -> dict[str, str]:
    """Return, for each node of `after` that `before` has too, its name there.

    The pairs do not depend on which of the two comes first, so that a difference can be read
    backwards.

    Args:
        before: One topology.
        after: The other.

    Returns:
        Names in `after` to names in `before`, each at most once.

    Raises:
        Nothing.

    Example:
        >>> from topograph.topology.model import Node
        >>> x = Node(name="x", kind="input", op="input", target="x")
        >>> h = Node(name="h", kind="function", op="relu", target="relu", inputs=("x",))
        >>> one = Topology(name="A", nodes=(x, h))
        >>> match(one, one.model_copy(update={"nodes": (x, h.model_copy(update={"name": "g"}))}))
        {'x': 'x', 'g': 'h'}

    References:
        Falleri, Morandat, Blanc, Martinez, Monperrus: Fine-grained and accurate source code
        differencing, ASE 2014, https://doi.org/10.1145/2642937.2642982.
    """
    if before.fingerprint > after.fingerprint:
        found = _pairs(Side(after), Side(before))
        names = {after.nodes[i].name: before.nodes[j].name for i, j in found.items()}
    else:
        found = _pairs(Side(before), Side(after))
        names = {after.nodes[j].name: before.nodes[i].name for i, j in found.items()}
    return {node.name: names[node.name] for node in after.nodes if node.name in names}


def _pairs(one: Side, two: Side) -> dict[int, int]:
    """Return matched nodes of both sides by their numbers."""
    pairs = Pairs(one, two)
    if whole := _by_name_alone(one, two) or _by_position(one, two):
        return whole
    _names(pairs, _firm)
    _ends(pairs)
    _places(pairs, "exact")
    _names(pairs, compatible)
    _places(pairs, "exact", "loose")
    for _ in range(MOST_ROUNDS):
        known = len(pairs.to)
        _structure(pairs)
        _places(pairs, "exact", "loose")
        _neighbours(pairs)
        if len(pairs.to) == known:
            break
    _replaced(pairs)
    return pairs.to


def _by_name_alone(one: Side, two: Side) -> dict[int, int]:
    """Return the pairs of equal names if that shows no difference at all."""
    if one.index.keys() != two.index.keys() or one.state != two.state:
        return {}
    found = {i: two.index[name] for name, i in one.index.items()}
    return found if all(one.nodes[i] == two.nodes[j] for i, j in found.items()) else {}


def _by_position(one: Side, two: Side) -> dict[int, int]:
    """Return all nodes in order if the two are one network under other names.

    Not if a strong name stands elsewhere: layers that changed places have moved.
    """
    same = one.inputs == two.inputs and one.exact == two.exact
    if not same or any(
        two.index.get(node.name, i) != i for i, node in enumerate(one.nodes) if not is_weak(node)
    ):
        return {}
    return {i: i for i in range(len(one.nodes))}


def _names(pairs: Pairs, agree: Callable[[Node, Node], bool]) -> None:
    for i, node in enumerate(pairs.one.nodes):
        j = pairs.two.index.get(node.name)
        if j is not None and pairs.free(i, j) and agree(node, pairs.two.nodes[j]):
            pairs.add(i, j)


def _firm(one: Node, two: Node) -> bool:
    """Return whether a name that two nodes share is enough to make them one."""
    if not is_weak(one):
        return compatible(one, two)
    return one.kind == two.kind == "module" and _alike(one) == _alike(two)


def _alike(node: Node) -> tuple[Hashable, ...]:
    return node.op, node.target, node.detail, node.shape, node.parameters


def _ends(pairs: Pairs) -> None:
    """Match what is left of the inputs, and of the outputs, in order, if equally many are."""
    for kind in ("input", "output"):
        one = [i for i, n in enumerate(pairs.one.nodes) if n.kind == kind and i not in pairs.to]
        two = [j for j, n in enumerate(pairs.two.nodes) if n.kind == kind and j not in pairs.back]
        for i, j in zip(one, two, strict=True) if len(one) == len(two) else ():
            pairs.add(i, j)


def _places(pairs: Pairs, *alike: str) -> None:
    """Match nodes of which all inputs, or all readers, are matched, and that are alike."""
    one, two = pairs.one, pairs.two
    forward, backward = range(len(two.nodes)), range(len(two.nodes))[::-1]
    for what in alike:
        kinds = getattr(one, what), getattr(two, what)
        for _ in range(MOST_ROUNDS):
            known = len(pairs.to)
            _place(pairs, kinds, forward, one.inputs, partial(_inputs, pairs))
            _place(
                pairs,
                kinds,
                backward,
                [tuple(readers) for readers in one.readers],
                partial(_readers, pairs),
            )
            if len(pairs.to) == known:
                break


def _place(
    pairs: Pairs,
    kinds: tuple[list[Hashable], list[Hashable]],
    order: Iterable[int],
    places: Sequence[tuple[Hashable, ...]],
    translate: Callable[[int], tuple[Hashable, ...]],
) -> None:
    """Match free nodes of one kind at one place; where several are, those of one name first."""
    one, two = pairs.one, pairs.two
    waiting: defaultdict[Hashable, list[int]] = defaultdict(list)
    for i, place in enumerate(places):
        if place and i not in pairs.to:
            waiting[kinds[0][i], place].append(i)

    def awaited(i: int, j: int) -> bool:
        """Return whether `i` should wait for the node of its own name."""
        k = two.index.get(one.nodes[i].name, j)
        return (
            k != j
            and k not in pairs.back
            and kinds[1][k] == kinds[1][j]
            and translate(k) == translate(j)
        )

    for j in order:
        if j in pairs.back or not (place := translate(j)):
            continue
        candidates = waiting.get((kinds[1][j], place), [])
        found = one.index.get(two.nodes[j].name)
        if found not in candidates:
            found = next((i for i in candidates if not awaited(i, j)), None)
        if found is not None:
            candidates.remove(found)
            pairs.add(found, j)


def _inputs(pairs: Pairs, j: int) -> tuple[int, ...]:
    """Return what a node reads, as numbers of the first side; nothing if one is not matched."""
    inputs = pairs.two.inputs[j]
    known = tuple(pairs.back[k] for k in inputs if k in pairs.back)
    return known if len(known) == len(inputs) else ()


def _readers(pairs: Pairs, j: int) -> tuple[tuple[int, int], ...]:
    """Return who reads a node, likewise."""
    readers = pairs.two.readers[j]
    known = tuple(sorted((pairs.back[k], slot) for k, slot in readers if k in pairs.back))
    return known if len(known) == len(readers) else ()


def _structure(pairs: Pairs) -> None:
    """Match nodes whose neighbourhoods look like no other on their side; wide ones count first."""
    one = neighbourhoods(pairs.one, {i: i for i in pairs.to}, max(RADII))
    two = neighbourhoods(pairs.two, pairs.back, max(RADII))
    for radius in RADII:
        once = [
            {found: node for node, found in side[radius].items() if counts[found] == 1}
            for side in (one, two)
            for counts in (Counter(side[radius].values()),)
        ]
        for found, i in once[0].items():
            j = once[1].get(found)
            if j is not None and pairs.free(i, j):
                pairs.add(i, j)


def _neighbours(pairs: Pairs) -> None:
    """Match nodes of one operation that share one matched neighbour at one slot."""
    one, two = pairs.one, pairs.two
    for around in (_read, _feed):
        waiting: defaultdict[Hashable, list[int]] = defaultdict(list)
        for i in reversed(range(len(one.nodes))):
            for place in around(one, i) if i not in pairs.to else ():
                waiting[one.loose[i], place].append(i)
        for j in range(len(two.nodes)):
            for k, slot in around(two, j) if j not in pairs.back else ():
                candidates = waiting.get((two.loose[j], (pairs.back.get(k), slot)), [])
                while candidates and candidates[-1] in pairs.to:
                    candidates.pop()
                if candidates:
                    pairs.add(candidates.pop(), j)
                    break


def _read(side: Side, i: int) -> list[tuple[int, int]]:
    return [(source, slot) for slot, source in enumerate(side.inputs[i])]


def _feed(side: Side, i: int) -> list[tuple[int, int]]:
    return side.readers[i]


def _replaced(pairs: Pairs) -> None:
    """Match what is left: one name, or one place between matched nodes, another operation."""
    one, two = pairs.one, pairs.two
    for i, node in enumerate(one.nodes):
        j = two.index.get(node.name)
        if j is not None and pairs.free(i, j) and node.kind in CALLS and two.nodes[j].kind in CALLS:
            pairs.add(i, j)
    places = {
        (one.inputs[i], tuple(one.readers[i])): i
        for i in reversed(range(len(one.nodes)))
        if i not in pairs.to and one.inputs[i] and one.readers[i]
    }
    for j in range(len(two.nodes)):
        place = _inputs(pairs, j), _readers(pairs, j)
        if j not in pairs.back and all(place) and pairs.free(places.get(place), j):
            pairs.add(places[place], j)

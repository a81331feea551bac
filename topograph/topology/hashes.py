"""Hashes of what is around a node, after Weisfeiler and Leman.

Own SHA-256 over plain text, so that they are the same in every version of every library.
"""

import hashlib
from collections.abc import Mapping

from topograph.topology.pairs import Side


def neighbourhoods(side: Side, anchors: Mapping[int, int], radius: int) -> list[dict[int, bytes]]:
    """Return a hash of each free node and what is around it, for each radius from 0.

    Args:
        side: The topology.
        anchors: Matched nodes with a number that the other side's partner has, too.
        radius: How far to look, in edges.

    Returns:
        For each radius from 0, hashes by the nodes' numbers; the labels are what a node is, without
        names, and who reads it at which slot.

    Raises:
        Nothing.

    Example:
        >>> from topograph.topology.model import Node, Topology
        >>> x = Node(name="x", kind="input", op="input", target="x")
        >>> len(neighbourhoods(Side(Topology(name="Net", nodes=(x,))), {}, 3))
        4

    References:
        Shervashidze et al., Weisfeiler-Lehman graph kernels, JMLR 12 (2011).
    """
    free = [i for i in range(len(side.nodes)) if i not in anchors]
    colours = {i: _hash(side.exact[i]) for i in free}
    rounds = [colours]
    for _ in range(radius):
        seen = {i: b"%d" % anchor for i, anchor in anchors.items()} | colours
        colours = {
            i: _hash(
                colours[i],
                [seen[k] for k in side.inputs[i]],
                sorted((slot, seen[k]) for k, slot in side.readers[i]),
            )
            for i in free
        }
        rounds.append(colours)
    return rounds


def _hash(*parts: object) -> bytes:
    return hashlib.sha256(repr(parts).encode("utf-8", "backslashreplace")).digest()

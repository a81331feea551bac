"""Which edges can take an inserted layer, as far as a record without torch can tell."""

from topograph.topology.model import Edge, Topology

SOURCELESS = ("parameter", "output")


def candidate_edges(topology: Topology) -> tuple[Edge, ...]:
    """Return the edges whose value is floating point and has a certain channel axis.

    A parameter is no value that flows, so its uses are left out. `plan` has the last word: it also
    asks whether the block's kind fits the axes.

    Args:
        topology: The network.

    Returns:
        The edges, in the order of the nodes that read.

    Raises:
        Nothing.

    Example:
        >>> from topograph.topology import Node, Topology
        >>> value = {"shape": ("N", 4), "dtype": "float32", "axes": ("batch", "channel")}
        >>> x = Node(name="x", kind="input", op="input", target="x", **value)
        >>> y = Node(name="y", kind="function", op="relu", target="relu", inputs=("x",), **value)
        >>> [str(edge) for edge in candidate_edges(Topology(name="Net", nodes=(x, y)))]
        ['x -> y[0]']

    References:
        Krishnanunni, Bui-Thanh, Dawson, https://arxiv.org/abs/2502.06885.
    """
    sources = {
        node.name
        for node in topology.nodes
        if node.kind not in SOURCELESS
        and node.channels is not None
        and (node.dtype or "").startswith(("float", "bfloat"))
    }
    return tuple(edge for edge in topology.edges if edge.source in sources)

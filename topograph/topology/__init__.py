"""What a model looks like: a graph with a canonical JSON form, without torch."""

from topograph.topology.candidates import candidate_edges
from topograph.topology.canonical import Record
from topograph.topology.diff import NodeChange, TopologyDiff, diff
from topograph.topology.model import Edge, Node, Parameter, Topology

__all__ = [
    "Edge", "Node", "NodeChange", "Parameter", "Record", "Topology", "TopologyDiff",
    "candidate_edges", "diff",
]  # fmt: skip

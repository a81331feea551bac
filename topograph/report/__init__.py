"""For human eyes: terminal text, one-file HTML, SVG, DOT and Mermaid, from torch-free records."""

from topograph.report.curve import curve_svg
from topograph.report.dot import diff_dot, topology_dot
from topograph.report.html import render_diff, render_history, render_topology
from topograph.report.mermaid import diff_mermaid, topology_mermaid
from topograph.report.svg import graph_svg
from topograph.report.text import diff_text, history_table, ranking_table, topology_table

__all__ = [
    "curve_svg", "diff_dot", "diff_mermaid", "diff_text", "graph_svg", "history_table",
    "ranking_table", "render_diff", "render_history", "render_topology", "topology_dot",
    "topology_mermaid", "topology_table",
]  # fmt: skip

"""SVG, DOT and Mermaid: everything is drawn once, nothing overlaps, nothing leaves its label."""

import re
from itertools import combinations, pairwise
from xml.etree import ElementTree

import pytest

from tests.report.records import HOSTILE, hostile, residual
from topograph.report import (
    curve_svg,
    diff_dot,
    diff_mermaid,
    graph_svg,
    topology_dot,
    topology_mermaid,
)
from topograph.report.layout import HEIGHT, layout
from topograph.spec import History, Measurement
from topograph.topology import Node, Topology

SVG = "{http://www.w3.org/2000/svg}"
DOT_TOKEN = re.compile(r'\s+|"(?:[^"\\]|\\.)*"|->|[A-Za-z_][A-Za-z0-9_]*|[0-9.]+|[{}\[\]=,;]')
MERMAID_LINE = re.compile(
    r'  n\d+\["[^"\[\](){}<>`%;]*(?:(?:#\d+;|<br/>)[^"\[\](){}<>`%;]*)*"\](?::::[a-z]+)?'
    r"|  n\d+ (?:-->|-\.->) n\d+|  classDef [a-z]+ [\w#:,-]+|  linkStyle \d+ [\w#:,-]+"
)


def classes(image, name):
    return [e for e in image.iter() if name in e.get("class", "").split()]


def texts(image):
    return ["".join(element.itertext()) for element in image.iter(f"{SVG}text")]


def dot_tokens(text):
    """Return DOT's tokens; fails where a character belongs to none."""
    position, tokens = 0, []
    while position < len(text):
        match = DOT_TOKEN.match(text, position)
        assert match, f"not DOT at {text[position : position + 40]!r}"
        position = match.end()
        if match[0].strip():
            tokens.append(match[0])
    return tokens


def test_every_node_and_every_edge_is_drawn_once(topology):
    image = ElementTree.fromstring(graph_svg(topology))
    titles = [node.find(f"{SVG}title").text for node in classes(image, "node")]
    assert len(titles) == len(topology.nodes) == len(set(titles))
    drawn = sorted(edge.find(f"{SVG}title").text for edge in classes(image, "edge"))
    assert len(drawn) == len(topology.edges) == len(set(drawn))
    assert len(classes(image, "head")) == len(topology.edges)
    assert {element.tag for element in image.iter()} <= {
        SVG + tag for tag in ("svg", "style", "g", "title", "rect", "text", "tspan", "path")
    }


def test_boxes_do_not_overlap_and_lines_cross_none(topology):
    width = 160.0
    plan = layout(topology, width)
    boxes = list(plan.boxes.values())
    for (x, y), (u, v) in combinations(boxes, 2):
        assert abs(x - u) >= width or abs(y - v) >= HEIGHT
    for x, y in boxes:
        assert x >= 0
        assert y >= 0
        assert x + width <= plan.width
        assert y + HEIGHT <= plan.height
    for edge, legs in plan.routes:
        for leg in legs:
            for (x, y), (u, v) in pairwise(leg):
                left, right, top, bottom = min(x, u), max(x, u), min(y, v), max(y, v)
                for name, (a, b) in plan.boxes.items():
                    inside = (
                        left < a + width - 0.5
                        and right > a + 0.5
                        and top < b + HEIGHT - 0.5
                        and bottom > b + 0.5
                    )
                    assert not inside, f"{edge} crosses {name}"
        start, end = plan.boxes[edge.source], plan.boxes[edge.target]
        assert legs[0][0] == (pytest.approx(start[0] + width / 2), start[1] + HEIGHT)
        assert end[0] <= legs[-1][-1][0] <= end[0] + width
        assert legs[-1][-1][1] == end[1]
        assert all(one[-1] == other[0] for one, other in pairwise(legs))


def test_a_long_chain_wraps_into_columns(long_chain):
    assert len(long_chain.nodes) >= 150
    plan = layout(long_chain, 190.0)
    assert 0.8 < plan.width / plan.height < 3


def test_one_box_wide_chains_are_straight(run):
    plan = layout(run.nets[0], 160.0)
    for edge, _ in plan.routes:
        (x, y), (u, v) = plan.boxes[edge.source], plan.boxes[edge.target]
        if v - y < HEIGHT * 2 and v > y:  # the next row of the same column
            assert x == pytest.approx(u, abs=0.5)


def test_marks_colour_boxes_and_edges_and_carry_signs(run):
    net = run.nets[1]
    marks = {"blocks_1_act_grown_up": "added", "blocks_1_fc2": "changed", "not_there": "removed"}
    image = ElementTree.fromstring(graph_svg(net, marks, anchor="here"))
    added = [node for node in classes(image, "node") if "added" in node.get("class")]
    titles = [node.findtext(f"{SVG}title").splitlines()[0] for node in added]
    assert titles == ["blocks_1_act_grown_up (added)"]
    assert [n.text for n in classes(image, "sign")] == ["+", "~"]
    assert len([e for e in classes(image, "edge") if "added" in e.get("class")]) == 2
    assert [e.get("id") for e in image.iter() if e.get("id")] == ["here"]
    with pytest.raises(ValueError, match="'x' is marked 'new'; a mark is one of added, removed"):
        graph_svg(net, {"x": "new"})


def test_hostile_names_stay_text_in_the_drawing():
    text = graph_svg(hostile(), {HOSTILE: "added"}, anchor=HOSTILE)
    image = ElementTree.fromstring(text)
    assert "<script" not in text
    titles = [title.text for title in image.iter(f"{SVG}title")]
    assert any('"><script>alert(1)</script>]]>' in title for title in titles)
    assert any(r"\u202e\x1b[31m\x00" in title for title in titles)


def test_an_empty_topology_draws_nothing():
    image = ElementTree.fromstring(graph_svg(Topology(name="Empty")))
    assert not classes(image, "node")
    assert dot_tokens(topology_dot(Topology(name="Empty")))[-1] == "}"
    assert topology_mermaid(Topology(name="Empty")) == "flowchart TB\n"


def test_the_curve_shows_each_metric_and_each_growth(run):
    image = ElementTree.fromstring(curve_svg(run.history))
    names = [line.findtext(f"{SVG}title") for line in classes(image, "line") if len(line)]
    assert names == ["val_loss", "train_loss", "val_accuracy"]
    marks = [mark.findtext(f"{SVG}title") for mark in classes(image, "mark")]
    assert marks[0].startswith("growth 1, entry 1, at step 350: blocks_1_act_grown; loss 0.6134")
    assert marks[1].startswith("growth 2, entry 2, at step 675: blocks_2_add_grown;")
    dots = [dot.findtext(f"{SVG}title") for dot in image.iter(f"{SVG}circle")]
    assert len(dots) == 120
    assert dots[-1] == "val_accuracy 0.984726 at step 975"
    assert "loss, logarithmic" in texts(image)
    assert "accuracy" in texts(image)
    assert "training step" in texts(image)
    assert "0.9847 val_accuracy" in texts(image)


def test_a_growth_stands_at_its_step_or_says_that_it_is_unknown(run):
    image = ElementTree.fromstring(curve_svg(run.history))
    at = [float(mark.find(f"{SVG}line").get("x1")) for mark in classes(image, "mark")]
    dots = {dot.findtext(f"{SVG}title"): dot for dot in image.iter(f"{SVG}circle")}
    same = [float(d.get("cx")) for title, d in dots.items() if title.endswith(" at step 350")]
    assert set(same) == {at[0]}
    entries = tuple(entry.model_copy(update={"metrics": {}}) for entry in run.history.entries)
    unknown = run.history.model_copy(update={"entries": entries})
    text = curve_svg(unknown)
    assert "its step was not recorded" in text
    assert "growth (step not recorded: evenly placed)" in text


@pytest.mark.parametrize("values", [(), (1.0,), (0.0, 0.0), (-1e308, 1e308), (5e-324, 1.0)])
def test_any_curve_can_be_drawn(values):
    curve = tuple(Measurement(step=i, name=HOSTILE, value=v) for i, v in enumerate(values))
    text = curve_svg(History(model=HOSTILE, curve=curve))
    ElementTree.fromstring(text)
    assert "<script" not in text
    assert "nan" not in text
    assert '"inf' not in text


def test_dot_draws_all_and_reads_as_dot(topology):
    tokens = dot_tokens(topology_dot(topology))
    assert tokens.count("->") == len(topology.edges)
    assert sum(token == "label" for token in tokens) == len(topology.nodes)
    assert tokens.count("[") == tokens.count("]")
    assert tokens[0] == "digraph"
    assert tokens[-1] == "}"


def test_dot_keeps_hostile_names_in_their_quotes():
    tokens = dot_tokens(topology_dot(hostile()))
    allowed = {"digraph", "rankdir", "TB", "node", "edge", "shape", "box", "style", "fillcolor",
               "fontname", "color", "label"}  # fmt: skip
    assert {t for t in tokens if t[0].isalpha()} <= allowed
    label = next(token for token in tokens if token.startswith('"<b>') or "&amp;amp;" in token)
    assert label.count("&amp;amp;") == 1  # an entity in a name is not read as one


def test_a_name_that_ends_in_a_backslash_does_not_open_its_quote():
    net = Topology(name="n\\", nodes=(Node(name="x\\", kind="input", op="i\\", target="t"),))
    assert '"x\\\\"' in dot_tokens(topology_dot(net))


@pytest.mark.parametrize("write", [topology_mermaid, lambda t: diff_mermaid(t, residual())])
def test_mermaid_draws_all_and_each_line_is_one_of_its_kinds(topology, write):
    first, *lines = write(topology).splitlines()
    assert first == "flowchart TB"
    for line in lines:
        assert MERMAID_LINE.fullmatch(line), line
    if write is topology_mermaid:
        assert sum('["' in line for line in lines) == len(topology.nodes)
        assert sum(" --> " in line for line in lines) == len(topology.edges)


def test_differences_are_coloured_in_both_languages(run):
    before, after = run.nets[:2]
    dot, mermaid = diff_dot(before, after), diff_mermaid(before, after)
    assert dot.count('fillcolor="#e6f4ea"') == 4
    assert dot.count('fillcolor="#fff4d6"') == 1
    assert 'label="+ blocks_1_act_grown_add\\nadd\\n[N, 64]"' in dot
    assert '"blocks_1_act" -> "blocks_1_fc2" [color="#b42318", penwidth=2, style=dashed];' in dot
    assert mermaid.count(":::added") == 4
    assert mermaid.count(":::changed") == 1
    assert mermaid.count(" -.-> ") == 1
    assert diff_dot(after, before).count('fillcolor="#fdecea"') == 4
    assert "#e6f4ea" not in diff_dot(after, after)

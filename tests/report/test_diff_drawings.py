"""Every kind of change has its sign and colour in every form, under the right name."""

import re

from tests.report.records import HOSTILE, Builder
from tests.report.test_drawings import MERMAID_LINE, dot_tokens
from topograph.report import diff_dot, diff_mermaid, diff_text, render_diff
from topograph.report.overlay import overlay
from topograph.report.tensors import render_tensors, tensors_text
from topograph.topology import diff
from topograph.topology.diff import SIGN
from topograph.topology.tensors import CheckpointDiff, TensorChange, UnitMatch


def pair():
    """Return two networks between which every kind of change occurs."""
    one = Builder("One")
    x = one.add("x", "input", kind="input")
    h = one.linear("stem", x, 64, 32, "stem")
    one.add("relu", "relu", [h])
    one.linear("fc", "relu", 64, 64, "fc")
    one.add("relu_1", "relu", ["fc"])
    one.add("act", "relu", ["relu_1"])
    one.add("old", "cos", ["act"])
    one.linear("head", "old", 64, 10, "head")
    one.add("side", "exp", [x])
    one.add("output", "output", ["head", "side"], kind="output", out=10)
    two = Builder("Two")
    x = two.add("x", "input", kind="input")
    h = two.linear("stem", x, 64, 48, "stem")
    two.linear("fc", h, 64, 64, "fc")
    two.add("relu", "relu", ["fc"])
    two.add("act", "gelu", ["relu"])
    two.linear("head", "act", 64, 10, "head")
    two.add("new", "sin", ["head"])
    two.add("side", "exp", ["act"])
    two.add("output", "output", ["new", "side"], kind="output", out=10)
    return one.topology(), two.topology()


def test_all_kinds_occur():
    before, after = pair()
    found = {(c.change, c.name, c.was) for c in diff(before, after).changes}
    assert {kind for kind, _, _ in found} == set(SIGN), found
    assert ("removed", "relu", None) in found
    assert ("renamed", "relu", "relu_1") in found


def test_every_form_shows_all_kinds_and_keeps_taken_names_apart():
    before, after = pair()
    found = diff(before, after)
    assert diff_text(found).plain == str(found)
    drawn = overlay(before, after)
    assert len({item.key for item in drawn.nodes}) == len(drawn.nodes)
    assert len(drawn.nodes) == len(after.nodes) + 2
    dot, mermaid = diff_dot(before, after), diff_mermaid(before, after)
    assert '"relu (before)" [label="- relu\\nrelu' in dot
    assert '"relu" [label="= relu (was relu_1)\\nrelu' in dot
    assert '"stem" -> "relu (before)" [color="#b42318", penwidth=2, style=dashed];' in dot
    assert dot_tokens(dot)[-1] == "}"
    for line in mermaid.splitlines()[1:]:
        assert MERMAID_LINE.fullmatch(line), line
    page = render_diff(before, after)
    for kind in SIGN:
        assert f":::{kind}" in mermaid
        assert f'class="node {kind}' in page or f'class="node terminal {kind}' in page
        assert f'<span class="{kind}">' in page
    first, second = re.findall(r"<svg .*?</svg>", page, re.DOTALL)
    assert "relu_1 (renamed)" in first
    assert "relu (removed)" in first
    assert "relu (renamed)" in second
    assert "relu (removed)" not in second


CHANGE = TensorChange(
    path="fc.weight", change="changed", before="[2] float32", after="[2] float32", relative=0.5,
    largest=1.0, cosine=0.25, entries=1, of=2,
)  # fmt: skip
TENSORS = CheckpointDiff(
    tensors=(
        TensorChange(path="new", change="added", before="none", after="[3] float32"),
        TensorChange(path="w", change="resized", before="[3] int8", after="[4] int8"),
        CHANGE,
        CHANGE.model_copy(update={"path": HOSTILE, "relative": None, "cosine": None}),
    ),
    same=5,
    units=(UnitMatch(space="fc", size=8, moved=6),),
)


def test_tensors_as_text_and_as_a_page():
    text = tensors_text(TENSORS)
    assert text.plain.splitlines()[2] == str(CHANGE)
    assert text.plain.splitlines()[-2:] == [
        "4 of 9 tensors differ",
        "fc: 6 of 8 units matched elsewhere",
    ]
    page = render_tensors(TENSORS, "a", HOSTILE)
    assert page.count("<tr>") == 7
    assert "<script" not in page
    assert "\x1b" not in text.plain + page
    assert "width:100.0%" in page
    assert "[3] int8 → [4] int8" in page

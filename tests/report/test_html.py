"""The pages: what they say, that they load nothing, and that nothing in them can act."""

import re
from html.parser import HTMLParser

import pytest

from tests.report.records import HOSTILE, hostile
from topograph.errors import SpecError
from topograph.report import html, render_diff, render_history, render_topology
from topograph.spec import History, Measurement
from topograph.topology import Topology

VOID = {"meta", "br", "hr", "img", "input", "link"}


class Reader(HTMLParser):
    """Collects tags, attributes and text, and checks that every tag is closed in its place."""

    def __init__(self, page):
        super().__init__()
        self.open, self.tags, self.words, self.attributes = [], [], [], []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


def safe(page):
    """Check that a page has no script, no handler and no address outside itself."""
    reader = Reader(page)
    assert not {"script", "iframe", "object", "embed", "link", "img", "base"} & set(reader.tags)
    assert not [name for name, _ in reader.attributes if name.startswith("on") or name == "src"]
    assert all(value.startswith("#") for name, value in reader.attributes if name == "href")
    anchors = {value for name, value in reader.attributes if name == "id"}
    assert {value[1:] for name, value in reader.attributes if name == "href"} <= anchors
    ids = [value for name, value in reader.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    assert "<script" not in page
    assert "url(" not in page
    assert "@import" not in page
    assert set(re.findall(r"https?://[^\s\"'<>]*", page)) <= {"http://www.w3.org/2000/svg"}
    assert ("content", "default-src 'none'; style-src 'unsafe-inline'") in reader.attributes
    assert not {"\x00", "\x1b", "\u202e"} & set(page)
    return reader


@pytest.fixture(scope="module")
def page(run):
    return render_history(run.history, run.topologies)


def test_the_headline_tells_what_was_gained(page):
    text = safe(page).text
    assert "val_accuracy 10.13% → 98.11% +87.98 points" in text
    assert "val_loss 2.41 → 0.0573 -2.353" in text
    assert "parameters 29,770 → 34,026 +14.3%" in text
    assert "growths 2" in text
    assert "time in training 3 min 7 s 98.0% of the time" in text
    assert "time in growth 3.9 s" in text


def test_each_growth_tells_why_and_what_came_of_it(page, run):
    text = Reader(page).text
    for entry in run.history.entries[1:3]:
        growth = entry.growth
        assert growth.reason in text
        assert f"predicted {growth.predicted:+.4g} measured {growth.measured:+.4g}" in text
        assert f"measured / predicted = {growth.measured / growth.predicted:.2f}" in text
        for candidate in growth.ranking:
            assert f"{candidate.value:.4g}" in text
    assert "largest difference 2.4e-07 of 3.1e-02" in text
    assert "choose a node inside the network" in text


def test_a_score_shows_its_standard_error_where_it_has_one(page, run):
    base, grown, *rest = run.history.entries
    noisy = grown.growth.ranking[0].model_copy(update={"error": 0.01234})
    growth = grown.growth.model_copy(update={"ranking": (noisy, *grown.growth.ranking[1:])})
    entries = base, grown.model_copy(update={"growth": growth}), *rest
    shown = render_history(run.history.model_copy(update={"entries": entries}), run.topologies)
    assert f"{noisy.value:.4g} ± 0.012<" in shown
    assert shown.count(" ± ") == page.count(" ± ") + 1


@pytest.mark.parametrize(
    ("order", "told"),
    [(0, "a value that depends on no step"), (1, "per step"), (2, "per squared step")],
)
def test_a_score_says_how_it_goes_with_the_step(run, order, told):
    base, grown, *_ = run.history.entries
    ranking = tuple(c.model_copy(update={"order": order}) for c in grown.growth.ranking)
    growth = grown.growth.model_copy(update={"ranking": ranking})
    entries = base, grown.model_copy(update={"growth": growth})
    shown = render_history(run.history.model_copy(update={"entries": entries}), run.topologies)
    titles = [value for name, value in Reader(shown).attributes if name == "title"]
    assert sum(title.endswith(told) for title in titles) == len(ranking)


def test_the_chosen_candidate_is_marked_and_leads(page, run):
    rows = re.findall(r'<tr( class="chosen")?>\s*<th scope="row" class="mono">([^<]*)</th>', page)
    ranked = [(bool(chosen), place) for chosen, place in rows if place != "head"]
    assert [chosen for chosen, _ in ranked] == ([True] + [False] * 6) * 2
    assert ranked[0][1] == "after blocks_1_act"
    assert ranked[7][1] == "after blocks_2_add"


def test_every_line_of_every_difference_is_there(page, run):
    text = Reader(page).text
    for entry in run.history.entries[1:3]:
        for line in str(entry.plan.diff).splitlines():
            assert " ".join(line.split()) in text


def test_graphs_show_before_and_after_with_marks(page, run):
    assert page.count('class="tg-graph"') == 4
    nodes = [len(net.nodes) for net in run.nets]
    assert len(re.findall(r'class="node[ "]', page)) == nodes[0] + 2 * nodes[1] + nodes[2]
    assert len(re.findall(r'class="node added"', page)) == 8
    assert len(re.findall(r'class="node changed"', page)) == 4


def test_fingerprints_stand_in_full_behind_their_short_forms(page, run):
    for entry in run.history.entries:
        assert f'title="{entry.topology_sha256}">{entry.topology_sha256[:12]}<' in page
        assert f'title="{entry.manifest_sha256}"' in page


def test_tables_have_headers_with_scope(page):
    assert page.count("<table>") == page.count("<thead>")
    assert "<th>" not in page
    assert all("scope=" in tag for tag in re.findall(r"<th [^>]*>", page))


def test_an_undone_growth_says_so(run):
    last = run.history.entries[-1]
    undo = last.model_copy(update={"number": 4, "kind": "undo", "stack": (1,)})
    history = run.history.model_copy(update={"entries": (*run.history.entries, undo)})
    text = safe(render_history(history, run.topologies)).text
    assert "growths 2 1 undone" in text
    assert "parameters 29,770 → 31,898" in text


def test_a_change_by_hand_needs_no_growth(run):
    base, by_hand = run.history.entries[0], run.history.entries[1]
    by_hand = by_hand.model_copy(update={"growth": None, "metrics": {}})
    history = run.history.model_copy(update={"entries": (base, by_hand), "curve": ()})
    text = safe(render_history(history, run.topologies)).text
    assert "Applied by hand" in text
    assert "No metrics were recorded." in text
    assert "Why this edge" not in text


def test_a_missing_topology_is_named(run):
    with pytest.raises(SpecError, match=r"entry 2 \(apply\) has no topology; .* got \[0, 1\]"):
        render_history(run.history, {0: run.nets[0], 1: run.nets[1]})
    journal = run.history.model_copy(update={"entries": run.history.entries[1:]})
    with pytest.raises(SpecError, match="the journal must start with a base"):
        render_history(journal, run.topologies)


def test_empty_things_have_a_page(run):
    assert "Nothing has happened" in safe(render_history(History(model="m"), {})).text
    assert "no nodes" in safe(render_topology(Topology(name="Empty"))).text
    same = safe(render_diff(run.nets[0], run.nets[0])).text
    assert "no changes" in same
    assert "show the first change" not in same


def test_a_topology_has_a_page_with_all_nodes(topology):
    reader = safe(render_topology(topology))
    assert reader.tags.count("svg") == 1
    assert reader.tags.count("tr") == len(topology.nodes) + 2
    assert f"{topology.parameter_count:,}" in reader.text


def test_a_graph_that_is_too_large_is_told_not_drawn(run, monkeypatch):
    monkeypatch.setattr(html, "MOST_DRAWN", 22)
    page = render_diff(run.nets[0], run.nets[1])
    assert page.count('class="tg-graph"') == 1
    assert "Too many nodes to draw on a page" in page


def test_hostile_texts_stay_texts(run):
    nets = {0: hostile(), 1: hostile().model_copy(update={"nodes": hostile().nodes[:1]})}
    base, grown = run.history.entries[:2]
    plan = grown.plan.model_copy(update={
        "refusals": (grown.plan.refusals[0].model_copy(update={"node": HOSTILE, "fix": HOSTILE}),),
        "checks": (grown.plan.checks[0].model_copy(update={"name": HOSTILE, "found": HOSTILE}),),
    })  # fmt: skip
    growth = grown.growth.model_copy(update={"reason": HOSTILE})
    metrics = {HOSTILE: 1.0, "training_seconds": 1.0}
    history = History(
        model=HOSTILE,
        entries=(
            base.model_copy(update={"metrics": metrics, "created": HOSTILE}),
            grown.model_copy(update={"metrics": metrics, "plan": plan, "growth": growth}),
        ),
        curve=tuple(Measurement(step=s, name=HOSTILE, value=1.0 + s) for s in range(3)),
    )
    page = render_history(history, nets)
    text = safe(page).text
    assert text.count("<script>alert(1)</script>") > 10  # as text
    assert r"'s\n# %%{init}%% &lt; é漢字 [red]\u202e\x1b[31m\x00" in text
    safe(render_diff(nets[0], nets[1]))

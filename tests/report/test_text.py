"""Terminal reports: what is told, that names survive, and that rich reads no markup in them."""

from io import StringIO

import pytest
from rich.console import Console

from tests.report.records import HOSTILE, hostile, residual
from topograph.report import diff_text, history_table, ranking_table, topology_table
from topograph.spec import History
from topograph.topology import Topology, diff


def shown(renderable, width=120):
    console = Console(file=StringIO(), width=width, color_system=None)
    console.print(renderable)
    return console.file.getvalue()


def column(text, start, stop):
    """Return what stands between two columns, all lines in one."""
    return "".join(line[start:stop].strip() for line in text.splitlines())


def test_a_topology_is_told_node_by_node_with_totals(run):
    net = run.nets[1]
    text = shown(topology_table(net))
    rows = {line.split()[0]: line for line in text.splitlines() if line.split()}
    assert all(node.name in rows for node in net.nodes)
    assert "64, 16" in rows["blocks_1_act_grown_down"]
    assert "[N, 16]" in rows["blocks_1_act_grown_down"]
    assert "1,040" in rows["blocks_1_act_grown_down"]
    assert rows["25"].split() == ["25", "nodes", f"{net.parameter_count:,}", f"{net.flops:,}"]


@pytest.mark.parametrize("width", [50, 70, 100])
def test_names_fold_and_are_never_cut(run, width):
    text = shown(topology_table(run.nets[1]), width)
    assert "…" not in text
    header = next(line for line in text.splitlines() if "oper" in line)
    names = column(text, 0, header.index("oper"))
    assert all(node.name in names for node in run.nets[1].nodes)
    assert all(len(line.rstrip()) <= width for line in text.splitlines())


def test_the_ranking_shows_every_candidate_best_first_and_marks_the_chosen(run):
    growth = run.history.entries[1].growth
    lines = shown(ranking_table(growth)).splitlines()
    assert lines[0].strip() == "why this edge"
    rows = [line for line in lines if "+4,096" in line]
    assert len(rows) == len(growth.ranking) == 7
    scores = [float(row.split()[-4]) for row in rows]
    assert scores == sorted(scores, reverse=True)
    assert [row.strip().startswith("*") for row in rows] == [True] + [False] * 6
    assert "after blocks_1_act: bottleneck, 16 units, gelu" in rows[0]
    assert any("edge blocks_0_add -> blocks_1_norm[0]" in row for row in rows)
    assert "predicted -0.03463, measured -0.0312" in "\n".join(lines)
    assert "step 0.5;" in "\n".join(lines)


def test_scores_of_two_orders_name_their_units(run):
    growth = run.history.entries[1].growth
    first = growth.ranking[0].model_copy(update={"order": 1})
    mixed = growth.model_copy(update={"ranking": (first, *growth.ranking[1:])})
    assert "/step²" not in shown(ranking_table(growth))
    assert "0.0912 /step " in shown(ranking_table(mixed))
    assert "0.1385 /step² " in shown(ranking_table(mixed))


def test_a_score_shows_its_standard_error_where_it_has_one(run):
    growth = run.history.entries[1].growth
    noisy = growth.ranking[0].model_copy(update={"error": 0.01234})
    update = {"ranking": (noisy, *growth.ranking[1:])}
    text = shown(ranking_table(growth.model_copy(update=update)))
    assert f"{noisy.value:.4g} ± 0.012 " in text
    assert text.count("±") == 1
    assert "±" not in shown(ranking_table(growth))


def test_a_difference_has_the_words_of_str_and_its_colours(run):
    change = diff(run.nets[0], run.nets[2])
    text = diff_text(change)
    assert text.plain == str(change)
    styles = {text.plain[span.start]: span.style for span in text.spans}
    assert styles["+"] in ("green", "bold")
    assert styles["~"] == "yellow"
    assert diff_text(diff(run.nets[2], run.nets[0])).spans[0].style == "red"
    assert diff_text(diff(run.nets[0], run.nets[0])).plain == "no changes"


def test_the_history_shows_every_entry(run):
    text = shown(history_table(run.history))
    for entry in run.history.entries:
        assert entry.topology_sha256[:12] in text
    assert "blocks_2_add_grown" in text
    assert "-0.0107" in text
    assert history_table(History(model="m")).row_count == 0


def test_names_carry_no_markup_and_no_control_codes():
    name = "[red]x[/red] [link=http://a]\x1b[31m\n+ forged"
    net = residual().model_copy(update={"name": name})
    text = shown(topology_table(net))
    assert r"[red]x[/red] [link=http://a]\x1b[31m\n+ forged" in text
    text = shown(topology_table(hostile()), 300)
    assert "[red]" in text
    assert not {"\x1b", "\x00", "\u202e"} & set(text)


def test_a_name_cannot_forge_a_line_of_a_difference():
    lines = diff_text(diff(Topology(name="a"), hostile())).plain.splitlines()
    assert len(lines) == 3
    assert "'s\\n#" in lines[0]
    assert HOSTILE not in "\n".join(lines)

"""The module tree: sums against an oracle, every node once, folding, and its three forms."""

import json
from io import StringIO

import pytest
from rich.console import Console

from tests.report.test_html import Reader, safe
from topograph.report import module_tree, render_topology, tree_json, tree_table
from topograph.topology import Node, Parameter, Topology, candidate_edges

REASON = "reads a tensor's value"


def shown(renderable, width=100):
    console = Console(file=StringIO(), width=width, color_system=None)
    console.print(renderable)
    return console.file.getvalue()


def call(name, op, inputs, *, scope="", target=None, used=(), **more):
    kind = "module" if target else "function"
    value = {"shape": ("N", 8), "dtype": "float32", "axes": ("batch", "channel")}
    return Node(
        name=name, op=op, inputs=inputs, scope=scope, target=target or op, parameters=used,
        **{"kind": kind, **value, **more},
    )  # fmt: skip


def weight(path, count):
    return Parameter(path=path, shape=(count,), dtype="float32", trainable=True)


def stack(blocks=12, odd=None, opaque=REASON):
    """Return an encoder of like blocks, a tied head, a buffer and a parameter of no call."""
    nodes = [call("x", "input", (), kind="input", axes=("batch", "unknown"))]
    nodes.append(call("emb", "embedding", ("x",), target="emb", used=("emb.w",), flops=3))
    parameters = [weight("emb.w", 80), weight("emb.idle", 5)]
    parameters.append(Parameter(path="b", shape=(9,), dtype="int64", trainable=False, buffer=True))
    above = "emb"
    for number in range(blocks):
        scope = f"net.layers.{number}"
        start, path = scope.replace(".", "_"), f"{scope}.fc.w"
        detail = "bias=True" if number == odd else ""
        parameters.append(weight(path, 64))
        nodes += [
            call(f"{start}_fc", "linear", (above,), scope=scope, target=f"{scope}.fc",
                 used=(path,), flops=128, detail=detail),
            call(f"{start}_dyn", "dyn", (f"{start}_fc",), scope=scope, target=f"{scope}.dyn",
                 opaque=opaque),
            call(f"add_{number}", "add", (above, f"{start}_dyn"), scope=scope, flops=8),
        ]  # fmt: skip
        above = f"add_{number}"
    nodes.append(call("w", "parameter", (), kind="parameter", used=("emb.w",)))
    nodes.append(call("head", "linear", (above, "w"), scope="out", used=("emb.w",), flops=7))
    nodes.append(call("output", "output", ("head",), kind="output"))
    return Topology(name="Net", nodes=tuple(nodes), parameters=tuple(parameters))


def oracle(net, path):
    """Return the sizes of a submodule, counted anew: its nodes, parameters and FLOPs."""

    def below(inner):
        return path == "" or inner == path or inner.startswith(f"{path}.")

    nodes = [node for node in net.nodes if below(node.scope)]
    paths = {name for node in nodes for name in node.parameters}
    paths |= {p.path for p in net.parameters if below(p.path.rpartition(".")[0])}
    count = sum(p.count for p in net.parameters if p.path in paths and not p.buffer)
    return len(nodes), count, sum(node.flops for node in nodes)


@pytest.mark.parametrize("fold", [False, True])
def test_sums_are_those_of_the_topology_and_every_node_stands_once(topology, fold):
    for net in (topology, stack(), stack(odd=4)):
        root = module_tree(net, fold=fold)
        assert (root.parameters, root.flops) == (net.parameter_count, net.flops)
        assert root.candidates == () or set(root.candidates) == set(candidate_edges(net))
        assert len(root.candidates) == len(candidate_edges(net))
        names = [row.node.name for row in root.walk() if row.node]
        assert sorted(names) == sorted(net.by_name)
        for row in root.walk():
            if row.node is None and row.alike == 1:
                assert (len(row.nodes), row.parameters, row.flops) == oracle(net, row.path)
            if row.children:
                assert row.flops == sum(child.flops for child in row.children)


def test_a_submodule_stands_where_it_is_first_called_and_paths_nest():
    rows = [row.path for row in module_tree(stack(2)).walk() if row.node is None]
    assert rows == ["", "net", "net.layers", "net.layers.0", "net.layers.1", "out"]


def test_a_tied_parameter_counts_once_in_a_row_and_in_each_that_uses_it():
    root = module_tree(stack(2))
    by_name = {row.node.name if row.node else row.path: row for row in root.walk()}
    assert by_name["emb"].parameters == by_name["out"].parameters == 80
    assert root.parameters == 80 + 5 + 2 * 64


def test_blocks_that_are_alike_fold_and_keep_their_totals():
    net = stack()
    plain, folded = module_tree(net), module_tree(net, fold=True)
    fold = next(row for row in folded.walk() if row.alike > 1)
    layers = next(row for row in plain.walk() if row.path == "net.layers")
    assert fold.path == "net.layers.0 … net.layers.11"
    assert fold.what == "12 × 3 nodes, 1 opaque"
    assert (fold.parameters, fold.flops) == (layers.parameters, layers.flops) == (768, 12 * 136)
    assert fold.candidates == layers.candidates
    assert [row.path for row in fold.children] == [row.path for row in layers.children]


def test_a_block_that_differs_stands_alone_and_so_do_names_without_a_number():
    paths = [row.path for row in module_tree(stack(6, odd=2), fold=True).walk()]
    assert "net.layers.0 … net.layers.1" in paths
    assert "net.layers.2" in paths
    assert "net.layers.3 … net.layers.5" in paths
    pair = [call("q", "relu", (), scope="query"), call("k", "relu", (), scope="key")]
    rows = module_tree(Topology(name="Net", nodes=tuple(pair)), fold=True).children
    assert [row.path for row in rows] == ["query", "key"]


def test_the_table_fits_100_columns_and_has_few_lines_for_many_nodes():
    net = stack(200)
    text = shown(tree_table(net))
    assert len(net.nodes) > 500
    assert len(text.splitlines()) <= 25
    assert all(len(line.rstrip()) <= 100 for line in text.splitlines())
    rows = {line.split()[0]: line.split() for line in text.splitlines() if line.split()}
    sums = ["12,800", "27,200", "799"]
    assert rows["net.layers.0"][1:] == ["…", "200", "×", "3", "nodes,", "1", "opaque", *sums]
    assert rows["…_fc"] == ["…_fc", "linear", "[N,", "8]", "bc", "64", "128", "1"]
    totals = f"{net.parameter_count:,}", f"{net.flops:,}", f"{len(candidate_edges(net)):,}"
    assert rows[str(len(net.nodes))] == [str(len(net.nodes)), "nodes", *totals]


def test_depth_closes_submodules_and_every_opens_each_block():
    net = stack(3)
    one = shown(tree_table(net, depth=1))
    assert "net " in one
    assert "layers" not in one
    assert "9 nodes, 3 opaque" in one
    text = shown(tree_table(net, every=True))
    assert "×  " not in text
    assert text.count("…_fc") == 3
    assert shown(tree_table(net)).count("…_fc") == 1


def test_opaque_reasons_are_visible_in_all_forms():
    net = stack(3)
    assert f"opaque: {REASON}" in shown(tree_table(net), 130)
    assert shown(tree_table(net, every=True), 130).count(f"opaque: {REASON}") == 3
    page = safe(render_topology(net))
    assert f"opaque: {REASON}" in page.text
    assert page.attributes.count(("class", "reason")) == 4  # at the row of three, and at each
    assert ("class", "row opaque") in page.attributes
    rows = list(walk(json.loads(tree_json(net))["tree"]))
    assert [row["opaque"] for row in rows if row["op"] == "dyn"] == [REASON] * 3


def walk(row):
    yield row
    for child in row["children"]:
        yield from walk(child)


def test_the_document_nests_rows_with_sizes_and_candidates(topology):
    for net in (topology, stack(3)):
        document = json.loads(tree_json(net))
        assert document["format"] == "topograph.tree/1"
        assert document["fingerprint"] == net.fingerprint
        root = document["tree"]
        assert (root["parameters"], root["flops"]) == (net.parameter_count, net.flops)
        rows = list(walk(root))
        assert sorted(row["node"] for row in rows if row["node"]) == sorted(net.by_name)
        edges = {(e["source"], e["target"], e["slot"]) for row in rows for e in row["candidates"]}
        assert edges == {edge[:3] for edge in candidate_edges(net)}
        assert root["candidate_count"] == len(edges)
        shapes = {row["node"]: row["shape"] for row in rows if row["node"]}
        assert shapes == {n.name: None if n.shape is None else list(n.shape) for n in net.nodes}


def test_the_page_has_a_line_for_every_row(topology):
    for net in (topology, stack(3)):
        reader = safe(render_topology(net))
        rows = list(module_tree(net, fold=True).walk())[1:]
        assert reader.tags.count("details") == sum(row.node is None for row in rows)
        lines = [v for n, v in reader.attributes if n == "class" and v in ("row", "row opaque")]
        assert len(lines) == len(rows)
    assert "add_0[0], net_layers_0_fc[0]" not in reader.text  # in the order of the readers
    assert "→ net_layers_0_fc[0], add_0[0]" in Reader(render_topology(stack(1))).text


def test_candidate_edges_are_floating_with_channels_and_from_no_parameter():
    nodes = (
        call("whole", "input", (), kind="input", dtype="int64"),
        call("vague", "input", (), kind="input", axes=("batch", "unknown")),
        call("bare", "input", (), kind="input", shape=None, dtype=None, axes=()),
        call("w", "parameter", (), kind="parameter"),
        call("half", "input", (), kind="input", dtype="bfloat16"),
        call("turn", "fft", (), dtype="complex64"),
        call("sum", "sum", ("whole", "vague", "bare", "w", "half", "turn", "half")),
        call("output", "output", ("sum",), kind="output"),
    )
    found = [str(edge) for edge in candidate_edges(Topology(name="Net", nodes=nodes))]
    assert found == ["half -> sum[4]", "half -> sum[6]", "sum -> output[0]"]


def test_hostile_names_stay_names(hostile_topology):
    text = shown(tree_table(hostile_topology), 300)
    assert "[red]" in text
    assert not {"\x1b", "\x00", "\u202e"} & set(text)
    scopes = (".", "a..b", "..", " ")
    nodes = tuple(call(f"n{i}", "relu", (), scope=scope) for i, scope in enumerate(scopes))
    assert len(module_tree(Topology(name="Net", nodes=nodes)).nodes) == 4

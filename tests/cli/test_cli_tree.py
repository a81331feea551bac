"""`topograph inspect` and the module tree: as text, folded, cut at a depth, and as JSON."""

import json

import pytest
from cli_words import refused

import topograph as tg

SOURCE = """
import torch
from torch import nn


class Judge(nn.Module):
    def forward(self, x):
        return x if x.sum() > 1e9 else 2 * x


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(8, 8)
        self.judge = Judge()

    def forward(self, x):
        return x + self.judge(self.fc(x)).relu()


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(*[Block() for _ in range(4)])
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.layers(x))
"""
MODEL = ("cli_tree_model:Net", "--input", "2,8")


@pytest.fixture
def tree(cli, folder):
    (folder / "cli_tree_model.py").write_text(SOURCE, encoding="utf-8")

    def inspect(*words):
        found = cli("inspect", *MODEL, *words)
        assert (found.code, found.err) == (0, ""), found
        return found.out

    return inspect


def lines(text):
    return [" ".join(line.split()) for line in text.splitlines()]


def test_inspect_prints_the_tree_with_blocks_folded_and_sums(tree):
    text = tree()
    topology = tg.Topology.parse(tree("--json"))
    (fold,) = [line for line in lines(text) if line.startswith("layers.0 … layers.3 ")]
    flops = topology.flops - topology.by_name["head"].flops
    assert fold.startswith(f"layers.0 … layers.3 4 × 4 nodes, 1 opaque 288 {flops:,} ")
    assert sum(line.startswith("…_fc linear [N, 8] bc 72 ") for line in lines(text)) == 1
    assert any(line.startswith("opaque: reads") for line in lines(text))
    assert f" 315 {topology.flops:,} " in " ".join(lines(text))
    assert text.endswith("\n")
    assert f"fingerprint {topology.fingerprint}\n" in text


def test_inspect_all_and_depth_open_and_close(tree):
    every = lines(tree("--all"))
    assert sum(line.startswith("…_fc ") for line in every) == 4
    assert not any("×" in line.split()[1:3] for line in every)
    one = lines(tree("--depth", "1"))
    assert any(line.startswith("layers 16 nodes, 4 opaque 288 ") for line in one)
    assert not any(line.startswith(("layers.0", "…_fc")) for line in one)


def test_inspect_tree_json_is_its_own_document_and_json_stays_the_topology(tree):
    document = json.loads(tree("--tree-json"))
    topology = tg.Topology.parse(tree("--json"))
    assert document["fingerprint"] == topology.fingerprint
    assert document["tree"]["parameters"] == topology.parameter_count == 315
    layers = document["tree"]["children"][1]
    assert [row["path"] for row in layers["children"]] == [f"layers.{i}" for i in range(4)]
    judge = layers["children"][0]["children"][1]
    assert (judge["path"], judge["op"]) == ("layers.0.judge", "judge")
    assert judge["opaque"].startswith("reads")
    assert judge["candidates"] == [{"source": judge["node"], "target": "relu", "slot": 0}]


def test_inspect_html_has_the_tree_with_reasons(tree, folder):
    assert "wrote net.html\n" in tree("--html", "net.html")
    page = (folder / "net.html").read_text(encoding="utf-8")
    assert "<summary" in page
    assert "opaque: reads a tensor" in page


def test_a_candidate_edge_of_the_tree_takes_a_layer(tree, cli, folder):
    (edge,) = json.loads(tree("--tree-json"))["tree"]["children"][0]["candidates"][:1]
    where = {"kind": "between", **edge}
    block = {"kind": "bottleneck", "units": 2}
    change = {"kind": "insert_layer", "where": where, "block": block}
    (folder / "edge.json").write_text(json.dumps([change]), encoding="utf-8")
    found = cli("plan", *MODEL, "edge.json")
    assert found.err == ""
    assert "parameters" in found.out


def test_two_documents_do_not_fit_one_stdout(cli):
    found = cli("inspect", "cli_models:make_model", "--json", "--tree-json")
    refused(found, "--json and --tree-json")

"""`topograph diff` of models, documents, checkpoints and entries of a run."""

import json

import pytest
import torch
from cli_models import make_model
from cli_words import MODEL, refused
from safetensors.torch import save_file

import topograph as tg


@pytest.fixture
def files(cli, folder):
    """The command line, with a model's weights, the same shuffled, and the same changed."""
    state = make_model().state_dict()
    save_file(state, folder / "a.safetensors")
    order = torch.arange(11, -1, -1)
    other = {key: value.clone() for key, value in state.items()}
    for key in ("0.weight", "0.bias"):
        other[key] = other[key][order].contiguous()
    other["2.weight"] = other["2.weight"][:, order].contiguous()
    save_file(other, folder / "b.safetensors")
    other["4.bias"] = other["4.bias"] + 1
    save_file(other, folder / "c.safetensors")
    return cli


def test_two_models_are_compared_as_their_topologies(cli):
    found = cli("diff", MODEL[0], "cli_models:ResNet", "--format", "json")
    assert (found.code, found.err) == (1, "")
    assert tg.TopologyDiff.parse(found.out)
    assert cli("diff", MODEL[0], MODEL[0], *MODEL[1:]).out == "no changes\n"
    assert cli("inspect", *MODEL, "-o", "a.json").code == 0
    assert cli("diff", "a.json", *MODEL).out == "no changes\n"


def test_checkpoints_are_compared_by_their_tensors(files):
    assert files("diff", "a.safetensors", "a.safetensors").out == "no changes in 6 tensors\n"
    found = files("diff", "a.safetensors", "c.safetensors")
    assert (found.code, found.err) == (1, "")
    assert found.out.startswith("~ 4.bias  [3] float32  relative ")
    assert found.out.endswith("4 of 6 tensors differ\n")


def test_align_finds_a_permutation_and_leaves_what_is_else(files, folder):
    align = ("--align", "--model", *MODEL)
    found = files("diff", "a.safetensors", "b.safetensors", *align)
    assert (found.code, found.err) == (0, "")
    assert found.out == "no changes in 6 tensors\n0: 12 of 12 units matched elsewhere\n"
    found = files("diff", "a.safetensors", "c.safetensors", *align, "--format", "json")
    assert found.code == 1
    (tensor,) = json.loads(found.out)["tensors"]
    assert (tensor["path"], tensor["largest"]) == ("4.bias", pytest.approx(1))
    kept = files("diff", "a.safetensors", "c.safetensors", "--format", "html", "-o", "d.html")
    assert (kept.code, kept.out) == (1, "wrote d.html\n")
    page = (folder / "d.html").read_text()
    assert page.startswith("<!DOCTYPE html>")
    assert page.count("<tr>") == 5


def test_entries_of_a_run_by_topology_or_by_tensors(applied, folder):
    assert applied("diff", "run@0", "run@1").out.startswith("+ bottleneck_1_reduce  linear")
    assert applied("diff", "run@1", "run").out.startswith("no changes in ")
    assert applied("inspect", *MODEL, "-o", "a.json").code == 0
    assert applied("diff", "a.json", "run@0").out == "no changes\n"
    align = ("--align", "--model", *MODEL)
    assert applied("diff", "run@1", "run@1", *align).out.startswith("no changes in ")
    refused(applied("diff", "run@1", "run@7"), "run", "7")


@pytest.mark.parametrize(
    ("words", "phrases"),
    [
        (("a.safetensors", "b.safetensors", "--align"), ("--align", "add --model")),
        (("a.safetensors", "b.safetensors", "--format", "dot"), ("--format dot", "json or html")),
        (("a.safetensors", "a.json"), ("a.safetensors: holds tensors", "two checkpoints")),
        (("a.json", "a.json", "--align"), ("--align", "topologies have no weights")),
        (("a.safetensors", "none.safetensors"), ("none.safetensors: no such file",)),
        (("a.safetensors", "a.pt"), ("a.pt: is a pickle",)),
        (("nowhere:net", "a.json"), ("nowhere:net: no module",)),
    ],
)
def test_what_cannot_be_compared_is_one_message(files, words, phrases):
    assert files("inspect", *MODEL, "-o", "a.json").code == 0
    refused(files("diff", *words), *phrases)

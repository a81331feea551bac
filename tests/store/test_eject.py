"""Ejected source computes what the network computes, without topograph, and says what it cannot."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from ejected import assert_equal, loaded, written
from hypothesis import HealthCheck, given, settings
from torch import nn

import topograph as tg
from tests.nets import SHAPES, make, same
from tests.often import often
from tests.random_models import build, random_models
from tests.zoo import BY_NAME, ZOO

SUITE = settings(max_examples=10, suppress_health_check=list(HealthCheck))
PROVEN = ("resnet", "vit", "tied", "keywords", "odds", "recurrent", "channels_last", "foreign")
MUTATIONS = {
    "inserted": [tg.InsertLayer(where=tg.after(op="tanh"), block=tg.Bottleneck(units=3))],
    "curved": [
        tg.InsertLayer(where=tg.at("tanh"), block=tg.Linear(activation="z_tanh_z")),
        tg.InsertLayer(where=tg.at("first"), block=tg.Bottleneck(units=4, activation="relu")),
    ],
    "adapted": [tg.AddAdapter(where=tg.instances_of("Linear"), rank=2)],
    "widened": [tg.WidenLayer(where=tg.at("first"), to=7)],
    "branched": [tg.AddBranch(source="stem", target="second")],
    "frozen": [tg.Freeze(where=tg.named("head")), tg.Freeze(where=tg.named("stem.bias"))],
    "replaced": [tg.ReplaceLayer(where=tg.at("second"), block=tg.LowRank(rank=2))],
}


def traced_example(name):
    example = BY_NAME[name]
    return tg.trace(example.model(), example.inputs, example.kwargs)


@pytest.mark.parametrize("example", ZOO, ids=str)
def test_source_of_the_zoo_equals_the_network(example, tmp_path):
    traced = tg.trace(example.model(), example.inputs, example.kwargs)
    text = written(traced, tmp_path)
    assert "topograph." not in text
    assert not re.search(r"^(import|from) topograph", text, re.MULTILINE)
    assert_equal(traced, loaded(tmp_path))


@pytest.mark.parametrize("name", SHAPES)
def test_source_of_nets_equals_the_network(name, tmp_path):
    traced = make(name)
    written(traced, tmp_path)
    assert_equal(traced, loaded(tmp_path))


@pytest.mark.parametrize("name", often(PROVEN, ("vit", "foreign")))
def test_eject_proves_its_file_in_a_process_of_its_own(name, tmp_path):
    traced = traced_example(name)
    before = {key: value.clone() for key, value in traced.module.state_dict().items()}
    ejected = tg.eject(traced, tmp_path / "grown.py")
    assert all(module.training for module in traced.module.modules())
    assert same(dict(traced.module.state_dict()), before)
    assert (ejected.difference, ejected.checked) == (0.0, "equal in eval and in train")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["grown.py", "grown.safetensors"]
    assert ejected.lines == len(ejected.path.read_text().splitlines())
    assert all(f"class {name}(nn." in ejected.path.read_text() for name in ejected.classes)
    assert ejected.packages == (("tests",) if name == "foreign" else ())


@pytest.mark.parametrize("kind", MUTATIONS)
def test_grown_networks_eject(kind, tmp_path):
    traced = make("residual")
    after = tg.apply(traced, tg.plan(traced, MUTATIONS[kind])).after
    with torch.no_grad():
        for parameter in after.module.parameters():
            parameter += 0.1 * torch.rand_like(parameter)
    written(after, tmp_path)
    assert_equal(after, loaded(tmp_path))


def test_untied_and_tied_again(tmp_path):
    traced = traced_example("tied")
    written(traced, tmp_path)
    model = loaded(tmp_path)
    assert model.head.weight is model.embedding.weight
    after = tg.apply(traced, tg.plan(traced, [tg.Untie(where=tg.at("head"))])).after
    written(after, tmp_path)
    model = loaded(tmp_path)
    assert model.head.weight is not model.embedding.weight
    assert_equal(after, model)


@SUITE
@given(random_models())
def test_random_models_eject_or_name_what_cannot(tmp_path_factory, description):
    folder = tmp_path_factory.mktemp("random")
    model, inputs = build(description)
    try:
        traced = tg.trace(model, inputs.args, inputs.kwargs)
        written(traced, folder)
    except tg.EjectError as error:
        if "cannot be written as source" not in str(error) or "not kept by it" not in str(error):
            raise
        return
    except tg.TraceError:
        return
    assert_equal(traced, loaded(folder))
    shutil.rmtree(folder)


def test_source_reads_as_a_person_would_write_it(tmp_path):
    text = written(traced_example("resnet"), tmp_path)
    assert (
        "    def forward(self, x):\n"
        "        downsample = self.downsample(x)\n"
        "        x = self.relu(self.bn1(self.conv1(x)))\n"
    ) in text
    assert "self.blocks = nn.Sequential(BasicBlock(), BasicBlock2())" in text
    assert "nn.Conv2d(4, 6, 3, stride=2, padding=1, bias=False)" in text


def test_blocks_that_are_alike_share_a_class(tmp_path):
    block = [BY_NAME["residual"].model() for _ in range(3)]
    head = nn.Linear(3, 6)
    model = nn.Sequential(block[0], head, block[1], nn.Linear(3, 6), block[2])
    traced = tg.trace(model, (torch.ones(2, 6),))
    text = written(traced, tmp_path)
    assert text.count("class ResidualMLP") == 1
    assert_equal(traced, loaded(tmp_path))


def test_source_is_formatted_and_free_of_faults(tmp_path):
    ruff = Path(sys.executable).with_name("ruff")
    if not ruff.exists():
        pytest.skip("ruff is not installed")
    for example in ZOO:
        traced = tg.trace(example.model(), example.inputs, example.kwargs)
        (tmp_path / example.name).mkdir()
        written(traced, tmp_path / example.name)
    for words in (("format", "--check"), ("check", "--select", "E,F,B,UP", "--line-length", "88")):
        done = subprocess.run(
            [ruff, *words, "--isolated", tmp_path], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout


def test_ejected_network_trains_on(tmp_path):
    traced = make("mlp", dtype=torch.float32)
    written(traced, tmp_path)
    model = loaded(tmp_path)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x, y = torch.randn(16, 5), torch.randint(0, 3, (16,))
    before = nn.functional.cross_entropy(model(x), y)
    for _ in range(5):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    assert nn.functional.cross_entropy(model(x), y) < before


def test_a_constant_input_is_a_default_and_checked(tmp_path):
    written(traced_example("keywords"), tmp_path)
    model, example = loaded(tmp_path), BY_NAME["keywords"]
    model(*example.inputs, other=example.kwargs["other"])
    with pytest.raises(ValueError, match="made for one value of scale"):
        model(*example.inputs, other=example.kwargs["other"], scale=3.0)

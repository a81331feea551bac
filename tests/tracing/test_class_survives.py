"""After an edit inside a submodule the model is of its class, and computes what the graph does."""

import copy

import pytest
import torch
from torch import nn

import topograph as tg
from tests.zoo import BY_NAME, ZOO
from topograph.tracing.preserve import preserved, seed, set_mode

NESTED = [example for example in ZOO if any("." in n for n, _ in example.model().named_modules())]


def run(module, inputs, training):
    with preserved(module):
        set_mode(module, training)
        seed()
        return module(*inputs)


def edits(example, every):
    traced = tg.trace(example.model(), example.inputs)
    for block in (tg.Bottleneck(units=2), tg.ConvBottleneck(units=2)):
        change = tg.InsertLayer(where=tg.all(), block=block)
        found = tg.candidates(traced, [change])
        for single in [item for item in found if not isinstance(item, tg.Refusal)][::every]:
            yield traced, tg.apply(traced, tg.plan(traced, [single])).after


@pytest.mark.parametrize("every", [3, pytest.param(1, marks=pytest.mark.long)])
@pytest.mark.parametrize("example", NESTED, ids=lambda example: example.name)
def test_the_kept_model_computes_what_the_graph_computes(example, every):
    for traced, after in edits(example, every):
        for new in after.module.parameters():
            with torch.no_grad():
                new.add_(0.01)  # also the parts that start at zero
        kept = tg.recompile(after)
        if kept is not after.module:
            assert type(kept) is type(traced.model)
        assert list(kept.state_dict()) == list(after.module.state_dict())
        ours = {path: id(p) for path, p in kept.named_parameters()}
        assert ours == {path: id(p) for path, p in after.module.named_parameters()}
        for training in (False, True):
            given = copy.deepcopy(example.inputs), copy.deepcopy(example.inputs)
            torch.testing.assert_close(
                run(kept, given[0], training),
                run(after.module, given[1], training),
                rtol=0,
                atol=0,
            )


def inside_a_block():
    model = BY_NAME["resnet"].model()
    traced = tg.trace(model, BY_NAME["resnet"].inputs)
    where = tg.at("blocks_0_conv1")
    change = tg.InsertLayer(where=where, block=tg.ConvBottleneck(units=2))
    plan = tg.plan(traced, [change])
    return model, traced, plan, tg.apply(traced, plan)


def test_only_the_edited_block_runs_a_graph_and_the_plan_says_so():
    model, traced, plan, revision = inside_a_block()
    assert "ResNet stays; blocks.0 will run its recorded graph" in str(plan)
    kept = tg.recompile(revision.after)
    assert type(kept) is type(model)
    assert kept.blocks[1] is model.blocks[1]
    assert type(kept.blocks[0]) is type(model.blocks[0])
    assert any(key.startswith("blocks.0.conv_bottleneck_1.") for key in kept.state_dict())
    assert not any("bottleneck" in key for key in model.state_dict())
    assert tg.recompile(traced) is model


def test_a_copy_runs_on_its_own_parameters():
    *_, revision = inside_a_block()
    kept = tg.recompile(revision.after)
    twin, (image,) = copy.deepcopy(kept), BY_NAME["resnet"].inputs
    with torch.no_grad():
        twin.blocks[0].conv1.weight.zero_()
        twin.blocks[0].conv2.weight.zero_()
    kept.eval(), twin.eval()
    assert not torch.equal(kept(image), twin(image))
    with pytest.raises(tg.TraceError, match="an edited model is not pickled"):
        kept.blocks[0].forward.__reduce__()


def test_dtype_moves_with_the_model_and_it_trains():
    *_, revision = inside_a_block()
    kept, (image,) = tg.recompile(revision.after).double(), BY_NAME["resnet"].inputs
    kept(image.double()).sum().backward()
    assert all(p.grad is not None for p in kept.parameters())


def test_an_edit_of_the_roots_own_forward_gives_a_graph_module():
    model = BY_NAME["residual"].model()
    traced = tg.trace(model, BY_NAME["residual"].inputs)
    change = tg.InsertLayer(where=tg.at("tanh"), block=tg.Bottleneck(units=2))
    plan = tg.plan(traced, [change])
    assert "recompile gives a GraphModule, no ResidualMLP" in str(plan)
    after = tg.apply(traced, plan).after
    assert tg.recompile(after) is after.module


def test_a_second_edit_elsewhere_keeps_the_first():
    *_, revision = inside_a_block()
    change = tg.InsertLayer(where=tg.at("blocks_1_conv1"), block=tg.ConvBottleneck(units=2))
    after = tg.apply(revision.after, tg.plan(revision.after, [change])).after
    assert after.hosts == {"blocks.0", "blocks.1"}
    kept, (image,) = tg.recompile(after), BY_NAME["resnet"].inputs
    assert torch.equal(run(kept, (image,), False), run(after.module, (image,), False))


def test_the_kept_model_can_be_traced_again():
    *_, revision = inside_a_block()
    kept, (image,) = tg.recompile(revision.after), BY_NAME["resnet"].inputs
    again = tg.trace(kept, (image,))
    assert tg.verify(kept, again, (image,)) == ()
    assert isinstance(kept, nn.Module)

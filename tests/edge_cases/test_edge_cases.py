"""Every row of the table of edge cases, for other widths; where a row has tests elsewhere, which.

`COVERED` names the tests of each row; here stand those for resized layers that no other file has.
"""

import ast
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import topograph as tg
from tests.edge_cases.resizing import resized
from tests.zoo import BY_NAME, drawn

TESTS = Path(__file__).parent.parent
COVERED = {
    "tied parameters": (
        "edge_cases/test_edge_cases:test_tied_names_follow_together",
        "rewrite/test_untie:test_three_names_part_one_by_one",
        "rewrite/test_freeze:test_a_tied_parameter_stays_tied",
        "store/test_store_replay:test_untied_base_model",
    ),
    "a module called twice": (
        "edge_cases/test_edge_cases:test_a_module_that_is_called_twice",
        "rewrite/test_untie:test_one_call_of_a_shared_layer_gets_a_clone",
        "rewrite/test_replace_layer:test_all_calls_of_a_module_change_and_so_do_its_other_names",
    ),
    "in-place operations": (
        "edge_cases/test_edge_cases:test_a_residual_stream_that_is_written_in_place",
        "rewrite/test_in_place:test_a_hazard_is_refused_and_would_have_changed_the_output",
    ),
    "dead code": (
        "edge_cases/test_edge_cases:test_what_nobody_reads_still_runs",
        "rewrite/test_rewire:test_what_writes_stays_although_nobody_reads_it",
    ),
    "BatchNorm": ("edge_cases/test_edge_cases:test_statistics_of_a_batch_norm",),
    "norm or dropout inlined": (
        "tracing/test_trace:test_the_mode_switches_after_tracing",
        "tracing/test_trace:test_a_branch_on_the_mode_stays_whole",
    ),
    "view with numbers": ("edge_cases/test_edge_cases:test_a_view_with_numbers_in_it",),
    "attributes that copy a width": (
        "edge_cases/test_edge_blocks:test_attributes_that_copy_a_width",
    ),
    "grouped heads and offsets": (
        "edge_cases/test_edge_blocks:test_grouped_query_heads",
        "edge_cases/test_edge_blocks:test_pixel_shuffle_takes_whole_blocks",
        "rewrite/test_widths:test_groups_go_whole",
        "rewrite/test_widths:test_depthwise_follows_its_input",
        "rewrite/test_widths:test_offsets_behind_a_cat",
    ),
    "dynamic shapes": (
        "edge_cases/test_edge_blocks:test_other_sizes_after_a_resize",
        "tracing/test_trace:test_other_batch_sizes",
    ),
    "data-dependent control flow": (
        "edge_cases/test_edge_blocks:test_what_is_closed_is_left_alone",
        "tracing/test_inputs:test_a_closed_part_can_be_traced_around",
    ),
    "None and keyword inputs": (
        "edge_cases/test_edge_blocks:test_none_and_keyword_inputs",
        "tracing/test_inputs:test_a_grown_network_still_knows_its_constants",
    ),
    "several outputs": (
        "rewrite/test_widths:test_both_halves_of_a_gated_layer",
        "tracing/test_recording:test_dataclasses_go_in_and_come_out",
    ),
    "buffers that are not persistent": (
        "edge_cases/test_edge_blocks:test_buffers_keep_their_persistence",
        "tracing/test_module:test_the_state_is_the_models_own",
    ),
    "parametrizations": (
        "edge_cases/test_edge_blocks:test_a_parametrized_weight_is_refused",
        "rewrite/test_add_adapter:test_a_parametrized_weight",
    ),
    "hooks": (
        "edge_cases/test_edge_training:test_hooks_of_a_resized_layer",
        "tracing/test_module:test_hooks_of_leaves_are_kept_and_those_of_containers_are_noted",
    ),
    "class, methods, attributes": (
        "edge_cases/test_edge_training:test_the_class_keeps_its_methods",
        "rewrite/test_freeze:test_an_edit_of_flags_inside_a_block_keeps_the_class",
    ),
    "wrappers": (
        "tracing/test_recording:test_ddp_is_taken_off_and_sharded_parameters_are_refused",
        "tracing/test_inputs:test_a_compiled_model_is_unwrapped_with_a_note",
    ),
    "frozen parameters": ("edge_cases/test_edge_training:test_frozen_parameters_stay_frozen",),
    "dtype and memory format": ("edge_cases/test_edge_training:test_type_and_memory_format",),
    "names": (
        "edge_cases/test_edge_training:test_names_stay",
        "rewrite/test_apply:test_a_failed_apply_changes_nothing",
    ),
    "index out of range": ("edge_cases/test_edge_training:test_units_that_are_not_there",),
    "optimizer": (
        "edge_cases/test_edge_training:test_moments_follow_their_units",
        "edge_cases/test_edge_training:test_schedulers_and_averages_follow",
        "training/test_migrate_errors:test_an_optimizer_that_missed_a_growth_is_refused",
    ),
    "explosion": ("edge_cases/test_edge_training:test_spaces_are_found_in_linear_time",),
    "failure midway": (
        "edge_cases/test_edge_training:test_a_failed_resize_changes_nothing",
        "rewrite/test_apply:test_a_failed_apply_changes_nothing",
    ),
}
ROW, IMAGE = drawn(3, 6), drawn(2, 3, 8, 8)


@pytest.mark.parametrize("row", COVERED)
def test_a_row_has_its_tests(row):
    for name in COVERED[row]:
        file, _, function = name.partition(":")
        tree = ast.parse((TESTS / f"{file}.py").read_text(encoding="utf-8"))
        assert function in {part.name for part in tree.body if isinstance(part, ast.FunctionDef)}


def test_tied_names_follow_together():
    example = BY_NAME["tied"]
    revision = resized(example.model(), example.inputs, "embedding", 6)
    kept, keep = tg.recompile(revision.after), revision.moved["embedding.weight"][1].old
    assert kept.head.weight is kept.embedding.weight
    old = example.model()
    hand = example.model()
    hand.embedding, hand.fc = nn.Embedding(11, 6), nn.Linear(6, 6)
    hand.head = nn.Linear(6, 11, bias=False)
    with torch.no_grad():
        hand.embedding.weight.copy_(old.embedding.weight[:, keep])
        hand.fc.weight.copy_(old.fc.weight[keep][:, keep])
        hand.fc.bias.copy_(old.fc.bias[keep])
    hand.head.weight = hand.embedding.weight
    assert torch.equal(kept(*example.inputs), hand(*example.inputs))


class Again(nn.Module):
    """A layer that reads what it made."""

    def __init__(self, width=8):
        super().__init__()
        self.stem, self.shared = nn.Linear(6, width), nn.Linear(width, width)
        self.head = nn.Linear(width, 3)

    def forward(self, x):
        return self.head(torch.tanh(self.shared(torch.tanh(self.shared(self.stem(x))))))


def test_a_module_that_is_called_twice():
    model = Again()
    revision = resized(model, ROW, "stem", 5)
    keep = revision.moved["stem.weight"][0].old
    hand, old = Again(5), model.state_dict()
    hand.load_state_dict(
        {
            "stem.weight": old["stem.weight"][keep],
            "stem.bias": old["stem.bias"][keep],
            "shared.weight": old["shared.weight"][keep][:, keep],
            "shared.bias": old["shared.bias"][keep],
            "head.weight": old["head.weight"][:, keep],
            "head.bias": old["head.bias"],
        }
    )
    assert torch.equal(tg.recompile(revision.after)(ROW), hand(ROW))
    for how in ("zero", "duplicate"):
        wide = resized(model, ROW, "stem", 12, how=how)
        assert tg.recompile(wide.after).shared.weight.shape == (12, 12)
        assert torch.allclose(wide.after.module(ROW), model(ROW), atol=1e-6)


def test_a_residual_stream_that_is_written_in_place():
    example = BY_NAME["resnet"]
    revision = resized(example.model(), example.inputs, "conv", 3)
    keep = revision.moved["conv.weight"][0].old
    kept, old = tg.recompile(revision.after).eval(), example.model().eval()
    gone = [unit for unit in range(4) if unit not in keep]
    with torch.no_grad():  # a unit of the stream that is 0 everywhere, and read by nothing
        for layer in (old.conv, old.blocks[0].conv2):
            layer.weight[gone] = 0
        old.conv.bias[gone] = 0
        for layer in (old.blocks[0].conv1, old.blocks[1].conv1, old.blocks[1].downsample):
            layer.weight[:, gone] = 0
    assert torch.allclose(kept(*example.inputs), old(*example.inputs), atol=1e-6)


class Idle(nn.Module):
    """Computes and writes what no output reads."""

    def __init__(self):
        super().__init__()
        self.first, self.probe, self.last = nn.Linear(6, 8), nn.Linear(8, 2), nn.Linear(8, 3)
        self.register_buffer("seen", torch.zeros(2))

    def forward(self, x):
        h = torch.tanh(self.first(x))
        self.seen.add_(self.probe(h).mean(0).detach())
        h.mul_(2)
        return self.last(h)


def test_what_nobody_reads_still_runs():
    model = Idle().eval()
    revision = resized(model, ROW, "first", 12)
    kept = tg.recompile(revision.after)
    before = kept.seen.clone()
    assert torch.allclose(kept(ROW), model(ROW), atol=1e-6)
    assert (kept.seen != before).all()


def test_statistics_of_a_batch_norm():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1))
    for _ in range(3):
        model(drawn(8, 3, 8, 8))
    old = {key: value.clone() for key, value in model.state_dict().items()}
    narrow = resized(model, IMAGE, "0", 3)
    keep, norm = narrow.moved["1.running_var"][0].old, tg.recompile(narrow.after)[1]
    assert torch.equal(norm.running_mean, old["1.running_mean"][keep])
    assert torch.equal(norm.running_var, old["1.running_var"][keep])
    assert (norm.num_features, int(norm.num_batches_tracked)) == (3, 3)
    wide = tg.recompile(resized(model, IMAGE, "0", 6).after)
    assert torch.equal(wide[1].running_var[:4], old["1.running_var"])
    assert (wide[1].running_var[4:] > 0).all()
    assert (wide[1].weight[4:] != 0).all()
    state = wide[1].running_mean.clone()
    wide.train()(IMAGE)
    assert (wide[1].running_mean != state).all()
    assert int(wide[1].num_batches_tracked) == 4


class Numbers(nn.Module):
    """Sizes as plain numbers, such as a width in a view."""

    def __init__(self, width=16):
        super().__init__()
        self.first, self.last = nn.Linear(6, width), nn.Linear(4, 3)

    def forward(self, x):
        return self.last(self.first(x).view(-1, 4, 4).tanh().sum(1))


def test_a_view_with_numbers_in_it():
    model = Numbers()
    revision = resized(model, ROW, "first", 8)
    kept, keep = tg.recompile(revision.after), revision.moved["first.weight"][0].old
    for batch in (1, 3, 5):
        x = drawn(batch, 6)
        rows = F.linear(x, model.first.weight[keep], model.first.bias[keep])
        blocks = revision.plan.edits[0].spaces[0]
        shape = (batch, 2, 4) if blocks.before == 4 and len(kept.last.weight[0]) == 4 else None
        assert shape is not None
        assert torch.allclose(kept(x), model.last(rows.view(shape).tanh().sum(1)), atol=1e-6)
    assert "" in revision.after.hosts  # the root's own forward has the old number in it

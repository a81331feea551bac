"""What may be asked, as strict pydantic records; without torch."""

from topograph.spec.blocks import Block, Bottleneck, ConvBottleneck, Linear
from topograph.spec.history import Entry, Growth, History, Measurement, Ranked
from topograph.spec.layers import InsertLayer, RemoveLayer
from topograph.spec.mutations import AnyMutation, Mutation, Refusal, digest, load_mutations
from topograph.spec.plan import Change, Check, Effects, Plan
from topograph.spec.policy import Budget, Every, Fixed, LineSearch, Plateau, Policy, Selection
from topograph.spec.schemas import schema
from topograph.spec.select import Place, canonical_operation, places
from topograph.spec.selectors import After, At, Between, Everywhere, Named, Selector
from topograph.spec.wiring import AddBranch

__all__ = [
    "AddBranch", "After", "AnyMutation", "At", "Between", "Block", "Bottleneck", "Budget", "Change",
    "Check", "ConvBottleneck", "Effects", "Entry", "Every", "Everywhere", "Fixed", "Growth",
    "History", "InsertLayer", "LineSearch", "Linear", "Measurement", "Mutation", "Named", "Place",
    "Plan", "Plateau", "Policy", "Ranked", "Refusal", "RemoveLayer", "Selection", "Selector",
    "canonical_operation", "digest", "load_mutations", "places", "schema",
]  # fmt: skip

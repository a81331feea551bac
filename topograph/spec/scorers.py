"""Names of the built-in scorers, and the kinds of mutation that each can compare."""

from typing import Annotated, Any, Literal

from topograph.spec import extensions
from topograph.spec.mutations import AnyMutation

AUTO = "auto"  # where a rule names none: natural where it knows every candidate, else the usual
USUAL = "topological_derivative"
UNSCORED = "none"  # takes candidates of any kind in the order given
AnyScorer = Literal[
    "auto", "topological_derivative", "natural", "wasserstein", "features", "gradient_norm",
    "gradmax", "tiny", "magnitude", "betti_stall", "random", "first", "last", "none",
]  # fmt: skip
Scorer = Annotated[AnyScorer, extensions.Open(extensions.SCORERS)]
EVERY = extensions.built_in(AnyMutation)
KINDS: dict[str, tuple[str, ...]] = {
    "auto": ("add_adapter", "add_branch", "insert_layer", "widen_layer"),
    "topological_derivative": ("add_adapter", "add_branch", "insert_layer", "widen_layer"),
    "natural": ("add_branch", "insert_layer"),
    "wasserstein": ("add_adapter", "add_branch", "insert_layer", "widen_layer"),
    "features": ("insert_layer",),
    "gradient_norm": ("add_branch", "insert_layer"),
    "gradmax": ("insert_layer",),
    "tiny": ("insert_layer",),
    "magnitude": ("disconnect", "narrow_layer"),
    "betti_stall": ("insert_layer",),
    "random": EVERY,
    "first": EVERY,
    "last": EVERY,
}
# Those that say along which direction a layer starts.
DIRECTED = (
    "auto", "topological_derivative", "natural", "wasserstein", "features", "gradmax", "tiny",
)  # fmt: skip


def _only(scorer: str, kinds: tuple[str, ...]) -> dict[str, Any]:
    known = {"items": {"properties": {"kind": {"enum": list(kinds)}}}}
    named = {} if scorer == AUTO else {"required": ["scorer"]}
    return {
        "if": {"properties": {"scorer": {"const": scorer}}, **named},
        "then": {"properties": {"candidates": known}},
    }


# The rules between the fields of a policy's rule, as a JSON Schema says them.
BETWEEN: dict[str, Any] = {
    "allOf": [
        *(_only(scorer, kinds) for scorer, kinds in KINDS.items()),
        {
            "if": {"properties": {"trigger": {"properties": {"kind": {"const": "significance"}}}}},
            "then": {
                "properties": {
                    "scorer": {"not": {"enum": sorted({*KINDS, UNSCORED} - set(DIRECTED))}}
                }
            },
        },
    ]
}


def why_not(scorer: str, kinds: set[str], *, directed: bool) -> str | None:
    """Return why a scorer cannot do what a rule asks of it; None if it can.

    Args:
        scorer: Its name; what a plugin adds may compare anything.
        kinds: Of the rule's candidates.
        directed: Whether the rule needs to know along which direction a layer starts.
    """
    if directed and scorer in {*KINDS, UNSCORED} - set(DIRECTED):
        return (
            "the trigger significance measures along the directions of scores, and the scorer "
            f"{scorer!r} gives none; use {' or '.join(DIRECTED)}, or another trigger"
        )
    known = KINDS.get(scorer)
    if known is not None and not kinds <= set(known):
        return (
            f"{scorer} scores {' and '.join(known)}, not {', '.join(sorted(kinds - set(known)))}; "
            'say "scorer": "none", or give these candidates a rule of their own under more'
        )
    return None

"""`candidates` and `plan`: what could be changed, and what a change would do."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import fx, nn
from torch.utils import _pytree as pytree

from topograph.errors import DriftError, RefusedError, SelectorError
from topograph.rewrite.aliases import moves_written_memory
from topograph.rewrite.draft import Draft
from topograph.rewrite.table import AnyMutation, rule_for
from topograph.spec import Change, Check, Effects, Plan, Refusal, digest
from topograph.topology import Topology, diff
from topograph.tracing import TracedModel
from topograph.tracing.describe import describe_change
from topograph.tracing.frames import Frame
from topograph.tracing.hosting import host_of
from topograph.tracing.module import build
from topograph.tracing.preserve import preserved, set_mode
from topograph.tracing.values import Values, extend_values


def candidates(
    traced: TracedModel, mutations: Sequence[AnyMutation]
) -> tuple[AnyMutation | Refusal, ...]:
    """Return every single place that requests mean, or the reason why it is not one.

    Args:
        traced: The model.
        mutations: Requests; a selector stands for all its places.

    Returns:
        For each place, in topological order, the mutation there or a `Refusal`.

    Raises:
        SelectorError: A selector matches nothing; shows the nearest names.

    Example:
        >>> import topograph as tg, torch
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU())
        >>> traced = tg.trace(model, (torch.zeros(2, 4),))
        >>> change = tg.InsertLayer(where=tg.after(op="relu"), block=tg.Bottleneck(units=2))
        >>> [mutation.where.node for mutation in tg.candidates(traced, [change])]
        ['relu_1']

    References:
        https://docs.pytorch.org/docs/stable/fx.html
    """
    draft = Draft(_with_values(traced))
    found: list[AnyMutation | Refusal] = []
    for mutation in mutations:
        rule = rule_for(mutation)
        for single in rule.resolve(mutation, traced.topology):
            found.append(rule.check(draft, single) or single)
    return tuple(found)


def plan(traced: TracedModel, mutations: Sequence[AnyMutation]) -> Plan:
    """Return what mutations would change, tried on a copy; nothing is changed yet.

    Args:
        traced: The model.
        mutations: Requests. One that the topology already contains is left out, so that planning
            again after applying says "no changes".

    Returns:
        The plan: changes, diff, parameters and FLOPs, checks and refusals. Print it to read it.

    Raises:
        SelectorError: A selector matches nothing; shows the nearest names.
        RefusedError: Every place was refused; carries the refusals.

    Example:
        >>> import topograph as tg, torch
        >>> traced = tg.trace(torch.nn.Sequential(torch.nn.Linear(4, 4)), (torch.zeros(2, 4),))
        >>> plan = tg.plan(traced, [tg.InsertLayer(where=tg.all(), block=tg.Bottleneck(units=2))])
        >>> plan.effects.parameters_after - plan.effects.parameters_before
        36

    References:
        https://developer.hashicorp.com/terraform/cli/commands/plan
    """
    draft = Draft(_with_values(traced))
    known = [digest(m) for m in mutations if digest(m) in traced.topology.applied]
    changes: list[Change] = []
    refusals: list[Refusal] = []
    for mutation in mutations:
        asked, rule = digest(mutation), rule_for(mutation)
        if asked in known:
            continue
        for single in rule.resolve(mutation, traced.topology):
            refusal = rule.check(draft, single)
            if refusal is not None:
                refusals.append(refusal)
                continue
            stem = rule.stem(single)
            name = draft.free_name(stem) if stem is not None else None
            scope = draft.scope_of(*rule.ends(single))
            change = Change(mutation=single, requested=asked, scope=scope, name=name)
            carry_out(draft, change)
            changes.append(change)
    if refusals and not changes and not known:
        raise RefusedError(f"every place was refused ({len(refusals)}):", tuple(refusals))
    after = finish(draft, changes) if changes else traced
    return Plan(
        base_sha256=traced.topology.fingerprint,
        after_sha256=after.topology.fingerprint,
        changes=tuple(changes),
        diff=diff(traced.topology, after.topology),
        effects=_effects(traced.topology, after.topology),
        checks=_checks(traced, after, changes) if changes else (),
        refusals=tuple(refusals),
        already_applied=tuple(known),
    )


def carry_out(draft: Draft, change: Change) -> nn.Module | None:
    """Rewrite a draft by one change; its new weights depend on nothing but the change."""
    seed = int(digest(change)[:8], 16)
    draft.scope = change.scope
    return rule_for(change.mutation).rewrite(draft, change.mutation, change.name, seed)


def finish(draft: Draft, changes: Sequence[Change]) -> TracedModel:
    """Compile a draft and describe what came of it."""
    base = draft.base
    assert base.values is not None
    draft.graph.lint()
    network = build(draft.graph, draft.tree, base.topology.name, base.module.calling)
    stays = draft.nodes.keys() - draft.changed
    kept = {name: value for name, value in base.values.by_node.items() if name in stays}
    values = replace(base.values, by_node=kept)
    if moves_written_memory(draft):
        names = [node.name for node in network.graph.nodes if node.op != "placeholder"]
    else:
        names = [*draft.created, *draft.changed]
    values = replace(values, by_node=kept | extend_values(network, values, names))
    _shapes_kept(draft, values)
    applied = [*base.topology.applied]
    for change in changes:
        applied += [change.requested, digest(change.mutation)]
    known = tuple(dict.fromkeys(applied))
    topology = describe_change(network, values, base.topology, draft.changed, known, draft.scopes)
    moved = {name: node.name for name, node in draft.values.items()}
    frames = {path: frame.renamed(moved) for path, frame in base.frames.items()}
    scopes = frozenset(change.scope for change in changes)
    return replace(
        base,
        module=network,
        topology=topology,
        values=values,
        model=draft.tree if base.model is not None else None,
        frames=frames,
        hosts=_alone(network.graph, draft, frames, base.hosts | scopes),
    )


def _alone(
    graph: fx.Graph, draft: Draft, frames: Mapping[str, Frame], scopes: frozenset[str]
) -> frozenset[str]:
    """Return the submodules that must run graphs of their own for the edits in some scopes."""
    return frozenset(host_of(graph, draft.scopes, frames, draft.tree, scope) for scope in scopes)


def _with_values(traced: TracedModel) -> TracedModel:
    if traced.values is None:
        raise SelectorError(
            "the model was traced without example inputs, so no shapes are known; "
            "trace it with example_inputs=(…)"
        )
    return traced


def _shapes_kept(draft: Draft, values: Values) -> None:
    """Check that what replaces a value has its shape and type in both passes."""
    for name, node in draft.values.items():
        for old, new in zip(
            draft.base.values.by_node[name].passes,  # type: ignore[union-attr]
            values.by_node[node.name].passes,
            strict=True,
        ):
            if (old.shape, old.dtype) != (new.shape, new.dtype):
                raise DriftError(
                    f"{node.name} would be {list(new.shape)} {new.dtype} where {name} is "
                    f"{list(old.shape)} {old.dtype}; nothing was changed"
                )


def _effects(before: Topology, after: Topology) -> Effects:
    return Effects(
        parameters_before=before.parameter_count,
        parameters_after=after.parameter_count,
        flops_before=before.flops,
        flops_after=after.flops,
    )


def _checks(
    before: TracedModel, after: TracedModel, changes: Sequence[Change]
) -> tuple[Check, ...]:
    assert after.values is not None
    small, large = after.values.batches
    sizes = f"{small} and {large}" if small != large else f"{small} only (the batch is fixed)"
    shapes = Check(
        name="shapes", passed=True, found=f"every value keeps its shape at batch {sizes}"
    )
    first, second = _run(before.module, before.inputs), _run(after.module, after.inputs)
    change = max_difference(first, second)
    keeps = all(rule_for(change.mutation).preserves(change.mutation) for change in changes)
    finite = all(torch.isfinite(t).all() for t in second)
    return (
        shapes,
        Check(
            name="output in eval",
            passed=finite and (not keeps or change <= _noise(first)),
            found=f"max |Δy| = {change:.3g}"
            + ("" if keeps else ", as asked: the function changes"),
        ),
        Check(name="class", passed=True, found=_class(after)),
    )


def _class(after: TracedModel) -> str:
    """Say what becomes of the model's class."""
    name = after.topology.name
    if after.model is None or "" in after.hosts:
        return f"the root's own forward changes: recompile gives a GraphModule, no {name}"
    return f"{name} stays; {', '.join(sorted(after.hosts))} will run its recorded graph"


def _run(module: nn.Module, inputs: Mapping[str, Any]) -> list[torch.Tensor]:
    with preserved(module), torch.no_grad():
        set_mode(module, training=False)
        copies = pytree.tree_map_only(torch.Tensor, lambda t: t.detach().clone(), dict(inputs))
        leaves = pytree.tree_leaves(module(**copies))
    return [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]


def max_difference(first: Sequence[torch.Tensor], second: Sequence[torch.Tensor]) -> float:
    """Return the largest difference between two lists of tensors of the same shapes."""
    gaps = [
        (a.double() - b.double()).abs().max().item()
        for a, b in zip(first, second, strict=True)
        if a.numel()
    ]
    return max(gaps, default=0.0)


def _noise(outputs: Sequence[torch.Tensor]) -> float:
    """Return what rounding alone may change: eight units in the last place of the largest."""
    bounds = [
        8 * torch.finfo(t.dtype).eps * t.abs().max().item()
        for t in outputs
        if t.is_floating_point() and t.numel()
    ]
    return max(bounds, default=0.0)

"""The law that spaces obey: to rename the units of a space changes nothing but the outputs' order.

It holds only if index i of every axis of a space means the same unit, so it is the oracle for the
rules: a rule that unifies what does not meet, or misses what does, breaks it.
"""

import copy

import torch
from torch.func import functional_call
from torch.utils import _pytree as pytree

import topograph as tg
from topograph.tracing import TracedModel
from topograph.widths.dims import Dim, leaves
from topograph.widths.indices import Index, Indices
from topograph.widths.spaces import Widths, widths


def free(known: Widths) -> dict[str, Dim]:
    """Return the spaces that may change, by name."""
    return {name: dim for name, dim in known.dims.items() if dim.lock is None}


def exchanged(known: Widths, indices: Indices) -> dict[str, torch.Tensor]:
    """Return a model's tensors with their entries where an edit puts them, by path."""
    made = {}
    for path, tensor in known.tensors.items():
        value = tensor.detach()
        for axis, dim in enumerate(known.flow.tensors[id(tensor)]):
            index = indices.of(dim)
            if index is not None:
                value = value.index_select(axis, index.old)
        made[path] = value
    return made


def permutation(size: int, generator: torch.Generator) -> Index:
    old = torch.randperm(size, generator=generator)
    return Index(old, torch.ones(size, dtype=torch.float64))


def assert_units_may_be_renamed(traced: TracedModel, args, kwargs=None, *, spaces=None, seed=0):
    """Permute the units of all free spaces at once and compare with the model before."""
    kwargs = kwargs or {}
    known = widths(traced)
    chosen = free(known) if spaces is None else {name: known.dims[name] for name in spaces}
    generator = torch.Generator().manual_seed(seed)
    indices = Indices({id(d): permutation(d.size, generator) for d in chosen.values()})
    tensors = exchanged(known, indices)
    with torch.no_grad():
        torch.manual_seed(0)
        before = traced.module(*copy.deepcopy(args), **copy.deepcopy(kwargs))
        torch.manual_seed(0)
        after = functional_call(traced.module, tensors, args, kwargs)
    result = next(node for node in traced.module.graph.nodes if node.op == "output")
    layouts = [known.flow.layouts[n.name] for n in _nodes(result.args)]
    old, new = (
        [t for t in pytree.tree_leaves(made) if isinstance(t, torch.Tensor)]
        for made in (before, after)
    )
    assert len(old) == len(new)
    for index, (was, is_now) in enumerate(zip(old, new, strict=True)):
        layout = layouts[index] if index < len(layouts) else None
        for axis, dim in enumerate(layout if isinstance(layout, tuple) else ()):
            place = indices.of(dim)
            if place is not None:
                was = was.index_select(axis, place.old)
        eps = torch.finfo(was.dtype).eps if was.is_floating_point() else 0
        scale = float(was.abs().max()) if was.numel() and was.is_floating_point() else 1.0
        torch.testing.assert_close(
            is_now, was, atol=1e4 * eps * max(scale, 1e-3), rtol=1e-3 if eps > 1e-10 else 1e-9,
            equal_nan=True,
        )  # fmt: skip
    return known


def _nodes(args):
    return [n for n in pytree.tree_leaves(args) if isinstance(n, torch.fx.Node)]


def traced(model: torch.nn.Module, *args, **kwargs) -> TracedModel:
    return tg.trace(model.eval(), args, kwargs)


def shape_text(known: Widths, path: str) -> tuple[str, ...]:
    """Return the spaces of each axis of a tensor, "*" between factors, for reading in tests."""
    dims = known.flow.tensors[id(known.tensors[path])]
    return tuple("/".join(known.names.get(id(a), str(a.size)) for a in leaves(d)) for d in dims)

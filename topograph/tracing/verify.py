"""Whether a record computes what the model computes."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from topograph.errors import TraceError
from topograph.tracing.preserve import preserved, set_mode
from topograph.tracing.values import batch_size, with_batch


def verify(
    model: nn.Module,
    traced: Any,
    example_inputs: Sequence[Any] = (),
    example_kwargs: Mapping[str, Any] | None = None,
) -> tuple[str, ...]:
    """Compare a traced model with the original: outputs, gradients, state, at two batch sizes.

    Args:
        model: The original module.
        traced: What `trace` returned for it.
        example_inputs: Positional inputs.
        example_kwargs: Keyword inputs.

    Returns:
        One line for every difference; empty where there is none.

    Raises:
        TypeError: `traced` has no module to compare with.

    Example:
        >>> import topograph as tg, torch
        >>> model, x = torch.nn.Linear(4, 8), torch.zeros(2, 4)
        >>> tg.verify(model, tg.trace(model, (x,)), (x,))
        ()

    References:
        https://docs.pytorch.org/docs/stable/notes/randomness.html
    """
    network = getattr(traced, "module", None)
    if not isinstance(network, nn.Module):
        raise TypeError(f"verify takes what trace returned, got {type(traced).__name__}")
    problems = _state_differences(model, network)
    kwargs = dict(example_kwargs or {})
    batch = batch_size({"args": list(example_inputs), "kwargs": kwargs})
    for size in (batch, batch + 1):
        args = with_batch(tuple(example_inputs), batch, size)
        named = with_batch(kwargs, batch, size)
        for training in (False, True):
            where = f"in {'train' if training else 'eval'} at batch {size}"
            problems += [
                f"{where}: {p}" for p in _run_differences(model, network, args, named, training)
            ]
    return tuple(problems)


def compare(
    model: nn.Module,
    network: nn.Module,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    inputs: Mapping[str, Any],
) -> None:
    """Raise a `TraceError` unless a record gives the model's outputs in eval and in train."""
    for training in (False, True):
        first = _outputs(model, args, kwargs, training)
        second = _outputs(network, (), inputs, training)
        differences = _different("output", first, second)
        if not differences:
            continue
        if _different("output", first, _outputs(model, args, kwargs, training)):
            raise TraceError(
                f"{type(model).__name__} gives other outputs on every run with the same inputs and "
                "the same random state; make it deterministic before tracing it"
            )
        mode = "train" if training else "eval"
        raise TraceError(
            f"the record of {type(model).__name__} differs from the model in {mode}: "
            f"{'; '.join(differences)}; keep the part that does it closed with opaque=[its path]"
        )


def _outputs(module: nn.Module, args: Any, kwargs: Mapping[str, Any], training: bool) -> Any:
    args, kwargs = _copies((tuple(args), dict(kwargs)))
    with preserved(module), torch.no_grad():
        set_mode(module, training)
        torch.manual_seed(0)
        return module(*args, **kwargs)


def _copies(value: Any) -> Any:
    """Copy tensors, since a model may write to its inputs."""
    return pytree.tree_map_only(torch.Tensor, lambda t: t.detach().clone(), value)


def _run_differences(
    model: nn.Module, network: nn.Module, args: Any, kwargs: Mapping[str, Any], training: bool
) -> list[str]:
    results = []
    for module in (model, network):
        with preserved(module):
            set_mode(module, training)
            torch.manual_seed(0)
            given, named = _copies((args, kwargs))
            try:
                output = module(*given, **named)
            except Exception as error:
                return [f"{type(module).__name__} fails: {type(error).__name__}: {error}"]
            buffers = {path: b.detach().clone() for path, b in module.named_buffers()}
            results.append((_copies(output), buffers, _gradients(module, output)))
    (a, a_buffers, a_gradients), (b, b_buffers, b_gradients) = results
    problems = _different("output", a, b)
    for what, first, second in (
        ("buffer", a_buffers, b_buffers),
        ("gradient of", a_gradients, b_gradients),
    ):
        for path in first:
            problems += _different(f"{what} {path}", first[path], second.get(path))
    return problems


def _gradients(module: nn.Module, output: Any) -> dict[str, torch.Tensor | None]:
    leaves = [
        leaf
        for leaf in pytree.tree_leaves(output)
        if isinstance(leaf, torch.Tensor) and leaf.requires_grad
    ]
    named = [(path, p) for path, p in module.named_parameters() if p.requires_grad]
    if not leaves or not named:
        return {}
    weights = [torch.linspace(-1, 1, leaf.numel()).to(leaf).reshape(leaf.shape) for leaf in leaves]
    found = torch.autograd.grad(leaves, [p for _, p in named], weights, allow_unused=True)
    return {path: gradient for (path, _), gradient in zip(named, found, strict=True)}


def _state_differences(model: nn.Module, network: nn.Module) -> list[str]:
    problems = []
    first, second = model.state_dict(), network.state_dict()
    if list(first) != list(second):
        problems.append(f"state keys differ: {sorted(first.keys() ^ second.keys())[:8]}")
    ours = {path: id(p) for path, p in model.named_parameters(remove_duplicate=False)}
    theirs = {path: id(p) for path, p in network.named_parameters(remove_duplicate=False)}
    if ours != theirs:
        problems.append("parameters are not the same objects")
    return problems


def _different(name: str, first: Any, second: Any) -> list[str]:
    """Return what differs; the same calls in the same order give the same bits."""
    ours, layout = pytree.tree_flatten(first)
    theirs, other = pytree.tree_flatten(second)
    if layout != other:
        return [f"{name} has another structure"]
    problems = []
    for index, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
            if a.shape != b.shape or a.dtype != b.dtype:
                problems.append(
                    f"{name} {index} is {list(b.shape)} {b.dtype}, not {list(a.shape)} {a.dtype}"
                )
            elif not torch.equal(torch.nan_to_num(a), torch.nan_to_num(b)):
                problems.append(
                    f"{name} {index} is off by {(a.double() - b.double()).abs().max():.3g}"
                )
        elif a is not b and a != b:
            problems.append(f"{name} {index} is {b!r}, not {a!r}")
    return problems

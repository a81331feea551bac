"""Whether a record computes what the model computes."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from topograph.errors import TraceError
from topograph.tracing.inputs import Inputs, batch_size, with_batch
from topograph.tracing.preserve import preserved, seed, set_mode
from topograph.tracing.recording import Recording
from topograph.tracing.structure import take_apart

ROUNDING = 128.0  # units in the last place


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


def compare(model: nn.Module, network: nn.Module, recording: Recording) -> None:
    """Raise a `TraceError` unless a record gives the model's outputs in eval and in train.

    What the model returned while it was recorded is kept, so that only the record runs here.
    """
    if recording.counted:
        _refuse_memory(model, recording.outputs[0][1])
    for training, arguments, recorded in recording.outputs:
        first = recorded
        if recording.pretended:  # without a compiler looking on the model may do something else
            first = take_apart(_outputs(model, arguments, training))[0]
        try:
            second = take_apart(_outputs(network, arguments, training))[0]
        except Exception as error:
            raise TraceError(
                f"the record of {type(model).__name__} fails where the model does not: "
                f"{type(error).__name__}: {error}; keep the part that does it closed with "
                "opaque=[its path]"
            ) from error
        differences = _different("output", first, second)
        if not differences:
            continue
        again = take_apart(_outputs(model, arguments, training))[0]
        if _different("output", again, take_apart(_outputs(model, arguments, training))[0]):
            raise _restless(model)
        mode = "train" if training else "eval"
        raise TraceError(
            f"the record of {type(model).__name__} differs from the model in {mode}: "
            f"{'; '.join(differences)}; keep the part that does it closed with opaque=[its path]"
        )


def _refuse_memory(model: nn.Module, arguments: Inputs) -> None:
    """Raise if a model computes with a count of its calls, or with Python's random numbers."""
    results = []
    with preserved(model), torch.no_grad():
        set_mode(model, training=False)
        for _ in range(2):
            given = arguments.copied()
            torch.manual_seed(0)
            results.append(take_apart(model(*given.args, **given.kwargs))[0])
    if _different("output", *results):
        raise _restless(model)


def _restless(model: nn.Module) -> TraceError:
    return TraceError(
        f"{type(model).__name__} gives other outputs on every run with the same inputs and "
        "the same random state; make it deterministic before tracing it"
    )


def _outputs(module: nn.Module, arguments: Inputs, training: bool) -> Any:
    given = arguments.copied()
    with preserved(module), torch.enable_grad():  # as it was recorded: kernels differ otherwise
        set_mode(module, training)
        seed()
        return module(*given.args, **given.kwargs)


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
            seed()
            given, named = _copies((args, kwargs))
            try:
                output = take_apart(module(*given, **named))[0]
            except Exception as error:
                return [f"{type(module).__name__} fails: {type(error).__name__}: {error}"]
            buffers = {path: b.detach().clone() for path, b in module.named_buffers()}
            results.append((_copies(output), buffers, _gradients(module, output)))
    (a, a_buffers, a_gradients), (b, b_buffers, b_gradients) = results
    problems = _different("output", a, b)
    for path in a_buffers:
        problems += _different(f"buffer {path}", a_buffers[path], b_buffers.get(path))
    for path in a_gradients:
        problems += _different(
            f"gradient of {path}", a_gradients[path], b_gradients[path], ROUNDING
        )
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


def _equal(first: torch.Tensor, second: torch.Tensor, rounding: float) -> bool:
    a, b = torch.nan_to_num(first), torch.nan_to_num(second)
    if not rounding or not a.is_floating_point() or not a.numel():
        return torch.equal(a, b)
    return bool((a - b).abs().max() <= rounding * torch.finfo(a.dtype).eps * a.abs().max())


def _different(name: str, first: Any, second: Any, rounding: float = 0.0) -> list[str]:
    """Return what differs by more than some units in the last place of the largest number.

    The same calls in the same order give the same bits; only gradients are summed up in the order
    that autograd chooses.
    """
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
            elif not _equal(a, b, rounding):
                problems.append(
                    f"{name} {index} is off by {(a.double() - b.double()).abs().max():.3g}"
                )
        elif a is not b and a != b:
            problems.append(f"{name} {index} is {b!r}, not {a!r}")
    return problems

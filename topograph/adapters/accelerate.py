"""Growth inside a training loop of Hugging Face's Accelerate."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from topograph.adapters.modules import GROWTH, bare, plain_optimizer
from topograph.errors import SpecError, StoreError
from topograph.growth import Grower
from topograph.growth.growing import Batches
from topograph.growth.within import go_on, regrow, release, state_within
from topograph.rewrite import Revision
from topograph.sensitivity.batches import Loss
from topograph.spec import Policy
from topograph.store import read_tree, write_tree
from topograph.store.database import NAME

try:
    from accelerate import Accelerator
    from accelerate.utils import DistributedType
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"topograph.adapters.accelerate needs accelerate ({error}); "
        "run pip install 'topograph[accelerate]'",
        name=error.name,
    ) from error

ONE_MODEL = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU)


class Grown:
    """A prepared model under growth; made by `grow`.

    Args:
        accelerator: Has prepared the model.
        grower: Grows the model in it.
        model: The prepared model.
        given: What the grower was given.
    """

    def __init__(
        self, accelerator: Accelerator, grower: Grower, model: nn.Module, given: Mapping[str, Any]
    ) -> None:
        self.model = model
        self.grower = grower
        self._accelerator, self._given = accelerator, dict(given)
        self._policy, self._base = grower.policy, grower.traced

    def step(
        self,
        metrics: Mapping[str, float] | None = None,
        *,
        batches: Batches = (),
        progress: bool = False,
    ) -> Revision | None:
        """Take one step of the policy on all processes; see `Grower.step`.

        Afterwards `model` may be another one, prepared as the one before was.
        """
        if self._given["run"] is not None and not self.grower.kept:
            raise StoreError(
                f"{self._given['run']}: holds a run already; call accelerator.load_state before "
                "the first step to go on with it, or choose another path"
            )
        model = self.grower.model
        revision = self.grower.step(metrics, batches=batches, progress=progress)
        if self.grower.model is not model:
            self._prepare()
        return revision

    def close(self, metrics: Mapping[str, float] | None = None) -> None:
        """Write the last weights to the journal and release it."""
        self.grower.close(metrics)

    def _prepare(self) -> None:
        """Put the grower's model in the place of the prepared one, among what is prepared."""
        models = self._accelerator._models  # without what DDP wraps around them
        old = self._accelerator.unwrap_model(self.model)
        place = [model is old for model in models].index(True)
        self.model = self._accelerator.prepare_model(bare(self.grower.model))
        models[place] = models.pop()

    def _save(self, models: Any, weights: Any, folder: str) -> None:
        """Write what `load_state` needs beside what Accelerate writes."""
        if self._accelerator.is_main_process:
            write_tree(Path(folder) / GROWTH, state_within(self.grower))

    def _load(self, models: list[nn.Module], folder: str) -> None:
        """Rebuild the network before Accelerate loads its weights."""
        network = regrow(self._base, read_tree(Path(folder) / GROWTH))
        release(self.grower)
        self.grower = go_on(network, self._policy, **self._given)
        self._prepare()
        models[:] = self._accelerator._models


def grow(
    accelerator: Accelerator,
    policy: Policy,
    model: nn.Module,
    optimizer: Optimizer,
    *,
    loss: Loss,
    example_inputs: Sequence[Any] = (),
    example_kwargs: Mapping[str, Any] | None = None,
    ema: Any = None,
    run: str | Path | None = None,
) -> Grown:
    """Put a model that Accelerate has prepared under growth.

    Train ``grown.model`` and call ``grown.step`` once per epoch, or per whatever the policy counts
    in. The model inside is grown, prepared anew, and takes the old one's place in the accelerator;
    the prepared optimizer goes on with it, and so do its schedulers and data loaders. What
    ``accelerator.save_state`` writes has a folder ``growth``; ``accelerator.load_state`` rebuilds
    the network from it, after the same calls as then, before weights and moments are loaded.

    Args:
        accelerator: Has prepared the model and the optimizer.
        policy: When, where and how far.
        model: The prepared model.
        optimizer: The prepared optimizer; holds the model's parameters.
        loss: From output and target to a scalar, a mean over the batch.
        example_inputs: Positional inputs for tracing.
        example_kwargs: Keyword inputs for tracing.
        ema: An average of the model, if there is one; register it for checkpointing.
        run: Directory for the journal; None keeps nothing.

    Returns:
        The model under growth.

    Raises:
        SpecError: The model is not prepared by this accelerator, or sharded.
        MigrationError: The optimizer does not hold the model's parameters.

    Example:
        >>> import tempfile, torch, topograph as tg
        >>> from accelerate import Accelerator
        >>> from topograph.adapters.accelerate import grow
        >>> accelerator = Accelerator(cpu=True)
        >>> net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
        >>> net, optimizer = accelerator.prepare(net, torch.optim.AdamW(net.parameters()))
        >>> change = tg.InsertLayer(where=tg.after(op="relu"), block=tg.Bottleneck(units=4))
        >>> policy = tg.Policy(trigger=tg.Every(steps=1), candidates=(change,))
        >>> x, y = torch.randn(16, 4), torch.randint(0, 2, (16,))
        >>> grown = grow(accelerator, policy, net, optimizer, loss=nn.functional.cross_entropy,
        ...     example_inputs=(x,))
        >>> len(grown.step(batches=[(x, y)]).plan.changes)
        1

    References:
        https://huggingface.co/docs/accelerate/usage_guides/checkpoint
    """
    if accelerator.distributed_type not in ONE_MODEL:
        raise SpecError(
            f"growth with Accelerate does not go with {accelerator.distributed_type.value}; use "
            "one process, or DDP"
        )
    if not any(accelerator.unwrap_model(model) is known for known in accelerator._models):
        raise SpecError("this accelerator has not prepared the model; pass what prepare returned")
    given: Any = {
        "loss": loss,
        "optimizer": plain_optimizer(optimizer),
        "ema": ema,
        "scaler": accelerator.scaler,
    }
    there = run is not None and accelerator.is_main_process and (Path(run) / NAME).exists()
    told = torch.tensor(int(there), device=accelerator.device)
    begun = bool(accelerator.reduce(told, reduction="sum"))  # then `load_state` is still to come
    grower = Grower(
        bare(accelerator.unwrap_model(model)),
        policy,
        example_inputs=example_inputs,
        example_kwargs=example_kwargs,
        run=None if begun else run,
        save=None,
        **given,
    )
    grown = Grown(accelerator, grower, model, {**given, "run": run})
    accelerator.register_save_state_pre_hook(grown._save)
    accelerator.register_load_state_pre_hook(grown._load)
    return grown

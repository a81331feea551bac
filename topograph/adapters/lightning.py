"""Growth inside a Lightning ``Trainer``."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn
from torch.optim import Optimizer

from topograph.adapters.modules import few
from topograph.errors import MigrationError, SpecError
from topograph.growth import Grower
from topograph.growth.within import Regrown, go_on, paused, regrow, release, state_within
from topograph.sensitivity.batches import Loss
from topograph.spec import Policy
from topograph.tracing import TracedModel, trace
from topograph.training.held import held_by

try:
    from lightning.pytorch import Callback, LightningModule, Trainer
    from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"topograph.adapters.lightning needs Lightning 2 ({error}); "
        "run pip install 'topograph[lightning]'",
        name=error.name,
    ) from error

Probe = int | Callable[[], Iterable[tuple[Any, Any]]]


class GrowthCallback(Callback):
    """Grows a network that a LightningModule holds, at the end of training epochs.

    The module's attribute is exchanged for the grown network, the optimizer that holds its
    parameters goes on with them, and a module under DDP is wrapped anew. The trainer's checkpoints
    hold what growth needs, so that ``trainer.fit(module, ckpt_path=...)`` goes on with a base
    module as it was made then: the network is rebuilt before its weights are loaded.

    Args:
        policy: When, where and how far; its steps are training epochs, its metrics those that the
            module logs.
        loss: From the network's output and the target to a scalar, a mean over the batch.
        attribute: Where the module holds the network.
        example_inputs: For tracing; None takes two samples of the first training batch.
        probe: How many of an epoch's first training batches to keep for scoring, each a pair of
            inputs and target; or a function that makes batches.
        run: Directory for the journal; None keeps nothing.

    Raises:
        SpecError: The trainer's strategy or the module's attribute will not do.
        MigrationError: Not exactly one optimizer holds parameters of the network.

    Example:
        >>> import topograph as tg
        >>> from topograph.adapters.lightning import GrowthCallback
        >>> wider = tg.WidenLayer(where=tg.named("fc1"), to=64)
        >>> policy = tg.Policy(trigger=tg.Every(steps=5), candidates=(wider,), scorer="none")
        >>> callback = GrowthCallback(policy, loss=nn.functional.cross_entropy, attribute="model")
        >>> callback.grower is None  # until training begins
        True

    References:
        https://lightning.ai/docs/pytorch/stable/extensions/callbacks.html
    """

    def __init__(
        self,
        policy: Policy,
        *,
        loss: Loss,
        attribute: str = "net",
        example_inputs: Sequence[Any] | None = None,
        probe: Probe = 4,
        run: str | Path | None = None,
    ) -> None:
        self.policy = policy
        self.grower: Grower | None = None
        self._loss, self._attribute, self._probe, self._run = loss, attribute, probe, run
        self._inputs = None if example_inputs is None else tuple(example_inputs)
        self._base: TracedModel | None = None
        self._network: Regrown | None = None
        self._kept: list[Any] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Look at the trainer; have the network rebuilt before a checkpoint's weights load."""
        if not isinstance(trainer.strategy, SingleDeviceStrategy | DDPStrategy):
            raise SpecError(
                f"growth under {type(trainer.strategy).__name__} is not supported; "
                'use strategy="ddp", or one device'
            )
        if not isinstance(getattr(pl_module, self._attribute, None), nn.Module):
            raise SpecError(
                f"{type(pl_module).__name__} holds no network in its attribute "
                f"{self._attribute!r}; give attribute= the name of the one to grow"
            )
        own = pl_module.on_load_checkpoint

        def on_load_checkpoint(checkpoint: dict[str, Any]) -> None:
            self._rebuild(pl_module, checkpoint.get("callbacks", {}).get(self.state_key))
            own(checkpoint)

        # Lightning asks callbacks only once the weights are loaded, and the module just before
        pl_module.__dict__["on_load_checkpoint"] = on_load_checkpoint

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Go on with a rebuilt network; its optimizer's moments are loaded after this."""
        if self._network is not None:
            self.grower = go_on(self._network, self.policy, **self._given(trainer, pl_module))
            self._network = None
        elif self._inputs is not None:
            self._begin(trainer, pl_module)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Keep the epoch's first batches."""
        if self._inputs is None:
            self._inputs = (few(_pair(batch)[0]),)
        if self.grower is None:
            self._begin(trainer, pl_module)
        if isinstance(self._probe, int):
            if batch_idx == 0:
                self._kept.clear()
            if len(self._kept) < self._probe:
                self._kept.append(_pair(batch))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take one step of the policy."""
        assert self.grower is not None
        model = self.grower.model
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        batches = self._kept if isinstance(self._probe, int) else self._probe
        self.grower.step(metrics, batches=batches)
        if self.grower.model is not model:
            setattr(pl_module, self._attribute, self.grower.model)
            if isinstance(trainer.strategy, DDPStrategy):
                trainer.strategy.model = trainer.strategy._setup_model(pl_module)

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint must hold beside the trainer's own."""
        if self.grower is None:
            return {}
        return {"growth": state_within(self.grower), "inputs": self._inputs}

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write the last weights to the journal and release it."""
        pl_module.__dict__.pop("on_load_checkpoint", None)
        if stage == "fit" and self.grower is not None:
            self._network = paused(self.grower)
            self.grower.close()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Release the journal."""
        pl_module.__dict__.pop("on_load_checkpoint", None)
        if self.grower is not None:
            release(self.grower)

    def _begin(self, trainer: Trainer, pl_module: LightningModule) -> None:
        inputs = trainer.strategy.batch_to_device(self._inputs)
        net = getattr(pl_module, self._attribute)
        given = self._given(trainer, pl_module)
        self.grower = Grower(net, self.policy, example_inputs=inputs, save=None, **given)
        self._base = self.grower.traced

    def _rebuild(self, pl_module: LightningModule, state: Mapping[str, Any] | None) -> None:
        if not state:
            return
        self._inputs = tuple(state["inputs"])
        if self._base is None:
            self._base = trace(getattr(pl_module, self._attribute), self._inputs)
        self._network = regrow(self._base, state["growth"])
        setattr(pl_module, self._attribute, self._network.model)

    def _given(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """Return what a grower needs of the trainer."""
        return {
            "loss": self._loss,
            "optimizer": _optimizer(trainer, getattr(pl_module, self._attribute)),
            "scaler": getattr(trainer.precision_plugin, "scaler", None),
            "run": self._run,
        }


def _optimizer(trainer: Trainer, net: nn.Module) -> Optimizer:
    """Return the optimizer that holds a network's parameters."""
    named = dict(net.named_parameters())
    holds = [optimizer for optimizer in trainer.optimizers if held_by(optimizer, named)]
    if len(holds) != 1:
        raise MigrationError(
            f"{len(holds)} of the module's {len(trainer.optimizers)} optimizers hold parameters "
            "of the network that is to grow; return exactly one from configure_optimizers"
        )
    return holds[0]


def _pair(batch: Any) -> tuple[Any, Any]:
    if not isinstance(batch, tuple | list) or len(batch) != 2:
        raise SpecError(
            f"a training batch is a {type(batch).__name__}, not a pair of inputs and target; give "
            "probe= a function that makes such pairs, and example_inputs="
        )
    return batch[0], batch[1]

"""Growth inside the ``Trainer`` of Hugging Face's transformers."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Self

from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from torch.utils.data import IterableDataset

from topograph.adapters.modules import GROWTH, bare, become, few, plain_optimizer
from topograph.errors import SpecError
from topograph.growth import Grower
from topograph.growth.within import Regrown, go_on, paused, regrow, release, state_within
from topograph.sensitivity.batches import Loss
from topograph.spec import Policy
from topograph.store import read_tree, write_tree
from topograph.tracing import TracedModel, trace
from topograph.training.held import hold

try:
    import accelerate  # noqa: F401  the Trainer needs it
    from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState
    from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, IntervalStrategy
    from transformers.training_args import ParallelMode, TrainingArguments
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"topograph.adapters.transformers needs transformers 5 and accelerate ({error}); "
        "run pip install 'topograph[transformers]'",
        name=error.name,
    ) from error

Batch = Mapping[str, Any]
Probe = int | Callable[[], Iterable[Batch]]


class GrowthCallback(TrainerCallback):
    """Grows the model of a ``Trainer`` after each evaluation, or epoch where there is none.

    The trainer's model stays the same object and, where only submodules are edited, of the same
    class, with ``save_pretrained`` and ``generate``; it takes the grown structure over. New
    parameters join a group of the optimizer, so that the schedule goes on. Every checkpoint has a
    folder ``growth``; ``trainer.train(resume_from_checkpoint=...)`` rebuilds the network from it
    before weights and moments are loaded.

    Args:
        policy: When, where and how far; its steps are evaluations, its metrics those of
            `Trainer.evaluate`, or what was logged last.
        loss: From the model's output and the batch's labels to a scalar, a mean over the batch;
            None takes the model's own.
        probe: How many batches of the training set, from its beginning, to score on; or a function
            that makes batches, each a dict of the model's inputs.
        run: Directory for the journal; None keeps nothing.

    Raises:
        SpecError: The trainer trains in a way that growth does not support.
        CorruptError: A checkpoint has no growth, or a damaged one.

    Example:
        >>> import topograph as tg
        >>> from topograph.adapters.transformers import GrowthCallback
        >>> change = tg.InsertLayer(where=tg.after(op="gelu"), block=tg.Bottleneck(units=8))
        >>> policy = tg.Policy(trigger=tg.Every(steps=5), candidates=(change,))
        >>> growth = GrowthCallback(policy, run="runs/a")  # then growth.attach(trainer)
        >>> growth.grower is None  # until training begins
        True

    References:
        https://huggingface.co/docs/transformers/main_classes/callback
    """

    def __init__(
        self,
        policy: Policy,
        *,
        loss: Loss | None = None,
        probe: Probe = 4,
        run: str | Path | None = None,
    ) -> None:
        self.policy = policy
        self.grower: Grower | None = None
        self._loss, self._probe, self._run = loss or own_loss, probe, run
        self._trainer: Any = None
        self._base: TracedModel | None = None
        self._network: Regrown | None = None
        self._inputs: Batch = {}
        self._step = 0  # of the trainer, when the policy's last was

    def attach(self, trainer: Trainer) -> Self:
        """Join a trainer: a callback does not see it, and weights load before a callback is asked.

        Args:
            trainer: Its callbacks get this one; from now on it makes its optimizer for, and loads
                checkpoints into, the network as it was then.

        Returns:
            This callback.

        Raises:
            SpecError: It trains in a way that growth does not support.
        """
        _check(trainer)
        trainer.add_callback(self)
        held: Any = trainer
        self._trainer = held
        load, create = held._load_from_checkpoint, held.create_optimizer

        def _load_from_checkpoint(folder: str, *rest: Any) -> Any:
            self._rebuild(Path(folder) / GROWTH)
            return load(folder, *rest)

        def create_optimizer(*given: Any, **named: Any) -> Optimizer:
            optimizer = create(*given, **named)
            if self._network is not None:
                groups = self._network.state["groups"]
                hold(plain_optimizer(optimizer), groups, self._network.traced.module)
            return optimizer

        held._load_from_checkpoint = _load_from_checkpoint
        held.create_optimizer = create_optimizer
        return self

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Put the model under growth, or go on with it."""
        trainer = self._attached()
        if self.grower is not None:  # the last training may have failed
            release(self.grower)
        given = {
            "loss": self._loss,
            "optimizer": plain_optimizer(trainer.optimizer),
            "scaler": trainer.accelerator.scaler,
            "run": self._run,
        }
        if self._network is not None:
            self.grower, self._network = go_on(self._network, self.policy, **given), None
            self._step = min(self._step, state.global_step)  # a new training counts from 0
            return
        self._step = state.global_step
        self._inputs = few(self._batches()[0][0])
        inputs = trainer._prepare_inputs(self._inputs)
        self.grower = Grower(
            bare(trainer.model), self.policy, example_kwargs=inputs, save=None, **given
        )
        self._base = self.grower.traced

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **given: Any,
    ) -> None:
        """Take one step of the policy."""
        if self._attached().is_in_train and state.global_step > self._step:
            self._take_step(state, given["metrics"])

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Take one step of the policy where nothing is evaluated."""
        if args.eval_strategy == IntervalStrategy.NO:
            self._take_step(state, state.log_history[-1] if state.log_history else {})

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Write the folder that the checkpoint of this step needs to be rebuilt."""
        if args.should_save and self.grower is not None:
            checkpoint = Path(str(args.output_dir)) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"
            growth = state_within(self.grower)
            tree = {"growth": growth, "inputs": self._inputs, "step": self._step}
            write_tree(checkpoint / GROWTH, tree)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Write the last weights to the journal and release it."""
        assert self.grower is not None
        self._network = paused(self.grower)
        self.grower.close()

    def _take_step(self, state: TrainerState, metrics: Mapping[str, Any]) -> None:
        trainer, grower = self._attached(), self.grower
        assert grower is not None
        self._step, model = state.global_step, grower.model
        numbers = {
            name: float(value) for name, value in metrics.items() if isinstance(value, int | float)
        }
        grower.step(numbers, batches=self._batches)
        if grower.model is not model:
            self._take_over(trainer, grower.model)

    def _take_over(self, trainer: Any, grown: nn.Module) -> None:
        """Make the trainer's model what it has grown to; its loop holds the same objects."""
        become(trainer.model, grown)
        accelerator = trainer.accelerator
        wrapped = accelerator.prepare_model(trainer.model)
        accelerator._models.pop()  # the trainer's own is there already
        if isinstance(trainer.model_wrapped, DistributedDataParallel):
            become(trainer.model_wrapped, wrapped)
        trainer.model_wrapped._is_accelerate_prepared = True

    def _rebuild(self, folder: Path) -> None:
        trainer = self._attached()
        saved = read_tree(folder)
        self._inputs, self._step = saved["inputs"], saved["step"]
        if self._base is None:
            inputs = trainer._prepare_inputs(self._inputs)
            self._base = trace(bare(trainer.model), (), inputs)
        self._network = regrow(self._base, saved["growth"])
        become(trainer.model, self._network.model)

    def _batches(self) -> list[tuple[Any, Any]]:
        """Return the probe batches of this process, where the model is."""
        trainer = self._attached()
        found = self._probe() if callable(self._probe) else _beginning(trainer, self._probe)
        batches = [trainer._prepare_inputs(dict(batch)) for batch in found]
        return [(batch, batch.get("labels")) for batch in batches]

    def _attached(self) -> Any:
        if self._trainer is None:
            raise SpecError(
                "the callback was given to a Trainer that it is not attached to; leave it out of "
                "callbacks= and call GrowthCallback(...).attach(trainer)"
            )
        return self._trainer


def own_loss(output: Any, target: Any) -> Tensor:
    """Return the loss that a model computes itself."""
    loss: Tensor = output["loss"] if isinstance(output, Mapping) else output[0]
    return loss


def _beginning(trainer: Any, count: int) -> list[Batch]:
    """Return the first batches of the training set, a rank's own ones of each."""
    data, size = trainer.train_dataset, trainer.args.train_batch_size
    if data is None or isinstance(data, IterableDataset):
        raise SpecError(
            f"the training set is a {type(data).__name__}, which cannot be indexed; give probe= a "
            "function that makes batches"
        )
    first, ranks = trainer.args.process_index, trainer.args.world_size
    starts = range(first * size, len(data), ranks * size)[:count]
    return [
        trainer.data_collator([data[i] for i in range(at, min(at + size, len(data)))])
        for at in starts
    ]


def _check(trainer: Any) -> None:
    args = trainer.args
    reasons = {
        "DeepSpeed": trainer.is_deepspeed_enabled,
        "FSDP": trainer.is_fsdp_enabled,
        "torch_compile": args.torch_compile,
        "several devices in one process": args.parallel_mode == ParallelMode.NOT_DISTRIBUTED,
        "model_init": trainer.model_init is not None,
        "load_best_model_at_end (the best may be of another network)": args.load_best_model_at_end,
    }
    wrong = [reason for reason, given in reasons.items() if given]
    if wrong:
        raise SpecError(f"growth in a Trainer does not go with {', '.join(wrong)}; turn it off")

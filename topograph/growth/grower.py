"""`Grower`: grows a network while it is trained, as a policy says."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import torch
from torch import nn

from topograph.errors import SpecError, StoreError
from topograph.growth.checks import check_gear, check_policy
from topograph.growth.course import Course, Gear
from topograph.growth.fleet import Fleet
from topograph.growth.growing import Batches, Growing
from topograph.growth.pressing import check_pressure, press
from topograph.growth.resume import resume
from topograph.rewrite import Revision
from topograph.sensitivity.batches import Loss
from topograph.spec import Decision, Growth, Policy
from topograph.store import Run
from topograph.tracing import TracedModel, trace
from topograph.training.parallel import How
from topograph.training.ranks import TIMEOUT, Ranks
from topograph.training.recompile import Backend


class Grower:
    """Grows a network in the middle of its training.

    Call `step` once per epoch, or per whatever the policy counts in. When a rule's trigger says so,
    its candidates are scored on the probe batches, the best are planned, applied and started, and
    the optimizer, its scheduler and averages are carried along. Train `model`, which is a new
    module after every change.

    With a run directory every call of `step` also saves all that training needs to go on, so that
    a killed run is continued by `resume`, bit for bit.

    Args:
        model: The network to grow; its parameters stay the same objects.
        policy: When, where and how far.
        example_inputs: Positional inputs for tracing.
        example_kwargs: Keyword inputs for tracing.
        loss: From output and target to a scalar, a mean over the batch.
        optimizer: Holds the model's parameters.
        scheduler: Drives the optimizer, if there is one.
        ema: An average of the model, if there is one.
        scaler: A ``GradScaler``, if there is one.
        carry: What else a resumed run must have as it was, by name: the ``torch.Generator`` of a
            data loader, or anything with a state dict.
        run: Directory for the journal; None keeps nothing.
        save: Calls of `step` from one saved state to the next; every change is saved at once. None
            saves none: a trainer's own checkpoints keep the state.
        source: Where the model comes from, e.g. ``pkg.mod:make_model``; shown in the journal.
        backend: See `recompile`.
        parallel: Where ``torch.distributed`` runs: ``ddp`` or ``fsdp2`` wrap `model` for all ranks,
            anew after every change, for ``fsdp2`` after every step; None leaves it as it is. All
            ranks make the grower and call its methods alike; the metrics are rank 0's, the probe
            batches each rank's own, and only rank 0 writes.
        timeout: Seconds that the ranks wait for each other within a growth.

    Raises:
        TraceError: The model cannot be traced.
        RefusedError: A rule's candidates can be scored nowhere; carries the reasons.
        MigrationError: The optimizer does not hold the model's parameters.
        RankError: A rank differs, fails, is late or gone; all ranks raise it, also later.

    Example:
        >>> import topograph as tg, torch
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> change = tg.InsertLayer(where=tg.after(op="relu"), block=tg.Bottleneck(units=4))
        >>> policy = tg.Policy(trigger=tg.Every(steps=1), candidates=(change,))
        >>> x, y = torch.randn(16, 4), torch.randint(0, 2, (16,))
        >>> optimizer = torch.optim.SGD(model.parameters())
        >>> grower = tg.Grower(model, policy, example_inputs=(x,), optimizer=optimizer,
        ...     loss=nn.functional.cross_entropy)
        >>> len(grower.step(batches=[(x, y)]).plan.changes)
        1

    References:
        Krishnanunni, Bui-Thanh, Dawson, arXiv:2502.06885.
    """

    def __init__(
        self,
        model: nn.Module,
        policy: Policy,
        *,
        example_inputs: Sequence[Any] = (),
        example_kwargs: Mapping[str, Any] | None = None,
        loss: Loss,
        optimizer: torch.optim.Optimizer,
        scheduler: Any = None,
        ema: Any = None,
        scaler: Any = None,
        carry: Mapping[str, Any] | None = None,
        run: str | Path | None = None,
        save: int | None = 1,
        source: str | None = None,
        backend: Backend = "eager",
        parallel: How | None = None,
        timeout: float = TIMEOUT,
    ) -> None:
        companions = {"scheduler": scheduler, "ema": ema, "scaler": scaler}
        gear = Gear(optimizer, companions, dict(carry or {}))
        if save is not None and save < 1:
            raise SpecError(f"save is {save!r}; give at least 1, or None to save no states")
        fleet = Fleet(Ranks.meet(timeout), parallel)
        with fleet.ranks.together("starting"):
            traced = trace(model, example_inputs, example_kwargs)
            check_policy(traced, policy)
            check_gear(traced, gear)
            check_pressure(policy, gear, sharded=parallel == "fsdp2" and not fleet.alone)
            fleet.begin(traced, policy, gear, backend)
            self._growing = Growing(
                policy=policy,
                traced=traced,
                model=traced.kept,
                course=Course.begin(policy),
                gear=gear,
                loss=loss,
                backend=backend,
                save=save,
                clock=time.perf_counter(),
                fleet=fleet,
            )
            if run is not None:
                name = source or f"{type(model).__module__}:{type(model).__qualname__}"
                fleet.writing(lambda: self._growing.begin(run, name))
            self._growing.model = fleet.spread(traced, gear, backend)
            press(traced, policy, self._growing.course.grown, gear)

    @classmethod
    def resume(
        cls,
        run: str | Path,
        model: nn.Module,
        *,
        example_inputs: Sequence[Any] = (),
        example_kwargs: Mapping[str, Any] | None = None,
        **others: Any,
    ) -> Self:
        """Go on with a run that was killed, or closed, where its last saved state is.

        Network, optimizer, scheduler, averages, random numbers and triggers are as they were after
        the call of `step` that was saved last, bit for bit; `steps` says which that was.

        Args:
            run: The run directory; the policy is the one that it holds.
            model: The base model, made as it was made then; its weights do not matter.
            example_inputs: As then.
            example_kwargs: As then.
            others: ``loss``, ``optimizer``, ``scheduler``, ``ema``, ``scaler``, ``carry``,
                ``save``, ``backend``, ``parallel`` and ``timeout``, as for `Grower`; made for the
                base model, as they were then.

        Returns:
            The grower; train ``grower.model`` from step ``grower.steps`` on.

        Raises:
            StoreError: There is no such run, no state in it, or it was undone since.
            CorruptError: A file is damaged, or of another run.
            DriftError: The model is not the base model.
            MigrationError: The optimizer or scheduler is not of the kind it was.

        Example:
            >>> import tempfile, topograph as tg, torch
            >>> def parts():
            ...     net = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU())
            ...     return net, torch.optim.Adam(net.parameters())
            >>> change = tg.InsertLayer(where=tg.after(op="relu"), block=tg.Bottleneck(units=4))
            >>> policy = tg.Policy(trigger=tg.Every(steps=9), candidates=(change,))
            >>> net, optimizer = parts()
            >>> place, given = tempfile.mkdtemp() + "/a", {"loss": torch.nn.functional.mse_loss,
            ...     "example_inputs": (torch.zeros(2, 4),)}
            >>> with tg.Grower(net, policy, optimizer=optimizer, run=place, **given) as grower:
            ...     grower.step()
            >>> net, optimizer = parts()
            >>> with tg.Grower.resume(place, net, optimizer=optimizer, **given) as grower:
            ...     grower.steps
            1

        References:
            https://docs.pytorch.org/tutorials/beginner/saving_loading_models.html
        """
        if not (Path(run) / "journal.sqlite").exists():
            raise StoreError(f"{run}: holds no run to go on with; check the path")
        policy = Policy.load(Path(run) / "policy.json")
        inputs: dict[str, Any] = {
            "example_inputs": example_inputs,
            "example_kwargs": example_kwargs,
        }
        grower = cls(model, policy, **inputs, **others)
        resume(grower._growing, run, model, inputs)
        return grower

    @property
    def model(self) -> nn.Module:
        """The network to train; a new module after every change."""
        return self._growing.model

    @property
    def traced(self) -> TracedModel:
        """The same network with its topology."""
        return self._growing.traced

    @property
    def policy(self) -> Policy:
        """When, where and how far it grows."""
        return self._growing.policy

    @property
    def fleet(self) -> Fleet:
        """The ranks that grow the network together; one, where this is the only process."""
        return self._growing.fleet

    @property
    def run(self) -> Run | None:
        """The journal, while it is open; None on ranks other than 0."""
        return self._growing.run

    @property
    def kept(self) -> bool:
        """Whether there is a journal, here or on rank 0."""
        return self._growing.kept

    @property
    def decision(self) -> Decision | None:
        """Why the last call of `step` changed the network, or did not; None before the first."""
        return self._growing.decision

    @property
    def growth(self) -> Growth | None:
        """Why and how it grew the last time; None before the first."""
        return self._growing.growth

    @property
    def steps(self) -> int:
        """Calls of `step` so far."""
        return self._growing.course.steps

    @property
    def growths(self) -> int:
        """How many times the network has grown; growths that were taken back count."""
        return sum(self._growing.course.grown)

    @property
    def seconds(self) -> tuple[float, float]:
        """Seconds spent in all and on growth up to the last call of `step`, over all resumes."""
        return self._growing.course.elapsed, self._growing.course.growing

    def step(
        self,
        metrics: Mapping[str, float] | None = None,
        *,
        batches: Batches = (),
        progress: bool = False,
    ) -> Revision | None:
        """Tell the policy how training goes; grow if it is time.

        Args:
            metrics: What was measured since the last step, by name; rules watch some of them.
            batches: Probe batches of inputs and target to score on, or a function that makes them;
                only read when it is time to grow.
            progress: Whether to show a bar while scoring.

        Returns:
            The revision, or None where nothing grew; `decision` says why. A growth that is taken
            back returns None, too, and `model` is another one.

        Raises:
            SpecError: A watched metric is missing.
            NonFiniteError: A metric, the loss or a score is not finite; nothing was changed.
            ShapeError: It is time to grow and there are no batches, or too few.
            MigrationError: The optimizer cannot be carried along; nothing was changed.
            StoreError: The journal cannot be written, or was closed; nothing was changed.

        Example:
            >>> import topograph as tg
            >>> "step" in dir(tg.Grower)
            True

        References:
            https://docs.pytorch.org/docs/stable/optim.html
        """
        return self._growing.step({} if metrics is None else metrics, batches, progress)

    def close(self, metrics: Mapping[str, float] | None = None) -> None:
        """Write the last weights to the journal and release the run directory."""
        self._growing.end(dict(metrics or {}))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self.close()
        elif self.run is not None:
            self.run.close()

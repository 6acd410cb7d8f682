"""Ray with the hooks installed, for one run or for successive runs that share engines and actors."""

import argparse
import importlib
import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from openrlhf_sfpo.checkpoints.directory import Checkpoint
from openrlhf_sfpo.cluster import mailbox as events
from openrlhf_sfpo.cluster.failures import reason
from openrlhf_sfpo.cluster.recovery import may_recover
from openrlhf_sfpo.cluster.start import start_ray, stop_ray
from openrlhf_sfpo.cluster.watchdog import Watchdog
from openrlhf_sfpo.config.device_defaults import resolve_device_defaults
from openrlhf_sfpo.config.namespaces import NestedFlags, nested
from openrlhf_sfpo.config.placement import engines_share_gpus
from openrlhf_sfpo.config.stored_settings import as_asked
from openrlhf_sfpo.orchestration import hooks
from openrlhf_sfpo.orchestration.worker_reuse import ReusedWorkers, can_follow
from openrlhf_sfpo.report.console import Console
from openrlhf_sfpo.report.run_writer import RunWriter
from openrlhf_sfpo.report.status import StatusFile
from openrlhf_sfpo.runs.listener import Listener, stack_of
from openrlhf_sfpo.runs.openrlhf_arguments import for_openrlhf
from openrlhf_sfpo.system import flash_attn_stub
from openrlhf_sfpo.system.replaced_names import REPLACEMENTS
from openrlhf_sfpo.system.replacements import replaced
from openrlhf_sfpo.system.run_errors import EngineStartFailed, StepHung
from openrlhf_sfpo.system.stopping import Stopping, hangups_blocked


class Session:
    """A context manager around runs.

    Args:
        keep: let a run reuse the previous run's engines and actors if its flags allow that, with weights, optimizers
            and random numbers reset.
        stopping: requests to stop the run; by default, none.

    Attributes:
        was_training: whether the last run had begun training when it ended with an exception.
    """

    def __init__(self, keep: bool = False, stopping: Stopping | None = None) -> None:
        self._keep = keep
        self.stopping = stopping or Stopping()
        self._stack = ExitStack()
        self._previous: dict[str, Any] | None = None
        self._device = ""
        self.was_training = False  # when the last run ended
        self._mailbox: Any = None  # created at the first run's start, with the hooks

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, *exc: Any) -> None:
        self.close()

    def prepare(self, flat: argparse.Namespace) -> bool:
        """Start Ray for a run, and fill in the flags that depend on the device.

        Returns:
            Whether the run reuses the previous run's engines and actors.

        Raises:
            UsageError: Ray has fewer GPUs than the flags ask for, or the device does not fit.
            StopRequested: the process was asked to stop.
        """
        asked = dict(vars(flat))
        follows = self._keep and self._previous is not None and can_follow(self._previous, asked)
        if not follows:
            self.close()
            # Import it before the threads start: a second importing thread would see it half imported.
            importlib.import_module("ray._private.utils")
            self._stack.callback(stop_ray)
            flash_attn_stub.install_if_missing()
            checked = _InBackground(hooks.check_signatures)  # both take seconds; Ray starts in other processes
            self._device = self._start_ray(nested(flat))
            checked.result()
        self._previous = asked
        resolve_device_defaults(vars(flat), self._device)
        return follows

    def _start_ray(self, args: NestedFlags) -> str:
        # Ray would install a SIGTERM handler that exits at once, several times during its start.
        handler = REPLACEMENTS["ray._private.utils.set_sigterm_handler"]
        with hangups_blocked(), ExitStack() as stack:
            if self.stopping.is_installed:
                stack.enter_context(replaced(handler, lambda sigterm_handler: None))
            device = start_ray(args)
        self.stopping.take_back()
        return device

    @property
    def device(self) -> str:
        """The actor's device, "cpu" or "cuda", after `prepare`."""
        return self._device

    def train(
        self,
        flat: argparse.Namespace,
        directory: Path,
        console: Console,
        total_steps: int | None,
        checkpoint: Checkpoint | None = None,
        status: StatusFile | None = None,
    ) -> None:
        """Run what `prepare` prepared. Exceptions of OpenRLHF and its workers pass through; the workers are then not
        reused.

        Args:
            flat: the flags.
            directory: the run directory.
            console: prints progress.
            total_steps: the whole run's number of steps, if known.
            checkpoint: the checkpoint to continue from.
            status: the run's status file; by default a new one.

        Raises:
            StepHung: no rank made progress for --train.timeout.
            EngineStartFailed: with vLLM's own reason.
            WorkerLost: the workers' messages no longer arrive.
        """
        values = vars(flat)
        step = checkpoint.step if checkpoint else 0
        self.was_training = False
        writer = RunWriter(directory, as_asked(values), step, status)
        for path in writer.set_aside:
            console.say(f"steps after {step} are repeated; the lines of the earlier attempt are in {path.name}")
        listener = None
        try:
            with self.stopping.deferred():
                is_new = self._mailbox is None
                self._install_hooks(values)
                watchdog = Watchdog(values["train.timeout"], directory / "logs" / "stacks.txt", stack_of)
                listener = Listener(
                    watchdog,
                    writer,
                    console,
                    self.stopping,
                    total_steps,
                    values["train.grace_seconds"],
                    continues_after=step,
                    asynchronous=values["train.async_enable"],
                )
                with listener.listening(self._mailbox, is_new):
                    hooks.run_openrlhf(for_openrlhf(flat, checkpoint))
                writer.close("finished")
        except BaseException as error:
            self._previous = None  # its workers are in an unknown state
            self.was_training = listener is not None and listener.training
            better = self._cause_of_failure(listener, error)
            ended = self.stopping.requested is not None or isinstance(better, KeyboardInterrupt)
            writer.close("interrupted" if ended else "failed", None if ended else reason(better))
            if better is not error:
                raise better from None
            raise

    def _cause_of_failure(self, listener: Listener | None, error: BaseException) -> BaseException:
        """The failure, or the listener's more precise one: it ends runs with a hang or a lost mailbox itself, and
        engines report to it why they did not start."""
        if listener is None or self.stopping.requested is not None:
            return error
        if listener.hung is not None:
            return StepHung(listener.hung)
        if listener.lost is not None:
            return listener.lost
        if listener.starts.failure is not None and not may_recover(error):
            return EngineStartFailed(listener.starts.failure)
        return error

    def close(self) -> None:
        """Stop the workers, and Ray if this session started it."""
        self._previous = None
        self._mailbox = None
        self._stack.close()

    def _install_hooks(self, values: dict[str, Any]) -> None:
        if self._mailbox is not None:
            return
        from openrlhf_sfpo.orchestration.engine import EngineClass, engine_env
        from openrlhf_sfpo.rollout.weight_sync import backend_for

        engine = EngineClass(
            engine_env(self._device, eager=values["vllm.enforce_eager"]),
            device=self._device,
            weight_backend=backend_for(self._device, engines_share_gpus(nested(argparse.Namespace(**values)))),
            sleep_level=values["vllm.sleep_level"],
            kv_cache_bytes=values["run.kv_cache_mb"] * 1024 * 1024,
            engine_dtype=values["run.engine_dtype"],
            response_seed=values["train.seed"] if values["rollout.deterministic"] else None,
            finite_rewards=False,  # our trainer checks them
            reward_timeout=values["run.reward_timeout"],
        )
        reused = ReusedWorkers() if self._keep else None
        self._stack.enter_context(hooks.installed(values["actor.backend"], engine, reused))
        self._mailbox = self._stack.enter_context(events.mailbox())


class _InBackground:
    """A call in a daemon thread, which does not keep the process alive as an executor's would.

    Args:
        function: the function to call.
    """

    def __init__(self, function: Callable[[], Any]) -> None:
        self._error: BaseException | None = None
        self._function = function
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def result(self) -> None:
        """Wait until the call has ended, and re-raise its exception."""
        self._thread.join()
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            self._function()
        except BaseException as error:
            self._error = error

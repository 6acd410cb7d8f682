"""The ways in which a run ends early or a step of it fails, as exceptions."""


class Stopped(Exception):
    """The run ends because it was asked to stop. The message says after which step, and whether a checkpoint is saved;
    it is empty if raised during a rollout, which is discarded before the checkpoint is saved."""


class NonFiniteUpdate(ArithmeticError):
    """A loss or a gradient norm is NaN or infinite. Raised on all ranks, before the optimizer step."""


class NonFiniteBatch(RuntimeError):
    """A reward, loss or gradient norm is not finite, and --train.on_nonfinite is stop."""


class EngineMismatch(RuntimeError):
    """The engines' log-probabilities of their own samples differ from the actor's; the message says by how much and
    what to check. Raised before the update."""


class StepHung(RuntimeError):
    """No rank made progress for too long; the message says where each of them is."""


class WeightSyncFailed(RuntimeError):
    """An engine died or hung while the weights were sent to it; the message says which call it did not answer."""


class EngineStartFailed(RuntimeError):
    """A vLLM engine could not start; the message says which one and why, in one line."""


class WorkerLost(RuntimeError):
    """A process that the run needs is gone; the message says which one."""


WEIGHT_SYNC_HINT = (
    "What the engines did is in their logs in Ray's session directory. If they wait as well, look at the network "
    "between them and the actor: NCCL_SOCKET_IFNAME must name an interface that all machines share; NCCL_DEBUG=INFO "
    "shows more."
)

"""The parts of OpenRLHF's classes that this package uses, for the type checker; never imported at run time.

OpenRLHF has no types, and its Ray actor classes are not classes. mypy would treat subclasses of them as Any, and find
neither a misspelled `super()` call nor a missing attribute. So each class that is subclassed, or handled by a subclass,
is declared here with exactly the attributes and methods that are used, as in OpenRLHF 0.11.2.
`tests/unit/test_openrlhf_types.py` compares the declarations with the installed version.
"""

# mypy: disable-error-code="empty-body"

from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import torch

from openrlhf_sfpo.config.namespaces import HoldsFlags, NestedFlags
from openrlhf_sfpo.rollout.engine_handle import EngineHandle

if TYPE_CHECKING:
    from deepspeed import DeepSpeedEngine
    from torch.distributed.device_mesh import DeviceMesh
    from transformers import PreTrainedModel, PreTrainedTokenizerBase
    from vllm import RequestOutput, SamplingParams

# Data sources, prompts, labels and images.
PromptBatch: TypeAlias = tuple[list[str], list[str], list[str], list[Any]]


@dataclass
class Experience:
    sequences: torch.Tensor
    attention_mask: torch.Tensor
    action_mask: torch.Tensor
    prompts: list[str]
    labels: list[str]
    truncated: torch.Tensor
    response_length: torch.Tensor
    total_length: torch.Tensor
    images: list[Any] = field(default_factory=list)
    mm_train_inputs: list[Any] = field(default_factory=list)
    info: dict[str, Any] = field(default_factory=dict)
    action_log_probs: torch.Tensor | None = None
    base_action_log_probs: torch.Tensor | None = None
    rollout_log_probs: torch.Tensor | None = None
    advantages: torch.Tensor | None = None
    rewards: torch.Tensor | None = None
    scores: torch.Tensor | None = None


class PromptDataset:
    prompts: list[str]

    def __len__(self) -> int: ...


class PromptLoader:
    dataset: PromptDataset

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[PromptBatch]: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: dict[str, Any]) -> None: ...


class ResumableData(Protocol):
    """The methods of the prompt loader that OpenRLHF's trainers call."""

    def __len__(self) -> int: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any], /) -> None: ...


class GeneratesSamples(Protocol):
    """The methods of the sample generator that OpenRLHF's trainers call, without evaluation."""

    def generate_samples(self, **generate_kwargs: Any) -> tuple[list[Experience], float | None, int, bool]: ...


class SamplesGenerator:
    args: NestedFlags
    tokenizer: "PreTrainedTokenizerBase"
    vllm_engines: list[EngineHandle]
    prompts_dataloader: PromptLoader
    _dataloader_iter: Iterator[PromptBatch] | None
    _sample_buffer: list[Experience]

    def generate_samples(self, **generate_kwargs: Any) -> tuple[list[Experience], float | None, int, bool]: ...

    def generate_eval_samples(self, **generate_kwargs: Any) -> list[Experience]: ...

    def _generate_vllm(
        self, dataloader_iter: Iterator[PromptBatch], num_prompts: int, dynamic_filtering: bool, **generate_kwargs: Any
    ) -> tuple[list[Experience], int, bool]: ...

    def _dispatch_prompts_to_vllm(
        self, prompts: list[str], labels: list[str], *, images: list[Any] | None = None, **generate_kwargs: Any
    ) -> list[Any]: ...

    def _process_response_into_experience(self, response: dict[str, Any], **generate_kwargs: Any) -> Experience: ...


class KLController:
    value: float


class Logger:
    close: Callable[[], None]


class RayActorGroup:
    def async_run_method(self, method_name: str, *args: Any, **kwargs: Any) -> list[Any]: ...


class BasePPOTrainer:
    args: NestedFlags
    tokenizer: "PreTrainedTokenizerBase"
    actor_model_group: RayActorGroup
    kl_ctl: KLController
    wandb_logger: Logger | None
    tensorboard_logger: Logger | None
    best_eval_metric_key: str
    best_eval_metric_value: float
    _latest_eval_metric_value: float | None

    def fit(self, global_step: int = 0) -> None: ...

    def train_step(self, rollout_samples: list[Experience], global_step: int) -> tuple[dict[str, Any], int]: ...

    def broadcast_to_vllm(self) -> None: ...

    def init_checkpoint_states(self) -> dict[str, Any]: ...

    def restore_best_checkpoint_state(self, checkpoint_states: dict[str, Any]) -> None: ...

    def save_best_checkpoint(
        self, eval_metrics: dict[str, float], global_step: int, client_states: dict[str, Any] | None = None
    ) -> None: ...

    def save_logs_and_checkpoints(
        self, global_step: int, logs_dict: dict[str, Any] | None = None, client_states: dict[str, Any] | None = None
    ) -> None: ...


class PPOTrainer(BasePPOTrainer):
    generate_kwargs: dict[str, Any]
    samples_generator: GeneratesSamples
    prompts_dataloader: ResumableData
    eval_dataloader: PromptLoader | None

    def __init__(
        self,
        pretrain: str,
        strategy: HoldsFlags,
        actor_model_group: RayActorGroup,
        critic_model_group: RayActorGroup | None,
        reward_model_group: RayActorGroup | None,
        reference_model_group: RayActorGroup | None,
        vllm_engines: list[EngineHandle] | None,
        **generate_kwargs: Any,
    ) -> None: ...

    def evaluate(self, global_step: int, **generate_kwargs: Any) -> dict[str, float]: ...


class TrainingActor(BasePPOTrainer):
    def __init__(
        self,
        pretrain: str,
        strategy: HoldsFlags,
        actor_model_group: RayActorGroup,
        critic_model_group: RayActorGroup | None,
        reward_model_group: RayActorGroup | None,
        reference_model_group: RayActorGroup | None,
        vllm_engines: list[EngineHandle] | None,
        *,
        vllm_lock: object,
        rollout_queue: object,
        rollout_slots: object,
    ) -> None: ...


class GenerateSamplesActor:
    samples_generator: GeneratesSamples
    prompts_dataloader: ResumableData
    eval_dataloader: PromptLoader | None
    _last_eval_step: int

    def __init__(
        self,
        pretrain: str,
        strategy: HoldsFlags,
        vllm_engines: list[EngineHandle] | None,
        *,
        vllm_lock: object,
        rollout_queue: object,
        rollout_slots: object,
        **generate_kwargs: Any,
    ) -> None: ...

    def load_state_dict(self, state_dict: dict[str, Any]) -> None: ...

    def _run_eval(self) -> dict[str, float]: ...


class Actor:
    model: "DeepSpeedEngine"

    def register_forward_pre_hook(
        self, hook: Callable[..., Any], *, prepend: bool = False, with_kwargs: bool = False
    ) -> object: ...

    def register_forward_hook(
        self,
        hook: Callable[..., Any],
        *,
        prepend: bool = False,
        with_kwargs: bool = False,
        always_call: bool = False,
    ) -> object: ...


class DeepspeedStrategy:
    args: NestedFlags
    accumulated_gradient: int
    micro_train_batch_size: int
    ds_device_mesh: "DeviceMesh"

    def _unwrap_model(self, model: Actor) -> "PreTrainedModel": ...


class BaseModelActor:
    strategy: HoldsFlags
    _rank: int
    _world_size: int
    _master_addr: str

    def _setup_distributed(self, strategy: HoldsFlags) -> None: ...

    def init_model_from_pretrained(self, *args: Any, **kwargs: Any) -> None: ...

    def execute_batch(self, method_name: str, all_data: dict[str, Any], start_idx: int, end_idx: int) -> list[Any]: ...


class ReferenceModelActor(BaseModelActor):
    def init_model_from_pretrained(self, strategy: HoldsFlags, pretrain: str) -> None: ...


class NaiveReplayBuffer:
    items: list[Experience]
    dynamic_optimizer_step: list[int]
    sample_batch_size: int


class ActorPPOTrainer:
    args: NestedFlags
    actor: Actor
    ema_model: Actor | None
    replay_buffer: NaiveReplayBuffer
    strategy: DeepspeedStrategy
    max_epochs: int

    def __init__(
        self,
        strategy: DeepspeedStrategy,
        actor: Actor,
        ema_model: Actor | None,
        actor_optim: torch.optim.Optimizer,
        actor_scheduler: object,
        ema_beta: float = 0.992,
        micro_train_batch_size: int = 8,
        buffer_limit: int = 0,
        buffer_cpu_offload: bool = True,
        eps_clip: float = 0.2,
        tokenizer: "PreTrainedTokenizerBase | None" = None,
        dataloader_pin_memory: bool = True,
        vllm_engines: list[EngineHandle] | None = None,
        **kwargs: Any,
    ) -> None: ...

    def ppo_train(self, kl_ctl: float) -> dict[str, Any]: ...

    def training_step(
        self, experience: Experience, kl_ctl: float, step: int, loss_batch_info: dict[str, Any] | None = None
    ) -> dict[str, Any]: ...


class PolicyModelActor(BaseModelActor):
    strategy: DeepspeedStrategy
    actor: Actor
    trainer: ActorPPOTrainer
    checkpoint_states: dict[str, Any]
    save_hf_ckpt: bool

    def init_model_from_pretrained(
        self,
        strategy: HoldsFlags,
        pretrain: str,
        max_steps: int | None = None,
        vllm_engines: list[EngineHandle] | None = None,
    ) -> None: ...

    def fit(self, kl_ctl: float = 0) -> dict[str, Any]: ...

    def append(self, experience: Experience) -> None: ...

    def broadcast_to_vllm(self) -> None: ...

    def save_model(self) -> None: ...

    def save_checkpoint(
        self,
        tag: str,
        client_states: dict[str, Any] | None = None,
        metric_value: float | None = None,
        metric_key: str | None = None,
    ) -> None: ...


class SingleTurnAgentExecutor:
    reward_func: Callable[..., Any] | None
    reward_endpoints: list[Any]
    _fetch_rewards_via_http: Callable[..., Awaitable[Any]]


class AsyncLLM:
    """vLLM's, as OpenRLHF's engine actor holds it."""

    async def reset_prefix_cache(self, reset_running_requests: bool = False, reset_connector: bool = False) -> bool: ...

    async def collective_rpc(
        self,
        method: str | Callable[..., Any],
        timeout: float | None = None,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> list[Any]: ...

    async def init_weight_transfer_engine(self, request: object) -> None: ...

    async def start_weight_update(self) -> None: ...

    async def update_weights(self, request: object) -> None: ...

    async def finish_weight_update(self, weight_version: str | None = None) -> None: ...

    async def sleep(self, level: int = 1, mode: str = "abort") -> None: ...

    async def wake_up(self, tags: list[str] | None = None) -> None: ...

    async def is_sleeping(self) -> bool: ...


class RolloutRayActor:
    executor: SingleTurnAgentExecutor  # without a custom agent
    llm: AsyncLLM

    async def __init__(  # type: ignore[misc]  # Ray awaits it
        self,
        *args: Any,
        bundle_indices: list[int] | None = None,
        agent_func_path: str | None = None,
        remote_rm_url: str | list[str] | None = None,
        mm_pad_token_ids: set[int] | None = None,
        **kwargs: Any,
    ) -> None: ...

    async def sleep(self, level: int = 1) -> None: ...

    async def wake_up(self, tags: list[str] | None = None) -> None: ...

    async def generate(
        self, prompt_token_ids: list[int], sampling_params: "SamplingParams", multi_modal_data: object = None
    ) -> "RequestOutput": ...

    async def generate_responses(
        self,
        prompt: str,
        label: str,
        sampling_params: "SamplingParams",
        max_length: int,
        hf_tokenizer: "PreTrainedTokenizerBase",
        num_samples: int = 1,
        images: object = None,
    ) -> list[dict[str, Any]]: ...


# Where each class is defined.
NAMES: dict[type, str] = {
    Experience: "openrlhf.trainer.ppo_utils.experience.Experience",
    PromptDataset: "openrlhf.datasets.PromptDataset",
    PromptLoader: "torchdata.stateful_dataloader.StatefulDataLoader",
    SamplesGenerator: "openrlhf.trainer.ppo_utils.samples_generator.SamplesGenerator",
    KLController: "openrlhf.trainer.ppo_utils.kl_controller.FixedKLController",
    Logger: "openrlhf.utils.logging_utils.WandbLogger",
    RayActorGroup: "openrlhf.trainer.ray.launcher.RayActorGroup",
    BasePPOTrainer: "openrlhf.trainer.ppo_trainer.BasePPOTrainer",
    PPOTrainer: "openrlhf.trainer.ppo_trainer.PPOTrainer",
    TrainingActor: "openrlhf.trainer.ppo_trainer_async.TrainingActor",
    GenerateSamplesActor: "openrlhf.trainer.ppo_trainer_async.GenerateSamplesActor",
    Actor: "openrlhf.models.Actor",
    DeepspeedStrategy: "openrlhf.utils.deepspeed.DeepspeedStrategy",
    BaseModelActor: "openrlhf.trainer.ray.launcher.BaseModelActor",
    ReferenceModelActor: "openrlhf.trainer.ray.launcher.ReferenceModelActor",
    NaiveReplayBuffer: "openrlhf.trainer.ppo_utils.replay_buffer.NaiveReplayBuffer",
    ActorPPOTrainer: "openrlhf.trainer.ray.ppo_actor.ActorPPOTrainer",
    PolicyModelActor: "openrlhf.trainer.ray.ppo_actor.PolicyModelActor",
    SingleTurnAgentExecutor: "openrlhf.utils.agent.SingleTurnAgentExecutor",
    AsyncLLM: "vllm.v1.engine.async_llm.AsyncLLM",
    RolloutRayActor: "openrlhf.trainer.ray.vllm_engine.RolloutRayActor",
}

"""The one list of what this package replaces in other libraries, and of the undocumented names that it relies on.

`openrlhf-sfpo doctor --replaced` prints it. It leaves out what is set on objects of this package's own classes, and
attributes of other libraries' objects that are data: fields of configurations, samples and sampling parameters.
"""

from openrlhf_sfpo.system.replacements import ObjectReplacement, Reliance, Replacement

_RUN = "the driver, during a run"
_COMPARISON = "the driver, during a comparison"
_WRAPPED = "the driver, while Ray starts"
_PATCHED = "a patched OpenRLHF's driver, with --sfpo.enable or the Megatron actor"
_HOOK = "a process that imports the import hook, until it exits"
_MEGATRON_CPU = "Megatron actor processes without CUDA, until they exit"
_DEEPSPEED = "DeepSpeed policy processes, until they exit"
_DEEPSPEED_CPU = "DeepSpeed actor processes without CUDA, until they exit"
_ENGINE_CPU = "vLLM processes without CUDA, until they exit"
_EVERYWHERE = "every process of a run that joins a process group, until it exits"
_OWN_RAY = "the driver, while its own Ray runs"

_LAUNCHER = "openrlhf.trainer.ray.launcher"
_ACTOR = "openrlhf.trainer.ray.ppo_actor"
_ENGINE = "openrlhf.trainer.ray.vllm_engine"
_TRAINER = "openrlhf.trainer.ppo_trainer"
_ASYNC = "openrlhf.trainer.ppo_trainer_async"
_SAMPLES = "openrlhf.trainer.ppo_utils.samples_generator"
_LOSS = "openrlhf.models.loss"
_DS = "openrlhf.utils.deepspeed.deepspeed"
_RANDOM = "megatron.core.tensor_parallel.random"
_BUFFER = "megatron.core.distributed.param_and_grad_buffer"

# Of torch.cuda, what DeepSpeed's actors call too.
_ALSO_DEEPSPEED = ("current_device", "set_device", "synchronize", "empty_cache")

REPLACEMENTS: dict[str, Replacement] = {
    entry.key: entry
    for entry in (
        # OpenRLHF, during a run
        Replacement(
            _ACTOR, "PolicyModelActor", "megatron_actor or deepspeed_actor", "the policy trains with SFPO", _RUN
        ),
        Replacement(
            _LAUNCHER,
            "ReferenceModelActor",
            "the same modules' ReferenceActor",
            "the reference model has the policy's layout",
            _RUN,
        ),
        Replacement(
            _LAUNCHER,
            "PlacementGroupSchedulingStrategy",
            "bundle_order.node_by_node",
            "neighboring ranks belong on one node",
            f"{_RUN}; {_PATCHED}",
        ),
        Replacement(
            _ENGINE,
            "RolloutRayActor",
            "engine.RolloutEngine",
            "weight transfer, log-probabilities, reward errors, health",
            f"{_RUN}; {_PATCHED}",
        ),
        Replacement(
            _TRAINER,
            "PPOTrainer",
            "trainers.Trainer",
            "run directory, recording and replay, evaluation at both ends",
            _RUN,
        ),
        Replacement(_ASYNC, "TrainingActor", "trainers.TrainingActor", "run directory, recording", _RUN),
        Replacement(
            _ASYNC, "GenerateSamplesActor", "trainers.GenerateSamplesActor", "evaluations in the run directory", _RUN
        ),
        Replacement(
            "openrlhf.trainer.ray",
            "create_vllm_engines",
            "worker_reuse",
            "a run reuses the previous run's engines",
            _COMPARISON,
        ),
        Replacement(
            _LAUNCHER,
            "RayActorGroup",
            "worker_reuse",
            "a run reuses the previous run's actors",
            _COMPARISON,
        ),
        Replacement(
            _ACTOR,
            "ActorPPOTrainer",
            "deepspeed_trainer.SlowFastActorTrainer",
            "OpenRLHF looks up its trainer class in this module",
            _DEEPSPEED,
        ),
        Replacement(
            "argparse.ArgumentParser",
            "parse_args",
            "a function that returns the parsed flags; for the import hook, a wrapper that adds ours",
            "OpenRLHF parses under __main__, where nothing can be passed in",
            f"{_RUN}; {_HOOK}",
            parameters=("self", "args", "namespace"),
        ),
        # Ray
        Replacement(
            "ray._private.utils",
            "set_sigterm_handler",
            "nothing",
            "Ray would exit at SIGTERM, before a checkpoint is saved",
            _WRAPPED,
            parameters=("sigterm_handler",),
        ),
        Replacement(
            "ray._private.ray_constants",
            "ENABLE_RAY_CLUSTER",
            "False",
            "a run's own Ray listens on the loopback interface, and must not look for a cluster elsewhere",
            _OWN_RAY,
        ),
        # torch and the standard library
        Replacement(
            "torch.distributed.rendezvous",
            "_create_c10d_store",
            "loopback.keep_stores_on_loopback",
            "TCPStore listens on all interfaces",
            _EVERYWHERE,
            parameters=("hostname", "port", "rank", "world_size", "timeout", "use_libuv"),
        ),
        Replacement(
            "multiprocessing.shared_memory",
            "_SHM_NAME_PREFIX",
            "a name of the run",
            "so that shared memory of a killed run can be found and removed",
            "every process of a run, until it exits",
        ),
        # Megatron-Core without CUDA
        *(
            Replacement(
                "torch.cuda",
                name,
                by,
                reason,
                f"{_MEGATRON_CPU}; {_DEEPSPEED_CPU}" if name in _ALSO_DEEPSPEED else _MEGATRON_CPU,
            )
            for name, by, reason in (
                ("current_device", "the CPU", "buffers are allocated on the current CUDA device"),
                ("set_device", "nothing", "called when the process group starts"),
                ("synchronize", "nothing", "called around point-to-point communication and barriers"),
                ("empty_cache", "malloc_trim", "called between phases to return cached memory"),
                ("current_stream", "an empty stream", "pipeline communication orders its streams"),
                ("default_stream", "an empty stream", "gradient reduction orders its streams"),
                ("Stream", "an empty stream", "gradient reduction and offload create side streams"),
                ("Event", "an empty event", "timers and offload record events"),
                ("stream", "an empty context", "side streams are entered as context managers"),
                ("is_current_stream_capturing", "False", "DDP hooks ask whether a CUDA graph is recorded"),
                ("get_rng_state", "the CPU's state", "the model-parallel RNG tracker keeps CUDA states"),
                ("set_rng_state", "the CPU's state", "the model-parallel RNG tracker restores CUDA states"),
                ("manual_seed", "torch.manual_seed", "the model-parallel RNG tracker seeds CUDA"),
            )
        ),
        Replacement(
            "torch.Tensor", "cuda", "the tensor itself", "shared embeddings are moved to the GPU", _MEGATRON_CPU
        ),
        Replacement("torch.nn.Module", "cuda", "the module itself", "modules are moved to the GPU", _MEGATRON_CPU),
        Replacement(
            "torch.Tensor",
            "type",
            "CUDA's names of types",
            "the optimizer sorts parameters by names such as torch.cuda.HalfTensor",
            _MEGATRON_CPU,
        ),
        Replacement(
            _RANDOM,
            "_get_cuda_rng_state",
            "the CPU's state",
            "the RNG tracker and activation recomputation read the CUDA state with it",
            _MEGATRON_CPU,
            parameters=("device", "clone", "graph_safe"),
        ),
        Replacement(
            _RANDOM,
            "_set_cuda_rng_state",
            "the CPU's state",
            "the RNG tracker and activation recomputation set the CUDA state with it",
            _MEGATRON_CPU,
            parameters=("new_state", "device", "graph_safe"),
        ),
        Replacement(
            _BUFFER,
            "dist_all_gather_func",
            "nothing in a group of one",
            "gloo copies the whole parameter buffer even with a single data-parallel rank",
            _MEGATRON_CPU,
        ),
        Replacement(
            _BUFFER,
            "dist_reduce_scatter_func",
            "nothing in a group of one",
            "gloo copies the whole gradient buffer even with a single data-parallel rank",
            _MEGATRON_CPU,
        ),
        # DeepSpeed without CUDA: torch.cuda's current_device, set_device, synchronize and empty_cache as above
        Replacement(
            _DS,
            "init_device_mesh",
            "a mesh of CPUs",
            "the mesh is one of CUDA devices",
            _DEEPSPEED_CPU,
            parameters=("device_type", "mesh_shape", "mesh_dim_names", "backend_override"),
        ),
        Replacement(
            _DS,
            "get_train_ds_config",
            "the same without overlap_comm",
            "stage 3 overlaps communication by default, in an order kept by CUDA streams, which a CPU lacks",
            _DEEPSPEED_CPU,
        ),
        Replacement(
            "deepspeed.comm",
            "all_gather_into_tensor",
            "the same, synchronously",
            "stage 3 waits only for the last of several gathers, which gloo may finish first (DeepSpeed's pull request "
            "8539)",
            _DEEPSPEED_CPU,
            parameters=("args", "kwargs"),
        ),
        Replacement(
            "openrlhf.utils.utils",
            "convert_to_torch_dtype",
            "the same with fp32",
            "it does not accept fp32, and bf16 is ten times slower on a CPU without bf16 instructions",
            _DEEPSPEED_CPU,
            parameters=("param_dtype",),
        ),
        # vLLM without CUDA
        Replacement(
            "vllm.distributed.device_communicators.shm_broadcast.SpinCondition.__init__",
            "__defaults__",
            "(0.0,)",
            "vLLM's processes would spin for a second after each message, on the cores that train",
            _ENGINE_CPU,
        ),
        Replacement(
            "vllm.distributed.device_communicators.shm_broadcast",
            "SHM_READER_RECHECK_INTERVAL_MS",
            "50",
            "notifications are sometimes lost (vllm-project/vllm#45224), and vLLM polls again only after 5 s",
            _ENGINE_CPU,
        ),
        Replacement(
            "vllm.v1.worker.cpu_worker.CPUWorker",
            "sleep",
            "cpu_sleep.sleep",
            "vLLM's CPU worker ignores sleep",
            _ENGINE_CPU,
            parameters=("self", "level"),
        ),
        Replacement(
            "vllm.v1.worker.cpu_worker.CPUWorker",
            "wake_up",
            "cpu_sleep.wake_up",
            "vLLM's CPU worker ignores waking up",
            _ENGINE_CPU,
            parameters=("self", "tags"),
        ),
    )
}

# Where a library is not changed by name, but what is called or imported is intercepted.
INTERCEPTED: tuple[Replacement, ...] = (
    Replacement(
        "torch.overrides",
        "TorchFunctionMode",
        "megatron.cpu._CudaMeansCpu",
        'Megatron-Core asks for device="cuda" literally',
        _MEGATRON_CPU,
    ),
    Replacement(
        "torch.overrides",
        "TorchFunctionMode",
        "orchestration.deepspeed_cpu._ZeroMeansCpu",
        "OpenRLHF and DeepSpeed ask for CUDA devices by name and number",
        _DEEPSPEED_CPU,
    ),
    Replacement(
        "sys",
        "modules",
        "system.flash_attn_stub",
        "OpenRLHF imports flash_attn at import time, and the Megatron actor never calls it",
        "processes that import OpenRLHF where flash-attn is not installed",
    ),
)

_MEGATRON = "Megatron policy processes"
_TRAIN = "openrlhf.cli.train_ppo_ray"

# Names that are replaced on single objects, or among the globals of OpenRLHF's train function.
ON_OBJECTS: dict[str, ObjectReplacement] = {
    entry.key: entry
    for entry in (
        ObjectReplacement(
            _TRAIN, "PolicyModelActor", "megatron_actor or deepspeed_actor", "the policy trains with SFPO", _PATCHED
        ),
        ObjectReplacement(
            _TRAIN, "ReferenceModelActor", "the same modules' ReferenceActor", "it has the policy's layout", _PATCHED
        ),
        ObjectReplacement(
            _TRAIN, "train", "entry_point.train", "OpenRLHF's train function runs with our classes", _HOOK
        ),
        ObjectReplacement(
            "megatron.core.optimizer.optimizer.MegatronOptimizer",
            "get_grad_norm",
            "pass_runner.check_norms",
            "clipping by a norm that is not finite makes all weights NaN",
            f"{_MEGATRON}, until they exit",
            parameters=("self",),
        ),
        ObjectReplacement(
            "megatron.core.distributed.distributed_data_parallel.DistributedDataParallel",
            "start_param_sync",
            "nothing",
            "the reposition changes the parameters before anything reads the gathered ones",
            f"{_MEGATRON}, in the last step of the fast passes",
        ),
        ObjectReplacement(
            "megatron.core.tensor_parallel.layers.ColumnParallelLinear",
            "forward",
            "model.log_probs",
            "log-probabilities instead of logits, without gathering the vocabulary",
            "Megatron actor processes, on the last stage",
        ),
        ObjectReplacement(
            "deepspeed.runtime.zero.stage_1_and_2.DeepSpeedZeroOptimizer",
            "step",
            "zero.before_steps",
            "SFPO changes weights or learning rates before a step; the same for every ZeRO stage's optimizer",
            "DeepSpeed policy processes, in some passes",
        ),
        ObjectReplacement(
            "deepspeed.runtime.engine.DeepSpeedEngine",
            "lr_scheduler",
            "None",
            "the schedule advances once for each rollout batch, not in the fast passes",
            "DeepSpeed policy processes, in the fast passes",
            in_class=False,
        ),
        ObjectReplacement(
            "openrlhf.trainer.ppo_utils.replay_buffer.NaiveReplayBuffer",
            "items",
            "one train batch of them",
            "--sfpo.prepo_per train_batch makes all its passes on one train batch before the next",
            "DeepSpeed policy processes, in such passes",
            in_class=False,
        ),
        ObjectReplacement(
            "openrlhf.utils.logging_utils.WandbLogger",
            "close",
            "nothing",
            "an evaluation after `fit` still logs",
            _RUN,
        ),
        ObjectReplacement(
            "openrlhf.utils.logging_utils.TensorboardLogger",
            "close",
            "nothing",
            "an evaluation after `fit` still logs",
            _RUN,
        ),
        ObjectReplacement(
            "openrlhf.utils.agent.SingleTurnAgentExecutor",
            "reward_func",
            "response_rewards.reward_response",
            "a reward function's errors and arguments are checked",
            "engine processes, until they exit",
            in_class=False,
        ),
        ObjectReplacement(
            "openrlhf.utils.agent.SingleTurnAgentExecutor",
            "_fetch_rewards_via_http",
            "response_rewards.post_response",
            "a reward server gets the response by its tokens",
            "engine processes, until they exit",
        ),
        ObjectReplacement(
            "torch.nn.Module",
            "cpu_linear",
            "cpu_sleep._without_weight",
            "vLLM keeps a packed copy of a layer's weight in this function's closure",
            "vLLM processes without CUDA, from sleep at level 2 until the weights are sent",
            in_class=False,
        ),
    )
}

# What the subclasses override or call. If a release renamed one, the override would silently no longer be called: the
# recovery of engines, for example, would be bypassed.
RELIED_ON: tuple[Reliance, ...] = (
    Reliance(
        "openrlhf.trainer.ray.utils", "get_bundle_indices", ("placement_group", "index", "length"), "bundle_order"
    ),
    Reliance(
        f"{_ACTOR}.PolicyModelActor",
        "init_model_from_pretrained",
        ("self", "strategy", "pretrain", "max_steps", "vllm_engines"),
        "the policy actors",
    ),
    Reliance(f"{_ACTOR}.PolicyModelActor", "fit", ("self", "kl_ctl"), "the policy actors"),
    Reliance(f"{_ACTOR}.PolicyModelActor", "append", ("self", "experience"), "the policy actors"),
    Reliance(
        f"{_ACTOR}.PolicyModelActor",
        "save_checkpoint",
        ("self", "tag", "client_states", "metric_value", "metric_key"),
        "the policy actors",
    ),
    *(
        Reliance(f"{_ACTOR}.PolicyModelActor", name, ("self",), "the policy actors")
        for name in ("broadcast_to_vllm", "save_model", "reload_states", "offload_states", "get_checkpoint_states")
    ),
    Reliance(f"{_ACTOR}.ActorPPOTrainer", "ppo_train", ("self", "kl_ctl"), "deepspeed_trainer"),
    Reliance(
        f"{_ACTOR}.ActorPPOTrainer",
        "training_step",
        ("self", "experience", "kl_ctl", "step", "loss_batch_info"),
        "deepspeed_trainer",
    ),
    Reliance(
        f"{_LAUNCHER}.ReferenceModelActor",
        "init_model_from_pretrained",
        ("self", "strategy", "pretrain"),
        "the reference actors",
    ),
    Reliance(
        f"{_LAUNCHER}.BaseModelActor",
        "execute_batch",
        ("self", "method_name", "all_data", "start_idx", "end_idx"),
        "megatron_actor",
    ),
    Reliance(f"{_LAUNCHER}.BaseModelActor", "_setup_distributed", ("self", "strategy"), "deepspeed_actor"),
    Reliance(
        f"{_LAUNCHER}.RayActorGroup",
        "__init__",
        (
            "self",
            "num_nodes",
            "num_gpus_per_node",
            "ray_actor_type",
            "pg",
            "num_gpus_per_actor",
            "duplicate_actors",
            "resources",
            "num_resources_per_node",
        ),
        "worker_reuse",
    ),
    Reliance(
        f"{_ENGINE}.RolloutRayActor",
        "generate_responses",
        ("self", "prompt", "label", "sampling_params", "max_length", "hf_tokenizer", "num_samples", "images"),
        "engine",
    ),
    Reliance(
        f"{_ENGINE}.RolloutRayActor",
        "generate",
        ("self", "prompt_token_ids", "sampling_params", "multi_modal_data"),
        "engine",
    ),
    Reliance(f"{_ENGINE}.RolloutRayActor", "wake_up", ("self", "tags"), "engine"),
    Reliance(f"{_ENGINE}.RolloutRayActor", "sleep", ("self", "level"), "engine"),
    Reliance(f"{_ENGINE}.RolloutRayActor", "reset_prefix_cache", ("self",), "weight_sync"),
    Reliance(
        "openrlhf.utils.agent.SingleTurnAgentExecutor",
        "_fetch_rewards_via_http",
        ("self", "queries_list", "prompts_list", "labels_list"),
        "engine",
    ),
    Reliance(
        f"{_TRAINER}.PPOTrainer",
        "__init__",
        (
            "self",
            "pretrain",
            "strategy",
            "actor_model_group",
            "critic_model_group",
            "reward_model_group",
            "reference_model_group",
            "vllm_engines",
            "generate_kwargs",
        ),
        "trainers",
    ),
    Reliance(f"{_TRAINER}.PPOTrainer", "fit", ("self", "global_step"), "trainers"),
    Reliance(f"{_TRAINER}.PPOTrainer", "evaluate", ("self", "global_step", "generate_kwargs"), "trainers"),
    Reliance(f"{_TRAINER}.BasePPOTrainer", "train_step", ("self", "rollout_samples", "global_step"), "trainers"),
    Reliance(
        f"{_TRAINER}.BasePPOTrainer",
        "save_logs_and_checkpoints",
        ("self", "global_step", "logs_dict", "client_states"),
        "trainers",
    ),
    Reliance(f"{_TRAINER}.BasePPOTrainer", "init_checkpoint_states", ("self",), "trainers"),
    Reliance(f"{_TRAINER}.BasePPOTrainer", "restore_best_checkpoint_state", ("self", "checkpoint_states"), "trainers"),
    Reliance(
        f"{_TRAINER}.BasePPOTrainer",
        "save_best_checkpoint",
        ("self", "eval_metrics", "global_step", "client_states"),
        "trainers",
    ),
    Reliance(f"{_TRAINER}.BasePPOTrainer", "broadcast_to_vllm", ("self",), "trainers"),
    Reliance(f"{_ASYNC}.GenerateSamplesActor", "_run_eval", ("self",), "trainers"),
    Reliance(f"{_ASYNC}.GenerateSamplesActor", "load_state_dict", ("self", "state_dict"), "trainers"),
    Reliance(f"{_ASYNC}.TrainingActor", "fit", ("self", "global_step"), "trainers"),
    Reliance(f"{_ASYNC}.TrainingActor", "broadcast_to_vllm", ("self",), "trainers"),
    Reliance(f"{_SAMPLES}.SamplesGenerator", "generate_samples", ("self", "generate_kwargs"), "sample_generator"),
    Reliance(f"{_SAMPLES}.SamplesGenerator", "generate_eval_samples", ("self", "generate_kwargs"), "sample_generator"),
    Reliance(
        f"{_SAMPLES}.SamplesGenerator",
        "_generate_vllm",
        ("self", "dataloader_iter", "num_prompts", "dynamic_filtering", "generate_kwargs"),
        "sample_generator",
    ),
    Reliance(
        f"{_SAMPLES}.SamplesGenerator",
        "_dispatch_prompts_to_vllm",
        ("self", "prompts", "labels", "images", "generate_kwargs"),
        "sample_generator",
    ),
    Reliance(
        f"{_SAMPLES}.SamplesGenerator",
        "_process_response_into_experience",
        ("self", "response", "generate_kwargs"),
        "sample_generator",
    ),
    Reliance(
        _LOSS,
        "aggregate_loss",
        ("loss", "loss_mask", "token_level_loss", "dp_size", "batch_num_tokens", "global_batch_size"),
        "loss",
    ),
    Reliance(
        "openrlhf.models.utils",
        "compute_approx_kl",
        ("log_probs", "log_probs_base", "log_probs_old", "kl_estimator", "unbiased_gradient"),
        "loss",
    ),
    Reliance(
        f"{_LOSS}.PolicyLoss",
        "forward",
        (
            "self",
            "log_probs",
            "old_log_probs",
            "advantages",
            "action_mask",
            "rollout_log_probs",
            "dp_size",
            "batch_num_tokens",
            "global_batch_size",
        ),
        "loss",
    ),
    Reliance("openrlhf.utils.deepspeed.deepspeed.DeepspeedStrategy", "_unwrap_model", None, "deepspeed_actor"),
    Reliance("torch.distributed.rendezvous", "_torchelastic_use_agent_store", None, "system.loopback"),
    Reliance("ray._private.worker", "_global_node", None, "cluster.nodes"),
    Reliance("ray._private.worker", "global_worker", None, "cluster.worker_logs"),
    Reliance("ray._private.node", "Node", None, "cluster.nodes"),
    Reliance("ray._raylet", "Config", None, "cluster.address"),
    Reliance(
        "ray.experimental.internal_kv",
        "_internal_kv_put",
        ("key", "value", "overwrite", "namespace"),
        "cluster.start",
    ),
    Reliance("ray.experimental.internal_kv", "_internal_kv_get", ("key", "namespace"), "cluster.worker"),
    Reliance(
        "ray.experimental.internal_kv", "_internal_kv_del", ("key", "del_by_prefix", "namespace"), "cluster.start"
    ),
    Reliance("transformers.GenerationConfig", "_get_default_generation_params", (), "megatron.model.config_checks"),
    Reliance("ray._raylet", "AuthenticationTokenLoader", None, "cluster.address"),
    Reliance("vllm.distributed.weight_transfer.WeightTransferEngineFactory", "_registry", None, "rollout.plugin"),
    Reliance("ray.job_config.JobConfig", "_get_proto_job_config", ("self",), "cluster.start"),
    Reliance("ray._private.services", "get_node_ip_address", None, "cluster.address"),
    Reliance("ray._private.services", "canonicalize_bootstrap_address", None, "cluster.address"),
    Reliance(
        "megatron.core.optimizer.distrib_optimizer.DistributedOptimizer",
        "_get_model_param_range_map",
        ("self", "param"),
        "megatron.state, megatron.train.main_parameters",
    ),
    Reliance(
        "megatron.core.optimizer.distrib_optimizer.DistributedOptimizer",
        "_copy_main_params_to_model_params",
        ("self",),
        "megatron.train.main_parameters",
    ),
    Reliance(
        "deepspeed.runtime.zero.stage3.DeepSpeedZeroOptimizer_Stage3",
        "_partition_all_parameters",
        None,  # decorated
        "deepspeed.zero",
    ),
    Reliance(
        "deepspeed.runtime.zero.stage3.DeepSpeedZeroOptimizer_Stage3",
        "_reassign_or_swap_out_partitioned_parameters",
        None,
        "deepspeed.zero",
    ),
    Reliance(
        "deepspeed.runtime.zero.stage3.DeepSpeedZeroOptimizer_Stage3",
        "invalidate_secondary_tensor",
        ("self",),
        "deepspeed.zero",
    ),
    Reliance(
        "deepspeed.runtime.zero.stage_1_and_2.DeepSpeedZeroOptimizer", "update_lp_params", ("self",), "deepspeed.zero"
    ),
    Reliance(
        "vllm.distributed.device_communicators.shm_broadcast.SpinCondition",
        "__init__",
        ("self", "is_reader", "context", "notify_address", "busy_loop_s"),
        "rollout.plugin",
    ),
    Reliance("vllm.distributed.weight_transfer.WeightTransferEngineFactory", "register_engine", None, "rollout.plugin"),
    Reliance(
        "vllm.distributed.weight_transfer.WeightTransferTrainerFactory", "trainer_init", None, "rollout.weight_sync"
    ),
)

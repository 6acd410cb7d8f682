"""The Megatron-Core actor: a policy that trains with SFPO on any TP x PP x VPP x DP layout.

It needs torch, megatron-core, transformers and safetensors, and knows nothing of Ray, vLLM, OpenRLHF or DeepSpeed.
Importing this package imports none of them; take what you need from its modules (`actor` is the entry point).
"""

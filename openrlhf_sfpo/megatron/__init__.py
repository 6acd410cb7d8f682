"""The Megatron-Core actor: a policy that trains with SFPO on any TP x PP x VPP x DP layout.

It needs torch, megatron-core, transformers and safetensors, and is independent of Ray, vLLM, OpenRLHF and DeepSpeed.
Importing this package imports none of them; import its modules as needed (`actor` is the entry point).
"""

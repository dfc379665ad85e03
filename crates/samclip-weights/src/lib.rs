//! Checkpoint files: safetensors, .pth, TorchScript archives, key maps, strict state dicts. No models, no framework tensors.

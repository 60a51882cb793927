"""Parts of a model as GPUs like them: few kernels over many tokens."""

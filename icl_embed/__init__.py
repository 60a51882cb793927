"""icl-embed: few-shot text embedders from causal language models.

The library works without any workflow engine: every stage of the pipeline is a plain function here,
and the packages ``tasks`` and ``flows`` only schedule them.
"""

__version__ = "0.1.0"

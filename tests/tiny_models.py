"""Tiny causal language models with real tokenizers, built on the spot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

WORDS = (
    "the a of and to in is cat dog fish bird red blue green big small fast slow retrieve find similar text "
    "given question answer class label query passage topic one two three four five six seven eight nine ten "
    "yes no sun moon star tree river stone fire water earth wind music book song word time day night"
).split()


def build_tokenizer(folder: Path) -> None:
    """A byte-level BPE tokenizer with BOS/EOS/PAD, trained on a handful of words."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=512,
        special_tokens=["<pad>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([" ".join(WORDS), " Yes No ".join(WORDS), "Yes No"] * 20, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )
    fast.save_pretrained(folder)


# The older families have as many key heads as query heads, and other names for some sizes.
WITHOUT_GROUPS = {"gpt2", "gpt_neox", "opt", "bloom", "falcon", "gptj", "mpt"}


def build_model(
    folder: Path, family: str = "llama", *, layers: int = 2, width: int = 32, spread: float = 0.0, **more: Any
) -> Path:
    """A randomly initialised model folder.

    Parameters
        spread: deviation of all weights; 0 leaves what the family starts with, which hardly attends.
        more: further settings of its config.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    folder.mkdir(parents=True, exist_ok=True)
    build_tokenizer(folder)
    groups = {} if family in WITHOUT_GROUPS else {"num_key_value_heads": 2, "head_dim": width // 4}
    config = AutoConfig.for_model(
        family,
        vocab_size=512,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        max_position_embeddings=2048,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        **groups,
        **({"ffn_dim": 2 * width, "word_embed_proj_dim": width} if family == "opt" else {}),
        **more,
    )
    model = AutoModelForCausalLM.from_config(config)
    if spread:
        for weight in model.parameters():
            torch.nn.init.normal_(weight, std=spread) if weight.dim() > 1 else weight.data.add_(
                spread * torch.randn_like(weight)
            )
    model.save_pretrained(folder)
    return folder


def build_sentence_transformer(folder: Path, model: Path) -> Path:
    """A sentence-transformers folder: mean pooling over a tiny model, with a prompt for queries."""
    from sentence_transformers import SentenceTransformer, models

    transformer = models.Transformer(str(model), max_seq_length=32)
    made = SentenceTransformer(
        modules=[transformer, models.Pooling(32)], prompts={"query": "ask: ", "document": ""}, device="cpu"
    )
    made.save(str(folder))
    return folder

"""The template's own tokens ``<instruct> <query> <response>`` in a model that does not have them yet.

The reference code adds random rows and never trains them. Here a new row starts as the mean of the words it
stands for, and ``lora.attach`` makes the rows trainable.
"""

from __future__ import annotations

from typing import Any

import torch

from icl_embed.errors import ModelError
from icl_embed.prompts import SPECIAL_TOKENS

WORDS = dict(zip(SPECIAL_TOKENS, ("Instruct:", "Query:", "Response:"), strict=True))


def add_special_tokens(model: Any, tokenizer: Any) -> list[int]:
    """Add the tokens that are missing, to both, in place; returns the ids of all of them.

    Raises
        ModelError: the tokenizer cannot spell the word that a token stands for.
    """
    from transformers import AddedToken

    missing = [token for token in SPECIAL_TOKENS if token not in tokenizer.get_vocab()]
    words = {token: tokenizer(WORDS[token], add_special_tokens=False)["input_ids"] for token in missing}
    for token, pieces in words.items():
        if not pieces:
            raise ModelError(f"the tokenizer has no tokens for {WORDS[token]!r}, the meaning of {token}")
    tokenizer.add_tokens(
        [AddedToken(token, special=True, normalized=False) for token in missing], special_tokens=True
    )
    if len(tokenizer) > model.get_input_embeddings().num_embeddings:
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    table = model.get_input_embeddings().weight
    with torch.no_grad():
        for token, pieces in words.items():
            table[tokenizer.convert_tokens_to_ids(token)] = table[pieces].float().mean(dim=0).to(table.dtype)
    return [int(tokenizer.convert_tokens_to_ids(token)) for token in SPECIAL_TOKENS]

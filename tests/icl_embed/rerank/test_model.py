from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from icl_embed.errors import ModelError
from icl_embed.rerank.decoder import refuse_unknown_backbone
from icl_embed.rerank.folder import start_from
from icl_embed.rerank.model import RerankerModel, ScoreHeads, heads_from_vocabulary
from icl_embed.rerank.pairs import pack_pairs
from icl_embed.rerank.reranker import Reranker
from icl_embed.rerank.shape import Shape
from tests.icl_embed.rerank.conftest import CONFIG, FAMILIES, PAIRS

MakeReranker = Callable[..., Reranker]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_head_at_layer_l_reads_the_state_after_l_layers(
    make_reranker: MakeReranker, reference: Callable[[str], Any], family: str
) -> None:
    reranker, decoder = make_reranker(family), reference(family)
    heads = reranker.model.heads
    cap = getattr(decoder.config, "final_logit_softcapping", None)
    [tokens] = reranker.pairs.pairs(PAIRS[:1])
    ids = torch.tensor([tokens.query + tokens.passage + tokens.after])
    states = decoder(input_ids=ids, output_hidden_states=True, use_cache=False).hidden_states
    for layer in (1, 2, 3, 4):
        # transformers normalises the last state itself.
        state = states[layer][0, -1] if layer == 4 else decoder.norm(states[layer][0, -1])
        expected = state @ heads.by_layer[str(layer)]
        expected = cap * torch.tanh(expected / cap) if cap else expected
        found = reranker.score(PAIRS[:1], cutoff_layer=layer)
        assert found[0] == pytest.approx(expected.item(), rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_leaving_at_layer_l_scores_like_a_model_cut_to_l_layers(
    make_reranker: MakeReranker, family: str
) -> None:
    reranker = make_reranker(family)
    for layer in (1, 3):
        cut = make_reranker(family).model.decoder
        cut.layers = cut.layers[:layer]
        cut.config.num_hidden_layers = layer
        heads = ScoreHeads([layer], 32)
        heads.load_state_dict({f"by_layer.{layer}": reranker.model.heads.by_layer[str(layer)]})
        model = RerankerModel(cut, heads).eval()
        with torch.no_grad():
            expected = model(pack_pairs(reranker.pairs.pairs(PAIRS), share_queries=False), Shape(layer))
        torch.testing.assert_close(torch.tensor(reranker.score(PAIRS, cutoff_layer=layer)), expected)


def test_every_head_is_the_one_of_its_layer_and_not_the_first(reranker: Reranker) -> None:
    shape = reranker.shape()
    before = reranker.score_exits(PAIRS, shape).scores
    with torch.no_grad():
        reranker.model.heads.by_layer["3"].add_(1.0)
    changed = (reranker.score_exits(PAIRS, shape).scores != before).any(axis=1)
    assert changed.tolist() == [False, False, True, False]


def test_an_early_exit_never_runs_deeper_layers(reranker: Reranker) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("layer 3 was run")

    reranker.model.decoder.layers[2].register_forward_hook(refuse)
    reranker.score(PAIRS, cutoff_layer=2)
    with pytest.raises(AssertionError, match="layer 3 was run"):
        reranker.score(PAIRS, cutoff_layer=3)


@pytest.mark.parametrize("family", FAMILIES)
def test_heads_start_as_the_row_of_yes(folders: Callable[[str], Path], family: str) -> None:
    folder = folders(family)
    model, tokenizer, settings = start_from(folder, CONFIG, device=torch.device("cpu"), dtype=torch.float32)
    language_model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    reranker = Reranker(model.eval(), tokenizer, settings)
    [tokens] = reranker.pairs.pairs(PAIRS[:1])
    ids = torch.tensor([tokens.query + tokens.passage + tokens.after])
    yes = tokenizer("Yes", add_special_tokens=False)["input_ids"][0]
    expected = language_model(input_ids=ids).logits[0, -1, yes].item()
    assert reranker.score(PAIRS[:1])[0] == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_a_tokenizer_without_yes_is_refused(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.WordLevel({"<unk>": 0, "</s>": 1, "cat": 2}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>", eos_token="</s>")
    with pytest.raises(ModelError, match="no single token for 'Yes'"):
        heads_from_vocabulary(tokenizer, torch.zeros(3, 8), [1])


def test_a_folder_without_a_language_model_head_is_refused(
    folders: Callable[[str], Path], tmp_path: Path
) -> None:
    model = AutoModelForCausalLM.from_pretrained(folders("llama"))
    model.base_model.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(folders("llama")).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"lacks lm_head\.weight"):
        start_from(tmp_path, CONFIG, device=torch.device("cpu"), dtype=torch.float32)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_backbone_that_works_between_its_layers_is_refused(reranker: Reranker, dtype: torch.dtype) -> None:
    decoder = copy.deepcopy(reranker.model.decoder).to(dtype)
    refuse_unknown_backbone(decoder)
    original = decoder.forward

    def scaled(*args: object, **kwargs: object) -> object:
        output = original(*args, **kwargs)
        output.last_hidden_state = output.last_hidden_state * 1.01
        return output

    decoder.forward = scaled
    with pytest.raises(ModelError, match="does not give what its own forward gives"):
        refuse_unknown_backbone(decoder)
    with pytest.raises(ModelError, match="does not find the embed, layers, norm of Linear"):
        refuse_unknown_backbone(torch.nn.Linear(2, 2))


def test_a_backbone_with_an_attention_of_its_own_is_refused(reranker: Reranker) -> None:
    decoder = copy.deepcopy(reranker.model.decoder)
    original = decoder.forward

    def otherwise(*args: object, **kwargs: object) -> object:
        if "layout" not in kwargs:  # the pass with its own attention
            kwargs["input_ids"] = kwargs["input_ids"].flip(1)
        return original(*args, **kwargs)

    decoder.forward = otherwise
    with pytest.raises(ModelError, match="packed attention does not give"):
        refuse_unknown_backbone(decoder)

"""Examples that enter the prompt as one embedding each."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from icl_embed.config import ModelConfig, PromptConfig, TemplateConfig
from icl_embed.errors import ModelError
from icl_embed.examples import Example
from icl_embed.model.compiled import CompiledTask
from icl_embed.model.demonstrations import FILE_NAME, add_demonstrations, take_demonstrations
from icl_embed.model.embedder import Embedder
from icl_embed.model.settings import EmbedderSettings, write_settings
from icl_embed.prompts import SLOT, PromptBuilder
from tests.tiny_models import build_model
from tests.training_jobs import make_job, run_job, write_rows

EXAMPLES = [Example("red cat", "blue dog"), Example("green fish", "yellow bird sun")]
TEXTS = ["sun", "the big moon and the small star", "moon"]
SETTINGS = EmbedderSettings(template=TemplateConfig(demonstrations=True))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A saved model with a projection that is not the initial one."""
    path = build_model(tmp_path / "model")
    embedder = Embedder.load(path, device="cpu", dtype="float32")
    add_demonstrations(embedder.model)
    with torch.no_grad():
        embedder.model.demonstrations.weight += 0.1 * torch.randn(32, 32, generator=torch.manual_seed(3))
    take_demonstrations(embedder.model, path)
    write_settings(path, SETTINGS)
    return path


def test_a_prompt_has_one_slot_per_example_and_the_examples_as_texts(tiny_model: Path) -> None:
    from transformers import AutoTokenizer

    prompts = PromptBuilder(AutoTokenizer.from_pretrained(tiny_model), PromptConfig(), SETTINGS.template)
    plain = PromptBuilder(prompts.tokenizer, PromptConfig())
    prefix = prompts.prefix("find", EXAMPLES)
    assert prefix.tokens == [*prompts.bos, SLOT, SLOT, *prompts.head("find")]
    assert (prefix.num_examples, prefix.num_dropped) == (2, 0)
    spelled = plain.prefix("find", EXAMPLES[:1]).tokens[len(plain.bos) : -len(plain.head("find"))]
    assert prompts.tokenizer.decode(prefix.demonstrations[0][len(prompts.bos) : -1]) + "\n\n" == (
        prompts.tokenizer.decode(spelled)
    )
    assert prefix.demonstrations[0][-1] == prompts.eos[0]
    assert prompts.prefix("find").tokens == plain.prefix("find").tokens


def test_vectors_equal_those_of_embeddings_put_in_by_hand(folder: Path) -> None:
    from transformers import AutoModel

    embedder = Embedder.load(folder, device="cpu", dtype="float32")
    reference = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    prefix = embedder.prompts.prefix("find", EXAMPLES)
    with torch.inference_mode():
        shown = torch.stack(
            [
                reference(input_ids=torch.tensor([one])).last_hidden_state[0, -1]
                for one in prefix.demonstrations
            ]
        )
        slots = F.normalize(shown, dim=-1) @ embedder.model.demonstrations.weight.T
        expected = []
        for tail in embedder.prompts.query_tails("find", TEXTS):
            tokens = torch.tensor([*prefix.tokens, *tail])
            inputs = reference.get_input_embeddings()(tokens.clamp(min=0))
            inputs[tokens == SLOT] = slots
            expected.append(reference(inputs_embeds=inputs[None]).last_hidden_state[0, -1])
    found = embedder.encode_queries(TEXTS, instruction="find", examples=EXAMPLES, output="torch")
    assert (found - F.normalize(torch.stack(expected), dim=-1)).abs().max() < 1e-5


def test_a_compiled_task_with_demonstrations_survives_saving(folder: Path, tmp_path: Path) -> None:
    embedder = Embedder.load(folder, device="cpu", dtype="float32")
    expected = embedder.encode_queries(TEXTS, instruction="find", examples=EXAMPLES)
    embedder.compile_task("find", EXAMPLES).save(tmp_path / "task.safetensors")
    task = CompiledTask.load(tmp_path / "task.safetensors")
    found = Embedder.load(folder, device="cpu", dtype="float32").encode_queries(TEXTS, task=task)
    assert abs(found - expected).max() < 1e-6


def test_without_its_projection_a_model_is_refused(folder: Path) -> None:
    (folder / FILE_NAME).unlink()
    with pytest.raises(ModelError, match=FILE_NAME):
        Embedder.load(folder, device="cpu", dtype="float32")


@pytest.mark.parametrize("sharing", ["per_query", pytest.param("per_batch", marks=pytest.mark.slow)])
def test_training_moves_the_projection_and_publishes_it(
    tiny_model: Path, tmp_path: Path, sharing: str
) -> None:
    rows = write_rows(tmp_path / "train.parquet")
    job = make_job(
        tmp_path,
        tiny_model,
        rows,
        settings={"template": {"demonstrations": True}},
        examples={"sharing": sharing, "max_per_query": 3},
        optimizer={"steps": 8},
        gradient_cache=True,
    )
    log, _ = run_job(job, tmp_path)
    assert len(log) == 8
    assert sum(line["examples_per_query"] for line in log) > 0
    trained = Embedder.load(job.out_dir, device="cpu", dtype="float32")
    fresh = Embedder.load(tiny_model, device="cpu", dtype="float32")
    add_demonstrations(fresh.model)
    assert not torch.allclose(trained.model.demonstrations.weight, fresh.model.demonstrations.weight)
    few = trained.encode_queries(TEXTS, instruction="find", examples=EXAMPLES)
    assert abs(few - trained.encode_queries(TEXTS, instruction="find")).max() > 1e-4


def test_other_libraries_could_not_make_them_so_an_export_is_refused(folder: Path, tmp_path: Path) -> None:
    from icl_embed.export.folder import write_model

    with pytest.raises(ModelError, match="examples as embeddings"):
        write_model(folder, tmp_path / "export")


def test_they_need_causal_attention() -> None:
    with pytest.raises(ValueError, match=r"needs model\.attention = causal"):
        ModelConfig(attention="bidirectional", template=TemplateConfig(demonstrations=True))

import re
from pathlib import Path

import pytest

from icl_embed.config import RunConfig
from icl_embed.config.load import FOREIGN, find_preset, load_config, settings_below
from icl_embed.errors import ConfigError

PRESETS = sorted((Path(__file__).resolve().parents[2] / "icl_embed/config/presets").glob("*.toml"))


def test_overrides_are_typed_and_win_over_the_preset(tmp_path: Path) -> None:
    preset = tmp_path / "mine.toml"
    preset.write_text("seed = 5\n[train]\ntemperature = 0.1\n")
    config = load_config(preset, ["train.temperature=0.05", "train.optimizer.steps=7", "model.source=local"])
    assert (config.preset, config.seed, config.train.temperature) == ("mine", 5, 0.05)
    assert (config.train.optimizer.steps, config.model.source) == (7, "local")


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("train.temprature=0.05", "train.temprature"),
        ("train.temperature=nan", "train.temperature"),
        ("train.temperature=inf", "train.temperature"),
        ("train.temperature=-1", "train.temperature"),
        ("train.batch_size=many", "train.batch_size"),
        ("train.batch_size.x=1", "batch_size"),
        ("train", "must look like"),
        ("train.optimizer.keep_checkpoints=1", "keep_checkpoints"),
        ("train.dev.metric=ndcg", "train.dev.metric: Input should be 'mrr' or 'accuracy' (found 'ndcg')"),
        *((f"pool.memory_limit={size}", "such as 4GB") for size in ("4", "0GB", "-1GB", "80%", "4 gb", "GB")),
        ("pool.threads=0", "pool.threads"),
        ("train.dev.patience=2", "train.dev: patience = 2 and keep = 'last' need measurements"),
    ],
)
def test_a_bad_override_is_refused_and_named(override: str, named: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(named)):
        load_config(None, ["train.batch_size=4", override])


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("train.temprature=1", "did you mean train.temperature"),
        ("train.learning_rate=1", "did you mean train.optimizer.learning_rate?"),
        ("learning_rate=1", "did you mean train.optimizer.learning_rate or rerank.optimizer.learning_rate?"),
        ("rerank.learning_rate=1", "did you mean rerank.optimizer.learning_rate?"),
        ("optimizer.steps=3", "did you mean train.optimizer or rerank.optimizer?"),
        ("train.kinds.sts.batchsize=3", "did you mean train.kinds.KIND.batch_size"),
        (
            "train.gradient_accumulation_steps=4",
            "did you mean train.batch_tokens .*one update over all ranks",
        ),
        ("train.epochs=3", "did you mean train.optimizer.epochs.*count by their rows"),
        ("rerank.num_train_epochs=3", "did you mean rerank.optimizer.epochs"),
        ("train.warmup_ratio=0.1", "did you mean train.optimizer.warmup_steps.*ratio × steps"),
        ("wandb.project=x", "wandb: .*did you mean train.launch.trackers"),
        ("train.report_to=wandb", "did you mean train.launch.trackers.*a list: tensorboard, mlflow, wandb"),
        (
            "train.deepspeed=ds.json",
            "did you mean train.optimizer.deepspeed.*a DeepSpeed JSON is merged over our settings",
        ),
        ("train.eval_steps=50", "did you mean train.dev.every"),
        ("train.load_best_model_at_end=true", "did you mean train.dev.keep.*'best' or 'last'"),
        ("early_stopping_patience=3", "did you mean train.dev.patience"),
        ("trian.seed=1", "did you mean train?"),
        ("foo=1", "the whole config has preset, seed, paths"),
        ("pool.foo=1", "pool has min_characters"),
    ],
)
def test_an_unknown_setting_leads_to_the_one_that_was_meant(override: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told.replace("?", r"\?")):
        load_config(None, [override])


def test_every_setting_that_other_trainers_are_led_to_exists() -> None:
    known = [name for name, _ in settings_below(RunConfig)]
    assert ("train", "optimizer", "learning_rate") in known
    for foreign, (end, note) in FOREIGN.items():
        assert end or note, foreign
        parts = tuple(end.split("."))
        assert not end or any(name[-len(parts) :] == parts for name in known), foreign


@pytest.mark.parametrize("address", ["s3://bucket/store", "gs://x", "hf://datasets/x", "file:///tmp/x"])
def test_an_address_is_no_folder(address: str) -> None:
    for setting in ("paths.store", "paths.downloads", "paths.catalog", "teacher.folder"):
        with pytest.raises(ConfigError, match=f"{setting}: expected a folder on this machine.*{address}"):
            load_config(None, [f"{setting}={address}"])


def test_a_preset_that_is_not_there_leads_to_one_that_is() -> None:
    for name, told in (
        ("dmeo", "did you mean demo"),
        ("ds_config.json", "a DeepSpeed JSON is merged over our settings by train.optimizer.deepspeed"),
    ):
        with pytest.raises(ConfigError, match=told):
            find_preset(name)


def test_the_home_folder_is_found() -> None:
    assert load_config(None, ["paths.store=~/store"]).paths.store == Path.home() / "store"


def test_a_batch_that_ranks_cannot_share_is_refused() -> None:
    with pytest.raises(ConfigError, match="must divide by the number of ranks"):
        load_config(None, ["train.batch_size=9", "train.launch.processes=2"])


def test_groups_must_fit_into_the_queries_of_a_rank() -> None:
    sharing = 'train.examples.sharing="per_group"'
    with pytest.raises(ConfigError, match="group_size"):
        load_config(None, [sharing, "train.batch_size=16", "train.launch.processes=4"])
    with pytest.raises(ConfigError, match="at least 2 groups"):
        load_config(None, [sharing, "train.batch_size=8", "train.examples.group_size=8"])


def test_prompt_budgets_must_leave_room_for_the_query() -> None:
    with pytest.raises(ConfigError, match="total_tokens"):
        load_config(None, ["train.prompt.total_tokens=100"])


def test_a_model_is_measured_with_the_budgets_it_is_published_with_unless_others_are_told() -> None:
    published = ["model.prompt.query_tokens=96", "model.prompt.total_tokens=300"]
    assert load_config(None, published).evaluate.prompt == load_config(None, published).model.prompt
    asked = load_config(None, [*published, "evaluate.prompt.total_tokens=200"])
    assert asked.evaluate.prompt == asked.model.prompt.model_copy(update={"total_tokens": 200})
    assert RunConfig.model_validate(asked.model_dump()) == asked
    for wrong in ("model=3", "evaluate=[]", "model.prompt=3", "evaluate.prompt=x"):
        with pytest.raises(ConfigError, match=re.escape(wrong.partition("=")[0])):
            load_config(None, [wrong])
    with pytest.raises(ConfigError, match=r"model\.prompt\.query_tokens"):
        load_config(None, ["model.prompt.query_tokens=0"])


def test_a_preset_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_bytes(b"\xff\xfe")
    for name in ("bad.toml", "missing.toml"):
        with pytest.raises(ConfigError, match=name):
            load_config(tmp_path / name)


def test_the_config_is_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        RunConfig().seed = 1


@pytest.mark.parametrize("preset", PRESETS, ids=lambda path: path.stem)
def test_every_shipped_preset_is_valid_and_names_known_cards(preset: Path) -> None:
    from icl_embed.pipeline.run import open_run
    from icl_embed.sources.collection import load_collections

    config = load_config(preset)
    assert config.preset == preset.stem
    collected = set(config.data.train) & set(load_collections())
    # a collection's data sets are known once its index is there; any other set stands in for it
    run = open_run(preset.stem, ['data.train=["sympy-code"]'] if collected else [])
    assert len({key.fingerprint for key in run.keys}) == len(list(run.keys))


def test_paper_e5_is_paper_on_other_data() -> None:
    paper, other = (load_config(find_preset(name)).model_dump() for name in ("paper", "paper_e5"))
    assert {name for name in paper if paper[name] != other[name]} == {"preset", "data"}
    assert {name for name in paper["data"] if paper["data"][name] != other["data"][name]} == {"train"}


def test_a_preset_extends_another_and_says_what_differs(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(
        'extends = "demo"\n[train]\ntemperature = 0.1\n[data]\ntrain = ["x"]\n'
    )
    (tmp_path / "again.toml").write_text('extends = "mine.toml"\nseed = 9\n[train]\nbatch_size = 32\n')
    demo, again = load_config(find_preset("demo")), load_config(tmp_path / "again.toml")
    assert (again.preset, again.seed, again.data.train) == ("again", 9, ("x",))
    assert (again.train.temperature, again.train.batch_size) == (0.1, 32)
    assert again.train.optimizer == demo.train.optimizer and again.rerank == demo.rerank


@pytest.mark.parametrize(
    ("base", "told"),
    [
        ('"mine.toml"', "extends itself"),
        ('"dmeo"', "did you mean demo"),
        ('"gone.toml"', "cannot read the preset .*gone.toml"),
        ("3", "extends is 3; expected a preset's name"),
    ],
)
def test_a_preset_that_extends_nothing_is_refused(base: str, told: str, tmp_path: Path) -> None:
    preset = tmp_path / "mine.toml"
    preset.write_text(f"extends = {base}\n")
    with pytest.raises(ConfigError, match=told):
        load_config(preset)

from pathlib import Path

import pytest

from icl_embed.config import RunConfig
from icl_embed.errors import ConfigError
from icl_embed.preset import load_config

PRESETS = sorted((Path(__file__).resolve().parents[2] / "flows" / "presets").glob("*.toml"))


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
    ],
)
def test_a_bad_override_is_refused_and_named(override: str, named: str) -> None:
    with pytest.raises(ConfigError, match=named.replace(".", r"\.")):
        load_config(None, ["train.batch_size=4", override])


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

    run = open_run(preset.stem)
    assert run.config.preset == preset.stem
    assert len({key.fingerprint for key in run.keys}) == len(list(run.keys))

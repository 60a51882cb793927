"""What a key holds of a config section, and how a builder gets the whole section back."""

from icl_embed.config import (
    DevConfig,
    LaunchConfig,
    OptimizerConfig,
    PoolConfig,
    RerankConfig,
    TrainConfig,
    identity,
    restored,
    untouched,
)


def test_a_key_holds_what_decides_a_result_and_nothing_else():
    found = identity(TrainConfig())
    assert "launch" not in found and "tokenizer_workers" not in found
    assert {"save_every", "keep_checkpoints"}.isdisjoint(found["optimizer"])
    assert found["optimizer"]["learning_rate"] == OptimizerConfig().learning_rate
    whole = TrainConfig().model_dump(mode="json")
    unnamed = {
        "launch",
        "tokenizer_workers",
        "dev",
        "start_from",
        "seed",
    }  # a key names its seed
    assert set(whole) - set(found) == unnamed
    assert "epochs" not in found["optimizer"]
    by_rows = identity(OptimizerConfig(steps=0, epochs=1.0))
    assert (by_rows["steps"], by_rows["epochs"]) == (0, 1.0)
    assert "top_k" not in identity(RerankConfig(), "top_k")


def test_settings_that_change_no_result_change_no_key():
    other = TrainConfig(
        tokenizer_workers=3,
        launch=LaunchConfig(processes=4, trackers=()),
        optimizer=OptimizerConfig(save_every=1, keep_checkpoints=9),
    )
    assert identity(PoolConfig(memory_limit="7GB", threads=9)) == identity(PoolConfig())
    assert identity(other) == identity(TrainConfig())
    assert identity(TrainConfig(temperature=0.5)) != identity(TrainConfig())


def test_a_builder_takes_results_from_the_key_and_the_rest_from_the_run():
    asked = TrainConfig(temperature=0.5, optimizer=OptimizerConfig(steps=7, save_every=2))
    mine = TrainConfig(
        temperature=0.1,
        tokenizer_workers=2,
        launch=LaunchConfig(threads=3),
        optimizer=OptimizerConfig(steps=99, save_every=4),
    )
    found = restored(identity(asked), mine)
    assert (found.temperature, found.optimizer.steps) == (0.5, 7)
    assert (found.optimizer.save_every, found.tokenizer_workers, found.launch.threads) == (4, 2, 3)


def test_measuring_on_the_way_is_in_a_key_only_where_it_decides_something():
    watched, stopping = DevConfig(every=10), DevConfig(every=10, patience=2)
    assert "dev" in untouched(TrainConfig()) and "dev" not in untouched(TrainConfig(dev=watched))
    assert identity(TrainConfig(dev=watched)) == identity(TrainConfig())
    assert identity(TrainConfig(dev=stopping))["dev"] == stopping.model_dump(mode="json")
    assert identity(TrainConfig(dev=DevConfig(every=10, keep="best")))["dev"]["keep"] == "best"


def test_a_builder_measures_as_its_run_asks_and_decides_as_the_key_says():
    watched, stopping = DevConfig(every=10), DevConfig(every=5, patience=2)
    mine = TrainConfig(dev=watched)
    assert restored(identity(TrainConfig()), mine).dev == watched
    assert restored(identity(TrainConfig(dev=stopping)), mine).dev == stopping
    assert restored(identity(TrainConfig()), TrainConfig(dev=stopping)).dev == DevConfig()

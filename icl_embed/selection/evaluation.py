"""The strategies as evaluation takes them: chosen by the config, blind to everything that is evaluated."""

from __future__ import annotations

from pathlib import Path

from icl_embed.config import EvaluateConfig
from icl_embed.errors import EvaluationError
from icl_embed.evaluate.encoding import Setting
from icl_embed.evaluate.few_shot import FewShotTask, Strategy
from icl_embed.evaluate.scores import FEW_SHOT
from icl_embed.selection.candidates import Candidates
from icl_embed.selection.saved import read_chosen
from icl_embed.selection.strategies import choose_setting
from icl_embed.selection.workbench import Workbench


def strategy_of(config: EvaluateConfig, *, seed: int) -> Strategy | None:
    """What ``evaluate.examples_strategy`` names; None for the pool's own draw, which evaluation makes itself.

    ``seed`` splits and searches; ``evaluate.example_seed`` draws, as it does for fixed examples.
    """
    if config.examples_strategy == "fixed":
        return None

    def choose(task: FewShotTask) -> Setting:
        if config.examples_strategy == "search":
            bench = Workbench.prepare(
                task.pool_dir,
                task.dataset,
                task.encoder,
                config,
                seed=seed,
                exclude_texts=task.exclude_texts,
            )
            return bench.setting(bench.search().positions)
        candidates = Candidates.read(
            task.pool_dir,
            task.dataset,
            instruction=task.instruction,
            encoder=task.encoder,
            exclude_texts=task.exclude_texts,
        )
        return choose_setting(config.examples_strategy, candidates, config, seed=config.example_seed)

    return choose


def saved_strategy(path: Path) -> Strategy:
    """Examples that ``icl-embed examples search`` saved, for the task that they were chosen for.

    Raises
        DataError: the file is not one of examples.
    """
    chosen = read_chosen(path)

    def choose(task: FewShotTask) -> Setting:
        made_for = chosen.origin.get("task", task.dataset)
        if made_for != task.dataset:
            raise EvaluationError(f"{path}: the examples were chosen for {made_for}, not for {task.dataset}")
        return Setting(FEW_SHOT, task.instruction, chosen.examples)

    return choose

"""Examples that are not as they should be: the qualities of ``AskedSetting.quality``.

Each corruption is a pure function of (examples, candidates, seed). ``candidates`` are the task's own, except
for ``off-task``, where they are those of another task. The number of examples never changes, so what a
corruption costs is the quality of the examples alone. Wrong labels are drawn as Min et al. (arXiv 2202.12837)
do, uniformly from the labels of the task, but never the right one.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from random import Random

from icl_embed.errors import ConfigError, EvaluationError
from icl_embed.examples import Example, ExampleSet
from icl_embed.few_shot.settings import CLEAN, OFF_TASK
from icl_embed.pool.examples import Candidate
from icl_embed.texts import compared_forms

LONG_WORDS = 400  # more than any budget for an example has tokens: it fills what the prompt allows

Candidates = Sequence[Candidate]
Corruption = Callable[[Sequence[Example], Candidates, int], ExampleSet]


def corrupt(quality: str, examples: Sequence[Example], candidates: Candidates, seed: int) -> ExampleSet:
    """The examples in a quality: ``clean``, or one of ``CORRUPTIONS``.

    Raises
        ConfigError: there is no such quality.
        EvaluationError: it cannot be made of these examples and candidates.
    """
    checked_quality(quality)
    if quality == CLEAN or not examples:
        return tuple(examples)
    return CORRUPTIONS[quality](examples, candidates, seed)


def checked_quality(quality: str) -> str:
    """The name, if it names a quality; else ConfigError with the nearest one."""
    if quality in QUALITIES:
        return quality
    near = difflib.get_close_matches(quality, QUALITIES, n=1, cutoff=0.0)[0]
    raise ConfigError(
        f"unknown example quality {quality!r}; did you mean {near}? Known: {', '.join(QUALITIES)}"
    )


def label_noise(share: float) -> Corruption:
    """A corruption that gives a share of the examples, rounded up, a wrong response.

    Where the candidates have labels the response becomes another label, each equally likely; else the
    response of another candidate. Larger shares flip a superset of what smaller ones flip.
    """

    def flip(examples: Sequence[Example], candidates: Candidates, seed: int) -> ExampleSet:
        generator = Random(f"{seed}:label-noise")
        order = generator.sample(range(len(examples)), len(examples))
        flipped = set(order[: math.ceil(share * len(examples))])
        wrong = _WrongResponses(candidates)
        # Drawn for every example, so that an example's wrong response does not depend on the share.
        responses = [
            wrong.draw(example, Random(f"{seed}:{number}")) for number, example in enumerate(examples)
        ]
        return tuple(
            replace(example, response=responses[number]) if number in flipped else example
            for number, example in enumerate(examples)
        )

    return flip


class _WrongResponses:
    """The responses that a task knows, each once: its labels, or what its candidates answer."""

    def __init__(self, candidates: Candidates) -> None:
        texts = [one.label or one.example.response for one in candidates]
        self.texts = dict(zip(compared_forms(texts), texts, strict=True))

    def draw(self, example: Example, generator: Random) -> str:
        [own] = compared_forms([example.response])
        others = sorted(form for form in self.texts if form != own)
        if not others:
            raise EvaluationError(
                "label noise needs a second label or response among the candidates, found only "
                f"{example.response[:60]!r}; give the task more training rows"
            )
        return self.texts[generator.choice(others)]


def shuffled_responses(examples: Sequence[Example], candidates: Candidates, seed: int) -> ExampleSet:
    """The responses of the examples in other places: none stays in its own.

    Equal responses are kept apart as far as their number allows, so that as many examples as possible really
    change: responses are grouped by text, groups and members in random order, and moved on by the size of the
    largest group.
    """
    if len(examples) < 2:
        raise EvaluationError("shuffled responses need at least 2 examples, found 1; ask with more shots")
    generator = Random(f"{seed}:shuffled")
    members: dict[str, list[int]] = {}
    for number, form in enumerate(compared_forms([one.response for one in examples])):
        members.setdefault(form, []).append(number)
    groups = [generator.sample(group, len(group)) for _, group in sorted(members.items())]
    generator.shuffle(groups)
    step = max(map(len, groups)) % len(examples) or 1
    order = [number for group in groups for number in group]
    response_of = {
        number: examples[order[(place + step) % len(order)]].response for place, number in enumerate(order)
    }
    return tuple(replace(one, response=response_of[number]) for number, one in enumerate(examples))


def off_task(examples: Sequence[Example], candidates: Candidates, seed: int) -> ExampleSet:
    """As many examples of another task, whose ``candidates`` these are; the instruction stays."""
    if not candidates:
        raise EvaluationError("off-task examples need the candidates of another task, found none")
    generator = Random(f"{seed}:off-task")
    drawn = generator.sample(range(len(candidates)), min(len(examples), len(candidates)))
    return tuple(candidates[drawn[number % len(drawn)]].example for number in range(len(examples)))


def duplicated(examples: Sequence[Example], candidates: Candidates, seed: int) -> ExampleSet:
    """One of the examples, as many times as there are examples."""
    return (Random(f"{seed}:duplicated").choice(list(examples)),) * len(examples)


def adversarially_long(examples: Sequence[Example], candidates: Candidates, seed: int) -> ExampleSet:
    """Each example still true at its start, then other candidates' texts until no budget is left.

    Labels are not made longer: a label with more text is another label, and that is label noise.
    """
    texts = [part for one in candidates for part in (one.example.query, one.example.response)]
    if not any(text.split() for text in texts):
        raise EvaluationError("long examples need candidates with text to be filled up with, found none")
    has_labels = any(one.label for one in candidates)
    longer = []
    for number, one in enumerate(examples):
        generator = Random(f"{seed}:long:{number}")
        query = _filled_up(one.query, texts, generator)
        longer.append(
            Example(query, one.response if has_labels else _filled_up(one.response, texts, generator))
        )
    return tuple(longer)


def _filled_up(text: str, texts: Sequence[str], generator: Random) -> str:
    words = text.split()
    parts = [text]
    while len(words) < LONG_WORDS:
        found = generator.choice(texts).split()[: LONG_WORDS - len(words)]
        words += found
        parts += [" ".join(found)] if found else []
    return " ".join(parts)


CORRUPTIONS: dict[str, Corruption] = {
    "label-noise-25": label_noise(0.25),
    "label-noise-50": label_noise(0.5),
    "label-noise-100": label_noise(1.0),
    "shuffled": shuffled_responses,
    OFF_TASK: off_task,
    "duplicated": duplicated,
    "long": adversarially_long,
}
QUALITIES = (CLEAN, *CORRUPTIONS)

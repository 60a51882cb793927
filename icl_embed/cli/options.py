"""Options that many commands have, and how a command takes a whole group of them as one argument."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_type_hints

import typer

from icl_embed.errors import ConfigError

if TYPE_CHECKING:
    from icl_embed.config import EngineConfig

StoreOption = Annotated[Path, typer.Option("--store", help="the store's folder, where artefacts are")]
DEFAULT_STORE = Path("store")
DeviceOption = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:0 …")]
DevicesOption = Annotated[
    list[str],
    typer.Option(
        "--device",
        help="default: every GPU, or the CPU; one: cpu, cuda:0; several, by comma or again: a process each; "
        "ray: a cluster's",
    ),
]
DtypeOption = Annotated[
    Literal["auto", "float32", "bfloat16"],
    typer.Option("--dtype", help="number format of the model; auto: bfloat16 where it is the faster one"),
]
BatchTokensOption = Annotated[int, typer.Option("--batch-tokens", min=1, help="tokens at once")]


def placed(devices: Sequence[str]) -> tuple[EngineConfig, str]:
    """What ``--device`` says of several devices, and of one."""
    from icl_embed.config import ONE_HERE, EngineConfig

    names = tuple(name for name in (one.strip() for one in ",".join(devices).split(",")) if name)
    if names == ("ray",):
        return EngineConfig(name="ray"), "auto"
    if len(names) > 1:
        return EngineConfig(devices=names), "auto"
    return ONE_HERE, names[0] if names else "auto"


def spread(command: Callable[..., None]) -> Callable[..., None]:
    """Let a command take dataclasses of options: each field is an option of its own on the command line.

    The options of a group stand in the help where the command names the group.
    """
    hints = get_type_hints(command, include_extras=True)
    groups: dict[str, type[Any]] = {
        name: hint
        for name, hint in hints.items()
        if dataclasses.is_dataclass(hint) and isinstance(hint, type)
    }
    shown: list[inspect.Parameter] = []
    for name, parameter in inspect.signature(command).parameters.items():
        if name in groups:
            shown += _parameters_of(groups[name])
        else:
            shown.append(parameter.replace(annotation=hints[name], kind=inspect.Parameter.KEYWORD_ONLY))

    @functools.wraps(command)
    def with_groups(**given: Any) -> None:
        made = {
            name: group(**{field.name: given.pop(field.name) for field in dataclasses.fields(group)})
            for name, group in groups.items()
        }
        command(**made, **given)

    with_groups.__signature__ = inspect.Signature(shown)  # type: ignore[attr-defined]
    with_groups.__annotations__ = {parameter.name: parameter.annotation for parameter in shown}
    return with_groups


def _parameters_of(group: type[Any]) -> list[inspect.Parameter]:
    hints = get_type_hints(group, include_extras=True)
    return [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=_default_of(field),
            annotation=hints[field.name],
        )
        for field in dataclasses.fields(group)
    ]


def _default_of(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return inspect.Parameter.empty if field.default is dataclasses.MISSING else field.default


def parse_numbers(option: str, text: str) -> list[int]:
    """Whole numbers from zero on, by comma.

    Raises
        ConfigError: something else.
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() for part in parts):
        raise ConfigError(f"{option} takes whole numbers from 0 on, by comma; found {text!r}")
    return [int(part) for part in parts]


def parse_pair(text: str) -> tuple[str, str]:
    """``NAME=VALUE``; raises ConfigError."""
    name, separator, value = text.partition("=")
    if not (name.strip() and separator and value.strip()):
        raise ConfigError(f"expected NAME=VALUE, found {text!r}")
    return name.strip(), value.strip()

"""Deploying what is absent or defined anew; whatever an operator changed on the server stays."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import VariableCreate, VariableUpdate, WorkPoolCreate
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterName
from prefect.client.schemas.objects import DeploymentSchedule
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.schedules import CronSchedule, IntervalSchedule, RRuleSchedule
from prefect.exceptions import ObjectNotFound
from prefect.workers.process import ProcessWorker

from icl_embed.errors import ConfigError

ROOT = Path(__file__).resolve().parents[1]
WORK_POOL = "local"
PREFECT = (sys.executable, "-m", "prefect")

Definition = dict[str, Any]  # a deployment in the form of prefect.yaml


def create_work_pool(client: SyncPrefectClient) -> None:
    """The pool of this machine's worker, unless it exists: its limit and its template are the operator's."""
    try:
        client.read_work_pool(WORK_POOL)
    except ObjectNotFound:
        template = ProcessWorker.get_default_base_job_template()
        client.create_work_pool(WorkPoolCreate(name=WORK_POOL, type="process", base_job_template=template))


@dataclass(frozen=True)
class _Change:
    """A definition that is not on the server yet."""

    definition: Definition
    fingerprint: str
    made: Definition  # what its predecessor made
    before: Definition  # what became of that

    def merged(self) -> Definition:
        return _merged(self.definition, self.made, self.before)


def deploy_changed(client: SyncPrefectClient, root: Path = ROOT) -> list[str]:
    """Deploy what is absent or was defined differently at our last deployment; returns the names.

    Beside every deployment the server keeps, as a Prefect variable, a hash of its definition and what the
    definition made of it. A value that is another one now was changed by an operator, and goes before a new
    definition's.

    Raises
        ConfigError: Prefect refuses a definition.
    """
    project = yaml.safe_load((root / "prefect.yaml").read_text(encoding="utf-8"))
    changes = []
    for entry in project["deployments"]:
        now, record = _read(client, entry), _record(client, entry)
        fingerprint = _fingerprint(root, project, entry)
        if now is None:
            changes.append(_Change(entry, fingerprint, {}, {}))
        elif record.get("definition") != fingerprint:
            before = described(now)
            # what another hand deployed is the operator's, but for where and how it runs
            made = record.get("made") or {name: before[name] for name in _RUNNING}
            changes.append(_Change(entry, fingerprint, made, before))
    if changes:
        _deploy({**project, "deployments": [change.merged() for change in changes]}, root)
    for change in changes:
        _remember(client, change)
    return [str(change.definition["name"]) for change in changes]


_RUNNING = ("description", "job_variables")


def described(deployment: DeploymentResponse) -> Definition:
    """What an operator can change of a deployment."""
    limit, options = deployment.global_concurrency_limit, deployment.concurrency_options
    limits: dict[str, Any] = {"limit": limit.limit} if limit else {}
    if limit and options:
        limits["collision_strategy"] = options.collision_strategy.value
    return {
        "description": deployment.description,
        "tags": deployment.tags,
        "paused": deployment.paused,
        "parameters": deployment.parameters,
        "job_variables": deployment.job_variables or {},
        "concurrency_limit": limits,
        "schedules": _by_timing([_schedule(schedule) for schedule in deployment.schedules]),
    }


def merge(new: Mapping[str, Any], then: Mapping[str, Any], now: Mapping[str, Any]) -> Definition:
    """``new`` with everything that was changed, added or removed between ``then`` and ``now``."""
    merged = {name: value for name, value in new.items() if name in now or name not in then}
    for name, value in now.items():
        if name in then and then[name] == value:
            continue
        both = isinstance(value, dict) and isinstance(merged.get(name), dict)
        merged[name] = merge(merged[name], then.get(name) or {}, value) if both else value
    return merged


def _merged(entry: Definition, then: Definition, now: Definition) -> Definition:
    """A definition of prefect.yaml with the operator's changes, in the form of prefect.yaml."""
    pool = dict(entry["work_pool"])
    new = {name: entry[name] for name in _CHANGEABLE if entry.get(name) is not None}
    new["job_variables"] = pool.get("job_variables") or {}
    new["schedules"] = _by_timing(entry.get("schedules") or [])
    if isinstance(new.get("concurrency_limit"), int):
        new["concurrency_limit"] = {"limit": new["concurrency_limit"]}
    merged = merge(new, then, now)
    pool["job_variables"] = merged.pop("job_variables")
    return {
        **entry,
        **merged,
        "work_pool": pool,
        "concurrency_limit": merged.get("concurrency_limit") or None,
        "schedules": list(merged["schedules"].values()),
    }


_CHANGEABLE = ("description", "tags", "paused", "parameters", "concurrency_limit")


def _made(then: Mapping[str, Any], before: Mapping[str, Any], after: Mapping[str, Any]) -> Definition:
    """What the definition alone made of a deployment: its looks after, less what an operator changed."""
    made = {}
    for name in {*then, *after}:
        if then.get(name) == before.get(name):
            source = after
        elif isinstance(before.get(name), dict) and isinstance(then.get(name), dict):
            made[name] = _made(then[name], before[name], after.get(name) or {})
            continue
        else:
            source = then
        if name in source:
            made[name] = source[name]
    return made


def _by_timing(schedules: list[Definition]) -> dict[str, Definition]:
    """Schedules by what makes two of them the same one: the slug, or else when it runs."""
    recurrences = ("cron", "interval", "rrule")
    return {
        str(one.get("slug") or next(f"{name} {one[name]}" for name in recurrences if one.get(name))): one
        for one in schedules
    }


def _schedule(schedule: DeploymentSchedule) -> Definition:
    when = schedule.schedule
    form: Definition
    if isinstance(when, CronSchedule):
        form = {"cron": when.cron, "day_or": when.day_or}
    elif isinstance(when, IntervalSchedule):
        form = {"interval": when.interval.total_seconds(), "anchor_date": when.anchor_date.isoformat()}
    elif isinstance(when, RRuleSchedule):
        form = {"rrule": when.rrule}
    else:
        raise ConfigError(f"a schedule without recurrence cannot be kept: {when!r}; remove it in the UI")
    form |= {"timezone": when.timezone, "active": schedule.active, "slug": schedule.slug}
    return {**form, "parameters": schedule.parameters}


def _fingerprint(root: Path, project: Definition, entry: Definition) -> str:
    # the flow's file decides about the form that the UI shows for its parameters
    code = (root / str(entry["entrypoint"]).partition(":")[0]).read_text(encoding="utf-8")
    parts = json.dumps([str(root), project.get("pull"), entry, code], sort_keys=True)
    return hashlib.sha256(parts.encode()).hexdigest()


def _read(client: SyncPrefectClient, entry: Definition) -> DeploymentResponse | None:
    named = DeploymentFilter(name=DeploymentFilterName(any_=[str(entry["name"])]))
    found = client.read_deployments(deployment_filter=named)
    return next((one for one in found if one.entrypoint == entry["entrypoint"]), None)


def _variable(entry: Definition) -> str:
    return "icl_embed_deployment_" + re.sub("[^a-z0-9]+", "_", str(entry["name"]).lower())


def _record(client: SyncPrefectClient, entry: Definition) -> dict[str, Any]:
    variable = client.read_variable_by_name(_variable(entry))
    return variable.value if variable and isinstance(variable.value, dict) else {}


def _remember(client: SyncPrefectClient, change: _Change) -> None:
    deployment = _read(client, change.definition)
    if deployment is None:
        raise ConfigError(f"prefect deploy made no {change.definition['name']}; its log is above")
    wanted = _by_timing(change.merged()["schedules"])
    for schedule in list(deployment.schedules):
        if not _by_timing([_schedule(schedule)]).keys() & wanted.keys():
            # Prefect keeps what the definition dropped
            client.delete_deployment_schedule(deployment.id, schedule.id)
            deployment.schedules.remove(schedule)
    made = _made(change.made, change.before, described(deployment))
    name, value = _variable(change.definition), {"definition": change.fingerprint, "made": made}
    if client.read_variable_by_name(name) is None:
        client.create_variable(VariableCreate(name=name, value=value))
    else:
        client.update_variable(VariableUpdate(name=name, value=value))


def _deploy(project: Definition, root: Path) -> None:
    # prefect.yaml lies at the root of the checkout and names it by $PWD
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        yaml.safe_dump(project, file)
        file.flush()
        command = [*PREFECT, "--no-prompt", "deploy", "--all", "--prefect-file", file.name]
        ended = subprocess.run(command, cwd=root, env={**os.environ, "PWD": str(root)}, check=False)
    if ended.returncode:
        raise ConfigError("Prefect refused a deployment of prefect.yaml; its reason is above")

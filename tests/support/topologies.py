"""Parts of topologies as text: roles and pipelines, in a line each."""

from __future__ import annotations

import json

SUPPORT = "tests.support.roles:"


def role(name: str, kind: str, node: str, **more: object) -> str:
    """Return a role of one node; a kind with a capital is one of `tests.support.roles`."""
    kind = SUPPORT + kind if kind[0].isupper() else kind
    told = {"kind": kind, "nodes": [node], **more}
    return f"[roles.{name}]\n" + "".join(f"{key} = {json.dumps(told[key])}\n" for key in told)


def pipeline(name: str, take: str, give: str, *stages: tuple[str, str, str]) -> str:
    """Return a pipeline; inputs, outputs and renamed fields are separated by blanks.

    Args:
        name: of the pipeline.
        take: its inputs.
        give: its outputs.
        stages: each a role, what it takes and what it gives, as `field=name`.
    """
    lines = [
        f"[pipelines.{name}]",
        f"input = {json.dumps(take.split())}",
        f"output = {json.dumps(give.split())}",
    ]
    for one, takes, gives in stages:
        lines += [f"[[pipelines.{name}.stages]]", f'name = "{one}"', f'role = "{one}"']
        lines += [f"take = {_table(takes)}", f"give = {_table(gives)}"]
    return "\n".join(lines) + "\n"


def _table(pairs: str) -> str:
    named = (pair.split("=") for pair in pairs.split())
    return "{ " + ", ".join(f'{field} = "{name}"' for field, name in named) + " }"

"""The JSON that survivectl prints, as a JSON Schema: `check(verb, answer)` holds an answer to it."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

FILE = Path(__file__).parents[1] / "survivectl.schema.json"


@cache
def document() -> dict[str, Any]:
    """Return the schema, which is itself checked."""
    found: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
    Draft202012Validator.check_schema(found)
    return found


def verbs() -> set[str]:
    """Return the verbs whose answers are described."""
    return set(document()["$defs"]["verbs"])


def check(verb: str, answer: Any) -> None:
    """Hold an answer to the schema of its verb; AssertionError with what is wrong in each of the forms it may have."""
    whole = {**document(), "$ref": f"#/$defs/verbs/{verb}"}
    problems = [
        f"{'/'.join(map(str, inner.absolute_path))}: {inner.message}"
        for error in Draft202012Validator(whole).iter_errors(answer)
        for inner in (error.context or [error])
    ]
    assert not problems, "\n".join(problem[:300] for problem in problems)

"""The configuration reference: every field with its type, default, range and meaning, as Markdown.

Input: the pydantic models of configurations. Output: the text of docs/configuration.md.
Does not depend on: torch, transformers, files.
"""

from __future__ import annotations

import types
from collections.abc import Iterator
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

_HEAD = """# Configuration reference

Written by `erc-llm config > docs/configuration.md`; edit the descriptions in the source, not this page.

A configuration is a YAML file whose sections and fields are listed here. Fields that are left out keep their default;
unknown fields are errors. On the command line, `section.field=value` overrides a field. The ready-made files are in
[configs/](../configs/)."""

_BOUNDS = {"ge": "at least {}", "gt": "above {}", "le": "at most {}", "lt": "below {}"}


def reference() -> str:
    """The complete page."""
    from erc_llm.baselines.baseline_config import BaselineConfig
    from erc_llm.config import RunConfig
    from erc_llm.recipes.benchmark_config import BenchmarkConfig

    pages = (
        ("Training run", "`erc-llm train CONFIG [section.field=value ...]`", RunConfig),
        ("Baseline", "`erc-llm baseline CONFIG [section.field=value ...]`", BaselineConfig),
        ("Benchmark", "`erc-llm benchmark CONFIG --data FOLDER`", BenchmarkConfig),
    )
    parts = [_HEAD]
    for title, command, model in pages:
        parts += [f"## {title}", command, *_section(model, "")]
    return "\n\n".join(parts) + "\n"


def field_names(model: type[BaseModel], path: str = "") -> Iterator[str]:
    """The names of all fields as the command line takes them, such as `lora.rank`."""
    for name, field in model.model_fields.items():
        nested = _nested(field.annotation)
        if nested is None:
            yield f"{path}{name}"
        else:
            yield from field_names(nested, f"{path}{name}.")


def _section(model: type[BaseModel], path: str) -> Iterator[str]:
    """The table of a model's own fields, then one section for each field that has fields of its own."""
    plain = {name: field for name, field in model.model_fields.items() if _nested(field.annotation) is None}
    if plain:
        rows = ["| field | type | default | meaning |", "| --- | --- | --- | --- |"]
        yield "\n".join([*rows, *(_row(f"{path}{name}", field) for name, field in plain.items())])
    for name, field in model.model_fields.items():
        nested = _nested(field.annotation)
        if nested is not None:
            yield f"### `{path}{name}`"
            yield " ".join((nested.__doc__ or "").split())
            yield from _section(nested, f"{path}{name}.")


def _nested(annotation: Any) -> type[BaseModel] | None:
    """The pydantic model of a field that has fields of its own, or of the items of a list."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := _nested(part)) is not None), None)


def _row(name: str, field: FieldInfo) -> str:
    bounds = [_BOUNDS[key].format(value) for item in field.metadata for key, value in _constraints(item)]
    meaning = " ".join([field.description or "", f"({', '.join(bounds)})" if bounds else ""]).strip()
    cells = (f"`{name}`", _type(field.annotation), _default(field), meaning)
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _constraints(item: Any) -> Iterator[tuple[str, Any]]:
    return ((key, getattr(item, key)) for key in _BOUNDS if getattr(item, key, None) is not None)


def _type(annotation: Any) -> str:
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return ", ".join(f"`{part}`" for part in parts)
    if origin in (Union, types.UnionType):
        return " or ".join(_type(part) for part in parts if part is not type(None))
    if origin is tuple:
        return f"list of {_type(parts[0])}"
    if origin is dict:
        return f"{_type(parts[0])} to {_type(parts[1])}"
    if hasattr(annotation, "__metadata__"):
        return _type(parts[0])
    return {"str": "text", "int": "whole number", "float": "number", "bool": "true or false"}[annotation.__name__]


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.default
    if value is None or value in ((), {}):
        return "none"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"

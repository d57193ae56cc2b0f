"""Configuration files: reads YAML and `key=value` overrides, and reports all mistakes at once.

Input: a kind of `Section`, a file and overrides. Output: a frozen section.
Does not depend on: the fields of a configuration.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from erc_llm.errors import ConfigError
from erc_llm.resources import configs_dir


class Section(BaseModel):
    """Base of all configuration sections: frozen; unknown fields are mistakes."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False)


Checked = TypeVar("Checked", bound=Section)


def load_section(kind: type[Checked], source: str | Path, overrides: Sequence[str] = ()) -> Checked:
    """Read a configuration file of a given kind.

    Args:
        kind: Type of the configuration.
        source: A YAML file, or the name of one that comes with the package.
        overrides: `key.sub=value` texts; values are parsed as YAML.

    Raises:
        ConfigError: The file or an override has mistakes; the message lists all of them, one per line.
    """
    path = find_config(source)
    return resolve(kind, read_yaml(path), overrides, str(path))


def resolve(kind: type[Checked], content: dict[str, Any], overrides: Sequence[str], source: str) -> Checked:
    """`load_section` for the content of a file; `source` is the file's name in messages."""
    config, mistakes = resolve_valid(kind, content, overrides)
    if mistakes:
        count = "1 mistake" if len(mistakes) == 1 else f"{len(mistakes)} mistakes"
        raise ConfigError(f"{source}: {count}\n" + "\n".join(f"  {m}" for m in mistakes))
    assert config is not None
    return config


def resolve_valid(
    kind: type[Checked], content: dict[str, Any], overrides: Sequence[str]
) -> tuple[Checked | None, list[str]]:
    """The configuration without the fields that have mistakes, and all mistakes.

    Args:
        kind: Type of the configuration.
        content: Content of a file; the overrides are written into it.
        overrides: As for `load_section`.

    Returns:
        The configuration, with the default in place of each field that has a mistake, or None if that is none either;
        and the mistakes, each as `field: what is wrong`.
    """
    mistakes = []
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals or not key:
            mistakes.append(f"override '{override}': expected key=value, such as seed=14")
            continue
        try:
            _set(content, key.split("."), yaml.safe_load(value))
        except (yaml.YAMLError, ValueError):
            mistakes.append(f"override '{override}': the value is not YAML: {value}")
        except TypeError:
            mistakes.append(f"override '{override}': '{key}' is inside a field that has no subfields")
    try:
        return kind.model_validate(content), mistakes
    except ValidationError as error:
        mistakes += dict.fromkeys(_explain(kind, item) + _origin(item, overrides) for item in error.errors())
        return _valid_part(kind, copy.deepcopy(content), error), mistakes


def _valid_part(kind: type[Checked], content: dict[str, Any], error: ValidationError) -> Checked | None:
    """The configuration after its wrong fields are removed, with what gets wrong by that; None if nothing helps."""
    while wrong := {_existing(content, item["loc"]) for item in error.errors()} - {()}:
        for path in wrong:
            _remove(content, path)
        try:
            return kind.model_validate(content)
        except ValidationError as next_error:
            error = next_error
    return None


def _existing(content: dict[str, Any], location: Sequence[int | str]) -> tuple[str, ...]:
    """The part of a location that exists as nested fields: up to the wrong field, or to what lacks a field."""
    path: list[str] = []
    inner: Any = content
    for part in location:
        if not isinstance(inner, dict) or part not in inner:
            break
        path.append(str(part))
        inner = inner[part]
    return tuple(path)


def _remove(content: dict[str, Any], path: Sequence[str]) -> None:
    inner: Any = content
    for part in path[:-1]:
        inner = inner.get(part)
        if inner is None:
            return  # a section above it was removed already
    inner.pop(path[-1], None)


def find_config(source: str | Path) -> Path:
    """The configuration file of this path, or the packaged one of this name.

    Raises:
        ConfigError: There is no such file.
    """
    path = Path(source)
    if path.is_file():
        return path
    packaged = configs_dir() / f"{path.name.removesuffix('.yaml')}.yaml"
    if packaged.is_file() and path.parent.name in ("", "configs"):
        return packaged
    known = ", ".join(packaged_configs())
    raise ConfigError(f"{source}: no such configuration file; the package contains: {known}")


def packaged_configs() -> list[str]:
    """Names of the packaged configurations, sorted."""
    return sorted(path.stem for path in configs_dir().glob("*.yaml"))


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file; empty for an empty file.

    Raises:
        ConfigError: The file is not UTF-8, not valid YAML, or not a mapping.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 at byte {error.start}; save the file as UTF-8") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{path}:{mark.line + 1}" if mark else str(path)
        raise ConfigError(f"{place}: broken YAML: {getattr(error, 'problem', error)}") from error
    except ValueError as error:  # a date or number that YAML recognises but Python cannot represent
        raise ConfigError(f"{path}: broken YAML: {error}{_place_of_bad_scalar(path)}; put it in quotes") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: expected fields such as `corpus:` and `lora:`, found {type(content).__name__}")
    return content


def _set(content: dict[str, Any], keys: Sequence[str], value: Any) -> None:
    for key in keys[:-1]:
        if content.get(key) is None:
            content[key] = {}
        content = content[key]
        if not isinstance(content, dict):
            raise TypeError(key)
    content[keys[-1]] = value


def _place_of_bad_scalar(path: Path) -> str:
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            yaml.safe_load(line.partition(":")[2])
        except ValueError:
            return f" in line {number}: {line.strip()}"
        except yaml.YAMLError:
            continue
    return ""


def _explain(kind: type[Section], item: Mapping[str, Any]) -> str:
    location = item["loc"]
    # pydantic reports one mistake per type of this field; a value error concerns the meaning and is kept.
    if location[:2] == ("lora", "target_modules") and item["type"] != "value_error":
        return (
            f"lora.target_modules: expected `all-linear`, a pattern, or a list of layer names, found {item['input']!r}"
        )
    field = ".".join(str(part) for part in location) or "(whole file)"
    if item["type"] == "extra_forbidden":
        return f"{field}: no such field; {_fields_beside(kind, item['loc'])}"
    found = item.get("input")
    return f"{field}: {item['msg']}" + ("" if isinstance(found, (dict, list)) else f", found {found!r}")


def _origin(item: Mapping[str, Any], overrides: Sequence[str]) -> str:
    field = ".".join(str(part) for part in item["loc"])
    given = [o for o in overrides if o.partition("=")[0] == field]
    return f" (from the override {given[-1]})" if given else ""


def _fields_beside(kind: type[Section], location: Sequence[int | str]) -> str:
    section: Any = kind
    for part in location[:-1]:
        section = section.model_fields[part].annotation
        section = next((t for t in getattr(section, "__args__", ()) if hasattr(t, "model_fields")), section)
    return "expected one of " + ", ".join(section.model_fields)

"""Output checks: whether the run directory is free and can be written, and what a run writes fits on its disk.

Input: a configuration, and the number of trainable parameters. Output: findings.
Does not depend on: corpora, prompts, models.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from erc_llm.config import RunConfig
from erc_llm.planning.compute import written_bytes
from erc_llm.planning.disk_space import check_space, check_writable
from erc_llm.planning.findings import Finding, collected
from erc_llm.runs.directory import existing_run


def check_output(config: RunConfig, resume: bool) -> Iterator[Finding]:
    """Errors for a run directory that training would refuse, or that cannot be written.

    Args:
        config: The configuration.
        resume: Whether the run is to be continued.
    """
    folder, findings = Path(config.output) / config.name, list[Finding]()
    remedy = "name=OTHER starts another run; `train --resume` continues or reuses one of the same configuration"
    with collected(findings, "name", remedy):
        existing_run(folder, config, resume)
    yield from findings
    if refused := check_writable(folder, "output", "set output= to a folder that you may write, or change its owner"):
        yield refused


def check_run_space(config: RunConfig, trainable: int) -> Finding | None:
    """An error if the disk of the run directory has no room for an adapter of this size and its checkpoints."""
    needed, what = written_bytes(trainable, config.training.average_last > 0)
    remedy = "make room there, set output= to another disk, or use a smaller lora.rank"
    return check_space(Path(config.output) / config.name, needed, what, "output", remedy)

"""Model card of an export, in the form that the Hugging Face hub reads.

Input: the records of the run and of the export. Output: Markdown with a YAML header.
Does not depend on: models, predictions tables, how metrics are measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from erc_llm.config import RunConfig
from erc_llm.runs.exported import ExportRecord, Measured
from erc_llm.runs.manifest import Manifest

_LICENCES = {  # beginning of a hub id to the hub's name of the licence, where that holds for all of them
    "HuggingFaceTB/SmolLM2-": "apache-2.0",
    "meta-llama/Llama-2-": "llama2",
    "mistralai/Mistral-7B-": "apache-2.0",
    "Qwen/Qwen2.5-0.5B": "apache-2.0",
    "Qwen/Qwen2.5-1.5B": "apache-2.0",
    "Qwen/Qwen2.5-7B": "apache-2.0",
}
_EMORYNLP = ("original", "aligned")  # its versions


def licence_of(base: str) -> str | None:
    """The hub's name of a base model's licence; None if it is not known here."""
    return next((licence for start, licence in _LICENCES.items() if base.startswith(start)), None)


def model_card(
    record: ExportRecord,
    config: RunConfig,
    manifest: Manifest,
    *,
    licence: str,
    leakage: Mapping[str, str],
    load: str,
    answers: str,
) -> str:
    """The card.

    Args:
        record: What the export is.
        config: The run's configuration.
        manifest: The run's manifest.
        licence: The hub's name of the base model's licence.
        leakage: What the run had seen, by the name of the question.
        load: The commands that load this form.
        answers: How its answers are chosen: prior, calibration and decision rule, in words.
    """
    from huggingface_hub import ModelCard, ModelCardData

    data = ModelCardData(
        language="en",
        license=licence,
        base_model=record.base,
        library_name="peft" if record.form in ("peft", "gguf-lora") else "transformers",
        pipeline_tag="text-generation",
        tags=["emotion-recognition-in-conversation", "erc-llm", record.form],
    )
    shares = ", ".join(f"{n} {100 * s:.1f} %" for n, s in zip(manifest.labels, manifest.train_shares, strict=True))
    text = _TEXT.format(
        name=config.name,
        base=record.base,
        described=manifest.base_model,
        hash=manifest.base_model_sha256[:12],
        form=record.form,
        stored=record.stored,
        labels=", ".join(manifest.labels),
        context=manifest.context,
        corpus=manifest.corpus_name,
        version=manifest.corpus_version,
        corpus_hash=(manifest.train_sha256 or manifest.corpus_sha256)[:12],
        shares=shares,
        template=(manifest.template_sha256 or "")[:12],
        answers=answers,
        metrics=_metrics(record.measured),
        leakage="\n".join(f"- {question}: {found}" for question, found in leakage.items()),
        probes=record.probes,
        scored_in=record.scored_in,
        largest=record.largest_difference,
        flips=record.flips,
        tolerance=record.tolerance,
        verified_by=record.verified_by,
        on_original=""
        if record.on_original is None
        else f" It was trained on its base in NF4; on the base in its own precision: {record.on_original:.4f}.",
        labels_are=_FICTION if manifest.corpus_version in _EMORYNLP else _OWN,
        attribution=_attribution(manifest),
        load=load,
        licence=licence,
        run_id=manifest.run_id,
        seed=manifest.seed,
        commit=manifest.commit or "not known",
        versions=", ".join(f"{name} {version}" for name, version in manifest.versions.items()),
    )
    return str(ModelCard(f"---\n{data.to_yaml()}\n---\n\n{text}"))


def _attribution(manifest: Manifest) -> str:
    """The sources of the data, where they are known."""
    parts = []
    if manifest.corpus_version in _EMORYNLP:
        parts.append(" EmoryNLP: Emory University, Apache-2.0.")
    if manifest.corpus_version == "meld" or " on meld (" in (manifest.started_from or ""):
        parts.append(" MELD: Poria et al. 2019, GPL-3.0.")
    return "".join(parts)


def _metrics(measured: Sequence[Measured]) -> str:
    if not measured:
        return "None was given to the export."
    rows = ["| measured on | metric | % | 95 % interval |", "| --- | --- | ---: | ---: |"]
    for found in measured:
        bounds = "" if found.low is None or found.high is None else f"{100 * found.low:.2f} to {100 * found.high:.2f}"
        rows.append(f"| {found.split} | {found.metric} | {100 * found.value:.2f} | {bounds} |")
    return "\n".join(rows)


_FICTION = """EmoryNLP's labels are of fiction, the series Friends, by crowd workers who agreed little (kappa about
0.14). The labels say how a scripted line reads, not what a person feels."""
_OWN = "The labels say how a line was annotated, not what a person feels."

_TEXT = """# {name}

Labels each utterance of a conversation with one emotion of: {labels}. A LoRA adapter of [{base}](https://huggingface.co/{base})
({described}, weights {hash}), trained with erc-llm. This export: {form}, {stored}.

## Use

```
{load}
```

The prompt is `prompt.jinja` (hash {template}), context `{context}`; labels are scored exactly, each with its end
tokens. Answers: {answers}.

## Metrics

{metrics}

## Data

Corpus {corpus}, version {version} (hash of train {corpus_hash}). Labels of train: {shares}.

What the model had seen:

{leakage}

## Intended use and limits

Research on emotion recognition in conversation. {labels_are} **Not for judging real people**: no hiring, monitoring,
diagnosis or policing.

## Verification

After it was written, this export was loaded in a fresh process by {verified_by}, and scored {probes} prompts whose
expected scores are in `probes.json` (computed in {scored_in}). Largest difference of a probability: {largest:.4f}
(accepted up to {tolerance}); most probable labels that differ: {flips}.{on_original}
`erc-llm export --verify FOLDER` repeats it.

## Provenance

Run {run_id}, seed {seed}, commit {commit}; {versions}. Base model under {licence}.{attribution}
"""

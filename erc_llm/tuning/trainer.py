"""Fine-tuning: trains a LoRA adapter on token trees with TRL's `SFTTrainer`.

The loss of a step is the weighted mean over its targets of their losses (`erc_llm.tuning.objective`), however many
forests and processes the step is split into. If weights are not normalised, the weighted sum is divided by the number
of targets instead of the sum of their weights. Noise on the embeddings (NEFTune: Jain et al., "NEFTune: Noisy
Embeddings Improve Instruction Finetuning", 2023) is a hook of transformers, which adds it in training mode only.

Input: a PEFT model, a `StepOrder`, a function that builds a scene's trees, and callbacks (scores, log, checkpoints).
Output: the trained adapter in the model, and checkpoints to resume from.
Does not depend on: prompts, corpora, metrics.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from datasets import Dataset
from peft.helpers import disable_input_dtype_casting
from safetensors import SafetensorError
from transformers import PrinterCallback, TrainerCallback, set_seed
from transformers.integrations import TensorBoardCallback, is_tensorboard_available
from trl import SFTConfig, SFTTrainer

from erc_llm.errors import ConfigError, RunError, UserError
from erc_llm.models.devices import gpu_peak, process_rank, usable_cores
from erc_llm.models.lr_schedules import LrSchedule, scheduler_name
from erc_llm.runs.directory import CHECKPOINTS
from erc_llm.trees.attention import forest_logits, require_tree_attention
from erc_llm.trees.forest import Forest, pack
from erc_llm.trees.likelihoods import answer_log_likelihoods
from erc_llm.tuning.averaging import AdapterAverage
from erc_llm.tuning.checkpoints import check_shared, keep_adapter, latest_checkpoint, rewind_adapter
from erc_llm.tuning.objective import Objective, divergence, require_gold, target_losses, target_weights
from erc_llm.tuning.order import Batch, StepOrder
from erc_llm.tuning.scene_trees import TreesOf
from erc_llm.tuning.smoothing import Rows

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class FitSettings:
    """The settings of an optimisation; see `TrainingConfig` and `SamplingConfig` for their meaning and units.

    `smoothed` is the result of `smoothed_labels`.
    """

    learning_rate: float
    lr_schedule: LrSchedule
    warmup: float
    weight_decay: float
    max_grad_norm: float
    accumulation: int
    gradient_checkpointing: bool
    bf16: bool
    fp16: bool
    use_cpu: bool
    seed: int
    log_every: int
    report_to: tuple[str, ...]
    run_name: str
    normalised: bool = True
    objective: Objective = "label"
    neftune: float = 0.0
    smoothed: Rows | None = None
    average_last: float = 0.0
    r_drop: float = 0.0
    planned_bytes: int | None = None


class TreeTrainer(SFTTrainer):
    """TRL's trainer for forests instead of padded rows."""

    def __init__(
        self,
        batches: Sequence[Batch],
        trees_of: TreesOf,
        settings: FitSettings,
        average: AdapterAverage | None,
        **kwargs: Any,
    ) -> None:
        self._batches = batches
        self._normalised = settings.normalised
        self._objective = settings.objective
        self._r_drop = settings.r_drop
        self._average = average
        rows = Dataset.from_dict({"batch": list(range(len(batches)))})
        super().__init__(train_dataset=rows, data_collator=_Collator(batches, trees_of), **kwargs)
        smoothed = settings.smoothed
        self._smoothed = None if smoothed is None else torch.tensor(smoothed, device=self.args.device)
        self.loss_is_scaled_for_ga = True  # type: ignore[assignment]  # compute_loss divides by the whole step's sum
        if self.args.fp16 and self.args.device.type == "cpu":  # accelerate leaves fp16 out on a CPU, without a word
            self.accelerator.native_amp = True
            self.accelerator.scaler = torch.amp.GradScaler("cpu")

    def _get_train_sampler(self, train_dataset: Any = None) -> torch.utils.data.Sampler[int]:
        # The steps' order is fixed; shuffling it here would break resuming.
        return torch.utils.data.SequentialSampler(range(len(self._batches)))

    def _get_num_items_in_batch(self, batch_samples: list[dict[str, Any]], device: torch.device) -> torch.Tensor | None:
        """The divisor of the loss of the whole optimizer step, over accumulation and processes.

        It is the sum of the targets' weights, or their number if weights are not normalised.
        """
        weights = [target_weights(batch["forest"]) for batch in batch_samples]
        if not self._normalised:
            weights = [torch.ones_like(weight) for weight in weights]
        amount = torch.stack([weight.sum() for weight in weights]).sum().to(device)
        total: torch.Tensor = self.accelerator.gather(amount).sum()
        return total

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        folder = Path(str(self.args.output_dir))
        checkpoint = folder / f"checkpoint-{self.state.global_step}"
        try:
            if process_rank() == 0:
                keep_adapter(folder.parent, checkpoint)
                if self._average is not None:
                    self._average.save(checkpoint)
            super()._save_checkpoint(model, trial)  # type: ignore[no-untyped-call]
        # A full disk is an OSError to Python, a RuntimeError to torch, and a SafetensorError to safetensors.
        except (OSError, RuntimeError, SafetensorError) as error:
            shutil.rmtree(checkpoint, ignore_errors=True)
            reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
            raise RunError(
                f"{folder}: a checkpoint cannot be written: {reason}; make room and continue with --resume"
            ) from error

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: Mapping[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor:
        """This forest's part of the step's loss: the weighted losses of its targets, divided by the step's divisor."""
        assert num_items_in_batch is not None
        assert not return_outputs
        forest: Forest = inputs["forest"]
        losses = self._question_losses(model, forest)
        loss: torch.Tensor = (losses * target_weights(forest)).sum() / num_items_in_batch
        # DDP averages gradients over processes; the loss is a sum over them.
        scaled: torch.Tensor = loss * self.accelerator.num_processes
        return scaled

    def _question_losses(self, model: torch.nn.Module, forest: Forest) -> torch.Tensor:
        """(questions,) loss of each question in nats: of one pass, or of two with the divergence between them."""

        def losses(likelihoods: torch.Tensor) -> torch.Tensor:
            return target_losses(likelihoods, forest, self._objective, self._smoothed)

        one = answer_log_likelihoods(forest_logits(model, forest), forest)
        if not self._r_drop:
            return losses(one)
        other = answer_log_likelihoods(forest_logits(model, forest), forest)
        return (losses(one) + losses(other)) / 2 + self._r_drop * divergence(one, other, forest)


class _Collator:
    """Builds the forest of one batch."""

    def __init__(self, batches: Sequence[Batch], trees_of: TreesOf) -> None:
        self._batches = batches
        self._trees_of = trees_of

    def __call__(self, rows: list[dict[str, int]]) -> dict[str, Any]:
        trees = []
        for row in rows:
            batch = self._batches[row["batch"]]
            trees += [tree for scene in batch.scenes for tree in self._trees_of(scene, batch.epoch)]
        forest = pack(trees)
        require_gold(forest)
        return {"input_ids": forest.input_ids, "forest": forest}


def fit(
    model: PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    order: StepOrder,
    trees_of: TreesOf,
    settings: FitSettings,
    folder: Path,
    callbacks: Sequence[TrainerCallback],
    resume: bool = False,
) -> None:
    """Train the adapter.

    Args:
        model: The base model with its adapter attached.
        tokenizer: Its tokenizer.
        order: Every optimizer step of the training run.
        trees_of: Builds the trees of a scene for an epoch.
        settings: The settings of the optimisation.
        folder: The run directory.
        callbacks: Callbacks for progress, log, selection scores and checkpoint times.
        resume: Continue from the latest complete checkpoint in the run directory, if there is one.

    Raises:
        UserError: The GPU has too little memory, or a checkpoint cannot be written or read.
        ConfigError: A logger of `report_to` is not installed.
    """
    require_tree_attention(model)
    average = AdapterAverage(settings.average_last, len(order.steps)) if settings.average_last else None
    averaging = [] if average is None else [average]  # first, so that the last evaluation scores the mean
    trainer = TreeTrainer(
        order.batches(),
        trees_of,
        settings,
        average,
        model=model,
        args=_arguments(settings, folder),
        processing_class=tokenizer,
        callbacks=[*averaging, *callbacks, *_tensorboard(settings.report_to, folder)],
    )
    trainer.remove_callback(PrinterCallback)
    for parameter in model.parameters():
        if parameter.requires_grad:  # TRL casts the adapter of a quantised model to bf16; ours stays in fp32
            parameter.data = parameter.data.float()
    set_seed(settings.seed)
    checkpoint = latest_checkpoint(folder) if resume else None
    if resume:
        check_shared(folder, checkpoint)
    if process_rank() == 0:
        rewind_adapter(folder, checkpoint)
    if average is not None and checkpoint is not None:
        average.restore(checkpoint, model)
    # Under autocast PEFT would cast every input of the fp32 adapter up and autocast would cast it down again, which
    # takes a tenth of the time.
    with disable_input_dtype_casting(model, active=settings.bf16 or settings.fp16):
        try:
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        except torch.OutOfMemoryError as error:
            raise out_of_memory(error, settings, trainer.state.global_step) from error


def _arguments(settings: FitSettings, folder: Path) -> SFTConfig:
    """The trainer's arguments; one process uses one device, however many GPUs are visible."""
    arguments = SFTConfig(
        output_dir=str(folder / CHECKPOINTS),
        num_train_epochs=1,
        per_device_train_batch_size=1,
        gradient_accumulation_steps=settings.accumulation,
        learning_rate=settings.learning_rate,
        lr_scheduler_type=scheduler_name(settings.lr_schedule),
        warmup_steps=settings.warmup,
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm,
        neftune_noise_alpha=settings.neftune or None,
        gradient_checkpointing=settings.gradient_checkpointing,
        gradient_checkpointing_kwargs={"use_reentrant": False},
        bf16=settings.bf16,
        fp16=settings.fp16,
        use_cpu=settings.use_cpu,
        seed=settings.seed,
        data_seed=settings.seed,
        logging_steps=settings.log_every,
        logging_first_step=True,
        logging_nan_inf_filter=False,
        ddp_find_unused_parameters=False,
        save_strategy="no",  # the checkpoint callback decides, by time
        save_total_limit=2,
        report_to=[name for name in settings.report_to if name != "tensorboard"],
        run_name=settings.run_name,
        disable_tqdm=True,
        **_feeding(settings.use_cpu),
        remove_unused_columns=False,
        dataset_kwargs={"skip_prepare_dataset": True},
        max_length=None,
        packing=False,
    )
    # Without a launcher transformers counts all visible GPUs and splits batches over them (`nn.DataParallel`), which
    # TRL refuses. The model is on `arguments.device` alone; transformers sets the same field for models that it splits.
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments


_WORKERS = 2  # building the trees of a step takes a few hundredths of a second, a step on a GPU not much more


def _feeding(use_cpu: bool) -> dict[str, Any]:
    """Arguments for how forests reach the device.

    For a GPU other processes, no more than there are cores, pack the next forests into pinned memory, from which they
    are copied while it computes. On a CPU such processes would only take the cores from the model. Where processes are
    not forked (Windows, macOS), the functions that build trees cannot be handed to them.
    """
    beside = 0 if use_cpu or sys.platform != "linux" else min(_WORKERS, usable_cores())
    return {
        "dataloader_pin_memory": not use_cpu,
        "dataloader_num_workers": beside,
        "dataloader_multiprocessing_context": "fork" if beside else None,
        "accelerator_config": {"non_blocking": not use_cpu},
    }


def _tensorboard(report_to: Sequence[str], folder: Path) -> list[TrainerCallback]:
    """TensorBoard's callback, writing into the run directory.

    transformers itself takes that folder from an environment variable of the whole process only.
    """
    if "tensorboard" not in report_to:
        return []
    if not is_tensorboard_available():
        raise ConfigError(
            "training.report_to: tensorboard is not installed; pip install 'erc-llm[tensorboard]', or leave it out"
        )
    from torch.utils.tensorboard import SummaryWriter

    if process_rank() != 0:
        return []
    return [TensorBoardCallback(SummaryWriter(log_dir=str(folder / "tensorboard")))]


def out_of_memory(error: torch.OutOfMemoryError, settings: FitSettings, step: int) -> UserError:
    """The error to raise if a GPU's memory is too small for training or for scoring the selection split."""
    found, peak = str(error).splitlines()[0], gpu_peak()
    if settings.planned_bytes is not None:
        peak += f", planned were {settings.planned_bytes / 2**30:.1f} GiB"
    more = "Raise" if settings.gradient_checkpointing else "Set training.gradient_checkpointing=true, raise"
    return UserError(
        f"out of GPU memory after {step} optimizer steps{peak} ({found}). {more} "
        f"training.accumulation (now {settings.accumulation}), or lower scoring.tokens_per_forest, which bounds "
        "the scoring of the selection split; then continue by the same command with these and --resume. Lowering "
        "training.tokens_per_step helps too, but changes the training steps: give that run another name="
    )

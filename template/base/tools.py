"""What a miner trains and encodes with: on one device, or on the ranks of a neuron of many."""

from template.base.conduct import MOMENTS, MinerParts
from template.base.feedback import RETURNED_SHARE, ErrorFeedback
from template.protocol.spec import RunSpec
from template.sync.spec_folder import SpecFolder
from template.training.checkpoint import LocalCheckpoint
from template.training.inner import InnerTrainer
from template.training.inner_loop import Trainer
from template.training.spread import Feedback


def make_trainer(parts: MinerParts, spec: RunSpec, saved: LocalCheckpoint) -> Trainer:
    """Model and AdamW, with the moments that were saved."""
    context = parts.context
    trainer: Trainer = (
        InnerTrainer(spec, context.device, context.inner)
        if context.ranks is None
        else context.ranks.trainer()
    )
    if context.ranks is not None:
        SpecFolder(context.run, context.state_dir).save_for_ranks(spec)
        trainer.follow(spec)  # the ranks may have been started by another
    trainer.recall(saved.values.get("inner_notes", {}))
    trainer.load_moments(saved.groups.get(MOMENTS, {}))
    return trainer


def follow(parts: MinerParts, spec: RunSpec, trainer: Trainer, feedback: Feedback) -> None:
    """Train and encode by another spec from now on; moments and feedback stay.

    SpecChanged where that needs a restart, for which the spec is then kept.
    """
    context = parts.context
    if context.ranks is not None:
        SpecFolder(context.run, context.state_dir).save_for_ranks(spec)
    trainer.follow(spec)
    feedback.follow(context.make_format(spec), spec.compression.error_feedback_decay)


def make_feedback(parts: MinerParts, spec: RunSpec, saved: LocalCheckpoint) -> Feedback:
    """Error feedback, with what was saved."""
    context, decay = parts.context, spec.compression.error_feedback_decay
    tensors = saved.groups.get("feedback", {})
    if context.ranks is not None:
        return context.ranks.feedback(decay, tensors, RETURNED_SHARE)
    return ErrorFeedback(context.make_format(spec), decay, tensors)

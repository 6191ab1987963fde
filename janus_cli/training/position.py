"""The position of a training, which every checkpoint holds."""

from __future__ import annotations

from dataclasses import dataclass

from janus_cli.training.best import rank


@dataclass
class Position:
    """step: updates done. epoch, batch: where the next update's data starts. bad: skipped updates in a row.
    best, best_loss, best_step: the best validation so far. since_best: validations since then without improvement.
    seconds: spent in updates. validation_due: the validation of this update was interrupted by a signal, or failed.
    """

    step: int = 0
    epoch: int = 0
    batch: int = 0
    bad: int = 0
    best: float | None = None
    best_loss: float | None = None
    best_step: int = 0
    since_best: int = 0
    seconds: float = 0.0
    validation_due: bool = False

    def validated(self, metric: str, value: float, loss: float) -> None:
        """Notes a validation. An equal one takes over, because it is the later one, but is no improvement."""
        before = rank(metric, {"loss": self.best_loss, metric: self.best})
        now = rank(metric, {"loss": loss, metric: value})
        self.validation_due, self.since_best = False, self.since_best + 1
        if now is not None and (before is None or now >= before):
            self.best, self.best_loss, self.best_step = value, loss, self.step
            self.since_best = 0 if before is None or now > before else self.since_best

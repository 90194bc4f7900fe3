"""Judge: an early stopping rule with all that it needs to know, sent along with a training."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from nasattn.evaluate import Evaluation
from nasattn.search.early_stop import EarlyStop, Training, training_of
from nasattn.search.trials import CURVE_DIGITS
from nasattn.train.loop import Epoch


@dataclass(frozen=True)
class Judge:
    """Judges one training by an early stopping rule and the trainings before it.

    It holds these as they were when the network was proposed, so that what it says depends neither
    on when others end nor on where it is asked. Curves are taken as they are stored.
    """

    rule: EarlyStop
    costs: Mapping[str, int]  # objectives known before training, with their signs
    peers: Sequence[Training]
    baseline: bool  # is never stopped
    estimators: Collection[str] = ()  # whose estimates count

    def stops(self, curve: Sequence[Epoch], known: Mapping[str, float]) -> bool:
        return self.rule.stops(self._training(curve, known), self.peers, baseline=self.baseline)

    def foretell(self, evaluation: Evaluation) -> float:
        """The top-1 that a stopped training would have ended with."""
        return self.rule.foretell(self._training(evaluation.curve, evaluation.known), self.peers)

    def _training(self, curve: Sequence[Epoch], known: Mapping[str, float]) -> Training:
        reached = (round(epoch.top1, CURVE_DIGITS) for epoch in curve)
        estimates = {name: known[name] for name in self.estimators if name in known}
        return training_of(reached, known, estimates, self.costs)

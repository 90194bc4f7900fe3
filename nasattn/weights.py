"""Facts: what the weights file of a trained network says of itself."""

import hashlib
from typing import Annotated, Any, ClassVar

from pydantic import Field
from torch import nn

from nasattn.baselines.baseline import Pictures
from nasattn.compress.fold import Folds, fold
from nasattn.compress.narrow import Cuts, narrow
from nasattn.model import build_model
from nasattn.spec import Line, Name
from nasattn.tensor_file import FileFacts
from nasattn.train.recipe import Recipe
from nasattn.zoo import NamedNetwork, get_network


class Facts(FileFacts):
    """A classifier's: `arch` has its strides for `resolution`; None is the reference `name`.

    A pruned network is `arch` and what was cut from it, in that order; a folded one has no norms
    any more where it says so, and is not trained again.
    """

    format: ClassVar[str] = "nasattn-1"
    noun: ClassVar[str] = "weights file"

    classes: Annotated[tuple[Name, ...], Field(min_length=2)]
    recipe: Recipe
    recipe_id: Line
    content_hash: Line  # of the data
    teacher: Line = ""  # whom it learned from beside the labels, and how; none: from labels alone
    pruned: Cuts = ()
    folded: Folds = ()

    @property
    def run(self) -> dict[str, Any]:
        return {
            "network": self.network_id,
            "resolution": self.resolution,
            "data": self.content_hash,
            "recipe": self.recipe.model_dump(mode="json", exclude={"name"}),
            "seed": self.seed,
            "init": self.init,
        } | ({"teacher": self.teacher} if self.teacher else {})

    @property
    def network_id(self) -> str:
        """The arch_id, or a reference's name; of a pruned network with 8 hex digits of the cuts."""
        found = super().network_id
        if self.pruned:
            cuts = "".join(cut.model_dump_json() for cut in self.pruned)
            found += f"-pruned-{hashlib.sha256(cuts.encode()).hexdigest()[:8]}"
        return f"{found}-folded" if self.folded else found

    @property
    def network(self) -> NamedNetwork:
        """The network without its weights, before it was folded. Raises UnknownNameError."""
        plan = self.arch or get_network(self.name).plan
        pictures = Pictures(self.resolution, len(self.classes))
        return NamedNetwork(self.name, plan, pictures, cuts=self.pruned)

    def build(self) -> nn.Module:
        """The network, with new weights. Raises UnknownNameError, WeightsError for cuts."""
        if self.arch is None:
            model = get_network(self.name).build(len(self.classes), self.resolution)
        else:  # whose strides are what they were trained with
            model = build_model(self.arch, len(self.classes))
        narrow(model, self.pruned, self.name)
        fold(model, self.folded, self.name)
        return model

"""Folding: the same answers without norms, and a file that says which."""

import pytest
import torch
from torch import Tensor, nn

from nasattn.compress.fold import find_folds, fold, fold_checked
from nasattn.errors import EvaluationError, WeightsError
from nasattn.zoo import get_network

NETWORKS = ("lam", "resnet20_cifar", "mobilenet_v2", "mobilenet_v3_small", "shufflenet_v2")


def settled(name: str) -> nn.Module:
    """A network of the zoo with batch norms that have seen something."""
    torch.manual_seed(0)
    model = get_network(name).build(5, 32)
    for part in model.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.normal_(part.bias, std=0.2)
            assert part.running_mean is not None
            assert part.running_var is not None
            nn.init.normal_(part.running_mean, std=0.2)
            nn.init.uniform_(part.running_var, 0.5, 1.5)
    return model.eval()


def norms(model: nn.Module) -> list[str]:
    return [name for name, part in model.named_modules() if isinstance(part, nn.BatchNorm2d)]


@pytest.fixture
def x() -> Tensor:
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", NETWORKS)
def test_fold_keeps_the_answers(name: str, x: Tensor) -> None:
    model = settled(name)
    with torch.inference_mode():
        expected = model(x)
    before = norms(model)
    folds = fold_checked(model, x, name)
    assert len(folds) == len(before)  # in these each norm follows a convolution
    assert norms(model) == []
    with torch.inference_mode():
        found = model(x)
    assert (found - expected).abs().max() <= 1e-4 * (expected.max() - expected.min())


def test_fold_is_the_formula() -> None:
    # y = (w x + b - mean) / sqrt(var + eps) * scale + shift, for one channel and a 1x1 kernel:
    # w = 3, b = 1, mean = 2, var + eps = 4, scale = 5, shift = 7: w' = 7.5, b' = 4.5
    conv, norm = nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1, eps=1.0)
    values = ((conv.weight, 3), (conv.bias, 1), (norm.weight, 5), (norm.bias, 7))
    with torch.no_grad():
        for tensor, value in values:
            assert tensor is not None
            tensor.fill_(value)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    norm.running_mean.fill_(2)
    norm.running_var.fill_(3)
    model = nn.Sequential(conv, norm)
    fold(model, (("0", "1"),), "net")
    assert (conv.weight.item(), conv.bias is not None and conv.bias.item()) == (7.5, 4.5)
    assert isinstance(model[1], nn.Identity)


def test_find_folds_leaves_norms_before_convolutions(x: Tensor) -> None:
    model = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3), nn.ReLU(), nn.BatchNorm2d(4))
    assert find_folds(model, x) == ()


class Twice(nn.Module):
    """A norm after two convolutions, and a convolution that is read beside its norm."""

    def __init__(self, *, shared: bool) -> None:
        super().__init__()
        self.a, self.b, self.norm = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
        self.shared = shared

    def forward(self, x: Tensor) -> Tensor:
        a: Tensor = self.a(x)
        if self.shared:
            return self.norm(a) + self.norm(self.b(x))  # type: ignore[no-any-return]
        return self.norm(a) + a  # type: ignore[no-any-return]


def test_find_folds_leaves_a_norm_that_runs_twice(x: Tensor) -> None:
    assert find_folds(Twice(shared=True).eval(), x) == ()


def test_fold_checked_refuses_where_the_convolution_is_read_elsewhere(x: Tensor) -> None:
    model = Twice(shared=False)
    assert model.norm.running_mean is not None
    model.norm.running_mean.fill_(3.0)
    with pytest.raises(EvaluationError, match="net: answers differ by"):
        fold_checked(model, x, "net")


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        (("0", "9"), "folds .*, which are not there"),
        (("0", "1"), "cannot fold '1' into '0'"),  # no norm
        (("1", "2"), "cannot fold '2' into '1'"),  # no convolution
        (("0", "2"), "cannot fold '2' into '0'"),  # of other channels
    ],
)
def test_fold_refuses_what_a_file_may_claim(pair: tuple[str, str], message: str) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.BatchNorm2d(5))
    with pytest.raises(WeightsError, match=f"file: {message}"):
        fold(model, (pair,), "file")

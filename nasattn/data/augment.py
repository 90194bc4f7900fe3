"""Augmentation on whole batches of pictures in memory."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Generator, Tensor
from torch.nn.functional import affine_grid, grid_sample, pad

# Eigenvalues and eigenvectors of the RGB covariance of ImageNet (Krizhevsky et al., 2012), as
# they have been published with the AlexNet reimplementations; pixel values in 0 .. 1.
RGB_EIGENVALUES = (0.2175, 0.0188, 0.0045)
RGB_EIGENVECTORS = (
    (-0.5675, 0.7192, 0.4009),
    (-0.5808, -0.0045, -0.8140),
    (-0.5836, -0.6948, 0.4203),
)


@dataclass(frozen=True)
class Normalise:
    """uint8 pixels to floats of mean 0 and spread 1 a channel, by the training split's figures."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def of(cls, images: Tensor) -> "Normalise":
        """Measure uint8 images (N, C, H, W)."""
        mean, std = [], []
        for channel in images.unbind(1):  # one channel at a time bounds the memory
            pixels = channel.float() / 255
            mean.append(pixels.mean().item())
            std.append(max(pixels.std(correction=0).item(), 1e-3))  # a flat channel stays finite
        return cls(tuple(mean), tuple(std))

    def __call__(self, x: Tensor) -> Tensor:
        """Floats 0 .. 1 (N, C, H, W) -> normalised, channels last in memory."""
        mean = torch.tensor(self.mean, device=x.device).view(1, -1, 1, 1)
        std = torch.tensor(self.std, device=x.device).view(1, -1, 1, 1)
        return ((x - mean) / std).contiguous(memory_format=torch.channels_last)


def to_float(x: Tensor) -> Tensor:
    """uint8 0 .. 255 -> float 0 .. 1."""
    return x.float() / 255


def uniform(n: int, bound: float, rng: Generator) -> Tensor:
    """n values in -bound .. bound, shaped (n, 1, 1, 1)."""
    return (torch.rand(n, 1, 1, 1, generator=rng) * 2 - 1) * bound


def crop(x: Tensor, share: float, rng: Generator) -> Tensor:
    """Pad by a share of the side, cut a random window of the old size: (N, C, H, W) -> same."""
    n, _, h, w = x.shape
    border = max(round(share * h), 1)
    padded = pad(x, (border,) * 4)  # (N, C, H + 2b, W + 2b)
    top, left = torch.randint(0, 2 * border + 1, (2, n), generator=rng)
    rows = (top[:, None] + torch.arange(h)).to(x.device)  # (N, H)
    cols = (left[:, None] + torch.arange(w)).to(x.device)  # (N, W)
    index = torch.arange(n, device=x.device)[:, None, None]
    return padded.permute(0, 2, 3, 1)[index, rows[:, :, None], cols[:, None, :]].permute(0, 3, 1, 2)


def flip(x: Tensor, share: float, rng: Generator) -> Tensor:
    """Mirror a share of the pictures left to right."""
    chosen = (torch.rand(len(x), generator=rng) < share).view(-1, 1, 1, 1).to(x.device)
    return torch.where(chosen, x.flip(3), x)


def rotate(x: Tensor, degrees: float, rng: Generator) -> Tensor:
    """Turn each picture by up to `degrees` either way; corners fill with black."""
    angle = torch.deg2rad(uniform(len(x), degrees, rng)).flatten()
    zero = torch.zeros_like(angle)
    rows = (angle.cos(), -angle.sin(), zero, angle.sin(), angle.cos(), zero)
    theta = torch.stack(rows, 1).view(-1, 2, 3).to(x.device)
    grid = affine_grid(theta, list(x.shape), align_corners=False)
    return grid_sample(x, grid, align_corners=False)


def brightness(x: Tensor, strength: float, rng: Generator) -> Tensor:
    """Scale each picture by 1 - strength .. 1 + strength."""
    return (x * (1 + uniform(len(x), strength, rng)).to(x.device)).clamp(0, 1)


def contrast(x: Tensor, strength: float, rng: Generator) -> Tensor:
    """Scale each picture's distance from its mean by 1 - strength .. 1 + strength."""
    mean = x.mean((1, 2, 3), keepdim=True)
    return (mean + (x - mean) * (1 + uniform(len(x), strength, rng)).to(x.device)).clamp(0, 1)


def lighting(x: Tensor, strength: float, rng: Generator) -> Tensor:
    """Shift each picture's colour along ImageNet's principal components (Krizhevsky et al., 2012).

    `strength` is the standard deviation of the shift, in units of the eigenvalues (0.1 there).
    """
    alpha = torch.randn(len(x), 3, generator=rng) * strength * torch.tensor(RGB_EIGENVALUES)
    shift = alpha @ torch.tensor(RGB_EIGENVECTORS).T  # (N, 3)
    return x + shift[:, :, None, None].to(x.device)


Step = Callable[[Tensor, float, Generator], Tensor]

# In order of application. Those before "float" work on bytes, which are four times cheaper to move.
ON_BYTES: dict[str, Step] = {"crop": crop, "flip": flip}
ON_FLOATS: dict[str, Step] = {
    "rotate": rotate,
    "brightness": brightness,
    "contrast": contrast,
    "lighting": lighting,
}


def augment(x: Tensor, strengths: dict[str, float], rng: Generator) -> Tensor:
    """Random variants of uint8 pictures (N, C, H, W) as floats 0 .. 1.

    `strengths` names the steps and how strong each is; a step at 0 is left out. The random
    numbers come from `rng` (on the CPU) alone, so that one seed gives one stream on every device.
    """
    for name, step in ON_BYTES.items():
        if strengths.get(name):
            x = step(x, strengths[name], rng)
    x = to_float(x)
    for name, step in ON_FLOATS.items():
        if strengths.get(name):
            x = step(x, strengths[name], rng)
    return x

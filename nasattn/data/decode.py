"""From a picture file to (3, R, R) bytes."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from nasattn.data.pool import Pixels, Unreadable
from nasattn.data.resize import fit

# the only decoders that a file may reach, whatever its ending says: EPS would run Ghostscript
FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "GIF", "TIFF", "PPM")


def decode_file(path: Path, resolution: int) -> Pixels:
    """The picture in a file, upright, in RGB on white, fitted -> (3, R, R); or Unreadable."""
    try:
        with path.open("rb") as file, Image.open(file, formats=FORMATS) as image:
            ImageOps.exif_transpose(image, in_place=True)
            return fit(to_rgb(image), resolution)
    except Exception as e:  # a broken file makes the decoders raise anything; each one is named
        raise Unreadable(_reason(path, e)) from e


def to_rgb(image: Image.Image) -> Image.Image:
    """In RGB: 16-bit values scaled by 255/65535, transparency laid on white."""
    if image.mode.startswith(("I", "F")):
        image = _to_8_bits(image)
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return image.convert("RGB")


def _to_8_bits(image: Image.Image) -> Image.Image:
    """A picture of integers from 0 to 65535 as one of bytes."""
    values = np.asarray(image)
    if values.dtype.kind not in "iu" or values.min() < 0 or values.max() > 65535:
        raise Unreadable(f"mode {image.mode!r} with values that are no integers from 0 to 65535")
    return Image.fromarray(np.rint(values * (255 / 65535)).astype(np.uint8))


def _reason(path: Path, error: Exception) -> str:
    """Why a file could not be decoded, in a few words and one line."""
    if isinstance(error, UnidentifiedImageError):
        return "empty file" if path.stat().st_size == 0 else "not a picture that we know"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split()) or type(error).__name__

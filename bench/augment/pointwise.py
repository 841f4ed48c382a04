"""Operations on single values: invert, solarize, posterize, solarize-add, autocontrast, equalize.

The first four are bit tricks on uint8: a comparison gives 0 or 1, its negative 0 or 255, and an
exclusive or with 255 is 255 - x.  Autocontrast and equalize look values up in a table that each
image and channel has of its own.  All take images (B, C, H, W) uint8 and return such a batch.
"""

from functools import lru_cache

import torch

Tensor = torch.Tensor


def invert(images: Tensor) -> Tensor:
    """255 - x."""
    return images ^ 255


def solarize(images: Tensor, amount: Tensor) -> Tensor:
    """Inverts the values that are at least 256 - amount.

    Args:
        images: (B, C, H, W) uint8.
        amount: (B,) float64 in [0, 256] on the host; fractions as Pillow takes thresholds.
    """
    threshold = torch.ceil(256 - amount).long()
    everything = threshold <= 0
    above = torch.where(everything, 255, threshold - 1)
    flip = torch.where(everything, 255, 0)
    keep = torch.full_like(threshold, 255)
    return bits(images, _values(above, images), _values(flip, images), _values(keep, images))


def posterize(images: Tensor, removed: Tensor) -> Tensor:
    """Clears the lowest bits.

    Args:
        images: (B, C, H, W) uint8.
        removed: (B,) on the host, how many bits, 0..8; fractions are cut off.
    """
    mask = 256 - 2 ** removed.long()
    return images & _values(mask, images)


def solarize_add(images: Tensor, amount: Tensor) -> Tensor:
    """Adds to values below 128, up to 255.

    Args:
        images: (B, C, H, W) uint8.
        amount: (B,) on the host, 0..255; fractions are cut off.
    """
    return add_below(images, _values(amount.long(), images))


def bits(images: Tensor, above: Tensor, flip: Tensor, keep: Tensor) -> Tensor:
    """Solarize, invert and posterize in one expression, with (B, 1, 1, 1) uint8 parameters.

    Inverts what is greater than `above`, then flips all bits where `flip` is 255, then masks by
    `keep`.
    """
    greater = (images > above).view(torch.uint8).neg_()
    return greater.bitwise_xor_(images).bitwise_xor_(flip).bitwise_and_(keep)


def add_below(images: Tensor, amount: Tensor) -> Tensor:
    """Saturating addition of (B, 1, 1, 1) uint8 to the values below 128."""
    dark = (images < 128).view(torch.uint8).neg_()
    added = dark.bitwise_and_(amount)
    return torch.minimum(images, 255 - added).add_(added)


def autocontrast(images: Tensor) -> Tensor:
    """Stretches each channel to 0..255; a channel of one value stays."""
    return look_up(images, autocontrast_tables(images))


def equalize(images: Tensor) -> Tensor:
    """Makes each channel's histogram as flat as a table can."""
    return look_up(images, equalize_tables(images))


def look_up(images: Tensor, tables: Tensor) -> Tensor:
    """Replaces x by tables[b, c, x], tables (B, C, 256) uint8."""
    return tables.gather(2, images.flatten(2).long()).view(images.shape)


def autocontrast_tables(images: Tensor) -> Tensor:
    """Each channel's table (B, C, 256), from its least and greatest value."""
    flat = images.flatten(2)
    low, high = flat.amin(2).long(), flat.amax(2).long()
    return (
        _stretches(str(images.device))
        .index_select(0, (low * 256 + high).view(-1))
        .view(*low.shape, 256)
    )


def equalize_tables(images: Tensor) -> Tensor:
    """Each channel's table (B, C, 256), from its histogram.

    With h the histogram and step = (pixels - count of the greatest value) // 255, value i becomes
    (step // 2 + sum of h below i) // step, at most 255; the identity where step is 0.

    Source: Pillow's ImageOps.equalize, in integers.
    """
    count, channels = images.shape[:2]
    flat = images.flatten(2)
    histogram = _histograms(flat.reshape(count * channels, -1))
    last = histogram.gather(1, flat.amax(2).view(-1, 1).long())
    step = torch.div(flat.shape[2] - last, 255, rounding_mode="trunc")
    below = histogram.cumsum(1, dtype=torch.int32).sub_(histogram)
    divisor = step.clamp_min(1)
    table = below.add_(step >> 1).floor_divide_(divisor).clamp_max_(255)
    same = torch.arange(256, dtype=torch.int32, device=images.device)
    unchanged = step == 0
    table = table * ~unchanged + same * unchanged
    return table.to(torch.uint8).view(count, channels, 256)


def _histograms(rows: Tensor) -> Tensor:
    """Counts (R, 256) int32 of the values of each row (R, N) uint8."""
    if rows.device.type == "cuda":  # bincount would wait for the device to know its greatest value
        counts = torch.zeros(len(rows), 256, dtype=torch.int32, device=rows.device)
        one = counts.new_ones(()).expand(rows.shape)
        return counts.scatter_add_(1, rows.long(), one)
    offsets = torch.arange(0, len(rows) * 256, 256, dtype=torch.int32)
    shifted = rows.to(torch.int32).add_(offsets[:, None])
    return torch.bincount(shifted.view(-1), minlength=len(rows) * 256).view(-1, 256).int()


@lru_cache(maxsize=4)
def _stretches(device: str) -> Tensor:
    """Autocontrast's table for every pair (least, greatest), (65536, 256) uint8, made on the host.

    In double precision scale = 255 / (high - low), offset = -low * scale, and value v becomes
    v * scale + offset, truncated and clipped; every other order of these steps, float32 or a fused
    multiply-add differs from Pillow in some values, so no device computes it anew.
    """
    low = torch.arange(256, dtype=torch.float64).view(256, 1, 1)
    high = torch.arange(256, dtype=torch.float64).view(1, 256, 1)
    value = torch.arange(256, dtype=torch.float64).view(1, 1, 256)
    span = high - low
    full = torch.tensor(255.0, dtype=torch.float64)
    scale = full / torch.where(span > 0, span, 1.0)  # 255.0 / tensor would be a reciprocal
    offset = -low * scale
    stretched = (value * scale).add_(offset).clamp_(0, 255).to(torch.uint8)
    same = value.to(torch.uint8).expand_as(stretched)
    return torch.where(span > 0, stretched, same).view(65536, 256).to(device)


def _values(numbers: Tensor, images: Tensor) -> Tensor:
    """One uint8 number per image, (B, 1, 1, 1), on the images' device."""
    return numbers.to(torch.uint8).to(images.device, non_blocking=True).view(-1, 1, 1, 1)

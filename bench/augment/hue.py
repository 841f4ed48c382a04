"""Turning an image's hues, bit for bit as Pillow and torchvision do on images in memory.

RGB -> hue, saturation, value in whole numbers 0..255 -> hue + shift, modulo 256 -> RGB

Pillow goes to hues in single precision with some steps in double, which is repeated here step by
step, and back with a rounding that whole numbers give as well.
"""

import torch

Tensor = torch.Tensor
TURN = 6 * 255  # six sixths of a turn, each of 255 steps
STARTS = (5 * 255, 3 * 255, 255)  # where red, green and blue stand on it


def turned(images: Tensor, shift: Tensor) -> Tensor:
    """Adds a shift to every hue.

    Args:
        images: (B, C, H, W) uint8; those of one channel have no hue and stay.
        shift: (B,) int64 on the images' device, of 256 to a turn; 0 leaves an image as it is,
            which a way to hues and back does not.

    Returns:
        (B, C, H, W) uint8.
    """
    if images.shape[1] == 1:
        return images
    hue, saturation, value = hsv(images)
    by = shift.view(-1, 1, 1)
    moved = rgb((hue + by).remainder(256), saturation, value)
    return torch.where(by[:, None] == 0, images, moved)


def hsv(images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Hue, saturation and value (B, H, W), whole numbers 0..255 of images (B, 3, H, W) uint8.

    Hue is int64, the others float32; what is grey has hue and saturation 0.
    """
    pixels = images.float()
    value, least = pixels.amax(1), pixels.amin(1)
    span = value - least
    divisor = span.clamp_min(1)
    red, green, _ = pixels.unbind(1)
    by_red, by_green, by_blue = ((value[:, None] - pixels) / divisor[:, None]).unbind(1)
    sixths = torch.where(
        red == value,
        by_blue - by_green,
        torch.where(
            green == value,
            (2 + by_red.double() - by_blue).float(),
            (4 + by_green.double() - by_red).float(),
        ),
    )
    # A tensor, because a division by a number may become a product with its inverse.
    six = torch.full((), 6.0, dtype=torch.float64, device=images.device)
    turns = sixths.double().div_(six).add_(1).frac_().float()
    hue = turns.double().mul_(255).long()
    saturation = (span / value.clamp_min(1)).double().mul_(255).floor_().float()
    return torch.where(span > 0, hue, 0), saturation, value


def rgb(hue: Tensor, saturation: Tensor, value: Tensor) -> Tensor:
    """Images (B, 3, H, W) uint8 of whole numbers 0..255, hue int64 and the others float32.

    A channel is value · (1 - saturation · w) rounded, where w goes linearly from 0, near the
    channel's own hue, to 1, opposite it.
    """
    starts = torch.tensor(STARTS, dtype=torch.float32).to(hue.device, non_blocking=True)
    place = (6 * hue[:, None].float() + starts.view(3, 1, 1)).remainder_(TURN)
    away = torch.minimum(place, 4 * 255 - place).clamp_(0, 255)
    product = (255 * 255 - saturation[:, None] * away).mul_(value[:, None])  # below 2²⁴: exact
    return product.double().mul_(1 / (255 * 255)).add_(0.5).to(torch.uint8)

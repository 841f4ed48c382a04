"""Operations that mix the image with a weaker version of itself, and the two smoothing filters.

Pillow's enhancers compute out = d + alpha * (s - d) in float32, then truncate and clip, where s is
the source and d the degenerate image: black for brightness, the mean grey for contrast, the grey
image for color, the smoothed one for sharpness.  Product and sum must round one after the other: a
fused multiply-add gives other values.  All take images (B, C, H, W) uint8 and return such a batch.
"""

import torch

Tensor = torch.Tensor


def brightness(images: Tensor, factor: Tensor) -> Tensor:
    """Mixes with black; `factor` (B,) on the images' device, 1 leaves an image as it is."""
    return blend(images.float(), images.new_zeros((), dtype=torch.float32), factor)


def contrast(images: Tensor, factor: Tensor) -> Tensor:
    """Mixes with the image's mean grey; `factor` (B,) on the images' device."""
    return blend(images.float(), mean_grey(images), factor)


def color(images: Tensor, factor: Tensor) -> Tensor:
    """Mixes with the grey image; `factor` (B,) on the images' device."""
    return blend(images.float(), grey(images).float(), factor)


def sharpness(images: Tensor, factor: Tensor) -> Tensor:
    """Mixes with the smoothed image; `factor` (B,) on the images' device."""
    source = images.float()
    return blend(source, smoothed(source), factor)


def smooth(images: Tensor) -> Tensor:
    """The 3×3 mean with centre weight 5."""
    return smoothed(images.float()).to(torch.uint8)


def blur(images: Tensor) -> Tensor:
    """The mean of the 16 pixels on the border of the 5×5 square around a pixel.

    Pillow copies a border of two pixels, and images of fewer than five rows or columns.
    """
    if min(images.shape[-2:]) < 5:
        return images.clone()
    source = images.short()
    tall, wide = images.shape[-2] - 4, images.shape[-1] - 4

    def part(row: int, column: int) -> Tensor:
        return source[..., row : row + tall, column : column + wide]

    border = [(row, column) for row in (0, 4) for column in range(5)]
    border += [(row, column) for row in (1, 2, 3) for column in (0, 4)]
    ring = torch.zeros_like(part(0, 0))
    for row, column in border:
        ring += part(row, column)
    out = images.clone()
    out[..., 2:-2, 2:-2] = (ring + 8) >> 4
    return out


def blend(source: Tensor, degenerate: Tensor, factor: Tensor) -> Tensor:
    """trunc(clip(d + factor * (s - d))) of float32 images, in the place of `source`.

    In place, since fresh memory costs more than arithmetic.
    """
    alpha = factor.float().view(-1, 1, 1, 1)
    return source.sub_(degenerate).mul_(alpha).add_(degenerate).clamp_(0, 255).to(torch.uint8)


def grey(images: Tensor) -> Tensor:
    """Luma (B, 1, H, W) int32 as Pillow converts RGB to L; one channel is its own."""
    if images.shape[1] == 1:
        return images.to(torch.int32)
    red, green, blue = images.to(torch.int32).unbind(1)
    total = (red * 19595).add_(green, alpha=38470).add_(blue, alpha=7471)
    return total.add_(32768).bitwise_right_shift_(16).unsqueeze(1)


def mean_grey(images: Tensor) -> Tensor:
    """The rounded mean luma of each image, (B, 1, 1, 1) float32."""
    pixels = images.shape[-2] * images.shape[-1]
    total = grey(images).sum((1, 2, 3), dtype=torch.int64)
    mean = torch.div(2 * total + pixels, 2 * pixels, rounding_mode="floor")
    return mean.float().view(-1, 1, 1, 1)


def smoothed(source: Tensor) -> Tensor:
    """Pillow's SMOOTH of float32 images of whole numbers, in whole numbers.

    With S the 3×3 sum with centre weight 5, an inner pixel becomes floor((S + 6.5) / 13); S + 6.5
    is a whole number and a half, so a rounding error of the division changes nothing.  The border
    of one pixel is copied, and so are images of fewer than three rows or columns.
    """
    out = source.clone()
    if min(source.shape[-2:]) < 3:
        return out
    rows = source[..., :-2, :] + source[..., 1:-1, :]
    rows += source[..., 2:, :]
    total = rows[..., :-2] + rows[..., 1:-1]
    total += rows[..., 2:]
    total.add_(source[..., 1:-1, 1:-1], alpha=4)
    out[..., 1:-1, 1:-1] = total.add_(6.5).div_(13).floor_()
    return out

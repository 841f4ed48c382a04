"""Images and labels as two tensors: the only form in which data reaches training.

Two storage forms, one behaviour.  Small sets live whole on the device.  Large ones stay in a
memory-mapped file on the host, and only the rows of a batch travel; a subset of those is a list of
row numbers, so the file is never copied.  `take` gives the same bits either way.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from bench.errors import ConfigError

CHUNK_BYTES = 64 << 20
HOST = torch.device("cpu")


@dataclass(frozen=True, eq=False)
class Arrays:
    """A labelled set of images.

    Attributes:
        images: (M, C, H, W) uint8; on `device`, or a memory-mapped host tensor if `rows` is given.
        labels: (N,) int64 on `device`.
        rows: (N,) int64 on the host: sample -> row of `images`.  None exactly if the images are on
            the device, in which case N = M.
        device: Where `take` delivers.
    """

    images: Tensor
    labels: Tensor
    rows: Tensor | None = None
    device: torch.device = HOST

    def __post_init__(self) -> None:
        """Checks shapes, types and places.

        Raises:
            ValueError: They contradict each other.
        """
        if self.images.dtype != torch.uint8 or self.images.dim() != 4:
            raise ValueError(f"images must be (N, C, H, W) uint8, not {_describe(self.images)}")
        if self.labels.dtype != torch.int64 or self.labels.dim() != 1:
            raise ValueError(f"labels must be (N,) int64, not {_describe(self.labels)}")
        samples = len(self.images) if self.rows is None else len(self.rows)
        if len(self.labels) != samples:
            raise ValueError(f"{samples} images have {len(self.labels)} labels")
        place = self.device if self.rows is None else HOST
        if self.images.device.type != place.type or self.labels.device.type != self.device.type:
            raise ValueError(f"images belong on {place}, labels on {self.device}")

    def __len__(self) -> int:
        """Number of samples N."""
        return len(self.labels)

    @property
    def mapped(self) -> bool:
        """Whether the images stay in a memory-mapped file on the host."""
        return self.rows is not None

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one image."""
        _, channels, height, width = self.images.shape
        return channels, height, width

    def take(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Gathers samples.

        Args:
            index: (B,) int64 on the host, each in [0, N); repeats are allowed.

        Returns:
            Images (B, C, H, W) uint8 and labels (B,) int64, both on `device`.
        """
        there = index.to(self.device, non_blocking=True)
        labels = self.labels.index_select(0, there)
        if self.rows is None:
            return self.images.index_select(0, there), labels
        rows = self.rows.index_select(0, index)
        return self.images.index_select(0, rows).to(self.device, non_blocking=True), labels

    def subset(self, index: Tensor) -> "Arrays":
        """The samples `index` ((K,) int64 on the host), in that order.

        Images on the device are copied; of memory-mapped ones only the row numbers are.
        """
        labels = self.labels.index_select(0, index.to(self.device))
        if self.rows is None:
            images = self.images.index_select(0, index.to(self.device))
            return replace(self, images=images, labels=labels)
        return replace(self, labels=labels, rows=self.rows.index_select(0, index))

    def joined(self, other: "Arrays") -> "Arrays":
        """These samples, then the other's.

        Images on the device are copied; of memory-mapped ones only the row numbers are.

        Raises:
            ConfigError: One is memory-mapped and the other is not of the same file.
        """
        labels = torch.cat([self.labels, other.labels])
        if self.rows is None and other.rows is None:
            return replace(self, images=torch.cat([self.images, other.images]), labels=labels)
        one_file = self.images.data_ptr() == other.images.data_ptr()
        if self.rows is None or other.rows is None or not one_file:
            raise ConfigError(
                "training and validation images lie in two memory-mapped files, which cannot be "
                "joined: raise --memory-limit so that they are held in memory"
            )
        return replace(self, labels=labels, rows=torch.cat([self.rows, other.rows]))

    def with_labels(self, labels: Tensor) -> "Arrays":
        """The same images under other labels ((N,) int64, on any device)."""
        return replace(self, labels=labels.to(self.device))

    def to(self, device: torch.device | str) -> "Arrays":
        """The same samples for another device; memory-mapped images stay where they are."""
        place = torch.device(device)
        images = self.images.to(place) if self.rows is None else self.images
        return replace(self, images=images, labels=self.labels.to(place), device=place)

    def chunks(self) -> Iterator[Tensor]:
        """All images in order, in uint8 pieces (k, C, H, W) of at most 64 MiB.

        The pieces lie where the images are stored.
        """
        size = max(1, CHUNK_BYTES // max(1, self.images[:1].numel()))
        for start in range(0, len(self), size):
            if self.rows is None:
                yield self.images[start : start + size]
            else:
                yield self.images.index_select(0, self.rows[start : start + size])

    def channel_stats(self) -> tuple[Tensor, Tensor]:
        """Mean and (population) standard deviation of each channel, on the scale [0, 1].

        Counts how often each of the 256 values occurs, in integers, so the result does not depend
        on the storage, the device or the size of the pieces.

        Returns:
            Two (C,) float64 host tensors.

        Raises:
            ValueError: There are no images.
        """
        if len(self) == 0:
            raise ValueError("no images, so no channel statistics")
        channels = self.images.shape[1]
        counts = torch.zeros(channels, 256, dtype=torch.int64)
        for chunk in self.chunks():
            for channel in range(channels):
                values = chunk[:, channel].reshape(-1)
                counts[channel] += torch.bincount(values, minlength=256).cpu()
        share = counts.double() / counts.sum(1, keepdim=True)
        values = torch.arange(256, dtype=torch.float64) / 255
        mean = share @ values
        variance = (share * (values - mean[:, None]) ** 2).sum(1)
        return mean, variance.sqrt()


def _describe(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"

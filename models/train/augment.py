"""Alter training pictures at random, so that a network learns what does not matter. Arrays are (N, C, H, W) uint8."""

from __future__ import annotations

import math

import torch
from torch.nn import functional


def shift_and_mirror(pixels: torch.Tensor, reach: int) -> torch.Tensor:
    """Move each picture by up to `reach` pixels, black at the border, and mirror every second one."""
    count, channels, height, width = pixels.shape
    padded = functional.pad(pixels, (reach, reach, reach, reach))
    rows = torch.randint(0, 2 * reach + 1, (count, 1)) + torch.arange(height)
    straight = torch.arange(width).expand(count, width)
    columns = torch.where(torch.rand(count, 1) < 0.5, straight.flip(1), straight)
    columns = columns + torch.randint(0, 2 * reach + 1, (count, 1))
    images = torch.arange(count)[:, None, None, None]
    chosen = torch.arange(channels)[None, :, None, None]
    return padded[images, chosen, rows[:, None, :, None], columns[:, None, None, :]]


def distort(
    pixels: torch.Tensor, *, degrees: float, scale: float, shift: float, brightness: float = 0.0, mirror: bool = False
) -> torch.Tensor:
    """Turn, stretch along each axis, move and lighten each picture.

    By up to `degrees`, a share `scale` of its size, a share `shift` of its extent and a share `brightness` of white,
    with a contrast between 1 - `brightness` and 1 + `brightness`.
    """
    count = len(pixels)

    def around_zero(reach: float, *shape: int) -> torch.Tensor:
        return (2 * torch.rand(count, *shape) - 1) * reach

    angle = around_zero(math.radians(degrees))
    cosine, sine = torch.cos(angle), torch.sin(angle)
    turn = torch.stack([torch.stack([cosine, -sine], 1), torch.stack([sine, cosine], 1)], 1)
    stretch = 1 + around_zero(scale, 1, 2)
    if mirror:
        stretch[:, :, 0] *= torch.where(torch.rand(count, 1) < 0.5, -1.0, 1.0)
    matrix = torch.cat([turn * stretch, around_zero(2 * shift, 2, 1)], dim=2)
    grid = functional.affine_grid(matrix, list(pixels.shape), align_corners=False)
    # Photographs go on at the border as they end there; the border of a scanned digit is black.
    moved = functional.grid_sample(pixels.float(), grid, padding_mode="border", align_corners=False)
    if brightness:
        moved = moved * (1 + around_zero(brightness, 1, 1, 1)) + around_zero(255 * brightness, 1, 1, 1)
    return moved.clamp_(0, 255).round_()

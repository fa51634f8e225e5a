"""Multi-scale deformable attention (arXiv 2010.04159, equation 3) for a CPU: transformers' sums in less time.

The library samples every level with `grid_sample` on maps that hold one channel after the other, so each of a point's
four corners costs 32 scattered reads. Here values stay channel by channel beside each other, and one weighted
`embedding_bag` adds up all corners of all points of all levels.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional
from transformers.models.mask2former.modeling_mask2former import (
    Mask2FormerPixelDecoderEncoderMultiscaleDeformableAttention as LibraryAttention,
)


class GatheringAttention(LibraryAttention):
    """The library's module with another way to the same output; for inference."""

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        position_embeddings: Tensor | None = None,
        reference_points: Tensor | None = None,
        spatial_shapes_list: Sequence[tuple[int, int]] | None = None,
        level_start_index: Tensor | None = None,
        output_attentions: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """As the library's.

        Args:
            hidden_states: float [B, Q, D], queries.
            attention_mask: bool [B, S], True where there is no value; None for values everywhere.
            encoder_hidden_states: float [B, S, D], all levels one after the other.
            encoder_attention_mask: not used.
            position_embeddings: float [B, Q, D], added to the queries.
            reference_points: float [B, Q, L, 2], x and y, 0 to 1.
            spatial_shapes_list: height and width of each level.
            level_start_index: not used.
            output_attentions: not used; weights are always returned.

        Returns:
            Output float [B, Q, D] and weights float [B, Q, heads, L, points].
        """
        assert encoder_hidden_states is not None
        assert reference_points is not None
        assert spatial_shapes_list is not None
        if hidden_states.device.type != "cpu":
            # Not tried elsewhere; `grid_sample` suits GPUs.
            return super().forward(
                hidden_states,
                attention_mask,
                encoder_hidden_states,
                encoder_attention_mask,
                position_embeddings,
                reference_points,
                spatial_shapes_list,
                level_start_index,
                output_attentions,
            )
        queries = hidden_states if position_embeddings is None else hidden_states + position_embeddings
        values = self.value_proj(encoder_hidden_states)
        if attention_mask is not None:
            values = values.masked_fill(attention_mask[..., None], 0.0)
        shape = (*queries.shape[:2], self.n_heads, self.n_levels, self.n_points)
        weights = self.attention_weights(queries).unflatten(-1, (self.n_heads, -1)).softmax(dim=-1).view(shape)
        offsets = self.sampling_offsets(queries).view(*shape, 2)
        values = values.unflatten(-1, (self.n_heads, -1))
        gathered = gather(values, spatial_shapes_list, reference_points, offsets, weights)
        return self.output_proj(gathered), weights


def gather(
    values: Tensor, sizes: Sequence[tuple[int, int]], references: Tensor, offsets: Tensor, weights: Tensor
) -> Tensor:
    """Weighted sums of values at fractional places, bilinear, zero outside each level.

    Args:
        values: float [B, S, heads, C], levels one after the other, rows of a level one after the other.
        sizes: height and width of each level; their areas sum to S.
        references: float [B, Q, L, 2], x and y in each level, 0 to 1 from edge to edge.
        offsets: float [B, Q, heads, L, points, 2], in pixels of the level.
        weights: float [B, Q, heads, L, points].

    Returns:
        float [B, Q, heads * C].
    """
    batch, length, heads, channels = values.shape
    device = values.device
    extent = torch.tensor([(width, height) for height, width in sizes], dtype=torch.int32, device=device)
    areas = extent.prod(dim=1, dtype=torch.int32)
    starts = areas.cumsum(0, dtype=torch.int32) - areas
    # Pixel centres lie at .5, as with `align_corners=False`.
    places = (references * extent)[:, :, None, :, None] + offsets - 0.5
    width, height = extent[:, 0, None], extent[:, 1, None]
    columns, rows = (_neighbours(places[..., axis], size) for axis, size in enumerate((width, height)))
    picture = torch.arange(batch, dtype=torch.int32, device=device)[:, None, None, None, None] * length
    head = torch.arange(heads, dtype=torch.int32, device=device)[:, None, None]
    first = (picture + starts[:, None]) * heads + head
    indices: list[Tensor] = []
    parts: list[Tensor] = []
    for row, along in rows:
        start, weighted = first + row * (width * heads), weights * along
        for column, across in columns:
            indices.append(start + column * heads)
            parts.append(weighted * across)
    bags = batch * weights.shape[1] * heads
    summed = functional.embedding_bag(
        torch.stack(indices, dim=-1).view(bags, -1),
        values.reshape(-1, channels),
        per_sample_weights=torch.stack(parts, dim=-1).view(bags, -1),
        mode="sum",
    )
    return summed.view(batch, -1, heads * channels)


def _neighbours(places: Tensor, size: Tensor) -> list[tuple[Tensor, Tensor]]:
    """The two pixels around each place along one axis, int32, with their shares; 0 for a pixel outside."""
    before = places.floor()
    share = places - before
    pixels = before.int()
    found: list[tuple[Tensor, Tensor]] = []
    for pixel, part in ((pixels, 1 - share), (pixels + 1, share)):
        kept = torch.minimum(pixel.clamp_min(0), size - 1)
        found.append((kept, part * (kept == pixel)))
    return found

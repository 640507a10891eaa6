"""Qwen2-VL, Qwen2.5-VL, Qwen3-VL and Qwen3.5: video patches of two frames, multimodal rotary positions.

The patches are cut here, as the models' own video processors need torchvision; a test compares them with those.
"""

from typing import Any

import torch
from torch import Tensor, nn

from lightning_modules.backbones.hf.family import ClipInput, Family, MediaInputs
from lightning_modules.backbones.hf.replay import Call

VIDEO_TOKEN_TYPE = 2
"""In `mm_token_type_ids`; text is 0."""


def patchify(frames: Tensor, patch_size: int, merge_size: int, temporal_patch_size: int) -> tuple[Tensor, Tensor]:
    """Cut frames into the flat patches of Qwen's vision towers.

    Patches that are merged later stand together, and each holds the same place of consecutive frames. An odd last frame
    is repeated.

    Args:
        frames: normalised, `[T, 3, I, I]`.
        patch_size: p, side of a patch in pixels.
        merge_size: m, patches per side that become one token.
        temporal_patch_size: t, frames per patch.

    Returns:
        Patches `[N, 3 · t · p²]`, and their grid (time, height, width) as int64 `[1, 3]`.
    """
    missing = -len(frames) % temporal_patch_size
    frames = torch.cat([frames, frames[-1:].expand(missing, -1, -1, -1)])
    side = frames.shape[-1] // patch_size
    blocks = frames.unflatten(0, (-1, temporal_patch_size))
    for dim in (-2, -1):
        blocks = blocks.unflatten(dim, (side // merge_size, merge_size, patch_size))
    # [time, t, channel, row, m, p, column, m, p] to [time, row, column, m, m, channel, t, p, p]
    patches = blocks.permute(0, 3, 6, 4, 7, 2, 1, 5, 8)
    return patches.flatten(0, 4).flatten(1), torch.tensor([[len(blocks), side, side]], device=frames.device)


def vision_calls(visual: nn.Module) -> list[Call]:
    """Calls that stand for running the blocks of a vision tower: only those that a projector reads are kept."""
    last = len(visual.blocks) - 1
    read = {*getattr(visual, "deepstack_visual_indexes", ()), last}
    return [Call(block, kept=i in read) for i, block in enumerate(visual.blocks)]


def vision_parts(visual: nn.Module) -> dict[str, nn.Module]:
    """A vision tower and the projectors behind it."""
    projectors = [visual.get_submodule(n) for n in ("merger", "deepstack_merger_list") if hasattr(visual, n)]
    tower = [child for child in visual.children() if not any(child is projector for projector in projectors)]
    return {"vision_tower": nn.ModuleList(tower), "vision_projector": nn.ModuleList(projectors)}


class QwenVL(Family):
    """Qwen2-VL and Qwen2.5-VL."""

    model_types = ("qwen2_vl", "qwen2_5_vl")
    placeholder = "<|video_pad|>"

    @property
    def _vision(self) -> Any:
        return self.model.config.vision_config

    @property
    def image_multiple(self) -> int:
        return self._vision.patch_size * self._vision.spatial_merge_size

    @property
    def parts(self) -> dict[str, nn.Module]:
        return vision_parts(self.model.model.visual)

    @property
    def tower_calls(self) -> dict[str, list[Call]]:
        return {"vision_tower": vision_calls(self.model.model.visual)}

    def media(self, clip: ClipInput) -> MediaInputs:
        patches, grid = self._patches(clip)
        num_tokens = int(grid.prod()) // self._vision.spatial_merge_size**2
        seconds = clip.seconds_per_frame * self._vision.temporal_patch_size
        arguments = {"pixel_values_videos": patches, "video_grid_thw": grid, "second_per_grid_ts": [seconds]}
        return MediaInputs([self.placeholder * num_tokens], arguments)

    def token_arguments(self, token_ids: Tensor) -> dict[str, Any]:
        return {"mm_token_type_ids": (token_ids == self.model.config.video_token_id) * VIDEO_TOKEN_TYPE}

    def _patches(self, clip: ClipInput) -> tuple[Tensor, Tensor]:
        vision = self._vision
        frames = self.normalised(clip.frames)
        return patchify(frames, vision.patch_size, vision.spatial_merge_size, vision.temporal_patch_size)


class Qwen3VL(QwenVL):
    """Qwen3-VL: each pair of frames follows its time, and features of several depths enter the language model."""

    model_types = ("qwen3_vl", "qwen3_vl_moe")
    placeholder = "<|vision_start|><|video_pad|><|vision_end|>"

    def media(self, clip: ClipInput) -> MediaInputs:
        patches, grid = self._patches(clip)
        size = self._vision.temporal_patch_size
        num_groups, height, width = grid[0].tolist()
        pads = "<|video_pad|>" * (height * width // self._vision.spatial_merge_size**2)
        seconds = [*clip.frame_seconds, *[clip.frame_seconds[-1]] * (size - 1)]
        times = [(seconds[i * size] + seconds[i * size + size - 1]) / 2 for i in range(num_groups)]
        text = "".join(f"<{time:.1f} seconds><|vision_start|>{pads}<|vision_end|>" for time in times)
        return MediaInputs([text], {"pixel_values_videos": patches, "video_grid_thw": grid})

    def extras(self, captured: dict[str, Any]) -> dict[str, Tensor]:
        """Features added after the first layers, 0 where a token is text: `[1, P, depth, H]`."""
        embeddings, mask = captured["inputs_embeds"], captured["visual_pos_masks"]
        depth = len(self._vision.deepstack_visual_indexes)
        dense = embeddings.new_zeros(*embeddings.shape[:2], depth, embeddings.shape[2])
        if mask is not None:  # None where there are no pictures
            dense[mask] = torch.stack(captured["deepstack_visual_embeds"], dim=1).to(dense.dtype)
        return {"deepstack": dense}

    @staticmethod
    def prompt_arguments(extras: dict[str, Tensor]) -> dict[str, Any]:
        if not extras:
            return {}
        dense = extras["deepstack"]
        everywhere = torch.ones(dense.shape[:2], dtype=torch.bool, device=dense.device)
        return {"visual_pos_masks": everywhere, "deepstack_visual_embeds": list(dense.flatten(0, 1).unbind(1))}


class Qwen35(Qwen3VL):
    """Qwen3.5: sees as Qwen3-VL does, but for the features of several depths; most layers keep a recurrent state."""

    model_types = ("qwen3_5",)

    def extras(self, captured: dict[str, Any]) -> dict[str, Tensor]:
        return {}

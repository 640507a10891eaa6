"""HumanOmni's video projector: three branches (video, body, face) over the same frames, with the published names.

Shape legend: B clips, T frames, S patches per side, D vision width, H width of the language model, S' tokens per side
after sampling: ceil(S / 2).
"""

from collections import OrderedDict
from typing import Literal

import torch
from torch import Tensor, nn

ProjectorType = Literal["all_in_one", "all_in_one_small"]

BRANCHES = ("video", "body", "face")
"""In the order of the gate's probabilities."""


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of `[N, C, h, w]`, per pixel. eps is 1e-5, not timm's 1e-6 (decision 35)."""

    def forward(self, inputs: Tensor) -> Tensor:
        return super().forward(inputs.movedim(1, -1)).movedim(-1, 1)


class ConvNorm(nn.Module):
    """Convolution without bias, then `ChannelNorm`."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            in_channels, out_channels, kernel_size, padding=kernel_size // 2, groups=groups, bias=False
        )
        self.bn = ChannelNorm(out_channels)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.bn(self.conv(inputs))


class SqueezeExcite(nn.Module):
    """Channel gates from the spatial mean."""

    def __init__(self, channels: int, reduced: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, reduced, 1)
        self.fc2 = nn.Conv2d(reduced, channels, 1)

    def forward(self, inputs: Tensor) -> Tensor:
        mean = inputs.mean(dim=(2, 3), keepdim=True)
        return inputs * self.fc2(nn.functional.silu(self.fc1(mean))).sigmoid()


class RegBlock(nn.Module):
    """RegNet-Y bottleneck with depthwise 3×3 convolution: `[N, in, h, w]` to `[N, out, h, w]`."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv1 = ConvNorm(in_channels, out_channels)
        self.conv2 = ConvNorm(out_channels, out_channels, kernel_size=3, groups=out_channels)
        self.se = SqueezeExcite(out_channels, round(in_channels / 4))
        self.conv3 = ConvNorm(out_channels, out_channels)
        self.downsample = nn.Identity() if in_channels == out_channels else ConvNorm(in_channels, out_channels)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = nn.functional.silu(self.conv1(inputs))
        hidden = self.se(nn.functional.silu(self.conv2(hidden)))
        return nn.functional.silu(self.conv3(hidden) + self.downsample(inputs))


def _stage(in_channels: int, out_channels: int, depth: int) -> nn.Sequential:
    blocks = {f"b{i}": RegBlock(in_channels if i == 1 else out_channels, out_channels) for i in range(1, depth + 1)}
    return nn.Sequential(OrderedDict(blocks))


def mlp(in_features: int, out_features: int) -> nn.Sequential:
    """Linear, exact GELU, Linear (`mlp2x_gelu`)."""
    return nn.Sequential(nn.Linear(in_features, out_features), nn.GELU(), nn.Linear(out_features, out_features))


class AllInOneProjector(nn.Module):
    """Video, body and face tokens of the same patch features.

    Args:
        kind: "all_in_one" (7B) or "all_in_one_small" (0.5B): depth of the stages and spatial padding of the sampler.
        vision_width: D.
        hidden_size: H.
    """

    def __init__(self, kind: ProjectorType, vision_width: int, hidden_size: int) -> None:
        super().__init__()
        depth, padding = (4, (1, 1, 1)) if kind == "all_in_one" else (2, (1, 0, 0))
        for branch in BRANCHES[:2]:
            sampler = nn.Conv3d(hidden_size, hidden_size, 2, stride=(1, 2, 2), padding=padding)
            self.add_module(f"s1_{branch}", _stage(vision_width, hidden_size, depth))
            self.add_module(f"sampler_{branch}", nn.Sequential(sampler, nn.SiLU()))
            self.add_module(f"s2_{branch}", _stage(hidden_size, hidden_size, depth))
            self.add_module(f"readout_{branch}", mlp(hidden_size, hidden_size))
        self.mlp_2xgelu_face = mlp(vision_width, hidden_size)

    def forward(self, features: Tensor) -> list[Tensor]:
        """Tokens of each branch, in the order of `BRANCHES`.

        Args:
            features: `[B, T, S², D]`.

        Returns:
            Three tensors `[B, T·S'², H]`.
        """
        return [self._sampled(features, branch) for branch in BRANCHES[:2]] + [self._face(features)]

    def _sampled(self, features: Tensor, branch: str) -> Tensor:
        num_clips, num_frames, num_patches, _ = features.shape
        side = round(num_patches**0.5)
        images = features.flatten(0, 1).mT.unflatten(-1, (side, side))
        images = self.get_submodule(f"s1_{branch}")(images)
        clips = images.unflatten(0, (num_clips, num_frames)).transpose(1, 2)
        # Padded by one frame in front and behind, of which the last slice is dropped: slice t sees frames t-1 and t.
        clips = self.get_submodule(f"sampler_{branch}")(clips)[:, :, :num_frames]
        images = self.get_submodule(f"s2_{branch}")(clips.transpose(1, 2).flatten(0, 1))
        tokens = images.flatten(2).mT.unflatten(0, (num_clips, num_frames)).flatten(1, 2)
        return self.get_submodule(f"readout_{branch}")(tokens)

    def _face(self, features: Tensor) -> Tensor:
        num_clips, num_frames, num_patches, _ = features.shape
        side = round(num_patches**0.5)
        images = self.mlp_2xgelu_face(features).flatten(0, 1).mT.unflatten(-1, (side, side))
        half = (side + 1) // 2
        pooled = nn.functional.interpolate(images, size=(half, half), mode="bilinear", align_corners=False)
        return pooled.flatten(2).mT.unflatten(0, (num_clips, num_frames)).flatten(1, 2)


def mix(branches: list[Tensor], gate: Tensor) -> Tensor:
    """Branches `[B, N, H]` weighted by one probability per clip and branch, `[B, 3]`."""
    return torch.einsum("kbnh,bk->bnh", torch.stack(branches), gate)

"""LLaVA-OneVision: SigLIP patches of each frame, pooled 2 × 2, and one vector that ends the video.

Shape legend: T frames, I image size.
"""

import math

from lightning_modules.backbones.hf.family import ClipInput, Family, MediaInputs


class LlavaOnevision(Family):
    """LLaVA-OneVision, shown a video."""

    model_types = ("llava_onevision",)
    placeholder = "<video>"

    @property
    def image_multiple(self) -> int:
        return self.only_image_size

    @property
    def only_image_size(self) -> int:
        # The positions of the vision tower are not interpolated; 384 published pixels are no multiple of its patches.
        return self.model.config.vision_config.image_size

    def media(self, clip: ClipInput) -> MediaInputs:
        side = self.only_image_size // self.model.config.vision_config.patch_size
        num_tokens = len(clip.frames) * math.ceil(side / 2) ** 2 + 1
        frames = self.normalised(clip.frames)[None]
        return MediaInputs([self.placeholder * num_tokens], {"pixel_values_videos": frames})

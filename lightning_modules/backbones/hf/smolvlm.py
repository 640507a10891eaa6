"""SmolVLM2 and Idefics3: SigLIP patches of each frame, shuffled into few tokens; SmolVLM2 also reads the frames' times.

Shape legend: T frames, I image size.
"""

from datetime import timedelta

from lightning_modules.backbones.hf.family import ClipInput, Family, MediaInputs
from lightning_modules.backbones.percept import Modality

_UNITS = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    *("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
)
_TENS = ("", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")


def in_words(number: int) -> str:
    """A number below 100 in English words.

    Raises:
        ValueError: the number is negative or larger.
    """
    if not 0 <= number < 100:
        raise ValueError(f"Got {number}; SmolVLM2's prompt names the number of frames in words, of at most 99 frames.")
    if number < len(_UNITS):
        return _UNITS[number]
    tens, units = divmod(number, 10)
    return f"{_TENS[tens]}-{_UNITS[units]}" if units else _TENS[tens]


class Idefics3(Family):
    """Idefics3 and the first SmolVLM: each frame is an image that is not split into tiles."""

    model_types = ("idefics3",)
    placeholder = "<image>"

    @property
    def image_multiple(self) -> int:
        return self.model.config.vision_config.patch_size * self.model.config.scale_factor

    def content(self, num_frames: int, modalities: tuple[Modality, ...]) -> list[dict[str, str]]:
        return [{"type": "image"}] * num_frames

    def media(self, clip: ClipInput) -> MediaInputs:
        return MediaInputs([self._frame(clip)] * len(clip.frames), {"pixel_values": self.normalised(clip.frames)[None]})

    def _frame(self, clip: ClipInput) -> str:
        """What stands for one frame in the prompt."""
        num_tokens = (clip.frames.shape[-1] // self.image_multiple) ** 2
        return f"<fake_token_around_image><global-img>{'<image>' * num_tokens}<fake_token_around_image>"


class SmolVLM(Idefics3):
    """SmolVLM2: one video, introduced by its number of frames and its duration; each frame by its time.

    The prompt is that of transformers' SmolVLMProcessor.
    """

    model_types = ("smolvlm",)
    placeholder = "<video>"

    chat_template = (
        "<|im_start|>{% for message in messages %}{{ message['role'] | capitalize }}: "
        "{% for item in message['content'] %}{{ item['text'] if item['type'] == 'text' else '<video>' }}{% endfor %}"
        "<end_of_utterance>\n{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"
    )
    """The published template knows no video; transformers sets it aside for clips too."""

    def content(self, num_frames: int, modalities: tuple[Modality, ...]) -> list[dict[str, str]]:
        return [{"type": "video"}]

    def media(self, clip: ClipInput) -> MediaInputs:
        duration = timedelta(seconds=int(clip.duration_seconds))
        intro = (
            f"You are provided the following series of {in_words(len(clip.frames))} frames from a {duration} "
            "[H:MM:SS] video.\n"
        )
        frame = self._frame(clip)
        times = (divmod(int(second), 60) for second in clip.frame_seconds)
        frames = "".join(f"\nFrame from {minutes:02d}:{seconds:02d}:{frame}" for minutes, seconds in times)
        return MediaInputs([f"{intro}{frames}\n\n"], {"pixel_values": self.normalised(clip.frames)[None]})

"""What a model is given of a clip under each ablation, and whose sound."""

from collections import Counter
from collections.abc import Callable
from dataclasses import fields, replace

import pytest
import torch
from torch import Tensor

from datamodules.ablation import ABLATIONS, Ablation, Partners, ablate
from datamodules.batch import Clip, ClipBatch, collate
from datamodules.clip_dataset import ClipDataset
from datamodules.media_settings import MelSettings
from datamodules.mel import log_mel

pytestmark = pytest.mark.unit

Dataset = Callable[[list[Clip]], ClipDataset]
MEL = MelSettings(num_bins=8, seconds=1)


@pytest.fixture
def make_heard(make_clip: Callable[..., Clip]) -> Callable[..., Clip]:
    """Clips with the loader's mel features."""

    def make(seed: int, **values) -> Clip:
        clip = make_clip(seed, duration_seconds=1.0 + seed, transcript=f"Word {seed}", told=f"Said: {seed}", **values)
        return replace(clip, mel=log_mel(clip.waveform, MEL))

    return make


@pytest.fixture
def own(make_heard: Callable[..., Clip]) -> ClipBatch:
    return collate([make_heard(0), make_heard(1, target="happiness")])


@pytest.fixture
def partners(make_heard: Callable[..., Clip]) -> ClipBatch:
    return collate([make_heard(5), make_heard(4)])


def changed_fields(before: ClipBatch, after: ClipBatch) -> set[str]:
    def differ(first: object, second: object) -> bool:
        if isinstance(first, Tensor) and isinstance(second, Tensor):
            return first.shape != second.shape or first.dtype != second.dtype or not torch.equal(first, second)
        return first != second

    return {f.name for f in fields(before) if differ(getattr(before, f.name), getattr(after, f.name))}


PICTURES = {"frames", "has_video"}
SOUND = {"waveform", "waveform_lengths", "has_audio", "mel"}


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("full", set()),
        ("video_only", SOUND),
        ("audio_only", PICTURES),
        ("frozen_first_frame", {"frames"}),
        ("text_only", {*PICTURES, *SOUND}),
        ("swapped_audio", SOUND - {"has_audio"}),
        ("no_transcript", {"told"}),
        ("swapped_transcript", {"told"}),
    ],
)
def test_a_mode_changes_its_modality_and_nothing_else(
    mode: Ablation, expected: set[str], own: ClipBatch, partners: ClipBatch
) -> None:
    kept = own.take(range(len(own)))
    assert changed_fields(own, ablate(own, mode, partners)) == expected
    assert changed_fields(own, kept) == set(), "the batch itself stays as it is"


@pytest.mark.parametrize("mode", ["video_only", "text_only"])
def test_silence_is_what_a_clip_without_a_track_gives(
    mode: Ablation, own: ClipBatch, make_heard: Callable[..., Clip]
) -> None:
    silent = [
        make_heard(i, waveform=torch.zeros(0), has_audio=False, target=target)
        for i, target in enumerate(["anger", "happiness"])
    ]
    assert changed_fields(ablate(own, mode), collate(silent)) == (PICTURES if mode == "text_only" else set())


@pytest.mark.parametrize("mode", ["audio_only", "text_only"])
def test_pictures_are_black(mode: Ablation, own: ClipBatch) -> None:
    frames = ablate(own, mode).frames
    assert frames.shape == own.frames.shape and frames.dtype == torch.uint8 and not frames.any()


def test_every_frame_is_the_clips_first(own: ClipBatch) -> None:
    frames = ablate(own, "frozen_first_frame").frames
    assert all(torch.equal(frames[i, t], own.frames[i, 0]) for i in range(2) for t in range(own.frames.shape[1]))
    assert not torch.equal(own.frames[0, 0], own.frames[0, 1])


def test_swapped_sound_is_the_partners(own: ClipBatch, partners: ClipBatch) -> None:
    given = ablate(own, "swapped_audio", partners)
    for name in SOUND:
        assert torch.equal(getattr(given, name), getattr(partners, name))
    assert given.ids == own.ids and torch.equal(given.durations_seconds, own.durations_seconds)


def test_a_swapped_transcript_is_the_partners_before_the_own_question(own: ClipBatch, partners: ClipBatch) -> None:
    assert ablate(own, "swapped_transcript", partners).questions[0] == f"Said: 5\n{own.instructions[0]}"
    assert ablate(own, "no_transcript").questions == own.instructions


def test_without_loader_features_there_are_none(own: ClipBatch, partners: ClipBatch) -> None:
    bare = [replace(clips, mel=None) for clips in (own, partners)]
    assert all(ablate(bare[0], mode, bare[1]).mel is None for mode in ABLATIONS)


def test_features_keep_their_type(own: ClipBatch) -> None:
    half = replace(own, mel=own.mel.to(torch.bfloat16))
    assert ablate(half, "video_only").mel.dtype == torch.bfloat16


def test_bad_calls_are_refused(own: ClipBatch, partners: ClipBatch) -> None:
    with pytest.raises(ValueError, match="partner for each of the 2 clips; got none"):
        ablate(own, "swapped_audio")
    with pytest.raises(ValueError, match="got 1"):
        ablate(own, "swapped_audio", partners.rows(0, 1))
    with pytest.raises(ValueError, match=r"features are None, those of the clips \(2, 8, 100\)"):
        ablate(own, "swapped_audio", replace(partners, mel=None))
    with pytest.raises(ValueError, match="'blind'.*video_only"):
        ablate(own, "blind")


def test_a_partner_has_another_emotion_and_does_not_depend_on_the_batch(
    make_clip: Callable[..., Clip], ready_clips: Dataset
) -> None:
    targets = ["anger", "anger", "anger", "happiness", "anger_disgust", "fear"]
    clips = [make_clip(i, target=target) for i, target in enumerate(targets)]
    partners = Partners(ready_clips(clips), seed=3)
    together = partners.of(collate(clips))
    alone = [partners.of(collate([clip])) for clip in clips]
    assert together.ids == [one.ids[0] for one in alone]
    for target, other in zip(targets, together.targets, strict=True):
        assert not set(target.split("_")) & set((other or "").split("_"))
    assert together.ids == Partners(ready_clips(clips), seed=3).of(collate(clips)).ids


def test_partners_are_drawn_from_all_others(make_clip: Callable[..., Clip], ready_clips: Dataset) -> None:
    clips = [make_clip(i, target="anger" if i < 2 else "happiness") for i in range(6)]
    batch = collate(clips[:1])
    drawn = Counter(Partners(ready_clips(clips), seed=seed).of(batch).ids[0] for seed in range(400))
    assert set(drawn) == {"clip2", "clip3", "clip4", "clip5"}
    assert all(70 < count < 130 for count in drawn.values()), drawn  # 100 each, standard deviation 8.7


def test_where_all_share_an_emotion_any_other_clip_will_do(
    make_clip: Callable[..., Clip], ready_clips: Dataset
) -> None:
    clips = [make_clip(i) for i in range(3)]
    found = Partners(ready_clips(clips)).of(collate(clips))
    assert all(own.id != other for own, other in zip(clips, found.ids, strict=True))


def test_a_clip_without_sound_is_no_partner_and_is_decoded_once(
    make_clip: Callable[..., Clip], ready_clips: Dataset
) -> None:
    silent = {"waveform": torch.zeros(0), "has_audio": False, "target": "happiness"}
    clips = [*(make_clip(i) for i in range(3)), *(make_clip(i, **silent) for i in range(3, 8))]
    dataset = ready_clips(clips)
    found = Partners(dataset).of(collate(clips[:3]))
    assert all(found.has_audio) and set(found.ids) <= {"clip0", "clip1", "clip2"}, "rather the same emotion"
    assert all(dataset.asked[i] == 1 for i in range(3, 8))


def test_a_clip_that_is_told_nothing_lends_no_transcript(make_clip: Callable[..., Clip], ready_clips: Dataset) -> None:
    clips = [make_clip(i, told=None if i > 1 else "Oh") for i in range(6)]
    dataset = ready_clips(clips)
    found = Partners(dataset, "transcript").of(collate(clips[1:3]))
    assert found.ids[0] == "clip0" and set(found.ids) <= {"clip0", "clip1"} and dataset.asked.keys() <= {0, 1}
    with pytest.raises(ValueError, match=r"another transcript: none of the other 1 .* or set data.transcript_template"):
        Partners(ready_clips([make_clip(0, told="Oh"), make_clip(1)]), "transcript").of(collate(clips[:1]))


def test_a_dataset_without_another_sound_is_refused(make_clip: Callable[..., Clip], ready_clips: Dataset) -> None:
    clips = [make_clip(0), make_clip(1, waveform=torch.zeros(0), has_audio=False)]
    with pytest.raises(ValueError, match=r"'clip0' cannot be given another sound: none of the other 1 clips"):
        Partners(ready_clips(clips)).of(collate(clips[:1]))

"""Any folder of media files, for `predict`: `python main.py predict --data Clips --data.path my_clips/`."""

from collections import Counter
from pathlib import Path
from typing import Any

from datamodules.clip_source import ClipRecord, ClipSource, Split
from datamodules.files.printable import readable_name
from datamodules.notices import inform


class Clips(ClipSource):
    """Media files without labels, in the order of their paths: films, sound alone, pictures.

    A clip's id is its path below the folder without suffix, or with it where two files differ in nothing else.

    Args:
        path: a folder, searched recursively, or one media file. Hidden files and folders are passed over.
        kwargs: see `ClipSource`.
    """

    may_lack = ("sound", "pictures")
    stills_are_clips = True
    taxonomy = None  # the model's own decides what an answer means

    def __init__(self, path: str, **kwargs: Any) -> None:
        super().__init__(root=path, **kwargs)

    @property
    def splits(self) -> tuple[Split, ...]:
        """Without labels there is nothing to learn or to test."""
        return ("predict",)

    def records(self, split: Split) -> list[ClipRecord]:
        """One record per media file. See `ClipSource.records`.

        Raises:
            FileNotFoundError: no such file or folder.
            ValueError: no media file there, or a link leads out of the folder.
        """
        if not self.root.exists():
            raise FileNotFoundError(
                f"No file or folder {self.root}. Set `path` to a media file, or to a folder of them."
            )
        folder, files = (self.root.parent, [self.root]) if self.root.is_file() else (self.root, self._visible_files())
        suffixes = self.media_suffixes
        clips = [path for path in files if path.suffix.lower() in suffixes]
        others = Counter(path.suffix.lower() or "no suffix" for path in files if path.suffix.lower() not in suffixes)
        passed_over = ", ".join(f"{suffix} {count}" for suffix, count in sorted(others.items()))
        if not clips:
            raise ValueError(
                f"No media file at {self.root}: got {passed_over or 'nothing'}. "
                f"Expected files ending in {', '.join(suffixes)}."
            )
        if others:
            inform(f"{self.name}: {others.total()} other files under {self.root} are passed over ({passed_over}).")
        names = [Path(readable_name(str(path.relative_to(folder)))) for path in clips]
        stems = Counter(name.with_suffix("") for name in names)
        return [
            ClipRecord(
                id=(name if stems[name.with_suffix("")] > 1 else name.with_suffix("")).as_posix(),
                media=str(path),
                target=None,
                response=None,
                source=readable_name(str(path)),
            )
            for name, path in zip(names, clips, strict=True)
        ]

    def _visible_files(self) -> list[Path]:
        """Files under the folder of which no part below it begins with a dot."""
        return [
            path
            for path in sorted(self.root.rglob("*"))
            if path.is_file()
            and not any(part.startswith(".") for part in path.relative_to(self.root).parts)
            and not (path.is_symlink() and self.refuses_link(path))
        ]

"""Text files as they are read everywhere: in one encoding, of a bounded size, line by line with `file:row`."""

from collections.abc import Iterator
from pathlib import Path

_LARGEST_TEXT = 4 * 2**30
"""Bytes; predictions of all of DFEW with every probability have a tenth of a gigabyte."""

_UTF_16_AND_32 = (b"\xff\xfe", b"\xfe\xff", b"\x00\x00\xfe\xff")
"""Their byte order marks."""

_REPAIRED = 0.3
"""Share of a text that must come out as Chinese for a wrong decoding to be taken for undone. Of garbled texts 0.6 or
more does; of well-read Chinese, taken for garbled UTF-8, 0.01, of single short sentences up to 0.08."""


def read_text(path: str | Path) -> str:
    """A UTF-8 text file; a byte order mark is dropped.

    Raises:
        FileNotFoundError: no such file.
        ValueError: another encoding (names the row), or more bytes than any file that is read here has.
    """
    return decode_utf8(read_bytes(path), str(path))


def read_bytes(path: str | Path) -> bytes:
    """The content of a file of text.

    Raises:
        FileNotFoundError: no such file.
        ValueError: more bytes than any file that is read here has.
    """
    path = Path(path)
    require_file(path)
    with path.open("rb") as file:
        content = file.read(_LARGEST_TEXT + 1)  # a device may have no end
    if len(content) > _LARGEST_TEXT:
        raise ValueError(
            f"{path} has more than the {_LARGEST_TEXT:,} bytes that a file of text has here. Is it the file that you "
            "meant?"
        )
    return content


def require_file(path: Path, expected: str = "", name: str | None = None) -> None:
    """Refuse what is no file, and name the one that is meant where a folder is given in its place.

    Args:
        path: the file; may be a pipe.
        expected: what it holds, as a sentence.
        name: that such a file has in a folder.

    Raises:
        FileNotFoundError: there is nothing, or a folder.
    """
    expected = expected and f" {expected}"
    if path.is_dir():
        meant = [file for place in (name, f"*/{name}") for file in sorted(path.glob(place))] if name else []
        raise FileNotFoundError(f"{path} is a folder{f': give {meant[0]}' if meant else ', not a file'}.{expected}")
    if not path.exists():
        raise FileNotFoundError(f"No such file: {path}.{expected}")


def decode_utf8(content: bytes, where: str, first_row: int = 1) -> str:
    """Bytes of a text file as text; a byte order mark is dropped.

    Args:
        content: the bytes.
        where: the file, for the message.
        first_row: of the bytes in the file.

    Raises:
        ValueError: another encoding; names the row.
    """
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        row = first_row + content.count(b"\n", 0, error.start)
        known = "UTF-16 or UTF-32" if content.startswith(_UTF_16_AND_32) else "another encoding"
        raise ValueError(
            f"{where}:{row}: not UTF-8: {error.reason} at byte {error.start}. It was saved in {known}; use the file as "
            "distributed, or save it as UTF-8."
        ) from error


def numbered_lines(text: str, path: str | Path) -> Iterator[tuple[str, str]]:
    """Lines of a text file and their `file:line`; blank ones are passed over.

    Only a line feed, with or without a carriage return before it, ends a line: captions may hold the other characters
    that `str.splitlines` splits at.
    """
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield line.removesuffix("\r"), f"{path}:{number}"


def decode_chinese(path: Path) -> str:
    """A text file in GB18030, or converted from it to UTF-8.

    Raises:
        ValueError: it is neither; names the row.
    """
    content = path.read_bytes()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        pass  # as distributed: GB18030 with Chinese in it is not UTF-8
    try:
        return content.decode("gb18030")
    except UnicodeDecodeError as error:
        row = content.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"{path}:{row}: neither GB18030 nor UTF-8: {error.reason} at byte {error.start}. Likely cause: it was "
            "saved as Latin-1 or Windows-1252, or is damaged. Use the file as distributed, in GB18030."
        ) from error


def num_chinese(text: str) -> int:
    """Number of Chinese characters (CJK unified ideographs)."""
    return sum("\u4e00" <= character <= "\u9fff" for character in text)


def misread_chinese(text: str) -> str | None:
    """How a Chinese text was decoded wrongly; None where it reads as Chinese, or as something else altogether.

    Each known mistake is undone as far as it can be; the one that makes Chinese of the text is the cause.
    """
    western = [(true, wrong) for true in ("utf-8", "gb18030") for wrong in ("latin-1", "cp1252")]
    for true, wrong in [("utf-8", "gb18030")] if num_chinese(text) else western:
        content = text.replace("\ufffd", "").encode(wrong, "ignore")
        num_high = sum(byte >= 0x80 for byte in content)
        num_bytes = 3 if true == "utf-8" else 2  # of a Chinese character
        share = num_bytes * num_chinese(content.decode(true, "ignore")) / max(len(content), 1)
        if num_high > len(content) / 2 and share > _REPAIRED:
            name = "GB18030" if wrong == "gb18030" else "Latin-1 or Windows-1252"
            return f"its {true.upper()} bytes were read as {name} and saved anew"
    return None

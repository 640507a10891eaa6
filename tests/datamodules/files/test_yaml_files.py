"""YAML: what PyYAML would take the last of is refused, by file and row."""

from pathlib import Path

import pytest
import yaml

from datamodules.files.yaml_files import check_yaml, read_yaml_mapping

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("text", "row", "problem"),
    [
        ("model:\n  lr: 1\ndata:\n  fold: 5\n  fold: 4\n", 5, "the key 'fold' is there twice"),
        ("a: 1\n'a': 2\n", 2, "the key 'a' is there twice"),
        ("- {b: 1, b: 2}\n", 1, "the key 'b' is there twice"),
        ("a: [1\nb: 2\n", 2, "not valid YAML"),
        ("a: \x1b\n", None, "not valid YAML"),
        ("!!python/object/apply:os.system ['true']\n", 1, "not valid YAML"),
        ("a:\n  " + "[" * 100_000 + "]" * 100_000, 2, "more than 100 levels"),
        ("- 1\n", None, "got list. Expected a YAML mapping"),
        ("", None, "got NoneType. Expected a YAML mapping"),
    ],
)
def test_what_is_no_plain_mapping_is_refused(tmp_path: Path, text: str, row: int | None, problem: str) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(text)
    with pytest.raises(ValueError, match=rf"config.yaml{'' if row is None else f':{row}'}: .*{problem}"):
        read_yaml_mapping(file)


def test_mappings_and_what_only_looks_like_a_repeat_are_read(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("base: &base {a: 1}\nx:\n  <<: *base\n  b: 2\ny: {a: 3, b: {a: 4}}\n")
    assert read_yaml_mapping(file) == {"base": {"a": 1}, "x": {"a": 1, "b": 2}, "y": {"a": 3, "b": {"a": 4}}}
    check_yaml("&x [*x]")
    check_yaml("? [a, b]\n: {a: 1, b: [{a: 1}, {a: 1}]}\nb: 1\n")
    check_yaml("a: *b\nc: &b d\n")
    with pytest.raises(yaml.YAMLError, match="twice"):
        check_yaml("a: [{b: 1}, &x c]\nd: *x\na: 1\n")

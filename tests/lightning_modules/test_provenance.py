"""What a checkpoint names, and what it refuses to be loaded into."""

import copy

import pytest
import torch
from torch import nn

from lightning_modules.provenance import check_provenance, code_version, weights_digest

pytestmark = pytest.mark.unit

SAVED = {"taxonomy": "dfew", "verifier": {"path": "a", "sha256": "0" * 64}, "backbone": "x.Y", "code": "0"}


def test_the_digest_is_of_names_types_and_bytes() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(3, 2)
    same, other = copy.deepcopy(layer), copy.deepcopy(layer)
    with torch.no_grad():
        other.bias[1] += 1e-6
    assert weights_digest(layer) == weights_digest(same)
    digests = {weights_digest(module) for module in (layer, other, same.bfloat16(), nn.Sequential(layer))}
    assert len(digests) == 4 and all(len(digest) == 64 for digest in digests)


def test_a_copy_of_the_verifier_elsewhere_and_other_code_pass() -> None:
    check_provenance(SAVED, {**SAVED, "verifier": {"path": "b", "sha256": "0" * 64}, "code": "1"}, "error")
    assert code_version()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"taxonomy": "mafw"}, r"the taxonomy dfew \(now mafw\)\. .*--checkpoint_mismatch warn"),
        ({"verifier": {"path": "b", "sha256": "1" * 64}}, r"the verifier a, sha256 000000000000… \(now b, sha256 1"),
        ({"verifier": None}, r"\(now none\)"),
    ],
)
def test_another_verifier_or_taxonomy_is_refused_unless_told(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_provenance(SAVED, SAVED | change, "error")
    with pytest.warns(UserWarning, match="The checkpoint was trained with"):
        check_provenance(SAVED, SAVED | change, "warn")

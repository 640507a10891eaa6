"""Judges: read only a rationale and name one emotion of the taxonomy.

An invalid reply is None: it equals nothing, is counted as a failure, and never becomes `neutral` (decision 33). Use a
judge that is not the verifier which gave the reward; otherwise stage 3 optimises its own metric (decision 30).
"""

from lightning_modules.judges.base import Judge
from lightning_modules.judges.endpoint import EndpointJudge
from lightning_modules.judges.file import FileJudge
from lightning_modules.judges.language_model import LanguageModelJudge
from lightning_modules.judges.verifier_judge import VerifierJudge

__all__ = ["EndpointJudge", "FileJudge", "Judge", "LanguageModelJudge", "VerifierJudge"]

"""Several corpora as one: joint training with a weight per corpus, and evaluation over all their clips."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from datamodules.clip_source import ClipRecord, ClipSource, Split, balanced_shares
from datamodules.emotions import Taxonomy, get_taxonomy, taxonomy_names


class Joint(ClipSource):
    """A concatenation of corpora. Ids become `corpus/id`; predictions name each clip's corpus.

    Each corpus keeps its own labels; targets are canonical emotions, so `anger` of DFEW is `anger` of MAFW. The
    taxonomy is the smallest known one that holds every corpus' classes: `mafw` for MAFW + DFEW.

    Args:
        corpora: the corpora, of different names. Of their options only those that say where and what the clips are
            count (root, fold, ...); batches, decoding, validation and caches are this module's.
        weights: share of training clips drawn from each corpus, up to a common factor; null draws every clip once per
            epoch. An epoch keeps its length: a corpus with a small share is seen in part, another one repeatedly.
        kwargs: see `ClipSource`; `balance_classes` balances inside each corpus.

    Raises:
        ValueError: fewer than two corpora, a name twice, weights of another number or not positive, or classes that no
            taxonomy holds together (decision 12).
    """

    def __init__(self, corpora: list[ClipSource], weights: list[float] | None = None, **kwargs: Any) -> None:
        super().__init__(root=", ".join(str(corpus.root) for corpus in corpora), **kwargs)
        self.corpora = {corpus.name: corpus for corpus in corpora}
        if len(corpora) < 2 or len(self.corpora) < len(corpora):
            raise ValueError(f"Joint needs two or more different corpora, got {[corpus.name for corpus in corpora]}.")
        if weights is not None and (len(weights) != len(corpora) or min(weights) <= 0):
            raise ValueError(f"Joint needs a positive weight for each of {list(self.corpora)}, got {weights}.")
        self.weights = None if weights is None else dict(zip(self.corpora, weights, strict=True))
        self.taxonomy = _common_taxonomy(corpora)

    @property
    def splits(self) -> tuple[Split, ...]:
        """The splits that at least one corpus has; the others have no part in it."""
        return tuple(split for split in ("train", "test", "predict") if self._with(split))

    @property
    def caveats(self) -> list[str]:
        """Known overlaps between two of the corpora."""
        return [
            f"Joint training on {corpus.name} and {other}: {overlap}"
            for corpus in self._with("train")
            for other, overlap in corpus.overlaps.items()
            if other in self.corpora
        ]

    def _with(self, split: Split) -> list[ClipSource]:
        return [corpus for corpus in self.corpora.values() if split in corpus.splits]

    def key(self, clip_id: str) -> str:
        """The corpus' name and its own key."""
        name, _, own_id = clip_id.partition("/")
        return f"{name}/{self.corpora[name].key(own_id)}"

    def records(self, split: Split) -> list[ClipRecord]:
        """Rows of every corpus that has the split, one corpus after the other. See `ClipSource.records`."""
        records = []
        for corpus in self._with(split):
            corpus.problems = self.problems
            rows = corpus.read_splits()[split]
            records += [replace(record, id=f"{corpus.name}/{record.id}") for record in rows]
        return records

    def sampling_groups(self, records: Sequence[ClipRecord]) -> tuple[list[Hashable], Mapping[Hashable, float]] | None:
        """Groups by corpus, or by corpus and class under `balance_classes`. See `ClipSource.sampling_groups`."""
        if self.weights is None and not self.balance_classes:
            return None
        sizes = {name: sum(record.dataset == name for record in records) for name in self.corpora}
        weights = {name: self.weights[name] if self.weights else sizes[name] for name in self.corpora if sizes[name]}
        if not self.balance_classes:
            return [record.dataset for record in records], weights
        groups: list[Hashable] = [(record.dataset, record.target) for record in records]
        shares: dict[Hashable, float] = {}
        for name, weight in weights.items():
            own = balanced_shares(list(dict.fromkeys((r.dataset, r.target) for r in records if r.dataset == name)))
            shares |= {group: weight * share for group, share in own.items()}
        return groups, shares


def _common_taxonomy(corpora: Sequence[ClipSource]) -> Taxonomy:
    unlabelled = [corpus.name for corpus in corpora if corpus.taxonomy is None]
    if unlabelled:
        raise ValueError(f"Joint needs labelled corpora; {', '.join(unlabelled)} has no labels.")
    classes = {emotion for corpus in corpora for emotion in corpus.taxonomy.classes}
    known = [*(corpus.taxonomy for corpus in corpora), *map(get_taxonomy, taxonomy_names())]
    holding = [taxonomy for taxonomy in known if classes <= set(taxonomy.classes)]
    if not holding:
        raise ValueError(
            f"No taxonomy holds the classes of all corpora ({', '.join(sorted(classes))}). Known: "
            f"{', '.join(taxonomy_names())}. Add one to configs/taxonomy/, and name it as `taxonomy` of a corpus."
        )
    return min(holding, key=len)

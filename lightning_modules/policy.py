"""A policy that explains clips, and its evaluation by the method's metrics: what stages 1 and 3 share."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule
from lightning.pytorch.plugins.precision import HalfPrecision
from lightning.pytorch.strategies import FSDPStrategy

from datamodules.batch import ClipBatch
from datamodules.emotions import Aliases, get_taxonomy
from datamodules.notices import warn
from datamodules.rationale import Response, read_response
from lightning_modules.backbones.feature_cache import FeatureCache
from lightning_modules.backbones.interface import Backbone, Completions, Prompt, Sampling, eval_mode
from lightning_modules.backbones.percept import Percept
from lightning_modules.emotion_verifier import EmotionVerifier, SentenceReading
from lightning_modules.evaluation import Evaluation, TestFigures
from lightning_modules.judges import Judge
from lightning_modules.judges.prompt import PromptedJudge, follow
from lightning_modules.judges.verifier_judge import verifier_judge_name, verifier_verdict
from lightning_modules.metrics.emotion_report import EmotionReport
from lightning_modules.metrics.reliance import Reliance
from lightning_modules.metrics.unread_answers import unread_summary
from lightning_modules.protocol import Protocol
from lightning_modules.reliance import other_clips, sentence_reliance
from lightning_modules.samplers.base import Sampler

EVALUATION_SAMPLING = Sampling(max_new_tokens=512, temperature=0.3, top_p=0.9)
"""How the paper's released code decodes in evaluation."""


NUM_OTHERS = 8
"""Clips of the batch that each clip's sentences are held against, in evaluation."""


def check_sampled(completions: Completions, ids: list[str]) -> None:
    """Refuse text that was written by a policy whose numbers are broken.

    Args:
        completions: N of them.
        ids: of their clips, N.

    Raises:
        ValueError: a token's log-probability is not finite; names the clips.
    """
    broken = (~torch.isfinite(completions.logprobs)).any(dim=1).tolist()
    clips = [identifier for identifier, is_broken in zip(ids, broken, strict=True) if is_broken]
    if clips:
        raise ValueError(
            f"The policy's log-probabilities are not finite on clips {', '.join(clips)}: its weights are broken, or "
            "its numbers overflow in this precision. Take an older checkpoint, or try trainer.precision=32-true."
        )


class PolicyModule(LightningModule):
    """A policy that watches clips and answers with a rationale and an emotion; evaluates and predicts, does not train.

    Args:
        backbone: the multimodal LLM.
        taxonomy: the emotion classes that answers and targets come from: a name of `configs/taxonomy/`, or the path of
            a YAML file like those.
        verifier: Hugging Face directory or hub id of the Emotional Rationale Verifier, kept frozen and in float32.
        judge: names one emotion per rationale for EEA, EPC and FCR; by default the verifier restricted to the taxonomy.
            In stage 3 that is the reward's own, which measures what training optimises: use another one for claims.
        evaluation: how completions are drawn in validation, test and predict.
        bare_answers: take the whole completion as the answer, for baselines trained without tags.
        feature_cache: keeps what the towers return of each clip on disk; not with a strategy that shards them.
        truth: synthetic.json of the generated corpus that is tested: `test` then measures, too, how much of what the
            rationales claim is true of the clips.
        sampler: an inference engine that draws completions in place of the policy's own loop, in training and
            evaluation; it is sent the policy's weights (docs/scaling.md).
        protocol: whose EEA, UAR and question to the judge: the paper's, or what its released code computes.
        reliance: `test` and `predict` also measure what each sentence rests on: how much less probable it is with the
            pictures, the sound or both of other clips of the batch (docs/analysis.md). True: as the policy finds; or
            the backbone that is asked, such as the cold start, which no reward has taught to please.
        samples_per_clip: completions of each clip in `test` and `predict`; their mean, majority and pass@k stand beside
            the figures of the first (docs/analysis.md).
        aliases: how answers are read: as published, to the letter; or `extended`, with other forms of a class' words
            (surprised, sad.), in training and evaluation alike.
        sections: names of tags that must stand, each once and in order, before `<think>`, such as context, visual and
            audio (`configs/sections/`). The format reward and the strict reading demand them, and so does stage 1 of
            what it learns. `ExplanationReward` says whether their sentences count.

    Raises:
        FileNotFoundError: no file at `truth`, or no such taxonomy.
        ValueError: it is no such file; unknown taxonomy, a verifier without the labels that the taxonomy needs, or
            sections that are no different names, or stand beside bare answers.
    """

    def __init__(
        self,
        backbone: Backbone,
        taxonomy: str = "mafw",
        verifier: str | None = None,
        judge: Judge | None = None,
        evaluation: Sampling = EVALUATION_SAMPLING,
        bare_answers: bool = False,
        feature_cache: FeatureCache | None = None,
        truth: str | None = None,
        sampler: Sampler | None = None,
        protocol: Protocol = "paper",
        reliance: bool | Backbone = False,
        aliases: Aliases = "published",
        samples_per_clip: int = 1,
        sections: Sequence[str] = (),
    ) -> None:
        super().__init__()
        names = {*sections} - {"think", "answer"}
        if len(names) < len(sections) or not all(map(str.isidentifier, names)) or (sections and bare_answers):
            raise ValueError(
                f"Got sections={list(sections)} and bare_answers={bare_answers}. Expected different names of tags "
                "other than think and answer, and none beside bare answers."
            )
        self.sections = tuple(sections)
        if samples_per_clip < 1 or (samples_per_clip > 1 and evaluation.temperature == 0):
            raise ValueError(
                f"Got samples_per_clip={samples_per_clip} at model.evaluation.temperature {evaluation.temperature}. "
                "Expected 1 or more, and a temperature above 0 for several: greedy decoding writes the same each time."
            )
        self.samples_per_clip = samples_per_clip
        self.backbone = backbone
        backbone.set_trainable([])  # a subclass says what is trained
        self.feature_cache = feature_cache
        self.taxonomy = get_taxonomy(taxonomy, aliases)
        self.verifier = None if verifier is None else EmotionVerifier(verifier)
        if self.verifier is not None:
            self.verifier.require(self.taxonomy)
        self.judge = judge
        follow(judge, protocol)
        self.sampler = sampler
        self.evaluation = evaluation
        self.bare_answers = bare_answers
        self.validation_report = EmotionReport(self.taxonomy, self.judge_name, protocol)
        self.test_figures = TestFigures(self.taxonomy, self.judge_name, protocol, truth, reliance is not False)
        # Not the policy once more: its weights would have two names.
        self.reliance_backbone = reliance if isinstance(reliance, Backbone) else None
        if self.reliance_backbone is not None:
            self.reliance_backbone.set_trainable([])

    @property
    def judge_name(self) -> str | None:
        """Who judges the rationales: the judge given, else the verifier, else nobody."""
        if self.judge is not None:
            return self.judge.name
        return None if self.verifier is None else verifier_judge_name(self.verifier.path)

    def setup(self, stage: str) -> None:
        datamodule = getattr(self.trainer, "datamodule", None)
        corpus = getattr(datamodule, "taxonomy", None)
        if corpus is not None and corpus != self.taxonomy:
            raise ValueError(
                f"The model's taxonomy is {self.taxonomy.name} and the data's is {corpus.name}. "
                "Set model.taxonomy to the data's."
            )
        instruction = getattr(getattr(datamodule, "corpus", None), "instruction", None)
        unasked = [name for name in self.sections if instruction is not None and f"<{name}>" not in instruction]
        if unasked:
            warn(
                f"The instruction does not ask for {', '.join(f'<{name}>' for name in unasked)} of model.sections: set "
                "data.instruction, as configs/sections/context_visual_audio.yaml does."
            )
        media = getattr(getattr(datamodule, "corpus", None), "media", None)
        if media is not None:
            self.backbone.check_media(media)
        if self.feature_cache is not None:
            self.feature_cache.check(self.backbone)
            strategy = self.trainer.strategy
            if isinstance(strategy, FSDPStrategy) or getattr(strategy, "zero_stage_3", False):
                raise ValueError(
                    f"{type(strategy).__name__} leaves each process a part of the towers' weights, by which the "
                    "feature cache knows its entries. Set model.feature_cache to null, or trainer.strategy to ddp."
                )
        if self.sampler is not None and type(self.backbone).save_language_model is Backbone.save_language_model:
            self.backbone.save_language_model(Path())  # says why not
        if isinstance(self.trainer.precision_plugin, HalfPrecision):
            raise ValueError(
                f"trainer.precision {self.trainer.precision} would convert the sound and the verifier, too. Set it to "
                "32-true, and model.backbone.dtype to bfloat16, as configs/trainer/bf16_true.yaml does."
            )

    def configure_model(self) -> None:
        """Only what is trained is sharded: nothing here, so that every process evaluates with a model of its own."""

    def generate(self, prompt: Prompt, num_return_sequences: int, sampling: Sampling) -> Completions:
        """Completions of prompts, by the sampler if there is one; see `Backbone.generate`."""
        if self.sampler is None:
            return self.backbone.generate(prompt, num_return_sequences, sampling)
        return self.sampler.generate(self.backbone, prompt, num_return_sequences, sampling)

    def send_weights(self, must: bool = False) -> int:
        """Let the sampler's weights follow the policy's, which are whole; see `Sampler.follow`. Every process calls it.

        Returns:
            Optimizer steps that the sampler is behind; 0 without one.
        """
        return 0 if self.sampler is None else self.sampler.follow(self.backbone, self.trainer.global_step, must)

    def perceive(self, batch: ClipBatch) -> Percept:
        """Tower outputs of each clip; the towers do not run for clips in the feature cache."""
        if self.feature_cache is None:
            return self.backbone.perceive(batch)
        return self.feature_cache.perceive(self.backbone, batch)

    def read(self, texts: list[str], strict: bool = False) -> list[Response]:
        """Completions as responses of this module's taxonomy; see `read_response`."""
        return [read_response(text, self.taxonomy, self.bare_answers, strict, self.sections) for text in texts]

    def read_sentences(self, responses: list[Response]) -> list[list[SentenceReading]]:
        """The verifier's reading of each response's sentences: all sentences in one pass, repeated ones once.

        Raises:
            ValueError: the module hosts no verifier.
        """
        if self.verifier is None:
            raise ValueError("No verifier to read sentences with: set model.verifier to a directory or hub id.")
        return self.verifier.read_groups([response.sentences for response in responses])

    @torch.no_grad()
    def evaluate(
        self, batch: ClipBatch, with_cache: bool = True, with_reliance: bool = False, samples_per_clip: int = 1
    ) -> Evaluation:
        """Explain each clip of a batch, without dropout.

        Args:
            batch: the clips.
            with_cache: take tower outputs from the feature cache and add to it, where there is one. False for clips
                that are not those of the corpus, which would fill it.
            with_reliance: also measure what the sentences rest on, where that is asked for and there are two clips.
            samples_per_clip: completions of each clip; all but the first are in `Evaluation.more`.
        """
        with eval_mode(self.backbone):
            percept = self.perceive(batch) if with_cache else self.backbone.perceive(batch)
            prompt = self.backbone.encode(batch, percept)
            completions = self.generate(prompt, samples_per_clip, self.evaluation)
        check_sampled(completions, [own for own in batch.ids for _ in range(samples_per_clip)])
        failures = [failure for failure in batch.failures for _ in range(samples_per_clip)]
        texts = self.backbone.texts(completions)
        responses = self.read(["" if f else t for t, f in zip(texts, failures, strict=True)])
        readings = None if self.verifier is None else self.read_sentences(responses)
        verdicts = None
        if self.judge is not None:
            verdicts = self.judge.judge([response.rationale for response in responses], self.taxonomy)
        elif readings is not None:
            # The default judge reads the same sentences with the same verifier: they are read already.
            verdicts = [verifier_verdict(reading, self.taxonomy) for reading in readings]
        first, *more = [
            Evaluation(
                batch,
                responses[i::samples_per_clip],
                None if readings is None else readings[i::samples_per_clip],
                None if verdicts is None else verdicts[i::samples_per_clip],
            )
            for i in range(samples_per_clip)
        ]
        reliances = self._rest(batch, percept, first.responses) if with_reliance else None
        return replace(first, reliances=reliances, more=more)

    def _rest(self, batch: ClipBatch, percept: Percept, responses: list[Response]) -> list[list[Reliance]] | None:
        if not self.test_figures.with_reliance or len(batch) < 2:
            return None
        asked = self.reliance_backbone or self.backbone
        with eval_mode(asked):
            percept = percept if asked is self.backbone else asked.perceive(batch)
            sentences = [response.sentences for response in responses]
            return sentence_reliance(asked, batch, percept, other_clips(percept, NUM_OTHERS), sentences, with_both=True)

    def on_validation_epoch_start(self) -> None:
        self.send_weights(must=True)
        self.validation_report.reset()

    def validation_step(self, batch: ClipBatch, batch_idx: int) -> Evaluation:
        evaluation = self.evaluate(batch)
        self.validation_report.update_clips(evaluation.predictions, batch.targets, evaluation.verdicts)
        return evaluation

    def on_validation_epoch_end(self) -> None:
        self._log_report(self.validation_report, "val")

    def on_test_epoch_start(self) -> None:
        self.send_weights(must=True)
        self.test_figures.reset()

    def test_step(self, batch: ClipBatch, batch_idx: int) -> Evaluation:
        evaluation = self.evaluate(batch, with_reliance=True, samples_per_clip=self.samples_per_clip)
        self.test_figures.update(evaluation)
        return evaluation

    def on_test_epoch_end(self) -> None:
        self._log_report(self.test_figures.report, "test")
        self.test_figures.gather()
        if unread := self.test_figures.unread_answers.commonest():
            self.print(unread_summary(unread))
        if foreign := self.test_figures.unread_answers.foreign(self.test_figures.clips.total(), self.taxonomy):
            warn(foreign)
        figures = {name: figure["value"] for name, figure in self.test_figures.of_grounding().items()}
        figures |= {f"reliance_{name}": value for name, value in self.test_figures.of_reliance().items()}
        for name, value in figures.items():
            if value is not None:
                self.log(f"test/{name}", float(value), sync_dist=True)
        if isinstance(self.judge, PromptedJudge):
            self.print(self.judge.report())

    def on_predict_epoch_start(self) -> None:
        self.send_weights(must=True)

    def predict_step(self, batch: ClipBatch, batch_idx: int) -> Evaluation:
        return self.evaluate(batch, with_reliance=True, samples_per_clip=self.samples_per_clip)

    def _log_report(self, report: EmotionReport, prefix: str) -> None:
        # The values are the same on every process; `sync_dist` says so to Lightning.
        metrics = report.compute()
        for name in ("war", "uar", "eea", "epc", "fcr"):
            if metrics[name] is not None:
                self.log(f"{prefix}/{name}", metrics[name], prog_bar=name in ("war", "fcr"), sync_dist=True)
        self.log(f"{prefix}/unknown_answers", float(metrics["unknown_answers"]), sync_dist=True)

    def metrics_report(self) -> dict[str, Any]:
        """Metrics of the last test run, as written to `metrics.json`.

        Beside those of `score`: how many clips had no audio track (the model heard silence), no pictures (it saw black
        frames) or could not be decoded (a wrong answer). Of several corpora, `corpora` has the figures of each; of
        clips with several emotions, `emotion_sets` those of sets. With the truth about the clips, `grounding`: see
        `claims`. Where it was measured what sentences rest on, `reliance`: see `RelianceReport`.
        """
        return self.test_figures.compute()

    def export(self, directory: Path) -> None:
        """Write the policy as a Hugging Face directory that loads as a backbone again, adapters merged and alone."""
        self.backbone.save(directory)
        self.backbone.save_adapters(directory / "adapter")

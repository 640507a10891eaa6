"""What every backbone must do, on tiny random weights in float32 on the CPU: one suite over all of them.

A new backbone gets an entry in `CASES` of conftest.py, and passes: `pytest tests/lightning_modules/backbones -k NAME`.
"""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from lightning.pytorch.plugins.precision import HalfPrecision, MixedPrecision
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from datamodules.batch import ClipBatch
from lightning_modules.backbones import fork, generation
from lightning_modules.backbones.adapters import LoRA, merged_state_dict
from lightning_modules.backbones.decoder_backbone import DecoderBackbone
from lightning_modules.backbones.interface import Completions, Prompt, Sampling

from .conftest import Case

pytestmark = pytest.mark.numerics

GROUP_SIZE = 3


def ragged(model: DecoderBackbone, prompt: Prompt) -> Completions:
    """Sampled completions, cut to different lengths."""
    torch.manual_seed(1)
    completions = model.generate(prompt, GROUP_SIZE, Sampling(max_new_tokens=10))
    lengths = torch.arange(len(completions)) % 6 + 4
    mask = torch.arange(completions.token_ids.shape[1]) < lengths[:, None]
    logprobs = completions.logprobs.masked_fill(~mask, 0.0)
    return Completions(completions.token_ids, mask, logprobs, torch.ones(len(mask), dtype=torch.bool))


def naive_logprobs(model: DecoderBackbone, prompt: Prompt, completions: Completions) -> Tensor:
    """Prompt + completion per row in one pass, nothing shared."""
    decoder, width = model.decoder, completions.token_ids.shape[1]

    def joined(of_prompt: Tensor, of_completions: Tensor) -> Tensor:
        return torch.cat([of_prompt.repeat_interleave(GROUP_SIZE, dim=0), of_completions], dim=1)

    steps = torch.arange(1, width + 1).view(1, -1, *[1] * (prompt.position_ids.dim() - 2))
    positions = prompt.position_ids[:, -1:].repeat_interleave(GROUP_SIZE, dim=0) + steps
    written = decoder.tokens(completions.token_ids, positions, prompt)
    hidden = decoder.hidden(
        inputs_embeds=joined(prompt.embeddings, written.embeddings),
        attention_mask=joined(prompt.attention_mask, completions.mask.long()),
        position_ids=joined(prompt.position_ids, positions),
        extras={name: joined(extra, written.extras[name]) for name, extra in prompt.extras.items()},
    )
    logits = decoder.logits(hidden[:, -width - 1 : -1])
    logprobs = logits.log_softmax(-1).gather(-1, completions.token_ids[..., None])[..., 0]
    return logprobs.masked_fill(~completions.mask, 0.0)


def gradients(model: DecoderBackbone, logprobs: Tensor) -> dict[str, Tensor]:
    weights = torch.randn(logprobs.shape, generator=torch.Generator().manual_seed(2))
    model.zero_grad()
    (logprobs * weights).sum().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_equal_gradients(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert actual.keys() == expected.keys() and expected
    whole = torch.nn.utils.get_total_norm(expected.values())
    for name, gradient in expected.items():
        # Some gradients are 0 by symmetry (the bias of keys), and their float error is not.
        assert (actual[name] - gradient).norm() <= 1e-4 * gradient.norm() + 1e-6 * whole, name


@pytest.fixture(params=["grouped", "repeated"])
def attention(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Either way of remembering the prompts (`fork.py`)."""
    if request.param == "repeated":
        monkeypatch.setattr(fork, "can_group", lambda decoder: False)
    return request.param


def test_sampling_reports_what_scoring_computes(model: DecoderBackbone, clips: ClipBatch, attention: str) -> None:
    prompt = model.encode(clips)
    for temperature in (1.0, 0.7):
        completions = model.generate(prompt, GROUP_SIZE, Sampling(max_new_tokens=10, temperature=temperature))
        scored = model.logprobs(prompt, completions, temperature)
        torch.testing.assert_close(scored, completions.logprobs, atol=1e-4, rtol=0)


def test_sequences_that_end_leave_the_batch_and_change_no_other(
    model: DecoderBackbone, clips: ClipBatch, attention: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt = model.encode(clips)
    stops = range(0, model.decoder.config.vocab_size, 5)  # about every fifth token ends a sequence
    widths: list[int] = []
    logits = type(model.decoder).logits
    monkeypatch.setattr(
        type(model.decoder), "logits", lambda self, hidden: (widths.append(len(hidden)), logits(self, hidden))[1]
    )
    torch.manual_seed(0)
    completions = generation.sample(model.decoder, prompt, 8, Sampling(max_new_tokens=12), stops, 0)
    assert len(set(widths)) > 2 and widths[-1] < 24, "ended rows are taken out"
    last = completions.token_ids.gather(1, completions.lengths[:, None] - 1)[:, 0]
    assert torch.equal(torch.isin(last, torch.tensor(stops)), completions.finished)
    scored = model.logprobs(prompt, completions)
    torch.testing.assert_close(scored, completions.logprobs, atol=1e-4, rtol=0)


def test_shared_prompt_equals_naive_in_value_and_gradient(
    model: DecoderBackbone, case: Case, clips: ClipBatch, attention: str
) -> None:
    model.set_trainable(case.trained)
    percept = model.perceive(clips)
    completions = ragged(model, model.encode(clips, percept))
    shared = model.logprobs(model.encode(clips, percept), completions)
    naive = naive_logprobs(model, model.encode(clips, percept), completions)
    torch.testing.assert_close(shared, naive, atol=1e-4, rtol=0)
    assert_equal_gradients(gradients(model, shared), gradients(model, naive))


def test_scoring_in_parts_equals_scoring_at_once(model: DecoderBackbone, case: Case, clips: ClipBatch) -> None:
    model.set_trainable(case.trained)
    percept = model.perceive(clips)
    completions = ragged(model, model.encode(clips, percept))
    whole = model.logprobs(model.encode(clips, percept), completions)
    expected = gradients(model, whole)
    weights = torch.randn(whole.shape, generator=torch.Generator().manual_seed(2))
    model.zero_grad()
    with model.score_in_parts(model.encode(clips, percept)) as shared:
        assert (shared is not None) == fork.can_group(model.decoder)
        if shared is None:  # a decoder with windows
            return
        for g in range(GROUP_SIZE):
            rows = slice(g, None, GROUP_SIZE)
            fields = (completions.token_ids, completions.mask, completions.logprobs, completions.finished)
            scores = shared.score(Completions(*(field[rows] for field in fields)), 1.0, False)
            torch.testing.assert_close(scores.logprobs, whole[rows].detach(), atol=1e-4, rtol=0)
            (scores.logprobs * weights[rows]).sum().backward()
        shared.backward()
    assert_equal_gradients({n: p.grad for n, p in model.named_parameters() if p.grad is not None}, expected)


def test_gradient_checkpointing_changes_nothing_but_recomputes(
    load: Callable[..., DecoderBackbone], case: Case, clips: ClipBatch
) -> None:
    results, runs = [], []
    for gradient_checkpointing in (False, True):
        model = load(gradient_checkpointing=gradient_checkpointing)
        model.set_trainable(case.trained)
        completions = ragged(model, model.encode(clips))
        layers = [m for m in model.decoder.body.modules() if isinstance(m, GradientCheckpointingLayer)]
        count: list[int] = []
        layers[0].register_forward_hook(lambda *_, count=count: count.append(1))
        next(layers[0].children()).register_forward_hook(lambda *_, count=count: count.append(2))
        logprobs = model.logprobs(model.encode(clips), completions)
        results.append((logprobs.detach(), gradients(model, logprobs)))
        runs.append(count.count(2) / count.count(1))
        assert not any(layer.training for layer in layers), "dropout must stay off"
    torch.testing.assert_close(results[1][0], results[0][0], atol=1e-4, rtol=0)
    assert_equal_gradients(results[1][1], results[0][1])
    assert runs == [1, 2], "the layer's inside runs again in the backward pass"


def test_a_row_of_a_batch_is_what_it_is_alone(model: DecoderBackbone, clips: ClipBatch) -> None:
    percept = model.perceive(clips)
    prompt = model.encode(clips, percept)
    completions = ragged(model, prompt)
    together = model.logprobs(prompt, completions)
    assert len({int(n) for n in prompt.attention_mask.sum(1)}) == 3, "prompts of different lengths"
    for i in range(3):
        rows = completions.rows(i * GROUP_SIZE, (i + 1) * GROUP_SIZE)
        expected = together[i * GROUP_SIZE : (i + 1) * GROUP_SIZE, : rows.token_ids.shape[1]]
        part = clips.rows(i, i + 1)
        for alone in (model.encode(part), model.encode(part, percept.rows(i, i + 1))):
            torch.testing.assert_close(model.logprobs(alone, rows), expected, atol=1e-4, rtol=0)


def test_padding_on_either_side_gives_the_same(model: DecoderBackbone, clips: ClipBatch) -> None:
    prompt = model.encode(clips)
    shifts = (prompt.attention_mask == 0).sum(1)

    def moved(tensor: Tensor) -> Tensor:
        return torch.stack([row.roll(-int(shift), 0) for row, shift in zip(tensor, shifts, strict=True)])

    def hidden(of: Callable[[Tensor], Tensor]) -> Tensor:
        return model.decoder.hidden(
            inputs_embeds=of(prompt.embeddings),
            attention_mask=of(prompt.attention_mask),
            position_ids=of(prompt.position_ids),
            extras={name: of(extra) for name, extra in prompt.extras.items()},
        )

    left, right = moved(hidden(lambda tensor: tensor)), hidden(moved)
    real = moved(prompt.attention_mask).bool()
    torch.testing.assert_close(left[real], right[real], atol=1e-4, rtol=0)


def test_parts_hold_every_parameter_once(model: DecoderBackbone, case: Case) -> None:
    in_parts = [id(parameter) for part in model.parts.values() for parameter in part.parameters()]
    assert sorted(in_parts) == sorted(id(parameter) for parameter in model.parameters())
    assert set(case.trained) <= set(model.parts)


def test_gradient_flows_to_each_trained_part_and_nowhere_else(model: DecoderBackbone, clips: ClipBatch) -> None:
    completions = model.completion_ids([response or "" for response in clips.responses])
    for trained in (*[[name] for name in model.parts], list(model.parts)):
        model.set_trainable(trained)
        model.zero_grad(set_to_none=True)
        model.logprobs(model.encode(clips), completions).sum().backward()
        moved = {
            name
            for name, part in model.parts.items()
            if any(p.grad is not None and p.grad.abs().sum() > 0 for p in part.parameters())
        }
        assert moved == set(trained)


def test_frozen_towers_run_once_and_stay_out_of_the_graph(model: DecoderBackbone, case: Case, clips: ClipBatch) -> None:
    model.set_trainable(case.trained)
    towers = [model.parts[name] for name in model.parts if name not in case.trained]
    blocks = [m for tower in towers for m in tower.modules() if isinstance(m, GradientCheckpointingLayer)]
    assert towers and blocks
    runs: list[int] = []
    percept = model.perceive(clips)
    for block in blocks:
        next(block.children()).register_forward_hook(lambda *_: runs.append(1))
    prompt = model.encode(clips, percept)
    assert not runs, "encode with a percept must not run a tower"
    completions = ragged(model, prompt)
    assert len(gradients(model, model.logprobs(prompt, completions))) > 0
    assert all(parameter.grad is None for tower in towers for parameter in tower.parameters())


def test_save_then_load_is_identical(model: DecoderBackbone, case: Case, clips: ClipBatch, tmp_path: Path) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    completions = ragged(model, model.encode(clips))
    model.save(tmp_path / "model")
    again = case.reload(tmp_path / "model")
    expected = model.logprobs(model.encode(clips), completions)
    torch.testing.assert_close(again.logprobs(again.encode(clips), completions), expected, atol=0, rtol=0)
    suffixes = {path.suffix for path in (tmp_path / "model").rglob("*") if path.is_file()}
    assert suffixes <= {".json", ".safetensors", ".jinja", ".txt"}, "no pickles, no code"


def test_reference_shares_what_is_frozen_and_stays(model: DecoderBackbone, case: Case, clips: ClipBatch) -> None:
    model.set_trainable(case.trained)
    reference = model.reference()
    percept = model.perceive(clips)
    completions = ragged(model, model.encode(clips, percept))
    before = reference.logprobs(reference.encode(clips, percept), completions)
    policy = model.logprobs(model.encode(clips, percept), completions)
    torch.testing.assert_close(before, policy.detach(), atol=1e-6, rtol=0)  # ratio 1, KL 0 at the first update
    for name, part in model.parts.items():
        pairs = zip(part.parameters(), reference.parts[name].parameters(), strict=True)
        assert all((a is b) == (name not in case.trained) for a, b in pairs), name
    assert not any(parameter.requires_grad for parameter in reference.parameters())
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.01)
    torch.testing.assert_close(
        reference.logprobs(reference.encode(clips, percept), completions), before, atol=0, rtol=0
    )


def test_adapters_off_is_the_reference_and_saving_merges_them(
    load: Callable[..., DecoderBackbone], case: Case, clips: ClipBatch, tmp_path: Path
) -> None:
    model = load(lora=LoRA(rank=4, alpha=8))
    model.set_trainable(["language_model"])
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert trained and all("lora_" in name for name in trained)
    completions = ragged(model, model.encode(clips))
    reference = model.reference()
    assert sum(p.numel() for p in reference.parameters()) == sum(p.numel() for p in load().parameters())
    at_start = reference.logprobs(reference.encode(clips), completions)
    torch.manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    policy = model.logprobs(model.encode(clips), completions).detach()
    assert (policy - at_start).abs().max() > 1e-2
    assert set(gradients(model, model.logprobs(model.encode(clips), completions))) == set(trained)
    model.save(tmp_path / "model")
    assert model.save_adapters(tmp_path / "model/adapter")  # as an export has them: they are not added again
    again = case.reload(tmp_path / "model")
    torch.testing.assert_close(again.logprobs(again.encode(clips), completions), policy, atol=1e-4, rtol=0)
    assert not again.save_adapters(tmp_path / "none")
    plain = PeftModel.from_pretrained(load().pretrained, tmp_path / "model/adapter").merge_and_unload().state_dict()
    for name, weight in merged_state_dict(model.pretrained).items():
        torch.testing.assert_close(plain[name], weight, atol=1e-6, rtol=0, msg=name)
    for layer in model.modules():
        if isinstance(layer, LoraLayer):
            layer.enable_adapters(False)
    torch.testing.assert_close(model.logprobs(model.encode(clips), completions).detach(), at_start, atol=1e-6, rtol=0)


def test_what_adapters_of_a_bfloat16_model_learn_is_saved_to_the_last_bit(
    load: Callable[..., DecoderBackbone], case: Case, tmp_path: Path
) -> None:
    model = load(dtype="bfloat16", lora=LoRA(rank=4, alpha=8))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.constant_(parameter, 1e-6)  # a step of stage 3, below the spacing of the weights
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, LoraLayer)}
    model.save(tmp_path)
    again = case.reload(tmp_path)
    for name, layer in layers.items():
        weight = layer.get_base_layer().weight.float()
        assert torch.equal(again.get_submodule(name).weight, weight + layer.get_delta_weight("default")), name
    assert layers and not torch.equal(weight, weight + layer.get_delta_weight("default"))


def test_bfloat16_runs(load: Callable[..., DecoderBackbone], clips: ClipBatch) -> None:
    model = load(dtype="bfloat16")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    prompt = model.encode(clips)
    completions = model.generate(prompt, 2, Sampling(max_new_tokens=4))
    logprobs = model.logprobs(prompt, completions)
    assert logprobs.dtype == torch.float32 and torch.isfinite(logprobs).all()


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
def test_runs_in_the_precisions_of_lightning(
    load: Callable[..., DecoderBackbone], clips: ClipBatch, precision: str
) -> None:
    model = load(dtype="bfloat16" if precision == "bf16-true" else "float32")
    plugin = MixedPrecision("bf16-mixed", "cpu") if precision == "bf16-mixed" else HalfPrecision("bf16-true")
    with plugin.forward_context():
        prompt = model.encode(clips)
        completions = model.generate(prompt, 2, Sampling(max_new_tokens=4))
        logprobs = model.logprobs(prompt, completions)
    assert {logprobs.dtype, completions.logprobs.dtype} == {torch.float32}
    # Of one precision: a step away from each other, not a model apart.
    torch.testing.assert_close(logprobs, completions.logprobs, atol=0.2, rtol=0)


def test_a_question_with_placeholders_stays_text(model: DecoderBackbone, clips: ClipBatch) -> None:
    specials = "".join(model.tokenizer.all_special_tokens)
    lengths = []
    for question in ("Why?", f"Why? <video> <audio> <image>{specials}"):
        clips.instructions[0] = question
        lengths.append(model.encode(clips.rows(0, 1)).embeddings.shape[1])
    text = model.tokenizer(f" <video> <audio> <image>{specials}", add_special_tokens=False, split_special_tokens=True)
    assert abs(lengths[1] - lengths[0] - len(text["input_ids"])) <= 2, "text tokens only: no clip, no control token"


def test_a_response_with_special_tokens_stays_text_up_to_its_one_end(model: DecoderBackbone) -> None:
    tokenizer = model.tokenizer
    special = {token.content: i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    assert {*tokenizer.all_special_tokens} <= special.keys()
    responses = [f"<think>He says {token} and{token}{token} goes.</think>\n<answer>sad</answer>" for token in special]
    responses += ["".join(special), "<think>He smiles.</think>"]
    completions = model.completion_ids(responses)
    for row, keep in zip(completions.token_ids.tolist(), completions.mask, strict=True):
        *text, end = row[: int(keep.sum())]
        assert end == tokenizer.eos_token_id and not special.keys() & set(tokenizer.convert_ids_to_tokens(text))
    assert model.texts(completions) == responses

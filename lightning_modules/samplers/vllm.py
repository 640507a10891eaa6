"""Completions by vLLM servers: embeddings go there, token ids and log-probabilities come back.

Towers and projectors stay here; a server runs the language model alone, and needs no code of this project:

    VLLM_SERVER_DEV_MODE=1 vllm serve /dev/shm/policy --enable-prompt-embeds --logprobs-mode processed_logprobs

Weights travel through the directory that the servers were started on, which this process writes and they read again
(`/collective_rpc`, a route of vLLM's development mode: keep such servers off public networks). Adapters may travel
alone, to servers with `--enable-lora` and VLLM_ALLOW_RUNTIME_LORA_UPDATING=True.
"""

import base64
import io
import ipaddress
import json
import math
import shutil
import socket
from collections.abc import Callable
from concurrent.futures import as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit
from uuid import uuid4

import torch
from anyio.from_thread import start_blocking_portal
from torch import Tensor

from lightning_modules.backbones.interface import Backbone, Completions, Prompt, Sampling
from lightning_modules.endpoint.errors import EndpointError
from lightning_modules.endpoint.http import JsonEndpoint, Unreadable
from lightning_modules.samplers.base import Sampler, SamplerError

T = TypeVar("T")

_BYTES_PER_TOKEN = 1 << 12
"""Of an answer, at most: ids, log-probabilities and their text."""


class VLLMSampler(Sampler):
    """vLLM servers that share the prompts.

    Args:
        urls: of the servers, e.g. `[http://127.0.0.1:8000]`, without a path.
        directory: that they were started on, where it is on this machine or shared with theirs; its weights are
            replaced.
        every_n_steps: see `Sampler`.
        key_variable: name of the environment variable with the servers' key (`vllm serve --api-key`); one that is not
            set sends none.
        timeout: seconds for one prompt's completions, or for loading weights.
        retries: further attempts after a timeout, a broken connection, or an answer that is none.
        seeded: send a seed with each prompt, so that a resumed run draws what the killed one would have; vLLM's build
            for CPUs ends at one.
        adapters: send a policy's adapters (LoRA) alone, which the servers put on the base that `directory` holds; else
            whole weights travel, adapters merged.
        public: allow servers outside this machine and private networks. What is sent there are the clips' features,
            and whoever listens can take them.

    Raises:
        ValueError: no server, an address of another form, a public one, or a number out of range.
    """

    def __init__(
        self,
        urls: list[str],
        directory: str,
        every_n_steps: int = 1,
        key_variable: str | None = "VLLM_API_KEY",
        timeout: float = 300.0,
        retries: int = 2,
        seeded: bool = True,
        adapters: bool = False,
        public: bool = False,
    ) -> None:
        super().__init__(every_n_steps)
        if not urls:
            raise ValueError("A VLLMSampler needs the address of one server or more, e.g. [http://127.0.0.1:8000].")
        self.urls = [url.rstrip("/") for url in urls]
        if outside := [url for url in self.urls if not public and not _is_private(url)]:
            raise ValueError(
                f"{outside[0]} is on a public network. vLLM's development routes let anyone there replace the weights: "
                "use a server of this machine or of a private network, or set public to true."
            )
        self.directory = Path(directory)
        self._options = {"timeout": timeout, "retries": retries, "backoff": 1.0, "max_wait": 30.0}
        self.key_variable = key_variable
        self.seeded = seeded
        self.adapters = adapters
        self._model = str(self.directory)
        self._endpoint(self.urls[0], "/health")  # refuses what is no address or number

    def _endpoint(self, url: str, path: str, max_bytes: int = 1 << 20) -> JsonEndpoint:
        return JsonEndpoint(url, path, self.key_variable, **self._options, max_bytes=max_bytes)

    def send(self, backbone: Backbone) -> None:
        if not self.directory.is_dir():
            raise SamplerError(
                f"There is no directory {self.directory}, on which the servers were to be started. Copy the policy's "
                "language model there (its config.json, tokenizer and weights) and start them on it."
            )
        self._check_model()
        if self.adapters:
            self._send_adapters(backbone)
            return
        backbone.save_language_model(self.directory)
        self._on_all("/collective_rpc", {"method": "reload_weights"})
        # What it remembers of prompts was computed by the old weights.
        self._on_all("/reset_prefix_cache", {})

    def _send_adapters(self, backbone: Backbone) -> None:
        """Have the servers load the adapters under a new name, by which completions are then asked for."""
        name = f"policy-{uuid4().hex}"
        path = self.directory.resolve() / "adapters" / name
        if not backbone.save_adapters(path):
            raise SamplerError(
                "The policy has no adapters to send: set model.backbone.lora, or the sampler's adapters to false."
            )
        self._on_all("/v1/load_lora_adapter", {"lora_name": name, "lora_path": str(path)})
        if self._model != str(self.directory):
            self._on_all("/v1/unload_lora_adapter", {"lora_name": self._model})
            shutil.rmtree(path.parent / self._model)
        self._model = name

    def _check_model(self) -> None:
        """Refuse servers that serve something else than the directory."""
        for url, served in zip(self.urls, self._on_all("/v1/models", None, _served), strict=True):
            if str(self.directory) not in served and str(self.directory.resolve()) not in served:
                raise SamplerError(
                    f"{url} serves {', '.join(served) or 'no model'}, expected {self.directory}: start it on that "
                    "directory, or name the one that it was started on."
                )

    def _on_all(
        self, path: str, body: dict[str, Any] | None, read: Callable[[bytes], Any] = lambda content: content
    ) -> list[Any]:
        return self._ask([(self._endpoint(url, path), body) for url in self.urls], read)

    def _ask(self, requests: list[tuple[JsonEndpoint, dict[str, Any] | None]], read: Callable[[bytes], T]) -> list[T]:
        """The answers to requests, which run at the same time.

        Raises:
            SamplerError: one of them has none.
        """
        answers: dict[int, T] = {}
        try:
            # An error or Ctrl-C cancels what is under way.
            with start_blocking_portal(name="sampler") as portal:
                futures = {
                    portal.start_task_soon(endpoint.ask, body, read, lambda: None): i
                    for i, (endpoint, body) in enumerate(requests)
                }
                for future in as_completed(futures):
                    answers[futures[future]] = future.result()
        except EndpointError as error:
            raise SamplerError(
                f"The sampler failed. {error} Start the server again, and go on with `--ckpt_path last`: a run that "
                "goes on sends its weights first."
            ) from error
        return [answers[i] for i in range(len(requests))]

    def generate(
        self, backbone: Backbone, prompt: Prompt, num_return_sequences: int, sampling: Sampling
    ) -> Completions:
        check_prompt(prompt)
        stop = backbone.stop_token_ids
        vocabulary = len(backbone.tokenizer)
        size = _BYTES_PER_TOKEN * sampling.max_new_tokens * num_return_sequences
        # Drawn from the step's own random numbers: a resumed run asks for what the killed one asked for.
        seeds = torch.randint(2**31 - 1, (len(prompt),)).tolist()
        requests: list[tuple[JsonEndpoint, dict[str, Any] | None]] = [
            (
                self._endpoint(self.urls[row % len(self.urls)], "/v1/completions", size),
                {
                    "model": self._model,
                    "prompt_embeds": encode_tensor(prompt.embeddings[row][prompt.attention_mask[row].bool()]),
                    "n": num_return_sequences,
                    "max_tokens": sampling.max_new_tokens,
                    "temperature": sampling.temperature,
                    "top_p": sampling.top_p,
                    "top_k": sampling.top_k,
                    **({"seed": seeds[row]} if self.seeded else {}),
                    "stop_token_ids": stop,
                    "logprobs": 0,
                    "return_token_ids": True,
                },
            )
            for row in range(len(prompt))
        ]
        limits = Limits(num_return_sequences, sampling.max_new_tokens, vocabulary)
        groups = self._ask(requests, limits.read)
        rows = [completion for group in groups for completion in group]
        return stack(rows, stop, backbone.tokenizer.pad_token_id, prompt.embeddings.device)


@dataclass(frozen=True)
class Sampled:
    """A completion as a server gave it: token ids, and the log-probability of each when it was drawn."""

    token_ids: list[int]
    logprobs: list[float]


@dataclass(frozen=True)
class Limits:
    """What an answer may hold.

    Args:
        count: completions.
        max_new_tokens: tokens of each, at most.
        vocabulary: ids of tokens are smaller.
    """

    count: int
    max_new_tokens: int
    vocabulary: int

    def read(self, content: bytes) -> list[Sampled]:
        """The completions of an answer.

        Raises:
            Unreadable: it is none, or holds others than were asked for.
        """
        try:
            choices = sorted(json.loads(content)["choices"], key=lambda choice: choice["index"])
            rows = [Sampled(choice["token_ids"], choice["logprobs"]["token_logprobs"]) for choice in choices]
        except (ValueError, TypeError, LookupError, RecursionError):
            raise Unreadable(
                "the answer holds no completions with token_ids and logprobs: is the server a vLLM, started with "
                "--enable-prompt-embeds and --logprobs-mode processed_logprobs?"
            ) from None
        if len(rows) != self.count:
            raise Unreadable(f"the answer has {len(rows)} completions, {self.count} were asked for")
        for row in rows:
            self._check(row)
        return rows

    def _check(self, row: Sampled) -> None:
        ids, logprobs = row.token_ids, row.logprobs
        if not isinstance(ids, list) or not all(type(own) is int and 0 <= own < self.vocabulary for own in ids):
            raise Unreadable(f"a completion's token_ids are no ids of a vocabulary of {self.vocabulary}")
        if not 1 <= len(ids) <= self.max_new_tokens:
            raise Unreadable(f"a completion has {len(ids)} tokens, 1 to {self.max_new_tokens} were asked for")
        if not isinstance(logprobs, list) or len(logprobs) != len(ids):
            raise Unreadable("a completion has not one log-probability for each of its tokens")
        if not all(isinstance(own, int | float) and math.isfinite(own) and own <= 1e-3 for own in logprobs):
            raise Unreadable("a completion has a log-probability that is none")


def check_prompt(prompt: Prompt) -> None:
    """Refuse prompts whose positions a server cannot know.

    Raises:
        ValueError: positions in time, height and width, or that begin elsewhere than text's, or embeddings that go into
            deeper layers.
    """
    positions = prompt.position_ids
    if positions.ndim == 3 or prompt.extras or int(positions.max()) >= positions.shape[1]:
        raise ValueError(
            "A VLLMSampler gives a server embeddings, which it places one after another as text. This backbone's "
            "prompt has positions in time, height and width (M-RoPE), rotary frequencies of its own, or more than "
            "embeddings: leave model.sampler out."
        )


def encode_tensor(tensor: Tensor) -> str:
    """A tensor in Base64, as vLLM reads it: PyTorch's file format."""
    buffer = io.BytesIO()
    torch.save(tensor.detach().cpu().contiguous().clone(), buffer)
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def stack(rows: list[Sampled], stop: list[int], pad_token_id: int, device: torch.device) -> Completions:
    """Completions of a server as tensors; a row is finished where its last token ends it."""
    width = max(len(row.token_ids) for row in rows)
    ids = torch.full((len(rows), width), pad_token_id)
    mask = torch.zeros(len(rows), width, dtype=torch.bool)
    logprobs = torch.zeros(len(rows), width)
    for i, row in enumerate(rows):
        length = len(row.token_ids)
        ids[i, :length] = torch.tensor(row.token_ids)
        logprobs[i, :length] = torch.tensor(row.logprobs)
        mask[i, :length] = True
    finished = torch.tensor([row.token_ids[-1] in stop for row in rows])
    return Completions(ids.to(device), mask.to(device), logprobs.to(device), finished.to(device))


def _served(content: bytes) -> list[str]:
    """Names, and directories, of the models that a server has."""
    try:
        models = json.loads(content)["data"]
        return [str(model[name]) for model in models for name in ("id", "root") if model.get(name)]
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
        raise Unreadable("the answer lists no models: is the server a vLLM?") from None


def _is_private(url: str) -> bool:
    """Whether a server is on this machine or in a private network, by all addresses that its name has."""
    host = urlsplit(url).hostname or ""
    try:
        found = {entry[4][0] for entry in socket.getaddrinfo(host, None)}
    except OSError:
        return True  # nobody is there to be asked; the first request says so
    return all(ipaddress.ip_address(str(own).partition("%")[0]).is_private for own in found)

"""A server with vLLM's routes on a tiny language model of this machine, whose faults a test chooses."""

import base64
import copy
import io
import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

Fault = Callable[[str, dict[str, Any]], bytes | int | None]
"""From path and answer to what is sent instead: a body, or a status; None sends the answer."""


class VLLMServer(ThreadingHTTPServer):
    """Serves the language model in a directory; a context manager.

    Args:
        directory: a Hugging Face directory, read again on `reload_weights`.
        fault: see `Fault`.
        keeps_head: reloading leaves the head as it was, as vLLM's build for CPUs does with a tied one.
    """

    daemon_threads = True

    def __init__(self, directory: Path, fault: Fault = lambda path, answer: None, keeps_head: bool = False) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.directory, self.fault, self.keeps_head = directory, fault, keeps_head
        self.requests: list[tuple[str, dict[str, Any]]] = []
        self.lock = threading.Lock()
        self.generator = torch.Generator()
        self.model: Any = None
        self.adapted: dict[str, Any] = {}
        self.load()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def load(self) -> None:
        model = AutoModelForCausalLM.from_pretrained(self.directory, dtype=torch.float32).eval()
        if self.keeps_head and self.model is not None:
            model.lm_head.weight = self.model.lm_head.weight
        self.model = model

    def load_adapters(self, lora_name: str, lora_path: str) -> None:
        assert lora_name not in self.adapted, "vLLM refuses a name that it knows"
        self.adapted[lora_name] = PeftModel.from_pretrained(copy.deepcopy(self.model), lora_path).eval()

    def count(self, path: str) -> int:
        return sum(own == path for own, _ in self.requests)

    @torch.no_grad()
    def complete(self, body: dict[str, Any]) -> dict[str, Any]:
        buffer = io.BytesIO(base64.b64decode(body["prompt_embeds"], validate=True))
        prompt = torch.load(buffer, weights_only=True)
        self.generator.manual_seed(body["seed"])
        return {"choices": [self._choice(i, prompt, body) for i in range(body["n"])]}

    def _choice(self, index: int, prompt: torch.Tensor, body: dict[str, Any]) -> dict[str, Any]:
        model = self.model if body["model"] == str(self.directory) else self.adapted[body["model"]]
        embed, ids, logprobs = model.get_input_embeddings(), [], []
        inputs = prompt[None]
        while len(ids) < body["max_tokens"] and not (ids and ids[-1] in body["stop_token_ids"]):
            logits = model(inputs_embeds=inputs).logits[0, -1].float()
            scores = (logits / (body["temperature"] or 1.0)).log_softmax(dim=-1)
            drawn = scores.exp().multinomial(1, generator=self.generator) if body["temperature"] else scores.argmax()
            ids.append(int(drawn))
            logprobs.append(float(scores[ids[-1]]))
            inputs = torch.cat([inputs, embed(torch.tensor([[ids[-1]]]))], dim=1)
        return {"index": index, "token_ids": ids, "logprobs": {"token_logprobs": logprobs}}

    def __enter__(self) -> Self:
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: VLLMServer

    def do_GET(self) -> None:
        self._answer({})

    def do_POST(self) -> None:
        self._answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

    def _answer(self, body: dict[str, Any]) -> None:
        server = self.server
        with server.lock:
            server.requests.append((self.path, body))
            if self.path == "/v1/completions":
                answer = server.complete(body)
            elif self.path == "/v1/models":
                answer = {"data": [{"id": str(server.directory), "root": str(server.directory)}]}
            else:
                answer = {}
                if self.path == "/collective_rpc":
                    assert body == {"method": "reload_weights"}
                    server.load()
                elif self.path == "/v1/load_lora_adapter":
                    server.load_adapters(**body)
                elif self.path == "/v1/unload_lora_adapter":
                    del server.adapted[body["lora_name"]]
            sent = server.fault(self.path, answer)
        content = sent if isinstance(sent, bytes) else json.dumps(answer).encode()
        self.send_response(sent if isinstance(sent, int) else 200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Nothing on the screen."""

"""`python main.py app`: a page on which one's own clip is explained by one model or two, while they write.

Torch and the models are imported when it runs, not for `--help`.
"""

import logging
import os
import signal
import socket
import sys
from importlib.util import find_spec
from ipaddress import ip_address
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType
from typing import TYPE_CHECKING, Any, Literal

from rich.console import Console

from datamodules.emotions import Taxonomy, get_taxonomy

if TYPE_CHECKING:
    from lightning_modules.backbones.interface import Sampling
    from tools.app.explainer import Explainer

DEMO = "runs/demo"
MODEL, VERIFIER = f"{DEMO}/grpo_erv/model", f"{DEMO}/verifier/model"
"""What is shown where nothing is named: what `make demo` leaves."""


def app(
    model: str | None = None,
    other: str | None = None,
    backbone: str | None = None,
    verifier: str | None = None,
    taxonomy: str | None = None,
    dtype: Literal["float32", "bfloat16"] | None = None,
    max_new_tokens: int = 512,
    temperature: float = 0.3,
    top_p: float = 0.9,
    max_megabytes: int = 100,
    timeout_seconds: float = 60.0,
    host: str = "127.0.0.1",
    port: int = 7860,
) -> None:
    """Serve a page on which a clip is uploaded or recorded, and explained: whole, without sound, without pictures.

    Without options it shows the policy and the verifier of `make demo`. Runs until Ctrl-C.

    Args:
        model: directory of an exported policy, such as runs/NAME/model, or hub id.
        other: a second one, shown below it.
        backbone: configuration that names class and settings of the backbone, such as backbone/qwen2_5_vl; needed where
            they are not those that the model's directory tells.
        verifier: Hugging Face directory or hub id of the verifier that reads the sentences; without one they stay
            uncoloured.
        taxonomy: the classes that answers are read with; by default those that the model was trained on, else dfew.
        dtype: precision of the policies' weights.
        max_new_tokens: longest completion, in tokens.
        temperature: softmax temperature; 0 is greedy decoding.
        top_p: smallest set of tokens with at least this probability; 1 is off.
        max_megabytes: largest file, in 10⁶ bytes.
        timeout_seconds: longest time for decoding a clip.
        host: address to listen on. Any but a loopback address lets others of the network use this machine.
        port: to listen on; 0 takes a free one.

    Raises:
        FileNotFoundError: nothing is named, and there is no demo here; says what to do.
        ImportError: the extra `app` is not installed.
        ValueError: a model does not load, the address cannot be listened on, or a limit is not above 0.
    """
    if max_megabytes < 1 or not timeout_seconds > 0:
        raise ValueError(
            f"Expected max_megabytes >= 1 and timeout_seconds > 0, got {max_megabytes} and {timeout_seconds:g}."
        )
    if find_spec("gradio") is None:
        raise ImportError("The app needs gradio. Run `pip install gradio`.")
    from lightning_modules.backbones.interface import Sampling
    from tools.app.models import names_of, trained_taxonomy

    if model is None and backbone is None:
        model, verifier = _of_demo(verifier)
    classes = get_taxonomy(taxonomy or trained_taxonomy(model) or "dfew")
    paths = [model] if other is None else [model, other]
    with _listen(host, port) as listener, TemporaryDirectory(prefix="erv-app-") as directory:
        os.environ["GRADIO_TEMP_DIR"] = directory  # also for what its import makes
        explainers = _explainers(
            paths, backbone, dtype, verifier, classes, Sampling(max_new_tokens, temperature, top_p)
        )
        names = names_of([path or str(backbone) for path in paths])
        _serve(explainers, names, max_megabytes, timeout_seconds, host, listener)


def _explainers(
    paths: list[str | None],
    backbone: str | None,
    dtype: str | None,
    verifier: str | None,
    classes: Taxonomy,
    sampling: "Sampling",
) -> "list[Explainer]":
    from lightning_modules.emotion_verifier import EmotionVerifier
    from lightning_modules.judges.base import find_device
    from tools.app.explainer import Explainer
    from tools.app.models import open_backbone

    device = find_device("auto")
    reader = None if verifier is None else EmotionVerifier(verifier).to(device)
    if reader is not None:
        reader.require(classes)
    return [Explainer(open_backbone(path, backbone, dtype).to(device), classes, reader, sampling) for path in paths]


def _serve(
    explainers: "list[Explainer]",
    names: list[str],
    max_megabytes: int,
    timeout_seconds: float,
    host: str,
    listener: socket.socket,
) -> None:
    """Answer until Ctrl-C or SIGTERM, and connect to nothing from now on."""
    import uvicorn

    class Server(uvicorn.Server):
        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)  # an open page's connections are cut
            super().handle_exit(sig, frame)

    from tools.app.line import Line
    from tools.app.page import Page

    sys.addaudithook(_stay_here)
    line = Line(explainers, timeout_seconds)
    hosts = ["127.0.0.1", "localhost", "::1", "[::1]"]  # no other name leads here by a trick with DNS
    is_local = _is_loopback(host)
    application = Page(line, names).application(max_megabytes, hosts if is_local else ["*"])
    console = Console(markup=False, highlight=False)
    shown = f"[{host}]" if ":" in host else host
    console.print(f"http://{shown}:{listener.getsockname()[1]}/ until Ctrl-C", soft_wrap=True)
    if not is_local:
        console.print(f"{host} is no loopback address: whoever reaches it can send clips to this machine.")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that nothing is left behind then, either
    try:
        Server(uvicorn.Config(application, log_level="warning", timeout_graceful_shutdown=1)).run([listener])
    except KeyboardInterrupt:  # which uvicorn has dealt with
        pass
    finally:
        line.close()


def _stay_here(event: str, _: tuple[Any, ...]) -> None:
    """Audit hook: Gradio would look for its news, and fetch a file that a request names by an address."""
    if event in ("socket.connect", "socket.getaddrinfo"):
        raise PermissionError("The app connects to nothing.")


def _of_demo(verifier: str | None) -> tuple[str, str | None]:
    """The demo's policy, and its verifier unless another is named."""
    if not Path(MODEL).is_dir():
        raise FileNotFoundError(
            f"There is no model to ask: {MODEL} is not here. Give --model, a directory of an exported policy such as "
            "runs/NAME/model; or run `make demo` first, which takes minutes on a CPU."
        )
    return MODEL, verifier or (VERIFIER if Path(VERIFIER).is_dir() else None)


def _listen(host: str, port: int) -> socket.socket:
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except (OSError, OverflowError) as error:
        raise ValueError(
            f"Cannot listen on {host}, port {port}: {error}. Give another --port; 0 takes a free one."
        ) from error


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"

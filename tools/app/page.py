"""The app's page, of Gradio's parts: what is chosen above, what each model says of it below.

Templates of `parts/` escape what a model, the verifier or a file says: it reaches the page as text.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
from jinja2 import Environment, FileSystemLoader
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware

from callbacks.colours import colour_of
from callbacks.pictures import frame_strip, spectrogram
from datamodules.ablation import Ablation
from datamodules.batch import Clip
from tools.app.guard import Guard
from tools.app.line import Line
from tools.report.media import data_uri, jpeg

MODES: dict[Ablation, str] = {"full": "the whole clip", "video_only": "without sound", "audio_only": "without pictures"}
"""What a model is given of a clip → what the page calls it."""

_PARTS = Path(__file__).with_name("parts")
_TITLE = "Explain a clip"
_LEGEND = (
    "A sentence has the colour of the emotion that a verifier reads in it. ✓: all of them together read as the answer, "
    "which does not say that it is right."
)
_MOST_WAITING = 16
_KEPT_SECONDS = 3600
"""A clip's file, for the player and to explain it again."""


class Page:
    """What a browser shows, and what happens there.

    Args:
        line: explains the clips.
        names: of its models.
    """

    def __init__(self, line: Line, names: Sequence[str]) -> None:
        self.line = line
        self._templates = Environment(loader=FileSystemLoader(_PARTS), autoescape=True)
        taxonomy, verifier = line.explainers[0].taxonomy, line.explainers[0].verifier
        self._templates.globals.update(colour=lambda name: colour_of(name, taxonomy), is_verified=verifier is not None)
        kept = (_KEPT_SECONDS, _KEPT_SECONDS)
        with gr.Blocks(title=_TITLE, analytics_enabled=False, delete_cache=kept, fill_width=True) as blocks:
            self.blocks = blocks.queue(max_size=_MOST_WAITING)
            gr.Markdown(f"# {_TITLE}\n{_LEGEND if verifier is not None else ''}")
            with gr.Row():
                with gr.Column(scale=1, min_width=280):
                    with gr.Tab("File"):
                        kinds = ["video", "audio", "image"]
                        upload = gr.File(label="Film, sound or picture", file_types=kinds, height=160)
                    with gr.Tab("Record"):
                        options = gr.WebcamOptions(mirror=False)
                        self.camera = gr.Video(
                            sources="webcam", webcam_options=options, include_audio=True, label="Camera"
                        )
                    self.again = gr.Button("Explain it again", visible=False, size="sm")
                with gr.Column(scale=3, min_width=280):
                    self.clip = gr.HTML(apply_default_css=False, min_height=120, elem_id="clip")
            self.cards: dict[tuple[int, Ablation], gr.HTML] = {}
            for number, name in enumerate(names):
                gr.HTML(self._templates.from_string("<h2>{{ name }}</h2>").render(name=name))
                with gr.Row():
                    for mode in MODES:
                        with gr.Column(min_width=280):
                            card = gr.HTML(apply_default_css=False, elem_id=f"card-{number}-{mode}")
                            self.cards[number, mode] = card
            self.file, self.ticket = gr.State(), gr.State()
            self._listen(upload.upload, upload)
            self._listen(self.camera.stop_recording, self.camera)
            self._listen(self.again.click, self.file)

    def application(self, max_megabytes: int, hosts: Sequence[str]) -> Starlette:
        """What answers requests for one of the hosts, `*` for any, and takes files up to a size."""
        app = Starlette(middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=list(hosts)), Middleware(Guard)])
        theme = gr.themes.Default(font=("system-ui", "sans-serif"), font_mono=("ui-monospace", "monospace"))
        self.blocks.has_launched = True  # else any file that a request names passes for one that was uploaded
        return gr.mount_gradio_app(
            app, self.blocks, "/", footer_links=[], run_history=False, show_error=False, ssr_mode=False, theme=theme,
            max_file_size=max_megabytes * 10**6, css_paths=_PARTS / "style.css",
        )  # fmt: skip

    def _listen(self, trigger: Any, given: gr.components.Component) -> None:
        """A clip ends at once what is written of the one before, and is explained when it is its turn."""
        options = {"trigger_mode": "multiple", "api_visibility": "private"}
        states = [self.file, self.ticket]
        entered = trigger(
            self._enter, given, [*states, self.again, self.camera],
            concurrency_limit=None, preprocess=False, show_progress="hidden", **options,
        )  # fmt: skip
        entered.then(
            self._explain, states, [self.clip, *self.cards.values()],
            concurrency_limit=1, concurrency_id="models", show_progress_on=self.clip, **options,
        )  # fmt: skip

    def _enter(self, given: dict[str, Any] | str, request: gr.Request) -> tuple[str, int, gr.Button, None]:
        """What is explained from now on; the recorder is ready for another take."""
        file = given if isinstance(given, str) else given["path"]
        return file, self.line.enter(request.session_hash), gr.Button(visible=True), None

    def _explain(self, file: str, ticket: int, request: gr.Request) -> Iterator[dict[gr.HTML, str]]:
        yield dict.fromkeys((self.clip, *self.cards.values()), "")
        for events in self.line.explain(file, request.session_hash, ticket):
            shown: dict[gr.HTML, str] = {}
            for event in events:
                shown |= self._shown(file, event)
            yield shown

    def _shown(self, file: str, event: dict[str, Any]) -> dict[gr.HTML, str]:
        """What changes on the page by an event of the line."""
        if "error" in event:
            return {self.clip: self._render("clip.html", event)}
        if "clip" in event:
            waiting = {card: self._card(mode, {}) for (_, mode), card in self.cards.items() if mode in event["modes"]}
            return {self.clip: self._render("clip.html", {"file": file} | _pictures(event["clip"]))} | waiting
        return {self.cards[event["model"], event["mode"]]: self._card(event["mode"], event)}

    def _card(self, mode: Ablation, state: dict[str, Any]) -> str:
        return self._render("card.html", state | {"title": MODES[mode]})

    def _render(self, template: str, values: dict[str, Any]) -> str:
        return self._templates.get_template(template).render(values)


def _pictures(clip: Clip) -> dict[str, Any]:
    strip = frame_strip(clip.frames, height=112, has_video=clip.has_video)
    sound = spectrogram(clip.waveform, height=44, width=strip.width)
    drawn = {"strip": strip, "spectrogram": sound}
    return {
        "seconds": clip.duration_seconds,
        **{name: data_uri("image/jpeg", jpeg(image)) for name, image in drawn.items()},
    }

"""The page's signal processing in Chromium: resampling is clean, and played samples are counted to the last one."""

import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

pytest.importorskip("websockets", reason="drives Chromium: josie[serve]")

from chromium import EXECUTABLE, open_page

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(EXECUTABLE is None, reason="needs Chromium: apt-get install chromium"),
]
PAGE = Path(__file__).parents[1] / "serving" / "page"
# Functions that the tests below call.
PRELUDE = """
const { Resampler } = await import("/resampler.js");
const sample = (size, value) => Float32Array.from({ length: size }, (_, n) => value(n));
const tone = (frequency, rate, size) => sample(size, (n) => Math.sin(2 * Math.PI * frequency * n / rate));
const energy = (samples) => samples.reduce((sum, value) => sum + value * value, 0) / samples.length;
const decibels = (ratio) => Math.max(-300, 10 * Math.log10(ratio));
"""


class Quiet(SimpleHTTPRequestHandler):
    """A server of files that prints nothing."""

    def log_message(self, *arguments):
        pass


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=PAGE)) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        with open_page(tmp_path_factory.mktemp("profile")) as page:
            page.open(
                f"http://127.0.0.1:{server.server_address[1]}/icon.svg"
            )  # a page of that origin that runs nothing
            yield page
        server.shutdown()
        thread.join()


def run(page, script, prelude=PRELUDE):
    """Return what a script returns."""
    return page.evaluate(f"(async () => {{ {prelude} {script} }})()")


@pytest.mark.parametrize("rate", [16000, 22050, 44100, 48000, 96000])
@pytest.mark.parametrize("frequency", [0, 440, 3000, 7000])
def test_resampling_keeps_what_is_in_the_band(page, rate, frequency):
    """The output is the same tone in the new rate: for 0 Hz, of a cosine, a constant."""
    noise = run(
        page,
        f"""
        const shift = {"0.25" if frequency == 0 else "0"};
        const at = (n, rate) => Math.sin(2 * Math.PI * ({frequency} * n / rate + shift));
        const output = new Resampler({rate}, 24000).push(sample({rate}, (n) => at(n, {rate})));
        const middle = output.subarray(2000, 20000);
        const noise = middle.map((value, n) => value - at(n + 2000, 24000));
        return [output.length, decibels(energy(noise) / energy(middle))];
        """,
    )
    assert 0 < 24000 - noise[0] <= 1 + 24000 * 48 / min(rate, 24000)  # what waits for 48 samples of the lower rate
    assert noise[1] < -70


@pytest.mark.parametrize(("rate", "frequency"), [(44100, 12100), (48000, 12100), (48000, 20000), (96000, 40000)])
def test_resampling_lets_nothing_alias(page, rate, frequency):
    kept = run(
        page,
        f"""
        const output = new Resampler({rate}, 24000).push(tone({frequency}, {rate}, {rate}));
        return decibels(2 * energy(output.subarray(2000)));
        """,
    )
    assert kept < -75


@pytest.mark.parametrize("rate", [16000, 44100, 48000])
def test_resampling_in_pieces_equals_the_whole(page, rate):
    assert run(
        page,
        f"""
        const input = tone(997, {rate}, 9973);
        const whole = new Resampler({rate}, 24000).push(input);
        for (const size of [1, 7, 128, 4001]) {{
          const resampler = new Resampler({rate}, 24000);
          const pieces = [];
          for (let at = 0; at < input.length; at += size) pieces.push(...resampler.push(input.subarray(at, at + size)));
          if (pieces.length !== whole.length || pieces.some((value, n) => value !== whole[n])) return false;
        }}
        return true;
        """,
    )


def test_samples_survive_the_protocol(page):
    assert run(
        page,
        """
        const { encode, decode, toInt16 } = await import("/pcm.js");
        const values = [0, 1, -1, 0.5, -0.25, 2, -2, 32767 / 32768, 1 / 32768];
        const there = [0, 32767, -32768, 16384, -8192, 32767, -32768, 32767, 1];
        const back = decode(encode(toInt16(Float32Array.from(values))));
        return toInt16(Float32Array.from(values)).every((value, n) => value === there[n] && back[n] === value / 32768);
        """,
    )


def play(page, script):
    """Play in a context that runs as fast as it can, and stops for `at(time, action)`; return what a script returns."""
    return run(
        page,
        f"""
        const context = new OfflineAudioContext(1, 24000, 24000);
        await context.audioWorklet.addModule("/player-worklet.js");
        const node = new AudioWorkletNode(context, "player", {{ numberOfInputs: 0, outputChannelCount: [1] }});
        const reports = [];
        node.port.onmessage = ({{ data }}) => reports.push(data);
        node.connect(context.destination);
        const pause = () => new Promise((resolve) => setTimeout(resolve, 40)); // messages travel between threads
        const act = (action) => async () => {{ action(); await pause(); context.resume(); }};
        const at = (time, action) => context.suspend(time).then(act(action));
        const push = (answer, size, value = 0.5) => {{
          node.port.postMessage({{ call: "push", answer, samples: new Float32Array(size).fill(value) }});
        }};
        const finish = (answer) => node.port.postMessage({{ call: "finish", answer }});
        const stop = () => node.port.postMessage({{ call: "stop" }});
        {script}
        const output = [...(await context.startRendering()).getChannelData(0)];
        await pause();
        const isLoud = (value) => value !== 0;
        return {{ reports, loud: output.filter(isLoud).length, start: output.findIndex(isLoud) }};
        """,
        prelude="",
    )


def test_an_answer_is_played_to_its_last_sample_and_counted(page):
    played = play(
        page,
        """
        at(0.016, () => { push("a", 1000); push("a", 777, 0.25); finish("a"); });
        """,
    )
    assert played["loud"] == 1777
    assert played["start"] == 384  # the block in which the samples came: nothing waits
    last = played["reports"][-1]
    assert (last["answer"], last["played"], last["isOver"]) == ("a", 1777, True)
    (first,) = [report for report in played["reports"] if report.get("startedAt") is not None]
    assert first["startedAt"] == pytest.approx(384 / 24000)
    assert max(report["peak"] for report in played["reports"]) == 0.5


def test_a_stop_empties_the_queue_within_a_block(page):
    played = play(page, "at(0, () => push('a', 20000)); at(0.256, stop);")
    last = played["reports"][-1]
    assert last["isStopped"]
    assert last["isOver"]
    assert last["played"] == 6144 + 128  # .256 s, and the block that fades out
    assert played["loud"] == last["played"]


def test_a_stop_while_nothing_plays_is_answered(page):
    assert play(page, "at(0.1, stop);")["reports"] == [{"isStopped": True}]


def test_a_dry_queue_waits_for_more_and_counts_on(page):
    """An answer that comes late in the middle goes on when a tenth of a second is there, and its gap is not counted."""
    played = play(
        page,
        """
        at(0, () => push("a", 1280));
        at(0.256, () => push("a", 1280));
        at(0.512, () => { push("a", 1280); finish("a"); });
        """,
    )
    assert played["loud"] == 3 * 1280
    assert played["reports"][-1]["played"] == 3 * 1280
    assert not [report for report in played["reports"] if report["isOver"]][:-1]


def test_an_answer_that_another_replaces_is_over(page):
    played = play(
        page,
        """
        at(0, () => push("a", 12000));
        at(0.128, () => { push("b", 1000); finish("b"); });
        """,
    )
    over = {report["answer"]: report["played"] for report in played["reports"] if report["isOver"]}
    assert over == {"a": 3072, "b": 1000}
    assert played["loud"] == 4072

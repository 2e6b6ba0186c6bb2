"""Images are decoded where they can hurt nobody: in processes with limits, that may die."""

from __future__ import annotations

import io
import os
import random
import resource
import socket
import struct
import subprocess
import sys
import threading
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from hostile_images import Hostile, all_hostile, seeds
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from photos import encode
from PIL import Image
from support import eventually

from api import landlock
from api.decoding import ImageDecoder
from shared.errors import DecoderBusyError, InvalidInputError
from shared.settings import Settings

#: the long run: make fuzz.
EXECUTIONS = int(os.environ.get("FUZZ_EXECUTIONS", "1500"))
MEMORY_BYTES = 512 * 2**20
LIMITS = {"max_image_pixels": 4_000_000, "max_image_side_px": 60_000, "decoder_memory_bytes": MEMORY_BYTES}


def make_decoder(**changes: Any) -> ImageDecoder:
    return ImageDecoder(Settings(**{**LIMITS, "decoder_timeout_s": 20, **changes}))


@pytest.fixture(scope="module")
def decoder() -> Iterator[ImageDecoder]:
    decoder = make_decoder()
    yield decoder
    decoder.close()


class Family:
    """The decoder processes that were started since."""

    def __init__(self) -> None:
        self._known = {process.pid for process in self._all()}

    def _all(self) -> list[psutil.Process]:
        found = []
        for process in psutil.Process().children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                if "api.decoder" in process.cmdline():
                    found.append(process)
        return sorted(found, key=lambda process: process.pid)

    def alive(self) -> list[psutil.Process]:
        """Those that wait, and the children that decode, the eldest first."""
        return [process for process in self._all() if process.pid not in self._known]


def pool() -> set[int]:
    """The decoders that wait, without their children, which come and go, and without anybody else's processes."""
    found = set()
    for process in psutil.Process().children():
        with suppress(psutil.NoSuchProcess):
            if "api.decoder" in process.cmdline() and process.status() != psutil.STATUS_ZOMBIE:
                found.add(process.pid)
    return found


def kill_as_its_user(process: psutil.Process) -> None:
    # Without CAP_KILL, root may not end another user's process.
    user = process.uids().real if os.geteuid() == 0 else None
    subprocess.run(["kill", "-9", str(process.pid)], check=True, user=user)


def limit_of(process: psutil.Process, name: str) -> str:
    """The hard limit, as the kernel shows it to everybody."""
    [line] = [line for line in Path(f"/proc/{process.pid}/limits").read_text().splitlines() if line.startswith(name)]
    return line.removeprefix(name).split()[1]


@pytest.fixture(scope="module")
def large() -> bytes:
    """An image that takes a second or more to decode."""
    return encode(Image.effect_noise((6000, 6000), 80).convert("RGB"), "JPEG", quality=90)


HOSTILE = all_hostile()


@pytest.mark.parametrize("hostile", HOSTILE, ids=[hostile.name for hostile in HOSTILE])
def test_a_hostile_file_is_refused_or_comes_out_clean(hostile: Hostile, decoder: ImageDecoder) -> None:
    before = pool()
    if hostile.outcome == "refused":
        with pytest.raises(InvalidInputError) as refusal:
            decoder.accept(hostile.data)
        assert refusal.value.field == "image"
        assert "end the decoder" not in str(refusal.value)
    else:
        accepted = decoder.accept(hostile.data)
        with Image.open(io.BytesIO(accepted.data), formats=("PNG",)) as image:
            image.load()
            assert (image.mode, image.info) == ("RGB", {})
        for part in (b"script", b"php", b"PK\x05\x06", b"Exif", b"ENTITY"):
            assert part not in accepted.data
    # The same processes: none has died of it.
    assert not before or pool() == before


def test_hostile_files_are_counted() -> None:
    assert len({hostile.name for hostile in HOSTILE}) == len(HOSTILE) >= 150
    print(f"\n{len(HOSTILE)} hostile files: {dict(Counter(hostile.outcome for hostile in HOSTILE))}")


def test_the_place_in_a_photo_goes_no_further(client: Any, store: Any) -> None:
    [photo] = [hostile.data for hostile in HOSTILE if hostile.name == "JPEG with a place"]
    assert client.post("/v1/inputs", data={"image": (io.BytesIO(photo), "a.jpg")}).status_code == 201
    [key] = store.list_keys("inputs/")
    with Image.open(io.BytesIO(store.get(key))) as stored:
        assert (stored.format, stored.info, dict(stored.getexif())) == ("PNG", {}, {})
        assert stored.size == (64, 96)  # upright


def test_the_name_and_type_that_the_caller_claims_are_not_believed(client: Any) -> None:
    image = Image.new("RGB", (64, 64))
    for name, claimed in (("a.png", "image/png"), ("../../etc/passwd", "text/html"), ("a.php", "application/x-php")):
        sent = (io.BytesIO(encode(image, "JPEG")), name, claimed)
        answer = client.post("/v1/inputs", data={"image": sent}, content_type="multipart/form-data")
        assert (answer.status_code, answer.json["media_type"]) == (201, "image/png")


def test_an_image_that_takes_too_long_is_refused_and_the_next_is_served(large: bytes) -> None:
    family = Family()
    decoder = make_decoder(max_image_pixels=64_000_000, decoder_memory_bytes=3 * 2**29, decoder_timeout_s=0.6)
    try:
        with pytest.raises(InvalidInputError, match=r"must be decoded within 0\.6 s, got \d+ bytes"):
            decoder.accept(large)
        eventually(lambda: family.alive() == [])
        assert decoder.accept(encode(Image.new("RGB", (64, 64)), "PNG")).width == 64
    finally:
        decoder.close()


def test_an_image_that_takes_too_much_memory_is_refused_and_the_decoder_lives(large: bytes) -> None:
    decoder = make_decoder(max_image_pixels=64_000_000, decoder_memory_bytes=2**28)
    try:
        decoder.accept(encode(Image.new("RGB", (64, 64)), "PNG"))
        before = pool()
        with pytest.raises(InvalidInputError, match=r"at most 268435456 bytes of memory|truncated or damaged"):
            decoder.accept(large)
        assert pool() == before
        decoder.accept(encode(Image.new("RGB", (64, 64)), "PNG"))
    finally:
        decoder.close()


def test_a_decoder_that_is_killed_at_work_costs_one_refusal(large: bytes) -> None:
    family = Family()
    decoder = make_decoder(max_image_pixels=64_000_000, decoder_memory_bytes=3 * 2**29)
    refusals: list[InvalidInputError] = []

    def work() -> None:
        try:
            decoder.accept(large)
        except InvalidInputError as refusal:
            refusals.append(refusal)

    try:
        for victim in (0, 1):  # the process that waits, and the child that decodes
            thread = threading.Thread(target=work)
            thread.start()
            eventually(lambda: len(family.alive()) == 2)
            kill_as_its_user(family.alive()[victim])
            thread.join(20)
            assert "end the decoder" in str(refusals[victim])
        assert decoder.accept(encode(Image.new("RGB", (64, 64)), "PNG")).width == 64
    finally:
        decoder.close()
    eventually(lambda: family.alive() == [])


def test_a_decoder_runs_with_limits_without_secrets_and_not_as_root(large: bytes) -> None:
    family = Family()
    decoder = make_decoder(max_image_pixels=64_000_000, decoder_memory_bytes=3 * 2**29)
    thread = threading.Thread(target=decoder.accept, args=(large,))
    started: list[dict[str, str]] = []
    sys.addaudithook(lambda event, details: started.append(details[3]) if event == "subprocess.Popen" else None)
    try:
        thread.start()
        eventually(lambda: len(family.alive()) == 2)
        _, child = family.alive()
        eventually(lambda: limit_of(child, "Max processes") == "0")
        assert limit_of(child, "Max address space") == str(3 * 2**29)
        assert limit_of(child, "Max file size") == limit_of(child, "Max core file size") == "0"
        assert int(limit_of(child, "Max cpu time")) <= 21
        assert 0 not in child.uids()
        assert [set(environment) for environment in started] == [{"PYTHONPATH", "LANG"}]
    finally:
        thread.join(30)
        decoder.close()


@pytest.mark.skipif(landlock.version() < 6, reason="this kernel knows less of Landlock")
def test_a_decoder_that_is_taken_over_reaches_no_file_no_port_and_no_other_process(tmp_path: Path) -> None:
    """What `main` gives up before it forks, tried from a child as an image's decoder is one."""
    attacks = """
import ctypes, os, pathlib, signal, socket, sys
from api.landlock import close_off
ctypes.CDLL(None).prctl(38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS
port, own = int(sys.argv[1]), os.getppid()
close_off()
if (child := os.fork()) == 0:
    attacks = {
        "its environment": lambda: pathlib.Path(f"/proc/{own}/environ").read_bytes(),
        "a file": lambda: pathlib.Path("/etc/passwd").read_bytes(),
        "a new file": lambda: pathlib.Path(sys.argv[2]).write_bytes(b"x"),
        "a folder": lambda: os.listdir("/"),
        "a port": lambda: socket.create_connection(("127.0.0.1", port)),
        "a signal": lambda: os.kill(own, signal.SIGCONT),
    }
    for name, attack in attacks.items():
        try:
            attack()
            print("reached", name)
        except PermissionError:
            pass
    os._exit(0)
os.waitpid(child, 0)
print("tried")
"""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
        command = [sys.executable, "-c", attacks, port, str(tmp_path / "x")]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split("\n") == ["tried", ""]


def test_more_images_than_decoders_wait_and_then_are_told_to_come_again(large: bytes) -> None:
    decoder = make_decoder(
        max_image_pixels=64_000_000, decoder_memory_bytes=3 * 2**29, decoder_processes=1, decoder_timeout_s=0.7
    )
    answers: list[type[Exception]] = []

    def work() -> None:
        try:
            decoder.accept(large)
        except (DecoderBusyError, InvalidInputError) as error:
            answers.append(type(error))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    decoder.close()
    assert DecoderBusyError in answers


def test_the_api_goes_on_when_its_decoders_are_killed(service: Any) -> None:
    photo = encode(Image.effect_noise((96, 64), 60).convert("RGB"), "PNG")
    api = service.start_api()
    service.submit(photo)

    def warm() -> list[psutil.Process]:
        return [process for process in api.children() if "api.decoder" in process.cmdline()]

    first = eventually(warm)
    workers = {process.pid for process in api.children()} - {process.pid for process in first}
    for process in first:
        process.kill()
    service.submit(photo)
    assert {process.pid for process in api.children()} >= workers


def test_decoders_end_with_an_api_that_is_killed(service: Any) -> None:
    api = service.start_api()
    found = eventually(lambda: [process for process in api.children() if "api.decoder" in process.cmdline()])
    for process in api.children():
        if process.pid not in {decoder.pid for decoder in found}:
            process.kill()
    api.popen.kill()
    eventually(lambda: not any(process.is_running() and process.status() != "zombie" for process in found))


SOUND = seeds()
SEEDS = [*SOUND, *(hostile.data for hostile in HOSTILE if len(hostile.data) < 20_000)]
NUMBERS = [0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF]


def mend_png(data: bytes) -> bytes:
    """Right checksums, so that a change gets past them."""
    out, position = bytearray(data[:8]), 8
    while position + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, position)
        body = data[position + 4 : position + 8 + length]
        out += struct.pack(">I", length) + body + struct.pack(">I", zlib.crc32(body))
        position += 12 + length
    return bytes(out)


def mutate(seed: int) -> bytes:
    """A file that is almost what it claims to be; the same for the same seed."""
    draw = random.Random(seed)
    data = bytearray(draw.choice(SOUND if draw.random() < 0.7 else SEEDS))
    for _ in range(draw.choice([1, 1, 2, 3, 6])):
        # Headers are where a change goes furthest.
        end = max(1, min(len(data), draw.choice([32, 128, 512, 2**20, 2**20])))
        at = draw.randrange(end)
        match draw.randrange(7):
            case 0:
                data[at : at + 1] = bytes([draw.randrange(256)])
            case 1:
                order = draw.choice([">I", "<I"])
                data[at : at + 4] = struct.pack(order, draw.choice(NUMBERS))
            case 2:
                order = draw.choice([">H", "<H"])
                data[at : at + 2] = struct.pack(order, draw.choice(NUMBERS) & 0xFFFF)
            case 3:
                del data[at : at + draw.randint(1, 64)]
            case 4:
                data[at:at] = draw.randbytes(draw.randint(1, 64))
            case 5:
                other = draw.choice(SEEDS)
                start = draw.randrange(max(1, len(other)))
                data[at : at + 64] = other[start : start + draw.randint(1, 256)]
            case _:
                data[at:at] = data[at : at + draw.randint(1, 256)] * draw.randint(1, 8)
    if draw.random() < 0.1:
        del data[draw.randrange(len(data) + 1) :]
    return mend_png(bytes(data)) if data[:4] == b"\x89PNG" and draw.random() < 0.8 else bytes(data)


def test_a_mutated_file_crashes_no_decoder_hangs_none_and_keeps_within_the_memory(decoder: ImageDecoder) -> None:
    outcomes: Counter[str] = Counter()
    decoder.accept(SEEDS[0])
    before = pool()

    @hypothesis_settings(
        max_examples=EXECUTIONS,
        deadline=None,
        database=None,
        derandomize="FUZZ_EXECUTIONS" not in os.environ,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.integers(0, 2**64))
    def run(seed: int) -> None:
        try:
            decoder.accept(mutate(seed))
        except InvalidInputError as refusal:
            text = str(refusal)
            # Neither a crash nor a hang: both would end the process.
            assert "end the decoder" not in text, f"seed {seed} crashes the decoder"
            assert "must be decoded within" not in text, f"seed {seed} hangs the decoder"
            outcomes["over memory" if "of memory" in text else "refused"] += 1
        else:
            outcomes["accepted"] += 1

    run()
    assert pool() == before
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**10
    assert sum(outcomes.values()) >= EXECUTIONS * 0.95
    print(f"\n{sum(outcomes.values())} fuzz executions: {dict(outcomes)}; peak so far {peak:.0f} MiB")

"""A photo becomes a video: API, Redis, worker with a loaded SVD pipeline, object store and webhook, as processes."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from standardwebhooks import Webhook
from support import Service, eventually, webhook_receiver

from shared.video import probe_mp4


def test_a_photo_becomes_a_video_and_the_caller_gets_a_signed_webhook(
    service: Service, rocket: bytes, tmp_path: Path
) -> None:
    with webhook_receiver() as receiver:
        port = int(receiver.url.rpartition(":")[2].partition("/")[0])
        service.start_all("tiny", outbound_ports=(port,))
        job = service.submit(
            rocket, model="tiny", num_inference_steps=3, seed=7, frames_format="png", webhook_url=receiver.url
        )
        assert job["status"] == "queued"

        job = service.await_status(job["id"], "succeeded", within_s=120)
        result = job["result"]
        video = service.request("GET", f"/v1/jobs/{job['id']}/video", retries=3).data
        assert hashlib.sha256(video).hexdigest() == result["video"]["sha256"]
        path = tmp_path / "video.mp4"
        path.write_bytes(video)
        found = probe_mp4(path)
        assert (found.num_frames, found.width, found.height, found.fps) == (14, 256, 128, 7)
        assert (found.codec, found.pix_fmt) == ("h264", "yuv420p")

        assert len(result["frames"]) == 14
        frame = service.request("GET", result["frames"][13]["url"], retries=3).data
        assert hashlib.sha256(frame).hexdigest() == result["frames"][13]["sha256"]

        manifest = json.loads(service.request("GET", result["manifest"]["url"], retries=3).data)
        assert manifest["params"] == job["params"]
        assert manifest["params"]["seed"] == 7
        assert manifest["job_id"] == job["id"]
        assert manifest["measures"] == job["measures"]
        assert all(value is not None for value in job["measures"].values())
        stages = ["fetch", "encode_image", "denoise", "decode", "drift", "measure", "encode", "upload"]
        assert list(manifest["timings_s"]) == stages

        headers, body = eventually(lambda: receiver.requests)[0]
        secret = service.request("GET", "/v1/webhook-secret").json()["secret"]
        message = Webhook(secret).verify(body, headers)
        assert message["type"] == "job.succeeded"
        assert message["data"]["id"] == job["id"]
        assert message["data"]["result"]["video"]["url"].startswith(service.url)

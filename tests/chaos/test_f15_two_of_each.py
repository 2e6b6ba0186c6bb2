"""F15: two maintainers and two API processes at once; F14 has the random kills with both."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from support import Service, webhook_receiver
from trial import Trial, kill, open_port


@pytest.mark.campaign
def test_two_apis_and_two_maintainers_make_each_job_once_reap_it_once_and_tell_of_it_once(trial: Trial) -> None:
    with webhook_receiver() as receiver:
        changes = open_port(receiver.url)
        service = trial.service
        second = Service(service.settings, service.logs / "second")
        second.logs.mkdir(parents=True)
        try:
            service.start_maintainer(**changes)
            other = second.start("api.serve", public_url=service.url, **changes)
            worker = trial.start(**changes)
            second.await_api(other)
            running = trial.submit(num_inference_steps=80, webhook_url=receiver.url)
            trial.await_step(running)
            kill(worker, "child")

            def offer(number: int) -> tuple[int, str]:
                url = (service.url, second.url)[number % 2]
                answer = trial.offer(url=url, key=f"key-{number // 4}", webhook_url=receiver.url)
                return answer.status, answer.json().get("id", "")

            with ThreadPoolExecutor(8) as pool:
                answers = list(pool.map(offer, range(24)))  # six keys, each four times at once
            assert {status for status, _ in answers} == {202}
            assert len({job for _, job in answers}) == 6
            trial.judge()
        finally:
            second.stop_all()
        assert trial.outcomes(running) == ["lost", "succeeded"]
        assert trial.reasons(running).count("worker_lost") == 1
        assert len(receiver.requests) == len({headers["webhook-id"] for headers, _ in receiver.requests}) == 7

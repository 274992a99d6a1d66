"""The page of an evaluation in a real browser: it shows everything, asks for nothing, and its console stays empty."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.browser import CHROMIUM, chromium, page
from tests.unit.test_report_evaluation import full_run, render_run

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")


def test_an_evaluations_page_in_a_browser(tmp_path: Path) -> None:
    made = full_run(tmp_path / "run")
    address = render_run(made).as_uri()

    async def look(browser: str) -> None:
        async with page(browser) as at:
            await at.open(address)
            assert await at.run("[...document.images].every(i => i.complete && i.naturalWidth > 0)")
            assert await at.run("document.querySelectorAll('table').length") > 0
            for scheme in ("light", "dark"):
                await at.scheme(scheme)
                await at.narrow(390)
                assert await at.run("document.documentElement.scrollWidth") <= 390
            # The configuration of this run holds markup; its dialog would keep this from ever being answered.
            assert await at.run("document.querySelectorAll('script').length") == 0
            assert [url for url in at.requests if not url.startswith("data:")] == [address]
            assert not at.said

    with chromium() as browser:
        asyncio.run(look(browser))

"""
The picture that README shows: an agent after a quarter of an hour in which memory overheated and a remedy paced.

It is left in build/screenshots/incident.png. Look at it, then copy it: `cp build/screenshots/incident.png
docs/images/page.png`.
"""

from __future__ import annotations

import io
import json
import re
import time
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import expect

from agent.storage.state_dir import state_dir_of_root
from tests.conftest import MACHINES, load
from tests.deep import incident_world as incident
from tests.deep.browsers import SCREENSHOTS, open_browser
from tests.scene import ENGINE, Scene

pytestmark = [pytest.mark.deep, pytest.mark.timeout(180)]

SOON = 15_000  # ms
WIDTH = 1240
TO_RECORD = 75.0  # seconds, more than the recording takes: it ends when the agent starts


def _configure(scene: Scene) -> None:
    config = {
        "web": {"listen": scene.url.removeprefix("http://")},
        "state": {"dir": str(scene.folder / "state")},
        "external_labels": {"instance": "inference-7"},
        "engine": {"enabled": False},
        "engines": [{"name": incident.ENGINE, "kind": "vllm", "url": f"http://{ENGINE}"}],
        "remediation": {"mode": "enforce", "pause_file": str(scene.folder / "pause")},
    }
    scene.config.write_text(json.dumps(config))


def _build(folder: Path) -> Scene:
    """The machine as it is at the end of the quarter of an hour, with the state of the agent that watched it."""
    root = folder / "root"
    load(MACHINES / "two_nodes.py").build(root, load(MACHINES / "two_nodes_sensors.py").files())
    scene = Scene(folder, root)
    _configure(scene)
    scene.generate(1000)
    (root / "proc/sys/kernel/numa_balancing").write_text("0\n")
    for number, below in enumerate(incident.BELOW.values(), start=6):
        celsius = incident.compute_heat(incident.SECONDS) - below
        (root / f"sys/class/hwmon/hwmon{number}/temp1_input").write_text(f"{celsius * 1000:.0f}\n")
    for cpu in range(40):
        policy = root / f"sys/devices/system/cpu/cpufreq/policy{cpu}"
        (policy / "scaling_cur_freq").write_text("3500000\n")
        (policy / "scaling_governor").write_text("performance\n")
        (policy / "energy_performance_preference").write_text("performance\n")
    end = time.time() + TO_RECORD
    incident.record(scene.config, root, state_dir_of_root(folder / "state", str(root)), round(end * 1000))
    scene.hand_over_baseline(incident.FULL_SPEED)
    time.sleep(max(0.0, end - time.time()))
    return scene


def test_the_picture_of_an_incident(tmp_path: Path) -> None:
    """The page shows the alert with its sentence, what the remedy did, and speed, heat and frequency above it."""
    (tmp_path / "state").mkdir()
    scene = _build(tmp_path)
    with open_browser() as browser, scene.run_agent():
        page = browser.new_page(viewport={"width": 1440, "height": 790}, color_scheme="light")
        page.goto(scene.url)
        expect(page.locator("#verdict")).to_contain_text(re.compile(r"alerts? up"), timeout=SOON)
        page.get_by_text("15 min", exact=True).click()
        expect(page.locator("#cursor")).to_have_attribute("aria-valuemax", "180", timeout=SOON)
        expect(page.locator("#alerts")).to_contain_text("DIMM 4-0051", timeout=SOON)
        expect(page.locator("#acts")).to_contain_text("helped", timeout=SOON)
        baseline = page.locator("#strip-speed .gutter li").filter(has_text="baseline").locator("b")
        expect(baseline).to_have_text(re.compile(r"\d"), timeout=2 * SOON)
        page.locator("#verdict").click()  # takes the focus from what was chosen
        picture = Image.open(io.BytesIO(page.screenshot()))
    height = picture.height * WIDTH // picture.width
    small = picture.convert("RGB").resize((WIDTH, height), Image.Resampling.LANCZOS)
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    small.quantize(128, dither=Image.Dither.NONE).save(SCREENSHOTS / "incident.png", optimize=True)

    assert (SCREENSHOTS / "incident.png").stat().st_size < 120_000

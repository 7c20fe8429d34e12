"""`steadytok engine --model`: a checkpoint served by the real process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from tests.depths import keep_fast
from tests.engine.families import PROMPT, write_checkpoint
from tests.engine.greedy import GREEDY_TOKENS, read_golden
from tests.processes import wait_until

ROOT = Path(__file__).parents[3]


def post(url: str, fields: dict[str, Any]) -> Any:
    """Posts a greedy request; returns the response."""
    body = json.dumps({"temperature": 0} | fields).encode()
    with urllib.request.urlopen(urllib.request.Request(url, body), timeout=20) as answer:
        return json.loads(answer.read())


def complete(url: str, **fields: Any) -> Any:
    """Requests a completion; returns the response."""
    return post(f"{url}/v1/completions", {"prompt": PROMPT, "max_tokens": GREEDY_TOKENS} | fields)


@pytest.mark.parametrize("name", keep_fast(["llama3", "qwen3"], "llama3"))
def test_serves_the_text_of_transformers(tmp_path: Path, name: str) -> None:
    """The greedy answer over HTTP is the text of transformers' generate, 64 tokens long."""
    golden = read_golden(name)
    child = subprocess.Popen(
        [sys.executable, "-m", "agent", "engine", "--model", str(write_checkpoint(tmp_path, name)), "--context", "300"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    ready = json.loads(child.stdout.readline())
    answer = complete(ready["url"])
    stopped = complete(ready["url"], max_tokens=1, ignore_eos=True)
    child.terminate()
    _, err = child.communicate(timeout=20)

    assert ready["model"] == name
    assert answer["choices"][0]["text"] == golden.text
    assert answer["usage"] == {"prompt_tokens": len(golden.prompt), "completion_tokens": 64, "total_tokens": 64 + 101}
    assert stopped["choices"][0]["finish_reason"] == "length"
    assert f"{name} was trained with 256 tokens" in err
    assert child.returncode == 0


CHAT = (
    "{{ bos_token }}{% for message in messages %}[{{ message['role'] }}] {{ message['content'] | trim }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)


def test_chats_by_the_checkpoints_template(tmp_path: Path) -> None:
    """A chat over HTTP is a completion of the prompt of the checkpoint's template and tokenizer."""
    folder = write_checkpoint(tmp_path, "qwen2")
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"chat_template": CHAT}))
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": " How hot is node 1? "}]
    rendered = "<s>[system] Be brief.\n[user] How hot is node 1?\n[assistant]"
    prompt = Tokenizer.from_file(str(folder / "tokenizer.json")).encode(rendered, add_special_tokens=False).ids
    child = subprocess.Popen(
        [sys.executable, "-m", "engine", "--model", str(folder), "--context", "256"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert child.stdout is not None
    url = json.loads(child.stdout.readline())["url"]
    chat = post(f"{url}/v1/chat/completions", {"messages": messages, "max_tokens": 20})
    completion = complete(url, prompt=prompt, max_tokens=20)
    child.terminate()
    child.wait(20)

    assert child.stdout.close() is None
    assert chat["usage"]["prompt_tokens"] == len(prompt)
    assert chat["choices"][0]["message"]["content"] == completion["choices"][0]["text"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--model", "/nowhere/model"), "/nowhere/model"),
        (("--model", "."), "config.json"),
        (("--model", "README.md"), "README.md is not a GGUF file that can be read"),
        (("--model", ".", "--size", "1MiB"), "--size is for weights made from a seed"),
    ],
)
def test_what_is_no_model_says_so(arguments: tuple[str, ...], sentence: str) -> None:
    """A wrong path ends the engine with 2 and one sentence."""
    done = subprocess.run(
        [sys.executable, "-m", "engine", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=30, check=False
    )

    assert done.returncode == 2
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr


def test_without_the_libraries_it_says_what_to_install(tmp_path: Path) -> None:
    """Without safetensors, --model ends with a sentence that names the extra."""
    code = (
        "import sys; sys.modules['safetensors'] = None; from engine.__main__ import main; sys.exit(main(sys.argv[1:]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "--model", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )

    assert done.returncode == 2
    assert "safetensors is needed to read" in done.stderr
    assert "pip install 'steadytok[models]'" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_are_as_many_as_asked_for(threads: int) -> None:
    """BLAS has as many threads as --threads, and not more than there are CPUs."""
    child = subprocess.Popen(
        [sys.executable, "-m", "engine", "--size", "8MiB", "--threads", str(threads)],
        cwd=ROOT,
        env=os.environ | {"OPENBLAS_NUM_THREADS": "7"},  # the caller's value does not count
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert child.stdout is not None
    complete(json.loads(child.stdout.readline())["url"], prompt="a", max_tokens=8)
    max_threads = 2 + threads  # the main thread, one that listens, one that answers; BLAS uses the last
    wait_until(lambda: _count_threads(child.pid) <= max_threads, 20, "the thread of the connection has ended")
    thread_count = _count_threads(child.pid)
    child.terminate()
    child.wait(20)

    assert child.stdout.close() is None
    assert thread_count >= 1 + min(threads, len(os.sched_getaffinity(0)))


def _count_threads(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/task").iterdir()))

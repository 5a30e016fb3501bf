import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sfseg.networks.heads.segformer import SegFormerHead


def test_it_equals_its_definition() -> None:
    """Enlarge each map, then a 1x1 convolution; mix them coarsest first."""
    torch.manual_seed(0)
    widths, sizes = (6, 8, 10, 12), [(17, 25), (9, 13), (5, 7), (3, 4)]
    head = SegFormerHead(widths, 5, channels=4).double()
    maps = [
        torch.randn(2, width, *size).double() for width, size in zip(widths, sizes, strict=True)
    ]
    with torch.no_grad():
        head(maps)  # moves the running statistics
        logits = head.eval()(maps)
        levels = [
            F.conv2d(
                F.interpolate(feature, sizes[0], mode="bilinear", align_corners=False),
                embedding.weight[:, :, None, None],
                embedding.bias,
            )
            for feature, embedding in zip(maps, head.embeddings, strict=True)
        ]
        c1, c2, c3, c4 = levels
        expected = head.classifier(head.fuse(torch.cat([c4, c3, c2, c1], dim=1)))
    assert logits.shape == (2, 5, 17, 25)
    torch.testing.assert_close(logits, expected)


def test_names_are_those_that_published_weights_are_brought_to() -> None:
    head = SegFormerHead((6, 8), 5, channels=4)
    assert {key: tuple(p.shape) for key, p in head.named_parameters()} == {
        "embeddings.0.weight": (4, 6),
        "embeddings.0.bias": (4,),
        "embeddings.1.weight": (4, 8),
        "embeddings.1.bias": (4,),
        "fuse.0.weight": (4, 8, 1, 1),
        "fuse.1.weight": (4,),
        "fuse.1.bias": (4,),
        "classifier.weight": (5, 4, 1, 1),
        "classifier.bias": (5,),
    }


@pytest.mark.parametrize(("channels", "count"), [(768, 3_265_686), (256, 564_374)])
def test_parameters_follow_from_the_plan(channels: int, count: int) -> None:
    """MiT-B5's widths and 150 classes: the paper's 84.7 M are 81.44 of the encoder and 3.27."""
    with torch.device("meta"):
        head = SegFormerHead((64, 128, 320, 512), 150, channels=channels)
    assert sum(p.numel() for p in head.parameters()) == count


def test_dropout_is_of_whole_channels() -> None:
    assert isinstance(SegFormerHead((8,), 5, dropout=0.1).dropout, nn.Dropout2d)


def test_a_map_is_needed() -> None:
    with pytest.raises(ValueError, match="in_channels must be positive integers"):
        SegFormerHead((), 5)
